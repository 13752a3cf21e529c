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
    private(set) var generation = 0

    private let factory: StorageEngineFactory
    private let directory: DataDirectory
    private let options: EngineOptions

    /// Free space beyond what the engine asks for, in bytes: its manifest, options and first log blocks.
    private static let reopeningMarginBytes = 1 << 20

    init(factory: StorageEngineFactory, directory: DataDirectory, options: EngineOptions) throws(StorageError) {
        self.factory = factory
        self.directory = directory
        self.options = options
        self.engine = try factory.open(directory.engineDirectory, options)
    }

    /// Runs `body` with the engine, which stays open meanwhile. Must not be nested.
    @inline(__always)
    func withEngine<R>(_ body: (any StorageEngine) throws(StorageError) -> R) throws(StorageError) -> R {
        let slot = gate.enter()
        defer { gate.leave(slot) }
        guard let engine else { throw missing }
        return try body(engine)
    }

    /// Commit thread only.
    func apply(_ batch: borrowing WriteBatch, sync: Bool) throws(StorageError) {
        guard let engine else { throw missing }
        try engine.apply(batch, sync: sync)
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
            generation += 1
            do throws(StorageError) {
                engine = try factory.open(directory.engineDirectory, options)
                unavailable = nil
            } catch {
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
            unavailable = nil
        }
        directory.release()
    }

    private var missing: StorageError {
        unavailable ?? StorageError(.closed, subject: "store", found: "already closed")
    }
}
