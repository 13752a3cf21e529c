import Logging
import MWPKI
import MWProtocol
import MWTLS
import MWWebSocket
import NIOCore
import NIOPosix
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
            self.events = .keepingNewest(queue.maximumEvents)
            self.reloads = .keepingOldest(queue.maximumReloads, maximumBytes: queue.maximumReloadBytes)
        }
    }

    enum Phase {
        case idle
        case running
        /// Calls that were made may finish; then the closing handshake.
        case draining
        case closingHandshake
        case ended(ClientError)
    }

    let configuration: StorageClientConfiguration
    let clientProtocol: ClientProtocol
    let logger: Logger
    let eventLoop: any EventLoop
    private let inbox: CallInbox
    let shared: Shared
    let connector: any Connector
    var random: any RandomNumberGenerator

    var phase = Phase.idle
    let desk: CallDesk
    /// The watches; armed on every connection.
    let watches = WatchDesk()
    /// What the server says about a whole connection.
    let notices = NoticeDesk()
    var reconnection: ReconnectionStateMachine
    private var attempt: ConnectionAttempt?
    var link: Link?
    var lastLink: UInt64 = 0
    var wasConnected = false
    var endpointIndex = 0

    var identityWatch = IdentityWatch()
    var watchTimer: Scheduled<Void>?
    /// The attempt at a connection that takes over from one that still works.
    var moving: ConnectionAttempt?
    /// Where to move, as the server of the one in use is about to end.
    var relocation: RelocationStateMachine?
    /// It is open, and takes over once nothing is under way on the old one.
    var successor: Link?
    var moveTimer: Scheduled<Void>?

    private var waitTimer: Scheduled<Void>?
    var stabilityTimer: Scheduled<Void>?
    private var drainTimer: Scheduled<Void>?
    private var runContinuation: CheckedContinuation<Void, any Error>?
    private var endObservers: [() -> Void] = []

    init(
        configuration: StorageClientConfiguration, speaking clientProtocol: ClientProtocol, logger: Logger, eventLoop: any EventLoop,
        inbox: CallInbox, shared: Shared, environment: ClientEnvironment = ClientEnvironment()
    ) {
        self.configuration = configuration
        self.clientProtocol = clientProtocol
        self.logger = logger
        self.eventLoop = eventLoop
        self.inbox = inbox
        self.shared = shared
        self.connector = environment.makeConnector(configuration, clientProtocol.subprotocol, eventLoop)
        self.random = environment.random
        let reconnection = configuration.reconnection
        self.desk = CallDesk(
            limits: .init(configuration),
            budget: RetryBudget(
                percent: reconnection.retryPercent, reserve: reconnection.retryReserve, capacity: configuration.limits.requestsInFlight),
            eventLoop: eventLoop, random: environment.random)
        self.reconnection = ReconnectionStateMachine(
            endpointCount: configuration.endpoints.count, policy: ReconnectionPolicy(reconnection))
        self.desk.onExpiry = { [weak self] in self?.callsExpired() }
    }

    var now: NIODeadline { self.eventLoop.now }

    // MARK: Life

    func start(_ continuation: CheckedContinuation<Void, any Error>) {
        switch self.phase {
        case .idle:
            self.phase = .running
            self.runContinuation = continuation
            self.connect(to: self.reconnection.started(using: &self.random))
            self.armIdentityWatch()
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
            if !letCallsFinish { self.link?.session.abort() }
            return
        case .idle, .running, .draining: break
        }
        guard self.link != nil else { return self.end(with: nil) }
        self.phase = .draining
        if self.desk.isIdle || !letCallsFinish { return self.beginClosingHandshake() }
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
        self.forgetSuccessor()
        self.desk.end(because: Self.closedByUser)
        self.closeSession()
        self.watches.end(because: Self.closedByUser)
        self.deliverResults()
        self.link?.session.close()
    }

    func end(with error: ClientError?) {
        self.phase = .ended(error ?? Self.closedByUser)
        self.reconnection.closed()
        for timer in [self.waitTimer, self.stabilityTimer, self.drainTimer, self.watchTimer] { timer?.cancel() }
        self.forgetSuccessor()
        self.attempt?.cancel()
        self.attempt = nil
        self.submissionsArrived()  // what is in the inbox fails too
        self.desk.end(because: error ?? Self.closedByUser)
        self.watches.end(because: error ?? Self.closedByUser)
        self.deliverResults()
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
            case .post(let request, let connection):
                self.post(request, onlyOn: connection)
            case .call(let id, let request, let deadline, let continuation):
                self.desk.submit(
                    id, CallDesk.PendingCall(request: request, continuation: continuation), deadline: deadline, refusal: self.refusal)
            case .cancel(let id):
                self.desk.cancel(id)
            }
        }
        self.sendQueued()
        self.callsEnded()
    }

    /// Why no new call is taken.
    private var refusal: ClientError? {
        switch self.phase {
        case .idle, .running: nil
        case .draining, .closingHandshake: Self.closedByUser
        case .ended(let error): error
        }
    }

    func sendQueued() {
        // What would go over the old connection now waits for the new one.
        guard let link = self.link, link.isReady, self.successor == nil else { return }
        switch self.phase {
        case .running, .draining: break
        case .idle, .closingHandshake, .ended: return
        }
        while link.session.canSend, let next = self.desk.nextToSend() { self.send(next, on: link.session) }
        if case .native = self.clientProtocol { self.askForSession(link.session) }
        link.session.flush()
    }

    /// Bytes of the requests that share a message, about: a message costs the server a header to read and a mask to take off.
    private static let sharedMessageBytes = 64 * 1024

    private func send(_ first: CallDesk.Outgoing, on session: SessionHandler) {
        session.write(expectedBytes: first.request.maximumMessageBytes) { buffer in
            first.request.write(id: first.id, first.write, to: &buffer)
            guard case .native = self.clientProtocol else { return }
            let most = min(
                Self.sharedMessageBytes, self.configuration.limits.maximumMessageBytes, self.link?.welcome?.maximumMessageBytes ?? .max)
            let end = buffer.writerIndex + most - first.request.maximumMessageBytes
            while case let room = end - buffer.writerIndex - Request.maximumOverheadBytes, room > 0,
                let next = self.desk.nextToSend(room: room)
            {
                next.request.write(id: next.id, next.write, to: &buffer)
            }
        }
    }

    private func askForSession(_ session: SessionHandler) {
        switch self.desk.sessionRequest() {
        case .open: session.write { NativeFrame.write(NativeOpenSession(), id: Link.sessionID, to: &$0) }
        case .resume(let id):
            session.write { buffer in
                var request = NativeResumeSession()
                request.session = id.buffer
                NativeFrame.write(request, id: Link.sessionID, to: &buffer)
            }
        case nil: break
        }
    }

    /// Sends a request whose answer nobody heeds, if there is a connection, and this one if one is named.
    func post(_ request: Request, onlyOn connection: UInt64?) {
        guard let link = self.link, let welcome = link.welcome, connection.map({ $0 == link.number }) ?? true else { return }
        // What it names is not of this store.
        if let incarnation = request.incarnation, incarnation != welcome.incarnation { return }
        link.session.write { request.write(id: Link.unheededID, nil, to: &$0) }
        link.session.flush()
    }

    private func closeSession() {
        guard let link = self.link, link.isReady, let id = self.desk.sessionToClose else { return }
        var request = NativeCloseSession()
        request.session = id.buffer
        self.post(Request(request), onlyOn: link.number)
    }

    func callsEnded() {
        self.moveOverIfQuiet()
        self.finishDrainIfIdle()
        self.deliverResults()
    }

    func callsExpired() {
        if case .running = self.phase, let link = self.link, self.desk.isStuck { link.session.giveUp(.unresponsive) }
        // Calls whose wait is over, and the session that is to be kept alive.
        self.sendQueued()
        self.callsEnded()
    }

    func finishDrainIfIdle() {
        if case .draining = self.phase, self.desk.isIdle { self.beginClosingHandshake() }
    }

    /// Ends each piece of work on the loop: whoever asked may look at the counters, and asks again.
    func deliverResults() {
        self.shared.counters.withLock { $0 = self.desk.counters }
        self.desk.deliver()
    }

    // MARK: Connections

    private func connect(to index: Int) {
        let endpoint = self.configuration.endpoints[index]
        self.logger.debug("connecting", metadata: ["endpoint": "\(endpoint)"])
        let attempt = self.connector.connect(to: endpoint)
        self.attempt = attempt
        self.endpointIndex = index
        attempt.whenComplete { [weak self] result in
            guard let self, self.attempt === attempt else { return }
            self.attempt = nil
            switch result {
            case .success(let opened):
                self.identityWatch.connected(with: attempt.files)
                self.established(opened)
            case .failure(let failure): self.attemptFailed(failure)
            }
        }
    }

    private func established(_ opened: OpenedConnection) {
        self.desk.count { $0.connections += 1 }
        let stableAfter = self.reconnection.established(now: self.now)
        self.stabilityTimer?.cancel()
        self.stabilityTimer = self.schedule(in: stableAfter) { $0.reconnection.stabilityElapsed(now: $0.now) }
        self.logger.info(
            "connected",
            metadata: [
                "endpoint": "\(opened.endpoint)", "tls": "\(opened.peer.tlsVersion)", "server": "\(opened.peer.leaf.subject)",
                "fingerprint": "\(opened.peer.leaf.sha256)",
            ])
        self.desk.lastError = nil
        self.shared.events.send(self.wasConnected ? .resumed(opened.endpoint) : .connected(opened.endpoint))
        self.wasConnected = true
        let link = self.makeLink(opened, self.endpointIndex, files: nil)
        self.link = link
        do {
            try opened.start(link.session)
            self.greet(link)
            self.deliverResults()
        } catch {
            self.sessionEnded(link.session, ConnectionError(error))
        }
    }

    func makeLink(_ opened: OpenedConnection, _ index: Int, files: FileSnapshot?) -> Link {
        self.lastLink += 1
        return Link(
            number: self.lastLink, session: SessionHandler(configuration: self.configuration, delegate: self), endpoint: opened.endpoint,
            endpointIndex: index, files: files)
    }

    /// Asks which store it is; mwDB's protocol cannot say.
    func greet(_ link: Link) {
        guard case .native = self.clientProtocol else {
            link.welcome = Link.Welcome()
            return self.becameReady(link)
        }
        link.session.write { NativeFrame.write(NativeHello.ours, id: Link.helloID, to: &$0) }
        link.session.flush()
        link.greetingTimer = self.schedule(in: self.configuration.timeouts.upgrade) { [weak link] engine in
            guard let link, !link.isReady else { return }
            link.session.giveUp(.timedOut(.upgrade, after: engine.configuration.timeouts.upgrade, "\(link.endpoint)"))
        }
    }

    func becameReady(_ link: Link) {
        link.greetingTimer?.cancel()
        guard link === self.link else { return self.callsEnded() }
        self.takeIntoUse(link)
        self.sendQueued()
        self.deliverResults()
    }

    /// Calls and watches go over this connection now.
    func takeIntoUse(_ link: Link) {
        guard let welcome = link.welcome else { return }
        self.desk.connected(
            AnswerOrigin(incarnation: welcome.incarnation, connection: link.number), maximumInFlight: welcome.maximumInFlight,
            maximumMessageBytes: welcome.maximumMessageBytes)
        guard case .native = self.clientProtocol else { return }
        self.watches.connected(WatchDesk.Line(incarnation: welcome.incarnation) { [session = link.session] in session.write($0) })
    }

    /// Sends what the watches have collected.
    func flush() {
        if let link = self.link, link.isReady { link.session.flush() }
    }

    private func attemptFailed(_ failure: ConnectionError) {
        self.desk.count { $0.failedAttempts += 1 }
        self.note(failure)
        self.proceed(self.reconnection.attemptFailed(failure.kind, retryAfter: failure.retryAfter, using: &self.random))
    }

    func note(_ failure: ConnectionError) {
        self.desk.lastError = failure.error
        self.logger.warning("disconnected", metadata: ["error": "\(failure.error)"])
        self.shared.events.send(.disconnected(failure.error))
    }

    func proceed(_ action: ReconnectionStateMachine.NextAction) {
        switch action {
        case .connect(let endpoint):
            self.connect(to: endpoint)
        case .wait(let attempt, let after):
            self.shared.events.send(.reconnecting(attempt: attempt, after: after))
            self.waitTimer = self.schedule(in: after) { $0.waitElapsed() }
        case .giveUp:
            self.end(with: self.desk.lastError ?? Self.closedByUser)
        case .none:
            break
        }
        self.deliverResults()
    }

    private func waitElapsed() {
        guard let endpoint = self.reconnection.waitElapsed(using: &self.random) else { return }
        self.connect(to: endpoint)
    }

    func schedule(in delay: Duration, _ body: @escaping (ClientEngine) -> Void) -> Scheduled<Void> {
        self.schedule(at: self.now + TimeAmount(delay), body)
    }

    func schedule(at deadline: NIODeadline, _ body: @escaping (ClientEngine) -> Void) -> Scheduled<Void> {
        self.eventLoop.assumeIsolated().scheduleTask(deadline: deadline) { [weak self] in
            if let self { body(self) }
        }
    }
}

// MARK: - Conversions

extension Reload {
    /// What a change takes beside its bytes: two arrays' headers and the places that refer to them.
    private static let bytesPerChange = 96

    /// The memory of a notice of `pairs`.
    static func bytes(of pairs: MWDBPairs) -> Int {
        var count = 0
        unsafe pairs.forEach { _, _ in count += 1 }
        return pairs.bytes.readableBytes + count * self.bytesPerChange
    }

    static func changes(of pairs: MWDBPairs) -> [Change] {
        pairs.slices.map { pair in
            Change(
                key: Array(pair.key.readableBytesView),
                value: pair.value.readableBytes == 0 ? nil : Array(pair.value.readableBytesView))
        }
    }
}

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
