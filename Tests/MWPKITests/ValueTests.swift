import MWPKI
import Testing

@Suite struct TimestampTests {
    @Test(arguments: [
        (Int64(0), "1970-01-01T00:00:00Z"), (-1, "1969-12-31T23:59:59Z"), (951_782_400, "2000-02-29T00:00:00Z"),
        (1_795_418_065, "2026-11-23T07:14:25Z"), (253_402_300_799, "9999-12-31T23:59:59Z"), (253_402_300_800, "10000-01-01T00:00:00Z"),
        (-2_208_988_800, "1900-01-01T00:00:00Z"), (-62_167_219_200, "0000-01-01T00:00:00Z"),
    ])
    func `A second has one date`(seconds: Int64, text: String) {
        #expect(Timestamp(secondsSince1970: seconds).description == text)
    }

    @Test func `Dates and seconds convert both ways`() throws {
        for day in stride(from: Int64(-800_000), through: 3_000_000, by: 997) {
            let time = Timestamp(secondsSince1970: day * 86_400 + 12_345)
            let parts = time.description.split { "-T:Z".contains($0) }.compactMap { Int($0) }
            guard time.description.first != "-" else { continue }
            #expect(
                Timestamp(year: parts[0], month: parts[1], day: parts[2], hour: parts[3], minute: parts[4], second: parts[5]) == time)
        }
    }

    @Test func `The ends of the range do not trap`() {
        for seconds in [Int64.min, .max] {
            let time = Timestamp(secondsSince1970: seconds)
            #expect(!time.description.isEmpty)
            #expect(time.adding(days: seconds) == time)
        }
        #expect(Timestamp(year: 2026, month: 13, day: 1) == nil)
    }
}

@Suite struct FingerprintTests {
    private let hex = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

    @Test func `Hex, upper case, colons and a prefix all name the same certificate`() throws {
        let fingerprint = try #require(CertificateFingerprint(hex))
        var colons = ""
        for (index, digit) in hex.uppercased().enumerated() { colons += (index > 0 && index % 2 == 0 ? ":" : "") + String(digit) }
        for text in ["sha256:" + hex, "SHA256:" + hex.uppercased(), colons, "sha256:" + colons] {
            #expect(CertificateFingerprint(text) == fingerprint, "\(text)")
        }
        #expect(fingerprint.description == "sha256:" + hex)
        #expect(CertificateFingerprint(bytes: fingerprint.bytes) == fingerprint)
    }

    @Test(arguments: ["", "00", "sha256:", "0:0", "md5:0011"])
    func `Anything else is none`(text: String) {
        #expect(CertificateFingerprint(text) == nil)
        #expect(PublicKeyPin(text) == nil)
        #expect(CertificateFingerprint(hex + text + "0") == nil)
        #expect(CertificateFingerprint(":" + hex) == nil)
        #expect(CertificateFingerprint(hex + ":") == nil)
        #expect(CertificateFingerprint(hex.dropLast(2) + "g0") == nil)
    }
}

@Suite struct SecretTests {
    @Test func `A secret is not printed`() {
        let passphrase = Passphrase("hunter2")
        #expect(!"\(passphrase) \(String(reflecting: passphrase)) \(passphrase.secret)".contains("hunter2"))
        #expect(passphrase.secret.isEqual(to: SecretBytes(Array("hunter2".utf8))))
        #expect(!passphrase.secret.isEqual(to: SecretBytes(Array("hunter3".utf8))))
        #expect(!passphrase.secret.isEqual(to: SecretBytes([])))
    }

    @Test func `Errors are equal by code, and say what to do`() {
        let error = PKIError(
            .keyMismatch, subject: "a.pem", "wrong", expected: "x", found: "y", remedy: "fix it", underlying: ["OpenSSL: z"])
        #expect(error == PKIError(.keyMismatch, subject: "b.pem", "other"))
        #expect(error != PKIError(.keyMissing, subject: "a.pem", "wrong"))
        #expect(error.description == "pki.keyMismatch: a.pem: wrong, expected x, found y (OpenSSL: z); fix it")
    }
}
