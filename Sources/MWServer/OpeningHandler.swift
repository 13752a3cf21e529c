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
        case awaitingEnd(VerifiedPeer, ServerOpeningHandshake.Acceptance)
        /// Over: opened, refused, or the connection is gone.
        case done
    }

    /// What a refused client is told to wait before it tries again.
    private static let retryAfterSeconds = 5

    /// Where ``SessionLoop`` keeps it.
    var index = 0

    private let loop: SessionLoop
    private let policy: OpeningPolicy
    private let deadline: NIODeadline
    private var state = State.awaitingPeer
    private var context: ChannelHandlerContext?
    private var isListed = false

    init(on loop: SessionLoop, policy: OpeningPolicy) {
        self.loop = loop
        self.policy = policy
        self.deadline = .now() + TimeAmount(loop.limits.openingTimeout)
    }

    func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
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
        guard now >= self.deadline, let context = self.context else { return }
        if case .done = self.state {
            // Refused, and still here: the peer does not read.
        } else {
            self.loop.counters.openingsTimedOut += 1
            self.log(context, "opening timed out", ["limit": "\(self.loop.limits.openingTimeout)", "waiting_for": "\(self.waitingFor)"])
        }
        self.abort()
    }

    private var waitingFor: String {
        switch self.state {
        case .awaitingPeer: return "tls handshake"
        case .awaitingHead, .awaitingEnd: return "http request"
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
            self.loop.counters.handshakes["acme_challenge", default: 0] += 1
            self.state = .done
            self.log(context, "acme challenge answered", ["server_name": "\(event.serverName)"])
        }
        context.fireUserInboundEventTriggered(event)
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        switch error {
        case let error as TLSError:
            if case .awaitingPeer = self.state {
                self.loop.counters.handshakes["\(error.code)", default: 0] += 1
                self.logRefusedHandshake(context, error)
            }
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
        case (.awaitingEnd(let peer, let acceptance), .end): self.open(context, peer, acceptance)
        default: break
        }
    }

    private func judge(_ context: ChannelHandlerContext, _ head: HTTPRequestHead, _ peer: VerifiedPeer) {
        let request = OpeningRequest(
            method: head.method.rawValue, target: head.uri, majorVersion: head.version.major, minorVersion: head.version.minor,
            headers: head.headers.map { ($0.name, $0.value) })
        switch ServerOpeningHandshake.judge(request, policy: self.policy) {
        case .refuse(let refusal): self.refuse(context, refusal)
        case .accept(let acceptance): self.state = .awaitingEnd(peer, acceptance)
        }
    }

    private func refuse(_ context: ChannelHandlerContext, _ refusal: ServerOpeningHandshake.Refusal) {
        if case .done = self.state { return }
        var metadata: Logger.Metadata = ["status": "\(refusal.status)", "reason": "\(refusal.explanation)"]
        if let peer = self.peer {
            let principal = Principal.admit(peer)
            metadata["principal"] = "\(principal.name)"
            metadata["fingerprint"] = "\(principal.fingerprint)"
        }
        self.log(context, "opening refused", metadata)
        self.loop.counters.openingsRefused[refusal.status, default: 0] += 1
        self.state = .done
        context.writeAndFlush(self.wrapOutboundOut(ByteBuffer(string: refusal.responseBytes)), promise: nil)
        // After this read burst: until then the TLS handler keeps what was flushed.
        let loop = context.eventLoop.assumeIsolated()
        loop.execute { context.close(promise: nil) }
    }

    private var peer: VerifiedPeer? {
        switch self.state {
        case .awaitingHead(let peer), .awaitingEnd(let peer, _): return peer
        case .awaitingPeer, .done: return nil
        }
    }

    private func open(_ context: ChannelHandlerContext, _ peer: VerifiedPeer, _ acceptance: ServerOpeningHandshake.Acceptance) {
        guard !self.loop.isDraining, let factory = self.loop.factory else {
            return self.refuse(context, .unavailable("the server is stopping", retryAfterSeconds: Self.retryAfterSeconds))
        }
        let principal = Principal.admit(peer)
        if let refusal = self.loop.census.enter(principal.fingerprint) {
            let whose = refusal == .total ? "connections" : "connections with this certificate"
            return self.refuse(context, .unavailable("too many \(whose)", retryAfterSeconds: Self.retryAfterSeconds))
        }
        self.state = .done
        let info = SessionInfo(
            connectionID: self.loop.makeConnectionID(), principal: principal,
            address: context.remoteAddress?.hostAndPort ?? "unknown", subprotocol: acceptance.subprotocol,
            tls: "\(peer.tlsVersion) \(peer.cipher) \(peer.group)")
        let session = SessionHandler(info, on: self.loop, delegate: factory.makeDelegate(for: info))
        // Before the session exists, so that nothing overtakes the 101.
        context.write(self.wrapOutboundOut(ByteBuffer(string: acceptance.responseBytes)), promise: nil)
        do {
            try context.pipeline.syncOperations.addHandler(session, position: .after(self))
        } catch {
            self.loop.census.leave(principal.fingerprint)
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

    // MARK: Log

    private func logRefusedHandshake(_ context: ChannelHandlerContext, _ error: TLSError) {
        if error.code == .identityAwaited { return self.logAwaitedIdentity(context, error) }
        var metadata: Logger.Metadata = ["check": "\(error.code)", "reason": "\(error)"]
        if let alert = error.alert { metadata["alert"] = "\(alert)" }
        if let certificate = error.certificate {
            metadata["subject"] = "\(certificate.subject)"
            metadata["issuer"] = "\(certificate.issuer)"
            metadata["fingerprint"] = "\(certificate.fingerprint)"
        }
        self.log(context, "tls handshake refused", metadata)
    }

    /// Every client that is there meets this, again and again: one line says it for all.
    private func logAwaitedIdentity(_ context: ChannelHandlerContext, _ error: TLSError) {
        guard let withheld = self.loop.awaitedIdentityLines.admit(at: .now()) else { return }
        self.loop.logger.warning(
            "tls handshakes are refused: there is no certificate yet",
            metadata: [
                "check": "\(error.code)", "reason": "\(error)", "address": "\(context.remoteAddress?.hostAndPort ?? "unknown")",
                "more_since_last_line": "\(withheld)",
            ])
    }

    private func log(_ context: ChannelHandlerContext, _ message: Logger.Message, _ metadata: Logger.Metadata) {
        var metadata = metadata
        metadata["address"] = "\(context.remoteAddress?.hostAndPort ?? "unknown")"
        self.loop.logger.info(message, metadata: metadata)
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
