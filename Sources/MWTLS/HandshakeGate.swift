package import NIOCore

/// Spaces out the handshakes of one event loop, so that a wave of new connections never stalls those that work.
///
/// A full mutual handshake costs 1.5 ms of CPU in two or three steps. The gate lets `stepsPerTick` of them run, then the loop's other I/O,
/// then the next ones, first come, first served. Use it on its event loop only.
package final class HandshakeGate {
    enum Admission { case now, later, refused }

    /// Default 1: the longest stall is then one step, half a millisecond.
    package static let defaultStepsPerTick = 1
    /// Default 4096: at 1.5 ms each these take 6 s, and who comes later would run into its deadline anyway.
    package static let defaultMaximumWaiting = 4096
    /// Longer than the loop takes to see that it has no more tasks, so that it looks at its sockets first. NIO runs tasks without a delay
    /// before it returns to its sockets.
    private static let spacing = TimeAmount.microseconds(10)

    private let eventLoop: any EventLoop
    private let stepsPerTick: Int
    private let maximumWaiting: Int
    private var waiting = CircularBuffer<TLSHandler>()
    private var stepsInTick = 0
    private var isTickScheduled = false

    package init(
        eventLoop: any EventLoop, stepsPerTick: Int = HandshakeGate.defaultStepsPerTick,
        maximumWaiting: Int = HandshakeGate.defaultMaximumWaiting
    ) {
        self.eventLoop = eventLoop
        self.stepsPerTick = max(1, stepsPerTick)
        self.maximumWaiting = maximumWaiting
    }

    /// Connections whose next step waits.
    package var waitingCount: Int { waiting.count }

    /// Asks for one step. After `later` the gate calls `runAdmittedStep()` on `handler` when it is its turn.
    func admit(_ handler: TLSHandler) -> Admission {
        eventLoop.preconditionInEventLoop()
        if waiting.isEmpty, stepsInTick < stepsPerTick {
            stepsInTick += 1
            scheduleTick()
            return .now
        }
        guard waiting.count < maximumWaiting else { return .refused }
        waiting.append(handler)
        scheduleTick()
        return .later
    }

    private func scheduleTick() {
        guard !isTickScheduled else { return }
        isTickScheduled = true
        eventLoop.assumeIsolated().scheduleTask(in: Self.spacing) { self.tick() }
    }

    private func tick() {
        isTickScheduled = false
        stepsInTick = 0
        while stepsInTick < stepsPerTick, let handler = waiting.popFirst() {
            // A connection that ended meanwhile takes no turn.
            if handler.runAdmittedStep() { stepsInTick += 1 }
        }
        if stepsInTick > 0 { scheduleTick() }
    }
}
