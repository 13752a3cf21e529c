import Logging
import MWClient
import MWProtocol
import MWWebSocket
import NIOCore
import NIOPosix
import TestCertificates
import Testing

@Suite(.timeLimit(.minutes(10))) struct TunnelTests {
    private static func request(host: String, origin: String? = nil, changing: (inout [HeaderField]) -> Void = { _ in }) -> OpeningRequest {
        var headers: [HeaderField] = [
            ("Host", host), ("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="),
            ("Sec-WebSocket-Version", "13"),
        ]
        if let origin { headers.append(("Origin", origin)) }
        changing(&headers)
        return OpeningRequest(method: "GET", target: "/", minorVersion: 1, headers: headers)
    }

    // MARK: Admission, as values

    @Test(
        "programs on this machine are let in, with the headers that the original client sends too",
        arguments: [
            ("127.0.0.1:8080", nil), ("localhost:8080", nil), ("LOCALHOST", nil), ("[::1]:8080", nil), ("127.1.2.3", nil),
            ("127.0.0.1:8080", "http://127.0.0.1:8080"), ("localhost:8080", "http://localhost"), ("127.0.0.1:8080", "https://127.0.0.1"),
            ("[::1]:8080", "http://[::1]:8080"),
        ] as [(String, String?)])
    func admitted(host: String, origin: String?) {
        #expect(TunnelAdmission.judge(Self.request(host: host, origin: origin)) == nil)
    }

    @Test(
        "a name that merely resolves to loopback is refused: DNS rebinding",
        arguments: [
            "evil.example:8080", "127.0.0.1.evil.example", "localhost.evil.example", "localhost.", "127.0.0.256", "127.1", "2130706433",
            "0x7f.0.0.1", "[::ffff:127.0.0.1]", "10.0.0.1:8080", "[::1", "[::1].evil.example", "127.0.0.1:8080:1", "127.0.0.1:x",
        ])
    func rebinding(host: String) {
        #expect(TunnelAdmission.judge(Self.request(host: host))?.status == 403)
    }

    @Test(
        "a page of another origin is refused: cross-site WebSocket",
        arguments: [
            "https://evil.example", "http://127.0.0.1:9999", "http://localhost:8080", "null", "file://",
            "http://127.0.0.1:8080.evil.example",
            "http://127.0.0.1:8080@evil.example", "", "chrome-extension://abc",
        ])
    func crossSite(origin: String) {
        #expect(TunnelAdmission.judge(Self.request(host: "127.0.0.1:8080", origin: origin))?.status == 403)
    }

    @Test("two Hosts, no upgrade, a body, another method: refused as any server would")
    func malformed() {
        #expect(TunnelAdmission.judge(Self.request(host: "localhost") { $0.append(("Host", "localhost")) })?.status == 400)
        #expect(TunnelAdmission.judge(Self.request(host: "localhost") { $0.removeAll { $0.name == "Upgrade" } })?.status == 426)
        #expect(TunnelAdmission.judge(Self.request(host: "localhost") { $0.append(("Content-Length", "1")) })?.status == 400)
        var post = Self.request(host: "localhost")
        post.method = "POST"
        #expect(TunnelAdmission.judge(post)?.status == 405)
    }

    @Test(
        "a tunnel listens on loopback only", arguments: ["0.0.0.0", "::", "10.0.0.1", "localhost", "example.org", "", "::ffff:127.0.0.1"])
    func loopbackOnly(host: String) async throws {
        let server = try await FakeServer.start()
        let configuration = try server.configuration()
        let error = await #expect(throws: ClientError.self) {
            try await Tunnel.start(host: host, port: 0, to: configuration, logger: quiet)
        }
        #expect(error?.code == .invalidArgument)
        try await server.stop()
    }

    // MARK: Joined

    /// A plain client: sends what it is told, gives back what comes.
    private final class PlainClient: ChannelInboundHandler, Sendable {
        typealias InboundIn = ByteBuffer
        let received = Mailbox<ByteBuffer>()
        func channelRead(context: ChannelHandlerContext, data: NIOAny) { self.received.put(self.unwrapInboundIn(data)) }
        func channelInactive(context: ChannelHandlerContext) { self.received.finish() }

        /// Everything up to `count` bytes, or the end.
        func read(atLeast count: Int) async -> ByteBuffer {
            var all = ByteBuffer()
            while all.readableBytes < count, var next = await self.received.next() { all.writeBuffer(&next) }
            return all
        }

        func readToEnd() async -> String { String(buffer: await self.read(atLeast: .max)) }
    }

    private func connect(to tunnel: Tunnel) async throws -> (any Channel, PlainClient) {
        let client = PlainClient()
        let channel = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture { try channel.pipeline.syncOperations.addHandler(client) }
            }
            .connect(to: tunnel.address).get()
        return (channel, client)
    }

    private static let handshake =
        "GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nHost: localhost:8080\r\nOrigin: http://localhost\r\n"
        + "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"

    @Test("a plain client's frames reach the server over mutual TLS, byte for byte, and the answers come back; closing passes on")
    func passThrough() async throws {
        let server = try await FakeServer.start()
        let tunnel = try await Tunnel.start(host: "127.0.0.1", port: 0, to: server.configuration(), logger: quiet)
        let (channel, client) = try await self.connect(to: tunnel)
        // The first frame rides behind the request: the server must get it, after its 101.
        var frames = ByteBuffer()
        var machine = WebSocketStateMachine(role: .client)
        machine.writeMessage(.binary, to: &frames, maskingKey: 0x1234_5678) { MWDBRequest.writePrefix(id: .zero, to: &$0) }
        var first = ByteBuffer(string: Self.handshake)
        first.writeBuffer(&frames)
        try await channel.writeAndFlush(first)
        let connection = try #require(await server.connections.next())
        let request = try #require(await connection.requests.next())
        #expect(request == .prefix(id: .zero))
        let head = String(buffer: await client.read(atLeast: 100))
        #expect(head.hasPrefix("HTTP/1.1 101 "))
        #expect(
            head.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
                || head.lowercased().contains("s3pplmbitxaq9kygzzhzrbk+xoo="))
        connection.reply(prefix: 5, to: request)
        var answer = ByteBuffer()
        let reply = await client.read(atLeast: 5)
        machine.bytesReceived(reply)
        #expect(machine.nextEvent(outbound: &answer) == .message(.binary, ByteBuffer(bytes: Array("K#".utf8) + [7, UInt8(ascii: "A")])))
        // A large put, several socket buffers long.
        var put = ByteBuffer()
        let value = [UInt8](repeating: UInt8(ascii: "v"), count: 3_000_000)
        try machine.writeMessage(.binary, to: &put, maskingKey: 7) { buffer in
            try MWDBRequest.writePut([(key: Array("k".utf8), value: value)], id: RequestID(1), to: &buffer)
        }
        try await channel.writeAndFlush(put)
        guard case .put(let pairs, _) = try #require(await connection.requests.next()) else {
            Issue.record("expected a put")
            return
        }
        #expect(pairs.bytes.readableBytes == 3_000_002)
        var close = ByteBuffer()
        machine.writeClose(.normal, to: &close, maskingKey: 9)
        try await channel.writeAndFlush(close)
        #expect(await connection.ended.next() == .some(.normal))
        #expect(await !client.readToEnd().isEmpty)
        await tunnel.stop()
        try await server.stop()
    }

    @Test("a client that leaves takes its server connection with it, and the other way round", arguments: [true, false])
    func ends(clientLeaves: Bool) async throws {
        let server = try await FakeServer.start()
        let tunnel = try await Tunnel.start(host: "127.0.0.1", port: 0, to: server.configuration(), logger: quiet)
        let (channel, client) = try await self.connect(to: tunnel)
        try await channel.writeAndFlush(ByteBuffer(string: Self.handshake))
        let connection = try #require(await server.connections.next())
        _ = await client.read(atLeast: 100)
        if clientLeaves { try await channel.close() } else { connection.cut() }
        #expect(await connection.ended.next() == .some(nil))
        _ = await client.readToEnd()
        await tunnel.stop()
        try await server.stop()
    }

    @Test(
        "what goes wrong on the way to the server is answered with 502 and the reason",
        arguments: [
            (FakeServer.Opening.answer("HTTP/1.1 403 Forbidden\r\nContent-Length: 7\r\n\r\nnot you"), "HTTP 403"),
            (.cutAfterRequest, "close_notify"), (.cutBeforeTLS, "unreachable"),
        ])
    func badGateway(opening: FakeServer.Opening, reason: String) async throws {
        let server = try await FakeServer.start([opening])
        let tunnel = try await Tunnel.start(host: "127.0.0.1", port: 0, to: server.configuration(), logger: quiet)
        let (channel, client) = try await self.connect(to: tunnel)
        try await channel.writeAndFlush(ByteBuffer(string: Self.handshake))
        let answer = await client.readToEnd()
        #expect(answer.hasPrefix("HTTP/1.1 502 "), "\(answer)")
        #expect(answer.contains(reason), "\(answer)")
        await tunnel.stop()
        try await server.stop()
    }

    @Test("a server that refuses the tunnel's certificate is named in the 502, with the alert")
    func refusedCertificate() async throws {
        let server = try await FakeServer.start()
        let stranger = try TestAuthority(name: "Another CA").issueClient()
        let tunnel = try await Tunnel.start(host: "127.0.0.1", port: 0, to: server.configuration(client: stranger), logger: quiet)
        let (channel, client) = try await self.connect(to: tunnel)
        try await channel.writeAndFlush(ByteBuffer(string: Self.handshake))
        let answer = await client.readToEnd()
        #expect(answer.hasPrefix("HTTP/1.1 502 ") && answer.contains("unknown_ca"), "\(answer)")
        await tunnel.stop()
        try await server.stop()
    }

    @Test(
        "a refused request never reaches the server",
        arguments: [
            "GET / HTTP/1.1\r\nHost: evil.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                + "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "nonsense\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: localhost\r\nX: " + String(repeating: "x", count: 20_000) + "\r\n\r\n",
        ])
    func refused(request: String) async throws {
        let server = try await FakeServer.start()
        let tunnel = try await Tunnel.start(host: "127.0.0.1", port: 0, to: server.configuration(), logger: quiet)
        let (channel, client) = try await self.connect(to: tunnel)
        try? await channel.writeAndFlush(ByteBuffer(string: request))
        #expect(await client.readToEnd().hasPrefix("HTTP/1.1 4"))
        #expect(server.acceptedCount == 0)
        await tunnel.stop()
        try await server.stop()
    }

    @Test("a client that never finishes its request is answered 408 and let go")
    func slowRequest() async throws {
        let server = try await FakeServer.start()
        var limits = Tunnel.Limits()
        limits.openingTimeout = .milliseconds(50)
        var answer = ""
        // On a busy machine the deadline may pass before the client has written: a reset then takes the answer with it.
        while answer.isEmpty, limits.openingTimeout < .seconds(30) {
            let tunnel = try await Tunnel.start(host: "127.0.0.1", port: 0, to: server.configuration(), limits: limits, logger: quiet)
            let (channel, client) = try await self.connect(to: tunnel)
            try? await channel.writeAndFlush(ByteBuffer(string: "GET / HTTP/1.1\r\nHost: "))
            answer = await client.readToEnd()
            await tunnel.stop()
            limits.openingTimeout *= 2
        }
        #expect(answer.hasPrefix("HTTP/1.1 408 "))
        try await server.stop()
    }
}
