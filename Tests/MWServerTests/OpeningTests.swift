import EngineContract
import Glibc
import MWPKI
import MWServer
import MWTLS
import MWWebSocket
import NIOCore
import TestCertificates
import Testing

/// From the accepted connection to the 101, over real sockets.
@Suite struct OpeningTests {
    @Test func `An opening handshake with a trusted certificate gets a 101, and a request its answer`() async throws {
        try await RunningServer.with { running in
            let peer = try await running.connect()
            try await peer.send(message: "k#\u{0}A")
            #expect(try await peer.message() == "#\u{1}A")
            let line = try #require(running.log.lines("connection opened").first)
            #expect(line.metadata["principal"] == "alice")
            #expect(line.metadata["fingerprint"]?.hasPrefix("sha256:") == true)
            await peer.close()
        }
    }

    @Test func `Frames sent together with the opening request are answered`() async throws {
        try await RunningServer.with { running in
            let peer = try await TestPeer.connect(to: running.address, try running.clientContext())
            var machine = WebSocketStateMachine(role: .client)
            var bytes = ByteBuffer(string: TestPeer.openingRequest())
            machine.writeMessage(.binary, ByteBuffer(string: "k#\u{0}A"), to: &bytes, maskingKey: 3)
            try await peer.send(bytes)
            #expect(try await peer.responseHead().hasPrefix("HTTP/1.1 101 "))
            #expect(try await peer.message() == "#\u{1}A")
            await peer.close()
        }
    }

    @Test(arguments: [
        (TestPeer.openingRequest(path: "/elsewhere"), "404"), (TestPeer.openingRequest().replacing("GET", with: "POST"), "405"),
        (TestPeer.openingRequest().replacing("Upgrade: websocket\r\n", with: ""), "426"),
        (TestPeer.openingRequest().replacing("Version: 13", with: "Version: 8"), "426"), ("nonsense\r\n\r\n", "400"),
        (TestPeer.openingRequest(extra: "Sec-WebSocket-Protocol: unknown.v9\r\n"), "400"),
    ]) func `A request that opens nothing is refused with its status, logged, and closed`(request: String, status: String) async throws {
        try await RunningServer.with { running in
            let peer = try await TestPeer.connect(to: running.address, try running.clientContext())
            #expect(try await peer.open(request).hasPrefix("HTTP/1.1 \(status) "))
            await peer.untilClosed()
            #expect(running.log.lines("opening refused").first?.metadata["principal"] == "alice")
            #expect(running.log.lines("connection opened").isEmpty)
        }
    }

    @Test func `More header than the limit is answered with 431, however it arrives`() async throws {
        try await RunningServer.with { running in
            let peer = try await TestPeer.connect(to: running.address, try running.clientContext())
            let padding = "X-Padding: \(String(repeating: "x", count: 1000))\r\n"
            let request = TestPeer.openingRequest(extra: String(repeating: padding, count: 20))
            #expect(try await peer.open(request).hasPrefix("HTTP/1.1 431 "))
            await peer.untilClosed()
        }
    }

    @Test func `A peer that says nothing is closed at the deadline`() async throws {
        try await RunningServer.with({ $0.limits.openingTimeout = .milliseconds(20) }) { running in
            let silent = try await TestPeer.connect(to: running.address, nil)
            await silent.untilClosed()
            #expect(try await self.refusals(running).allSatisfy(Self.late.contains))
        }
    }

    // The deadline is longer each time until the handshake was done before it, however busy the machine is.
    @Test func `A peer that shakes hands and never ends its request is closed at the deadline`() async throws {
        var timeout = Duration.milliseconds(100)
        var found: String?
        while found == nil, timeout < .seconds(60) {
            try await RunningServer.with({ $0.limits.openingTimeout = timeout }) { running in
                let halfway = try await TestPeer.connect(to: running.address, try running.clientContext())
                try? await halfway.send(ByteBuffer(string: "GET / HTTP/1.1\r\n"))
                await halfway.untilClosed()
                found = running.log.lines("opening timed out").first?.metadata["found"]
            }
            timeout *= 2
        }
        #expect(found == "waiting for http request")
    }

    @Test(arguments: [TLSPolicy.Version.tls12, .tls13])
    func `A refused handshake never reaches storage: one log line, and the client learns why`(version: TLSPolicy.Version) async throws {
        try await RunningServer.with { running in
            let writes = running.disk.writeCount
            let expired = try running.authority.issueClient(name: "late") { $0.expire() }
            let context = try running.clientContext(expired, policy: TLSPolicy(minimumVersion: version, maximumVersion: version))
            let peer = try await TestPeer.connect(to: running.address, context)
            try? await peer.send(ByteBuffer(string: TestPeer.openingRequest()))
            await peer.untilClosed()
            #expect(peer.tlsError?.alert?.description.contains("expired") == true, "\(String(describing: peer.tlsError))")
            let lines = running.log.lines("tls handshake refused")
            #expect(lines.count == 1)
            #expect(lines.first?.metadata["check"] == "certificateExpired")
            #expect(lines.first?.metadata["subject"]?.contains("late") == true)
            #expect(running.log.lines("connection opened").isEmpty)
            #expect(running.disk.writeCount == writes)
        }
    }

    @Test func `Plain HTTP on the port is closed and logged, and the server goes on`() async throws {
        try await RunningServer.with { running in
            let plain = try await TestPeer.connect(to: running.address, nil)
            try await plain.send(ByteBuffer(string: TestPeer.openingRequest()))
            await plain.untilClosed()
            let peer = try await running.connect()
            await peer.close()
            // The peer is told first; by the end of the server the line is there.
            await running.server.stop()
            #expect(running.log.lines("tls handshake refused").count == 1)
        }
    }

    @Test func `Connections over the limit are answered with 503, in all and for each certificate`() async throws {
        let change = { (configuration: inout StorageServerConfiguration) in
            configuration.limits.maximumConnections = 3
            configuration.limits.maximumConnectionsPerCertificate = 2
        }
        try await RunningServer.with(change) { running in
            let (alice, bob) = (try running.authority.issueClient(name: "alice"), try running.authority.issueClient(name: "bob"))
            let first = try await running.connect(alice)
            let second = try await running.connect(alice)
            let third = try await TestPeer.connect(to: running.address, try running.clientContext(alice))
            #expect(try await third.open().hasPrefix("HTTP/1.1 503 "))
            let fourth = try await running.connect(bob)
            let fifth = try await TestPeer.connect(to: running.address, try running.clientContext(bob))
            #expect(try await fifth.open().hasPrefix("HTTP/1.1 503 "))
            // A place is free again when a connection has ended.
            try await first.sendClose()
            await first.untilClosed()
            let sixth = try await running.connect(bob)
            for peer in [second, fourth, sixth] { await peer.close() }
        }
    }

    @Test func `Connections over the limit of unfinished openings are closed at once, without a handshake`() async throws {
        let change = { (configuration: inout StorageServerConfiguration) in
            configuration.eventLoops = 1
            configuration.limits.maximumOpenings = 2
            configuration.limits.openingTimeout = .seconds(600)
        }
        try await RunningServer.with(change) { running in
            let started = ContinuousClock.now
            let first = try await TestPeer.connect(to: running.address, nil)
            let second = try await TestPeer.connect(to: running.address, nil)
            let third = try await TestPeer.connect(to: running.address, nil)
            await third.untilClosed()
            #expect(ContinuousClock.now - started < .seconds(300))
            #expect(running.log.lines("opening timed out").isEmpty)
            for peer in [first, second] { await peer.close() }
        }
    }

    // A peer that sends half a hello and resets the connection.
    @Test func `A peer that resets in its handshake is one refusal`() async throws {
        try await RunningServer.with { running in
            let peer = try await self.connectWithHalfAHello(running)
            try await (peer.channel as? any SocketOptionProvider)?.setSoLinger(linger(l_onoff: 1, l_linger: 0)).get()
            await peer.close()
            #expect(try await self.refusals(running) == [["tls handshake refused", "handshakeAbandoned"]])
        }
    }

    // The same, and it stays until its time is over.
    @Test func `A peer that is late in its handshake is one refusal`() async throws {
        try await RunningServer.with({ $0.limits.openingTimeout = .milliseconds(100) }) { running in
            let peer = try await self.connectWithHalfAHello(running)
            await peer.untilClosed()
            #expect(try await self.refusals(running).allSatisfy(Self.late.contains))
        }
    }

    private func connectWithHalfAHello(_ running: RunningServer) async throws -> TestPeer {
        let peer = try await TestPeer.connect(to: running.address, nil)
        // On a busy machine its time may be over already.
        try? await peer.send(ByteBuffer(bytes: [22, 3, 1, 0, 200, 1]))
        return peer
    }

    /// A deadline that passes in a handshake is noticed by TLS, or by the server's look at all that open.
    private static let late = [["tls handshake refused", "handshakeTimedOut"], ["tls handshake timed out", "timeout"]]

    /// The line about a refused handshake, and its check, once there is one and the server has ended: there is one.
    private func refusals(_ running: RunningServer) async throws -> [[String]] {
        let audit = try #require(running.server.audit)
        while audit.rejections.total == 0 { await Task.yield() }
        await running.server.stop()
        let lines = running.log.lines.filter { $0.message.hasPrefix("tls handshake") }.map { [$0.message, $0.metadata["check"] ?? ""] }
        #expect(audit.rejections.total == 1 && lines.count == 1)
        return lines
    }
}
