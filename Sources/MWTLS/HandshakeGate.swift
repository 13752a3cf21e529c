package import NIOCore

/// Spaces out the handshakes of one event loop, so that a wave of new connections never stalls those that work.
///
/// A full mutual handshake costs a millisecond of CPU in two or three steps. With `elsewhere` they run on other threads, `stepsPerTick` of them
/// at a time, and this loop has nothing to do with them but their bytes; but for one now and then while nobody is served here, which would be
/// kept waiting: to another thread and back costs as much as a third of a step. Without it the gate lets `stepsPerTick` of them run, then
/// the loop's other I/O, then the next ones. First come, first served. Use it on its event loop only.
package final class HandshakeGate {
    enum Admission { case now, later, refused }

    /// What a thread that may take its time is to do. Between its parts, tens of microseconds each, it calls `giveWay`.
    package typealias Step = @Sendable (_ giveWay: () -> Void) -> Void
    /// Runs what it is given, once, on such a thread. It waits since `askedAt`.
    package typealias Elsewhere = (_ askedAt: NIODeadline, _ step: @escaping Step) -> Void

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
    private let elsewhere: Elsewhere?
    private let isQuiet: () -> Bool
    private var hasStepped = false
    private var waiting = CircularBuffer<(handler: TLSHandler, askedAt: NIODeadline)>()
    private var stepsInTick = 0
    private var isTickScheduled = false

    /// - Parameter isQuiet: Whether this loop serves nobody: beside `elsewhere` it then takes a step itself, one at the most before it
    ///   looks at its sockets again.
    package init(
        eventLoop: any EventLoop, stepsPerTick: Int = HandshakeGate.defaultStepsPerTick,
        maximumWaiting: Int = HandshakeGate.defaultMaximumWaiting, elsewhere: Elsewhere? = nil, isQuiet: @escaping () -> Bool = { false }
    ) {
        self.eventLoop = eventLoop
        self.stepsPerTick = max(1, stepsPerTick)
        self.maximumWaiting = maximumWaiting
        self.elsewhere = elsewhere
        self.isQuiet = isQuiet
    }

    /// Connections whose next step waits.
    package var waitingCount: Int { waiting.count }

    /// Asks for one step. After `later` the gate calls `runAdmittedStep()` on `handler` when it is its turn.
    func admit(_ handler: TLSHandler) -> Admission {
        eventLoop.preconditionInEventLoop()
        if let elsewhere {
            if waiting.isEmpty, !hasStepped, isQuiet() {
                hasStepped = true
                // Runs when the sockets that are ready have had their turn.
                eventLoop.assumeIsolated().execute { self.hasStepped = false }
                return .now
            }
            guard waiting.count < maximumWaiting else { return .refused }
            waiting.append((handler, eventLoop.now))
            startSteps(elsewhere)
            return .later
        }
        if waiting.isEmpty, stepsInTick < stepsPerTick {
            stepsInTick += 1
            scheduleTick()
            return .now
        }
        guard waiting.count < maximumWaiting else { return .refused }
        waiting.append((handler, eventLoop.now))
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
        while stepsInTick < stepsPerTick, let (handler, _) = waiting.popFirst() {
            // A connection that ended meanwhile takes no turn.
            if handler.runAdmittedStep() { stepsInTick += 1 }
        }
        if stepsInTick > 0 { scheduleTick() }
    }

    // MARK: Elsewhere

    /// `stepsInTick` counts those that are under way.
    private func startSteps(_ elsewhere: Elsewhere) {
        while stepsInTick < stepsPerTick, let (handler, askedAt) = waiting.popFirst() {
            // A connection that ended meanwhile takes no turn.
            guard let step = handler.takeStep() else { continue }
            stepsInTick += 1
            let here = NIOLoopBound((self, handler), eventLoop: eventLoop)
            elsewhere(askedAt) { giveWay in
                let status = step.run(givingWay: giveWay)
                here.eventLoop.execute {
                    let (gate, handler) = here.value
                    gate.stepsInTick -= 1
                    handler.stepEnded(status)
                    if let elsewhere = gate.elsewhere { gate.startSteps(elsewhere) }
                }
            }
        }
    }
}

extension HandshakeGate {
    /// Lets go of a session where its steps were computed. OpenSSL frees with the locks that steps take too, and on a processor that they
    /// share, a loop would wait for a thread that stands back behind it.
    func retire(_ step: HandshakeStep) {
        guard let elsewhere, step.session.hasBegun else { return }
        // By name: who lets go of it last is not known.
        elsewhere(.distantPast) { _ in step.end() }
    }
}

/// One step of a handshake, on its way to another thread.
///
// Safety: between `TLSHandler.takeStep()` and `TLSHandler.stepEnded(_:)` the handler does not touch the session, and nobody else has it.
final class HandshakeStep: @unchecked Sendable {
    let box: UncheckedBox<TLSSession>
    var session: TLSSession {
        @inline(__always) _read { yield box.value }
        @inline(__always) _modify { yield &box.value }
    }

    init(_ context: TLSContext) { box = UncheckedBox(TLSSession(context: context)) }

    func run(givingWay giveWay: () -> Void) -> TLSSession.HandshakeStatus {
        withoutActuallyEscaping(giveWay) { session.handshake(givingWay: $0) }
    }

    func end() { session.end() }
}
