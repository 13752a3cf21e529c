import COpenSSL
import FakeCA
import MWACME
import MWPKI
import Testing

@Suite struct ChallengeTests {
    func answer(_ text: String, _ type: ChallengeType = .tlsALPN01) throws -> ChallengeAnswer {
        try ChallengeAnswer(
            identifier: try #require(Identifier(text)), type: type, token: "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA",
            accountKey: try .generate())
    }

    @Test("case 10 http01: the path, and token and thumbprint as the body")
    func http() throws {
        let key = try PrivateKey.generate()
        let answer = try ChallengeAnswer(identifier: .dns("a.test"), type: .http01, token: "tok", accountKey: key)
        #expect(answer.httpPath == "/.well-known/acme-challenge/tok")
        #expect(String(decoding: answer.httpBody, as: UTF8.self) == "tok.\(try JSONWebKey(key).thumbprint)")
    }

    @Test("dns-01: the record's name has no asterisk, its value is a digest")
    func dns() throws {
        let answer = try answer("*.example.test", .dns01)
        #expect(answer.dnsRecordName == "_acme-challenge.example.test.")
        #expect(answer.dnsRecordValue == Base64URL.encode(OpenSSL.sha256(Array(answer.keyAuthorization.utf8))))
        #expect(answer.dnsRecordValue.utf8.count == 43)
    }

    // Method: the extension is looked for in the DER: OID, TRUE, and the digest in an octet string in an octet string.
    @Test(
        "case 11 tls_alpn01: one name, and the critical acmeIdentifier",
        arguments: ["a.test", "192.0.2.1", "2001:db8::1", String(repeating: "a", count: 63) + ".example.test"])
    func alpn(_ text: String) throws {
        let answer = try answer(text)
        let identity = try answer.alpnIdentity(at: .now())
        #expect(identity.leaf.dnsNames + identity.leaf.ipAddresses == [text])
        #expect(identity.leaf.isSelfSigned)
        #expect(identity.leaf.validity(at: .now()) == .valid)
        let digest = OpenSSL.sha256(Array(answer.keyAuthorization.utf8))
        let wanted: [UInt8] = [0x06, 0x08, 0x2B, 6, 1, 5, 5, 7, 1, 0x1F, 0x01, 0x01, 0xFF, 0x04, 0x22, 0x04, 0x20] + digest
        #expect(identity.leaf.derBytes.contains(subsequence: wanted))
    }

    @Test("case 13 ip_identifier: the server name of an address is its reverse form")
    func reverseName() throws {
        #expect(try answer("192.0.2.1").alpnServerName == "1.2.0.192.in-addr.arpa")
        #expect(
            try answer("2001:db8::567:89ab").alpnServerName
                == "b.a.9.8.7.6.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa")
        #expect(try answer("a.test").alpnServerName == "a.test")
    }
}
