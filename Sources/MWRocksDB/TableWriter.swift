import Glibc
import MWStorage

/// Brings what is pending into RocksDB: as sorted tables, made beside the database and taken in whole.
struct TableWriter {
    private let database: RocksDBDatabase
    private let directory: String
    private let makeMemoryFile: @Sendable () -> FileDescriptor?

    /// What merging two tables may take for a while, in bytes.
    private static let mergingBytes = 128 << 20
    /// Of no name of RocksDB's own.
    private static let filePrefix = "pending"
    /// Entries between two looks whether to go on.
    private static let entriesPerCheck = 1024
    /// Tables that wait to be merged into the sorted levels: with more of them each read of a cold key costs more. RocksDB starts to merge at
    /// ``RocksDBDatabase/mergedTables``, and would slow down writes of its own at 20, of which there are none. Two or three come with each drain.
    private static let maximumWaitingTables = 24

    /// - Parameter makeMemoryFile: What a table is made in; nil where there is none, or no memory for it.
    init(_ database: RocksDBDatabase, directory: String, makeMemoryFile: @escaping @Sendable () -> FileDescriptor?) {
        self.database = database
        self.directory = directory
        self.makeMemoryFile = makeMemoryFile
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
        var entries = Entries(view)
        var paths: [String] = []
        defer { for path in paths { unsafe unlink(path) } }
        // Clients' keys have one of their own: what the store notes of itself in every commit would have all tables overlap, and every get look
        // into each.
        while entries.hasNext {
            let path = "\(directory)/\(TableWriter.filePrefix)\(paths.count).sst"
            paths.append(path)
            guard let table = try makeTable(at: path, &entries, isCancelled) else { return }
            try table.writeOut()
        }
        if !paths.isEmpty { try database.takeIn(paths) }
    }

    /// What has not been taken yet; a copy of it is a place to go back to.
    @safe
    private struct Entries {
        private var cursor: PendingCursor
        var next: UnsafePointer<PendingTable.Entry>?

        init(_ view: PendingTable.View) {
            cursor = PendingCursor([view], .all, .forward)
            unsafe next = cursor.next()
        }

        var hasNext: Bool { unsafe next != nil }

        mutating func advance() { unsafe next = cursor.next() }
    }

    /// Nil if it was cancelled.
    private func makeTable(at path: String, _ entries: inout Entries, _ isCancelled: () -> Bool) throws(StorageError) -> TableFile? {
        if let memory = makeMemoryFile() {
            let start = entries
            let table = TableFile(at: path, in: memory, database)
            let isWhole: Bool? = try? fill(table, &entries, isCancelled)
            if let isWhole { return isWhole ? table : nil }
            // A store that cannot have this memory is slower, and goes on.
            entries = start
        }
        let table = TableFile(at: path, in: nil, database)
        return try fill(table, &entries, isCancelled) ? table : nil
    }

    /// Adds the entries that belong into one table; false if that was cancelled.
    private func fill(_ table: TableFile, _ entries: inout Entries, _ isCancelled: () -> Bool) throws(StorageError) -> Bool {
        try table.open()
        let part = unsafe entries.next.map { unsafe TableWriter.part(of: $0) }
        var count = 0
        while let entry = unsafe entries.next, unsafe TableWriter.part(of: entry) == part {
            unsafe try table.append(PendingTable.key(of: entry), PendingTable.value(of: entry))
            entries.advance()
            count += 1
            if count.isMultiple(of: TableWriter.entriesPerCheck), isCancelled() { return false }
        }
        try table.finish()
        return true
    }

    /// Which of up to three tables takes a key: of what is in front of clients' keys, of these, of what is behind them.
    private static func part(of entry: UnsafePointer<PendingTable.Entry>) -> Int {
        let keyspace = unsafe PendingTable.key(of: entry).first ?? 0
        return keyspace < Keyspace.data.prefix ? 0 : keyspace == Keyspace.data.prefix ? 1 : 2
    }
}
