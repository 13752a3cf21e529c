import CRocksDB
import Glibc
import MWStorage

/// Brings what is pending into RocksDB: as one sorted table, made beside the database and taken in whole.
struct TableWriter {
    private let database: RocksDBDatabase
    private let directory: String
    private let path: String

    /// What merging two tables may take for a while, in bytes.
    private static let mergingBytes = 128 << 20
    /// No name of RocksDB's own.
    private static let fileName = "pending.sst"
    /// Entries between two looks whether to go on.
    private static let entriesPerCheck = 1024
    /// Tables that wait to be merged into the sorted levels: with more of them each read of a cold key costs more. RocksDB starts to merge at
    /// 4 and would slow down writes at 20.
    private static let maximumWaitingTables = 12

    init(_ database: RocksDBDatabase, directory: String) {
        self.database = database
        self.directory = directory
        self.path = directory + "/" + TableWriter.fileName
        // Of one who was killed.
        unsafe unlink(path)
    }

    /// So many tables wait to be merged that another one should wait itself.
    var hasEnough: Bool { database.unsortedTableCount >= TableWriter.maximumWaitingTables }

    /// - Throws: `diskFull`, or `ioError`, if RocksDB has given up merging tables: there would only ever be more of them, and no error otherwise.
    func requireSound() throws(StorageError) {
        guard database.hasBackgroundErrors else { return }
        // RocksDB says that there was an error, not which.
        if FileDescriptor.freeBytes(at: directory).map({ $0 < TableWriter.mergingBytes }) ?? false {
            throw StorageError(errno: ENOSPC, subject: directory)
        }
        throw StorageError(
            .ioError, subject: path, found: "an error of RocksDB's while it merged tables", remedy: "look at LOG beside it for the reason")
    }

    /// Takes all that is visible into the database, where it is on stable storage when this returns.
    ///
    /// - Parameter isCancelled: Asked now and then; then nothing was taken.
    func drain(_ view: PendingTable.View, isCancelled: () -> Bool = { false }) throws(StorageError) {
        var cursor = PendingCursor([view], .all, .forward)
        guard var entry = unsafe cursor.next() else { return }
        defer { unsafe unlink(path) }
        let environment = unsafe rocksdb_envoptions_create()
        defer { unsafe rocksdb_envoptions_destroy(environment) }
        let writer = unsafe rocksdb_sstfilewriter_create(environment, database.tableOptions)
        defer { unsafe rocksdb_sstfilewriter_destroy(writer) }
        try unsafe database.check { unsafe rocksdb_sstfilewriter_open(writer, path, $0) }
        var count = 0
        while true {
            let key = unsafe PendingTable.key(of: entry)
            let keyStart = unsafe key.assumingMemoryBound(to: CChar.self).baseAddress
            try unsafe database.check { error in
                if let value = unsafe PendingTable.value(of: entry) {
                    let valueStart = unsafe value.assumingMemoryBound(to: CChar.self).baseAddress
                    unsafe rocksdb_sstfilewriter_put(writer, keyStart, key.count, valueStart, value.count, error)
                } else {
                    unsafe rocksdb_sstfilewriter_delete(writer, keyStart, key.count, error)
                }
            }
            count += 1
            if count.isMultiple(of: TableWriter.entriesPerCheck), isCancelled() { return }
            guard let next = unsafe cursor.next() else { break }
            unsafe entry = next
        }
        try unsafe database.check { unsafe rocksdb_sstfilewriter_finish(writer, $0) }
        let options = unsafe rocksdb_ingestexternalfileoptions_create()
        defer { unsafe rocksdb_ingestexternalfileoptions_destroy(options) }
        unsafe rocksdb_ingestexternalfileoptions_set_move_files(options, 1)
        try unsafe database.check { error in
            unsafe path.withCString { name in
                var names: [UnsafePointer<CChar>?] = unsafe [name]
                unsafe rocksdb_ingest_external_file(database.pointer, &names, 1, options, error)
            }
        }
    }
}
