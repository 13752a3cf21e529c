// The commit log: what was applied, in order, before it is in RocksDB's tables; and the history for as long as somebody may ask for it.
// Integers are big endian.
//
//   commits-NUMBER.log     a segment; number: 16 hexadecimal digits, from 1, without a gap
//     0   8  "mwcommit"
//     8   8  the segment's number
//     16  8  its mark, at random: nobody who sends a value knows it, so no value looks like a frame
//     24  8  CRC32C of all before
//     32  …  frames, each beginning at a multiple of 8, zeros between; then zeros, or what the file held as an earlier segment, under
//            another mark; once it has been closed, nothing
//
//   commits.spare          a segment that nobody needs, whose file will be the next one's
//
//   frame
//     0   4  CRC32C of all that follows, the payload included
//     4   4  bytes of payload
//     8   8  the segment's mark
//     16  8  how much of the segment was on stable storage when this was written
//     24  4  kind: 1 a part of a batch, of which more follows; 2 its last, or only, part; 3 the end of the segment
//     28  4  flags: 1 what the batch does to data is in its history records, and is not repeated
//     32  …  payload
//
//   payload of a part      operations as in `WriteBatch`: 01 varint n  key  varint m  value    put
//                                                         00 varint n  key                     remove; of history: up to and with it
//   payload of the end     8 flags: 1 a next segment was made before it;  8 first  8 last revision of history, 0 if there is none;
//                          then, for finding records: 8 revision  8 offset of the frame that begins with it, …;
//                          8 offset of this frame  8 "mwlogend"
//
//   commits.state          text, lines ended by \n, replaced atomically:
//                            mwstorage-commits 1
//                            drained NUMBER       segments up to this one are in the tables
//                            forgotten REVISION   history up to this one has been removed
//                            end CRC32C           of the lines before, in hexadecimal
//
// A frame that does not have its checksum is the torn end of what a crash interrupted, unless a later frame says that it had been on stable
// storage: then it was acknowledged, and the log is damaged.

import MWStorage

enum LogFormat {
    static let segmentMagic: UInt64 = 0x6D77_636F_6D6D_6974
    static let endMagic: UInt64 = 0x6D77_6C6F_6765_6E64
    static let segmentHeaderBytes = 32
    static let frameHeaderBytes = 32
    static let alignment = 8
    /// Of the last frame of a closed segment, behind the records' places.
    static let trailerBytes = 16
    static let putTag: UInt8 = 1
    static let removeTag: UInt8 = 0
    /// A batch goes into frames of about this many bytes, so that a reader of history need not check more for a few records.
    static let partBytes = 1 << 20
    /// Bytes of frames between two places that a reader of history can begin at.
    static let indexedBytes = 64 << 10

    static func segmentName(_ number: UInt64) -> String {
        let digits = String(number, radix: 16)
        return "\(segmentPrefix)\(String(repeating: "0", count: 16 - digits.count))\(digits)\(segmentSuffix)"
    }

    /// The number in a segment's name; nil if it is not one.
    static func segmentNumber(_ name: String) -> UInt64? {
        guard name.hasPrefix(segmentPrefix), name.hasSuffix(segmentSuffix) else { return nil }
        guard let number = UInt64(name.dropFirst(segmentPrefix.count).dropLast(segmentSuffix.count), radix: 16) else { return nil }
        return segmentName(number) == name ? number : nil
    }

    private static let segmentPrefix = "commits-"
    private static let segmentSuffix = ".log"

    static func aligned(_ bytes: Int) -> Int { (bytes + alignment - 1) & ~(alignment - 1) }

    static func damaged(_ path: String, _ what: String) -> StorageError {
        StorageError(.corrupt, subject: path, found: what, remedy: "restore a backup")
    }
}

/// What is in front of a frame's payload.
struct FrameHeader {
    enum Kind: UInt32 {
        case part = 1
        case last = 2
        case end = 3
    }

    static let dataInHistoryFlag: UInt32 = 1

    var payloadBytes: Int
    /// How much of the segment was on stable storage when it was written.
    var synced: Int
    var kind: Kind
    var flags: UInt32

    /// Bytes to the next frame.
    var frameBytes: Int { LogFormat.aligned(LogFormat.frameHeaderBytes + payloadBytes) }
}

/// One operation of a frame, borrowed; the first byte of the key is its keyspace.
@unsafe
struct LogOperation {
    let key: UnsafeRawBufferPointer
    /// Nil for a removal.
    let value: UnsafeRawBufferPointer?
}

/// Takes the payload of a frame apart; every step says so when it is not one.
@safe
struct LogOperations {
    private let bytes: UnsafeRawBufferPointer
    private let path: String
    private var offset = 0

    init(_ bytes: UnsafeRawBufferPointer, of path: String) {
        unsafe self.bytes = bytes
        self.path = path
    }

    mutating func next() throws(StorageError) -> LogOperation? {
        guard unsafe offset < bytes.count else { return nil }
        let tag = unsafe bytes[offset]
        offset += 1
        let key = unsafe try slice()
        guard unsafe !key.isEmpty else { throw damaged }
        switch tag {
        case LogFormat.putTag: return unsafe LogOperation(key: key, value: try slice())
        case LogFormat.removeTag: return unsafe LogOperation(key: key, value: nil)
        default: throw damaged
        }
    }

    private mutating func slice() throws(StorageError) -> UnsafeRawBufferPointer {
        var count = 0
        for shift in stride(from: 0, to: 35, by: 7) {
            guard unsafe offset < bytes.count else { throw damaged }
            let byte = unsafe bytes[offset]
            offset += 1
            count |= Int(byte & 0x7F) << shift
            guard byte & 0x80 != 0 else {
                guard unsafe count <= bytes.count - offset else { throw damaged }
                defer { offset += count }
                return unsafe UnsafeRawBufferPointer(rebasing: bytes[offset..<offset + count])
            }
        }
        throw damaged
    }

    private var damaged: StorageError { LogFormat.damaged(path, "bytes that are not operations") }
}
