import MWPKI
import TestCertificates
import Testing

@Suite struct CertificateTests {
    private let now = Timestamp(secondsSince1970: 1_800_000_000)

    @Test(arguments: [KeyAlgorithm.ec(.p256), .ec(.p384), .ec(.p521), .ed25519, .rsa(bits: 2048)])
    func `What the builder is told, the certificate says`(algorithm: KeyAlgorithm) throws {
        let authority = try CertificateBuilder.authority(name: "Root", pathLength: 1, from: now)
            .identity(key: try PrivateKey.generate(algorithm))
        var builder = CertificateBuilder(
            subject: [.commonName("Zoë, \"x\""), .organization("Example"), .country("CH")], days: 10, from: now)
        builder.alternativeNames = [
            .dns("localhost"), .dns("*.example.org"), .ip("192.0.2.1"), .ip("2001:db8::1"), .uri("spiffe://example/a"), .uri("urn:b"),
            .email("zoe@example.org"),
        ]
        builder.keyUsage = [.digitalSignature, .decipherOnly]
        builder.extendedKeyUsages = ["serverAuth", "clientAuth", "1.3.6.1.4.1.99999.1"]
        builder.serialNumber = [0, 0x0A, 0xBC]
        let identity = try builder.identity(key: try PrivateKey.generate(algorithm), issuer: authority)
        let leaf = identity.leaf

        #expect(leaf.subject == "CN=Zoë\\, \\\"x\\\",O=Example,C=CH")
        #expect(leaf.issuer == "CN=Root")
        #expect(leaf.commonName == "Zoë, \"x\"")
        #expect(leaf.serialNumber == "abc")
        #expect(leaf.notBefore == now.adding(seconds: -3600))
        #expect(leaf.notAfter == now.adding(days: 10))
        #expect(leaf.keyAlgorithm == algorithm)
        #expect(leaf.dnsNames == ["localhost", "*.example.org"])
        #expect(leaf.ipAddresses == ["192.0.2.1", "2001:db8::1"])
        #expect(leaf.uriNames == ["spiffe://example/a", "urn:b"])
        #expect(leaf.emailAddresses == ["zoe@example.org"])
        #expect(leaf.hasSubjectAlternativeName)
        #expect(leaf.keyUsage == [.digitalSignature, .decipherOnly])
        #expect(leaf.extendedKeyUsages == ["serverAuth", "clientAuth", "1.3.6.1.4.1.99999.1"])
        #expect(!leaf.isCertificateAuthority && !leaf.isSelfIssued && leaf.hasStrongSignature)
        #expect(leaf.isSigned(by: authority.leaf) && !leaf.isSigned(by: leaf))
        #expect(leaf.publicKeyPin == identity.key.publicKeyPin)
        #expect(leaf.authorityKeyIdentifier == authority.key.keyIdentifier)

        #expect(authority.leaf.isCertificateAuthority && authority.leaf.isSelfSigned)
        #expect(authority.leaf.keyUsage == [.keyCertSign, .crlSign])
        #expect(!authority.leaf.hasSubjectAlternativeName)
        #expect(try Certificate.list(pem: Array((leaf.pem + authority.leaf.pem).utf8), source: "x") == [leaf, authority.leaf])
    }

    // `openssl verify -x509_strict` and `openssl x509 -text` read what we write.
    @Test(arguments: [KeyAlgorithm.ec(.p256), .ed25519, .rsa(bits: 2048)])
    func `The openssl command accepts what the builder makes`(algorithm: KeyAlgorithm) throws {
        let directory = try TemporaryDirectory()
        let root = try CertificateBuilder.authority(name: "Root").identity(key: try PrivateKey.generate(algorithm))
        let issuing = try CertificateBuilder.authority(name: "Issuing", pathLength: 0).identity(issuer: root)
        let server = try CertificateBuilder.server(names: ["db.example.org", "127.0.0.1"])
            .identity(key: try PrivateKey.generate(algorithm), issuer: issuing)
        #expect(server.chain == [server.leaf, issuing.leaf])
        let anchors = try directory.write("root.pem", root.leaf.pem)
        let chain = try directory.write("chain.pem", server.intermediates.map(\.pem).joined())
        let leaf = try directory.write("leaf.pem", server.leaf.pem)

        let verified = try openssl(
            "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", "db.example.org", "-CAfile", anchors, "-untrusted",
            chain,
            leaf)
        #expect(verified.succeeded, "\(verified.output)")
        let text = try openssl("x509", "-in", leaf, "-noout", "-text", "-fingerprint", "-sha256", "-nameopt", "RFC2253").output
        for expected in [
            "Subject: CN=db.example.org", "Issuer: CN=Issuing", "DNS:db.example.org, IP Address:127.0.0.1", "CA:FALSE",
            "Digital Signature\n",
            "TLS Web Server Authentication", "X509v3 Key Usage: critical",
        ] { #expect(text.contains(expected), "\(expected) in \(text)") }
        let fingerprint = try #require(text.split(separator: "Fingerprint=").last.map { $0.filter { !$0.isWhitespace } })
        #expect(CertificateFingerprint(fingerprint) == server.leaf.sha256)
    }

    @Test func `Dates before 1970, after 2049 and at the end of the calendar are read`() throws {
        for (notBefore, notAfter) in [
            ("1950-01-01T00:00:00Z", "1969-12-31T23:59:59Z"), ("1949-12-31T23:59:59Z", "2050-01-01T00:00:00Z"),
            ("2049-12-31T23:59:59Z", "9999-12-31T23:59:59Z"), ("0001-01-01T00:00:00Z", "2026-02-28T12:00:00Z"),
        ] {
            var builder = CertificateBuilder(subject: [.commonName("x")])
            builder.notBefore = time(notBefore)
            builder.notAfter = time(notAfter)
            let certificate = try builder.identity().leaf
            #expect("\(certificate.notBefore)" == notBefore)
            #expect("\(certificate.notAfter)" == notAfter)
        }
        var builder = CertificateBuilder(subject: [.commonName("x")])
        builder.notAfter = Timestamp(secondsSince1970: .max)
        #expect(throws: PKIError(.buildFailed, subject: "", "")) { try builder.identity() }
    }

    private func time(_ text: String) -> Timestamp {
        let parts = text.split { "-T:Z".contains($0) }.compactMap { Int($0) }
        return Timestamp(year: parts[0], month: parts[1], day: parts[2], hour: parts[3], minute: parts[4], second: parts[5])
            ?? Timestamp(secondsSince1970: 0)
    }

    @Test func `Both ends belong to the validity`() throws {
        let certificate = try CertificateBuilder(subject: [.commonName("x")], days: 1, from: now).identity().leaf
        #expect(certificate.validity(at: certificate.notBefore) == .valid)
        #expect(certificate.validity(at: certificate.notAfter) == .valid)
        #expect(certificate.validity(at: certificate.notBefore.adding(seconds: -1)) == .notYetValid)
        #expect(certificate.validity(at: certificate.notAfter.adding(seconds: 1)) == .expired)
    }

    @Test(arguments: [UInt8(1), 2, 6])
    func `A NUL or control character in an alternative name is refused, and shown`(tag: UInt8) throws {
        for byte in [UInt8(0), 0x0A, 0x1B, 0x20, 0x7F, 0x80, 0xFF] {
            var builder = CertificateBuilder(subject: [.commonName("x")])
            builder.alternativeNames = [
                .dns("a.example"), .raw(tag: tag, bytes: Array("bank.example".utf8) + [byte] + Array(".evil.example".utf8)),
            ]
            let error = try #require(throws: PKIError.self) { try builder.identity() }
            #expect(error.code == .certificateMalformed)
            #expect(error.description.unicodeScalars.allSatisfy { $0.value >= 0x20 && $0.value != 0x7F }, "\(error)")
        }
    }

    @Test func `An address of 5 bytes and an empty name are refused`() {
        for bad in [
            AlternativeName.raw(tag: 7, bytes: [1, 2, 3, 4, 5]), .raw(tag: 2, bytes: []), .ip("localhost"), .dns("a b"), .dns("ü.example"),
        ] {
            var builder = CertificateBuilder(subject: [.commonName("x")])
            builder.alternativeNames = [bad]
            #expect(throws: PKIError.self, "\(bad)") { try builder.identity() }
        }
    }

    @Test func `A repeated extension is refused`() {
        var builder = CertificateBuilder(subject: [.commonName("x")])
        builder.extensions = [.nameConstraints(permittedDNSNames: ["a"]), .nameConstraints(permittedDNSNames: ["b"])]
        #expect(throws: PKIError.self) { try builder.identity() }
    }

    @Test(arguments: ["a\0b", "a\nb", "a\u{202E}b", "a\u{85}b", "a\u{2028}b"])
    func `Invisible characters in a common name are refused, in other attributes escaped`(value: String) throws {
        #expect(throws: PKIError(.certificateMalformed, subject: "", "")) {
            try CertificateBuilder(subject: [.commonName(value)]).identity()
        }
        let subject = try CertificateBuilder(subject: [.commonName("x"), .organization(value)]).identity().leaf.subject
        #expect(subject.hasPrefix("CN=x,O=a\\") && subject.hasSuffix("b"), "\(subject)")
        #expect(subject.unicodeScalars.allSatisfy { $0.isASCII && $0.value >= 0x20 }, "\(subject)")
    }

    @Test func `The most specific common name is the one`() throws {
        let leaf = try CertificateBuilder(subject: [.commonName("alice"), .organization("O"), .commonName("group")]).identity().leaf
        #expect(leaf.commonName == "alice")
        #expect(leaf.subject == "CN=alice,O=O,CN=group")
    }

    @Test func `An unknown attribute and the documented name print as in RFC 4514`() throws {
        let leaf = try CertificateBuilder(subject: [NameAttribute(oid: "1.3.6.1.4.1.99999.7", value: "x")] + NameAttribute.unknown)
            .identity().leaf
        #expect(leaf.subject == "1.3.6.1.4.1.99999.7=#130178,CN=Unknown,OU=Unknown,O=Unknown,L=Unknown,ST=Unknown,C=Unknown")
    }

    @Test func `Bytes after a certificate are refused`() throws {
        let leaf = try TestAuthority().certificate
        #expect(try Certificate(der: leaf.derBytes, source: "x") == leaf)
        #expect(throws: PKIError(.certificateMalformed, subject: "", "")) { try Certificate(der: leaf.derBytes + [0], source: "x") }
        #expect(throws: PKIError(.certificateMalformed, subject: "", "")) { try Certificate(der: [], source: "x") }
    }

    // Every prefix, and every byte changed in each of its bits.
    @Test func `A damaged certificate is refused or read, never a trap`() throws {
        let leaf = try TestAuthority().issueServer().leaf
        for count in leaf.derBytes.indices {
            #expect(throws: PKIError.self) { try Certificate(der: Array(leaf.derBytes.prefix(count)), source: "x") }
        }
        for index in leaf.derBytes.indices {
            for bit in 0..<8 {
                var bytes = leaf.derBytes
                bytes[index] ^= 1 << UInt8(bit)
                do {
                    let damaged = try Certificate(der: bytes, source: "x")
                    #expect(damaged != leaf)
                } catch { #expect(error is PKIError) }
            }
        }
    }

    @Test func `A file without a certificate says what is in it`() throws {
        let key = try PrivateKey.generate().pem().bytes
        let error = try #require(throws: PKIError.self) { try Certificate.list(pem: key, source: "server.pem") }
        #expect(error.code == .certificateMissing)
        #expect(error.found == "PRIVATE KEY")
        #expect(try #require(throws: PKIError.self) { try Certificate.list(pem: [], source: "x") }.code == .certificateMissing)
    }
}
