import CRocksDB
import Glibc
public import MWStorage
import Synchronization

extension StorageEngineFactory {
    /// RocksDB: the engine to use unless there is a reason not to.
    public static var rocksDB: StorageEngineFactory {
        StorageEngineFactory(
            name: RocksDBEngine.name,
            open: { (directory, options) throws(StorageError) in try RocksDBEngine(directory: directory, options: options) },
            openReadOnly: { (directory, scratch) throws(StorageError) in
                try RocksDBSnapshot(RocksDBDatabase(readOnly: directory, eventLogsIn: scratch))
            })
    }
}

/// ``StorageEngine`` on RocksDB, behind a log and a table in memory of our own.
///
///     apply ──▶ CommitLog ──▶ PendingTable ──▶ (full) ──▶ RocksDB's tables       gets: pending, then tables
///               one write,    in memory        drain      sorted, on disk        scans: both, merged
///               one sync                       thread                            history: the log
///
/// RocksDB's own log and memory are not used: its log holds history a second time, and each change of a key that is put often would be
/// sorted, written out and merged away. Here a put is one copy in the log and one in memory, and only what a key came to reaches a table.
final class RocksDBEngine: StorageEngine, @unchecked Sendable {
    // Safety: `log` but for its spare segment, `prepared`, and adding to the first pending table, belong to who holds `writing`; the rest is
    // immutable or guarded as it says.
    static let name = "rocksdb"
    private let database: RocksDBDatabase
    private let writer: TableWriter
    private let directory: String
    private let options: EngineOptions
    private let readCount = ReadCount()

    private let writing = ConditionLock()
    private let log: CommitLog
    /// Where a batch was added that has been written, and is not yet applied.
    private var prepared: PendingTable?
    /// The last revision whose history is in the tables: programs before the log put it there.
    private let tablesEnd: UInt64
    private let state: Mutex<State>
    private let drains = ConditionLock()
    private let isStopping = Atomic<Bool>(false)
    private var thread: WorkerThread?

    /// What readers take their view from.
    private struct State: Sendable {
        /// Newest first; batches go to the first one.
        var tables: [PendingTable]
        var history: HistoryView
        /// The log's segments up to this one are not needed, but for the history in them.
        var drained: UInt64
        /// The segment that will be written next, for which the log's spare file is to be made ready.
        var nextSegment: UInt64?
        /// Drained tables that a snapshot may keep, and snapshots that may keep one, oldest first.
        var drainedTables: [Weak<PendingTable>] = []
        var snapshots: [Weak<LoggedSnapshot>] = []
        /// Why the tables did not take what is pending; then nothing more is written.
        var failure: StorageError?
    }

    private struct Weak<Object: AnyObject & Sendable>: Sendable {
        private(set) weak var object: Object?

        init(_ object: Object) { self.object = object }
    }

    /// On a line of memory that the pointers do not share: all threads write it.
    private final class ReadCount: Sendable {
        let value = Atomic<UInt64>(0)
    }

    /// Tables that are being drained, or wait for it, when another one is full; with more of them the writer waits.
    private static let maximumWaitingTables = 1
    /// Drained tables that snapshots may keep in memory; with more of them the oldest snapshots are lost.
    private static let maximumPinnedTables = 8
    /// Snapshots of which some have gone, before the list is gone through.
    private static let snapshotsPerSweep = 64
    /// Between two looks whether RocksDB has merged enough.
    private static let pollInterval = Duration.milliseconds(5)

    /// - Parameter makeMemoryFile: What tables are made in before they are written; nil where there is none.
    init(
        directory: String, options: EngineOptions,
        makeMemoryFile: @escaping @Sendable () -> FileDescriptor? = { FileDescriptor.inMemory(named: "mwstorage-table") }
    ) throws(StorageError) {
        self.directory = directory
        self.options = options
        let database = try RocksDBDatabase(directory: directory, options: options)
        let writer = TableWriter(database, directory: directory, makeMemoryFile: makeMemoryFile)
        self.database = database
        self.writer = writer
        do throws(StorageError) {
            var recovery = try LogRecovery(directory: directory)
            log = try recovery.run { (table) throws(StorageError) in try writer.drain(table.view) }
            tablesEnd = try database.endOfHistory(forgotten: log.forgotten)
        } catch {
            database.close()
            throw error
        }
        let number = log.current.number
        state = Mutex(
            State(
                tables: [PendingTable(number: number)], history: HistoryView(log, tablesEnd: tablesEnd), drained: number - 1,
                nextSegment: log.spare.isThere ? number + 1 : nil))
        do throws(StorageError) {
            thread = try WorkerThread(name: "mw-drain") { self.drainTables() }
        } catch {
            log.close()
            database.close()
            throw error
        }
    }

    // MARK: Reading

    func read(_ key: UnsafeRawBufferPointer, _ body: (UnsafeRawBufferPointer?) -> Void) throws(StorageError) {
        if unsafe key.first == Keyspace.history.prefix { return try unsafe snapshot().read(key, body) }
        let hash = unsafe PendingTable.hash(key)
        for table in state.withLock({ $0.tables }) {
            if let entry = unsafe table.find(key, hash) {
                return withExtendedLifetime(table) { unsafe body(PendingTable.value(of: entry)) }
            }
        }
        // Multiplied by the golden ratio, so that no pattern of reads meets the same choice again and again.
        let count = readCount.value.wrappingAdd(1, ordering: .relaxed).newValue &* 0x9E37_79B9_7F4A_7C15
        let fillsCache = (count >> 32) % RocksDBDatabase.readsPerCacheFill == 0
        try unsafe database.read(key, fillsCache ? database.cacheFillingReadOptions : database.readOptions, body)
    }

    func snapshot() throws(StorageError) -> any EngineSnapshot {
        while true {
            let (views, history) = state.withLock { state in (state.tables.map(\.view), state.history) }
            let tables = RocksDBSnapshot(database)
            // All that the tables may have got meanwhile is in the views, unless the first one was closed, and drained, since.
            guard views[0].table.isBeingDrained.load(ordering: .acquiring) else {
                let snapshot = LoggedSnapshot(views: views, history: history, tables: tables)
                state.withLock { state in
                    if state.snapshots.count >= RocksDBEngine.snapshotsPerSweep, state.snapshots.count.nonzeroBitCount == 1 {
                        state.snapshots.removeAll { $0.object == nil }
                    }
                    state.snapshots.append(Weak(snapshot))
                }
                return snapshot
            }
        }
    }

    // MARK: Writing

    func prepare(_ batch: borrowing WriteBatch, sync: Bool, _ written: (DiskSync) -> Void) throws(StorageError) {
        guard !batch.isEmpty else { return }
        try withWriting { () throws(StorageError) in try prepare(batch, sync, written) }
    }

    /// Only with `writing`.
    private func prepare(_ batch: borrowing WriteBatch, _ sync: Bool, _ written: (DiskSync) -> Void) throws(StorageError) {
        let table = try tableForWriting()
        if let sync = try log.write(batch, sync: sync) { written(sync) }
        prepared = table
        // Of the batches before; where another thread waits for the disk, meanwhile.
        table.sortVisible(ofAtLeast: PendingTable.unsortedEntries)
        unsafe batch.forEach { change in
            switch unsafe change {
            case .put(let key, let value):
                if unsafe HistoryKey.revision(key) == nil { unsafe table.add(key, value) }
            case .remove(let key):
                if unsafe HistoryKey.revision(key) == nil { unsafe table.add(key, nil) }
            }
        }
    }

    func apply(_ batch: borrowing WriteBatch, sync: Bool) throws(StorageError) {
        guard !batch.isEmpty else { return sync ? try self.sync() : () }
        try withWriting { () throws(StorageError) in
            if prepared == nil { try prepare(batch, sync) { _ in } }
            guard let table = prepared.take() else { preconditionFailure("a batch that was just prepared") }
            defer { writing.broadcast() }
            try log.append()
            var history = HistoryView(log, tablesEnd: tablesEnd)
            // Swapped, so that segments nobody needs any more are closed outside.
            state.withLock { state in
                table.publish()
                swap(&state.history, &history)
            }
            // Nothing may follow for long, and scans would sort it again and again.
            table.sortVisible(ofAtLeast: 2 * PendingTable.unsortedEntries)
        }
    }

    func sync() throws(StorageError) { try withWriting { () throws(StorageError) in try log.sync() } }

    private func withWriting<R>(_ body: () throws(StorageError) -> R) throws(StorageError) -> R {
        try writing.withLock { () -> Result<R, StorageError> in
            do throws(StorageError) { return .success(try body()) } catch { return .failure(error) }
        }.get()
    }

    /// The table that takes the next batch; waits where memory would hold too many. Only with `writing`.
    private func tableForWriting() throws(StorageError) -> PendingTable {
        let (table, failure) = state.withLock { ($0.tables[0], $0.failure) }
        if let failure { throw failure }
        guard table.isFull || table.byteCount >= options.writeBufferBytes || log.position >= 2 * options.writeBufferBytes else {
            return table
        }
        try waitUntil { state in state.tables.count - 1 < RocksDBEngine.maximumWaitingTables }
        return try closeTable()
    }

    /// Makes the next table, and hands the one that was written to the drain. Only with `writing`.
    private func closeTable() throws(StorageError) -> PendingTable {
        try log.roll()
        state.withLock { $0.tables[0] }.forgotten = log.forgotten
        let table = PendingTable(number: log.current.number)
        log.forgetSegments(drained: state.withLock { $0.drained })
        let history = HistoryView(log, tablesEnd: tablesEnd)
        state.withLock { state in
            state.tables.insert(table, at: 0)
            state.history = history
        }
        log.removeForgotten()
        if log.spare.isThere { state.withLock { $0.nextSegment = table.number + 1 } }
        drains.withLock {}
        drains.broadcast()
        return table
    }

    private func waitUntil(_ condition: (State) -> Bool) throws(StorageError) {
        let failure = drains.withLock { () -> StorageError? in
            while true {
                let (isMet, failure) = state.withLock { (condition($0), $0.failure) }
                if isMet || failure != nil { return failure }
                drains.wait(atMost: nil)
            }
        }
        if let failure { throw failure }
    }

    // MARK: Draining

    private func drainTables() {
        while let work = nextWork() {
            let table: PendingTable
            switch work {
            case .prepareSegment(let number):
                log.spare.prepare(number)
                continue
            case .drain(let full): table = full
            }
            do throws(StorageError) {
                try writer.requireSound()
                table.isBeingDrained.store(true, ordering: .sequentiallyConsistent)
                try writer.drain(table.view) { isStopping.load(ordering: .relaxed) }
            } catch {
                state.withLock { $0.failure = error }
                drains.withLock {}
                drains.broadcast()
                return
            }
            // What was cancelled is in the log.
            if isStopping.load(ordering: .relaxed) { return }
            state.withLock { state in
                state.tables.removeLast()
                state.drainedTables.removeAll { $0.object == nil }
                state.drainedTables.append(Weak(table))
            }
            loseOldSnapshots()
            // Where that fails the log is kept, and read again on opening.
            let isWritten: Void? = try? LogState(drained: table.number, forgotten: table.forgotten).write(in: directory)
            if isWritten != nil { state.withLock { $0.drained = table.number } }
            drains.withLock {}
            drains.broadcast()
        }
    }

    private func loseOldSnapshots() {
        while true {
            let lost = state.withLock { state -> [LoggedSnapshot] in
                state.snapshots.removeAll { $0.object == nil }
                state.drainedTables.removeAll { $0.object == nil }
                guard state.drainedTables.count > RocksDBEngine.maximumPinnedTables, let oldest = state.drainedTables[0].object else {
                    return []
                }
                return state.snapshots.compactMap(\.object).filter { $0.pins(oldest) }
            }
            if lost.isEmpty { return }
            for snapshot in lost { snapshot.lose() }
        }
    }

    private enum Work {
        /// Make the file ready that this segment is written over.
        case prepareSegment(UInt64)
        /// The oldest table that is full.
        case drain(PendingTable)
    }

    /// What to do next; nil at the end.
    private func nextWork() -> Work? {
        drains.withLock {
            while !isStopping.load(ordering: .relaxed) {
                let (table, segment) = state.withLock { ($0.tables.count > 1 ? $0.tables.last : nil, $0.nextSegment.take()) }
                if let segment { return .prepareSegment(segment) }
                guard let table else {
                    drains.wait(atMost: nil)
                    continue
                }
                // With an error it never gets fewer; who drains will say so.
                guard writer.hasEnough, (try? writer.requireSound()) != nil else { return .drain(table) }
                drains.wait(atMost: RocksDBEngine.pollInterval)
            }
            return nil
        }
    }

    // MARK: The whole

    func checkpoint(to directory: String) throws(StorageError) -> Bool {
        let closed = try withWriting { () throws(StorageError) -> PendingTable? in
            // What was prepared goes to the table that there is.
            while prepared != nil { writing.wait(atMost: nil) }
            let table = state.withLock { $0.tables[0] }
            if !table.isEmpty { _ = try closeTable() }
            return state.withLock { $0.tables.count > 1 ? $0.tables[1] : nil }
        }
        if let closed { try waitUntil { state in !state.tables.contains { $0 === closed } } }
        return try database.checkpoint(to: directory)
    }

    /// What is pending is read from the log on opening, and written out as tables there.
    var bytesNeededToReopen: Int { state.withLock { $0.tables.reduce(0) { $0 + $1.byteCount } } }

    func close() {
        isStopping.store(true, ordering: .relaxed)
        drains.withLock {}
        drains.broadcast()
        thread?.join()
        thread = nil
        log.close()
        database.close()
    }
}
