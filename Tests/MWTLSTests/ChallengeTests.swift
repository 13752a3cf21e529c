import COpenSSL
import MWPKI
import NIOCore
import NIOEmbedded
import TestCertificates
import Testing

@testable import MWTLS

/// ACME's tls-alpn-01 on a context that otherwise lets nobody in without a certificate (RFC 8737, RFC 8738). Method: a raw OpenSSL client,
/// as a CA's would be, without a certificate; joined in memory with our session, on both versions.
@Suite struct ChallengeTests {
    static let name = "db.example.test"

    /// A certificate as RFC 8737 §3 wants it; what is in it is MWACME's business.
    static func challengeIdentity(_ name: String = ChallengeTests.name) throws -> Identity {
        var builder = CertificateBuilder(subject: [.commonName("ACME challenge")], days: 1)
        builder.alternativeNames = [AlternativeName(serverName: name)]
        return try builder.identity()
    }

    /// A client that offers `protocols` and asks for `serverName`.
    static func visitor(
        _ protocols: [String] = ["acme-tls/1"], serverName: String? = ChallengeTests.name, identity: Identity? = nil,
        configure: (RawPeer.Context) -> Void = { _ in }
    ) -> RawPeer {
        let client = RawPeer(.client, identity: identity, configure: configure)
        client.offer(protocols, serverName: serverName)
        return client
    }

    private struct Bench {
        let authority = try! TestAuthority()
        let challenges = PendingChallenges()
        let identity: Identity
        let context: TLSContext

        init(_ version: TLSPolicy.Version, serverKey: KeyAlgorithm = .ec(.p256)) throws {
            identity = try ChallengeTests.challengeIdentity()
            challenges.present(serverName: ChallengeTests.name, identity: identity)
            let server = TLSMaterial(
                identity: try authority.issueServer(key: PrivateKey.generate(serverKey)), trustStore: try authority.trustStore())
            context = try TLSContext(server: server, challenges: challenges, policy: policy(version))
        }
    }

    @Test(
        "case 11 tls_alpn01: the challenge's certificate is shown, none is asked for, and the connection is over",
        arguments: TLSPolicy.Version.allCases)
    func shown(version: TLSPolicy.Version) throws {
        let bench = try Bench(version)
        let (client, server) = (Self.visitor(), SessionEndpoint(bench.context))
        join(client, server)
        #expect(client.isEstablished)
        #expect(client.peerCertificate == bench.identity.leaf)
        #expect(client.selectedProtocol == "acme-tls/1")
        #expect(client.handshakeMessages.contains(.certificate) && !client.handshakeMessages.contains(.certificateRequest))
        #expect(client.isClosedByPeer)
        #expect(server.challengeAnswered == Self.name)
        #expect(server.peer == nil && server.error == nil)
    }

    @Test("case 11 tls_alpn01: nothing that a validation sends is ever read, nor anything written", arguments: TLSPolicy.Version.allCases)
    func nothingRead(version: TLSPolicy.Version) throws {
        let bench = try Bench(version)
        let (client, server) = (Self.visitor(), SessionEndpoint(bench.context))
        join(client, server)
        client.write("GET / HTTP/1.1\r\n\r\n")
        server.feed(client.drain())
        var plaintext = ByteBuffer()
        let status = server.session.read(into: &plaintext)
        #expect(status == .failed(TLSError(.closed, "", "")))
        #expect(plaintext.readableBytes == 0)
        #expect(throws: TLSError(.closed, "", "")) { try server.write("HTTP/1.1 200 OK\r\n\r\n") }
    }

    @Test("case 11 tls_alpn01: also byte by byte, and with a server key of another type", arguments: TLSPolicy.Version.allCases)
    func otherKeyType(version: TLSPolicy.Version) throws {
        let bench = try Bench(version, serverKey: .rsa(bits: 2048))
        // OpenSSL would rather sign with RSA: the server's own certificate must not be there to be chosen.
        let client = Self.visitor { context in
            _ = unsafe mws_ssl_ctx_set_signature_algorithms(context.pointer, "rsa_pss_rsae_sha256:rsa_pkcs1_sha256:ecdsa_secp256r1_sha256")
        }
        let server = SessionEndpoint(bench.context)
        join(client, server, pieceBytes: 1)
        #expect(client.peerCertificate == bench.identity.leaf)
        #expect(server.challengeAnswered == Self.name)
    }

    @Test(
        "case 11 tls_alpn01: names of any length and case, and addresses in their reverse form",
        arguments: [
            ("DB.Example.TEST", "db.example.test"),
            (String(repeating: "a", count: 63) + "." + String(repeating: "b", count: 63) + ".example.test", nil),
            ("1.2.0.192.in-addr.arpa", nil),
            ("1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa", nil),
        ] as [(String, String?)])
    func names(name: String, askedFor: String?) throws {
        let bench = try Bench(.tls13)
        let identity = try Self.challengeIdentity(name)
        bench.challenges.present(serverName: name, identity: identity)
        let (client, server) = (Self.visitor(serverName: askedFor ?? name), SessionEndpoint(bench.context))
        join(client, server)
        #expect(client.peerCertificate == identity.leaf)
        #expect(server.challengeAnswered == askedFor ?? name)
    }

    struct Refused: Sendable, CustomTestStringConvertible {
        let protocols: [String]
        let serverName: String?
        let code: TLSError.Code
        let alert: TLSAlert
        var testDescription: String { "\(protocols) for \(serverName ?? "no name")" }
    }

    @Test(
        "case 11 tls_alpn01: in any other form the protocol is refused with its alert, never served as something else",
        arguments: TLSPolicy.Version.allCases,
        [
            Refused(protocols: ["acme-tls/1", "http/1.1"], serverName: name, code: .challengeNotAlone, alert: .noApplicationProtocol),
            Refused(protocols: ["http/1.1", "acme-tls/1"], serverName: name, code: .challengeNotAlone, alert: .noApplicationProtocol),
            Refused(protocols: ["acme-tls/1", "acme-tls/1"], serverName: name, code: .challengeNotAlone, alert: .noApplicationProtocol),
            Refused(protocols: ["acme-tls/1"], serverName: "other.test", code: .challengeNotPending, alert: .unrecognizedName),
            Refused(protocols: ["acme-tls/1"], serverName: "x." + name, code: .challengeNotPending, alert: .unrecognizedName),
            Refused(protocols: ["acme-tls/1"], serverName: nil, code: .challengeNotPending, alert: .unrecognizedName),
        ])
    func refused(version: TLSPolicy.Version, refused: Refused) throws {
        let bench = try Bench(version)
        // Also from one who has a good certificate.
        for identity in [nil, try bench.authority.issueClient()] {
            let client = Self.visitor(refused.protocols, serverName: refused.serverName, identity: identity)
            let server = SessionEndpoint(bench.context)
            join(client, server)
            #expect(server.error?.code == refused.code)
            #expect(server.error?.alert == refused.alert)
            #expect(client.alertReceived == refused.alert.rawValue)
            #expect(server.peer == nil && server.challengeAnswered == nil && !client.isEstablished)
        }
    }

    // Method: our handler on a channel whose peer ends the stream, or is gone, before a byte of its Finished has come.
    @Test(
        "case 11 tls_alpn01: a CA that leaves as soon as it has seen the certificate has been answered; one that leaves before has not",
        arguments: TLSPolicy.Version.allCases, [true, false])
    func leavesEarly(version: TLSPolicy.Version, isHalfClosed: Bool) throws {
        for hasSeenIt in [true, false] {
            let bench = try Bench(version)
            let (channel, listener) = (EmbeddedChannel(), Listener())
            try channel.pipeline.syncOperations.addHandlers([TLSHandler(context: bench.context), listener])
            try channel.connect(to: try SocketAddress(ipAddress: "127.0.0.1", port: 1)).wait()
            let client = Self.visitor()
            client.step()
            let hello = client.drain()
            try channel.writeInbound(hasSeenIt ? hello : hello.getSlice(at: 0, length: hello.readableBytes - 1))
            channel.pipeline.fireChannelReadComplete()
            if isHalfClosed {
                channel.pipeline.fireUserInboundEventTriggered(ChannelEvent.inputClosed)
            } else {
                channel.pipeline.fireChannelInactive()
            }
            #expect(listener.answered == (hasSeenIt ? [Self.name] : []))
            #expect(listener.errors == (hasSeenIt ? [] : [.handshakeAbandoned]))
            _ = try? channel.finish(acceptAlreadyClosed: true)
        }
    }

    private final class Listener: ChannelInboundHandler {
        typealias InboundIn = ByteBuffer
        private(set) var answered: [String] = []
        private(set) var errors: [TLSError.Code] = []

        func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
            if let event = event as? TLSChallengeAnswered { answered.append(event.serverName) }
        }

        func errorCaught(context: ChannelHandlerContext, error: any Error) {
            if let error = error as? TLSError { errors.append(error.code) }
        }
    }

    @Test("case 11 tls_alpn01: a challenge that is removed is not pending any more", arguments: TLSPolicy.Version.allCases)
    func removed(version: TLSPolicy.Version) throws {
        let bench = try Bench(version)
        bench.challenges.remove(serverName: Self.name)
        let (client, server) = (Self.visitor(), SessionEndpoint(bench.context))
        join(client, server)
        #expect(server.error?.code == .challengeNotPending)
        #expect(client.alertReceived == TLSAlert.unrecognizedName.rawValue)
    }

    @Test(
        "case 11 tls_alpn01: every other handshake requires a client certificate while a challenge is pending, also for its name",
        arguments: TLSPolicy.Version.allCases, [[], ["http/1.1"], ["acme-tls/2", "acme-tls/"], ["ACME-TLS/1"]])
    func others(version: TLSPolicy.Version, protocols: [String]) throws {
        let bench = try Bench(version)
        let identity = try bench.authority.issueClient()
        let (client, server) = (Self.visitor(protocols, identity: identity), SessionEndpoint(bench.context))
        join(client, server)
        #expect(client.peerCertificate == bench.context.identity?.leaf)
        #expect(client.selectedProtocol == nil)
        #expect(client.handshakeMessages.contains(.certificateRequest))
        #expect(server.peer?.leaf == identity.leaf)

        let (stranger, refusing) = (Self.visitor(protocols), SessionEndpoint(bench.context))
        join(stranger, refusing)
        #expect(refusing.error?.code == .certificateRequired)
        #expect(stranger.alertReceived == (version == .tls13 ? TLSAlert.certificateRequired : .handshakeFailure).rawValue)
    }

    @Test(
        "case 11 tls_alpn01: the second hello of a handshake begins no other kind than the first",
        arguments: [(["acme-tls/1"], []), ([], ["acme-tls/1"]), (["acme-tls/1"], ["http/1.1"])] as [([String], [String])])
    func changedHello(first: [String], second: [String]) throws {
        let bench = try Bench(.tls13)
        // A key share that we do not take: the server asks for a second hello.
        let client = Self.visitor(first, identity: try bench.authority.issueClient()) { context in
            _ = unsafe mws_ssl_ctx_set_groups(context.pointer, "P-521:P-256")
        }
        let server = SessionEndpoint(bench.context)
        client.step()
        server.feed(client.drain())
        server.step()
        #expect(server.error == nil && server.session.phase == .handshaking)
        client.offer(second, serverName: Self.name)
        join(client, server)
        #expect(server.error?.code == .helloChanged)
        #expect(client.alertReceived == TLSAlert.illegalParameter.rawValue)
        #expect(server.peer == nil && server.challengeAnswered == nil)
    }

    @Test("case 11 tls_alpn01: a second hello that says the same is answered")
    func sameHello() throws {
        let bench = try Bench(.tls13)
        let client = Self.visitor { context in _ = unsafe mws_ssl_ctx_set_groups(context.pointer, "P-521:P-256") }
        let server = SessionEndpoint(bench.context)
        join(client, server)
        #expect(client.handshakeMessages.filter { $0 == .clientHello }.count == 2)
        #expect(client.peerCertificate == bench.identity.leaf)
    }

    @Test("case 11 tls_alpn01: a validation leaves nothing behind that a client could resume", arguments: TLSPolicy.Version.allCases)
    func notResumed(version: TLSPolicy.Version) throws {
        let bench = try Bench(version)
        let first = Self.visitor()
        join(first, SessionEndpoint(bench.context))
        #expect(first.isEstablished && !first.hasResumableSession)
        let again = Self.visitor([], serverName: Self.name)
        unsafe first.withSSL { done in unsafe again.withSSL { ssl in _ = unsafe SSL_set_session(ssl, SSL_get_session(done)) } }
        let server = SessionEndpoint(bench.context)
        join(again, server)
        #expect(!again.isReused)
        #expect(server.error?.code == .certificateRequired)
    }

    // MARK: Without an identity

    @Test(
        "case 40 first_start_no_cert: a context without an identity shows challenges, and refuses the rest as something temporary",
        arguments: TLSPolicy.Version.allCases)
    func awaiting(version: TLSPolicy.Version) throws {
        let authority = try TestAuthority()
        let challenges = PendingChallenges()
        let context = try TLSContext(
            server: .awaitingIdentity(try authority.trustStore()), challenges: challenges, policy: policy(version))
        let pair = try authority.materialPair()
        let client = SessionEndpoint(try TLSContext(client: pair.client, verification: .name(.dns("localhost")), policy: policy(version)))
        let server = SessionEndpoint(context)
        join(client, server)
        #expect(server.error?.code == .identityAwaited)
        #expect(server.error?.alert == .internalError)
        #expect(client.error?.code == .alertReceived)
        #expect(client.error?.isPermanent == false)

        let identity = try Self.challengeIdentity()
        challenges.present(serverName: Self.name, identity: identity)
        let (visitor, visited) = (Self.visitor(), SessionEndpoint(context))
        join(visitor, visited)
        #expect(visitor.peerCertificate == identity.leaf)
        #expect(visited.challengeAnswered == Self.name)
    }

    // MARK: The extensions

    @Test("The extensions are read as RFC 7301 and RFC 6066 draw them")
    func extensions() {
        let acme = Array("acme-tls/1".utf8)
        #expect(ClientHelloExtensions.protocols([0, 11, 10] + acme) == ["acme-tls/1"])
        #expect(ClientHelloExtensions.protocols([0, 14, 10] + acme + [2, 0x68, 0x32]) == ["acme-tls/1", "h2"])
        for malformed: [UInt8] in [[], [0], [0, 0], [0, 1, 0], [0, 12, 10] + acme, [0, 11, 11] + acme, [0, 11, 10] + acme + [0]] {
            #expect(ClientHelloExtensions.protocols(malformed) == nil)
        }
        #expect(ClientHelloExtensions.serverName([0, 6, 0, 0, 3, 0x41, 0x2E, 0x62]) == "a.b")
        for malformed: [UInt8] in [
            [], [0, 0], [0, 3, 0, 0, 0], [0, 6, 1, 0, 3, 0x41, 0x2E, 0x62], [0, 6, 0, 0, 4, 0x41, 0x2E, 0x62], [0, 4, 0, 0, 1, 0],
            [0, 5, 0, 0, 3, 0x41, 0x2E, 0x62], [0, 8, 0, 0, 1, 0x61, 0, 0, 1, 0x62],
        ] {
            #expect(ClientHelloExtensions.serverName(malformed) == nil)
        }
    }

    @Test("Any bytes as extensions are read or refused, and what is read was there")
    func anyExtensions() {
        // Method: mutations of good ones, 100,000 of them; the generator is seeded.
        var random = SplitMix(state: 0x8737)
        let seeds: [[UInt8]] = [[0, 11, 10] + Array("acme-tls/1".utf8), [0, 6, 0, 0, 3, 0x41, 0x2E, 0x62], [0, 3, 2, 0x68, 0x32], []]
        for _ in 0..<100_000 {
            var bytes = seeds[Int(random.next() % UInt64(seeds.count))]
            for _ in 0..<(random.next() % 4) {
                let at = Int(random.next() % UInt64(bytes.count + 1))
                if at == bytes.count || random.next() % 3 == 0 {
                    bytes.insert(UInt8(truncatingIfNeeded: random.next()), at: at)
                } else if random.next() % 2 == 0 {
                    bytes[at] = UInt8(truncatingIfNeeded: random.next())
                } else {
                    bytes.remove(at: at)
                }
            }
            if let protocols = ClientHelloExtensions.protocols(bytes) {
                #expect(protocols.count + 2 <= bytes.count)
                if protocols == ["acme-tls/1"] { #expect(bytes == seeds[0]) }
            }
            if let name = ClientHelloExtensions.serverName(bytes) { #expect(name.utf8.count + 5 == bytes.count) }
        }
    }

    private struct SplitMix: RandomNumberGenerator {
        var state: UInt64

        mutating func next() -> UInt64 {
            state &+= 0x9E37_79B9_7F4A_7C15
            var z = state
            z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
            z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
            return z ^ (z >> 31)
        }
    }
}
