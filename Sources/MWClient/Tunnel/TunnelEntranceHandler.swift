import Logging
import MWWebSocket
import NIOCore
import NIOHTTP1
import NIOPosix

/// A local connection until it is joined to the server: takes the opening request, judges it, carries it over TLS, answers.
final class TunnelEntranceHandler: ChannelInboundHandler, RemovableChannelHandler {
    typealias InboundIn = HTTPServerRequestPart
    typealias OutboundOut = ByteBuffer

    private let configuration: StorageClientConfiguration
    private let limits: Tunnel.Limits
    private let logger: Logger
    private var context: ChannelHandlerContext?
    private var head: HTTPRequestHead?
    private var timer: Scheduled<Void>?
    private var attempt: ConnectionAttempt?
    private var isDone = false

    init(configuration: StorageClientConfiguration, limits: Tunnel.Limits, logger: Logger) {
        self.configuration = configuration
        self.limits = limits
        self.logger = logger
    }

    func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
        self.timer = context.eventLoop.assumeIsolated().scheduleTask(in: TimeAmount(self.limits.openingTimeout)) { [weak self] in
            self?.refuse(.init(408, "Request Timeout", "the opening request took too long"))
        }
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        self.timer?.cancel()
        self.context = nil
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard !self.isDone, self.attempt == nil else { return }
        switch self.unwrapInboundIn(data) {
        case .head(let head):
            self.head = head
        case .body:
            break
        case .end:
            guard let head = self.head else { return }
            self.requested(head, context)
        }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        if let error = error as? ConnectionError, error.kind == .openingHandshake { return self.refuse(.headerTooLong) }
        self.refuse(.malformed)
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if let event = event as? ChannelEvent, event == .inputClosed {
            self.leave()
            context.close(promise: nil)
        }
        context.fireUserInboundEventTriggered(event)
    }

    func channelInactive(context: ChannelHandlerContext) {
        self.leave()
        context.fireChannelInactive()
    }

    private func leave() {
        self.isDone = true
        self.attempt?.cancel()
        self.attempt = nil
    }

    private func requested(_ head: HTTPRequestHead, _ context: ChannelHandlerContext) {
        let request = OpeningRequest(
            method: head.method.rawValue, target: head.uri, majorVersion: head.version.major, minorVersion: head.version.minor,
            headers: head.headers.map { ($0.name, $0.value) })
        if let refusal = TunnelAdmission.judge(request) { return self.refuse(refusal) }
        // From here on the steps to the server have deadlines of their own.
        self.timer?.cancel()
        self.connect(head, self.configuration.endpoints.shuffled()[...], context)
    }

    private func connect(_ head: HTTPRequestHead, _ endpoints: ArraySlice<Endpoint>, _ context: ChannelHandlerContext) {
        guard let endpoint = endpoints.first else { return }
        let connector = ClientConnector(configuration: self.configuration, eventLoop: context.eventLoop)
        let attempt = connector.connect(to: endpoint, exchange: .forwarding(head, to: endpoint))
        self.attempt = attempt
        attempt.whenComplete { [weak self] result in
            guard let self, self.attempt === attempt else { return }
            self.attempt = nil
            switch result {
            case .success(let opened):
                self.join(opened)
            case .failure(let failure):
                self.logger.warning("tunnel: no connection to the server", metadata: ["error": "\(failure.error)"])
                if endpoints.count > 1 { return self.connect(head, endpoints.dropFirst(), context) }
                self.refuse(.init(502, "Bad Gateway", "\(failure.error)"))
            }
        }
    }

    private func join(_ opened: OpenedConnection) {
        guard !self.isDone, let context = self.context else { return opened.close() }
        self.isDone = true
        context.writeAndFlush(self.wrapOutboundOut(opened.response.bytes), promise: nil)
        let (local, remote) = RelayHandler.pair()
        let pipeline = context.pipeline.syncOperations
        do {
            try pipeline.addHandler(local, position: .after(self))
            // Before the parsers hand over what they hold, both ends must be there.
            try opened.start(remote)
            pipeline.removeHandler(context: context, promise: nil)
            pipeline.removeHandler(context: try pipeline.context(handlerType: OpeningByteLimit.self), promise: nil)
            let parser = try pipeline.context(handlerType: ByteToMessageHandler<HTTPRequestDecoder>.self)
            let removed = context.eventLoop.makePromise(of: Void.self)
            removed.futureResult.assumeIsolated().whenComplete { _ in local.flushPartner() }
            pipeline.removeHandler(context: parser, promise: removed)
        } catch {
            opened.close()
            context.close(promise: nil)
        }
    }

    private func refuse(_ refusal: ServerOpeningHandshake.Refusal) {
        guard !self.isDone, let context = self.context else { return }
        self.leave()
        self.timer?.cancel()
        // The answer leaves whole, then the connection ends: what the client still sends is not waited for.
        let sent = context.eventLoop.makePromise(of: Void.self)
        context.writeAndFlush(self.wrapOutboundOut(ByteBuffer(string: refusal.responseBytes)), promise: sent)
        sent.futureResult.assumeIsolated().whenComplete { _ in context.close(promise: nil) }
    }
}

extension OpeningExchange {
    /// A local client's request, made out to the server: its name, and no `Origin`, since the tunnel is the client now. The key stays,
    /// so the server's answer fits it.
    fileprivate static func forwarding(_ head: HTTPRequestHead, to endpoint: Endpoint) -> OpeningExchange {
        var request = head
        request.headers.replaceOrAdd(name: "Host", value: endpoint.authority)
        request.headers.remove(name: "Origin")
        if endpoint.path != "/" { request.uri = endpoint.path }
        return OpeningExchange(request: request) { response, body in
            guard response.status != .switchingProtocols else { return }
            // Only to say it in the words of a refusal: whether a 101 is right is between the client and the server.
            let handshake = ClientOpeningHandshake(authority: endpoint.authority, nonce: [UInt8](repeating: 0, count: 16))
            try handshake.validate(
                status: Int(response.status.code), headers: response.headers.map { ($0.name, $0.value) }, body: String(buffer: body))
        }
    }
}

extension HTTPResponseHead {
    /// As it stands on the wire.
    fileprivate var bytes: ByteBuffer {
        var buffer = ByteBuffer(string: "HTTP/1.1 \(self.status.code) \(self.status.reasonPhrase)\r\n")
        for (name, value) in self.headers { buffer.writeString("\(name): \(value)\r\n") }
        buffer.writeString("\r\n")
        return buffer
    }
}
