import Dispatch
import NIOCore
import NIOEmbedded

/// The event loop of what is counted: a task costs what it costs on NIO's own loop, its closure and a place in a queue; its clock stands.
///
/// What is scheduled for later, which nothing on the way of a request is, waits on an embedded loop.
// Safety: used on one thread.
final class DirectLoop: EventLoop, @unchecked Sendable {
    let embedded = EmbeddedEventLoop()
    private var tasks: [Ready] = []
    private var running: [Ready] = []

    /// A function in an array by itself would be wrapped, in an allocation of its own.
    private struct Ready {
        let task: () -> Void
    }

    var inEventLoop: Bool { true }
    var now: NIODeadline { .uptimeNanoseconds(1_000_000_000) }

    func execute(_ task: @escaping @Sendable () -> Void) { self.tasks.append(Ready(task: task)) }
    func _executeIsolatedUnsafeUnchecked(_ task: @escaping () -> Void) { self.tasks.append(Ready(task: task)) }

    func submit<T>(_ task: @escaping @Sendable () throws -> T) -> EventLoopFuture<T> { self.embedded.submit(task) }

    func scheduleTask<T>(deadline: NIODeadline, _ task: @escaping @Sendable () throws -> T) -> Scheduled<T> {
        self.embedded.scheduleTask(deadline: deadline, task)
    }

    func scheduleTask<T>(in time: TimeAmount, _ task: @escaping @Sendable () throws -> T) -> Scheduled<T> {
        self.embedded.scheduleTask(in: time, task)
    }

    func shutdownGracefully(queue: DispatchQueue, _ callback: @escaping @Sendable ((any Error)?) -> Void) {
        queue.async { callback(nil) }
    }

    /// Runs what is ready, and what that makes ready.
    func run() {
        while !self.tasks.isEmpty {
            swap(&self.tasks, &self.running)
            // By index: an iterator would hold the array, which could not be emptied in place.
            for index in self.running.indices { self.running[index].task() }
            self.running.removeAll(keepingCapacity: true)
        }
    }

    /// The same with what was scheduled for later.
    func runEverything() {
        for _ in 0..<100 {
            self.run()
            self.embedded.advanceTime(by: .milliseconds(1))
        }
        self.run()
    }
}
