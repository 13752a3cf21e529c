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

    private enum Phase {
        case idle
        case running
        /// Calls that were made may finish; then the closing handshake.
        case draining
        case closingHandshake
        case ended(ClientError)
    }

    private let configuration: StorageClientConfiguration
    private let clientProtocol: ClientProtocol
    private let logger: Logger
    private let eventLoop: any EventLoop
    private let inbox: CallInbox
    private let shared: Shared
    private let connector: any Connector
    private var random: any RandomNumberGenerator

    private var phase = Phase.idle
    private let desk: CallDesk
    /// The watches; armed on every connection.
    let watches = WatchDesk()
    /// What the server says about a whole connection.
    let notices = NoticeDesk()
    private var reconnection: ReconnectionStateMachine
    private var attempt: ConnectionAttempt?
    private var link: Link?
    private var lastLink: UInt64 = 0
    private var wasConnected = false
    private var endpointIndex = 0

    private var identityWatch = IdentityWatch()
    private var watchTimer: Scheduled<Void>?
    /// The attempt at a connection with a new identity.
    private var moving: ConnectionAttempt?
    /// It is open, and takes over once nothing is under way on the old one.
    private var successor: Link?
    private var moveTimer: Scheduled<Void>?

    private var waitTimer: Scheduled<Void>?
    private var stabilityTimer: Scheduled<Void>?
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
            eventLoop: eventLoop)
        self.reconnection = ReconnectionStateMachine(
            endpointCount: configuration.endpoints.count, policy: ReconnectionPolicy(reconnection))
        self.desk.onExpiry = { [weak self] in self?.callsExpired() }
    }

    private var now: NIODeadline { self.eventLoop.now }

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
        self.watches.end(because: Self.closedByUser)
        self.deliverResults()
        self.link?.session.close()
    }

    private func end(with error: ClientError?) {
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

    private func sendQueued() {
        // What would go over the old connection now waits for the new one.
        guard let link = self.link, link.isReady, self.successor == nil else { return }
        switch self.phase {
        case .running, .draining: break
        case .idle, .closingHandshake, .ended: return
        }
        while link.session.canSend, let (request, id) = self.desk.nextToSend() { link.session.send(request, id: id) }
        link.session.flush()
    }

    private func callsEnded() {
        self.moveOverIfQuiet()
        self.finishDrainIfIdle()
        self.deliverResults()
    }

    private func callsExpired() {
        if case .running = self.phase, let link = self.link, self.desk.isStuck { link.session.giveUp(.unresponsive) }
        self.callsEnded()
    }

    private func finishDrainIfIdle() {
        if case .draining = self.phase, self.desk.isIdle { self.beginClosingHandshake() }
    }

    /// Ends each piece of work on the loop: whoever asked may look at the counters, and asks again.
    private func deliverResults() {
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
        let link = self.makeLink(opened, files: nil)
        self.link = link
        do {
            try opened.start(link.session)
            self.greet(link)
            self.deliverResults()
        } catch {
            self.sessionEnded(link.session, ConnectionError(error))
        }
    }

    private func makeLink(_ opened: OpenedConnection, files: FileSnapshot?) -> Link {
        self.lastLink += 1
        return Link(
            number: self.lastLink, session: SessionHandler(configuration: self.configuration, delegate: self), endpoint: opened.endpoint,
            files: files)
    }

    /// Asks which store it is; mwDB's protocol cannot say.
    private func greet(_ link: Link) {
        guard case .native = self.clientProtocol else {
            link.incarnation = .unknown
            return self.becameReady(link)
        }
        link.session.write { NativeFrame.write(NativeHello.ours, id: Link.helloID, to: &$0) }
        link.session.flush()
        link.greetingTimer = self.schedule(in: self.configuration.timeouts.upgrade) { [weak link] engine in
            guard let link, !link.isReady else { return }
            link.session.giveUp(.timedOut(.upgrade, after: engine.configuration.timeouts.upgrade, "\(link.endpoint)"))
        }
    }

    private func becameReady(_ link: Link) {
        link.greetingTimer?.cancel()
        if link === self.link {
            self.armWatches(on: link)
            self.sendQueued()
        } else {
            self.callsEnded()
        }
    }

    private func armWatches(on link: Link) {
        guard case .native = self.clientProtocol, let incarnation = link.incarnation else { return }
        self.watches.connected(WatchDesk.Line(incarnation: incarnation) { [session = link.session] in session.write($0) })
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

    private func note(_ failure: ConnectionError) {
        self.desk.lastError = failure.error
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

    private func schedule(in delay: Duration, _ body: @escaping (ClientEngine) -> Void) -> Scheduled<Void> {
        self.schedule(at: self.now + TimeAmount(delay), body)
    }

    private func schedule(at deadline: NIODeadline, _ body: @escaping (ClientEngine) -> Void) -> Scheduled<Void> {
        self.eventLoop.assumeIsolated().scheduleTask(deadline: deadline) { [weak self] in
            if let self { body(self) }
        }
    }
}

// MARK: - Another identity

extension ClientEngine {
    private func armIdentityWatch() {
        guard let interval = self.configuration.identityWatchInterval, !self.configuration.identity.paths.isEmpty else { return }
        self.watchTimer = self.schedule(in: interval) { $0.lookAtIdentity() }
    }

    private func lookAtIdentity() {
        guard case .running = self.phase else { return }
        NIOThreadPool.singleton.runIfActive(eventLoop: self.eventLoop) { [paths = self.configuration.identity.paths] in
            FileSnapshot(of: paths)
        }
        .assumeIsolated().whenComplete { [weak self] (result: Result<FileSnapshot, any Error>) in
            guard let self, case .running = self.phase else { return }
            let isBusy = self.link == nil || self.moving != nil || self.successor != nil
            if case .success(let files) = result, !isBusy, self.identityWatch.looked(at: files) { self.openSuccessor() }
            self.armIdentityWatch()
        }
    }

    /// A second connection, to where the first one is.
    private func openSuccessor() {
        let attempt = self.connector.connect(to: self.configuration.endpoints[self.endpointIndex])
        self.moving = attempt
        attempt.whenComplete { [weak self] result in
            guard let self, self.moving === attempt else { return }
            self.moving = nil
            switch result {
            case .success(let opened): self.successorOpened(opened, attempt.files)
            case .failure(let failure): self.moveFailed(failure, with: attempt.files)
            }
        }
    }

    private func successorOpened(_ opened: OpenedConnection, _ files: FileSnapshot?) {
        // The first one ended meanwhile, or the client does: whoever connects next reads the new files anyway.
        guard case .running = self.phase, self.link != nil else { return opened.close() }
        let link = self.makeLink(opened, files: files)
        do {
            try opened.start(link.session)
        } catch {
            return self.moveFailed(ConnectionError(error), with: files)
        }
        self.desk.count { $0.connections += 1 }
        self.successor = link
        self.moveTimer = self.schedule(in: self.configuration.timeouts.drain) { engine in
            // It answers nothing any more: what it owes is lost, as with any connection that broke.
            if engine.successor != nil { engine.link?.session.giveUp(.unresponsive) }
        }
        self.greet(link)
    }

    private func moveFailed(_ failure: ConnectionError, with files: FileSnapshot?) {
        self.moveTimer?.cancel()
        self.identityWatch.attemptFailed(with: files)
        self.logger.warning("no connection with the new identity; the old one stays", metadata: ["error": "\(failure.error)"])
    }

    /// Every call is answered on the connection it was sent on; then the next ones go over the new one.
    private func moveOverIfQuiet() {
        guard let link = self.successor, link.isReady, self.desk.inFlightCount == 0 else { return }
        let old = self.link
        self.link = link
        self.successor = nil
        self.moveTimer?.cancel()
        self.identityWatch.connected(with: link.files)
        self.logger.info("moved over to a connection with the new identity", metadata: ["endpoint": "\(link.endpoint)"])
        self.shared.events.send(.moved(link.endpoint))
        self.watches.disconnected(because: Self.moved)
        old?.session.close()
        self.armWatches(on: link)
        self.sendQueued()
    }

    private static let moved = ClientError(.connectionLost, subject: "connection", what: "was left for a new one")

    private func forgetSuccessor() {
        self.moving?.cancel()
        self.moving = nil
        self.moveTimer?.cancel()
        let successor = self.successor
        self.successor = nil
        successor?.session.close()
    }
}

// MARK: - What the connection says

extension ClientEngine: SessionDelegate {
    func session(_ session: SessionHandler, received message: ByteBuffer) {
        // A connection that we have left says nothing new.
        let known = session === self.link?.session ? self.link : session === self.successor?.session ? self.successor : nil
        guard let link = known else { return }
        do throws(ProtocolError) {
            switch self.clientProtocol {
            case .mwdb: self.received(try MWDBReply(message: message), in: session)
            case .native:
                var message = message
                while let frame = try NativeFrame(readingFrom: &message) { try self.received(frame, on: link) }
            }
        } catch {
            session.violated(CloseCode(rawValue: error.closeCode) ?? .protocolError, error.closeReason, error)
        }
    }

    private func received(_ reply: MWDBReply, in session: SessionHandler) {
        if let id = reply.id { return self.answered(.mwdb(reply), id, in: session) }
        if case .forceReload(let pairs) = reply { self.reload(pairs) }
    }

    private func received(_ frame: NativeFrame, on link: Link) throws(ProtocolError) {
        switch frame.role {
        case .reply, .failure:
            if frame.id == Link.helloID { return try self.welcomed(frame, link) }
            guard link.isReady else { throw ProtocolError(.unknownType, "frame", expected: "a welcome", found: "something else") }
            if NoticeDesk.owns(frame.id) { return }
            guard WatchDesk.owns(frame.id) else { return self.answered(.native(frame), frame.id, in: link.session) }
            if !self.watches.answered(frame) { link.session.violated(.protocolError, Self.unasked) }
        case .event:
            // Those of the connection that is about to take over come with its own watches.
            if frame.id == .zero { return self.noticed(frame, link) }
            // Events that no watch of ours has are for later clients.
            if link === self.link { _ = self.watches.received(frame) }
        case .request: throw ProtocolError(.unknownType, "frame", expected: "a reply, a failure or an event", found: "a request")
        }
    }

    private static let unasked = "an answer to nothing that was asked"

    private func welcomed(_ frame: NativeFrame, _ link: Link) throws(ProtocolError) {
        guard !link.isReady, frame.role == .reply, frame.kind == NativeRequestKind.hello.rawValue else {
            throw ProtocolError(.unknownType, "frame", expected: "one welcome", found: "something else")
        }
        link.incarnation = Incarnation(try NativeWelcome(frame.fields).incarnation) ?? .unknown
        self.becameReady(link)
    }

    private func noticed(_ frame: NativeFrame, _ link: Link) {
        switch NativeEventKind(rawValue: frame.kind) {
        case .reload:
            guard let notice = try? NativeReloadNotice(frame.fields) else { return }
            self.notices.reload(notice) { [weak link] frame in
                link?.session.write(frame)
                link?.session.flush()
            }
        default: break
        }
    }

    private func answered(_ reply: Reply, _ id: RequestID, in session: SessionHandler) {
        switch self.desk.answered(reply, id: id) {
        case .fine: self.reconnection.requestAnswered()
        case .violation(let reason, let cause): session.violated(.protocolError, reason, cause)
        }
    }

    private func reload(_ pairs: MWDBPairs) {
        var changes: [Reload.Change]?
        let dropped = self.shared.reloads.send(bytes: Reload.bytes(of: pairs)) { missed in
            // Once, and only for somebody.
            let copied = changes ?? Reload.changes(of: pairs)
            changes = copied
            return Reload(changes: copied, missedBefore: missed)
        }
        self.desk.count { counters in
            counters.reloads += 1
            counters.reloadsDropped += dropped
        }
    }

    func sessionReadCompleted(_ session: SessionHandler) {
        self.sendQueued()
        self.callsEnded()
    }

    func sessionBecameWritable(_ session: SessionHandler) { self.sendQueued() }

    func sessionEnded(_ session: SessionHandler, _ failure: ConnectionError) {
        if let successor = self.successor, successor.session === session {
            self.successor = nil
            self.moveFailed(failure, with: successor.files)
            return self.sendQueued()
        }
        guard let link = self.link, link.session === session else { return }
        self.link = nil
        link.greetingTimer?.cancel()
        self.stabilityTimer?.cancel()
        self.desk.connectionLost(because: failure.error)
        self.watches.disconnected(because: failure.error)
        switch self.phase {
        case .draining, .closingHandshake: return self.end(with: nil)
        case .idle, .running, .ended: break
        }
        if self.successor != nil {
            // The new one is here already.
            self.moveOverIfQuiet()
            return self.deliverResults()
        }
        self.note(failure)
        self.proceed(self.reconnection.connectionLost(failure.kind, retryAfter: failure.retryAfter, using: &self.random))
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
