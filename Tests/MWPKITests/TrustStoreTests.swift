import MWPKI
import TestCertificates
import Testing

@Suite struct TrustStoreTests {
    private func code(_ body: () throws -> some Any) throws -> PKIError.Code {
        try #require(throws: PKIError.self) { _ = try body() }.code
    }

    @Test func `A store that trusts nobody is refused, in every form`() throws {
        #expect(try code { try TrustStore(anchors: []) } == .trustStoreEmpty)
        for text in ["", "\n", "# nobody\n"] {
            #expect(try code { try TrustStore.pem(Array(text.utf8)) } == .trustStoreEmpty)
        }
        #expect(try code { try TrustStore.pem(PrivateKey.generate().pem().bytes) } == .certificateMissing)
    }

    @Test func `A certificate is known by itself, and by the alias it came with first`() throws {
        let pair = try exchangePair()
        let store = pair.server.trustStore
        #expect(store.alias(of: pair.client.identity.leaf) == "wsTestKeyClt")
        #expect(store.alias(of: pair.stranger.leaf) == nil)
        #expect(store.contains(pair.server.identity.leaf) && !store.contains(pair.stranger.leaf))
        let twice = try TrustStore(anchors: store.anchors + [TrustAnchor(alias: "again", certificate: pair.client.identity.leaf)])
        #expect(twice.anchors == store.anchors)
    }

    @Test func `Weak anchors are refused, but not for a root's own signature`() throws {
        let authority = try TestAuthority { $0.signWithSHA1() }
        _ = try authority.trustStore()
        let intermediate = try authority.intermediate { $0.signWithSHA1() }
        #expect(try code { try TrustStore(anchors: [TrustAnchor(certificate: intermediate.certificate)]) } == .signatureTooWeak)
        let weak = try CertificateBuilder.authority(name: "weak").identity(key: try WeakKey.rsa())
        #expect(try code { try TrustStore(anchors: [TrustAnchor(certificate: weak.leaf)]) } == .keyTooWeak)
        #expect(try code { try TrustStore.pem(Array(WeakKey.dsaCertificatePEM.utf8)) } == .keyUnsupported)
    }

    @Test func `Expired anchors load with a warning`() throws {
        let authority = try TestAuthority { $0.expire() }
        let warnings = try authority.trustStore().warnings(at: .now())
        #expect(warnings == ["ca: expired at \(authority.root.notAfter); nobody it vouches for is accepted"])
    }
}

@Suite struct RevocationListTests {
    private func code(_ body: () throws -> some Any) throws -> PKIError.Code {
        try #require(throws: PKIError.self) { _ = try body() }.code
    }

    @Test func `A list names its serial numbers, and reads from PEM and DER alike`() throws {
        let authority = try TestAuthority()
        let clients = try (0..<3).map { try authority.issueClient(name: "client \($0)").leaf }
        let list = try authority.revocationList(revoking: [clients[0], clients[2]])
        #expect(list.revokedSerialNumbers == [clients[0].serialNumber, clients[2].serialNumber])
        #expect(list.issuer == "CN=Test CA")
        #expect(try CertificateRevocationList.list(list.derBytes, source: "x") == [list])
        #expect(try CertificateRevocationList.list(Array((list.pem + list.pem).utf8), source: "x") == [list, list])
        #expect(try authority.trustStore(revocationLists: [list]).revocationLists == [list])
        #expect(try authority.revocationList().revokedSerialNumbers == [])
    }

    // What the handshake will do with it: `openssl verify -crl_check`.
    @Test func `The openssl command accepts the list and refuses the revoked`() throws {
        let authority = try TestAuthority()
        let (alice, bob) = (try authority.issueClient(name: "alice").leaf, try authority.issueClient(name: "bob").leaf)
        let directory = try TemporaryDirectory()
        let anchors = try directory.write("ca.pem", authority.root.pem)
        let list = try directory.write("crl.pem", try authority.revocationList(revoking: [bob]).pem)
        for (certificate, accepted) in [(alice, true), (bob, false)] {
            let leaf = try directory.write("leaf.pem", certificate.pem)
            let result = try openssl("verify", "-x509_strict", "-crl_check_all", "-CAfile", anchors, "-CRLfile", list, leaf)
            #expect(result.succeeded == accepted, "\(result.output)")
            #expect(result.output.contains("certificate revoked") == !accepted, "\(result.output)")
        }
        let text = try openssl("crl", "-in", list, "-noout", "-text").output
        #expect(text.contains("Serial Number: \(bob.serialNumber.uppercased())"), "\(text)")
    }

    @Test func `A list past its next update, or from the future, is refused`() throws {
        let authority = try TestAuthority()
        let now = Timestamp.now()
        let list = try authority.revocationList { $0.nextUpdate = now.adding(seconds: 100) }
        #expect(try authority.trustStore(revocationLists: [list], at: now.adding(seconds: 100)).revocationLists == [list])
        #expect(try code { try authority.trustStore(revocationLists: [list], at: now.adding(seconds: 101)) } == .revocationListExpired)
        #expect(try code { try authority.trustStore(revocationLists: [list], at: now.adding(days: -1)) } == .revocationListExpired)
    }

    @Test func `A list that no anchor signed is refused, also where the name is right`() throws {
        let authority = try TestAuthority()
        let ours = try authority.revocationList()
        for other in [try TestAuthority(name: "Other"), try authority.impostor()] {
            let list = try other.revocationList()
            #expect(try code { try authority.trustStore(revocationLists: [ours, list]) } == .revocationListUntrusted)
        }
    }

    @Test func `Where any list is given, every anchor needs one`() throws {
        let (one, two) = (try TestAuthority(name: "One"), try TestAuthority(name: "Two"))
        let anchors = [one, two].map { TrustAnchor(certificate: $0.certificate) }
        #expect(try TrustStore(anchors: anchors).revocationLists.isEmpty)
        #expect(try code { try TrustStore(anchors: anchors, revocationLists: [one.revocationList()]) } == .revocationListMissing)
        let both = try [one.revocationList(), two.revocationList()]
        #expect(try TrustStore(anchors: anchors, revocationLists: both).revocationLists == both)
        let pinned = TrustAnchor(certificate: try exchangePair().client.identity.leaf)
        let error = try #require(throws: PKIError.self) { try TrustStore(anchors: anchors + [pinned], revocationLists: both) }
        #expect(error.code == .revocationListMissing)
        #expect(error.what.contains("a peer's own certificate"), "\(error)")
    }

    @Test func `An authority below another needs the other, and its list, beside it`() throws {
        let root = try TestAuthority()
        let below = try root.intermediate()
        let lists = try [root.revocationList(), below.revocationList()]
        let lower = TrustAnchor(certificate: below.certificate)
        let store = try TrustStore(anchors: [TrustAnchor(certificate: root.root), lower], revocationLists: lists)
        #expect(store.anchors.count == 2)
        let error = try #require(throws: PKIError.self) { try TrustStore(anchors: [lower], revocationLists: [lists[1]]) }
        #expect(error.code == .revocationListMissing)
        #expect(error.expected == "a certificate of CN=Test CA")
        // Without lists it may stand alone.
        #expect(try TrustStore(anchors: [lower]).anchors == [lower])

        let directory = try TemporaryDirectory()
        let anchors = try directory.write("anchors.pem", store.anchors.map(\.certificate.pem).joined())
        let files = try directory.write("crl.pem", lists.map(\.pem).joined())
        let leaf = try directory.write("leaf.pem", try below.issueClient().leaf.pem)
        let result = try openssl("verify", "-x509_strict", "-crl_check_all", "-CAfile", anchors, "-CRLfile", files, leaf)
        #expect(result.succeeded, "\(result.output)")
    }

    @Test func `Lists that say less than they seem to are refused`() throws {
        let authority = try TestAuthority()
        #expect(try code { try authority.revocationList { $0.nextUpdate = nil } } == .revocationListMalformed)
        for oid in ["2.5.29.27", "2.5.29.28"] {
            let value = oid == "2.5.29.27" ? DER.integer(1) : DER.sequence([])
            #expect(
                try code {
                    try authority.revocationList { $0.extensions = [.init(oid: oid, der: value, isCritical: true)] }
                } == .revocationListMalformed)
        }
        let weak = try authority.revocationList { $0.digest = .sha1 }
        #expect(try code { try authority.trustStore(revocationLists: [weak]) } == .signatureTooWeak)
    }

    @Test func `A damaged list is refused, when read or for its signature`() throws {
        let authority = try TestAuthority()
        let list = try authority.revocationList(revoking: [authority.issueClient().leaf])
        for count in list.derBytes.indices {
            #expect(throws: PKIError.self) { try CertificateRevocationList(der: Array(list.derBytes.prefix(count)), source: "x") }
        }
        #expect(throws: PKIError.self) { try CertificateRevocationList(der: list.derBytes + [0], source: "x") }
        for index in list.derBytes.indices {
            for mask in [UInt8(0x01), 0x10, 0x80] {
                var bytes = list.derBytes
                bytes[index] ^= mask
                do {
                    let damaged = try CertificateRevocationList(der: bytes, source: "x")
                    let store = try authority.trustStore(revocationLists: [damaged])
                    Issue.record("byte \(index) ^ \(mask) accepted: \(store.revocationLists)")
                } catch { #expect(error is PKIError) }
            }
        }
    }

    @Test func `A file without a list says what is in it`() throws {
        let error = try #require(throws: PKIError.self) {
            try CertificateRevocationList.list(Array(TestAuthority().root.pem.utf8), source: "crl.pem")
        }
        #expect(error.code == .revocationListMalformed)
        #expect(error.found == "CERTIFICATE")
    }
}
