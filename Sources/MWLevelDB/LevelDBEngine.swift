import CLevelDB
public import MWStorage
import Synchronization

extension StorageEngineFactory {
    /// LevelDB: small, and what mwDB used by default.
    public static var levelDB: StorageEngineFactory {
        StorageEngineFactory(
            name: LevelDBEngine.name,
            open: { (directory, options) throws(StorageError) in try LevelDBEngine(directory: directory, options: options) },
            openReadOnly: { (directory, scratch) throws(StorageError) in
                // LevelDB cannot but write when it opens: give it a copy, in which the tables are links.
                try LevelDBCopy.make(of: directory, in: scratch)
                return try LevelDBSnapshot(LevelDBDatabase(directory: scratch, options: EngineOptions(), creates: false))
            })
    }
}

/// ``StorageEngine`` on LevelDB, through its C interface.
final class LevelDBEngine: StorageEngine {
    static let name = "leveldb"
    private let database: LevelDBDatabase
    private let writeBufferBytes: Int
    private let appliedBytes = Atomic<Int>(0)

    init(directory: String, options: EngineOptions) throws(StorageError) {
        self.database = try LevelDBDatabase(directory: directory, options: options, creates: true)
        self.writeBufferBytes = LevelDBDatabase.writeBufferBytes(options)
    }

    func read(_ key: UnsafeRawBufferPointer, _ body: (UnsafeRawBufferPointer?) -> Void) throws(StorageError) {
        try unsafe database.read(key, database.readOptions, body)
    }

    func apply(_ batch: borrowing WriteBatch, sync: Bool) throws(StorageError) {
        let native = unsafe leveldb_writebatch_create()
        defer { unsafe leveldb_writebatch_destroy(native) }
        unsafe batch.forEach { change in
            switch unsafe change {
            case .put(let key, let value):
                unsafe leveldb_writebatch_put(native, key.characters, key.count, value.characters, value.count)
            case .remove(let key): unsafe leveldb_writebatch_delete(native, key.characters, key.count)
            }
        }
        appliedBytes.add(batch.byteCount, ordering: .relaxed)
        let options = unsafe sync ? database.syncedWriteOptions : database.writeOptions
        try unsafe database.check { unsafe leveldb_write(database.pointer, options, native, $0) }
    }

    /// LevelDB syncs only with a write; an empty one will do.
    func sync() throws(StorageError) {
        try apply(WriteBatch(), sync: true)
    }

    func snapshot() throws(StorageError) -> any EngineSnapshot { LevelDBSnapshot(database) }

    func checkpoint(to directory: String) throws(StorageError) -> Bool { false }

    /// The log that is replayed on opening holds at most two write buffers, and no more than was written.
    var bytesNeededToReopen: Int { min(2 * writeBufferBytes, appliedBytes.load(ordering: .relaxed)) }

    func close() { database.close() }
}

/// LevelDB's map at one moment.
@safe
final class LevelDBSnapshot: EngineSnapshot, @unchecked Sendable {
    // Safety: LevelDB's snapshots and read options may be used from any thread once made.
    private let database: LevelDBDatabase
    private let snapshot: OpaquePointer?
    private let readOptions: OpaquePointer
    private let scanOptions: OpaquePointer

    init(_ database: LevelDBDatabase) {
        self.database = database
        unsafe snapshot = database.makeSnapshot()
        unsafe readOptions = LevelDBDatabase.makeReadOptions()
        unsafe scanOptions = LevelDBDatabase.makeReadOptions()
        unsafe leveldb_readoptions_set_snapshot(readOptions, snapshot)
        unsafe leveldb_readoptions_set_snapshot(scanOptions, snapshot)
        // A scan of everything must not push the hot set out of the cache.
        unsafe leveldb_readoptions_set_fill_cache(scanOptions, 0)
    }

    deinit {
        unsafe leveldb_readoptions_destroy(readOptions)
        unsafe leveldb_readoptions_destroy(scanOptions)
        if let snapshot = unsafe snapshot { unsafe database.release(snapshot) }
    }

    func read(_ key: UnsafeRawBufferPointer, _ body: (UnsafeRawBufferPointer?) -> Void) throws(StorageError) {
        try unsafe database.read(key, readOptions, body)
    }

    func scan(
        _ range: KeyRange, _ direction: ScanDirection, _ body: (UnsafeRawBufferPointer, UnsafeRawBufferPointer) -> Bool
    ) throws(StorageError) {
        guard let iterator = unsafe leveldb_create_iterator(database.pointer, scanOptions) else { return }
        defer { unsafe leveldb_iter_destroy(iterator) }
        unsafe LevelDBSnapshot.seek(iterator, to: range, direction)
        while unsafe leveldb_iter_valid(iterator) != 0 {
            var keyCount = 0
            var valueCount = 0
            let keyStart = unsafe leveldb_iter_key(iterator, &keyCount)
            let valueStart = unsafe leveldb_iter_value(iterator, &valueCount)
            let key = unsafe UnsafeRawBufferPointer(start: keyStart, count: keyCount)
            guard unsafe range.contains(key), unsafe body(key, UnsafeRawBufferPointer(start: valueStart, count: valueCount)) else {
                return
            }
            switch direction {
            case .forward: unsafe leveldb_iter_next(iterator)
            case .backward: unsafe leveldb_iter_prev(iterator)
            }
        }
        try unsafe database.check { unsafe leveldb_iter_get_error(iterator, $0) }
    }

    /// Puts the iterator on the first key of the range in the direction of the scan, or beyond the range.
    private static func seek(_ iterator: OpaquePointer, to range: KeyRange, _ direction: ScanDirection) {
        let bound = direction == .forward ? range.lower : range.upper
        guard let bound else { return unsafe leveldb_iter_seek_to_last(iterator) }
        unsafe bound.span.bytes.withUnsafeBytes { unsafe leveldb_iter_seek(iterator, $0.characters, $0.count) }
        guard direction == .backward else { return }
        // The iterator is on the first key at or after the bound, which is outside; or after the last key.
        if unsafe leveldb_iter_valid(iterator) != 0 {
            unsafe leveldb_iter_prev(iterator)
        } else {
            unsafe leveldb_iter_seek_to_last(iterator)
        }
    }
}

extension UnsafeRawBufferPointer {
    /// The bytes as C calls them.
    var characters: UnsafePointer<CChar>? { unsafe assumingMemoryBound(to: CChar.self).baseAddress }
}
