import MWPKI
import MWTLS
import MWWebSocket
import NIOCore
import NIOHTTP1

/// The request that opens a connection, and what its answer must be.
struct OpeningExchange: Sendable {
    let request: HTTPRequestHead
    /// Throws when the answer is not a welcome; `body` is the start of a refusal's.
    let judge: @Sendable (_ response: HTTPResponseHead, _ body: ByteBuffer) throws -> Void

    /// Our own client's.
    static func webSocket(_ handshake: ClientOpeningHandshake) throws(WebSocketError) -> OpeningExchange {
        // The rules' own text is the request; NIO's parser of the answer wants to have seen its head.
        let lines = try handshake.requestBytes().split(separator: "\r\n")
        var head = HTTPRequestHead(version: .http1_1, method: .GET, uri: handshake.target)
        for line in lines.dropFirst() {
            let parts = line.split(separator: ":", maxSplits: 1)
            head.headers.add(name: String(parts[0]), value: String(parts[1].drop { $0 == " " }))
        }
        return OpeningExchange(request: head) { response, body in
            let selected = try handshake.validate(
                status: Int(response.status.code), headers: response.headers.map { ($0.name, $0.value) }, body: String(buffer: body))
            guard selected != nil || handshake.subprotocols.isEmpty else {
                throw ConnectionError(
                    .openingHandshake,
                    ClientError(
                        .protocolMismatch, subject: "server", what: "selected none of the subprotocols that we asked for",
                        expected: handshake.subprotocols.joined(separator: ", "), remedy: "use a server that speaks it"))
            }
        }
    }
}

/// A connection whose server has answered 101: now, and not before, the server has welcomed us (in TLS 1.3 a client finishes its
/// handshake before the server has judged its certificate).
struct OpenedConnection {
    let endpoint: Endpoint
    let peer: VerifiedPeer
    let response: HTTPResponseHead
    let channel: any Channel
    private let earlyBytes: EarlyBytes?

    fileprivate init(
        endpoint: Endpoint, peer: VerifiedPeer, response: HTTPResponseHead, channel: any Channel, earlyBytes: EarlyBytes
    ) {
        self.endpoint = endpoint
        self.peer = peer
        self.response = response
        self.channel = channel
        self.earlyBytes = earlyBytes
    }

    /// A connection that others opened, on which nothing was received yet.
    init(endpoint: Endpoint, peer: VerifiedPeer, channel: any Channel) {
        self.endpoint = endpoint
        self.peer = peer
        self.response = HTTPResponseHead(version: .http1_1, status: .switchingProtocols)
        self.channel = channel
        self.earlyBytes = nil
    }

    /// Puts `session` at the end of the pipeline; what the server sent right behind its 101 goes to it.
    func start(_ session: some ChannelHandler) throws {
        let pipeline = self.channel.pipeline.syncOperations
        guard let earlyBytes = self.earlyBytes else { return try pipeline.addHandler(session) }
        try pipeline.addHandler(session, position: .after(earlyBytes))
        pipeline.removeHandler(earlyBytes, promise: nil)
    }

    func close() { self.channel.close(promise: nil) }
}

/// Sends the opening handshake once TLS is up, and judges the answer; reports once.
final class OpeningHandshakeHandler: ChannelInboundHandler, RemovableChannelHandler {
    typealias InboundIn = HTTPClientResponsePart
    typealias OutboundOut = HTTPClientRequestPart

    /// As much of a refusal's body as is shown.
    private static let maximumBodyBytes = 512

    private let endpoint: Endpoint
    private let exchange: OpeningExchange
    private let timeout: Duration
    private let onEncrypted: (VerifiedPeer) -> Void
    private var completion: ((Result<OpenedConnection, ConnectionError>) -> Void)?
    private var context: ChannelHandlerContext?
    private var timer: Scheduled<Void>?
    private var peer: VerifiedPeer?
    private var head: HTTPResponseHead?
    private var body = ByteBuffer()

    /// - Parameters:
    ///   - onEncrypted: called when the server's certificate is accepted; it has not judged ours then.
    ///   - completion: called once, on the event loop.
    init(
        endpoint: Endpoint, exchange: OpeningExchange, timeout: Duration, onEncrypted: @escaping (VerifiedPeer) -> Void,
        completion: @escaping (Result<OpenedConnection, ConnectionError>) -> Void
    ) {
        self.endpoint = endpoint
        self.exchange = exchange
        self.timeout = timeout
        self.onEncrypted = onEncrypted
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
            self.onEncrypted(event.peer)
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
        context.write(self.wrapOutboundOut(.head(self.exchange.request)), promise: nil)
        context.writeAndFlush(self.wrapOutboundOut(.end(nil)), promise: nil)
    }

    private func judge() {
        guard let head = self.head, let peer = self.peer else { return }
        do {
            try self.exchange.judge(
                head, self.body.getSlice(at: 0, length: min(self.body.readableBytes, Self.maximumBodyBytes)) ?? ByteBuffer())
            try self.leave(peer, head)
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

    private func abort() { self.context?.close(promise: nil) }

    /// Takes HTTP out of the pipeline. The parser goes last, and only once it is done with the current read: until then nothing may be
    /// written, and what it has left is not HTTP.
    private func leave(_ peer: VerifiedPeer, _ response: HTTPResponseHead) throws {
        guard let context = self.context else { return }
        let channel = context.channel
        let pipeline = context.pipeline.syncOperations
        let earlyBytes = EarlyBytes()
        try pipeline.addHandler(earlyBytes, position: .after(self))
        pipeline.removeHandler(context: context, promise: nil)
        pipeline.removeHandler(context: try pipeline.context(handlerType: HTTPRequestEncoder.self), promise: nil)
        pipeline.removeHandler(context: try pipeline.context(handlerType: OpeningByteLimit.self), promise: nil)
        let removed = channel.eventLoop.makePromise(of: Void.self)
        removed.futureResult.assumeIsolated().whenComplete { _ in
            let opened = OpenedConnection(
                endpoint: self.endpoint, peer: peer, response: response, channel: channel, earlyBytes: earlyBytes)
            self.complete(.success(opened))
        }
        let parser = try pipeline.context(handlerType: ByteToMessageHandler<HTTPResponseDecoder>.self)
        pipeline.removeHandler(context: parser, promise: removed)
    }
}

/// Holds what the server sent right behind its 101 until there is somebody to take it.
private final class EarlyBytes: ChannelInboundHandler, RemovableChannelHandler {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = ByteBuffer
    private var bytes = ByteBuffer()

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var more = self.unwrapInboundIn(data)
        self.bytes.writeBuffer(&more)
    }

    func removeHandler(context: ChannelHandlerContext, removalToken: ChannelHandlerContext.RemovalToken) {
        if self.bytes.readableBytes > 0 {
            context.fireChannelRead(self.wrapInboundOut(self.bytes))
            context.fireChannelReadComplete()
        }
        context.leavePipeline(removalToken: removalToken)
    }
}

/// Ends a connection whose peer says more in the opening handshake than is allowed.
///
/// The head counts, and what comes in later reads while there is no WebSocket. What follows the head in its read does not: behind a 101 these
/// are frames, as many as the server likes.
final class OpeningByteLimit: ChannelInboundHandler, RemovableChannelHandler {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = ByteBuffer
    private var remaining: Int
    private var isHeadOver = false
    private var isLineEmpty = true
    private var hasLine = false

    init(maximumBytes: Int) { self.remaining = maximumBytes }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let bytes = self.unwrapInboundIn(data)
        self.remaining -= self.isHeadOver ? bytes.readableBytes : self.headBytes(in: bytes)
        guard self.remaining >= 0 else {
            context.fireErrorCaught(
                ConnectionError(
                    .openingHandshake,
                    ClientError(.protocolMismatch, subject: "server", what: "answers the opening handshake with too many bytes")))
            return
        }
        context.fireChannelRead(data)
    }

    /// How many of `bytes` belong to the head, which an empty line ends (RFC 9112 §2.1); no more than one above what is allowed.
    private func headBytes(in bytes: ByteBuffer) -> Int {
        var count = 0
        for byte in bytes.readableBytesView.prefix(self.remaining + 1) {
            count += 1
            switch byte {
            case UInt8(ascii: "\n"):
                self.isHeadOver = self.isLineEmpty && self.hasLine
                if self.isHeadOver { return count }
                self.isLineEmpty = true
            case UInt8(ascii: "\r"): break
            default:
                self.isLineEmpty = false
                self.hasLine = true
            }
        }
        return count
    }
}
