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
final class SyncThread: Sendable {
    private let lock = ConditionLock()
    private let state = Mutex(State())

    private struct State: Sendable {
        var next: DiskSync?
        var isStopping = false
        var thread: WorkerThread?
    }

    init() throws(StorageError) {
        let thread = try WorkerThread(name: "mw-sync") { self.run() }
        state.withLock { $0.thread = thread }
    }

    /// Starts `sync`, and returns at once.
    func start(_ sync: DiskSync) {
        lock.withLock { state.withLock { $0.next = sync } }
        lock.signal()
    }

    /// Returns when the thread has ended.
    func stop() {
        let thread = lock.withLock {
            state.withLock { state in
                state.isStopping = true
                return state.thread.take()
            }
        }
        lock.signal()
        thread?.join()
    }

    private func run() {
        while let sync = next() { try? sync.run() }
    }

    private func next() -> DiskSync? {
        lock.withLock {
            while true {
                let (next, isStopping) = state.withLock { ($0.next.take(), $0.isStopping) }
                if let next { return next }
                if isStopping { return nil }
                lock.wait(atMost: nil)
            }
        }
    }
}
