/// Some revisions of history, in order, without a gap.
package struct HistoryPage: Sendable {
    /// Revisions are behind this one.
    package let previousRevision: Revision
    /// The last revision in the page; ``previousRevision`` if it is empty.
    package let lastRevision: Revision
    /// The store's, when the page was read: if it is ``lastRevision``, there is no more.
    package let storeRevision: Revision
    private let records: [UInt8]
    private let ends: [Int]

    package var revisionCount: Int { ends.count }

    init(of engine: ReopenableEngine, after revision: Revision, limitBytes limit: Int) throws(StorageError) {
        var records: [UInt8] = []
        var ends: [Int] = []
        var stored = Revision.zero
        try engine.withEngine { (engine) throws(StorageError) in
            let snapshot = try engine.snapshot()
            stored = Revision(try MetaRecord.read(MetaRecord.revisionKey, from: snapshot) ?? 0)
            guard revision < stored else { return }
            let compacted = Revision(try MetaRecord.read(MetaRecord.compactedKey, from: snapshot) ?? 0)
            guard revision >= compacted else { throw HistoryPage.compacted(revision, compacted) }
            let range = KeyRange(lower: HistoryRecord.key(of: revision.next)).engineRange(in: .history)
            var failure: StorageError?
            try unsafe snapshot.scan(range, .forward) { key, record in
                do throws(StorageError) {
                    let found = try unsafe HistoryRecord.revision(ofKey: key.behindKeyspace)
                    guard found.number == revision.number + UInt64(ends.count) + 1 else { throw HistoryPage.compacted(revision, found) }
                } catch {
                    failure = error
                    return false
                }
                unsafe records.append(contentsOf: record)
                ends.append(records.count)
                return records.count < limit
            }
            // Every revision has its record.
            if ends.isEmpty { throw failure ?? HistoryPage.compacted(revision, stored) }
        }
        self.previousRevision = revision
        self.lastRevision = Revision(revision.number + UInt64(ends.count))
        self.storeRevision = max(stored, revision)
        self.records = records
        self.ends = ends
    }

    /// Calls `body` with each revision, in order.
    package func forEachRevision(_ body: (Revision, HistoryRevision) throws -> Void) rethrows {
        var start = 0
        for (index, end) in ends.enumerated() {
            let revision = Revision(previousRevision.number + UInt64(index) + 1)
            try body(revision, HistoryRevision(record: records[start..<end]))
            start = end
        }
    }

    private static func compacted(_ revision: Revision, _ first: Revision) -> StorageError {
        StorageError(
            .compacted, subject: "history", found: "the changes behind revision \(revision) have been forgotten",
            expected: "at least revision \(first)", remedy: "read afresh")
    }
}

/// The changes of one revision.
package struct HistoryRevision: Sendable {
    let record: ArraySlice<UInt8>

    /// Calls `body` with each key that it changed, once; borrowed for that call.
    ///
    /// - Throws: `corrupt`; what came before the damage has been reported by then.
    package func forEachChange(_ body: (KeyChange) -> Void) throws(StorageError) {
        try unsafe record.span.bytes.withUnsafeBytes { (bytes) throws(StorageError) in
            try unsafe HistoryRecord.forEachChange(of: bytes) { change in
                body(change)
                return true
            }
        }
    }

    /// When it was made: milliseconds since 1970.
    package var time: UInt64 {
        get throws(StorageError) {
            try unsafe record.span.bytes.withUnsafeBytes { (bytes) throws(StorageError) in try unsafe HistoryRecord.time(of: bytes) }
        }
    }
}
