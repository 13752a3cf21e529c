import Synchronization

/// The engine of an open store, which can be closed and opened again under its readers after a disk error.
///
/// After a failed write or sync nobody can say what is on disk: the kernel forgets the pages that it failed to write and
/// reports success the next time. The one sound answer is to open the engine anew, which reads back what is there, and to
/// take that for the truth.
final class ReopenableEngine: @unchecked Sendable {
    // Safety: `engine` and `generation` change only within the gate's exclusive section, and are read within the gate, or
    // on the commit thread, which is the only one that changes them.
    private let gate = ReadGate()
    private var engine: (any StorageEngine)?
    private var unavailable: StorageError?
    /// Of the batch that is to be applied next. Commit thread only.
    private var prepared: DiskSync?
    private(set) var generation = 0
    /// Which store it was, and how far it had come, when it was opened first.
    let identity: StoreIdentity

    // Odd while a batch is being applied. The commit thread changes these two.
    private let sequence = Atomic<UInt64>(0)
    private let lastRevision: Atomic<UInt64>

    let factory: StorageEngineFactory
    let directory: DataDirectory
    /// What the engine would say of hot keys, whoever asks and whether it is open or not; nil where there is no such cache.
    ///
    /// Emptied with every engine that goes: what a failed disk holds must be read.
    let hotValues: HotValues?
    private let backup = Mutex<Void>(())
    private let options: EngineOptions

    /// Free space beyond what the engine asks for, in bytes: its manifest, options and first log blocks.
    private static let reopeningMarginBytes = 1 << 20

    init(factory: StorageEngineFactory, directory: DataDirectory, options: EngineOptions) throws(StorageError) {
        self.factory = factory
        self.directory = directory
        self.options = options
        let hotValues = options.hotValueBytes > 0 ? HotValues(capacityBytes: options.hotValueBytes) : nil
        self.hotValues = hotValues
        let engine = try ReopenableEngine.open(factory, directory, options, hotValues)
        do throws(StorageError) {
            let identity = try StoreIdentity.establish(in: engine, of: directory)
            self.identity = identity
            self.lastRevision = Atomic(identity.revision.number)
        } catch {
            engine.close()
            throw error
        }
        self.engine = engine
    }

    /// Runs `body` unless it, or another one, runs already.
    func exclusiveBackup<R>(_ body: (ReopenableEngine) throws(StorageError) -> R) throws(StorageError) -> R {
        var result: Result<R, StorageError>?
        backup.withLockIfAvailable { _ in
            do throws(StorageError) { result = .success(try body(self)) } catch { result = .failure(error) }
        }
        guard let result else {
            throw StorageError(.locked, subject: directory.path, found: "another backup is under way", remedy: "wait for its end")
        }
        return try result.get()
    }

    private static func open(
        _ factory: StorageEngineFactory, _ directory: DataDirectory, _ options: EngineOptions, _ hotValues: HotValues?
    ) throws(StorageError) -> any StorageEngine {
        let engine = try factory.open(directory.engineDirectory, options)
        return hotValues.map { HotEngine(engine, $0) } ?? engine
    }

    /// How far the store has come.
    struct Position: Equatable {
        fileprivate let sequence: UInt64
        /// Its changes, and all before, can be read.
        let revision: Revision
        /// No batch was being applied.
        var isQuiet: Bool { sequence.isMultiple(of: 2) }
    }

    /// Any thread. Where it is quiet, and the same before and after some reads, no batch was applied between these.
    var position: Position {
        let sequence = sequence.load(ordering: .sequentiallyConsistent)
        return Position(sequence: sequence, revision: Revision(lastRevision.load(ordering: .sequentiallyConsistent)))
    }

    /// Runs `body` with the engine, which stays open meanwhile. Must not be nested.
    @inline(__always)
    func withEngine<R>(_ body: (any StorageEngine) throws(StorageError) -> R) throws(StorageError) -> R {
        let slot = gate.enter()
        defer { gate.leave(slot) }
        guard let engine else { throw missing }
        return try body(engine)
    }

    /// Commit thread only: writes `batch`, which is to be applied next.
    ///
    /// - Parameter written: What it waits for then; it may be begun with at once, on any thread. Not called if that is nothing.
    func prepare(_ batch: borrowing WriteBatch, sync: Bool, _ written: (DiskSync) -> Void) throws(StorageError) {
        guard let engine else { throw missing }
        try engine.prepare(batch, sync: sync) { sync in
            prepared = sync
            written(sync)
        }
    }

    /// Commit thread only: applies `batch`, with which the store comes to `revision`.
    func apply(_ batch: borrowing WriteBatch, sync: Bool, revision: Revision) throws(StorageError) {
        guard let engine else { throw missing }
        // Before anything moves: who reads several keys does not read again, and hot values stay, because a disk is slow. Its failure comes
        // from the engine.
        if let sync = prepared.take() { try? sync.run() }
        sequence.add(1, ordering: .sequentiallyConsistent)
        defer { sequence.add(1, ordering: .sequentiallyConsistent) }
        try engine.apply(batch, sync: sync)
        lastRevision.store(revision.number, ordering: .sequentiallyConsistent)
    }

    /// Commit thread only: proves that the disk takes writes, then closes the engine and opens it again.
    ///
    /// Readers wait for the opening. If the proof fails they notice nothing: the old engine still reads.
    func reopen() throws(StorageError) {
        let needed = (engine?.bytesNeededToReopen ?? 0) + ReopenableEngine.reopeningMarginBytes
        try directory.proveWritable(bytes: needed)
        let failure = gate.withExclusiveAccess { () -> StorageError? in
            engine?.close()
            engine = nil
            prepared = nil
            hotValues?.removeAll()
            generation += 1
            do throws(StorageError) {
                let opened = try ReopenableEngine.open(factory, directory, options, hotValues)
                engine = opened
                unavailable = nil
                let revision: UInt64 = try MetaRecord.read(MetaRecord.revisionKey, from: opened) ?? 0
                lastRevision.store(revision, ordering: .sequentiallyConsistent)
            } catch {
                engine?.close()
                engine = nil
                unavailable = error
            }
            return unavailable
        }
        if let failure { throw failure }
    }

    /// Commit thread only, as the last thing: readers get `closed` from now on.
    func close(syncing: Bool) {
        if syncing { try? engine?.sync() }
        gate.withExclusiveAccess {
            engine?.close()
            engine = nil
            hotValues?.removeAll()
            unavailable = nil
        }
        directory.release()
    }

    private var missing: StorageError {
        unavailable ?? StorageError(.closed, subject: "store", found: "already closed")
    }
}
