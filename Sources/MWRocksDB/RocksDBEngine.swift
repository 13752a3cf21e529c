import CRocksDB
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

/// ``StorageEngine`` on RocksDB, through its C interface.
final class RocksDBEngine: StorageEngine {
    static let name = "rocksdb"
    private let database: RocksDBDatabase
    private let readCount = ReadCount()

    /// On a line of memory that the pointers do not share: all threads write it.
    private final class ReadCount: Sendable {
        let value = Atomic<UInt64>(0)
    }

    init(directory: String, options: EngineOptions) throws(StorageError) {
        self.database = try RocksDBDatabase(directory: directory, options: options)
    }

    func read(_ key: UnsafeRawBufferPointer, _ body: (UnsafeRawBufferPointer?) -> Void) throws(StorageError) {
        // Multiplied by the golden ratio, so that no pattern of reads meets the same choice again and again.
        let count = readCount.value.wrappingAdd(1, ordering: .relaxed).newValue &* 0x9E37_79B9_7F4A_7C15
        let fillsCache = (count >> 32) % RocksDBDatabase.readsPerCacheFill == 0
        try unsafe database.read(key, fillsCache ? database.cacheFillingReadOptions : database.readOptions, body)
    }

    func apply(_ batch: borrowing WriteBatch, sync: Bool) throws(StorageError) {
        try unsafe batch.withUnsafeBytes { (bytes) throws(StorageError) in
            // `WriteBatch` has RocksDB's own layout: one copy, no call for each operation.
            let start = unsafe bytes.assumingMemoryBound(to: CChar.self).baseAddress
            let native = unsafe rocksdb_writebatch_create_from(start, bytes.count)
            defer { unsafe rocksdb_writebatch_destroy(native) }
            // Else RocksDB counts every comparison of two keys, for this thread, and nobody reads that.
            rocksdb_set_perf_level(CInt(rocksdb_disable))
            let options = unsafe sync ? database.syncedWriteOptions : database.writeOptions
            try unsafe database.check { unsafe rocksdb_write(database.pointer, options, native, $0) }
        }
    }

    func sync() throws(StorageError) {
        try unsafe database.check { unsafe rocksdb_flush_wal(database.pointer, 1, $0) }
    }

    func snapshot() throws(StorageError) -> any EngineSnapshot { RocksDBSnapshot(database) }

    func checkpoint(to directory: String) throws(StorageError) -> Bool {
        let checkpoint = unsafe try database.check { unsafe rocksdb_checkpoint_object_create(database.pointer, $0) }
        guard let checkpoint = unsafe checkpoint else { return false }
        defer { unsafe rocksdb_checkpoint_object_destroy(checkpoint) }
        // 0: what is in memory becomes a table, whatever the size of the log.
        try unsafe database.check { unsafe rocksdb_checkpoint_create(checkpoint, directory, 0, $0) }
        return true
    }

    /// What is in memory is replayed from the log on opening, and written out as tables there.
    var bytesNeededToReopen: Int {
        var bytes: UInt64 = 0
        let status = unsafe rocksdb_property_int(database.pointer, "rocksdb.size-all-mem-tables", &bytes)
        return status == 0 ? Int(clamping: bytes) : 0
    }

    func close() { database.close() }
}

/// RocksDB's map at one moment.
@safe
final class RocksDBSnapshot: EngineSnapshot, @unchecked Sendable {
    // Safety: RocksDB's snapshots and read options may be used from any thread once made.
    private let database: RocksDBDatabase
    private let snapshot: OpaquePointer?
    private let readOptions: OpaquePointer
    private let scanOptions: OpaquePointer

    /// Read ahead of a scan, in bytes: a few blocks, so that a cold scan is not one seek a block.
    private static let readAheadBytes = 256 << 10

    init(_ database: RocksDBDatabase) {
        self.database = database
        unsafe snapshot = database.makeSnapshot()
        unsafe readOptions = RocksDBDatabase.makeReadOptions()
        unsafe scanOptions = RocksDBDatabase.makeReadOptions()
        unsafe rocksdb_readoptions_set_snapshot(readOptions, snapshot)
        unsafe rocksdb_readoptions_set_snapshot(scanOptions, snapshot)
        // A scan of everything must not push the hot set out of the cache.
        unsafe rocksdb_readoptions_set_fill_cache(scanOptions, 0)
        unsafe rocksdb_readoptions_set_readahead_size(scanOptions, RocksDBSnapshot.readAheadBytes)
    }

    deinit {
        unsafe rocksdb_readoptions_destroy(readOptions)
        unsafe rocksdb_readoptions_destroy(scanOptions)
        if let snapshot = unsafe snapshot { unsafe database.release(snapshot) }
    }

    func read(_ key: UnsafeRawBufferPointer, _ body: (UnsafeRawBufferPointer?) -> Void) throws(StorageError) {
        try unsafe database.read(key, readOptions, body)
    }

    func scan(
        _ range: KeyRange, _ direction: ScanDirection, _ body: (UnsafeRawBufferPointer, UnsafeRawBufferPointer) -> Bool
    ) throws(StorageError) {
        guard let iterator = unsafe rocksdb_create_iterator(database.pointer, scanOptions) else { return }
        defer { unsafe rocksdb_iter_destroy(iterator) }
        unsafe RocksDBSnapshot.seek(iterator, to: range, direction)
        while unsafe rocksdb_iter_valid(iterator) != 0 {
            var keyCount = 0
            var valueCount = 0
            let keyStart = unsafe rocksdb_iter_key(iterator, &keyCount)
            let valueStart = unsafe rocksdb_iter_value(iterator, &valueCount)
            let key = unsafe UnsafeRawBufferPointer(start: keyStart, count: keyCount)
            guard unsafe range.contains(key), unsafe body(key, UnsafeRawBufferPointer(start: valueStart, count: valueCount)) else {
                return
            }
            switch direction {
            case .forward: unsafe rocksdb_iter_next(iterator)
            case .backward: unsafe rocksdb_iter_prev(iterator)
            }
        }
        try unsafe database.check { unsafe rocksdb_iter_get_error(iterator, $0) }
    }

    /// Puts the iterator on the first key of the range in the direction of the scan, or beyond the range.
    private static func seek(_ iterator: OpaquePointer, to range: KeyRange, _ direction: ScanDirection) {
        switch direction {
        case .forward:
            unsafe range.lower.span.bytes.withUnsafeBytes { bytes in
                unsafe rocksdb_iter_seek(iterator, bytes.assumingMemoryBound(to: CChar.self).baseAddress, bytes.count)
            }
        case .backward:
            guard let upper = range.upper else { return unsafe rocksdb_iter_seek_to_last(iterator) }
            unsafe upper.span.bytes.withUnsafeBytes { bytes in
                unsafe rocksdb_iter_seek_for_prev(iterator, bytes.assumingMemoryBound(to: CChar.self).baseAddress, bytes.count)
            }
            // The bound itself is outside.
            guard unsafe rocksdb_iter_valid(iterator) != 0 else { return }
            var count = 0
            let start = unsafe rocksdb_iter_key(iterator, &count)
            if unsafe !range.contains(UnsafeRawBufferPointer(start: start, count: count)) { unsafe rocksdb_iter_prev(iterator) }
        }
    }
}
