import MWClient
import MWPKI
import MWTLS
import MWWebSocket
import NIOCore
import NIOPosix

/// Connects, echoes every message until the connection is closed.
struct EchoClient {
    private let endpoint: Endpoint
    private let context: TLSContext

    init(_ url: String, serverName: String?, material: TLSMaterial, policy: TLSPolicy) throws {
        endpoint = try Endpoint(url)
        guard let name = ServerName(serverName ?? endpoint.host) else {
            throw WebSocketError(.openingMalformed, "server name", "is neither a host name nor an address")
        }
        context = try TLSContext(client: material, verification: .name(name), policy: policy)
    }

    /// Returns after the closing handshake, or what the suite calls failing the connection; throws when there was no connection.
    func run() async throws {
        let loop = MultiThreadedEventLoopGroup.singleton.next()
        let ended = loop.makePromise(of: Void.self)
        let endpoint = endpoint
        let context = context
        do {
            let channel = try await ClientBootstrap(group: loop)
                .channelOption(.tcpOption(.tcp_nodelay), value: 1)
                .channelInitializer { channel in
                    channel.eventLoop.makeCompletedFuture {
                        try channel.pipeline.syncOperations.addHandlers([
                            TLSHandler(context: context), EchoClientHandler(endpoint, ended),
                        ])
                    }
                }
                .connect(host: endpoint.host, port: endpoint.port).get()
            try await ended.futureResult.get()
            try? await channel.closeFuture.get()
        } catch {
            ended.fail(error)
            throw error
        }
    }
}

/// The opening handshake, then the echo.
private final class EchoClientHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private let endpoint: Endpoint
    private let ended: EventLoopPromise<Void>
    private let handshake: ClientOpeningHandshake
    private var response = ByteBuffer()
    private var isOpen = false
    private var isCloseDue = false
    private var machine = WebSocketStateMachine(
        role: .client,
        limits: WebSocketLimits(maximumMessageBytes: EchoLimits.maximumMessageBytes, maximumFragments: EchoLimits.maximumFragments))
    private var outbound = ByteBuffer()
    private var random = SystemRandomNumberGenerator()

    init(_ endpoint: Endpoint, _ ended: EventLoopPromise<Void>) {
        var random = SystemRandomNumberGenerator()
        self.endpoint = endpoint
        self.ended = ended
        handshake = ClientOpeningHandshake(
            authority: endpoint.authority, target: endpoint.path,
            nonce: (0..<OpeningHandshake.nonceBytes).map { _ in .random(in: 0...255, using: &random) })
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if event is TLSHandshakeCompleted {
            do {
                context.writeAndFlush(wrapOutboundOut(ByteBuffer(string: try handshake.requestBytes())), promise: nil)
            } catch {
                fail(context, error)
            }
        }
        context.fireUserInboundEventTriggered(event)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var bytes = unwrapInboundIn(data)
        if !isOpen {
            response.writeBuffer(&bytes)
            guard judgeResponse(context) else { return }
            bytes = response
            response = ByteBuffer()
        }
        machine.bytesReceived(bytes)
        takeEvents()
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        if outbound.readableBytes > 0 {
            context.writeAndFlush(wrapOutboundOut(outbound), promise: nil)
            outbound = ByteBuffer()
        }
        if isCloseDue { context.close(promise: nil) }
        context.fireChannelReadComplete()
    }

    func channelInactive(context: ChannelHandlerContext) {
        if isOpen { ended.succeed() } else { ended.fail(ChannelError.eof) }
        context.fireChannelInactive()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        // A peer that is gone after the opening handshake ends a conversation, however rudely.
        if isOpen { context.close(promise: nil) } else { fail(context, error) }
    }

    private func takeEvents() {
        while let event = machine.nextEvent(outbound: &outbound, maskingKey: random.next()) {
            switch event {
            case .message(let opcode, let payload):
                machine.writeMessage(opcode, payload, to: &outbound, maskingKey: random.next())
            case .ping, .pong: break
            case .closeReceived, .violation: isCloseDue = true
            }
        }
    }

    /// Whether the head of the response is whole and right; what follows it stays in `response`.
    private func judgeResponse(_ context: ChannelHandlerContext) -> Bool {
        // Frames may follow the head at once, and do not count.
        let start = response.readableBytesView.prefix(OpeningHandshake.maximumHeaderBytes)
        guard let end = start.firstRange(of: Array("\r\n\r\n".utf8)) else {
            if start.count == OpeningHandshake.maximumHeaderBytes {
                fail(context, WebSocketError(.openingMalformed, "opening handshake", "the answer is too long"))
            }
            return false
        }
        let lines = String(decoding: start[..<end.lowerBound], as: UTF8.self).split(separator: "\r\n")
        let status = lines.first?.split(separator: " ").dropFirst().first.flatMap { Int($0) } ?? 0
        let headers = lines.dropFirst().map { line in
            let parts = line.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
            return HeaderField(String(parts[0]), parts.count > 1 ? String(parts[1]) : "")
        }
        do {
            try handshake.validate(status: status, headers: headers)
        } catch {
            fail(context, error)
            return false
        }
        isOpen = true
        response.moveReaderIndex(to: end.upperBound)
        return true
    }

    private func fail(_ context: ChannelHandlerContext, _ error: any Error) {
        ended.fail(error)
        context.close(promise: nil)
    }
}
