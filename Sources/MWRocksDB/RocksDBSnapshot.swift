import CRocksDB
import MWStorage

/// RocksDB's tables at one moment.
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
