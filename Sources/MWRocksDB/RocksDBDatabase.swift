import CRocksDB
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
    let writeOptions: OpaquePointer
    let syncedWriteOptions: OpaquePointer
    private let options: OpaquePointer
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
        unsafe writeOptions = rocksdb_writeoptions_create()
        unsafe syncedWriteOptions = rocksdb_writeoptions_create()
        unsafe rocksdb_writeoptions_set_sync(syncedWriteOptions, 1)
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
        unsafe writeOptions = rocksdb_writeoptions_create()
        unsafe syncedWriteOptions = rocksdb_writeoptions_create()
    }

    deinit {
        close()
        unsafe rocksdb_readoptions_destroy(readOptions)
        unsafe rocksdb_readoptions_destroy(cacheFillingReadOptions)
        unsafe rocksdb_writeoptions_destroy(writeOptions)
        unsafe rocksdb_writeoptions_destroy(syncedWriteOptions)
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
