/// What can be asked for the value of a key.
package protocol EngineReading: AnyObject, Sendable {
    /// Calls `body` once with the value, borrowed for that call, or with nil if the key is absent.
    func read(_ key: UnsafeRawBufferPointer, _ body: (UnsafeRawBufferPointer?) -> Void) throws(StorageError)
}

/// An embedded engine: one ordered map of bytes to bytes, on disk.
///
/// Everything an engine must do, and nothing else: `Storage` adds keyspaces, the commit queue, durability and recovery.
/// All methods may be called from any thread at any time, except that no call may run when `close` does, nor after it.
///
/// An engine may keep ``Keyspace/history`` in another place than the rest: records are put there in ascending order, each once, are removed
/// from the front, and are read in order.
///
/// Every engine runs the suite in `Tests/EngineContract`.
package protocol StorageEngine: EngineReading {
    /// Begins with what ``apply(_:sync:)`` of the same batch ends, which must be the next call that writes: writes the batch, which nobody
    /// sees yet, and hands what is left for stable storage to `written`, before the rest of its work. An engine that cannot does nothing.
    func prepare(_ batch: borrowing WriteBatch, sync: Bool, _ written: (DiskSync) -> Void) throws(StorageError)

    /// Applies all of `batch` or none of it; later operations on a key win over earlier ones.
    ///
    /// With `sync`, returns only once the batch is on stable storage. After it has thrown, no later read of this
    /// engine object sees the batch, but a reopened engine may: the caller must not write again before reopening.
    func apply(_ batch: borrowing WriteBatch, sync: Bool) throws(StorageError)

    /// Brings everything that was applied to stable storage.
    func sync() throws(StorageError)

    /// The map as it is now, unmoved by later writes. Its calls must have ended when `close` is called.
    func snapshot() throws(StorageError) -> any EngineSnapshot

    /// Copies the map as it is now, whole, into `directory`, which does not exist, without holding anybody up: by links to the
    /// files that do not change. Anybody may open the copy afterwards.
    ///
    /// - Returns: false if the engine cannot; then nothing was made.
    func checkpoint(to directory: String) throws(StorageError) -> Bool

    /// How much free space opening the engine again may take (the log that it replays is written out as tables).
    var bytesNeededToReopen: Int { get }

    /// Gives everything back, without waiting for what is not yet on stable storage. Called once.
    func close()
}

extension StorageEngine {
    package func prepare(_ batch: borrowing WriteBatch, sync: Bool, _ written: (DiskSync) -> Void) throws(StorageError) {}
}

/// The engine's map at one moment.
package protocol EngineSnapshot: EngineReading {
    /// Calls `body` with each key and value of `range` in order, borrowed for that call, until it returns false.
    func scan(
        _ range: KeyRange, _ direction: ScanDirection, _ body: (_ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) -> Bool
    ) throws(StorageError)
}

/// How a server is told which engine to use: `.rocksDB` of MWRocksDB, `.levelDB` of MWLevelDB.
public struct StorageEngineFactory: Sendable {
    /// The engine's name, as it is recorded in the data directory.
    package let name: String
    /// Opens the engine in a directory that exists, creating its files if there are none.
    package let open: @Sendable (_ directory: String, _ options: EngineOptions) throws(StorageError) -> any StorageEngine
    /// Opens what somebody else's program left in `directory`, changing nothing there; `scratch` is an empty directory
    /// on which the engine may write, and which the caller removes afterwards.
    package let openReadOnly: @Sendable (_ directory: String, _ scratch: String) throws(StorageError) -> any EngineSnapshot

    package init(
        name: String,
        open: @escaping @Sendable (_ directory: String, _ options: EngineOptions) throws(StorageError) -> any StorageEngine,
        openReadOnly: @escaping @Sendable (_ directory: String, _ scratch: String) throws(StorageError) -> any EngineSnapshot
    ) {
        self.name = name
        self.open = open
        self.openReadOnly = openReadOnly
    }
}

/// What every engine can be tuned by.
package struct EngineOptions: Sendable {
    /// Memory for what an engine keeps of its files: indexes, filters, and blocks that are read often. A quarter of a small server's.
    package var cacheBytes = 256 << 20
    /// Whether an engine keeps the index and the filter of every open table in memory, beyond `cacheBytes` if they must be: a few bytes a
    /// key. Where they do not fit, each read would load and check megabytes of them again.
    package var keepsIndexesInMemory = true
    /// Memory for values as they were last put or read, in front of the engine and its blocks; 0 is none.
    package var hotValueBytes = 64 << 20
    /// Memory for writes before they become a table; while it does, as much again. Larger means fewer, larger tables and a longer start.
    package var writeBufferBytes = 64 << 20
    /// File descriptors the engine may keep open, so that sockets have the rest of the usual 1,024.
    package var maximumOpenFiles = 256
    /// Size at which the engine's own log of events is renewed, and how many old ones are kept.
    package var informationLogBytes = 4 << 20
    package var informationLogCount = 4

    package init() {}
}
