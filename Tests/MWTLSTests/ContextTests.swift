import MWPKI
import MWTLS
import TestCertificates
import Testing

/// What a context refuses to be made of: cases 17, 36 and 37; and the policy that no setting weakens.
@Suite struct ContextTests {
    @Test("17: a DSA key is refused when it is loaded, with the keytool option that helps")
    func dsa() throws {
        let error = try #require(throws: PKIError.self) {
            _ = try PrivateKey(pem: Array(WeakKey.dsaPEM.utf8), passphrase: nil, source: "server.keystore")
        }
        #expect("\(error)".contains("-keyalg"))
    }

    @Test("36: a certificate with another key makes no context, and the context in use goes on")
    func mismatch() throws {
        let authority = try TestAuthority()
        let pair = try authority.materialPair()
        let inUse = try TLSContext(server: pair.server)
        let wrong = Identity(uncheckedLeaf: pair.server.identity.leaf, key: pair.client.identity.key)
        #expect(throws: TLSError(.materialRejected, "", "")) {
            _ = try TLSContext(server: TLSMaterial(identity: wrong, trustStore: pair.server.trustStore))
        }
        let server = SessionEndpoint(inUse)
        let client = SessionEndpoint(try TLSContext(client: pair.client, verification: .name(.dns("localhost"))))
        join(client, server)
        #expect(server.peer?.leaf == pair.client.identity.leaf)
    }

    @Test("36: our own weak key or signature makes no context", arguments: [true, false])
    func weakIdentity(isKeyWeak: Bool) throws {
        let authority = try TestAuthority()
        let identity =
            isKeyWeak ? try authority.issueServer(key: try WeakKey.rsa()) : try authority.issueServer { $0.signWithSHA1() }
        #expect(throws: TLSError(.materialRejected, "", "")) {
            _ = try TLSContext(server: TLSMaterial(identity: identity, trustStore: try authority.trustStore()))
        }
    }

    @Test("37: an empty trust store cannot be made, so it can never mean \"trust everybody\"")
    func emptyTrustStore() {
        #expect(throws: PKIError.self) { _ = try TrustStore(anchors: []) }
    }

    @Test("37: no pin at all is no verification either, and is refused")
    func noPins() throws {
        let client = try TestAuthority().materialPair().client
        #expect(throws: TLSError(.policyRejected, "", "")) { _ = try TLSContext(client: client, verification: .pinned([])) }
    }

    @Test("A minimum version above the maximum is refused")
    func versions() throws {
        let server = try TestAuthority().materialPair().server
        #expect(throws: TLSError(.policyRejected, "", "")) {
            _ = try TLSContext(server: server, policy: TLSPolicy(minimumVersion: .tls13, maximumVersion: .tls12))
        }
    }

    @Test("Connections of before a reload keep their context")
    func outlived() throws {
        let pair = try TestAuthority().materialPair()
        let client = SessionEndpoint(try TLSContext(client: pair.client, verification: .name(.dns("localhost"))))
        let server = SessionEndpoint(try TLSContext(server: pair.server))
        // Nobody else holds the two contexts now.
        join(client, server)
        try client.write("still here")
        join(client, server)
        #expect(server.text == "still here")
    }

    @Test("Only ephemeral key exchange and authenticated encryption are spoken", arguments: TLSPolicy.Version.allCases)
    func suites(version: TLSPolicy.Version) throws {
        let pair = try TestAuthority().materialPair()
        let peer = try #require(try attempt(version, server: pair.server, client: pair.client).server.peer)
        #expect(peer.cipher.contains("GCM") || peer.cipher.contains("CHACHA20"))
        #expect(version == .tls13 || peer.cipher.hasPrefix("ECDHE"))
        #expect(peer.group == "x25519" || peer.group == "X25519MLKEM768")
    }

    @Test("RSA identities work in the documented layout", arguments: TLSPolicy.Version.allCases)
    func rsa(version: TLSPolicy.Version) throws {
        let pair = try exchangePair(algorithm: .rsa(bits: 2048))
        let (client, server) = try attempt(
            version, server: pair.server, client: pair.client, verification: .pinned([pair.server.identity.leaf.sha256]))
        #expect(client.error == nil)
        #expect(server.peer?.alias == "wsTestKeyClt")
    }

    @Test(
        "A server name is a host name or an address",
        arguments: [
            ("localhost", ServerName.dns("localhost")), ("DB.Example.org.", .dns("db.example.org")), ("127.0.0.1", .ip("127.0.0.1")),
            ("::1", .ip("::1")), ("[::1]", .ip("::1")), ("[2001:DB8:0:0::1]", .ip("2001:db8::1")), ("a_b-c.d1", .dns("a_b-c.d1")),
        ] as [(String, ServerName)])
    func serverName(text: String, name: ServerName) {
        #expect(ServerName(text) == name)
    }

    @Test(
        "What is neither is no server name",
        arguments: [
            "", ".", "a..b", "-a", "a-", "a b", "*.example.org", "a\0b", "1.2.3.4.5", "999.1.1.1", "[127.0.0.1]", "[::1", "localhost:8443",
            "exämple.org", String(repeating: "a", count: 64), (0..<64).map { _ in "abc" }.joined(separator: "."),
        ])
    func noServerName(text: String) {
        #expect(ServerName(text) == nil)
    }

    @Test("An error tells what, where, what was expected and what to do, and is equal by its code")
    func errors() {
        let error = TLSError(.unknownCA, "peer certificate", "no issuer", expected: "a chain", found: "a leaf", remedy: "send the chain")
        #expect("\(error)" == "tls.unknownCA: peer certificate: no issuer (expected a chain, found a leaf); send the chain")
        #expect(error == TLSError(.unknownCA, "other", "other"))
        #expect(error != TLSError(.truncated, "peer certificate", "no issuer"))
    }

    @Test(
        "Only alerts that could end differently next time are worth a retry",
        arguments: [
            (TLSAlert.unknownCA, true), (.certificateRequired, true), (.certificateExpired, true), (.certificateRevoked, true),
            (.badCertificate, true), (.handshakeFailure, true), (.protocolVersion, true), (.accessDenied, true),
            (.internalError, false), (.userCanceled, false), (.badRecordMAC, false),
        ] as [(TLSAlert, Bool)])
    func permanence(alert: TLSAlert, isPermanent: Bool) {
        #expect(TLSError(.alertReceived, "peer", "", alert: alert).isPermanent == isPermanent)
    }
}
