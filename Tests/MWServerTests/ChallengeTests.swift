import EngineContract
import Logging
import MWPKI
import MWServer
import MWTLS
import NIOCore
import TestCertificates
import Testing

/// ACME challenges on the listener that clients use, and a server that has no certificate yet. Method: a running server; `openssl s_client`
/// in the place of the CA, our own client in that of a client.
@Suite struct ServerChallengeTests {
    private static let name = "db.example.test"
    private static let versions = ["tls1_2", "tls1_3"]

    private func challengeIdentity(_ name: String = ServerChallengeTests.name) throws -> Identity {
        var builder = CertificateBuilder(subject: [.commonName("ACME challenge")], days: 1)
        builder.alternativeNames = [AlternativeName(serverName: name)]
        return try builder.identity()
    }

    private func visit(
        _ running: RunningServer, _ version: String, input: String = "", alpn: String? = "acme-tls/1", name: String = Self.name
    ) async throws -> OpenSSLClient {
        let arguments = ["-servername", name, "-showcerts"] + (alpn.map { ["-alpn", $0] } ?? [])
        return try await OpenSSLClient.run(to: running.address, version: version, input: input, arguments)
    }

    @Test("case 11 tls_alpn01: a validation is asked for no certificate, and sees the challenge's", arguments: versions)
    func answered(version: String) async throws {
        try await RunningServer.with { running in
            let identity = try self.challengeIdentity()
            running.server.presentChallenge(serverName: Self.name, identity: identity)
            let visit = try await self.visit(running, version, input: TestPeer.openingRequest())
            #expect(visit.output.contains(identity.leaf.pem))
            #expect(visit.output.contains("ALPN protocol: acme-tls/1"))
            #expect(visit.saw("Certificate") && !visit.saw("CertificateRequest"))
            // What it sent after the handshake, an opening handshake, is not even refused.
            #expect(!visit.output.contains("HTTP/1.1"))
            let line = await running.log.first("acme challenge answered")
            #expect(line.metadata["server_name"] == Self.name && line.metadata["address"]?.hasPrefix("127.0.0.1") == true)
            #expect(running.log.lines("connection opened").isEmpty && running.server.openConnections == 0)
        }
    }

    @Test("case 11 tls_alpn01: an answered challenge has an audit event of its own, and is nobody's connection")
    func audited() async throws {
        try await withTemporaryDirectory { directory in
            let file = directory + "/audit"
            try await RunningServer.with({ $0.audit = .file(file) }) { running in
                running.server.presentChallenge(serverName: Self.name, identity: try self.challengeIdentity())
                _ = try await self.visit(running, "tls1_3")
            }
            let lines = String(decoding: try PrivateFile.read(file).bytes, as: UTF8.self).split(separator: "\n")
            let answered = lines.filter { $0.contains(#""event":"challenge.answered""#) }
            #expect(answered.count == 1 && answered[0].contains(#""server_name":"db.example.test""#))
            #expect(answered.first?.contains(#""address":"127.0.0.1:"#) == true)
            #expect(!lines.contains { $0.contains("connection.admitted") || $0.contains("handshake.refused") })
        }
    }

    @Test("case 11 tls_alpn01: without that protocol, or with others beside it, a certificate is required", arguments: versions)
    func notBypassed(version: String) async throws {
        try await RunningServer.with { running in
            running.server.presentChallenge(serverName: Self.name, identity: try self.challengeIdentity())
            for alpn in [nil, "http/1.1"] {
                let visit = try await self.visit(running, version, input: TestPeer.openingRequest(), alpn: alpn)
                #expect(visit.saw("CertificateRequest") && !visit.output.contains("HTTP/1.1"))
            }
            for alpn in ["acme-tls/1,http/1.1", "http/1.1,acme-tls/1"] {
                let visit = try await self.visit(running, version, input: TestPeer.openingRequest(), alpn: alpn)
                #expect(visit.output.contains("no application protocol") && !visit.saw("Certificate"))
            }
            let other = try await self.visit(running, version, name: "other.test")
            #expect(other.output.contains("unrecognized name") && !other.saw("Certificate"))
            running.server.removeChallenge(serverName: Self.name)
            let late = try await self.visit(running, version)
            #expect(late.output.contains("unrecognized name") && !late.saw("Certificate"))
            let checks = running.log.lines("tls handshake refused").map { $0.metadata["check"] }
            #expect(
                checks == [
                    "certificateRequired", "certificateRequired", "challengeNotAlone", "challengeNotAlone", "challengeNotPending",
                    "challengeNotPending",
                ])
            #expect(running.log.lines("acme challenge answered").isEmpty)
        }
    }

    @Test("case 11 tls_alpn01: clients are served as ever while challenges are answered, also after a reload")
    func clientsUnaffected() async throws {
        try await RunningServer.with { running in
            let before = try await running.connect()
            running.server.presentChallenge(serverName: Self.name, identity: try self.challengeIdentity())
            try await running.server.reload()
            for version in Self.versions {
                #expect(try await self.visit(running, version).output.contains("ALPN protocol: acme-tls/1"))
                let during = try await running.connect()
                try await during.send(message: "k#\u{0}C")
                #expect(try await during.message() == "#\u{1}C")
                await during.close()
            }
            try await before.send(message: "k#\u{0}C")
            #expect(try await before.message() == "#\u{1}C")
            await before.close()
        }
    }

    // MARK: Without a certificate

    @Test(
        "case 40 first_start_no_cert: it listens, answers challenges, refuses the rest with one line, and serves once there is a certificate"
    )
    func firstStart() async throws {
        try await RunningServer.with(hasIdentity: false) { running in
            #expect(!running.server.hasIdentity)
            #expect(running.log.lines.contains { $0.level == .warning && $0.message.contains("no certificate yet") })
            let client = try running.clientContext()
            for _ in 0..<5 {
                let refused = try await TestPeer.connect(to: running.address, client)
                await refused.untilClosed()
                #expect(refused.tlsError?.alert == .internalError && refused.tlsError?.isPermanent == false)
            }
            // Anybody can cause these lines: each event loop says it once.
            let lines = running.log.lines("tls handshakes are refused: there is no certificate yet")
            #expect((1...2).contains(lines.count) && lines.allSatisfy { $0.metadata["check"] == "identityAwaited" })
            #expect(running.log.lines("tls handshake refused").isEmpty)
            let plain = try await TestPeer.connect(to: running.address, nil)
            await #expect(throws: (any Error).self) { try await plain.open() }

            running.server.presentChallenge(serverName: Self.name, identity: try self.challengeIdentity())
            for version in Self.versions {
                #expect(try await self.visit(running, version).output.contains("ALPN protocol: acme-tls/1"))
            }

            // A reload while there is still none is no failure.
            try await running.server.reload()
            #expect(!running.server.hasIdentity)
            let material = try running.authority.materialPair().server
            running.source.set { material }
            try await running.server.reload()
            #expect(running.server.hasIdentity)
            let peer = try await TestPeer.connect(to: running.address, client)
            #expect(try await peer.open().hasPrefix("HTTP/1.1 101 "))
            await peer.close()
        }
    }

    @Test("case 38 reload_bad_pair: a key that is not the certificate's changes nothing, and says so; so does a certificate that is lost")
    func badPair() async throws {
        try await RunningServer.with { running in
            let before = try await running.connect()
            let (one, other) = (try running.authority.issueServer(), try running.authority.issueServer())
            let trust = try running.authority.trustStore()
            let wrong = Identity(uncheckedLeaf: one.leaf, key: other.key)
            running.source.set { TLSMaterial(identity: wrong, trustStore: trust) }
            await #expect(throws: ServerError.self) { try await running.server.reload() }
            let line = try #require(running.log.lines("reload failed, the old set stays in use").first)
            #expect(line.level == .error && line.metadata["reason"]?.contains("cannot use this certificate and key") == true)
            running.source.await(trust)
            await #expect(throws: ServerError.self) { try await running.server.reload() }
            #expect(running.server.hasIdentity)
            try await before.send(message: "k#\u{0}C")
            #expect(try await before.message() == "#\u{1}C")
            let after = try await running.connect()
            await after.close()
            await before.close()
        }
    }
}
