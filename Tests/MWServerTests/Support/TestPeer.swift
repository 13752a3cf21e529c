import MWPKI
import MWTLS
import MWWebSocket
import NIOCore
import NIOPosix

/// A client over a real socket that does exactly what a test says: its own TLS, raw HTTP, WebSocket frames as values.
final class TestPeer {
    enum Event: Sendable {
        case established
        case bytes(ByteBuffer)
        case failed(any Error)
        case closed
    }

    struct Ended: Error {
        let reason: String
    }

    let channel: any Channel
    private var events: AsyncStream<Event>.Iterator
    private var received = ByteBuffer()
    private var machine: WebSocketStateMachine
    /// Why the connection ended, as TLS saw it.
    private(set) var tlsError: TLSError?

    private init(_ channel: any Channel, _ events: AsyncStream<Event>) {
        self.channel = channel
        self.events = events.makeAsyncIterator()
        self.machine = WebSocketStateMachine(role: .client, limits: WebSocketLimits(maximumMessageBytes: 256 * 1024 * 1024))
    }

    /// Connects. With `context` nil no TLS is spoken.
    static func connect(to address: SocketAddress, _ context: TLSContext?, autoRead: Bool = true) async throws -> TestPeer {
        let (events, continuation) = AsyncStream<Event>.makeStream()
        let channel = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .channelOption(.autoRead, value: autoRead)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    if let context { try channel.pipeline.syncOperations.addHandler(TLSHandler(context: context)) }
                    try channel.pipeline.syncOperations.addHandler(Recorder(continuation))
                }
            }
            .connect(to: address).get()
        return TestPeer(channel, events)
    }

    /// Waits for the end of our part of the TLS handshake.
    func untilEstablished() async throws {
        switch await self.events.next(isolation: #isolation) {
        case .established: return
        case let event: throw Ended(reason: "\(String(describing: event))")
        }
    }

    // MARK: HTTP

    static let key = "dGhlIHNhbXBsZSBub25jZQ=="

    static func openingRequest(path: String = "/", extra: String = "") -> String {
        """
        GET \(path) HTTP/1.1\r
        Host: localhost\r
        Upgrade: websocket\r
        Connection: Upgrade\r
        Sec-WebSocket-Key: \(self.key)\r
        Sec-WebSocket-Version: 13\r
        \(extra)\r

        """
    }

    /// Sends an opening handshake; returns the head of the response.
    func open(_ request: String = TestPeer.openingRequest()) async throws -> String {
        try await self.send(ByteBuffer(string: request))
        return try await self.responseHead()
    }

    func responseHead() async throws -> String {
        while true {
            let text = String(buffer: self.received)
            if let end = text.firstRange(of: "\r\n\r\n") {
                self.received.moveReaderIndex(forwardBy: text[..<end.upperBound].utf8.count)
                return String(text[..<end.lowerBound])
            }
            try await self.readMore()
        }
    }

    /// Everything until the connection is over, or until a byte comes that no text has, as that of a close frame.
    func everything(until mark: UInt8? = nil) async throws -> String {
        while mark.map({ !self.received.readableBytesView.contains($0) }) ?? true {
            do { try await self.readMore() } catch is Ended { break }
        }
        return String(buffer: self.received)
    }

    // MARK: WebSocket

    func send(_ bytes: ByteBuffer) async throws { try await self.channel.writeAndFlush(bytes).get() }

    func send(message: String) async throws { try await self.send(messages: [ByteBuffer(string: message)]) }

    func send(messages: [ByteBuffer]) async throws {
        var bytes = ByteBuffer()
        for message in messages { self.machine.writeMessage(.binary, message, to: &bytes, maskingKey: 0x5a5a_1234) }
        try await self.send(bytes)
    }

    func sendClose() async throws {
        var bytes = ByteBuffer()
        self.machine.writeClose(.normal, to: &bytes, maskingKey: 1)
        try await self.send(bytes)
    }

    /// The next thing the server says.
    func next() async throws -> WebSocketEvent {
        var outbound = ByteBuffer()
        while true {
            if self.received.readableBytes > 0 {
                self.machine.bytesReceived(self.received)
                self.received = ByteBuffer()
            }
            let event = self.machine.nextEvent(outbound: &outbound, maskingKey: 1)
            if outbound.readableBytes > 0 { try? await self.channel.writeAndFlush(outbound).get() }
            if let event { return event }
            try await self.readMore()
        }
    }

    /// The next message, as text.
    func message() async throws -> String {
        switch try await self.next() {
        case .message(_, let payload): return String(buffer: payload)
        case let event: throw Ended(reason: "\(event)")
        }
    }

    /// Waits until the connection is over, whatever comes before.
    func untilClosed() async {
        while true {
            switch await self.events.next(isolation: #isolation) {
            case .failed(let error): self.tlsError = self.tlsError ?? (error as? TLSError)
            case .closed, nil: return
            case .bytes, .established: break
            }
        }
    }

    private func readMore() async throws {
        switch await self.events.next(isolation: #isolation) {
        case .bytes(var bytes): self.received.writeBuffer(&bytes)
        case .established: break
        case .failed(let error):
            self.tlsError = self.tlsError ?? (error as? TLSError)
            throw error
        case .closed, nil: throw Ended(reason: "closed")
        }
    }

    func close() async { try? await self.channel.close().get() }

    private final class Recorder: ChannelInboundHandler {
        typealias InboundIn = ByteBuffer

        private let continuation: AsyncStream<Event>.Continuation

        init(_ continuation: AsyncStream<Event>.Continuation) { self.continuation = continuation }

        func channelRead(context: ChannelHandlerContext, data: NIOAny) { self.continuation.yield(.bytes(self.unwrapInboundIn(data))) }

        func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
            if event is TLSHandshakeCompleted { self.continuation.yield(.established) }
            context.fireUserInboundEventTriggered(event)
        }

        func errorCaught(context: ChannelHandlerContext, error: any Error) { self.continuation.yield(.failed(error)) }

        func channelInactive(context: ChannelHandlerContext) {
            self.continuation.yield(.closed)
            self.continuation.finish()
        }
    }
}
