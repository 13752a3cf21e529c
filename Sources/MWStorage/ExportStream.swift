// A store as a stream, for `mwstorage export` and `import`. Integers are big endian.
//
//   offset  size  meaning
//   0       8     "MWEXPORT"
//   8       4     version: 1
//   12      …     blocks, one after the other; the last record of the last block is the end record
//
//   block   0  4  n, the length of the records
//           4  4  CRC32C of the block's number (8 bytes, from 0) followed by the records
//           8  n  records, whole
//
//   record  01  key length (4)  value length (4)  key  value        an entry, in key order
//           02  next prefix (4)                                     at most once, before the entries
//           03  number of entries (8)                               the end
//
// The checksum covers the number so that a lost, repeated or exchanged block is found out; the end record, a stream that was
// cut between two blocks.

/// One thing in an export stream.
package enum ExportRecord: Hashable, Sendable {
    case entry(key: [UInt8], value: [UInt8])
    case nextPrefix(UInt32)
    case end(entryCount: UInt64)
}

enum ExportFormat {
    static let magic = Array("MWEXPORT".utf8)
    static let version: UInt32 = 1
    static let headerBytes = 12
    static let blockHeaderBytes = 8
    static let entryTag: UInt8 = 1
    static let nextPrefixTag: UInt8 = 2
    static let endTag: UInt8 = 3
    /// Bytes of records after which a block ends: large enough to make its header nothing, small enough to hold in memory.
    static let blockBytes = 256 << 10
    /// Longest block that a reader takes, in bytes: a full one, and the largest entry on top.
    static let maximumBlockBytes = blockBytes + StorageLimits.maximumKeyBytes + StorageLimits.maximumValueBytes + 64

    static func checksum(block number: UInt64, _ records: ArraySlice<UInt8>) -> UInt32 {
        var crc = CRC32C()
        crc.add(number.bigEndianBytes)
        crc.add(records)
        return crc.value
    }
}

/// Makes a stream: append everything, then `finish`; send what `takeOutput` returns whenever you like.
package struct ExportEncoder: Sendable {
    private var output: [UInt8]
    private var block: [UInt8] = []
    private var blockNumber: UInt64 = 0
    private var entryCount: UInt64 = 0

    package init(nextPrefix: UInt32) {
        self.output = ExportFormat.magic + ExportFormat.version.bigEndianBytes
        self.block = [ExportFormat.nextPrefixTag] + nextPrefix.bigEndianBytes
    }

    package mutating func append(key: [UInt8], value: [UInt8]) {
        block.append(ExportFormat.entryTag)
        block.append(contentsOf: UInt32(key.count).bigEndianBytes)
        block.append(contentsOf: UInt32(value.count).bigEndianBytes)
        block.append(contentsOf: key)
        block.append(contentsOf: value)
        entryCount += 1
        if block.count >= ExportFormat.blockBytes { endBlock() }
    }

    /// Ends the stream. Nothing may be appended afterwards.
    package mutating func finish() {
        block.append(ExportFormat.endTag)
        block.append(contentsOf: entryCount.bigEndianBytes)
        endBlock()
    }

    /// What is ready to be sent; it is then forgotten here.
    package mutating func takeOutput() -> [UInt8] {
        defer { output.removeAll(keepingCapacity: true) }
        return output
    }

    private mutating func endBlock() {
        output.append(contentsOf: UInt32(block.count).bigEndianBytes)
        output.append(contentsOf: ExportFormat.checksum(block: blockNumber, block[...]).bigEndianBytes)
        output.append(contentsOf: block)
        block.removeAll(keepingCapacity: true)
        blockNumber += 1
    }
}

/// Reads a stream: give it bytes as they come, take records until there are none, and ask `checkIsComplete` at the end.
package struct ExportDecoder: Sendable {
    private var input: [UInt8] = []
    private var offset = 0
    /// Where the records of the block whose checksum has been verified end.
    private var blockEnd = 0
    private var hasHeader = false
    private var blockNumber: UInt64 = 0
    private var entryCount: UInt64 = 0
    private var isComplete = false
    private let subject: String

    /// - Parameter source: what errors call the stream.
    package init(source: String) { self.subject = source }

    package mutating func bytesReceived(_ bytes: some Collection<UInt8>) {
        if offset == input.count {
            input.removeAll(keepingCapacity: true)
            blockEnd = 0
            offset = 0
        } else if offset > ExportFormat.blockBytes {
            input.removeFirst(offset)
            blockEnd -= offset
            offset = 0
        }
        input.append(contentsOf: bytes)
    }

    /// The next record, from a block that is whole and undamaged; nil if more bytes are needed, or after the end.
    ///
    /// - Throws: `streamMalformed`, `corrupt`, `formatTooNew`.
    package mutating func next() throws(StorageError) -> ExportRecord? {
        guard try readHeader(), try enterBlock() else { return nil }
        switch input[offset] {
        case ExportFormat.entryTag:
            guard let keyCount = integer(UInt32.self, at: offset + 1), let valueCount = integer(UInt32.self, at: offset + 5),
                case let start = offset + 9, keyCount <= StorageLimits.maximumKeyBytes, valueCount <= StorageLimits.maximumValueBytes,
                case let end = start + Int(keyCount) + Int(valueCount), end <= blockEnd
            else { throw malformed("an entry that does not fit its block") }
            offset = end
            entryCount += 1
            return .entry(key: Array(input[start..<start + Int(keyCount)]), value: Array(input[start + Int(keyCount)..<end]))
        case ExportFormat.nextPrefixTag:
            guard let next = integer(UInt32.self, at: offset + 1) else { throw malformed("a prefix that does not fit its block") }
            offset += 5
            return .nextPrefix(next)
        case ExportFormat.endTag:
            guard let count = integer(UInt64.self, at: offset + 1) else { throw malformed("an end that does not fit its block") }
            guard count == entryCount else { throw malformed("\(entryCount) entries", expected: "\(count)") }
            guard offset + 9 == blockEnd, blockEnd == input.count else { throw malformed("bytes after the end") }
            offset = blockEnd
            isComplete = true
            return .end(entryCount: count)
        case let tag: throw malformed("a record of kind \(tag)")
        }
    }

    /// Call when there are no more bytes.
    ///
    /// - Throws: `streamTruncated` if the end has not been seen, `streamMalformed` if bytes follow it.
    package func checkIsComplete() throws(StorageError) {
        guard isComplete else {
            throw StorageError(
                .streamTruncated, subject: subject, found: "the end after \(entryCount) entries, in block \(blockNumber)",
                expected: "an end record", remedy: "make the export again: the file was cut off")
        }
        guard offset == input.count else { throw malformed("bytes after the end") }
    }

    private mutating func readHeader() throws(StorageError) -> Bool {
        if hasHeader { return true }
        guard input.prefix(ExportFormat.magic.count).elementsEqual(ExportFormat.magic.prefix(input.count)) else {
            throw malformed("a file that is not an export", expected: "MWEXPORT at its start")
        }
        guard input.count >= ExportFormat.headerBytes else { return false }
        let version = input[8..<12].reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
        guard version <= ExportFormat.version else {
            throw StorageError(
                .formatTooNew, subject: subject, found: "export version \(version)", expected: "at most \(ExportFormat.version)",
                remedy: "import it with the newer mwstorage that made it")
        }
        guard version > 0 else { throw malformed("export version 0") }
        offset = ExportFormat.headerBytes
        blockEnd = offset
        hasHeader = true
        return true
    }

    /// Whether there is a record at `offset`, in a verified block.
    private mutating func enterBlock() throws(StorageError) -> Bool {
        if offset < blockEnd { return true }
        if isComplete { return false }
        let start = offset + ExportFormat.blockHeaderBytes
        guard input.count >= start else { return false }
        let count = Int(input[offset..<offset + 4].reduce(UInt32(0)) { $0 << 8 | UInt32($1) })
        guard count > 0, count <= ExportFormat.maximumBlockBytes else { throw malformed("a block of \(count) bytes") }
        guard input.count >= start + count else { return false }
        let expected = input[offset + 4..<start].reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
        guard ExportFormat.checksum(block: blockNumber, input[start..<start + count]) == expected else {
            throw StorageError(
                .corrupt, subject: subject, found: "block \(blockNumber) does not have its checksum",
                remedy: "copy the file again, or make the export again; what was imported so far is good")
        }
        offset = start
        blockEnd = start + count
        blockNumber += 1
        return true
    }

    private func integer<I: FixedWidthInteger>(_ type: I.Type, at position: Int) -> I? {
        let end = position + MemoryLayout<I>.size
        guard end <= blockEnd else { return nil }
        return input[position..<end].reduce(0) { $0 << 8 | I($1) }
    }

    private func malformed(_ found: String, expected: String? = nil) -> StorageError {
        StorageError(
            .streamMalformed, subject: subject, found: found, expected: expected,
            remedy: "give a file that `mwstorage export` wrote")
    }
}

extension FixedWidthInteger {
    var bigEndianBytes: [UInt8] {
        (0..<Self.bitWidth / 8).reversed().map { UInt8(truncatingIfNeeded: self >> (Self($0) * 8)) }
    }
}
