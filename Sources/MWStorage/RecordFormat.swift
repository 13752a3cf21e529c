// What the keyspaces of a store hold (formats 2 and 3). Integers are big endian, so that keys are in the order of numbers. A key is
// what follows the keyspace's byte. Numbers of keyspaces, kinds and flags are never used for anything else.
//
//   0 meta        "prefix"     4  next prefix (little endian; of old)                      PrefixCounter
//                 "revision"   8  the last revision; in every commit that makes one
//                 "compacted"  8  history reaches back to behind this revision
//                 "incarnation" 16  of this store                                          MetaRecord
//                 "lease"      8  the last lease that was granted
//                 "history"    8  bytes of the history records that can be asked for, about
//
//   1 data        key = what the client calls it                                           StoredValue
//                 0  8  revision that put it
//                 8  1  flags: 1 there is a lease
//                 9  8  lease (only with flag 1)
//                 …     the value
//
//   2 history     key = revision (8)                                                       HistoryRecord
//                 0  8  when: milliseconds since 1970
//                 8  …  changes, one after the other:
//                         0  1  flags: 1 there is a lease, 2 a removal
//                         1  8  revision of the change before; 0 if the key was absent
//                         …  8  lease (only with flag 1)
//                         …  4  n   n  key
//                         …  4  m   m  value (neither with flag 2)
//
//   3 sessions    key = session (16)                                                       SessionRecord
//                 0  8  time to live, milliseconds
//                 8  8  outcomes up to this sequence are forgotten
//                 16 …  name of the principal, UTF-8
//
//   4 outcomes    key = session (16) sequence (8)                                          OutcomeRecord
//                 0  1  kind   1  8  revision   9  … by kind:
//                   1 written      4  number of changes
//                   2 transaction  1  flags: 1 the conditions held; then entries, one after the other:
//                                    0  1  flags: 1 there is a lease   1  8  revision, 0 if the key was absent
//                                    …  8  lease (only with flag 1)    …  4  n   n  key   4  m   m  value
//                   3 prefix       4  the prefix
//                   4 lease        8  lease   8  time to live, milliseconds
//
//   5 leases      key = lease (8)                                                          LeaseRecord
//                 0  8  time to live, milliseconds
//                 8  …  name of the principal, UTF-8
//
//   6 lease keys  key = lease (8) key of data; no value

/// A value as it is stored, borrowed: its bytes, and what goes with them.
@safe
package struct StoredValue {
    /// The request that put it.
    package let revision: Revision
    /// It goes when this lease ends.
    package let lease: LeaseID?
    /// What the client put.
    @unsafe package let bytes: UnsafeRawBufferPointer

    static let leaseFlag: UInt8 = 1
    /// In front of a value that has no lease.
    static let plainOverheadBytes = 9

    /// What is in front of a value.
    static func overheadBytes(_ lease: LeaseID?) -> Int { plainOverheadBytes + (lease == nil ? 0 : MemoryLayout<UInt64>.size) }

    /// What a value of `valueBytes` takes in its envelope.
    package static func byteCount(ofValueOf valueBytes: Int, _ lease: LeaseID?) -> Int { overheadBytes(lease) + valueBytes }

    /// Puts `value` into its envelope, which fills `stored`.
    package static func encode(
        _ value: UnsafeRawBufferPointer, revision: Revision, lease: LeaseID?, into stored: UnsafeMutableRawBufferPointer
    ) {
        precondition(stored.count == byteCount(ofValueOf: value.count, lease), "room for the value and its envelope")
        unsafe stored.storeBytes(of: revision.number.bigEndian, as: UInt64.self)
        unsafe stored.storeBytes(of: lease == nil ? 0 : leaseFlag, toByteOffset: 8, as: UInt8.self)
        if let lease { unsafe stored.storeBytes(of: lease.number.bigEndian, toByteOffset: plainOverheadBytes, as: UInt64.self) }
        unsafe UnsafeMutableRawBufferPointer(rebasing: stored[overheadBytes(lease)..<stored.count]).copyMemory(from: value)
    }

    /// Takes an envelope apart; nil if it is damaged.
    @inline(__always)
    package init?(decoding stored: UnsafeRawBufferPointer) {
        guard stored.count >= StoredValue.plainOverheadBytes else { return nil }
        revision = Revision(UInt64(bigEndian: unsafe stored.loadUnaligned(as: UInt64.self)))
        switch unsafe stored[8] {
        case 0:
            lease = nil
            unsafe bytes = UnsafeRawBufferPointer(rebasing: stored[StoredValue.plainOverheadBytes..<stored.count])
        case StoredValue.leaseFlag:
            guard stored.count >= StoredValue.plainOverheadBytes + 8 else { return nil }
            lease = LeaseID(UInt64(bigEndian: unsafe stored.loadUnaligned(fromByteOffset: 9, as: UInt64.self)))
            unsafe bytes = UnsafeRawBufferPointer(rebasing: stored[(StoredValue.plainOverheadBytes + 8)..<stored.count])
        default: return nil
        }
    }

    /// What to throw where one was damaged.
    static var damaged: StorageError { .damagedRecord("value") }
}

/// A key and what is, or was, stored there; at revision zero it is absent.
package struct StoredEntry: Hashable, Sendable {
    package var key: [UInt8]
    /// Empty also where only keys were asked for.
    package var value: [UInt8]
    package var revision: Revision
    package var lease: LeaseID?

    package init(key: [UInt8], value: [UInt8] = [], revision: Revision = .zero, lease: LeaseID? = nil) {
        self.key = key
        self.value = value
        self.revision = revision
        self.lease = lease
    }
}

extension WriteBatch {
    /// Stores `value` under `key` of the data keyspace, in its envelope.
    ///
    /// A revision that is not known yet can be zero, and be given later by ``stampData(_:from:to:)``.
    package mutating func putData(
        key: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer, revision: Revision, lease: LeaseID? = nil
    ) throws(StorageError) {
        try unsafe check(key)
        try unsafe check(value: value)
        let open = unsafe beginPut(in: .data, key: key)
        appendValue(revision.number)
        appendValue(lease == nil ? 0 : StoredValue.leaseFlag)
        if let lease { appendValue(lease.number) }
        unsafe appendValue(value)
        endPut(open)
    }

    /// Gives every data value that was put between two marks its revision.
    package mutating func stampData(_ revision: Revision, from start: Mark, to end: Mark) {
        stamp(revision.number, in: .data, from: start, to: end)
    }
}

/// What the store knows of itself.
package enum MetaRecord {
    package static let revisionKey = Array("revision".utf8)
    package static let compactedKey = Array("compacted".utf8)
    package static let incarnationKey = Array("incarnation".utf8)
    package static let lastLeaseKey = Array("lease".utf8)
    package static let historyBytesKey = Array("history".utf8)

    /// The integer under `key`; nil if there is none.
    package static func read<I: FixedWidthInteger>(
        _ key: [UInt8], as type: I.Type = I.self, from engine: any EngineReading
    ) throws(StorageError) -> I? {
        var integer: I?
        var isDamaged = false
        let engineKey = [Keyspace.meta.prefix] + key
        try unsafe engineKey.span.bytes.withUnsafeBytes { (key) throws(StorageError) in
            try unsafe engine.read(key) { bytes in
                guard let bytes = unsafe bytes else { return }
                isDamaged = bytes.count != MemoryLayout<I>.size
                if !isDamaged { integer = I(bigEndian: unsafe bytes.loadUnaligned(as: I.self)) }
            }
        }
        if isDamaged { throw .damagedRecord("meta record \(String(decoding: key, as: UTF8.self))") }
        return integer
    }
}

extension WriteBatch {
    /// Stores an integer of the store's own.
    package mutating func putMeta<I: FixedWidthInteger>(_ key: [UInt8], _ integer: I) {
        putRecord(in: .meta, key: key) { $0.appendValue(integer) }
    }

    /// Stores a record of the store's own; `body` appends its value.
    mutating func putRecord(in keyspace: Keyspace, key: [UInt8], _ body: (inout WriteBatch) -> Void) {
        let open = unsafe key.span.bytes.withUnsafeBytes { unsafe beginPut(in: keyspace, key: $0) }
        body(&self)
        endPut(open)
    }

    /// Appends bytes to the value of the open put.
    mutating func appendValue(_ bytes: [UInt8]) {
        unsafe bytes.span.bytes.withUnsafeBytes { unsafe appendValue($0) }
    }

    /// Appends a length of four bytes, and the bytes, to the value of the open put.
    mutating func appendCounted(_ bytes: UnsafeRawBufferPointer) {
        appendValue(UInt32(bytes.count))
        unsafe appendValue(bytes)
    }
}

extension StorageError {
    /// Bytes on disk that no version of this program writes.
    static func damagedRecord(_ what: String) -> StorageError {
        StorageError(.corrupt, subject: what, found: "bytes that are not a record", remedy: "restore a backup")
    }
}

/// Reads a record; every step says so when there is too little of it.
@safe
struct RecordReader {
    private let bytes: UnsafeRawBufferPointer
    private let subject: StaticString
    private var offset = 0

    init(_ bytes: UnsafeRawBufferPointer, of subject: StaticString) {
        unsafe self.bytes = bytes
        self.subject = subject
    }

    var isAtEnd: Bool { unsafe offset == bytes.count }

    mutating func integer<I: FixedWidthInteger>(_ type: I.Type = I.self) throws(StorageError) -> I {
        I(bigEndian: unsafe try take(MemoryLayout<I>.size).loadUnaligned(as: I.self))
    }

    /// So many bytes, borrowed.
    mutating func take(_ count: Int) throws(StorageError) -> UnsafeRawBufferPointer {
        guard unsafe bytes.count - offset >= count else { throw damaged }
        defer { offset += count }
        return unsafe UnsafeRawBufferPointer(rebasing: bytes[offset..<offset + count])
    }

    /// Bytes behind their length, borrowed.
    mutating func counted() throws(StorageError) -> UnsafeRawBufferPointer {
        unsafe try take(Int(try integer(UInt32.self)))
    }

    /// All that is left, borrowed.
    mutating func rest() throws(StorageError) -> UnsafeRawBufferPointer { unsafe try take(bytes.count - offset) }

    /// All that is left, as text.
    mutating func text() throws(StorageError) -> String {
        let rest = unsafe try rest()
        guard let text = unsafe String(validating: rest, as: UTF8.self) else { throw damaged }
        return text
    }

    mutating func end() throws(StorageError) { if !isAtEnd { throw damaged } }

    var damaged: StorageError { .damagedRecord("\(subject)") }
}
