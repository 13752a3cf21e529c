internal import Logging
internal import MWPKI
internal import MWTLS
internal import MWWebSocket
internal import NIOCore
internal import NIOHTTP1

/// From the accepted connection to the 101: waits for TLS, judges the HTTP request, and puts a ``SessionHandler`` in its place.
///
///     accept ─▶ TLS handshake ─▶ principal ─▶ request head ─▶ judged ─▶ request end ─▶ 101, session
///        │             │                           │             │
///        └─ deadline ──┴── refused: logged ────────┴── 431 ──────┴── 400 403 404 405 426 503, close
///
/// Nothing of a connection reaches a delegate, or storage, before its 101. `HTTPRequestDecoder` and ``HeaderByteLimiter`` are in front of
/// it, and leave with it.
final class OpeningHandler: ChannelInboundHandler, RemovableChannelHandler {
    typealias InboundIn = HTTPServerRequestPart
    typealias OutboundOut = ByteBuffer

    private enum State {
        case awaitingPeer
        case awaitingHead(VerifiedPeer)
        case awaitingEnd(Admission, ServerOpeningHandshake.Acceptance)
        /// All is good; the audit log has to say so first.
        case awaitingAudit(Admission)
        /// Over: opened, refused, or the connection is gone.
        case done
    }

    /// Who the peer is, and by which ``SecuritySet``.
    private struct Admission {
        let peer: VerifiedPeer
        let principal: Principal
        let generation: UInt64
    }

    /// What a refused client is told to wait before it tries again.
    private static let retryAfterSeconds = 5

    /// Where ``SessionLoop`` keeps it.
    var index = 0

    private let loop: SessionLoop
    private let policy: OpeningPolicy
    private let security: CurrentSecurity
    /// Of the set whose context the TLS handshake was made with.
    private let generation: UInt64
    private let deadline: NIODeadline
    /// `address:port` of the peer, also when the channel has forgotten it.
    private var address = "unknown"
    private var state = State.awaitingPeer
    private var context: ChannelHandlerContext?
    private var isListed = false

    init(on loop: SessionLoop, policy: OpeningPolicy, security: CurrentSecurity, generation: UInt64) {
        self.loop = loop
        self.policy = policy
        self.security = security
        self.generation = generation
        self.deadline = .now() + TimeAmount(loop.limits.openingTimeout)
    }

    func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
        self.address = context.remoteAddress?.hostAndPort ?? self.address
        self.isListed = true
        self.loop.openingStarted(self)
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        self.unlist()
        self.context = nil
    }

    func channelInactive(context: ChannelHandlerContext) {
        self.state = .done
        self.unlist()
        context.fireChannelInactive()
    }

    private func unlist() {
        guard self.isListed else { return }
        self.isListed = false
        self.loop.openingEnded(self)
    }

    // MARK: Deadline

    func ticked(_ now: NIODeadline) {
        guard now >= self.deadline, self.context != nil else { return }
        if case .done = self.state {
            // Refused, and still here: the peer does not read.
        } else {
            self.loop.counters.openingsTimedOut += 1
            self.refused(
                self.peer == nil ? "tls handshake timed out" : "opening timed out",
                Rejection(
                    self.peer == nil ? .handshake : .opening, address: self.address, check: "timeout",
                    reason: "opening timed out", expected: "101 within \(self.loop.limits.openingTimeout)",
                    found: "waiting for \(self.waitingFor)"))
        }
        self.abort()
    }

    private var waitingFor: String {
        switch self.state {
        case .awaitingPeer: return "tls handshake"
        case .awaitingHead, .awaitingEnd: return "http request"
        case .awaitingAudit: return "audit log"
        case .done: return "close"
        }
    }

    /// Closes without any goodbye.
    func abort() {
        self.state = .done
        self.context?.channel.abort()
    }

    // MARK: TLS

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if let event = event as? TLSHandshakeCompleted, case .awaitingPeer = self.state {
            self.loop.counters.handshakes["completed", default: 0] += 1
            self.state = .awaitingHead(event.peer)
        }
        if let event = event as? TLSChallengeAnswered {
            // Without a peer there is nobody to be a principal; the TLS handler closes by itself.
            self.state = .done
            self.loop.challengeAnswered(for: event.serverName, address: self.address)
        }
        context.fireUserInboundEventTriggered(event)
    }

    /// What became of a handshake whose peer had left before it was computed: the channel is gone.
    func handshakeEndedLate(_ outcome: Result<TLSChallengeAnswered, TLSError>) {
        switch outcome {
        case .success(let answered): self.loop.challengeAnswered(for: answered.serverName, address: self.address)
        case .failure(let error): self.handshakeFailed(error)
        }
    }

    private func handshakeFailed(_ error: TLSError) {
        self.loop.counters.handshakes["\(error.code)", default: 0] += 1
        self.refused("tls handshake refused", Rejection(error, address: self.address))
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        switch error {
        case let error as TLSError:
            if case .awaitingPeer = self.state { self.handshakeFailed(error) }
            // The TLS handler sends the alert and closes by itself.
            self.state = .done
        case is HeaderByteLimiter.Exceeded:
            self.refuse(context, .headerTooLong)
        case is HTTPParserError:
            self.refuse(context, .malformed)
        default:
            self.state = .done
            context.close(promise: nil)
        }
    }

    // MARK: HTTP

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        switch (self.state, self.unwrapInboundIn(data)) {
        case (.awaitingHead(let peer), .head(let head)): self.judge(context, head, peer)
        case (.awaitingEnd(let admission, let acceptance), .end): self.open(context, admission, acceptance)
        default: break
        }
    }

    private func judge(_ context: ChannelHandlerContext, _ head: HTTPRequestHead, _ peer: VerifiedPeer) {
        // First: who is nobody here learns nothing else.
        guard let admission = self.admit(context, peer, judgedBy: self.generation) else { return }
        let request = OpeningRequest(
            method: head.method.rawValue, target: head.uri, majorVersion: head.version.major, minorVersion: head.version.minor,
            headers: head.headers.map { ($0.name, $0.value) })
        switch ServerOpeningHandshake.judge(request, policy: self.policy) {
        case .refuse(let refusal): self.refuse(context, refusal)
        case .accept(let acceptance): self.state = .awaitingEnd(admission, acceptance)
        }
    }

    /// Who `peer` is by the set in use; nil if it was refused.
    ///
    /// - Parameter generation: Of the set that its chain was judged by: a reload since then has it judged again.
    private func admit(_ context: ChannelHandlerContext, _ peer: VerifiedPeer, judgedBy generation: UInt64) -> Admission? {
        let set = self.security.set
        switch set.generation == generation ? set.admit(peer) : set.judge(peer) {
        case .admitted(let peer, let principal): return Admission(peer: peer, principal: principal, generation: set.generation)
        case .refused(let refusal):
            let response = ServerOpeningHandshake.Refusal.forbidden(refusal.toldPeer)
            self.refuse(
                context, response,
                Rejection(
                    .opening, address: self.address, check: refusal.check, reason: refusal.detail, remedy: refusal.remedy,
                    told: "\(response.status) \(response.reason)"))
            return nil
        }
    }

    private func refuse(_ context: ChannelHandlerContext, _ refusal: ServerOpeningHandshake.Refusal) {
        self.refuse(
            context, refusal,
            Rejection(
                .opening, address: self.address, check: "http.\(refusal.status)", reason: refusal.explanation,
                told: "\(refusal.status) \(refusal.reason)"))
    }

    private func refuse(_ context: ChannelHandlerContext, _ refusal: ServerOpeningHandshake.Refusal, _ rejection: Rejection) {
        if case .done = self.state { return }
        self.refused("opening refused", rejection)
        self.loop.counters.openingsRefused[refusal.status, default: 0] += 1
        self.state = .done
        context.writeAndFlush(self.wrapOutboundOut(ByteBuffer(string: refusal.responseBytes)), promise: nil)
        context.close(promise: nil)
    }

    private var peer: VerifiedPeer? {
        switch self.state {
        case .awaitingHead(let peer): return peer
        case .awaitingEnd(let admission, _), .awaitingAudit(let admission): return admission.peer
        case .awaitingPeer, .done: return nil
        }
    }

    private func open(_ context: ChannelHandlerContext, _ admission: Admission, _ acceptance: ServerOpeningHandshake.Acceptance) {
        guard !self.loop.isDraining, self.loop.factory != nil else {
            return self.refuse(context, .unavailable("the server is stopping", retryAfterSeconds: Self.retryAfterSeconds))
        }
        guard let admission = self.stillAdmitted(context, admission) else { return }
        let principal = admission.principal
        if let refusal = self.loop.census.enter(principal.fingerprint, principal: principal.name) {
            let whose =
                switch refusal {
                case .total: "connections"
                case .certificate: "connections with this certificate"
                case .principal: "connections of this principal"
                }
            return self.refuse(context, .unavailable("too many \(whose)", retryAfterSeconds: Self.retryAfterSeconds))
        }
        let info = SessionInfo(
            connectionID: self.loop.makeConnectionID(), principal: principal, address: self.address,
            subprotocol: acceptance.subprotocol, tls: "\(admission.peer.tlsVersion) \(admission.peer.cipher) \(admission.peer.group)")
        guard self.loop.audit.isRequired else {
            self.loop.audit.record(.connectionAdmitted(info))
            return self.open(context, info, admission, acceptance)
        }
        self.state = .awaitingAudit(admission)
        let here = NIOLoopBound((self, context), eventLoop: context.eventLoop)
        self.loop.audit.record(.connectionAdmitted(info)) { isWritten in
            here.eventLoop.execute { here.value.0.audited(here.value.1, isWritten, info, acceptance) }
        }
    }

    /// The same, by the set in use now; nil if that one refuses it.
    private func stillAdmitted(_ context: ChannelHandlerContext, _ admission: Admission) -> Admission? {
        guard self.security.set.generation != admission.generation else { return admission }
        return self.admit(context, admission.peer, judgedBy: admission.generation)
    }

    /// The audit log has the admission, or cannot take it.
    private func audited(
        _ context: ChannelHandlerContext, _ isWritten: Bool, _ info: SessionInfo, _ acceptance: ServerOpeningHandshake.Acceptance
    ) {
        guard case .awaitingAudit(let before) = self.state, isWritten, !self.loop.isDraining,
            let admission = self.stillAdmitted(context, before)
        else {
            self.loop.census.leave(info.principal.fingerprint, principal: info.principal.name)
            if isWritten {
                self.loop.audit.record(.connectionEnded(info, SessionEnd(.network, .connectionLost, nil, "gone before its 101")))
            }
            return self.refuse(context, .unavailable("the server cannot take connections now", retryAfterSeconds: Self.retryAfterSeconds))
        }
        self.loop.census.move(from: info.principal.name, to: admission.principal.name)
        var info = info
        info.principal = admission.principal
        self.open(context, info, admission, acceptance)
    }

    /// From the judgement to the session's place in the list nothing else runs on this loop: who is not seen by the set in use is seen by the
    /// one that follows it.
    private func open(
        _ context: ChannelHandlerContext, _ info: SessionInfo, _ admission: Admission, _ acceptance: ServerOpeningHandshake.Acceptance
    ) {
        guard let factory = self.loop.factory else { return self.abort() }
        self.state = .done
        let session = SessionHandler(
            info, peer: admission.peer, generation: admission.generation, on: self.loop, delegate: factory.makeDelegate(for: info))
        // Before the session exists, so that nothing overtakes the 101.
        context.write(self.wrapOutboundOut(ByteBuffer(string: acceptance.responseBytes)), promise: nil)
        do {
            try context.pipeline.syncOperations.addHandler(session, position: .after(self))
        } catch {
            self.loop.census.leave(info.principal.fingerprint, principal: info.principal.name)
            session.delegate.sessionEnded(session)
            context.close(promise: nil)
            return
        }
        context.flush()
        self.leavePipeline(context)
    }

    /// This handler first: what the decoder has left over is for the session.
    private func leavePipeline(_ context: ChannelHandlerContext) {
        let pipeline = context.pipeline.syncOperations
        pipeline.removeHandler(context: context, promise: nil)
        if let limiter = try? pipeline.context(handlerType: HeaderByteLimiter.self) {
            pipeline.removeHandler(context: limiter, promise: nil)
        }
        if let decoder = try? pipeline.context(handlerType: ByteToMessageHandler<HTTPRequestDecoder>.self) {
            pipeline.removeHandler(context: decoder, promise: nil)
        }
    }

    // MARK: Refusals

    /// Tells the operator and the auditor all of it; what the peer is told is the caller's, and less.
    private func refused(_ message: Logger.Message, _ rejection: Rejection) {
        var rejection = rejection
        if let peer = self.peer {
            if case .admitted(_, let principal) = self.security.set.admit(peer) { rejection.principal = principal.name }
            rejection.certificate = AuditedCertificate(peer.leaf)
        }
        if rejection.check == "\(TLSError.Code.identityAwaited)" {
            self.loop.logAwaitedIdentity(rejection)
        } else {
            self.loop.logRefusal(message, rejection)
        }
        self.loop.audit.record(rejection.stage == .handshake ? .handshakeRefused(rejection) : .openingRefused(rejection))
    }

}

/// Lets at most ``ServerLimits/maximumHeaderBytes`` through to the HTTP parser.
final class HeaderByteLimiter: ChannelInboundHandler, RemovableChannelHandler {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = ByteBuffer

    struct Exceeded: Error {}

    private var remainingBytes: Int

    init(maximumBytes: Int) { self.remainingBytes = maximumBytes }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard self.remainingBytes >= 0 else { return }
        self.remainingBytes -= self.unwrapInboundIn(data).readableBytes
        if self.remainingBytes >= 0 { context.fireChannelRead(data) } else { context.fireErrorCaught(Exceeded()) }
    }
}

extension Channel {
    /// Closes at once: no close_notify, no lingering. For peers whose time is up.
    func abort() {
        // From behind the TLS handler, which would otherwise say goodbye first.
        if let tls = try? self.pipeline.syncOperations.context(handlerType: TLSHandler.self) {
            tls.close(mode: .all, promise: nil)
        } else {
            self.close(mode: .all, promise: nil)
        }
    }
}
