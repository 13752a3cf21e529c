/// A change of one key, borrowed: from a commit that has just been, or from history.
@safe
package struct KeyChange {
    @unsafe package let key: UnsafeRawBufferPointer
    /// Nil for a removal.
    @unsafe package let value: UnsafeRawBufferPointer?
    /// That of the change before; zero if the key was absent.
    package let previousRevision: Revision
    package let lease: LeaseID?

    package init(key: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer?, previousRevision: Revision, lease: LeaseID? = nil) {
        unsafe self.key = key
        unsafe self.value = value
        self.previousRevision = previousRevision
        self.lease = lease
    }

    package var isRemoval: Bool { unsafe value == nil }
}

/// The changes of one revision, as history keeps them. `RecordFormat.swift` draws the bytes.
package enum HistoryRecord {
    static let leaseFlag: UInt8 = 1
    static let removalFlag: UInt8 = 2
    /// In front of the changes.
    static let headerBytes = 8

    /// What a change takes in a record; without `valueBytes` it is a removal.
    static func byteCount(ofChangeWith keyBytes: Int, _ valueBytes: Int?, _ lease: LeaseID?) -> Int {
        9 + (lease == nil ? 0 : MemoryLayout<UInt64>.size) + 4 + keyBytes + (valueBytes.map { 4 + $0 } ?? 0)
    }

    /// When the revision was made: milliseconds since 1970.
    package static func time(of record: UnsafeRawBufferPointer) throws(StorageError) -> UInt64 {
        var reader = unsafe RecordReader(record, of: "history record")
        return try reader.integer()
    }

    /// Calls `body` with each change, in the order in which they were made, until it returns false.
    ///
    /// - Throws: `corrupt`; what came before the damage has been reported by then.
    package static func forEachChange(of record: UnsafeRawBufferPointer, _ body: (KeyChange) -> Bool) throws(StorageError) {
        var reader = unsafe RecordReader(record, of: "history record")
        _ = try reader.integer(UInt64.self)
        while !reader.isAtEnd {
            let flags = try reader.integer(UInt8.self)
            guard flags & ~(leaseFlag | removalFlag) == 0 else { throw reader.damaged }
            let previous = Revision(try reader.integer())
            let lease = flags & leaseFlag == 0 ? nil : LeaseID(try reader.integer())
            let key = unsafe try reader.counted()
            let value = unsafe flags & removalFlag == 0 ? try reader.counted() : nil
            guard unsafe body(KeyChange(key: key, value: value, previousRevision: previous, lease: lease)) else { return }
        }
    }

    /// The revision that a key of the history keyspace is of (without the keyspace's byte).
    package static func revision(ofKey key: UnsafeRawBufferPointer) throws(StorageError) -> Revision {
        var reader = unsafe RecordReader(key, of: "key of history")
        let revision = Revision(try reader.integer())
        try reader.end()
        return revision
    }

    package static func key(of revision: Revision) -> [UInt8] { revision.number.bigEndianBytes }
}

extension WriteBatch {
    /// Begins the history record of `revision`, made at `time` (milliseconds since 1970).
    ///
    /// Call order: this, ``appendChange(_:)`` for each change, then ``endPut(_:)``; nothing else in between.
    package mutating func beginHistory(of revision: Revision, at time: UInt64) -> OpenPut {
        let open = unsafe Swift.withUnsafeBytes(of: revision.number.bigEndian) { unsafe beginPut(in: .history, key: $0) }
        appendValue(time)
        return open
    }

    /// Appends a change to the open history record.
    package mutating func appendChange(_ change: KeyChange) {
        appendValue((change.lease == nil ? 0 : HistoryRecord.leaseFlag) | (change.isRemoval ? HistoryRecord.removalFlag : 0))
        appendValue(change.previousRevision.number)
        if let lease = change.lease { appendValue(lease.number) }
        unsafe appendCounted(change.key)
        if let value = unsafe change.value { unsafe appendCounted(value) }
    }

    /// Appends a change, whose key and value are in this batch, to the open history record.
    mutating func appendChange(key: Range<Int>, value: Range<Int>?, previousRevision: Revision, lease: LeaseID?) {
        appendValue((lease == nil ? 0 : HistoryRecord.leaseFlag) | (value == nil ? HistoryRecord.removalFlag : 0))
        appendValue(previousRevision.number)
        if let lease { appendValue(lease.number) }
        appendValue(UInt32(key.count))
        appendCopy(of: key)
        guard let value else { return }
        appendValue(UInt32(value.count))
        appendCopy(of: value)
    }

    /// Forgets the changes of `revision`.
    package mutating func removeHistory(of revision: Revision) throws(StorageError) {
        try unsafe Swift.withUnsafeBytes(of: revision.number.bigEndian) { (key) throws(StorageError) in
            try unsafe remove(in: .history, key: key)
        }
    }
}
