import MWPKI
import TestCertificates
import Testing

@Suite struct IdentityTests {
    private func load(_ identity: Identity) throws -> Identity {
        try Identity(leaf: identity.leaf, intermediates: identity.intermediates, key: identity.key, source: "server.pem")
    }

    private func refusal(_ identity: Identity) throws -> PKIError {
        try #require(throws: PKIError.self) { try load(identity) }
    }

    /// What `key` signs verifies with the certificate, so that the private half is the certificate's.
    private func signs(_ key: PrivateKey, for certificate: Certificate) throws -> Bool {
        try CertificateBuilder(subject: [.commonName("x")]).selfSigned(by: key).isSigned(by: certificate)
    }

    @Test func `A leaf, its chain and its key in order are accepted, with the root and without`() throws {
        let root = try TestAuthority()
        let server = try root.chain(of: 2).issueServer()
        #expect(server.chain.count == 3)
        #expect(try load(server).chain == server.chain)
        _ = try load(Identity(uncheckedLeaf: server.leaf, intermediates: server.intermediates + [root.root], key: server.key))
        _ = try load(exchangePair().server.identity)
    }

    @Test func `Another certificate's key is refused`() throws {
        let authority = try TestAuthority()
        let (one, two) = (try authority.issueServer(), try authority.issueServer())
        let error = try refusal(Identity(uncheckedLeaf: one.leaf, key: two.key))
        #expect(error.code == .keyMismatch)
        #expect(error.expected == one.leaf.publicKeyPin.description)
        #expect(error.found == two.key.publicKeyPin.description)
    }

    @Test func `A chain out of order is refused, and the error says which link`() throws {
        let root = try TestAuthority()
        let server = try root.chain(of: 3).issueServer()
        let parents = server.intermediates
        let cases: [([Certificate], String)] = [
            ([parents[1], parents[0], parents[2]], "certificate 1 (CN=localhost) is not signed by certificate 2 (CN=Test Intermediate 2)"),
            (
                [parents[0], parents[2], parents[1]],
                "certificate 2 (CN=Test Intermediate 3) is not signed by certificate 3 (CN=Test Intermediate 1)"
            ),
            ([parents[0], parents[1], root.root], "certificate 3 (CN=Test Intermediate 2) is not signed by certificate 4 (CN=Test CA)"),
        ]
        for (intermediates, link) in cases {
            let error = try refusal(Identity(uncheckedLeaf: server.leaf, intermediates: intermediates, key: server.key))
            #expect(error.code == .chainMalformed)
            #expect(error.what.contains(link), "\(error)")
        }
        // The root first, as some authorities deliver it: the key is not that certificate's.
        #expect(try refusal(Identity(uncheckedLeaf: root.root, intermediates: [server.leaf], key: server.key)).code == .keyMismatch)
    }

    @Test func `An authority of the same name and another key is not the issuer`() throws {
        let authority = try TestAuthority()
        let server = try authority.issueServer { $0.includesKeyIdentifiers = false }
        let impostor = try authority.impostor()
        #expect(impostor.certificate.subject == authority.certificate.subject)
        let error = try refusal(Identity(uncheckedLeaf: server.leaf, intermediates: [impostor.certificate], key: server.key))
        #expect(error.code == .chainMalformed)
        #expect(error.what.contains("signature does not verify"), "\(error)")
    }

    @Test func `A leaf that signs is no authority`() throws {
        let pair = try exchangePair()
        let child = try CertificateBuilder.client(name: "eve").identity(issuer: pair.client.identity)
        let error = try refusal(Identity(uncheckedLeaf: child.leaf, intermediates: [pair.client.identity.leaf], key: child.key))
        #expect(error.code == .chainMalformed)
        #expect(error.what.contains("no certificate authority"), "\(error)")
    }

    @Test func `A leaf or intermediate signed with SHA-1 is refused, a root is not`() throws {
        let authority = try TestAuthority { $0.signWithSHA1() }
        #expect(!authority.certificate.hasStrongSignature)
        let server = try authority.issueServer()
        _ = try load(Identity(uncheckedLeaf: server.leaf, intermediates: [authority.certificate], key: server.key))

        let leaf = try refusal(try authority.issueServer { $0.signWithSHA1() })
        #expect(leaf.code == .signatureTooWeak)
        #expect(leaf.found == "ecdsa-with-SHA1")
        #expect(leaf.remedy?.contains("SHA256withECDSA") == true)
        #expect(try refusal(authority.intermediate { $0.signWithSHA1() }.issueServer()).code == .signatureTooWeak)
        #expect(try refusal(exchangePair { $0.signWithSHA1() }.server.identity).code == .signatureTooWeak)
    }

    @Test func `A weak key is refused in the leaf and above`() throws {
        let authority = try TestAuthority()
        let weak = try WeakKey.rsa(bits: 1024)
        #expect(try refusal(authority.issueServer(key: weak)).code == .keyTooWeak)
        let above = try CertificateBuilder.authority(name: "weak").identity(key: weak, issuer: authority.identity)
        let below = try CertificateBuilder.server(names: ["localhost"]).identity(issuer: above)
        #expect(try refusal(below).code == .keyTooWeak)
    }

    @Test func `Dates are a warning, not an error`() throws {
        let authority = try TestAuthority()
        let now = Timestamp.now()
        let expired = try load(authority.issueServer { $0.expire(at: now) })
        #expect(expired.warnings(at: now) == ["CN=localhost: expired at \(expired.leaf.notAfter); peers will refuse it"])
        let later = try load(authority.issueServer { $0.beginLater(at: now) })
        #expect(later.warnings(at: now) == ["CN=localhost: not valid before \(later.leaf.notBefore); peers will refuse it"])
        #expect(try load(authority.issueServer()).warnings(at: now) == [])
    }

    @Test(arguments: [KeyAlgorithm.ec(.p256), .ed25519])
    func `A PEM identity cut off anywhere is refused or whole`(algorithm: KeyAlgorithm) throws {
        let identity = try TestAuthority().intermediate().issueServer(key: try PrivateKey.generate(algorithm))
        let bytes = Array(identity.chain.map(\.pem).joined().utf8) + (try identity.key.pem().bytes)
        for count in bytes.indices {
            let part = Array(bytes.prefix(count))
            do {
                let read = try Identity.pem(chain: part, key: part)
                #expect(count >= bytes.count - 1, "cut at \(count)")
                #expect(read.chain == identity.chain)
            } catch { #expect(error is PKIError) }
        }
        #expect(try Identity.pem(chain: bytes, key: bytes).leaf == identity.leaf)
    }

    @Test(arguments: [KeyAlgorithm.ec(.p256), .ed25519])
    func `A PEM identity with a changed byte never yields another key`(algorithm: KeyAlgorithm) throws {
        let pair = try exchangePair(algorithm: algorithm)
        let identity = pair.server.identity
        let bytes = Array(identity.leaf.pem.utf8) + (try identity.key.pem().bytes)
        for index in bytes.indices {
            for mask in [UInt8(0x01), 0x02, 0x04, 0x10, 0x20, 0x80, 0xFF] {
                var damaged = bytes
                damaged[index] ^= mask
                do {
                    let read = try Identity.pem(chain: damaged, key: damaged)
                    // A name that is not the issuer's any more: who signed it is for the peer to find out.
                    #expect(read.leaf == identity.leaf || !read.leaf.isSelfIssued)
                    #expect(read.leaf.publicKeyPin == identity.leaf.publicKeyPin)
                    #expect(try signs(read.key, for: identity.leaf), "byte \(index) ^ \(mask)")
                } catch { #expect(error is PKIError) }
            }
        }
    }

    @Test func `An encrypted PEM key with a changed byte never yields another key`() throws {
        let identity = try exchangePair().server.identity
        let chain = Array(identity.leaf.pem.utf8)
        let bytes = try identity.key.pem(passphrase: Passphrase("secret")).bytes
        for index in bytes.indices {
            var damaged = bytes
            damaged[index] ^= 0x01
            do {
                let read = try Identity.pem(chain: chain, key: damaged, passphrase: Passphrase("secret"))
                #expect(try signs(read.key, for: identity.leaf), "byte \(index)")
            } catch { #expect(error is PKIError) }
        }
    }
}
