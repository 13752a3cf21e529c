import EngineContract
import MWPKI
import MWStorage
import MWTLS
import NIOCore
import TestCertificates
import Testing

@testable import MWServer

@Suite struct MonitoringTests {
    /// One request, and everything that comes back.
    private func ask(
        _ running: RunningServer, _ request: String, context: TLSContext? = nil, host: String = "127.0.0.1"
    ) async throws -> String {
        let port = try #require(running.server.monitoringAddresses.first).port
        let peer = try await TestPeer.connect(to: try SocketAddress(ipAddress: host, port: port), context)
        try await peer.send(ByteBuffer(string: request))
        return try await peer.everything()
    }

    private func get(_ path: String) -> String { "GET \(path) HTTP/1.1\r\nHost: localhost\r\n\r\n" }

    private func monitored(
        _ address: String = "127.0.0.1", _ change: (inout StorageServerConfiguration) -> Void = { _ in },
        _ body: (RunningServer) async throws -> Void
    ) async throws {
        try await RunningServer.with(
            { configuration in
                configuration.monitoring = MonitoringConfiguration(addresses: [ListenAddress(host: address, port: 0)]) { "m_total 1\n" }
                change(&configuration)
            }, body)
    }

    @Test func `On loopback, metrics, liveness and readiness are plain HTTP; nothing else is there`() async throws {
        try await self.monitored { running in
            let metrics = try await self.ask(running, self.get("/metrics"))
            #expect(metrics.hasPrefix("HTTP/1.1 200 OK\r\n"))
            #expect(metrics.contains("Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"))
            #expect(metrics.hasSuffix("\r\n\r\nm_total 1\n"))
            #expect(try await self.ask(running, self.get("/livez")).hasPrefix("HTTP/1.1 200 "))
            #expect(try await self.ask(running, self.get("/readyz?verbose")).hasSuffix("\r\n\r\nready\n"))
            #expect(try await self.ask(running, self.get("/")).hasPrefix("HTTP/1.1 404 "))
            let head = try await self.ask(running, "HEAD /metrics HTTP/1.1\r\nHost: h\r\n\r\n")
            #expect(head.contains("Content-Length: 10\r\n") && head.hasSuffix("\r\n\r\n"))
            let post = try await self.ask(running, "POST /metrics HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n")
            #expect(post.hasPrefix("HTTP/1.1 405 ") && post.contains("Allow: GET, HEAD\r\n"))
            #expect(try await self.ask(running, "nonsense\r\n\r\n").hasPrefix("HTTP/1.1 400 "))
            let long = "GET /metrics HTTP/1.1\r\n" + String(repeating: "X-Y: \(String(repeating: "z", count: 500))\r\n", count: 40) + "\r\n"
            #expect(try await self.ask(running, long).hasPrefix("HTTP/1.1 431 "))
        }
    }

    @Test func `Beyond loopback it speaks mutual TLS, and a peer without a certificate gets nothing`() async throws {
        // 0.0.0.0 is every address, of which loopback is one: how we connect does not matter, where it listens does.
        try await self.monitored("0.0.0.0") { running in
            #expect(try await self.ask(running, self.get("/metrics")).contains("m_total") == false)
            let admitted = try await self.ask(running, self.get("/metrics"), context: try running.clientContext())
            #expect(admitted.hasPrefix("HTTP/1.1 200 ") && admitted.hasSuffix("m_total 1\n"))
            let expired = try running.authority.issueClient(name: "late") { $0.expire() }
            let refused = try? await self.ask(running, self.get("/metrics"), context: try running.clientContext(expired))
            #expect(refused?.contains("m_total") != true)
            #expect(running.server.audit?.rejections.latest().contains { $0.rejection.check == "certificateExpired" } == true)
        }
    }

    // A disk in memory that is full while the test says so.
    @Test func `It is not ready while storage takes no writes, and says why`() async throws {
        try await self.monitored { running in
            var faults = MemoryDisk.Faults()
            faults.failWrites = (0, .diskFull)
            faults.failOpens = .diskFull
            running.disk.setFaults(faults)
            let storage = try #require(running.server.storage)
            _ = try? await storage.put([1], [2])
            let answer = try await self.ask(running, self.get("/readyz"))
            #expect(answer.hasPrefix("HTTP/1.1 503 "))
            #expect(answer.contains("storage takes no writes: diskFull"))
            #expect(try await self.ask(running, self.get("/livez")).hasPrefix("HTTP/1.1 200 "), "alive, all the same")
        }
    }

    @Test func `While it drains it is alive and not ready`() async throws {
        try await self.monitored("127.0.0.1", { $0.drainTimeout = .seconds(30) }) { running in
            let port = try #require(running.server.monitoringAddresses.first).port
            let address = try SocketAddress(ipAddress: "127.0.0.1", port: port)
            let client = try await running.connect()
            // The client keeps the drain waiting: it does not answer the close frame.
            async let stopping: Void = running.server.stop()
            _ = try await client.everything(until: 0x88)
            let probe = try await TestPeer.connect(to: address, nil)
            try await probe.send(ByteBuffer(string: self.get("/readyz")))
            let answer = try await probe.everything()
            #expect(answer.hasPrefix("HTTP/1.1 503 ") && answer.contains("it drains"))
            await client.close()
            await stopping
        }
    }

    @Test func `A port that is taken is an error, and nothing is left listening`() async throws {
        try await self.monitored { running in
            let taken = try #require(running.server.monitoringAddresses.first)
            do {
                try await self.monitored("127.0.0.1", { $0.monitoring?.addresses = [taken] }) { _ in Issue.record("started") }
            } catch let error as ServerError {
                #expect(error.code == .addressUnavailable)
            }
        }
    }

    private func policy(_ grants: [(String, AccessGrant)]) -> AccessPolicySource {
        AccessPolicySource {
            try AccessPolicy(
                rules: grants.map { AccessRule(name: $0.0, matchers: [.commonName($0.0)], grants: AccessGrants([$0.1])) }, source: "test")
        }
    }

    @Test func `Beyond loopback only a right to read or administer all keys opens it, at the time of the answer`() async throws {
        let policy = self.policy([
            ("collector", AccessGrant(.read, over: .all)), ("root", AccessGrant(.administer, over: .all)),
            ("writer", AccessGrant(.write, over: .all)), ("reader", AccessGrant(.read, over: .prefixes([[1]]))),
        ])
        try await self.monitored("0.0.0.0", { $0.accessPolicy = policy }) { running in
            for (name, isAllowed) in [("collector", true), ("root", true), ("writer", false), ("reader", false), ("nobody", false)] {
                let context = try running.clientContext(running.authority.issueClient(name: name))
                for path in ["/metrics", "/readyz"] {
                    let answer = try await self.ask(running, self.get(path), context: context)
                    #expect(answer.hasPrefix(isAllowed ? "HTTP/1.1 200 " : "HTTP/1.1 403 "), "\(name) \(path)")
                    #expect(answer.contains("m_total") == (isAllowed && path == "/metrics"))
                }
            }
            // Shakes hands, is revoked, and asks.
            let collector = try running.authority.issueClient(name: "collector")
            let port = try #require(running.server.monitoringAddresses.first).port
            let peer = try await TestPeer.connect(
                to: try SocketAddress(ipAddress: "127.0.0.1", port: port), try running.clientContext(collector))
            try await peer.untilEstablished()
            try running.revoke([collector.leaf])
            try await running.server.reload()
            try await peer.send(ByteBuffer(string: self.get("/metrics")))
            #expect(try await peer.everything().hasPrefix("HTTP/1.1 403 "))
        }
    }
}
