/// A session: whose it is, and which outcomes its client no longer asks for. `RecordFormat.swift` draws the bytes.
package struct SessionRecord: Hashable, Sendable {
    package var principal: String
    package var timeToLiveMilliseconds: UInt64
    /// Outcomes up to this sequence are forgotten.
    package var acknowledged: UInt64

    package init(principal: String, timeToLiveMilliseconds: UInt64, acknowledged: UInt64 = 0) {
        self.principal = principal
        self.timeToLiveMilliseconds = timeToLiveMilliseconds
        self.acknowledged = acknowledged
    }

    package init(decoding record: UnsafeRawBufferPointer) throws(StorageError) {
        var reader = unsafe RecordReader(record, of: "session")
        timeToLiveMilliseconds = try reader.integer()
        acknowledged = try reader.integer()
        principal = try reader.text()
    }

    package static func key(of session: SessionID) -> [UInt8] { session.number.bigEndianBytes }

    /// The session that a key of the keyspace is of (without the keyspace's byte).
    package static func session(ofKey key: UnsafeRawBufferPointer) throws(StorageError) -> SessionID {
        var reader = unsafe RecordReader(key, of: "key of a session")
        let session = SessionID(try reader.integer())
        try reader.end()
        return session
    }
}

/// How a write of a session ended.
package enum OutcomeRecord: Hashable, Sendable {
    case written(Revision, changes: UInt32)
    case transaction(Revision, hasSucceeded: Bool, results: [StoredEntry])
    case prefix(UInt32, Revision)
    case lease(LeaseID, timeToLiveMilliseconds: UInt64, Revision)

    private enum Kind {
        static let written: UInt8 = 1
        static let transaction: UInt8 = 2
        static let prefix: UInt8 = 3
        static let lease: UInt8 = 4
    }

    private static let succeededFlag: UInt8 = 1

    /// The store's revision when it had been done.
    package var revision: Revision {
        switch self {
        case .written(let revision, _), .transaction(let revision, _, _), .prefix(_, let revision), .lease(_, _, let revision): revision
        }
    }

    package init(decoding record: UnsafeRawBufferPointer) throws(StorageError) {
        var reader = unsafe RecordReader(record, of: "outcome")
        let kind = try reader.integer(UInt8.self)
        let revision = Revision(try reader.integer())
        switch kind {
        case Kind.written: self = .written(revision, changes: try reader.integer())
        case Kind.transaction:
            let flags = try reader.integer(UInt8.self)
            guard flags & ~OutcomeRecord.succeededFlag == 0 else { throw reader.damaged }
            var results: [StoredEntry] = []
            while !reader.isAtEnd { results.append(try StoredEntry(reading: &reader)) }
            self = .transaction(revision, hasSucceeded: flags != 0, results: results)
        case Kind.prefix: self = .prefix(try reader.integer(), revision)
        case Kind.lease: self = .lease(LeaseID(try reader.integer()), timeToLiveMilliseconds: try reader.integer(), revision)
        default: throw reader.damaged
        }
        try reader.end()
    }

    package static func key(of session: SessionID, _ sequence: UInt64) -> [UInt8] {
        session.number.bigEndianBytes + sequence.bigEndianBytes
    }

    /// The session and sequence that a key of the keyspace is of (without the keyspace's byte).
    package static func write(ofKey key: UnsafeRawBufferPointer) throws(StorageError) -> (session: SessionID, sequence: UInt64) {
        var reader = unsafe RecordReader(key, of: "key of an outcome")
        let session = SessionID(try reader.integer())
        let sequence: UInt64 = try reader.integer()
        try reader.end()
        return (session, sequence)
    }

    fileprivate func encode(into batch: inout WriteBatch) {
        switch self {
        case .written(let revision, let changes):
            batch.appendValue(Kind.written)
            batch.appendValue(revision.number)
            batch.appendValue(changes)
        case .transaction(let revision, let hasSucceeded, let results):
            batch.appendValue(Kind.transaction)
            batch.appendValue(revision.number)
            batch.appendValue(hasSucceeded ? OutcomeRecord.succeededFlag : 0)
            for entry in results { entry.encode(into: &batch) }
        case .prefix(let prefix, let revision):
            batch.appendValue(Kind.prefix)
            batch.appendValue(revision.number)
            batch.appendValue(prefix)
        case .lease(let lease, let timeToLive, let revision):
            batch.appendValue(Kind.lease)
            batch.appendValue(revision.number)
            batch.appendValue(lease.number)
            batch.appendValue(timeToLive)
        }
    }
}

/// A lease: whose it is, and for how long. `RecordFormat.swift` draws the bytes.
package struct LeaseRecord: Hashable, Sendable {
    package var principal: String
    package var timeToLiveMilliseconds: UInt64

    package init(principal: String, timeToLiveMilliseconds: UInt64) {
        self.principal = principal
        self.timeToLiveMilliseconds = timeToLiveMilliseconds
    }

    package init(decoding record: UnsafeRawBufferPointer) throws(StorageError) {
        var reader = unsafe RecordReader(record, of: "lease")
        timeToLiveMilliseconds = try reader.integer()
        principal = try reader.text()
    }

    package static func key(of lease: LeaseID) -> [UInt8] { lease.number.bigEndianBytes }

    /// The lease that a key of the keyspace is of (without the keyspace's byte).
    package static func lease(ofKey key: UnsafeRawBufferPointer) throws(StorageError) -> LeaseID {
        var reader = unsafe RecordReader(key, of: "key of a lease")
        let lease = LeaseID(try reader.integer())
        try reader.end()
        return lease
    }

    /// Where it is written down that `key` goes with `lease`. All of a lease's are in `KeyRange(prefix: key(of: lease))`.
    package static func key(of lease: LeaseID, boundTo key: UnsafeRawBufferPointer) -> [UInt8] {
        unsafe lease.number.bigEndianBytes + Array(key)
    }

    /// The lease and the data key in a key of the lease keys (without the keyspace's byte).
    package static func binding(ofKey key: UnsafeRawBufferPointer) throws(StorageError) -> (lease: LeaseID, key: UnsafeRawBufferPointer) {
        var reader = unsafe RecordReader(key, of: "key of a lease's keys")
        let lease = LeaseID(try reader.integer())
        return unsafe (lease, try reader.rest())
    }
}

extension WriteBatch {
    package mutating func putSession(_ session: SessionID, _ record: SessionRecord) {
        putRecord(in: .sessions, key: SessionRecord.key(of: session)) { batch in
            batch.appendValue(record.timeToLiveMilliseconds)
            batch.appendValue(record.acknowledged)
            batch.appendValue(Array(record.principal.utf8))
        }
    }

    package mutating func putOutcome(_ session: SessionID, _ sequence: UInt64, _ outcome: OutcomeRecord) {
        putRecord(in: .outcomes, key: OutcomeRecord.key(of: session, sequence)) { outcome.encode(into: &$0) }
    }

    package mutating func putLease(_ lease: LeaseID, _ record: LeaseRecord) {
        putRecord(in: .leases, key: LeaseRecord.key(of: lease)) { batch in
            batch.appendValue(record.timeToLiveMilliseconds)
            batch.appendValue(Array(record.principal.utf8))
        }
    }

    package mutating func putLeaseKey(_ lease: LeaseID, _ key: UnsafeRawBufferPointer) {
        putRecord(in: .leaseKeys, key: unsafe LeaseRecord.key(of: lease, boundTo: key)) { _ in }
    }

    package mutating func removeLeaseKey(_ lease: LeaseID, _ key: UnsafeRawBufferPointer) {
        let bound = unsafe LeaseRecord.key(of: lease, boundTo: key)
        unsafe bound.span.bytes.withUnsafeBytes { unsafe removeRecord(in: .leaseKeys, key: $0) }
    }
}

extension StoredEntry {
    fileprivate init(reading reader: inout RecordReader) throws(StorageError) {
        let flags = try reader.integer(UInt8.self)
        guard flags & ~StoredValue.leaseFlag == 0 else { throw reader.damaged }
        let revision = Revision(try reader.integer())
        let lease = flags == 0 ? nil : LeaseID(try reader.integer())
        self.init(
            key: unsafe Array(try reader.counted()), value: unsafe Array(try reader.counted()), revision: revision, lease: lease)
    }

    fileprivate func encode(into batch: inout WriteBatch) {
        batch.appendValue(lease == nil ? 0 : StoredValue.leaseFlag)
        batch.appendValue(revision.number)
        if let lease { batch.appendValue(lease.number) }
        unsafe key.span.bytes.withUnsafeBytes { unsafe batch.appendCounted($0) }
        unsafe value.span.bytes.withUnsafeBytes { unsafe batch.appendCounted($0) }
    }
}
