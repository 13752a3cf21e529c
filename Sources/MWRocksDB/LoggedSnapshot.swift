import MWStorage
import Synchronization

/// All of the engine at one moment: what was pending, in front of what the tables held, and the history that the log has.
final class LoggedSnapshot: EngineSnapshot {
    /// Newest first; nil once it is lost.
    private let pinned: Mutex<[PendingTable.View]?>
    private let history: HistoryView
    private let tables: RocksDBSnapshot

    init(views: [PendingTable.View], history: HistoryView, tables: RocksDBSnapshot) {
        self.pinned = Mutex(views.filter { $0.count > 0 })
        self.history = history
        self.tables = tables
    }

    // MARK: What it keeps in memory

    /// Whether it keeps a table that has been drained from going.
    func pins(_ table: PendingTable) -> Bool { pinned.withLock { $0?.contains { $0.table === table } ?? false } }

    /// Lets go of memory: its calls throw `snapshotLost` from now on.
    func lose() { pinned.withLock { $0 = nil } }

    private func views() throws(StorageError) -> [PendingTable.View] {
        guard let views = pinned.withLock({ $0 }) else {
            throw StorageError(
                .snapshotLost, subject: "snapshot", found: "older than memory allows: much has been written since",
                remedy: "start over with a new snapshot")
        }
        return views
    }

    // MARK: Reading

    func read(_ key: UnsafeRawBufferPointer, _ body: (UnsafeRawBufferPointer?) -> Void) throws(StorageError) {
        let views = try views()
        if unsafe HistoryKey.revision(key) != nil {
            if try unsafe readHistory(key, body) { return }
            if unsafe history.isForgotten(key) { return body(nil) }
        }
        let hash = unsafe PendingTable.hash(key)
        for view in views {
            if let entry = unsafe view.find(key, hash) {
                return withExtendedLifetime(view.table) { unsafe body(PendingTable.value(of: entry)) }
            }
        }
        try unsafe tables.read(key, body)
    }

    private func readHistory(_ key: UnsafeRawBufferPointer, _ body: (UnsafeRawBufferPointer?) -> Void) throws(StorageError) -> Bool {
        var isFound = false
        let range = unsafe KeyRange(lower: Array(key), upper: Array(key) + [0])
        try unsafe history.scan(range, .forward) { _, value in
            isFound = true
            unsafe body(value)
            return false
        }
        return isFound
    }

    func scan(
        _ range: KeyRange, _ direction: ScanDirection, _ body: (UnsafeRawBufferPointer, UnsafeRawBufferPointer) -> Bool
    ) throws(StorageError) {
        let historyRange = KeyRange(prefix: [Keyspace.history.prefix])
        // In front of history; history as tables have it, of old, and then as the log has it; behind history.
        let parts = [
            (range.limited(to: KeyRange(upper: historyRange.lower)), false), (range.limited(to: historyRange), false),
            (range.limited(to: historyRange), true), (range.limited(to: KeyRange(lower: historyRange.upper ?? [])), false),
        ]
        var goesOn = true
        for (part, isInLog) in direction == .forward ? parts : parts.reversed() where goesOn {
            guard let part else { continue }
            func forward(_ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) -> Bool {
                goesOn = unsafe body(key, value)
                return goesOn
            }
            if isInLog {
                try unsafe history.scan(part, direction, forward)
            } else if part.lower.first != Keyspace.history.prefix {
                try unsafe scanTables(part, direction, forward)
            } else if history.isInTables {
                try unsafe tables.scan(part, direction) { key, value in unsafe history.isForgotten(key) || forward(key, value) }
            }
        }
    }

    /// Merges what was pending into what the tables held.
    private func scanTables(
        _ range: KeyRange, _ direction: ScanDirection, _ body: (UnsafeRawBufferPointer, UnsafeRawBufferPointer) -> Bool
    ) throws(StorageError) {
        let views = try views()
        defer { withExtendedLifetime(views) {} }
        guard !views.isEmpty else { return try unsafe tables.scan(range, direction, body) }
        var cursor = PendingCursor(views, range, direction)
        var pending = unsafe cursor.next()
        var goesOn = true
        try unsafe tables.scan(range, direction) { key, value in
            while let entry = unsafe pending {
                let order = unsafe compareKeys(PendingTable.key(of: entry), key)
                guard direction == .forward ? order <= 0 : order >= 0 else { break }
                unsafe pending = cursor.next()
                if let value = unsafe PendingTable.value(of: entry) {
                    goesOn = unsafe body(PendingTable.key(of: entry), value)
                    guard goesOn else { return false }
                }
                if order == 0 { return true }
            }
            goesOn = unsafe body(key, value)
            return goesOn
        }
        while goesOn, let entry = unsafe pending {
            unsafe pending = cursor.next()
            guard let value = unsafe PendingTable.value(of: entry) else { continue }
            goesOn = unsafe body(PendingTable.key(of: entry), value)
        }
    }
}

extension KeyRange {
    /// What both ranges have in common; nil if that is nothing.
    fileprivate func limited(to other: KeyRange) -> KeyRange? {
        func isBefore(_ left: [UInt8], _ right: [UInt8]) -> Bool { left.lexicographicallyPrecedes(right) }
        let lower = isBefore(lower, other.lower) ? other.lower : lower
        var upper = upper
        if let limit = other.upper, upper.map({ isBefore(limit, $0) }) ?? true { upper = limit }
        if let upper, !isBefore(lower, upper) { return nil }
        return KeyRange(lower: lower, upper: upper)
    }
}
