import Glibc
import Synchronization

/// Many readers that never wait for each other, and a rare exclusive section that waits for them all.
///
/// A reader adds one to a counter that it shares with few threads, so that event loops do not fight over a cache line: a
/// few nanoseconds, where a lock would cost more than the rest of a hot read around the engine's own work.
/// A reader must not enter again before it has left: it would wait for a section that waits for it.
@safe
final class ReadGate: @unchecked Sendable {
    // Safety: the counters are atomics, allocated once and freed in deinit.
    private let counters: UnsafeMutablePointer<Atomic<Int>>
    private let isClosed = Atomic<Bool>(false)
    private let exclusive = Mutex<Void>(())

    private static let stripeCount = 16
    /// Two cache lines between counters: the processor fetches lines in pairs.
    private static let stripeStride = 16
    private static let pollInterval = timespec(tv_sec: 0, tv_nsec: 50_000)

    init() {
        let count = ReadGate.stripeCount * ReadGate.stripeStride
        unsafe counters = .allocate(capacity: count)
        for index in 0..<count { unsafe (counters + index).initialize(to: Atomic(0)) }
    }

    deinit {
        unsafe counters.deinitialize(count: ReadGate.stripeCount * ReadGate.stripeStride)
        unsafe counters.deallocate()
    }

    /// Waits while an exclusive section runs. Returns what `leave` needs.
    @inline(__always)
    func enter() -> Int {
        // Threads differ in the address of their control block, often by a power of two: multiply (golden ratio), take the top.
        let slot = Int((UInt64(pthread_self()) &* 0x9E37_79B9_7F4A_7C15) >> 60) * ReadGate.stripeStride
        while true {
            unsafe counters[slot].add(1, ordering: .sequentiallyConsistent)
            if !isClosed.load(ordering: .sequentiallyConsistent) { return slot }
            unsafe counters[slot].subtract(1, ordering: .sequentiallyConsistent)
            exclusive.withLock { _ in }
        }
    }

    @inline(__always)
    func leave(_ slot: Int) { unsafe counters[slot].subtract(1, ordering: .releasing) }

    /// Runs `body` while no reader is inside.
    func withExclusiveAccess<R>(_ body: () -> sending R) -> sending R {
        exclusive.withLock { _ in
            isClosed.store(true, ordering: .sequentiallyConsistent)
            defer { isClosed.store(false, ordering: .sequentiallyConsistent) }
            var isBusy = true
            while isBusy {
                isBusy = false
                for stripe in 0..<ReadGate.stripeCount
                where unsafe counters[stripe * ReadGate.stripeStride].load(ordering: .sequentiallyConsistent) != 0 {
                    isBusy = true
                }
                if isBusy { _ = unsafe withUnsafePointer(to: ReadGate.pollInterval) { unsafe nanosleep($0, nil) } }
            }
            return body()
        }
    }
}
