import Glibc

/// The database that a mwDB of 2016 left: raw keys, and under the key `prefix` the next prefix as decimal text.
///
/// mwDB keeps it in the directory `data` of its storage path; either directory will do. Opened without changing anything
/// there: RocksDB read-only, LevelDB as a copy in which the tables are hard links. No mwDB may be running on it.
package final class LegacyModel: Sendable {
    /// The engine that made it: `rocksdb` or `leveldb`.
    package let engineName: String
    /// The first prefix that no client has had.
    package let nextPrefix: UInt32

    private let snapshot: any EngineSnapshot
    private let scratch: String

    package static let prefixKey = Array("prefix".utf8)

    /// - Parameters:
    ///   - directory: mwDB's storage path, or the `data` directory in it.
    ///   - engines: what it may have been made by.
    ///   - scratchParent: where a directory for the time of the reading is made; on the same file system as `directory`
    ///     the tables are not copied.
    /// - Throws: `notAStore`, `corrupt`, and what the file system says.
    package init(directory: String, engines: [StorageEngineFactory], scratchParent: String) throws(StorageError) {
        let (database, engineName) = try LegacyModel.find(directory)
        guard let factory = engines.first(where: { $0.name == engineName }) else {
            throw StorageError(
                .engineMismatch, subject: database, found: "a database of \(engineName)",
                expected: engines.map(\.name).joined(separator: " or "),
                remedy: "use a build of mwstorage that has the engine")
        }
        self.engineName = engineName
        self.scratch = try FileDescriptor.makeTemporaryDirectory(in: scratchParent)
        do throws(StorageError) {
            self.snapshot = try factory.openReadOnly(database, scratch)
            self.nextPrefix = try LegacyModel.readPrefix(snapshot, directory: database)
        } catch {
            FileDescriptor.removeDirectory(scratch)
            throw error
        }
    }

    deinit { FileDescriptor.removeDirectory(scratch) }

    /// The first keys of `range`, until a page of so many bytes is full; an empty page is the end. The key `prefix` is
    /// among them.
    package func page(_ range: KeyRange, bytes limit: Int = StorageSnapshot.defaultPageBytes) throws(StorageError) -> StorageSnapshot.Page {
        var page: StorageSnapshot.Page = []
        var bytes = 0
        try unsafe snapshot.scan(range, .forward) { key, value in
            unsafe page.append((Array(key), Array(value)))
            bytes += key.count + value.count
            return bytes < limit
        }
        return page
    }

    private static func find(_ directory: String) throws(StorageError) -> (database: String, engineName: String) {
        let outer = try FileDescriptor.names(in: directory)
        if outer.contains("format") {
            throw StorageError(
                .notAStore, subject: directory, found: "a store of this program", expected: "what a mwDB left",
                remedy: "bring it over with `mwstorage export` and `mwstorage import`")
        }
        let database = outer.contains("CURRENT") || !outer.contains("data") ? directory : directory + "/data"
        let names = database == directory ? outer : try FileDescriptor.names(in: database)
        guard names.contains("CURRENT") else {
            throw StorageError(
                .notAStore, subject: directory, found: "no file CURRENT", expected: "a LevelDB or RocksDB database",
                remedy: "name the storage path that mwDB was given, or the directory data in it")
        }
        // Only RocksDB writes these two.
        let isRocksDB = names.contains { $0 == "IDENTITY" || $0.hasPrefix("OPTIONS-") }
        return (database, isRocksDB ? "rocksdb" : "leveldb")
    }

    private static func readPrefix(_ snapshot: any EngineSnapshot, directory: String) throws(StorageError) -> UInt32 {
        var text: String?
        try unsafe prefixKey.span.bytes.withUnsafeBytes { (key) throws(StorageError) in
            try unsafe snapshot.read(key) { text = unsafe $0.map { unsafe String(decoding: $0, as: UTF8.self) } }
        }
        guard let text else { return 0 }
        guard let next = UInt32(text), next <= PrefixCounter.maximum + 1 else {
            throw StorageError(
                .corrupt, subject: directory, found: "under the key prefix something that is not a prefix",
                expected: "a decimal number up to \(PrefixCounter.maximum + 1)", remedy: "restore a backup of the model")
        }
        return next
    }
}
