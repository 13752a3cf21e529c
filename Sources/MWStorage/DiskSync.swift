import Synchronization

/// What is left to do for a batch, which has been written, to be on stable storage: done once, by whoever is first; the others wait for it.
package final class DiskSync: Sendable {
    private let sync: @Sendable () throws(StorageError) -> Void
    private let result = Mutex<Result<Void, StorageError>?>(nil)

    package init(_ sync: @escaping @Sendable () throws(StorageError) -> Void) { self.sync = sync }

    /// Returns once it is done; throws what it has failed with, each time.
    package func run() throws(StorageError) {
        let result = self.result.withLock { result in
            if let result { return result }
            var made = Result<Void, StorageError>.success(())
            do throws(StorageError) { try sync() } catch { made = .failure(error) }
            result = made
            return made
        }
        try result.get()
    }
}

/// A thread that waits for the disk, so that another one need not: the last sync that it was given, which somebody else may do first.
final class SyncThread: @unchecked Sendable {
    // Safety: guarded by `lock`, but for `thread`, which belongs to who made this.
    private let lock = ConditionLock()
    private var next: DiskSync?
    private var isStopping = false
    private var thread: WorkerThread?

    init() throws(StorageError) { thread = try WorkerThread(name: "mw-sync") { self.run() } }

    /// Starts `sync`, and returns at once.
    func start(_ sync: DiskSync) {
        lock.withLock { next = sync }
        lock.signal()
    }

    /// Returns when the thread has ended.
    func stop() {
        lock.withLock { isStopping = true }
        lock.signal()
        thread.take()?.join()
    }

    private func run() {
        while let sync = nextSync() { try? sync.run() }
    }

    /// Nil at the end.
    private func nextSync() -> DiskSync? {
        lock.withLock {
            while next == nil, !isStopping { lock.wait(atMost: nil) }
            return next.take()
        }
    }
}
