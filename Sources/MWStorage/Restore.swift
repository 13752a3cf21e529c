// A data directory that is being restored holds, and is no store until `format` is there:
//
//   restoring      empty; made first, removed last: whatever else is there is of a restore that was not finished
//   engine/        the copied files, then with a new incarnation

import Glibc

/// Makes a store of a backup.
package struct Restore: Sendable {
    package let manifest: BackupManifest
    private let backup: String
    private let factory: StorageEngineFactory

    /// What was found in a backup.
    package struct Report: Hashable, Sendable {
        /// The store's: of the backup, or the new one.
        package var incarnation: Incarnation
        /// Of data.
        package var entryCount = 0
        /// Of keys and values of data.
        package var byteCount = 0
    }

    /// Reads the manifest.
    ///
    /// - Throws: `notAStore`, `corrupt`, `formatTooNew`, `engineMismatch`.
    package init(from backup: String, engines: [StorageEngineFactory]) throws(StorageError) {
        let manifest = try BackupManifest(readingFrom: backup)
        guard manifest.format <= DataDirectory.formatVersion else {
            throw StorageError(
                .formatTooNew, subject: backup, found: "a store of format \(manifest.format)",
                expected: "at most \(DataDirectory.formatVersion)", remedy: "restore it with the newer mwstorage that made it")
        }
        guard let factory = engines.first(where: { $0.name == manifest.engineName }) else {
            throw StorageError(
                .engineMismatch, subject: backup, found: "a store of engine \(manifest.engineName)",
                expected: engines.map(\.name).joined(separator: " or "), remedy: "use a build of mwstorage that has the engine")
        }
        self.manifest = manifest
        self.backup = backup
        self.factory = factory
    }

    /// Reads the whole backup, every key and value of it, and changes nothing.
    ///
    /// - Parameter scratchParent: Where an engine that cannot read in place gets room for the time of the reading.
    package func verify(scratchParent: String) throws(StorageError) -> Report {
        try copyFiles(to: nil)
        let scratch = try FileDescriptor.makeTemporaryDirectory(in: scratchParent)
        defer { FileDescriptor.removeDirectory(scratch) }
        return try check(factory.openReadOnly(backup + "/engine", scratch))
    }

    /// Makes the store in `directory`, which must be new or empty, or hold a restore that was not finished.
    ///
    /// The store has a new incarnation; sessions and their outcomes, and the history, stay behind; leases come along. If it
    /// throws, or the process dies, what is in the directory is no store, and the restore can be repeated.
    package func run(into directory: String, incarnation: Incarnation = .random()) throws(StorageError) -> Report {
        let target = try RestoreTarget(directory)
        defer { target.release() }
        try copyFiles(to: target.engineDirectory)
        let engine = try factory.open(target.engineDirectory, .ofCopies)
        var report: Report
        do throws(StorageError) {
            report = try check(engine.snapshot())
            try StoreIdentity.renew(in: engine, as: incarnation, at: manifest.revision)
            report.incarnation = incarnation
        } catch {
            engine.close()
            throw error
        }
        engine.close()
        try target.finish(engineName: factory.name)
        return report
    }

    /// Copies the engine's files, or only reads them if there is no `target`.
    private func copyFiles(to target: String?) throws(StorageError) {
        let source = backup + "/engine"
        let names = Set(try FileDescriptor.names(in: source))
        if let extra = names.subtracting(manifest.files.map(\.name)).min() { throw damaged("file \(extra), which is not of it") }
        for file in manifest.files {
            guard names.contains(file.name) else { throw damaged("no file \(file.name)") }
            let found = try BackupManifest.File(
                file.name, copying: source + "/" + file.name, to: target.map { $0 + "/" + file.name })
            guard found.byteCount == file.byteCount else {
                throw damaged("\(found.byteCount) bytes of \(file.name)", expected: "\(file.byteCount)")
            }
            guard found == file else { throw damaged("file \(file.name), which does not have its checksum") }
        }
        if let target { try FileDescriptor.syncDirectory(target) }
    }

    /// Reads everything, and compares what the store says of itself with the manifest.
    private func check(_ snapshot: any EngineSnapshot) throws(StorageError) -> Report {
        guard let identity = try StoreIdentity(readingFrom: snapshot), identity.incarnation == manifest.incarnation,
            identity.revision == manifest.revision
        else { throw damaged("a store that is not the one of the manifest") }
        var report = Report(incarnation: identity.incarnation)
        var isDamaged = false
        try unsafe snapshot.scan(.all, .forward) { key, value in
            guard unsafe key.first == Keyspace.data.prefix else { return true }
            guard let stored = unsafe StoredValue(decoding: value), stored.revision <= manifest.revision else {
                isDamaged = true
                return false
            }
            report.entryCount += 1
            report.byteCount += unsafe key.count - 1 + stored.bytes.count
            return true
        }
        if isDamaged { throw damaged("a value that is none") }
        return report
    }

    private func damaged(_ found: String, expected: String? = nil) -> StorageError {
        StorageError(
            .corrupt, subject: backup, found: found, expected: expected, remedy: "copy the backup again, or use another one")
    }
}

extension StoreIdentity {
    /// Makes the store in `engine` another one: nobody may take it for the one that was backed up, as what clients know of that one does not
    /// hold here.
    package static func renew(
        in engine: any StorageEngine, as incarnation: Incarnation, at revision: Revision
    ) throws(StorageError) {
        for keyspace in [Keyspace.history, .sessions, .outcomes] { try removeAll(keyspace, in: engine) }
        var batch = WriteBatch()
        try batch.remove(in: .meta, MetaRecord.historyBytesKey)
        // Leases that were granted after the backup are held by somebody: their numbers are not granted again.
        let lastLease: UInt64 = try MetaRecord.read(MetaRecord.lastLeaseKey, from: engine) ?? 0
        batch.putMeta(MetaRecord.lastLeaseKey, lastLease &+ leasesPerIncarnation)
        StoreIdentity(incarnation: incarnation, revision: revision, compacted: revision).store(in: &batch)
        try engine.apply(batch, sync: true)
    }

    /// More than a store grants between two backups.
    private static let leasesPerIncarnation: UInt64 = 1 << 32

    private static func removeAll(_ keyspace: Keyspace, in engine: any StorageEngine) throws(StorageError) {
        let snapshot = try engine.snapshot()
        var batch = WriteBatch()
        var failure: StorageError?
        func apply() {
            do throws(StorageError) { try engine.apply(batch, sync: true) } catch { failure = error }
            batch.removeAll()
        }
        try unsafe snapshot.scan(KeyRange.all.engineRange(in: keyspace), .forward) { key, _ in
            unsafe batch.removeRecord(in: keyspace, key: key.behindKeyspace)
            if batch.byteCount >= StorageSnapshot.defaultPageBytes { apply() }
            return failure == nil
        }
        if failure == nil, !batch.isEmpty { apply() }
        if let failure { throw failure }
    }
}

/// The data directory of a restore, locked until released.
private struct RestoreTarget {
    let path: String
    private let lock: FileDescriptor

    var engineDirectory: String { path + "/engine" }
    private var mark: String { path + "/" + DataDirectory.restoringName }

    init(_ path: String) throws(StorageError) {
        self.path = path
        try FileDescriptor.makeDirectories(path)
        try RestoreTarget.requireFree(path)
        try DataDirectory.requirePrivate(path)
        lock = try DataDirectory.acquireLock(path + "/lock")
        do throws(StorageError) {
            // Again: somebody may have made a store of it before we had the lock.
            try RestoreTarget.requireFree(path)
            try FileDescriptor.replace(path + "/" + DataDirectory.restoringName, with: [])
            FileDescriptor.removeDirectory(path + "/engine")
            try FileDescriptor.makeDirectories(path + "/engine")
        } catch {
            release()
            throw error
        }
    }

    private static func requireFree(_ path: String) throws(StorageError) {
        let names = try FileDescriptor.names(in: path)
        guard !names.contains("format") else {
            throw StorageError(
                .alreadyExists, subject: path, found: "a store", expected: "a new or empty directory",
                remedy: "choose another directory, or move the store away: a restore never replaces one")
        }
        if !names.contains(DataDirectory.restoringName) { try DataDirectory.checkIsOursOrEmpty(path) }
    }

    func finish(engineName: String) throws(StorageError) {
        for name in try FileDescriptor.names(in: engineDirectory) { try FileDescriptor.sync(engineDirectory + "/" + name) }
        try FileDescriptor.syncDirectory(engineDirectory)
        try DataDirectory.writeFormat(of: path, engineName: engineName)
        unsafe unlink(mark)
        try FileDescriptor.syncDirectory(path)
    }

    func release() { DataDirectory.unlock(lock) }
}
