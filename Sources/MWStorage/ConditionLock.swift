import Glibc

/// A lock with one condition, for a thread to sleep on.
@safe
package final class ConditionLock: @unchecked Sendable {
    // Safety: both are used through pthread calls only, at an address that does not move.
    private let mutex: UnsafeMutablePointer<pthread_mutex_t>
    private let condition: UnsafeMutablePointer<pthread_cond_t>

    package init() {
        unsafe mutex = .allocate(capacity: 1)
        unsafe condition = .allocate(capacity: 1)
        unsafe pthread_mutex_init(mutex, nil)
        var attributes = pthread_condattr_t()
        unsafe pthread_condattr_init(&attributes)
        // A step of the wall clock must not delay a recovery.
        unsafe pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
        unsafe pthread_cond_init(condition, &attributes)
        unsafe pthread_condattr_destroy(&attributes)
    }

    deinit {
        unsafe pthread_cond_destroy(condition)
        unsafe pthread_mutex_destroy(mutex)
        unsafe condition.deallocate()
        unsafe mutex.deallocate()
    }

    @inline(__always)
    package func withLock<R>(_ body: () -> R) -> R {
        unsafe pthread_mutex_lock(mutex)
        defer { unsafe pthread_mutex_unlock(mutex) }
        return body()
    }

    /// Wakes the sleeper. May be called without the lock.
    package func signal() { unsafe pthread_cond_signal(condition) }

    /// Wakes all who sleep. May be called without the lock.
    package func broadcast() { unsafe pthread_cond_broadcast(condition) }

    /// Sleeps until a signal, or until `timeout` is over; wakes at times for no reason. Only within `withLock`.
    package func wait(atMost timeout: Duration?) {
        guard let timeout else {
            unsafe pthread_cond_wait(condition, mutex)
            return
        }
        var deadline = timespec()
        unsafe clock_gettime(CLOCK_MONOTONIC, &deadline)
        let nanoseconds = deadline.tv_nsec + Int(timeout.components.attoseconds / 1_000_000_000)
        deadline.tv_sec += Int(timeout.components.seconds) + nanoseconds / 1_000_000_000
        deadline.tv_nsec = nanoseconds % 1_000_000_000
        unsafe pthread_cond_timedwait(condition, mutex, &deadline)
    }
}

/// A thread of our own, joined once.
@safe
package final class WorkerThread: @unchecked Sendable {
    // Safety: written once, before anybody else can see it.
    private let handle: pthread_t

    /// Starts `body` on a new thread; `name` (at most 15 bytes) is what `top -H` shows.
    package init(name: String, _ body: @escaping @Sendable () -> Void) throws(StorageError) {
        final class Start {
            let body: @Sendable () -> Void
            init(_ body: @escaping @Sendable () -> Void) { self.body = body }
        }
        let start = unsafe Unmanaged.passRetained(
            Start {
                // Glibc's own call for this is not visible to Swift.
                let comm = try? FileDescriptor(opening: "/proc/thread-self/comm", O_WRONLY)
                try? comm?.write(Array(name.utf8), subject: name)
                comm?.close()
                body()
            })
        var handle = pthread_t()
        let status = unsafe pthread_create(
            &handle, nil,
            { argument in
                guard let argument = unsafe argument else { return nil }
                let start = unsafe Unmanaged<Start>.fromOpaque(argument).takeRetainedValue()
                start.body()
                return nil
            }, start.toOpaque())
        guard status == 0 else {
            unsafe start.release()
            throw StorageError(
                .ioError, subject: "commit thread", found: "not started, error \(status)",
                remedy: "raise the limit on threads")
        }
        self.handle = handle
    }

    var isCurrent: Bool { pthread_equal(handle, pthread_self()) != 0 }

    /// Waits for the thread's end, or lets it end by itself when called on it. Either this or `detach`, once.
    package func join() {
        if isCurrent { detach() } else { pthread_join(handle, nil) }
    }

    /// Lets the thread end by itself.
    package func detach() { pthread_detach(handle) }
}
