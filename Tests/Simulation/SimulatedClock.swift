import History
import NIOCore
import NIOEmbedded

// Everything of a simulation happens on one thread, one thing after the other, in the order of one queue:
//
//   timers of clients and servers ─┐
//   bytes that arrive              ├──▶ EmbeddedEventLoop's queue, by time, then by age ──▶ run
//   jobs of tasks (async code)     │
//   commits, faults, what actors do┘
//
// The same seed gives the same queue, so the same run. What could break that: a real clock, a real thread, the system's randomness where it
// decides anything, and the order of Dictionary and Set, which is another in every process unless SWIFT_DETERMINISTIC_HASHING is set.

/// Runs the jobs of tasks on an event loop.
// Safety: used on the event loop's thread only, like the loop itself.
final class SimulationExecutor: TaskExecutor, @unchecked Sendable {
    private let eventLoop: EmbeddedEventLoop

    init(_ eventLoop: EmbeddedEventLoop) { self.eventLoop = eventLoop }

    func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        self.eventLoop.execute { unsafe job.runSynchronously(on: self.asUnownedTaskExecutor()) }
    }
}

/// Time, chance and tasks of one simulation.
// Safety: used on one thread only.
final class SimulatedClock: @unchecked Sendable {
    let eventLoop = EmbeddedEventLoop()
    private let executor: SimulationExecutor
    var random: SeededGenerator
    /// Tasks that have not ended.
    private(set) var runningTasks = 0
    /// What a person reads who wants to know what happened; nil: nobody does.
    var trace: ((String) -> Void)?

    init(seed: UInt64) {
        self.executor = SimulationExecutor(self.eventLoop)
        self.random = SeededGenerator(seed: seed)
    }

    var now: NIODeadline { self.eventLoop.now }
    /// Since the beginning.
    var elapsed: Duration { .nanoseconds(Int64(self.now.uptimeNanoseconds)) }

    func log(_ text: @autoclosure () -> String) {
        guard let trace else { return }
        let milliseconds = Double(self.now.uptimeNanoseconds) / 1e6
        trace("\(milliseconds) ms  \(text())")
    }

    // MARK: Chance

    func chance(_ percent: Int) -> Bool { self.random.chance(percent) }

    func any(_ range: ClosedRange<Int>) -> Int { Int.random(in: range, using: &self.random) }

    /// Mostly near the lower end.
    func delay(_ range: ClosedRange<Int>) -> TimeAmount {
        let microseconds =
            self.chance(80) ? self.any(range.lowerBound...(range.lowerBound + (range.upperBound - range.lowerBound) / 8)) : self.any(range)
        return .microseconds(Int64(microseconds))
    }

    // MARK: Tasks

    /// Runs `body` as a task of the simulation.
    func spawn(_ body: sending @escaping () async -> Void) {
        self.runningTasks += 1
        _ = Task(executorPreference: self.executor) {
            await body()
            self.runningTasks -= 1
        }
    }

    func sleep(_ amount: TimeAmount) async {
        await withCheckedContinuation { continuation in
            self.after(amount) { continuation.resume() }
        }
    }

    @discardableResult
    func after(_ amount: TimeAmount, _ body: @escaping () -> Void) -> Scheduled<Void> {
        self.eventLoop.assumeIsolated().scheduleTask(in: amount, body)
    }

    /// Lets `amount` pass.
    func run(for amount: TimeAmount) { self.eventLoop.advanceTime(by: amount) }
}
