import MWPKI
import MWTLS
import TestCertificates
import Testing

/// Who stays in: cases 5, 8, 9 and 41 of the negative table for a peer that is connected, and refusals, on TLS 1.2 and 1.3. Method: a handshake in
/// memory, then a context of other material that judges what it saw.
@Suite struct JudgingTests {
    private func code(_ result: Result<VerifiedPeer, TLSError>) -> TLSError.Code? {
        if case .failure(let error) = result { error.code } else { nil }
    }

    private func connected(
        _ version: TLSPolicy.Version, _ authority: TestAuthority, _ client: Identity
    ) throws -> (server: Identity, peer: VerifiedPeer) {
        let server = TLSMaterial(identity: try authority.issueServer(), trustStore: try authority.trustStore())
        let ends = try attempt(version, server: server, client: TLSMaterial(identity: client, trustStore: server.trustStore))
        return (server.identity, try #require(ends.server.peer))
    }

    @Test(arguments: TLSPolicy.Version.allCases)
    func `case 5, case 9: a list that names a connected client refuses it, and one without it lets it stay`(version: TLSPolicy.Version)
        throws
    {
        let authority = try TestAuthority()
        let (server, peer) = try connected(version, authority, try authority.issueClient(name: "alice"))
        func context(_ lists: [CertificateRevocationList]) throws -> TLSContext {
            try TLSContext(server: TLSMaterial(identity: server, trustStore: try authority.trustStore(revocationLists: lists)))
        }
        let revoking = try context([authority.revocationList(revoking: [peer.leaf])])
        #expect(code(revoking.judge(peer)) == .certificateRevoked)
        #expect(revoking.isSuspect(peer))
        for other in try [context([]), context([authority.revocationList(revoking: [authority.issueClient(name: "bob").leaf])])] {
            let judged = try other.judge(peer).get()
            #expect(judged.chain == peer.chain && judged.presentation == peer.presentation)
            #expect(judged.tlsVersion == version && judged.cipher == peer.cipher && judged.group == peer.group)
            #expect(!other.isSuspect(peer))
        }
    }

    @Test(arguments: TLSPolicy.Version.allCases)
    func `A connected client whose authority is gone, or replaced under the same name, is refused`(version: TLSPolicy.Version) throws {
        let authority = try TestAuthority()
        let (server, peer) = try connected(version, authority, try authority.issueClient())
        for (other, wanted) in [(try TestAuthority(name: "Other"), TLSError.Code.unknownCA), (try authority.impostor(), .unknownCA)] {
            let context = try TLSContext(server: TLSMaterial(identity: server, trustStore: try other.trustStore()))
            #expect(code(context.judge(peer)) == wanted)
            #expect(context.isSuspect(peer))
        }
    }

    @Test(arguments: TLSPolicy.Version.allCases)
    func `case 41: a connected client is refused from its notAfter on, and until then says when that is`(version: TLSPolicy.Version) throws
    {
        let authority = try TestAuthority()
        let end = Timestamp.now().adding(seconds: 3600)
        let (server, peer) = try connected(version, authority, try authority.issueClient { $0.notAfter = end })
        #expect(peer.validUntil == end)
        func judge(at time: Timestamp) throws -> TLSError.Code? {
            let context = try TLSContext(
                server: TLSMaterial(identity: server, trustStore: try authority.trustStore()),
                policy: policy(version) { $0.verificationTime = time })
            return code(context.judge(peer))
        }
        #expect(try judge(at: end.adding(seconds: -1)) == nil)
        #expect(try judge(at: end.adding(seconds: 1)) == .certificateExpired)
    }

    // The list is late by a minute; the graces are two minutes and half a minute.
    @Test(arguments: TLSPolicy.Version.allCases)
    func `case 8: a late list refuses everybody, unless the operator gave it a grace, and then for that long`(version: TLSPolicy.Version)
        throws
    {
        let authority = try TestAuthority()
        let (server, peer) = try connected(version, authority, try authority.issueClient(name: "alice"))
        let revoked = try connected(version, authority, try authority.issueClient(name: "bob")).peer
        let due = Timestamp.now().adding(seconds: 1000)
        let list = try authority.revocationList(revoking: [revoked.leaf]) { $0.nextUpdate = due }
        func context(grace: Int64, after seconds: Int64) throws -> TLSContext {
            let trust = try TrustStore(
                anchors: [TrustAnchor(certificate: authority.root)], revocationLists: [list], revocationGraceSeconds: grace)
            return try TLSContext(
                server: TLSMaterial(identity: server, trustStore: trust),
                policy: policy(version) { $0.verificationTime = due.adding(seconds: seconds) })
        }
        guard case .failure(let error) = try context(grace: 0, after: 60).judge(peer) else {
            Issue.record("accepted")
            return
        }
        #expect(error.code == .revocationListExpired)
        #expect("\(error)".contains("CN=Test CA") && "\(error)".contains("\(due)"), "\(error)")
        #expect(try code(context(grace: 120, after: 60).judge(peer)) == nil)
        #expect(try code(context(grace: 30, after: 60).judge(peer)) == .revocationListExpired)
        // The grace excuses the list's age, and nothing that it says.
        #expect(try code(context(grace: 120, after: 60).judge(revoked)) == .certificateRevoked)

        // The same in a handshake.
        let client = SessionEndpoint(
            try TLSContext(
                client: TLSMaterial(identity: try authority.issueClient(name: "carol"), trustStore: try authority.trustStore()),
                verification: .name(.dns("localhost")), policy: policy(version)))
        let serverEnd = SessionEndpoint(try context(grace: 120, after: 60))
        join(client, serverEnd)
        #expect(serverEnd.peer?.leaf.commonName == "carol", "\(String(describing: serverEnd.error))")
        #expect(serverEnd.peer?.validUntil == due.adding(seconds: 120))
    }

    // A grace must not excuse an expired certificate beside the expired list.
    @Test func `A grace excuses nothing but a list's age`() throws {
        let authority = try TestAuthority()
        let end = Timestamp.now().adding(seconds: 1010)
        let (server, peer) = try connected(.tls13, authority, try authority.issueClient { $0.notAfter = end })
        let due = Timestamp.now().adding(seconds: 1000)
        let trust = try TrustStore(
            anchors: [TrustAnchor(certificate: authority.root)],
            revocationLists: [authority.revocationList { $0.nextUpdate = due }], revocationGraceSeconds: 600)
        let context = try TLSContext(
            server: TLSMaterial(identity: server, trustStore: trust),
            policy: policy(.tls13) { $0.verificationTime = end.adding(seconds: 5) })
        #expect(code(context.judge(peer)) == .certificateExpired)
    }

    // A client below an intermediate authority: each form of refusal, in the handshake and for who is connected.
    @Test(arguments: TLSPolicy.Version.allCases)
    func `What is refused is told that it was revoked, whatever the authority says`(version: TLSPolicy.Version) throws {
        let root = try TestAuthority()
        let below = try root.intermediate()
        let alice = try below.issueClient(name: "alice")
        let (server, peer) = try connected(version, root, alice)
        for refusal in [
            Refusal.certificate(alice.leaf.sha256), .certificate(below.certificate.sha256),
            .serialNumber(alice.leaf.serialNumber, issuer: below.certificate.subject), .identity("alice"),
        ] {
            let context = try TLSContext(
                server: TLSMaterial(identity: server, trustStore: try root.trustStore()), policy: policy(version),
                refusals: RefusalSet([refusal]))
            #expect(code(context.judge(peer)) == .certificateRefused)
            #expect(context.isSuspect(peer))
            let client = SessionEndpoint(
                try TLSContext(
                    client: TLSMaterial(identity: alice, trustStore: try root.trustStore()), verification: .name(.dns("localhost")),
                    policy: policy(version)))
            let serverEnd = SessionEndpoint(context)
            join(client, serverEnd)
            #expect(serverEnd.peer == nil)
            #expect(serverEnd.error?.code == .certificateRefused && serverEnd.error?.alert == .certificateRevoked)
            #expect(client.error?.alert == .certificateRevoked)
        }
    }

    // The client sends an intermediate that its chain did not need, as the intermediate itself was an anchor; later only the root is.
    @Test func `What a client sent beside its chain can lead to another anchor`() throws {
        let root = try TestAuthority()
        let below = try root.intermediate()
        let lowest = try below.intermediate(name: "Lowest")
        let client = TLSMaterial(identity: try lowest.issueClient(), trustStore: try root.trustStore())
        let server = try root.issueServer()
        func material(_ anchor: Certificate) throws -> TLSMaterial {
            TLSMaterial(identity: server, trustStore: try TrustStore(anchors: [TrustAnchor(certificate: anchor)]))
        }
        let peer = try #require(try attempt(.tls13, server: material(lowest.certificate), client: client).server.peer)
        #expect(peer.chain.last == lowest.certificate)
        let judged = try TLSContext(server: material(root.root)).judge(peer).get()
        #expect(judged.chain.count == 4 && judged.chain.last == root.root)
        #expect(judged.presentation == peer.presentation)
        #expect(code(try TLSContext(server: material(TestAuthority(name: "Other").root)).judge(judged)) == .unknownCA)
    }

    @Test func `An alias of the new trust store names a connected client`() throws {
        let pair = try exchangePair(names: ["localhost"])
        let peer = try #require(try attempt(.tls13, server: pair.server, client: pair.client).server.peer)
        #expect(peer.alias == "wsTestKeyClt")
        let renamed = try TrustStore(anchors: [TrustAnchor(alias: "laptop", certificate: pair.client.identity.leaf)])
        let context = try TLSContext(server: TLSMaterial(identity: pair.server.identity, trustStore: renamed))
        #expect(try context.judge(peer).get().alias == "laptop")
    }
}
