import MWACME
import MWPKI
import Testing

@Suite struct SignatureTests {
    // Method: RFC 7638 §3.1's key, as numbers.
    @Test("the thumbprint of RFC 7638 §3.1")
    func thumbprint() throws {
        let key = try Vectors.rfc7638Key()
        #expect(key.members["e"] == "AQAB")
        #expect(Base64URL.encode(OpenSSL.sha256(key.json.encoded)) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs")
        #expect(key.thumbprint == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs")
    }

    // Method: RFC 7515 Appendix A.1, byte for byte; the header there has blanks and line ends, so the parts are signed as given.
    @Test("HMAC-SHA-256 of RFC 7515 A.1")
    func hmac() throws {
        let key = try #require(
            Base64URL.decode("AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"))
        let text =
            "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
        let code = try OpenSSL.hmacSHA256(Array(text.utf8), key: SecretBytes(key))
        #expect(Base64URL.encode(code) == "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk")
    }
}
