import Logging
import MWPKI
import MWProtocol
import MWTLS
import MWWebSocket
import NIOCore
import Synchronization

/// The client's shell on its event loop: it asks the machines what to do, and does it. Everything here runs on that loop.
///
/// The rules live in ``CallTableStateMachine`` (what becomes of a call), ``ReconnectionStateMachine`` (where and when to connect) and, per
/// connection, ``SessionHandler`` (WebSocket, keep-alive, closing).
final class ClientEngine {
    /// What other threads may see of it.
    final class Shared: Sendable {
        let events: Broadcast<ConnectionEvent>
        let reloads: Broadcast<Reload>
        let counters = Mutex(ClientCounters())

        init(queue: StorageClientConfiguration.Queue) {
            self.events = Broadcast(.bufferingNewest(queue.maximumEvents))
            self.reloads = Broadcast(.bufferingOldest(queue.maximumReloads))
        }
    }

    private struct PendingCall {
        let request: Request
        let continuation: CheckedContinuation<Answer, any Error>
    }

    private enum Phase {
        case idle
        case running
        /// Calls that were made may finish; then the closing handshake.
        case draining
        case closingHandshake
        case ended(ClientError)
    }

    private let configuration: StorageClientConfiguration
    private let logger: Logger
    private let eventLoop: any EventLoop
    private let inbox: CallInbox
    private let shared: Shared
    private let connector: ClientConnector
    private var random = SystemRandomNumberGenerator()

    private var phase = Phase.idle
    private var table: CallTableStateMachine
    private var reconnection: ReconnectionStateMachine
    private var pending: [CallID: PendingCall] = [:]
    private var attempt: ConnectionAttempt?
    private var session: SessionHandler?
    private var lastError: ClientError?
    private var wasConnected = false
    private var counters = ClientCounters()

    private var waitTimer: Scheduled<Void>?
    private var stabilityTimer: Scheduled<Void>?
    private var drainTimer: Scheduled<Void>?
    private var deadlineTimer: (at: NIODeadline, task: Scheduled<Void>)?
    private var runContinuation: CheckedContinuation<Void, any Error>?
    private var endObservers: [() -> Void] = []

    init(
        configuration: StorageClientConfiguration, logger: Logger, eventLoop: any EventLoop, inbox: CallInbox, shared: Shared
    ) {
        self.configuration = configuration
        self.logger = logger
        self.eventLoop = eventLoop
        self.inbox = inbox
        self.shared = shared
        self.connector = ClientConnector(configuration: configuration, eventLoop: eventLoop)
        let reconnection = configuration.reconnection
        self.table = CallTableStateMachine(
            limits: .init(configuration),
            budget: RetryBudget(
                percent: reconnection.retryPercent, reserve: reconnection.retryReserve, capacity: configuration.limits.requestsInFlight))
        self.reconnection = ReconnectionStateMachine(
            endpointCount: configuration.endpoints.count, policy: ReconnectionPolicy(reconnection))
    }

    private var now: NIODeadline { self.eventLoop.now }

    // MARK: Life

    func start(_ continuation: CheckedContinuation<Void, any Error>) {
        switch self.phase {
        case .idle:
            self.phase = .running
            self.runContinuation = continuation
            self.connect(to: self.reconnection.started(using: &self.random))
        case .ended(let error) where error.code == .closed:
            continuation.resume()
        case .ended(let error):
            continuation.resume(throwing: error)
        case .running, .draining, .closingHandshake:
            continuation.resume(throwing: ClientError(.invalidArgument, subject: "client", what: "runs already; call run() once"))
        }
    }

    func close(letCallsFinish: Bool) {
        switch self.phase {
        case .ended: return
        case .closingHandshake:
            if !letCallsFinish { self.session?.abort() }
            return
        case .idle, .running, .draining: break
        }
        guard self.session != nil else { return self.end(with: nil) }
        self.phase = .draining
        if self.table.isIdle || !letCallsFinish { return self.beginClosingHandshake() }
        guard self.drainTimer == nil else { return }
        self.drainTimer = self.schedule(in: self.configuration.timeouts.drain) { $0.drainElapsed() }
    }

    /// Calls `observer` once the client has ended.
    func whenEnded(_ observer: @escaping () -> Void) {
        if case .ended = self.phase { observer() } else { self.endObservers.append(observer) }
    }

    private func drainElapsed() {
        guard case .draining = self.phase else { return }
        self.beginClosingHandshake()
    }

    private func beginClosingHandshake() {
        self.phase = .closingHandshake
        for ended in self.table.clientEnded() { self.fail(ended, because: Self.closedByUser) }
        self.publishCounters()
        self.session?.close()
    }

    private func end(with error: ClientError?) {
        self.phase = .ended(error ?? Self.closedByUser)
        self.reconnection.closed()
        for timer in [self.waitTimer, self.stabilityTimer, self.drainTimer, self.deadlineTimer?.task] { timer?.cancel() }
        self.attempt?.cancel()
        self.attempt = nil
        self.submissionsArrived()  // what is in the inbox fails too
        for ended in self.table.clientEnded() { self.fail(ended, because: error ?? Self.closedByUser) }
        self.publishCounters()
        if let error { self.shared.events.send(.gaveUp(error)) }
        self.shared.events.finish()
        self.shared.reloads.finish()
        if let error { self.runContinuation?.resume(throwing: error) } else { self.runContinuation?.resume() }
        self.runContinuation = nil
        let observers = self.endObservers
        self.endObservers = []
        for observer in observers { observer() }
    }

    private static let closedByUser = ClientError(.closed, subject: "client", what: "was closed")

    // MARK: Calls

    /// Something is in the inbox: takes all of it, then sends what can be sent in one write.
    func submissionsArrived() {
        for submission in self.inbox.drain() {
            switch submission {
            case .call(let id, let request, let deadline, let continuation):
                self.submit(id, PendingCall(request: request, continuation: continuation), deadline: deadline)
            case .cancel(let id):
                if let ended = self.table.cancelled(id) { self.fail(ended, because: nil) }
            }
        }
        self.sendQueued()
        self.finishDrainIfIdle()
        self.publishCounters()
    }

    private func submit(_ id: CallID, _ call: PendingCall, deadline: NIODeadline) {
        self.counters.calls += 1
        switch self.phase {
        case .idle, .running: break
        case .draining, .closingHandshake: return self.finish(call, .failure(Self.closedByUser))
        case .ended(let error): return self.finish(call, .failure(error))
        }
        let action = self.table.submitted(
            id, effect: call.request.effect, bytes: call.request.bytes.readableBytes, deadline: deadline, now: self.now)
        switch action {
        case .queued:
            self.pending[id] = call
            self.armDeadlineTimer(deadline)
        case .refuseQueueFull:
            self.finish(
                call,
                .failure(
                    ClientError(
                        .queueFull, subject: "\(call.request.type)", what: "too many calls wait for a connection",
                        found: "\(self.table.queuedCalls) calls of \(self.table.queuedBytes) bytes", remedy: "ask again later",
                        underlying: self.lastError)))
        case .refuseExpired:
            self.finish(call, .failure(ClientError(.deadlineExceeded, subject: "\(call.request.type)", what: "was made past its deadline")))
        }
    }

    private func sendQueued() {
        guard let session = self.session else { return }
        switch self.phase {
        case .running, .draining: break
        case .idle, .closingHandshake, .ended: return
        }
        while session.canSend, let (id, requestID) = self.table.nextToSend() {
            guard let call = self.pending[id] else { continue }
            session.send(call.request, id: requestID)
        }
        session.flush()
    }

    private func armDeadlineTimer(_ deadline: NIODeadline) {
        if let timer = self.deadlineTimer {
            guard deadline < timer.at else { return }
            timer.task.cancel()
        }
        // A coarse tick: each costs a walk over all calls, and many that end together share one.
        let at = max(deadline, self.now + Self.deadlineGranularity)
        self.deadlineTimer = (at, self.schedule(at: at) { $0.deadlineTimerFired() })
    }

    /// How late a deadline may be noticed.
    private static let deadlineGranularity = TimeAmount.milliseconds(2)

    private func deadlineTimerFired() {
        self.deadlineTimer = nil
        for ended in self.table.deadlinesReached(now: self.now) { self.fail(ended, because: self.lastError) }
        if let next = self.table.earliestDeadline { self.armDeadlineTimer(next) }
        self.finishDrainIfIdle()
        self.publishCounters()
    }

    private func fail(_ ended: CallTableStateMachine.Ended, because cause: ClientError?) {
        guard let call = self.pending.removeValue(forKey: ended.call) else { return }
        self.finish(call, .failure(ClientError(ended, type: call.request.type, cause: cause)))
    }

    private func finish(_ call: PendingCall, _ result: Result<Answer, ClientError>) {
        switch result {
        case .success(let answer):
            self.counters.succeeded += 1
            call.continuation.resume(returning: answer)
        case .failure(let error):
            self.counters.failed += 1
            if error.mayHaveTakenEffect { self.counters.outcomeUnknown += 1 }
            call.continuation.resume(throwing: error)
        }
    }

    private func finishDrainIfIdle() {
        if case .draining = self.phase, self.table.isIdle { self.beginClosingHandshake() }
    }

    private func publishCounters() { self.shared.counters.withLock { $0 = self.counters } }

    // MARK: Connections

    private func connect(to index: Int) {
        let endpoint = self.configuration.endpoints[index]
        self.logger.debug("connecting", metadata: ["endpoint": "\(endpoint)"])
        let attempt = self.connector.connect(to: endpoint)
        self.attempt = attempt
        attempt.whenComplete { [weak self] result in
            guard let self, self.attempt === attempt else { return }
            self.attempt = nil
            switch result {
            case .success(let opened): self.established(opened)
            case .failure(let failure): self.attemptFailed(failure)
            }
        }
    }

    private func established(_ opened: OpenedConnection) {
        self.counters.connections += 1
        let stableAfter = self.reconnection.established(now: self.now)
        self.stabilityTimer?.cancel()
        self.stabilityTimer = self.schedule(in: stableAfter) { $0.reconnection.stabilityElapsed(now: $0.now) }
        self.logger.info(
            "connected",
            metadata: [
                "endpoint": "\(opened.endpoint)", "tls": "\(opened.peer.tlsVersion)", "server": "\(opened.peer.leaf.subject)",
                "fingerprint": "\(opened.peer.leaf.sha256)",
            ])
        self.lastError = nil
        self.shared.events.send(self.wasConnected ? .resumed(opened.endpoint) : .connected(opened.endpoint))
        self.wasConnected = true
        let session = SessionHandler(configuration: self.configuration, delegate: self)
        self.session = session
        opened.start(session)
        self.sendQueued()
        self.publishCounters()
    }

    private func attemptFailed(_ failure: ConnectionError) {
        self.counters.failedAttempts += 1
        self.note(failure)
        self.proceed(self.reconnection.attemptFailed(failure.kind, retryAfter: failure.retryAfter, using: &self.random))
    }

    private func note(_ failure: ConnectionError) {
        self.lastError = failure.error
        self.logger.warning("disconnected", metadata: ["error": "\(failure.error)"])
        self.shared.events.send(.disconnected(failure.error))
    }

    private func proceed(_ action: ReconnectionStateMachine.NextAction) {
        switch action {
        case .connect(let endpoint):
            self.connect(to: endpoint)
        case .wait(let attempt, let after):
            self.shared.events.send(.reconnecting(attempt: attempt, after: after))
            self.waitTimer = self.schedule(in: after) { $0.waitElapsed() }
        case .giveUp:
            self.end(with: self.lastError ?? Self.closedByUser)
        case .none:
            break
        }
        self.publishCounters()
    }

    private func waitElapsed() {
        guard let endpoint = self.reconnection.waitElapsed(using: &self.random) else { return }
        self.connect(to: endpoint)
    }

    private func schedule(in delay: Duration, _ body: @escaping (ClientEngine) -> Void) -> Scheduled<Void> {
        self.schedule(at: self.now + TimeAmount(delay), body)
    }

    private func schedule(at deadline: NIODeadline, _ body: @escaping (ClientEngine) -> Void) -> Scheduled<Void> {
        self.eventLoop.assumeIsolated().scheduleTask(deadline: deadline) { [weak self] in
            if let self { body(self) }
        }
    }
}

// MARK: - What the connection says

extension ClientEngine: SessionDelegate {
    func session(_ session: SessionHandler, received message: ByteBuffer) {
        let reply: MWDBReply
        do {
            reply = try MWDBReply(message: message)
        } catch {
            return session.violated(CloseCode(rawValue: error.closeCode) ?? .protocolError, error.closeReason, error)
        }
        guard let id = reply.id else {
            if case .forceReload(let pairs) = reply { self.reload(pairs) }
            return
        }
        switch self.table.answered(id) {
        case .unknownRequest:
            session.violated(.protocolError, "an answer to nothing that was asked")
        case .drop:
            self.reconnection.requestAnswered()
        case .complete(let call):
            self.reconnection.requestAnswered()
            guard let pending = self.pending.removeValue(forKey: call) else { return }
            self.complete(pending, reply, session)
        }
    }

    private func complete(_ call: PendingCall, _ reply: MWDBReply, _ session: SessionHandler) {
        do {
            if let answer = try Answer(reply, to: call.request.type) { return self.finish(call, .success(answer)) }
        } catch {
            return self.finish(call, .failure(error))
        }
        let error = ClientError(
            .protocolMismatch, subject: "\(call.request.type)", what: "the server answered something else",
            mayHaveTakenEffect: call.request.effect == .once)
        self.finish(call, .failure(error))
        session.violated(.protocolError, "an answer of another kind than its request", error)
    }

    private func reload(_ pairs: MWDBPairs) {
        self.counters.reloads += 1
        let changes = pairs.slices.map { pair in
            Reload.Change(
                key: Array(pair.key.readableBytesView),
                value: pair.value.readableBytes == 0 ? nil : Array(pair.value.readableBytesView))
        }
        self.counters.reloadsDropped += self.shared.reloads.send { Reload(changes: changes, missedBefore: $0) }
    }

    func sessionReadCompleted(_ session: SessionHandler) {
        self.sendQueued()
        self.finishDrainIfIdle()
        self.publishCounters()
    }

    func sessionBecameWritable(_ session: SessionHandler) { self.sendQueued() }

    func sessionEnded(_ session: SessionHandler, _ failure: ConnectionError) {
        guard self.session === session else { return }
        self.session = nil
        self.stabilityTimer?.cancel()
        let (resent, ended) = self.table.connectionLost()
        self.counters.resent += resent
        for call in ended { self.fail(call, because: failure.error) }
        switch self.phase {
        case .draining, .closingHandshake: return self.end(with: nil)
        case .idle, .running, .ended: break
        }
        self.note(failure)
        self.proceed(self.reconnection.connectionLost(failure.kind, retryAfter: failure.retryAfter, using: &self.random))
    }
}

// MARK: - Conversions

extension CallTableStateMachine.Limits {
    init(_ configuration: StorageClientConfiguration) {
        self.init()
        self.maximumInFlight = configuration.limits.requestsInFlight
        self.maximumQueuedCalls = configuration.queue.maximumCalls
        self.maximumQueuedBytes = configuration.queue.maximumBytes
    }
}

extension ReconnectionPolicy {
    init(_ configuration: StorageClientConfiguration.Reconnection) {
        self.init()
        self.base = configuration.base
        self.cap = configuration.cap
        self.stableAfter = configuration.stableAfter
        self.maximumFailedRounds = configuration.maximumFailedRounds
    }
}

extension ClientError {
    /// What a call that ended without an answer throws.
    init(_ ended: CallTableStateMachine.Ended, type: MWDBRequestType, cause: ClientError?) {
        let subject = "\(type)"
        let effect = ended.mayHaveTakenEffect
        let because = cause.map { "\($0)" }
        switch ended.reason {
        case .deadline:
            self.init(
                .deadlineExceeded, subject: subject, what: ended.wasSent ? "was sent and not answered in time" : "was not sent in time",
                found: because, remedy: effect ? Self.askFirst : nil, mayHaveTakenEffect: effect, underlying: cause)
        case .cancelled:
            self.init(
                .cancelled, subject: subject, what: ended.wasSent ? "was cancelled after it was sent" : "was cancelled before it was sent",
                remedy: effect ? Self.askFirst : nil, mayHaveTakenEffect: effect)
        case .connectionLost, .clientEnded:
            if effect {
                self.init(
                    .outcomeUnknown, subject: subject, what: "the connection ended before the answer came", found: because,
                    remedy: Self.askFirst, mayHaveTakenEffect: true, underlying: cause)
            } else if ended.reason == .clientEnded, let cause {
                self = cause
            } else {
                self.init(
                    .connectionLost, subject: subject, what: "the connection ended before the answer came", found: because,
                    remedy: "ask again", underlying: cause)
            }
        }
    }

    private static let askFirst = "it may have been done: read before writing again"
}
