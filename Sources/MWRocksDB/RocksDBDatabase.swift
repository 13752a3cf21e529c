import CRocksDB
import Glibc
import MWStorage
import Synchronization

/// Owns an open database and what goes with it.
@safe
final class RocksDBDatabase: @unchecked Sendable {
    // Safety: RocksDB is thread safe; the pointers do not change until `close`, when nobody uses them (``StorageEngine``);
    // the open snapshots are guarded by the mutex.
    let pointer: OpaquePointer
    let readOptions: OpaquePointer
    let cacheFillingReadOptions: OpaquePointer
    private let options: OpaquePointer
    /// For tables that are made outside: they wait for being merged with others, and are not worth being compressed before.
    let tableOptions: OpaquePointer
    private let directory: String
    private let snapshots = Mutex(OpenSnapshots())

    @safe
    private struct OpenSnapshots: @unchecked Sendable {
        // Safety: guarded by the mutex around it.
        var isClosed = false
        var pointers: Set<OpaquePointer> = unsafe []

        init() {}
    }

    init(directory: String, options engineOptions: EngineOptions) throws(StorageError) {
        let options = unsafe try RocksDBDatabase.makeOptions(engineOptions, directory: directory)
        do throws(StorageError) {
            unsafe pointer = try RocksDBDatabase.opened(directory) { unsafe rocksdb_open(options, directory, $0) }
        } catch {
            unsafe rocksdb_options_destroy(options)
            throw error
        }
        unsafe self.options = options
        self.directory = directory
        unsafe readOptions = RocksDBDatabase.makeReadOptions(fillsCache: false)
        unsafe cacheFillingReadOptions = RocksDBDatabase.makeReadOptions()
        unsafe tableOptions = rocksdb_options_create_copy(options)
        unsafe rocksdb_options_set_compression(tableOptions, CInt(rocksdb_no_compression))
    }

    /// Opens what another program left, and writes nothing into its directory.
    init(readOnly directory: String, eventLogsIn scratch: String) throws(StorageError) {
        guard let options = unsafe rocksdb_options_create() else { fatalError("out of memory") }
        unsafe rocksdb_options_set_paranoid_checks(options, 1)
        unsafe rocksdb_options_set_db_log_dir(options, scratch)
        unsafe rocksdb_options_set_wal_recovery_mode(options, CInt(rocksdb_tolerate_corrupted_tail_records_recovery))
        do throws(StorageError) {
            unsafe pointer = try RocksDBDatabase.opened(directory) {
                unsafe rocksdb_open_for_read_only(options, directory, 0, $0)
            }
        } catch {
            unsafe rocksdb_options_destroy(options)
            throw error
        }
        unsafe self.options = options
        self.directory = directory
        unsafe readOptions = RocksDBDatabase.makeReadOptions(fillsCache: false)
        unsafe cacheFillingReadOptions = RocksDBDatabase.makeReadOptions()
        unsafe tableOptions = rocksdb_options_create_copy(options)
    }

    deinit {
        close()
        unsafe rocksdb_readoptions_destroy(readOptions)
        unsafe rocksdb_readoptions_destroy(cacheFillingReadOptions)
        unsafe rocksdb_options_destroy(tableOptions)
        unsafe rocksdb_options_destroy(options)
    }

    func close() {
        let isFirst = snapshots.withLock { state in
            if state.isClosed { return false }
            unsafe state.pointers.forEach { unsafe rocksdb_release_snapshot(pointer, $0) }
            unsafe state.pointers.removeAll()
            state.isClosed = true
            return true
        }
        guard isFirst else { return }
        unsafe rocksdb_cancel_all_background_work(pointer, 1)
        unsafe rocksdb_close(pointer)
    }

    func read(
        _ key: UnsafeRawBufferPointer, _ options: OpaquePointer, _ body: (UnsafeRawBufferPointer?) -> Void
    ) throws(StorageError) {
        let start = unsafe key.assumingMemoryBound(to: CChar.self).baseAddress
        let pinned = unsafe try check { unsafe rocksdb_get_pinned(pointer, options, start, key.count, $0) }
        guard let pinned = unsafe pinned else { return body(nil) }
        defer { unsafe rocksdb_pinnableslice_destroy(pinned) }
        var count = 0
        let value = unsafe rocksdb_pinnableslice_value(pinned, &count)
        unsafe body(UnsafeRawBufferPointer(start: value, count: count))
    }

    /// How many tables there are that have not been merged into the sorted levels.
    var unsortedTableCount: Int {
        guard let text = unsafe rocksdb_property_value(pointer, "rocksdb.num-files-at-level0") else { return 0 }
        defer { unsafe rocksdb_free(text) }
        return Int(unsafe String(cString: text)) ?? 0
    }

    /// Whether a flush or a merge has failed since it was opened.
    var hasBackgroundErrors: Bool {
        var count: UInt64 = 0
        return unsafe rocksdb_property_int(pointer, "rocksdb.background-errors", &count) == 0 && count > 0
    }

    /// Takes tables that were made outside (``TableFile``) in, all at once, as the newest; no two of them overlap. Their files go.
    func takeIn(_ paths: [String]) throws(StorageError) {
        let options = unsafe rocksdb_ingestexternalfileoptions_create()
        defer { unsafe rocksdb_ingestexternalfileoptions_destroy(options) }
        unsafe rocksdb_ingestexternalfileoptions_set_move_files(options, 1)
        let names = unsafe paths.map { unsafe strdup($0) }
        defer { unsafe names.forEach { unsafe free($0) } }
        let pointers = unsafe names.map { unsafe UnsafePointer($0) }
        try unsafe check { error in
            unsafe pointers.withUnsafeBufferPointer { names in
                unsafe rocksdb_ingest_external_file(pointer, names.baseAddress, names.count, options, error)
            }
        }
    }

    func checkpoint(to directory: String) throws(StorageError) -> Bool {
        let checkpoint = unsafe try check { unsafe rocksdb_checkpoint_object_create(pointer, $0) }
        guard let checkpoint = unsafe checkpoint else { return false }
        defer { unsafe rocksdb_checkpoint_object_destroy(checkpoint) }
        // 0: what is in memory becomes a table, whatever the size of the log.
        try unsafe check { unsafe rocksdb_checkpoint_create(checkpoint, directory, 0, $0) }
        return true
    }

    /// The last revision of history that the tables have, of a program that had no log; zero if there is none.
    ///
    /// - Parameter forgotten: What is up to this revision may go, and does when there is nothing else.
    func endOfHistory(forgotten: UInt64) throws(StorageError) -> UInt64 {
        var end: UInt64 = 0
        let range = KeyRange(prefix: [Keyspace.history.prefix])
        try unsafe RocksDBSnapshot(self).scan(range, .backward) { key, _ in
            end = unsafe HistoryKey.revision(key) ?? 0
            return false
        }
        guard end > 0, end <= forgotten, let upper = range.upper else { return end }
        let batch = unsafe rocksdb_writebatch_create()
        defer { unsafe rocksdb_writebatch_destroy(batch) }
        unsafe RocksDBDatabase.withChars(range.lower) { lower in
            unsafe RocksDBDatabase.withChars(upper) { upper in
                unsafe rocksdb_writebatch_delete_range(batch, lower.baseAddress, lower.count, upper.baseAddress, upper.count)
            }
        }
        let options = unsafe rocksdb_writeoptions_create()
        defer { unsafe rocksdb_writeoptions_destroy(options) }
        try unsafe check { unsafe rocksdb_write(pointer, options, batch, $0) }
        return 0
    }

    private static func withChars(_ bytes: [UInt8], _ body: (UnsafeBufferPointer<CChar>) -> Void) {
        unsafe bytes.withUnsafeBytes { unsafe body($0.assumingMemoryBound(to: CChar.self)) }
    }

    // MARK: Snapshots

    func makeSnapshot() -> OpaquePointer? {
        unsafe snapshots.withLock { state in
            guard !state.isClosed, let snapshot = unsafe rocksdb_create_snapshot(pointer) else { return nil }
            unsafe state.pointers.insert(snapshot)
            return unsafe snapshot
        }
    }

    func release(_ snapshot: OpaquePointer) {
        snapshots.withLock { state in
            if unsafe state.pointers.remove(snapshot) != nil { unsafe rocksdb_release_snapshot(pointer, snapshot) }
        }
    }

    // MARK: Errors

    private static func opened(
        _ directory: String, _ open: (UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>) -> OpaquePointer?
    ) throws(StorageError) -> OpaquePointer {
        guard let pointer = unsafe try check(directory, open) else {
            throw StorageError(engine: "RocksDB", message: "no database and no reason", directory: directory)
        }
        return unsafe pointer
    }

    /// Runs a call that reports failure through a C string.
    func check<R>(_ body: (UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>) -> R) throws(StorageError) -> R {
        try unsafe RocksDBDatabase.check(directory, body)
    }

    static func check<R>(
        _ directory: String, _ body: (UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>) -> R
    ) throws(StorageError) -> R {
        var message: UnsafeMutablePointer<CChar>?
        let result = unsafe body(&message)
        guard let message = unsafe message else { return result }
        defer { unsafe rocksdb_free(message) }
        throw unsafe StorageError(engine: "RocksDB", message: String(cString: message), directory: directory)
    }
}
