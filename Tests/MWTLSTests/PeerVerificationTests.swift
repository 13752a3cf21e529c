import COpenSSL
import MWPKI
import MWTLS
import TestCertificates
import Testing

/// Who is let in: cases 1 to 5, 13 to 16, 18 to 24, 29 and 38 of the negative table, on TLS 1.2 and 1.3. Method: two sessions, or a session
/// and a careless OpenSSL, joined in memory.
@Suite struct PeerVerificationTests {
    struct Refusal: Sendable, CustomTestStringConvertible {
        let testDescription: String
        let code: TLSError.Code
        let result: Int
        let alert: TLSAlert
        let identity: @Sendable (TestAuthority) throws -> Identity
    }

    static let refusedClients: [Refusal] = [
        Refusal(testDescription: "2: of an unknown CA with our CA's name", code: .unknownCA, result: 20, alert: .unknownCA) {
            try $0.impostor().issueClient()
        },
        Refusal(testDescription: "3: expired", code: .certificateExpired, result: 10, alert: .certificateExpired) {
            try $0.issueClient { $0.expire() }
        },
        Refusal(testDescription: "4: not yet valid", code: .certificateNotYetValid, result: 9, alert: .badCertificate) {
            try $0.issueClient { $0.beginLater() }
        },
        Refusal(testDescription: "13: for servers only", code: .purposeMismatch, result: 26, alert: .unsupportedCertificate) {
            try $0.issueClient { $0.setUsages(["serverAuth"]) }
        },
        Refusal(testDescription: "23: chain longer than the depth", code: .chainTooLong, result: 22, alert: .unknownCA) {
            try $0.chain(of: 5).issueClient()
        },
        Refusal(testDescription: "24: intermediate missing", code: .unknownCA, result: 20, alert: .unknownCA) {
            let identity = try $0.intermediate().issueClient()
            return Identity(uncheckedLeaf: identity.leaf, key: identity.key)
        },
    ]

    @Test("A client whose certificate is refused learns why, on both versions", arguments: refusedClients, TLSPolicy.Version.allCases)
    func refusedClient(_ refusal: Refusal, version: TLSPolicy.Version) throws {
        let authority = try TestAuthority()
        let identity = try refusal.identity(authority)
        let client = TLSMaterial(identity: identity, trustStore: try authority.trustStore())
        let (clientEnd, serverEnd) = try attempt(version, server: authority.materialPair().server, client: client)

        let error = try #require(serverEnd.error)
        #expect(serverEnd.peer == nil)
        #expect(error.code == refusal.code)
        #expect(error.verificationResult == refusal.result)
        #expect(error.alert == refusal.alert)
        #expect(error.certificate != nil)
        #expect(error.isPermanent)
        let seen = try #require(clientEnd.error)
        #expect(seen.code == .alertReceived)
        #expect(seen.alert == refusal.alert)
        #expect(seen.isPermanent)
        // In 1.3 the client has finished its handshake when the verdict comes; in 1.2 it has not.
        #expect((clientEnd.peer != nil) == (version == .tls13))
    }

    @Test("Connections with one certificate share one copy of it, and each is judged", arguments: TLSPolicy.Version.allCases)
    func sharedLeaf(version: TLSPolicy.Version) throws {
        let authority = try TestAuthority()
        let (serverMaterial, clientMaterial) = try authority.materialPair()
        let server = try TLSContext(server: serverMaterial, policy: policy(version))
        let client = try TLSContext(client: clientMaterial, verification: .name(.dns("localhost")), policy: policy(version))
        var leaves: [Certificate] = []
        for _ in 0..<2 {
            let (serverEnd, clientEnd) = (SessionEndpoint(server), SessionEndpoint(client))
            join(clientEnd, serverEnd)
            leaves.append(try #require(serverEnd.peer).leaf)
        }
        #expect(leaves[0] === leaves[1])
        #expect(leaves[0] == clientMaterial.identity.leaf)
        // Somebody else with a certificate of the same names.
        let other = try TLSContext(
            client: TLSMaterial(identity: authority.issueClient(), trustStore: authority.trustStore()),
            verification: .name(.dns("localhost")), policy: policy(version))
        let (serverEnd, clientEnd) = (SessionEndpoint(server), SessionEndpoint(other))
        join(clientEnd, serverEnd)
        #expect(try #require(serverEnd.peer).leaf == other.identity?.leaf)
    }

    @Test("1: a client without a certificate is refused", arguments: TLSPolicy.Version.allCases)
    func noCertificate(version: TLSPolicy.Version) throws {
        let server = SessionEndpoint(try TLSContext(server: TestAuthority().materialPair().server, policy: policy(version)))
        let client = RawPeer(.client)
        join(client, server)
        let expected: TLSAlert = version == .tls13 ? .certificateRequired : .handshakeFailure
        #expect(server.peer == nil)
        #expect(server.error?.code == .certificateRequired)
        #expect(server.error?.alert == expected)
        #expect(client.alertReceived == expected.rawValue)
    }

    @Test("case 5: a revoked client is refused", arguments: TLSPolicy.Version.allCases)
    func revokedClient(version: TLSPolicy.Version) throws {
        let authority = try TestAuthority()
        let pair = try authority.materialPair()
        let list = try authority.revocationList(revoking: [pair.client.identity.leaf])
        let server = TLSMaterial(identity: pair.server.identity, trustStore: try authority.trustStore(revocationLists: [list]))
        let (clientEnd, serverEnd) = try attempt(version, server: server, client: pair.client)
        #expect(serverEnd.error?.code == .certificateRevoked)
        #expect(serverEnd.error?.verificationResult == 23)
        #expect(clientEnd.error?.alert == .certificateRevoked)
        // Who is not on the list comes in.
        let other = TLSMaterial(identity: try authority.issueClient(name: "bob"), trustStore: pair.client.trustStore)
        #expect(try attempt(version, server: server, client: other).server.peer?.leaf.commonName == "bob")
    }

    @Test("case 8: past its next update a revocation list refuses everybody", arguments: TLSPolicy.Version.allCases)
    func expiredList(version: TLSPolicy.Version) throws {
        let authority = try TestAuthority()
        let pair = try authority.materialPair()
        let list = try authority.revocationList()
        let server = TLSMaterial(identity: pair.server.identity, trustStore: try authority.trustStore(revocationLists: [list]))
        let later = Timestamp(secondsSince1970: list.nextUpdate.secondsSince1970 + 60)
        let serverEnd = try attempt(version, server: server, client: pair.client, serverPolicy: { $0.verificationTime = later }).server
        #expect(serverEnd.error?.code == .revocationListExpired)
        #expect(serverEnd.error?.verificationResult == 12)
    }

    // Every way to make a trust store with lists, times every way to make a context out of it. None can forget to look at them.
    @Test("case 7: lists are looked at, whatever way a context is made", arguments: TLSPolicy.Version.allCases)
    func listsAlwaysCount(version: TLSPolicy.Version) throws {
        let authority = try TestAuthority()
        let pair = try authority.materialPair()
        let (client, server) = (pair.client.identity, pair.server.identity)
        let list = try authority.revocationList(revoking: [client.leaf, server.leaf])
        let stores = [
            try TrustStore(anchors: [TrustAnchor(certificate: authority.root)], revocationLists: [list]),
            try TrustStore(anchors: [TrustAnchor(certificate: authority.root)], revocationLists: [list], revocationGraceSeconds: 3600),
            try TrustStore.pem(Array(authority.root.pem.utf8), revocationLists: [list]),
        ]
        for store in stores {
            let servers: [TLSContext] = [
                try TLSContext(server: TLSMaterial(identity: server, trustStore: store), policy: policy(version)),
                try TLSContext(server: .complete(TLSMaterial(identity: server, trustStore: store)), policy: policy(version)),
                try TLSContext(
                    server: TLSMaterial(identity: server, trustStore: store), policy: policy(version),
                    refusals: RefusalSet([.identity("nobody")])),
            ]
            for context in servers {
                let (ours, theirs) = (
                    SessionEndpoint(context),
                    SessionEndpoint(try TLSContext(client: pair.client, verification: .name(.dns("localhost")), policy: policy(version)))
                )
                join(theirs, ours)
                #expect(ours.peer == nil && ours.error?.code == .certificateRevoked && ours.error?.verificationResult == 23)
            }
            for verification in [ServerVerification.name(.dns("localhost")), .pinned([server.leaf.sha256])] {
                let material = TLSMaterial(identity: client, trustStore: store)
                let end = try attempt(version, server: pair.server, client: material, verification: verification).client
                #expect(end.peer == nil && end.error?.code == .certificateRevoked && end.error?.verificationResult == 23)
            }
        }
    }

    @Test(
        "case 25: an authority vouches only for names that it may, of alternative names, and of a common name without them",
        arguments: TLSPolicy.Version.allCases)
    func nameConstraints(version: TLSPolicy.Version) throws {
        let authority = try TestAuthority()
        let pair = try authority.materialPair()
        let below = try authority.intermediate { $0.constrainNames(to: ["example.org"], excluding: ["bad.example.org"]) }
        let cases: [(name: String, alternatives: [AlternativeName], result: Int?)] = [
            ("a.example.org", [], nil), ("alice", [.dns("a.example.org")], nil), ("a.example.com", [.dns("a.example.org")], nil),
            ("alice", [.dns("a.example.com")], 47), ("alice", [.dns("a.example.org"), .dns("a.example.com")], 47),
            ("a.example.com", [], 47), ("alice", [.dns("x.bad.example.org")], 48), ("x.bad.example.org", [], 48),
        ]
        for one in cases {
            let identity = try below.issueClient(name: one.name) { $0.alternativeNames = one.alternatives }
            let client = TLSMaterial(identity: identity, trustStore: pair.client.trustStore)
            let end = try attempt(version, server: pair.server, client: client).server
            #expect((end.peer != nil) == (one.result == nil), "\(one)")
            #expect(end.error?.verificationResult == one.result, "\(one)")
            #expect(end.error == nil || end.error?.code == .nameConstraintViolated, "\(one)")
        }
    }

    @Test("14: a client certificate does not make a server", arguments: TLSPolicy.Version.allCases)
    func clientCertificateAsServer(version: TLSPolicy.Version) throws {
        let authority = try TestAuthority()
        let server = TLSMaterial(
            identity: try authority.issueServer { $0.setUsages(["clientAuth"]) }, trustStore: try authority.trustStore())
        let (clientEnd, serverEnd) = try attempt(version, server: server, client: authority.materialPair().client)
        #expect(clientEnd.peer == nil)
        #expect(clientEnd.error?.code == .purposeMismatch)
        #expect(clientEnd.error?.verificationResult == 26)
        #expect(serverEnd.error?.alert == .unsupportedCertificate)
    }

    @Test("15: an RSA-1024 client certificate is refused", arguments: TLSPolicy.Version.allCases)
    func weakKey(version: TLSPolicy.Version) throws {
        let authority = try TestAuthority()
        let client = RawPeer(.client, identity: try authority.issueClient(key: try WeakKey.rsa()))
        let server = SessionEndpoint(try TLSContext(server: authority.materialPair().server, policy: policy(version)))
        join(client, server)
        #expect(server.error?.code == .keyTooWeak)
        #expect(server.error?.verificationResult == 66)
        #expect(client.alertReceived == TLSAlert.badCertificate.rawValue)
    }

    @Test("16: a client certificate signed with SHA-1 is refused", arguments: TLSPolicy.Version.allCases)
    func weakSignature(version: TLSPolicy.Version) throws {
        let authority = try TestAuthority()
        let client = RawPeer(.client, identity: try authority.issueClient { $0.signWithSHA1() })
        let server = SessionEndpoint(try TLSContext(server: authority.materialPair().server, policy: policy(version)))
        join(client, server)
        #expect(server.peer == nil)
        #expect(server.error?.code == .signatureTooWeak)
        #expect(server.error?.verificationResult == 68)
        #expect(client.alertReceived == TLSAlert.badCertificate.rawValue)
    }

    @Test("18: the documented layout is accepted in both directions, and the alias names the peer", arguments: TLSPolicy.Version.allCases)
    func documentedLayout(version: TLSPolicy.Version) throws {
        let pair = try exchangePair()
        let (clientEnd, serverEnd) = try attempt(
            version, server: pair.server, client: pair.client, verification: .pinned([pair.server.identity.leaf.sha256]))
        #expect(clientEnd.error == nil)
        #expect(serverEnd.error == nil)
        #expect(serverEnd.peer?.alias == "wsTestKeyClt")
        #expect(clientEnd.peer?.alias == "wsTestKey")
        #expect(serverEnd.peer?.leaf == pair.client.identity.leaf)
        #expect(serverEnd.peer?.tlsVersion == version)
    }

    @Test("19: the server's own key is no client", arguments: TLSPolicy.Version.allCases)
    func ownKey(version: TLSPolicy.Version) throws {
        let pair = try exchangePair()
        // Another certificate for the same key is no better.
        let thief = TLSMaterial(identity: pair.server.identity, trustStore: pair.client.trustStore)
        let (clientEnd, serverEnd) = try attempt(
            version, server: pair.server, client: thief,
            // The thief's own rule would stop it first: a server with its own key. A careless peer has no such rule.
            verification: .pinned([pair.server.identity.leaf.sha256]))
        #expect(clientEnd.error?.code == .ownCertificate)
        #expect(serverEnd.peer == nil)

        let careless = RawPeer(.client, identity: pair.server.identity)
        let server = SessionEndpoint(try TLSContext(server: pair.server, policy: policy(version)))
        join(careless, server)
        #expect(server.peer == nil)
        #expect(server.error?.code == .ownCertificate)
        #expect(careless.alertReceived == TLSAlert.badCertificate.rawValue)
    }

    @Test("20: a stranger with the same name is refused: trust goes by certificate", arguments: TLSPolicy.Version.allCases)
    func stranger(version: TLSPolicy.Version) throws {
        let pair = try exchangePair()
        let client = TLSMaterial(identity: pair.stranger, trustStore: pair.client.trustStore)
        let (clientEnd, serverEnd) = try attempt(
            version, server: pair.server, client: client, verification: .pinned([pair.server.identity.leaf.sha256]))
        #expect(serverEnd.peer == nil)
        #expect(serverEnd.error?.code == .untrustedSelfSigned)
        #expect(serverEnd.error?.verificationResult == 18)
        #expect(serverEnd.error?.certificate?.fingerprint == pair.stranger.leaf.sha256)
        #expect(clientEnd.error?.code == .alertReceived)
    }

    @Test("21: a trusted certificate that has expired is refused", arguments: TLSPolicy.Version.allCases)
    func expiredAnchor(version: TLSPolicy.Version) throws {
        let pair = try exchangePair()
        let later = pair.client.identity.leaf.notAfter.adding(days: 1)
        let (_, serverEnd) = try attempt(
            version, server: pair.server, client: pair.client, verification: .pinned([pair.server.identity.leaf.sha256]),
            serverPolicy: { $0.verificationTime = later })
        #expect(serverEnd.error?.code == .certificateExpired)
        #expect(serverEnd.error?.verificationResult == 10)
        // A pinned server neither.
        let (clientEnd, _) = try attempt(
            version, server: pair.server, client: pair.client, verification: .pinned([pair.server.identity.leaf.sha256]),
            clientPolicy: { $0.verificationTime = later })
        #expect(clientEnd.error?.code == .certificateExpired)
    }

    @Test("22: a trusted leaf vouches for nobody", arguments: TLSPolicy.Version.allCases)
    func leafAsIssuer(version: TLSPolicy.Version) throws {
        let pair = try exchangePair { $0.basicConstraints = .leaf }
        let issued = try CertificateBuilder.client(name: "mallory").identity(issuer: pair.client.identity)
        let client = TLSMaterial(
            identity: Identity(uncheckedLeaf: issued.leaf, intermediates: [pair.client.identity.leaf], key: issued.key),
            trustStore: pair.client.trustStore)
        let (_, serverEnd) = try attempt(
            version, server: pair.server, client: client, verification: .pinned([pair.server.identity.leaf.sha256]))
        #expect(serverEnd.peer == nil)
        #expect(serverEnd.error?.code == .issuerNotAuthority)
        #expect(serverEnd.error?.verificationResult == 79)
    }

    @Test("23: a chain of 100 certificates is refused before it is all in memory", arguments: TLSPolicy.Version.allCases)
    func hundredCertificates(version: TLSPolicy.Version) throws {
        let authority = try TestAuthority()
        let client = TLSMaterial(identity: try authority.chain(of: 100).issueClient(), trustStore: try authority.trustStore())
        let (clientEnd, serverEnd) = try attempt(version, server: authority.materialPair().server, client: client)
        #expect(serverEnd.peer == nil)
        #expect(serverEnd.error?.code == .chainTooLarge)
        #expect(clientEnd.error?.code == .alertReceived)
    }

    @Test("24: intermediates in the wrong order are accepted", arguments: TLSPolicy.Version.allCases)
    func wrongOrder(version: TLSPolicy.Version) throws {
        let authority = try TestAuthority()
        let identity = try authority.chain(of: 2).issueClient()
        let reversed = Identity(uncheckedLeaf: identity.leaf, intermediates: identity.intermediates.reversed(), key: identity.key)
        let client = TLSMaterial(identity: reversed, trustStore: try authority.trustStore())
        let (_, serverEnd) = try attempt(version, server: authority.materialPair().server, client: client)
        #expect(serverEnd.error == nil)
        #expect(serverEnd.peer?.chain.count == 4)
        #expect(serverEnd.peer?.leaf == identity.leaf)
    }

    @Test("29: a certificate without its private key is refused", arguments: TLSPolicy.Version.allCases)
    func foreignCertificate(version: TLSPolicy.Version) throws {
        let authority = try TestAuthority()
        let victim = try authority.issueClient(name: "victim")
        let client = RawPeer(.client, identity: try victim.withForeignKey())
        let server = SessionEndpoint(try TLSContext(server: authority.materialPair().server, policy: policy(version)))
        join(client, server)
        #expect(server.peer == nil)
        #expect(server.error?.code == .possessionNotProven)
        #expect(client.alertReceived == TLSAlert.decryptError.rawValue)
    }

    // What is known of a certificate saves reading it again, and proves nothing.
    @Test(arguments: TLSPolicy.Version.allCases)
    func `A certificate that is known opens nothing without its key, nor with another signature`(version: TLSPolicy.Version) throws {
        let authority = try TestAuthority()
        let context = try TLSContext(server: authority.materialPair().server, policy: policy(version))
        let victim = try authority.issueClient(name: "victim")
        func attempt(_ identity: Identity) -> SessionEndpoint {
            let server = SessionEndpoint(context)
            join(RawPeer(.client, identity: identity), server)
            return server
        }
        #expect(attempt(victim).peer?.leaf == victim.leaf)
        #expect(attempt(try victim.withForeignKey()).error?.code == .possessionNotProven)
        var der = victim.leaf.derBytes
        der[der.count - 1] ^= 1
        let forged = Identity(uncheckedLeaf: try Certificate(der: der, source: "forged"), intermediates: [], key: victim.key)
        #expect(attempt(forged).error?.verificationResult == Int(X509_V_ERR_CERT_SIGNATURE_FAILURE))
        #expect(attempt(victim).peer?.leaf == victim.leaf)
    }

    @Test("38: a server of another name is refused", arguments: TLSPolicy.Version.allCases, ["db.example.org", "127.0.0.2", "::2"])
    func otherName(version: TLSPolicy.Version, name: String) throws {
        let pair = try TestAuthority().materialPair()
        let (clientEnd, serverEnd) = try attempt(
            version, server: pair.server, client: pair.client, verification: .name(try #require(ServerName(name))))
        #expect(clientEnd.peer == nil)
        #expect(clientEnd.error?.code == .serverNameMismatch)
        #expect(serverEnd.error?.alert == .badCertificate)
    }

    @Test(
        "A server is accepted by each of its names", arguments: TLSPolicy.Version.allCases,
        ["localhost", "LOCALHOST.", "127.0.0.1", "[::1]"])
    func everyName(version: TLSPolicy.Version, name: String) throws {
        let pair = try TestAuthority().materialPair()
        let (clientEnd, serverEnd) = try attempt(
            version, server: pair.server, client: pair.client, verification: .name(try #require(ServerName(name))))
        #expect(clientEnd.error == nil)
        #expect(serverEnd.peer?.leaf == pair.client.identity.leaf)
        #expect(clientEnd.peer?.leaf == pair.server.identity.leaf)
    }

    @Test("38: a self-signed server without names is accepted only when it is pinned", arguments: TLSPolicy.Version.allCases)
    func selfSignedWithoutNames(version: TLSPolicy.Version) throws {
        let pair = try exchangePair()
        let named = try attempt(version, server: pair.server, client: pair.client).client
        #expect(named.error?.code == .serverNameMismatch)
        #expect(named.error?.verificationResult == 62)
        let other = try attempt(
            version, server: pair.server, client: pair.client, verification: .pinned([pair.stranger.leaf.sha256])
        ).client
        #expect(other.error?.code == .certificateNotPinned)
    }

    @Test("38: the common name never stands in for a subject alternative name", arguments: TLSPolicy.Version.allCases)
    func commonName(version: TLSPolicy.Version) throws {
        let authority = try TestAuthority()
        let builder = CertificateBuilder.server(names: [], commonName: "localhost")
        let server = TLSMaterial(identity: try authority.issue(builder), trustStore: try authority.trustStore())
        let clientEnd = try attempt(version, server: server, client: authority.materialPair().client).client
        #expect(clientEnd.error?.code == .serverNameMismatch)
    }

    @Test("A pinned certificate must still be in the trust store", arguments: TLSPolicy.Version.allCases)
    func pinnedButUntrusted(version: TLSPolicy.Version) throws {
        let pair = try exchangePair()
        let client = TLSMaterial(identity: pair.client.identity, trustStore: try TestAuthority().trustStore())
        let clientEnd = try attempt(
            version, server: pair.server, client: client, verification: .pinned([pair.server.identity.leaf.sha256])
        ).client
        #expect(clientEnd.error?.code == .untrustedSelfSigned)
    }
}
