import MWPKI
import MWTLS
import MWWebSocket
import NIOCore
import NIOHTTP1

/// A connection whose server has answered 101: now, and not before, the server has welcomed us (in TLS 1.3 a client finishes its
/// handshake before the server has judged its certificate).
struct OpenedConnection {
    let endpoint: Endpoint
    let peer: VerifiedPeer
    private let handler: OpeningHandshakeHandler

    fileprivate init(endpoint: Endpoint, peer: VerifiedPeer, handler: OpeningHandshakeHandler) {
        self.endpoint = endpoint
        self.peer = peer
        self.handler = handler
    }

    /// Puts `session` in the place of the HTTP handlers; what the server sent behind its 101 goes to it.
    func start(_ session: some ChannelInboundHandler) { self.handler.hand(over: session) }

    func close() { self.handler.abort() }
}

/// Sends the opening handshake once TLS is up, and judges the answer; reports once.
final class OpeningHandshakeHandler: ChannelInboundHandler, RemovableChannelHandler {
    typealias InboundIn = HTTPClientResponsePart
    typealias OutboundOut = HTTPClientRequestPart

    /// As much of a refusal's body as is shown.
    private static let maximumBodyBytes = 512

    private let endpoint: Endpoint
    private let handshake: ClientOpeningHandshake
    private let timeout: Duration
    private var completion: ((Result<OpenedConnection, ConnectionError>) -> Void)?
    private var context: ChannelHandlerContext?
    private var timer: Scheduled<Void>?
    private var peer: VerifiedPeer?
    private var head: HTTPResponseHead?
    private var body = ByteBuffer()

    /// - Parameter completion: called once, on the event loop.
    init(
        endpoint: Endpoint, handshake: ClientOpeningHandshake, timeout: Duration,
        completion: @escaping (Result<OpenedConnection, ConnectionError>) -> Void
    ) {
        self.endpoint = endpoint
        self.handshake = handshake
        self.timeout = timeout
        self.completion = completion
    }

    /// The handlers of a client's pipeline up to the 101.
    static func pipeline(
        tls: TLSContext, maximumBytes: Int, _ handler: OpeningHandshakeHandler
    ) -> [any ChannelHandler] {
        [
            TLSHandler(context: tls), OpeningByteLimit(maximumBytes: maximumBytes), HTTPRequestEncoder(),
            ByteToMessageHandler(HTTPResponseDecoder(leftOverBytesStrategy: .forwardBytes)), handler,
        ]
    }

    func handlerAdded(context: ChannelHandlerContext) { self.context = context }

    func handlerRemoved(context: ChannelHandlerContext) {
        self.timer?.cancel()
        self.context = nil
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if let event = event as? TLSHandshakeCompleted {
            self.peer = event.peer
            self.timer = context.eventLoop.assumeIsolated().scheduleTask(in: TimeAmount(self.timeout)) { [weak self] in
                guard let self else { return }
                self.fail(.timedOut(.upgrade, after: self.timeout, "\(self.endpoint)"))
            }
            self.sendRequest(context)
        }
        context.fireUserInboundEventTriggered(event)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard self.completion != nil else { return }
        switch self.unwrapInboundIn(data) {
        case .head(let head):
            self.head = head
        case .body(var bytes):
            self.body.writeBuffer(&bytes)
            if self.body.readableBytes >= Self.maximumBodyBytes { self.judge() }
        case .end:
            // The parser's last event of a 101, too: what follows it goes to the session.
            self.judge()
        }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        if error is HTTPParserError {
            return self.fail(
                ConnectionError(
                    .openingHandshake,
                    ClientError(
                        .protocolMismatch, subject: "\(self.endpoint)", what: "does not answer in HTTP/1.1",
                        remedy: "check the port", underlying: error)))
        }
        self.fail(ConnectionError(error, subject: "\(self.endpoint)"))
    }

    func channelInactive(context: ChannelHandlerContext) {
        if self.head != nil { self.judge() } else { self.fail(.cut) }
        context.fireChannelInactive()
    }

    private func sendRequest(_ context: ChannelHandlerContext) {
        do {
            // The rules' own text is the request; NIO's parser of the answer wants to have seen its head.
            let lines = try self.handshake.requestBytes().split(separator: "\r\n")
            var head = HTTPRequestHead(version: .http1_1, method: .GET, uri: self.handshake.target)
            for line in lines.dropFirst() {
                let parts = line.split(separator: ":", maxSplits: 1)
                head.headers.add(name: String(parts[0]), value: String(parts[1].drop { $0 == " " }))
            }
            context.write(self.wrapOutboundOut(.head(head)), promise: nil)
            context.writeAndFlush(self.wrapOutboundOut(.end(nil)), promise: nil)
        } catch {
            self.fail(ConnectionError(error, subject: "\(self.endpoint)"))
        }
    }

    private func judge() {
        guard let head = self.head, let peer = self.peer else { return }
        do {
            let body = self.body.readSlice(length: min(self.body.readableBytes, Self.maximumBodyBytes)) ?? ByteBuffer()
            try self.handshake.validate(
                status: Int(head.status.code), headers: head.headers.map { ($0.name, $0.value) }, body: String(buffer: body))
            self.complete(.success(OpenedConnection(endpoint: self.endpoint, peer: peer, handler: self)))
        } catch {
            self.fail(ConnectionError(error, subject: "\(self.endpoint)"))
        }
    }

    private func fail(_ error: ConnectionError) {
        self.complete(.failure(error))
        self.abort()
    }

    private func complete(_ result: Result<OpenedConnection, ConnectionError>) {
        guard let completion = self.completion else { return }
        self.completion = nil
        self.timer?.cancel()
        completion(result)
    }

    fileprivate func abort() { self.context?.close(promise: nil) }

    fileprivate func hand(over session: some ChannelInboundHandler) {
        guard let pipeline = self.context?.pipeline.syncOperations else { return }
        do {
            try pipeline.addHandler(session, position: .after(self))
            pipeline.removeHandler(self, promise: nil)
            for handler in [
                try pipeline.context(handlerType: HTTPRequestEncoder.self),
                try pipeline.context(handlerType: OpeningByteLimit.self),
                // Last: its removal hands the bytes behind the 101 on, to the session.
                try pipeline.context(handlerType: ByteToMessageHandler<HTTPResponseDecoder>.self),
            ] { pipeline.removeHandler(context: handler, promise: nil) }
        } catch {
            preconditionFailure("the pipeline is the one that was built: \(error)")
        }
    }
}

/// Ends a connection whose server answers the opening handshake with more than is allowed.
final class OpeningByteLimit: ChannelInboundHandler, RemovableChannelHandler {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = ByteBuffer
    private var remaining: Int

    init(maximumBytes: Int) { self.remaining = maximumBytes }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        self.remaining -= self.unwrapInboundIn(data).readableBytes
        // What follows a 101 in the same read counts too: frames that early are few, or a later read.
        guard self.remaining >= 0 else {
            context.fireErrorCaught(
                ConnectionError(
                    .openingHandshake,
                    ClientError(.protocolMismatch, subject: "server", what: "answers the opening handshake with too many bytes")))
            return
        }
        context.fireChannelRead(data)
    }
}
