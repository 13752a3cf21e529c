import MWPKI
import TestCertificates
import Testing

@Suite struct PrivateKeyTests {
    static let algorithms: [KeyAlgorithm] = [.ec(.p256), .ec(.p384), .ec(.p521), .ed25519, .rsa(bits: 2048)]

    @Test(arguments: algorithms)
    func `A key that is written is read, with a passphrase and without`(algorithm: KeyAlgorithm) throws {
        let key = try PrivateKey.generate(algorithm)
        #expect(key.algorithm == algorithm)
        let plain = try PrivateKey(pem: key.pem().bytes, source: "x")
        let encrypted = try key.pem(passphrase: Passphrase("päss")).bytes
        #expect(String(decoding: encrypted, as: UTF8.self).hasPrefix("-----BEGIN ENCRYPTED PRIVATE KEY-----"))
        let decrypted = try PrivateKey(pem: encrypted, passphrase: Passphrase("päss"), source: "x")
        let direct = try PrivateKey(pkcs8: key.pkcs8().bytes, source: "x")
        for other in [plain, decrypted, direct] {
            #expect(other.publicKeyPin == key.publicKeyPin)
            #expect(try other.pkcs8().isEqual(to: key.pkcs8()))
        }
    }

    @Test func `A wrong or missing passphrase has its own error, and nothing asks for one`() throws {
        let encrypted = try PrivateKey.generate().pem(passphrase: Passphrase("right")).bytes
        #expect(throws: PKIError(.passphraseMissing, subject: "", "")) { try PrivateKey(pem: encrypted, source: "x") }
        #expect(throws: PKIError(.passphraseMissing, subject: "", "")) { try PrivateKey.generate().pem(passphrase: Passphrase("")) }
        for wrong in ["wrong", "", "right\n"] {
            #expect(throws: PKIError(.passphraseRejected, subject: "", "")) {
                try PrivateKey(pem: encrypted, passphrase: Passphrase(wrong), source: "x")
            }
        }
    }

    // The forms that the openssl command writes.
    @Test func `Traditional forms are read, their encryption is not`() throws {
        let directory = try TemporaryDirectory()
        for (algorithm, label) in [(KeyAlgorithm.ec(.p256), "EC"), (.rsa(bits: 2048), "RSA")] {
            let key = try PrivateKey.generate(algorithm)
            let file = try directory.write("\(label).pem", key.pem().bytes)
            let traditional = try openssl("pkey", "-in", file, "-traditional").output
            #expect(traditional.hasPrefix("-----BEGIN \(label) PRIVATE KEY-----"))
            #expect(try PrivateKey(pem: Array(traditional.utf8), source: "x").publicKeyPin == key.publicKeyPin)
            let encrypted = try openssl("pkey", "-in", file, "-traditional", "-aes256", "-passout", "pass:secret").output
            let error = try #require(throws: PKIError.self) {
                try PrivateKey(pem: Array(encrypted.utf8), passphrase: Passphrase("secret"), source: "x")
            }
            #expect(error.code == .keyUnsupported)
            #expect(error.remedy?.contains("openssl pkcs8 -topk8") == true)
        }
    }

    @Test(arguments: ["-v1 PBE-SHA1-3DES", "-v2 aes-128-cbc", "-scrypt"])
    func `Keys that the openssl command encrypted are read`(options: String) throws {
        let directory = try TemporaryDirectory()
        let key = try PrivateKey.generate()
        let file = try directory.write("key.pem", key.pem().bytes)
        let words = options.split(separator: " ").map(String.init)
        let result =
            words.count == 2
            ? try openssl("pkcs8", "-topk8", "-in", file, words[0], words[1], "-passout", "pass:x1")
            : try openssl("pkcs8", "-topk8", "-in", file, words[0], "-passout", "pass:x1")
        #expect(result.succeeded, "\(result.output)")
        let read = try PrivateKey(pem: Array(result.output.utf8), passphrase: Passphrase("x1"), source: "x")
        #expect(read.publicKeyPin == key.publicKeyPin)
    }

    @Test func `An iteration count that would take hours is refused at once`() throws {
        let directory = try TemporaryDirectory()
        let file = try directory.write("key.pem", try PrivateKey.generate().pem().bytes)
        let text = try openssl("pkcs8", "-topk8", "-in", file, "-iter", "16777216", "-passout", "pass:x1", "-v2prf", "hmacWithSHA256")
            .output
        var der = try PEM.blocks(Array(text.utf8), source: "x")[0].der
        // INTEGER of 4 bytes, 0x01000000; the highest byte makes it 2130706432 iterations.
        let position = try #require(der.indices.first { der[$0...].starts(with: [0x02, 0x04, 0x01, 0x00, 0x00, 0x00]) })
        der[position + 2] = 0x7F
        let error = try #require(throws: PKIError.self) {
            try PrivateKey(pem: Array(PEM.encode(label: "ENCRYPTED PRIVATE KEY", der).utf8), passphrase: Passphrase("x1"), source: "x")
        }
        #expect(error.code == .keyMalformed)
        #expect(error.found == "2130706432 iterations")
    }

    @Test func `A DSA key is refused with keytool's fix`() throws {
        let error = try #require(throws: PKIError.self) { try PrivateKey(pem: Array(WeakKey.dsaPEM.utf8), source: "server.key") }
        #expect(error.code == .keyUnsupported)
        #expect(error.found == "DSA 2048")
        #expect(error.remedy?.contains("-keyalg EC") == true)
        #expect(try Certificate.list(pem: Array(WeakKey.dsaCertificatePEM.utf8), source: "x")[0].keyAlgorithm == .dsa(bits: 2048))
    }

    @Test(arguments: [1024, 2047])
    func `A short RSA key is refused, with the fix named`(bits: Int) throws {
        let pem = try WeakKey.rsa(bits: bits).pem().bytes
        let error = try #require(throws: PKIError.self) { try PrivateKey(pem: pem, source: "server.key") }
        #expect(error.code == .keyTooWeak)
        #expect(error.found == "\(bits)")
        #expect(error.remedy?.contains("-keyalg EC") == true)
        #expect(throws: PKIError.self) { try PrivateKey.generate(.rsa(bits: bits)) }
        #expect(throws: PKIError.self) { try PrivateKey.generate(.rsa(bits: KeyAlgorithm.maximumRSABits + 1)) }
        #expect(throws: PKIError.self) { try PrivateKey.generate(.dsa(bits: 2048)) }
    }

    @Test(arguments: ["secp256k1", "P-224", "brainpoolP256r1"])
    func `Other curves are refused`(curve: String) throws {
        let pem = try WeakKey.ec(curve: curve).pem().bytes
        #expect(throws: PKIError(.keyUnsupported, subject: "", "")) { try PrivateKey(pem: pem, source: "x") }
    }

    @Test func `A curve given by its parameters is refused`() throws {
        let text = try openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-pkeyopt", "ec_param_enc:explicit")
            .output
        let error = try #require(throws: PKIError.self) { try PrivateKey(pem: Array(text.utf8), source: "x") }
        #expect(error.code == .keyUnsupported)
        #expect(error.found == "EC with explicit parameters")
    }

    @Test func `No key, two keys, a public key and OpenSSH's form are refused`() throws {
        let one = try PrivateKey.generate().pem().bytes
        let cases: [([UInt8], PKIError.Code)] = [
            ([], .keyMissing), (one + one, .keyMalformed), (Array(PEM.encode(label: "PUBLIC KEY", [0x30, 0]).utf8), .keyMissing),
            (Array(PEM.encode(label: "OPENSSH PRIVATE KEY", [1]).utf8), .keyUnsupported),
            (Array(PEM.encode(label: "PRIVATE KEY", [0x30, 0]).utf8), .keyMalformed),
        ]
        for (bytes, code) in cases {
            #expect(try #require(throws: PKIError.self) { try PrivateKey(pem: bytes, source: "x") }.code == code)
        }
    }

    @Test(arguments: [KeyAlgorithm.ec(.p256), .ed25519, .rsa(bits: 2048)])
    func `A key with a changed bit is refused or the same key`(algorithm: KeyAlgorithm) throws {
        let key = try PrivateKey.generate(algorithm)
        let der = try key.pkcs8().bytes
        // All of the short ones; every 31st byte of RSA, whose check is slow.
        for index in stride(from: 0, to: der.count, by: algorithm == .rsa(bits: 2048) ? 31 : 1) {
            for mask in [UInt8(0x01), 0x80] {
                var bytes = der
                bytes[index] ^= mask
                guard let damaged = try? PrivateKey(pkcs8: bytes, source: "x") else { continue }
                // Ed25519 has no public half in the file to compare with: its certificate tells.
                if algorithm != .ed25519 { #expect(damaged.publicKeyPin == key.publicKeyPin, "byte \(index)") }
            }
        }
    }
}
