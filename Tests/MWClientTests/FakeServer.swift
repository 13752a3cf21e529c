import MWClient
import MWPKI
import MWProtocol
import MWTLS
import MWWebSocket
import NIOCore
import NIOPosix
import Synchronization
import TestCertificates

/// A queue that one task reads and anybody writes.
final class Mailbox<Element: Sendable>: Sendable {
    private let stream: AsyncStream<Element>
    private let continuation: AsyncStream<Element>.Continuation

    init() { (self.stream, self.continuation) = AsyncStream.makeStream(of: Element.self) }

    func put(_ element: Element) { self.continuation.yield(element) }
    func finish() { self.continuation.finish() }

    /// The next element; `nil` after the end.
    func next() async -> Element? {
        var iterator = self.stream.makeAsyncIterator()
        return await iterator.next()
    }
}

/// A server whose every step a test decides: real TLS and real frames on a port of the system's choice.
final class FakeServer: Sendable {
    /// What becomes of a connection before it is a WebSocket.
    enum Opening: Sendable {
        /// To the protocol that is asked for.
        case upgrade
        /// To mwDB's, whatever is asked for.
        case upgradeWithoutSubprotocol
        /// The same as ``upgrade``, and a FORCE_RELOAD with these data in the same write.
        case upgradeWithReload(String)
        /// Answers the opening handshake with these bytes, then closes.
        case answer(String)
        /// Closes TCP at once.
        case cutBeforeTLS
        /// Closes TCP when the request has come.
        case cutAfterRequest
        /// Takes the request and never answers.
        case silence
    }

    /// The connections that were upgraded, in order.
    let connections = Mailbox<FakeConnection>()
    let authority: TestAuthority
    private let channel: any Channel
    private let openings: Mutex<[Opening]>
    private let storedWelcome = Mutex<NativeWelcome?>(FakeServer.welcome(store: 1))
    private let accepted = Atomic<Int>(0)

    private init(authority: TestAuthority, channel: any Channel, openings: [Opening]) {
        self.authority = authority
        self.channel = channel
        self.openings = Mutex(openings)
    }

    /// What hellos are answered with; nil: not at all.
    var welcome: NativeWelcome? {
        get { self.storedWelcome.withLock { $0 } }
        set { self.storedWelcome.withLock { $0 = newValue } }
    }

    /// The welcome of a store whose incarnation is this number.
    static func welcome(store: UInt8) -> NativeWelcome {
        var welcome = NativeWelcome()
        welcome.incarnation = ByteBuffer(repeating: store, count: 16)
        return welcome
    }

    var port: Int { self.channel.localAddress?.port ?? 0 }
    var acceptedCount: Int { self.accepted.load(ordering: .relaxed) }

    /// - Parameters:
    ///   - openings: for the first connections; those after are upgraded.
    ///   - trusting: whom it accepts, if not the clients of `authority`.
    static func start(
        _ openings: [Opening] = [], authority: TestAuthority? = nil, trusting: TestAuthority? = nil,
        issue: (TestAuthority) throws -> Identity = { try $0.issueServer() }, versions: TLSPolicy.Version = .tls13
    ) async throws -> FakeServer {
        let authority = try authority ?? TestAuthority()
        let material = TLSMaterial(identity: try issue(authority), trustStore: try (trusting ?? authority).trustStore())
        let tls = try TLSContext(server: material, policy: TLSPolicy(maximumVersion: versions))
        let owner = Reference()
        let channel = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    guard let server = owner.server else { return channel.close(promise: nil) }
                    let opening = server.nextOpening()
                    if case .cutBeforeTLS = opening { return channel.close(promise: nil) }
                    try channel.pipeline.syncOperations.addHandlers([
                        TLSHandler(context: tls), FakeServerHandler(opening: opening, server: server),
                    ])
                }
            }
            .bind(host: "127.0.0.1", port: 0).get()
        let server = FakeServer(authority: authority, channel: channel, openings: openings)
        owner.server = server
        return server
    }

    private final class Reference: Sendable {
        private let stored = Mutex<FakeServer?>(nil)
        var server: FakeServer? {
            get { self.stored.withLock { $0 } }
            set { self.stored.withLock { $0 = newValue } }
        }
    }

    private func nextOpening() -> Opening {
        self.accepted.wrappingAdd(1, ordering: .relaxed)
        return self.openings.withLock { $0.isEmpty ? .upgrade : $0.removeFirst() }
    }

    /// The next request, on whichever connection it comes: on a busy machine short deadlines may cost more attempts than one.
    func nextRequest() async -> (FakeConnection, MWDBRequest)? {
        while let connection = await self.connections.next() {
            if let request = await connection.requests.next() { return (connection, request) }
        }
        return nil
    }

    func stop() async throws { try await self.channel.close() }

    /// A configuration for a client of `authority`: it comes back at once, and everybody has all the time that a busy machine needs.
    func configuration(
        client: Identity? = nil, trusting: TestAuthority? = nil, _ change: (inout StorageClientConfiguration) -> Void = { _ in }
    ) throws -> StorageClientConfiguration {
        let material = TLSMaterial(
            identity: try client ?? self.authority.issueClient(), trustStore: try (trusting ?? self.authority).trustStore())
        var configuration = StorageClientConfiguration(
            endpoints: [try Endpoint("wss://127.0.0.1:\(self.port)")], identity: TLSMaterialSource(load: { material }))
        configuration.subprotocol = .mwdb
        configuration.reconnection.base = .milliseconds(1)
        configuration.reconnection.cap = .milliseconds(5)
        configuration.timeouts.connect = .seconds(60)
        configuration.timeouts.tls = .seconds(60)
        configuration.timeouts.upgrade = .seconds(60)
        configuration.timeouts.drain = .seconds(30)
        change(&configuration)
        return configuration
    }
}

/// One upgraded connection of a ``FakeServer``.
final class FakeConnection: Sendable {
    /// What the client asked, in order; ends with the connection.
    let requests = Mailbox<MWDBRequest>()
    /// The native protocol's frames, in order; ends with the connection.
    let frames = Mailbox<NativeFrame>()
    /// The close frame of the client's, or its absence, once the connection has ended.
    let ended = Mailbox<CloseCode?>()
    /// Who the client is.
    let certificate: Certificate?
    private let channel: any Channel
    private let handler: NIOLoopBound<FakeServerHandler>

    fileprivate init(channel: any Channel, handler: FakeServerHandler, certificate: Certificate?) {
        self.certificate = certificate
        self.channel = channel
        self.handler = NIOLoopBound(handler, eventLoop: channel.eventLoop)
    }

    func reply(_ write: @escaping @Sendable (inout ByteBuffer) -> Void) {
        self.channel.eventLoop.execute { self.handler.value.send(write) }
    }

    func reply(values: [String], to request: MWDBRequest) {
        self.reply { buffer in
            buffer.writeString(values.joined(separator: "#"))
            Self.trailer(1, request.id, &buffer)
        }
    }

    func reply(done: Bool, to request: MWDBRequest) {
        self.reply { buffer in
            buffer.writeInteger(UInt8(done ? 1 : 0))
            Self.trailer(request.type == .put ? 3 : 4, request.id, &buffer)
        }
    }

    func reply(prefix: UInt32, to request: MWDBRequest) {
        self.reply { MWDBReply.writePrefix(prefix, id: request.id, to: &$0) }
    }

    func forceReload(_ data: String) {
        self.reply { Self.writeReload(data, to: &$0) }
    }

    fileprivate static func writeReload(_ data: String, to buffer: inout ByteBuffer) {
        buffer.writeString(data)
        buffer.writeBytes([UInt8(ascii: "#"), 5])
    }

    func close(_ code: CloseCode) { self.channel.eventLoop.execute { self.handler.value.close(code) } }

    /// Cuts TCP without a word.
    func cut() { self.channel.eventLoop.execute { self.handler.value.cut() } }

    /// Stops answering pings and reading, as a machine whose power is gone.
    func freeze() async { try? await self.channel.setOption(.autoRead, value: false).get() }

    private static func trailer(_ type: UInt8, _ id: RequestID, _ buffer: inout ByteBuffer) {
        buffer.writeBytes([UInt8(ascii: "#"), type])
        Base64Number(id.rawValue).write(to: &buffer)
    }
}

/// Runs to completion: opening handshake as decided, then frames.
private final class FakeServerHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private let opening: FakeServer.Opening
    private weak var server: FakeServer?
    private var head = ""
    private var isNative = false
    private var machine = WebSocketStateMachine(role: .server)
    private var connection: FakeConnection?
    private var context: ChannelHandlerContext?
    private var closeCode: CloseCode?
    private var certificate: Certificate?

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if let event = event as? TLSHandshakeCompleted { self.certificate = event.peer.leaf }
        context.fireUserInboundEventTriggered(event)
    }

    init(opening: FakeServer.Opening, server: FakeServer) {
        self.opening = opening
        self.server = server
    }

    func handlerAdded(context: ChannelHandlerContext) { self.context = context }
    func handlerRemoved(context: ChannelHandlerContext) { self.context = nil }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let bytes = self.unwrapInboundIn(data)
        guard let connection = self.connection else {
            self.head += String(buffer: bytes)
            if self.head.hasSuffix("\r\n\r\n") { self.open(context) }
            return
        }
        var outbound = ByteBuffer()
        self.machine.bytesReceived(bytes)
        while let event = self.machine.nextEvent(outbound: &outbound) {
            switch event {
            case .message(_, let message):
                if self.isNative {
                    for frame in (try? NativeFrame.all(in: message)) ?? [] { self.received(frame, connection) }
                } else if let request = try? MWDBRequest(message: message) {
                    connection.requests.put(request)
                }
            case .closeReceived(let code, _):
                self.closeCode = code
            case .violation, .ping, .pong: break
            }
        }
        self.write(outbound)
        if self.machine.state == .closed { context.close(promise: nil) }
    }

    /// Hellos are answered here; everything else is the test's.
    private func received(_ frame: NativeFrame, _ connection: FakeConnection) {
        guard frame.role == .request, frame.kind == NativeRequestKind.hello.rawValue, let server = self.server else {
            return connection.frames.put(frame)
        }
        guard let welcome = server.welcome else { return }
        self.send { NativeFrame.write(reply: welcome, to: .hello, id: frame.id, to: &$0) }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {}

    func channelInactive(context: ChannelHandlerContext) {
        self.connection?.requests.finish()
        self.connection?.frames.finish()
        self.connection?.ended.put(self.closeCode)
        context.fireChannelInactive()
    }

    func send(_ write: (inout ByteBuffer) -> Void) {
        var outbound = ByteBuffer()
        self.machine.writeMessage(.binary, to: &outbound, write)
        self.write(outbound)
    }

    func close(_ code: CloseCode) {
        var outbound = ByteBuffer()
        self.machine.writeClose(code, to: &outbound)
        self.write(outbound)
    }

    /// Past the TLS handler, which would say goodbye.
    func cut() { self.context?.pipeline.syncOperations.removeHandlerAndClose() }

    private func open(_ context: ChannelHandlerContext) {
        switch self.opening {
        case .upgrade, .upgradeWithoutSubprotocol, .upgradeWithReload, .cutBeforeTLS:
            let key = self.head.split(separator: "\r\n").first { $0.hasPrefix("Sec-WebSocket-Key: ") }?.dropFirst(19) ?? ""
            let accept = OpeningHandshake.accept(forKey: String(key))
            var answer =
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: \(accept)\r\n"
            if case .upgrade = self.opening {
                self.isNative = self.head.contains("\r\nSec-WebSocket-Protocol: \(nativeSubprotocol)\r\n")
            }
            if self.isNative { answer += "Sec-WebSocket-Protocol: \(nativeSubprotocol)\r\n" }
            answer += "\r\n"
            let connection = FakeConnection(channel: context.channel, handler: self, certificate: self.certificate)
            self.connection = connection
            var welcome = ByteBuffer(string: answer)
            if case .upgradeWithReload(let data) = self.opening {
                self.machine.writeMessage(.binary, to: &welcome) { FakeConnection.writeReload(data, to: &$0) }
            }
            self.write(welcome)
            self.server?.connections.put(connection)
        case .answer(let text):
            self.write(ByteBuffer(string: text))
            context.close(promise: nil)
        case .cutAfterRequest: self.cut()
        case .silence: break
        }
    }

    private func write(_ bytes: ByteBuffer) {
        guard bytes.readableBytes > 0 else { return }
        self.context?.writeAndFlush(self.wrapOutboundOut(bytes), promise: nil)
    }
}

extension ChannelPipeline.SynchronousOperations {
    /// Closes TCP under the TLS handler: its context's `close` goes past it.
    fileprivate func removeHandlerAndClose() {
        (try? self.context(handlerType: TLSHandler.self))?.close(promise: nil)
    }
}
