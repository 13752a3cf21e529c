package import MWStorage
import Synchronization

/// What an in-memory store keeps while it is closed, and the faults that it shall have.
///
/// `stored` is what the platter holds; `buffered` is what only the operating system holds: ``cutPower()`` loses it.
package final class MemoryDisk: Sendable {
    /// What goes wrong from now on.
    package struct Faults: Sendable {
        /// The write after so many good ones fails with this, and each one after it until the faults are lifted.
        package var failWrites: (after: Int, with: StorageError.Code)?
        /// Syncs fail; the batch may or may not have reached the platter.
        package var failSyncs = false
        /// Whether a batch whose sync failed is there after reopening.
        package var keepsUnsynced = false
        /// Runs before each read of a key, whoever reads: what happens meanwhile.
        package var beforeRead: (@Sendable () -> Void)?
        /// Reads fail their checksum.
        package var corruptReads = false
        /// The engine cannot be opened.
        package var failOpens: StorageError.Code?
        /// Runs in the middle of each write, on the thread that writes: a slow disk, or a test that waits.
        package var duringWrite: (@Sendable () -> Void)?
        /// Runs between a write and its sync, on the thread that writes: a disk that takes its time.
        package var duringSync: (@Sendable () -> Void)?
        /// Copies for backups fail.
        package var failCheckpoints: StorageError.Code?
        /// Runs before each copy for a backup.
        package var duringCheckpoint: (@Sendable () -> Void)?

        package init() {}
    }

    struct State {
        var stored = OrderedBytes()
        var buffered = OrderedBytes()
        var faults = Faults()
        var writeCount = 0
        var syncCount = 0
        var openCount = 0
    }

    let state = Mutex(State())

    package init() {}

    package func setFaults(_ faults: Faults) { state.withLock { $0.faults = faults } }
    package func changeFaults(_ change: (inout Faults) -> Void) { state.withLock { change(&$0.faults) } }
    package func liftFaults() { setFaults(Faults()) }
    /// Forgets what was never synced.
    package func cutPower() { state.withLock { $0.buffered = $0.stored } }

    /// Another disk with what this one has, or, after a power cut, would have; without its faults.
    package func copy(afterPowerCut: Bool = false) -> MemoryDisk {
        let disk = MemoryDisk()
        let content = state.withLock { afterPowerCut ? $0.stored : $0.buffered }
        disk.state.withLock { state in
            state.stored = content
            state.buffered = content
        }
        return disk
    }

    package var writeCount: Int { state.withLock { $0.writeCount } }
    package var syncCount: Int { state.withLock { $0.syncCount } }
    package var openCount: Int { state.withLock { $0.openCount } }
}

extension StorageEngineFactory {
    /// An engine in memory, for tests: what it stores lives as long as `disk`.
    package static func memory(_ disk: MemoryDisk) -> StorageEngineFactory { memory { _ in disk } }

    /// An engine in memory, for tests: each directory has a disk of its own, as long as the factory lives.
    package static func memory() -> StorageEngineFactory {
        let disks = MemoryDisks()
        return memory { disks[$0] }
    }

    private static func memory(_ disk: @escaping @Sendable (_ directory: String) -> MemoryDisk) -> StorageEngineFactory {
        StorageEngineFactory(
            name: "memory",
            open: { (directory, _) throws(StorageError) in
                let disk = disk(directory)
                let failure = disk.state.withLock { state in
                    state.openCount += 1
                    return state.faults.failOpens
                }
                if let failure { throw StorageError(failure, subject: directory, found: "an injected fault on opening") }
                if let copied = try OrderedBytes(readingFrom: directory) { disk.fill(copied) }
                return MemoryEngine(disk: disk)
            },
            openReadOnly: { (directory, _) throws(StorageError) in
                MemorySnapshot(try OrderedBytes(readingFrom: directory) ?? disk(directory).state.withLock { $0.stored })
            })
    }
}

private final class MemoryDisks: Sendable {
    private let disks = Mutex<[String: MemoryDisk]>([:])

    subscript(directory: String) -> MemoryDisk {
        disks.withLock { disks in
            if let disk = disks[directory] { return disk }
            let disk = MemoryDisk()
            disks[directory] = disk
            return disk
        }
    }
}

extension MemoryDisk {
    /// Unless there is something already.
    fileprivate func fill(_ copied: OrderedBytes) {
        state.withLock { state in
            if state.buffered.isEmpty { (state.stored, state.buffered) = (copied, copied) }
        }
    }
}

private final class MemoryEngine: StorageEngine {
    private struct View {
        var values: OrderedBytes
        var isBroken = false
    }

    private let disk: MemoryDisk
    // What this engine object shows: a batch whose sync failed is not in it, even if the platter has it.
    private let view: Mutex<View>

    init(disk: MemoryDisk) {
        self.disk = disk
        self.view = Mutex(View(values: disk.state.withLock { $0.buffered }))
    }

    var bytesNeededToReopen: Int { 0 }

    func read(_ key: UnsafeRawBufferPointer, _ body: (UnsafeRawBufferPointer?) -> Void) throws(StorageError) {
        let (isCorrupt, beforeRead) = disk.state.withLock { ($0.faults.corruptReads, $0.faults.beforeRead) }
        beforeRead?()
        if isCorrupt {
            throw StorageError(engine: "memory", message: "Corruption: injected", directory: "memory")
        }
        let key = unsafe Array(key)
        unsafe MemorySnapshot.lend(view.withLock { $0.values[key] }, to: body)
    }

    /// Writes nothing, but as a store sees it a batch is on its way from here on.
    func prepare(_ batch: borrowing WriteBatch, sync: Bool, _ written: (DiskSync) -> Void) throws(StorageError) {
        guard sync, !batch.isEmpty else { return }
        disk.state.withLock { $0.faults.duringSync }?()
        written(DiskSync {})
    }

    func apply(_ batch: borrowing WriteBatch, sync: Bool) throws(StorageError) {
        disk.state.withLock { $0.faults.duringWrite }?()
        precondition(!view.withLock { $0.isBroken }, "an engine is not written to after a failure")
        var changes: [(key: [UInt8], value: [UInt8]?)] = []
        unsafe batch.forEach { change in
            switch unsafe change {
            case .put(let key, let value): unsafe changes.append((Array(key), Array(value)))
            case .remove(let key): unsafe changes.append((Array(key), nil))
            }
        }
        let failure = disk.state.withLock { state -> StorageError? in
            state.writeCount += 1
            if let fault = state.faults.failWrites {
                if fault.after == 0 { return StorageError(fault.with, subject: "memory", found: "an injected fault on writing") }
                state.faults.failWrites?.after -= 1
            }
            guard !sync || !state.faults.failSyncs || state.faults.keepsUnsynced else { return Self.failedSync }
            for change in changes { state.buffered[change.key] = change.value }
            if sync, state.faults.failSyncs { return Self.failedSync }
            if sync {
                state.stored = state.buffered
                state.syncCount += 1
            }
            return nil
        }
        view.withLock { view in
            if failure == nil {
                for change in changes { view.values[change.key] = change.value }
            } else {
                view.isBroken = true
            }
        }
        if let failure { throw failure }
    }

    func sync() throws(StorageError) {
        let fails = disk.state.withLock { state in
            if state.faults.failSyncs { return true }
            state.stored = state.buffered
            state.syncCount += 1
            return false
        }
        if fails { throw Self.failedSync }
    }

    func snapshot() throws(StorageError) -> any EngineSnapshot { MemorySnapshot(view.withLock { $0.values }) }

    /// A copy is a file; a disk that holds nothing opens it.
    func checkpoint(to directory: String) throws(StorageError) -> Bool {
        let faults = disk.state.withLock { $0.faults }
        faults.duringCheckpoint?()
        if let code = faults.failCheckpoints { throw StorageError(code, subject: "memory", found: "an injected fault on copying") }
        try view.withLock { $0.values }.write(to: directory)
        return true
    }

    func close() {}

    private static let failedSync = StorageError(.ioError, subject: "memory", found: "an injected fault on syncing")
}

private final class MemorySnapshot: EngineSnapshot {
    private let values: OrderedBytes

    init(_ values: OrderedBytes) { self.values = values }

    func read(_ key: UnsafeRawBufferPointer, _ body: (UnsafeRawBufferPointer?) -> Void) throws(StorageError) {
        unsafe MemorySnapshot.lend(values[Array(key)], to: body)
    }

    func scan(
        _ range: KeyRange, _ direction: ScanDirection, _ body: (UnsafeRawBufferPointer, UnsafeRawBufferPointer) -> Bool
    ) throws(StorageError) {
        values.forEach(from: range.lower, to: range.upper, isBackward: direction == .backward) { key, value in
            unsafe key.withUnsafeBytes { key in unsafe value.withUnsafeBytes { unsafe body(key, $0) } }
        }
    }

    static func lend(_ value: [UInt8]?, to body: (UnsafeRawBufferPointer?) -> Void) {
        guard let value else { return body(nil) }
        unsafe value.withUnsafeBytes { unsafe body($0) }
    }
}
