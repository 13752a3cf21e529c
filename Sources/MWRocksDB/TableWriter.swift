import Glibc
import MWStorage

/// Brings what is pending into RocksDB: as sorted tables, made beside the database and taken in whole.
struct TableWriter {
    private let database: RocksDBDatabase
    private let directory: String

    /// What merging two tables may take for a while, in bytes.
    private static let mergingBytes = 128 << 20
    /// Of no name of RocksDB's own.
    private static let filePrefix = "pending"
    /// Entries between two looks whether to go on.
    private static let entriesPerCheck = 1024
    /// Tables that wait to be merged into the sorted levels: with more of them each read of a cold key costs more. RocksDB starts to merge at
    /// ``RocksDBDatabase/mergedTables``, and would slow down writes of its own at 20, of which there are none. Two or three come with each drain.
    private static let maximumWaitingTables = 24

    init(_ database: RocksDBDatabase, directory: String) {
        self.database = database
        self.directory = directory
        // Of one who was killed.
        for name in (try? FileDescriptor.names(in: directory)) ?? [] where name.hasPrefix(TableWriter.filePrefix) {
            unsafe unlink("\(directory)/\(name)")
        }
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
            .ioError, subject: directory, found: "an error of RocksDB's while it merged tables", remedy: "look at LOG there for the reason")
    }

    /// Takes all that is visible into the database, where it is on stable storage when this returns.
    ///
    /// - Parameter isCancelled: Asked now and then; then nothing was taken.
    func drain(_ view: PendingTable.View, isCancelled: () -> Bool = { false }) throws(StorageError) {
        var cursor = PendingCursor([view], .all, .forward)
        var paths: [String] = []
        defer { for path in paths { unsafe unlink(path) } }
        var next = unsafe cursor.next()
        // Clients' keys have one of their own: what the store notes of itself in every commit would have all tables overlap, and every get look
        // into each.
        while let first = unsafe next {
            let path = "\(directory)/\(TableWriter.filePrefix)\(paths.count).sst"
            let table = try TableFile(at: path, database)
            paths.append(path)
            let part = unsafe TableWriter.part(of: first)
            var count = 0
            while let entry = unsafe next, unsafe TableWriter.part(of: entry) == part {
                unsafe try table.append(PendingTable.key(of: entry), PendingTable.value(of: entry))
                unsafe next = cursor.next()
                count += 1
                if count.isMultiple(of: TableWriter.entriesPerCheck), isCancelled() { return }
            }
            try table.finish()
        }
        if !paths.isEmpty { try database.takeIn(paths) }
    }

    /// Which of up to three tables takes a key: of what is in front of clients' keys, of these, of what is behind them.
    private static func part(of entry: UnsafePointer<PendingTable.Entry>) -> Int {
        let keyspace = unsafe PendingTable.key(of: entry).first ?? 0
        return keyspace < Keyspace.data.prefix ? 0 : keyspace == Keyspace.data.prefix ? 1 : 2
    }
}
