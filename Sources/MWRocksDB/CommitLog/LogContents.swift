package import MWStorage

/// All that a log says, of which there are no tables: for `scripts/fuzz log`. Not of a store's: it would lose what is not in its tables.
package struct LogContents: Sendable {
    /// What the tables do not have: keys with their keyspace, each in its newest version, nil for a removal.
    package private(set) var pending: [[UInt8]: [UInt8]?] = [:]
    /// Revisions and their records, in order.
    package private(set) var history: [(revision: UInt64, record: [UInt8])] = []

    /// Reads the log in `directory` as on opening, and marks all of it as drained.
    package init(consuming directory: String) throws(StorageError) {
        var pending: [[UInt8]: [UInt8]?] = [:]
        var recovery = try LogRecovery(directory: directory)
        let log = try recovery.run { (table) throws(StorageError) in
            var cursor = PendingCursor([table.view], .all, .forward)
            while let entry = unsafe cursor.next() {
                let value = unsafe PendingTable.value(of: entry).map { unsafe Array($0) }
                unsafe pending.updateValue(value, forKey: Array(PendingTable.key(of: entry)))
            }
        }
        defer { log.close() }
        var history: [(revision: UInt64, record: [UInt8])] = []
        try unsafe HistoryView(log, tablesEnd: 0).scan(KeyRange(prefix: [Keyspace.history.prefix]), .forward) { key, record in
            unsafe history.append((HistoryKey.revision(key) ?? 0, Array(record)))
            return true
        }
        (self.pending, self.history) = (pending, history)
    }
}
