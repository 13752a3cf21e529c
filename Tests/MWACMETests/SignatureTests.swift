import FakeCA
import MWACME
import MWPKI
import Testing

@Suite struct SignatureTests {
    @Test("the thumbprint of RFC 7638 §3.1")
    func thumbprint() {
        #expect(Vectors.thumbprintKey.thumbprint == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs")
    }

    // Method: RFC 7515 Appendix A.1, byte for byte; the header there has blanks and line ends, so the parts are as given.
    @Test("HMAC-SHA-256 of RFC 7515 A.1")
    func hmac() throws {
        let key = try #require(
            Base64URL.decode("AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"))
        let text = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.\(Vectors.payload)"
        let code = try OpenSSL.hmacSHA256(Array(text.utf8), key: SecretBytes(key))
        #expect(Base64URL.encode(code) == "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk")
    }

    @Test("RS256 of RFC 7515 A.2, byte for byte")
    func rsa() throws {
        let key = try Vectors.rsaKey()
        #expect(try JSONWebKey(key).members == ["kty": "RSA", "e": "AQAB", "n": Vectors.rsaNumbers[0]])
        let payload = try #require(Base64URL.decode(Vectors.payload))
        let signed = try JSONValue(parsing: try JSONWebSignature.sign(payload, header: [:], key: key))
        #expect(
            signed
                == .object([
                    "protected": .string("eyJhbGciOiJSUzI1NiJ9"), "payload": .string(Vectors.payload),
                    "signature": .string(Vectors.rsaSignature),
                ]))
    }

    // Method: the RFC's signature proves that the verifier of the tests reads R || S; then it verifies ours.
    @Test("ES256 of RFC 7515 A.3 verifies, and ours does like it")
    func elliptic() throws {
        func message(_ signature: String, _ protected: String = "eyJhbGciOiJFUzI1NiJ9") throws -> SignedMessage {
            let members = ["protected": protected, "payload": Vectors.payload, "signature": signature]
            return try #require(SignedMessage(JSONValue.object(members.mapValues { .string($0) }).encoded))
        }
        #expect(try message(Vectors.ecSignature).isSigned(by: Vectors.ecKey))
        #expect(try !message("E" + Vectors.ecSignature.dropFirst()).isSigned(by: Vectors.ecKey))
        for kind in [KeyAlgorithm.ec(.p256), .ec(.p384)] {
            for _ in 0..<20 {
                let key = try PrivateKey.generate(kind)
                let signed = try JSONWebSignature.sign(Array("payload".utf8), header: ["nonce": .string("n")], key: key)
                let message = try #require(SignedMessage(signed))
                #expect(message.isSigned(by: try JSONWebKey(key).members))
                #expect(message.signature.count == (kind == .ec(.p256) ? 64 : 96))
            }
        }
    }

    // Method: numbers shorter than the field, with and without the zero of a high bit.
    @Test("a raw signature has both halves as long as the field")
    func rawSignature() throws {
        let der = DER.sequence([DER.integer(unsigned: [0x80, 1]), DER.integer(unsigned: [5])])
        #expect(try JSONWebSignature.rawSignature(der, fieldBytes: 4) == [0, 0, 0x80, 1, 0, 0, 0, 5])
        for offset in der.indices {
            #expect(throws: ACMEError.self) { try JSONWebSignature.rawSignature(Array(der.prefix(offset)), fieldBytes: 4) }
        }
        #expect(throws: ACMEError.self) { try JSONWebSignature.rawSignature(der, fieldBytes: 1) }
        #expect(throws: ACMEError.self) { try JSONWebSignature.rawSignature(der + [0], fieldBytes: 4) }
    }

    @Test("keys that CAs do not take are refused", arguments: [KeyAlgorithm.ed25519, .ec(.p521)])
    func unsupported(_ kind: KeyAlgorithm) throws {
        let key = try PrivateKey.generate(kind)
        #expect(throws: ACMEError(.keyUnsupported, subject: "", "")) { try JSONWebSignature.sign([], header: [:], key: key) }
    }
}
