// A store on disk:
//
//   DIRECTORY/         mode 0700, as are its parents if we make them
//     format           what this is; replaced atomically; text, lines ended by \n:
//                        mwstorage-store 3        the version of this layout and of what the keyspaces hold
//                        engine rocksdb           which engine made `engine/`
//                        migrating from 1         only while values of that version may be there (``StoreMigration``)
//     lock             locked (flock) while a process has the store open; holds its process id in decimal and \n
//     engine/          the engine's own files, mode 0700
//     checkpoint/      while a backup is being made: links to some of these files
//     acme/            the server's own certificate, where it gets it itself: not of the store, and never touched by it

import Glibc

/// The directory of one store: made or checked, and locked until released.
final class DataDirectory: Sendable {
    let path: String
    private let lock: FileDescriptor
    private let engineName: String
    /// Values without envelopes may be there: run ``StoreMigration``, then ``endMigration()``.
    let isMigrating: Bool

    /// 3: RocksDB's directory has a log of our own beside the tables, without which they are not whole. Otherwise as 2.
    static let formatVersion = 3
    /// The oldest one that is migrated.
    static let oldestFormatVersion = 1
    /// The last one whose values have no envelopes.
    private static let lastWithoutEnvelopes = 1
    private static let migratingLine = "migrating from 1"
    private static let formatMagic = "mwstorage-store"
    private static let maximumFormatBytes = 4096

    /// There while a backup is restored (Restore.swift).
    static let restoringName = "restoring"

    var engineDirectory: String { path + "/engine" }
    /// Where a backup has the engine's checkpoint for a while.
    var checkpointDirectory: String { path + "/checkpoint" }

    /// Opens the store in `path`, or makes one if there is nothing in it.
    init(path: String, engineName: String) throws(StorageError) {
        self.path = path
        self.engineName = engineName
        try FileDescriptor.makeDirectories(path)
        try DataDirectory.checkIsOursOrEmpty(path)
        try DataDirectory.requirePrivate(path)
        self.lock = try DataDirectory.acquireLock(path + "/lock")
        do throws(StorageError) {
            if let format = try FileDescriptor.contents(of: path + "/format", atMost: DataDirectory.maximumFormatBytes) {
                let found = try DataDirectory.check(format, path: path, engineName: engineName)
                self.isMigrating = found.isMigrating
                // Before anything changes: an older program must not take the store for its own.
                if found.version < DataDirectory.formatVersion {
                    try DataDirectory.writeFormat(of: path, engineName: engineName, isMigrating ? DataDirectory.migratingLine + "\n" : "")
                }
            } else {
                self.isMigrating = false
                try DataDirectory.writeFormat(of: path, engineName: engineName)
            }
            // Of a backup that was killed: its links keep every old table of the engine on the disk.
            FileDescriptor.removeDirectory(path + "/checkpoint")
            try FileDescriptor.makeDirectories(engineDirectory)
            try FileDescriptor.syncDirectory(path)
        } catch {
            Self.unlock(lock)
            throw error
        }
    }

    /// Every value has its envelope.
    func endMigration() throws(StorageError) { try DataDirectory.writeFormat(of: path, engineName: engineName) }

    static func writeFormat(of path: String, engineName: String, _ more: String = "") throws(StorageError) {
        try FileDescriptor.replace(path + "/format", with: Array("\(formatMagic) \(formatVersion)\nengine \(engineName)\n\(more)".utf8))
    }

    /// Lets another process open the store. At most once.
    func release() { Self.unlock(lock) }

    /// Unlocked by hand: a child that was forked at this moment, and has not reached its exec, still shares the descriptor and the lock.
    static func unlock(_ lock: FileDescriptor) {
        _ = flock(lock.raw, LOCK_UN)
        lock.close()
    }

    /// Shows that `bytes` more can be written and synced; leaves nothing behind.
    func proveWritable(bytes: Int) throws(StorageError) {
        let probe = path + "/probe"
        defer { _ = unsafe unlink(probe) }
        let file = try FileDescriptor(opening: probe, O_CREAT | O_WRONLY | O_TRUNC, mode: 0o600)
        defer { file.close() }
        try file.allocate(bytes: bytes, subject: path)
        try file.write(Array("mwstorage".utf8), subject: probe)
        try file.sync(subject: probe)
    }

    /// Names that may be there before `format` is: our own, a certificate that was got before the first start, and what file systems put in
    /// their root.
    private static let harmlessNames: Set<String> = ["lock", "format.new", "restoring.new", "probe", "lost+found", "acme"]

    /// Values are not encrypted: only their owner may look.
    ///
    /// A directory that is empty, as of a new volume, and ours becomes private; one that holds a store is as somebody wanted it, and wrong.
    static func requirePrivate(_ path: String) throws(StorageError) {
        var status = stat()
        guard unsafe stat(path, &status) == 0 else { throw StorageError(errno: errno, subject: path) }
        let mode = status.st_mode & 0o7777
        guard mode & 0o077 != 0 else { return }
        if try !FileDescriptor.names(in: path).contains("format"), status.st_uid == geteuid(), unsafe chmod(path, 0o700) == 0 { return }
        throw StorageError(
            .permissionDenied, subject: path, found: "others may enter the data directory (mode 0\(String(mode, radix: 8)))",
            expected: "mode 0700", remedy: "run: chmod 700 \(path)")
    }

    static func checkIsOursOrEmpty(_ path: String) throws(StorageError) {
        let names = try FileDescriptor.names(in: path)
        guard names.contains("format") || !names.contains(restoringName) else {
            throw StorageError(
                .notAStore, subject: path, found: "a restore that was not finished", remedy: "run `mwstorage restore` again")
        }
        guard !names.contains("format"), let stranger = names.first(where: { !harmlessNames.contains($0) }) else { return }
        let isDatabase = names.contains("CURRENT")
        throw StorageError(
            .notAStore, subject: path,
            found: isDatabase
                ? "a LevelDB or RocksDB database that MWStorage did not make" : "files that are not ours, such as \(stranger)",
            expected: "an empty directory or a store",
            remedy: isDatabase
                ? "choose a new data directory and bring the data over with `mwstorage import`" : "choose another data directory")
    }

    /// - Returns: the version that is there, and whether the store has to be migrated.
    private static func check(
        _ format: [UInt8], path: String, engineName: String
    ) throws(StorageError) -> (version: Int, isMigrating: Bool) {
        let lines = String(decoding: format, as: UTF8.self).split(separator: "\n")
        let fields = lines.prefix(2).map { $0.split(separator: " ", omittingEmptySubsequences: false) }
        guard fields.count == 2, fields[0].count == 2, fields[0][0] == formatMagic, let version = Int(fields[0][1]),
            fields[1].count == 2, fields[1][0] == "engine"
        else {
            throw StorageError(
                .notAStore, subject: path + "/format", found: "not a format file of MWStorage",
                expected: "\(formatMagic) \(formatVersion)", remedy: "restore the file from a backup, or choose another data directory")
        }
        guard version <= formatVersion else {
            throw StorageError(
                .formatTooNew, subject: path, found: "store format \(version)", expected: "at most \(formatVersion)",
                remedy: "use the newer mwstorage that made the store, or export it there and import it here")
        }
        guard version >= oldestFormatVersion else {
            throw StorageError(
                .notAStore, subject: path, found: "store format \(version)", expected: "\(oldestFormatVersion) to \(formatVersion)",
                remedy: "restore the format file from a backup, or choose another data directory")
        }
        guard fields[1][1] == engineName else {
            throw StorageError(
                .engineMismatch, subject: path, found: "a store of engine \(fields[1][1])", expected: "\(engineName), as configured",
                remedy: "set the engine to \(fields[1][1]), or export the store with it and import it into a new directory")
        }
        return (version, version <= lastWithoutEnvelopes || lines.dropFirst(2).contains { $0 == migratingLine })
    }

    static func acquireLock(_ path: String) throws(StorageError) -> FileDescriptor {
        let file = try FileDescriptor(opening: path, O_CREAT | O_RDWR, mode: 0o600)
        guard flock(file.raw, LOCK_EX | LOCK_NB) == 0 else {
            let reason = errno
            defer { file.close() }
            guard reason == EWOULDBLOCK else { throw StorageError(errno: reason, subject: path) }
            let bytes = (try? FileDescriptor.contents(of: path, atMost: 32)) ?? []
            let holder = Int(String(decoding: bytes, as: UTF8.self).prefix { $0 != "\n" })
            throw StorageError(
                .locked, subject: path, found: holder.map { "process \($0) has the store open" } ?? "another process has the store open",
                remedy: "stop it first, or choose another data directory")
        }
        do throws(StorageError) {
            try file.truncate(subject: path)
            try file.write(Array("\(getpid())\n".utf8), subject: path)
        } catch  where error.code == .diskFull {
            // The process id is a courtesy: a full disk must not keep a store from being read.
        } catch {
            file.close()
            throw error
        }
        return file
    }
}
