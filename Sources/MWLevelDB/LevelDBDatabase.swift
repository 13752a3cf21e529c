import CLevelDB
import MWStorage
import Synchronization

/// Owns an open database and what goes with it.
@safe
final class LevelDBDatabase: @unchecked Sendable {
    // Safety: LevelDB is thread safe; the pointers do not change until `close`, when nobody uses them (``StorageEngine``);
    // the open snapshots are guarded by the mutex.
    let pointer: OpaquePointer
    let readOptions: OpaquePointer
    let writeOptions: OpaquePointer
    let syncedWriteOptions: OpaquePointer
    private let options: OpaquePointer
    private let cache: OpaquePointer
    private let filter: OpaquePointer
    private let directory: String
    private let snapshots = Mutex(OpenSnapshots())

    @safe
    private struct OpenSnapshots: @unchecked Sendable {
        // Safety: guarded by the mutex around it.
        var isClosed = false
        var pointers: Set<OpaquePointer> = unsafe []

        init() {}
    }

    /// Bits of the filter for each key: 1 % of lookups of absent keys read a block.
    private static let filterBitsPerKey: CInt = 10
    /// Size of a block of a table, in bytes: a few values of 1 KiB.
    private static let blockBytes = 8 << 10
    /// Largest write buffer, in bytes. LevelDB writes one out while it holds all writers up.
    private static let maximumWriteBufferBytes = 16 << 20
    /// Size of a table, in bytes. LevelDB's 2 MiB makes many files, each with a descriptor.
    private static let tableBytes = 8 << 20

    static func writeBufferBytes(_ options: EngineOptions) -> Int { min(options.writeBufferBytes, maximumWriteBufferBytes) }

    init(directory: String, options engineOptions: EngineOptions, creates: Bool) throws(StorageError) {
        unsafe options = leveldb_options_create()
        unsafe cache = leveldb_cache_create_lru(engineOptions.cacheBytes)
        unsafe filter = leveldb_filterpolicy_create_bloom(LevelDBDatabase.filterBitsPerKey)
        unsafe readOptions = LevelDBDatabase.makeReadOptions()
        unsafe writeOptions = leveldb_writeoptions_create()
        unsafe syncedWriteOptions = leveldb_writeoptions_create()
        unsafe leveldb_writeoptions_set_sync(syncedWriteOptions, 1)
        unsafe leveldb_options_set_create_if_missing(options, creates ? 1 : 0)
        // Damage in the log is an error on opening. A torn tail is not damage, paranoid or not.
        unsafe leveldb_options_set_paranoid_checks(options, 1)
        unsafe leveldb_options_set_cache(options, cache)
        unsafe leveldb_options_set_filter_policy(options, filter)
        unsafe leveldb_options_set_block_size(options, LevelDBDatabase.blockBytes)
        unsafe leveldb_options_set_write_buffer_size(options, LevelDBDatabase.writeBufferBytes(engineOptions))
        unsafe leveldb_options_set_max_file_size(options, LevelDBDatabase.tableBytes)
        unsafe leveldb_options_set_max_open_files(options, CInt(clamping: engineOptions.maximumOpenFiles))
        unsafe leveldb_options_set_compression(options, CInt(leveldb_snappy_compression))
        self.directory = directory
        var message: UnsafeMutablePointer<CChar>?
        let opened = unsafe leveldb_open(options, directory, &message)
        guard let opened = unsafe opened else {
            let error = unsafe LevelDBDatabase.error(message, directory)
            unsafe LevelDBDatabase.free([readOptions], [writeOptions, syncedWriteOptions], options, cache, filter)
            throw error
        }
        unsafe pointer = opened
    }

    deinit {
        close()
        unsafe LevelDBDatabase.free([readOptions], [writeOptions, syncedWriteOptions], options, cache, filter)
    }

    private static func free(
        _ read: [OpaquePointer], _ write: [OpaquePointer], _ options: OpaquePointer, _ cache: OpaquePointer, _ filter: OpaquePointer
    ) {
        unsafe read.forEach { unsafe leveldb_readoptions_destroy($0) }
        unsafe write.forEach { unsafe leveldb_writeoptions_destroy($0) }
        unsafe leveldb_options_destroy(options)
        unsafe leveldb_cache_destroy(cache)
        unsafe leveldb_filterpolicy_destroy(filter)
    }

    func close() {
        let isFirst = snapshots.withLock { state in
            if state.isClosed { return false }
            unsafe state.pointers.forEach { unsafe leveldb_release_snapshot(pointer, $0) }
            unsafe state.pointers.removeAll()
            state.isClosed = true
            return true
        }
        if isFirst { unsafe leveldb_close(pointer) }
    }

    static func makeReadOptions() -> OpaquePointer {
        guard let options = unsafe leveldb_readoptions_create() else { fatalError("out of memory") }
        unsafe leveldb_readoptions_set_verify_checksums(options, 1)
        return unsafe options
    }

    func read(
        _ key: UnsafeRawBufferPointer, _ options: OpaquePointer, _ body: (UnsafeRawBufferPointer?) -> Void
    ) throws(StorageError) {
        var count = 0
        let value = unsafe try check { unsafe leveldb_get(pointer, options, key.characters, key.count, &count, $0) }
        guard let value = unsafe value else { return body(nil) }
        defer { unsafe leveldb_free(value) }
        unsafe body(UnsafeRawBufferPointer(start: value, count: count))
    }

    // MARK: Snapshots

    func makeSnapshot() -> OpaquePointer? {
        unsafe snapshots.withLock { state in
            guard !state.isClosed, let snapshot = unsafe leveldb_create_snapshot(pointer) else { return nil }
            unsafe state.pointers.insert(snapshot)
            return unsafe snapshot
        }
    }

    func release(_ snapshot: OpaquePointer) {
        snapshots.withLock { state in
            if unsafe state.pointers.remove(snapshot) != nil { unsafe leveldb_release_snapshot(pointer, snapshot) }
        }
    }

    // MARK: Errors

    /// Runs a call that reports failure through a C string.
    func check<R>(_ body: (UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>) -> R) throws(StorageError) -> R {
        var message: UnsafeMutablePointer<CChar>?
        let result = unsafe body(&message)
        guard unsafe message == nil else { throw unsafe LevelDBDatabase.error(message, directory) }
        return result
    }

    private static func error(_ message: UnsafeMutablePointer<CChar>?, _ directory: String) -> StorageError {
        defer { unsafe leveldb_free(message) }
        let text = unsafe message.map { unsafe String(cString: $0) } ?? "no message"
        return StorageError(engine: "LevelDB", message: text, directory: directory)
    }
}
