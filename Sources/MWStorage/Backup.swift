import Glibc
import Synchronization

extension Storage {
    /// Makes a backup in `directory`, which must not exist; clients go on meanwhile.
    ///
    /// It is a copy that shares nothing with the store. Blocks its caller; one backup at a time.
    ///
    /// - Parameter secondsSince1970: What time it is, for the manifest.
    /// - Throws: `alreadyExists`, `locked` if another backup is under way, `snapshotLost`, and what disks say. Then nothing is left.
    @discardableResult
    package func backup(to directory: String, at secondsSince1970: Int64) throws(StorageError) -> BackupManifest {
        try engine.exclusiveBackup { (engine) throws(StorageError) in
            let target = try PartialDirectory(directory)
            do throws(StorageError) {
                let manifest = try BackupWriter(engine: engine, target: target.path).write(at: secondsSince1970)
                try target.finish()
                return manifest
            } catch {
                target.abandon()
                throw error
            }
        }
    }
}

/// Fills the directory of a backup.
private struct BackupWriter {
    let engine: ReopenableEngine
    /// Not yet under its name.
    let target: String

    func write(at secondsSince1970: Int64) throws(StorageError) -> BackupManifest {
        let copy = target + "/engine"
        try FileDescriptor.makeDirectories(copy)
        var manifest = BackupManifest(
            format: DataDirectory.formatVersion, engineName: engine.factory.name, incarnation: engine.identity.incarnation,
            revision: .zero, secondsSince1970: secondsSince1970)
        if let checkpoint = try copyCheckpoint(to: copy) {
            (manifest.revision, manifest.files) = checkpoint
        } else {
            (manifest.revision, manifest.files) = try copySnapshot(to: copy)
        }
        manifest.files.sort { $0.name < $1.name }
        try FileDescriptor.syncDirectory(copy)
        try FileDescriptor.replace(target + "/" + BackupManifest.fileName, with: manifest.encoded)
        return manifest
    }

    /// From the engine's own checkpoint, beside the store so that it is made of links; nil if the engine has none.
    private func copyCheckpoint(to copy: String) throws(StorageError) -> (Revision, [BackupManifest.File])? {
        let checkpoint = engine.directory.checkpointDirectory
        FileDescriptor.removeDirectory(checkpoint)
        defer { FileDescriptor.removeDirectory(checkpoint) }
        let isMade = try engine.withEngine { (open) throws(StorageError) in try open.checkpoint(to: checkpoint) }
        guard isMade else { return nil }
        let scratch = try FileDescriptor.makeTemporaryDirectory(in: target)
        defer { FileDescriptor.removeDirectory(scratch) }
        let identity = try StoreIdentity(readingFrom: engine.factory.openReadOnly(checkpoint, scratch))
        guard let identity, identity.incarnation == engine.identity.incarnation else {
            throw StorageError(.corrupt, subject: checkpoint, found: "a checkpoint that is not of this store")
        }
        var files: [BackupManifest.File] = []
        for name in try FileDescriptor.names(in: checkpoint) {
            files.append(try BackupManifest.File(name, copying: checkpoint + "/" + name, to: copy + "/" + name))
        }
        return (identity.revision, files)
    }

    /// Page by page into a new engine.
    private func copySnapshot(to copy: String) throws(StorageError) -> (Revision, [BackupManifest.File]) {
        let snapshot = try StorageSnapshot(of: engine)
        let new = try engine.factory.open(copy, .ofCopies)
        do throws(StorageError) {
            var batch = WriteBatch()
            var lower: [UInt8]? = []
            while let start = lower {
                lower = try snapshot.fill(&batch, from: start)
                try new.apply(batch, sync: true)
                batch.removeAll()
            }
        } catch {
            new.close()
            throw error
        }
        new.close()
        var files: [BackupManifest.File] = []
        for name in try FileDescriptor.names(in: copy) {
            try FileDescriptor.sync(copy + "/" + name)
            files.append(try BackupManifest.File(name, copying: copy + "/" + name, to: nil))
        }
        return (snapshot.revision, files)
    }
}

extension EngineOptions {
    /// For an engine that is only filled, or read once.
    static let ofCopies: EngineOptions = {
        var options = EngineOptions()
        options.cacheBytes = 8 << 20
        options.keepsIndexesInMemory = false
        options.writeBufferBytes = 16 << 20
        return options
    }()
}

/// A directory that gets its name when it is whole. What a death left of an earlier one is removed.
struct PartialDirectory {
    /// Where to fill it.
    let path: String
    private let name: String
    private let lock: FileDescriptor

    /// - Throws: `alreadyExists` if there is something under the name, `locked` if somebody else is filling it.
    init(_ name: String) throws(StorageError) {
        var end = name[...]
        while end.count > 1, end.hasSuffix("/") { end.removeLast() }
        self.name = String(end)
        self.path = self.name + ".partial"
        try PartialDirectory.requireAbsent(self.name)
        try FileDescriptor.makeDirectories(FileDescriptor.parent(of: self.name))
        try FileDescriptor.makeDirectories(path)
        lock = try FileDescriptor(opening: path, O_RDONLY | O_DIRECTORY)
        guard flock(lock.raw, LOCK_EX | LOCK_NB) == 0 else {
            lock.close()
            throw StorageError(.locked, subject: path, found: "another process is writing there", remedy: "choose another name, or wait")
        }
        for left in try FileDescriptor.names(in: path) { FileDescriptor.removeDirectory(path + "/" + left) }
    }

    func finish() throws(StorageError) {
        try FileDescriptor.syncDirectory(path)
        // A rename would replace an empty directory.
        try PartialDirectory.requireAbsent(name)
        guard unsafe rename(path, name) == 0 else { throw StorageError(errno: errno, subject: name) }
        try FileDescriptor.syncDirectory(FileDescriptor.parent(of: name))
        lock.close()
    }

    func abandon() {
        FileDescriptor.removeDirectory(path)
        lock.close()
    }

    private static func requireAbsent(_ name: String) throws(StorageError) {
        var status = stat()
        guard unsafe lstat(name, &status) == 0 else { return }
        throw StorageError(
            .alreadyExists, subject: name, found: "something is there", expected: "nothing",
            remedy: "choose another name: a backup never replaces anything")
    }
}
