internal import COpenSSL

/// From the bytes of a key file to an `EVP_PKEY` that the caller owns. Judges form, not strength.
enum KeyDecoder {
    /// A hundred times today's recommendation (600,000), which is a few seconds of work; a damaged count could ask for hours.
    static let maximumDerivationCost: Int64 = 60_000_000

    static func pem(_ bytes: [UInt8], passphrase: Passphrase?, source: String) throws -> OpaquePointer {
        var blocks = try PEM.blocks(bytes, source: source)
        defer { for index in blocks.indices { blocks[index].wipe() } }
        let keys = blocks.filter { $0.label.hasSuffix("PRIVATE KEY") }
        guard let block = keys.first else {
            let labels = blocks.map(\.label)
            throw PKIError(
                .keyMissing, subject: source, "no private key in it", expected: "a block -----BEGIN PRIVATE KEY-----",
                found: labels.isEmpty ? "no PEM block" : labels.joined(separator: ", "))
        }
        guard keys.count == 1 else {
            throw PKIError(.keyMalformed, subject: source, "more than one private key", expected: "one", found: "\(keys.count)")
        }
        let subject = "\(source), block \(block.number)"
        guard block.headers.isEmpty else {
            // RFC 1421 encryption derives its key with one round of MD5.
            throw PKIError(
                .keyUnsupported, subject: subject, "the traditional encryption of key files is not supported",
                remedy: "convert it with: openssl pkcs8 -topk8 -in FILE -out NEW")
        }
        switch block.label {
        case "PRIVATE KEY": return try unsafe pkcs8(block.der, source: subject)
        case "ENCRYPTED PRIVATE KEY": return try unsafe encrypted(block.der, passphrase: passphrase, source: subject)
        case "RSA PRIVATE KEY": return try unsafe traditional(block.der, EVP_PKEY_RSA, source: subject)
        case "EC PRIVATE KEY": return try unsafe traditional(block.der, EVP_PKEY_EC, source: subject)
        case "DSA PRIVATE KEY": return try unsafe traditional(block.der, EVP_PKEY_DSA, source: subject)
        default:
            throw PKIError(
                .keyUnsupported, subject: subject, "this form of private key is not supported", expected: "PKCS#8", found: block.label,
                remedy: "convert it with: openssl pkcs8 -topk8 -nocrypt -in FILE -out NEW")
        }
    }

    static func pkcs8(_ der: [UInt8], source: String) throws -> OpaquePointer {
        OpenSSL.prepare()
        OpenSSL.clearErrors()
        let info = unsafe der.withUnsafeBufferPointer { bytes -> OpaquePointer? in
            var cursor = bytes.baseAddress
            let info = unsafe d2i_PKCS8_PRIV_KEY_INFO(nil, &cursor, bytes.count)
            guard let parsed = unsafe info, unsafe cursor == bytes.baseAddress?.advanced(by: bytes.count) else {
                unsafe PKCS8_PRIV_KEY_INFO_free(info)
                return nil
            }
            return unsafe parsed
        }
        guard let info = unsafe info else { throw malformed(source) }
        defer { unsafe PKCS8_PRIV_KEY_INFO_free(info) }
        guard let key = unsafe EVP_PKCS82PKEY(info) else { throw malformed(source) }
        return unsafe key
    }

    private static func encrypted(_ der: [UInt8], passphrase: Passphrase?, source: String) throws -> OpaquePointer {
        guard let passphrase else {
            throw PKIError(.passphraseMissing, subject: source, "the key is encrypted", remedy: "name the file with its passphrase")
        }
        OpenSSL.prepare()
        OpenSSL.clearErrors()
        let parsed = unsafe der.withUnsafeBufferPointer { bytes -> OpaquePointer? in
            var cursor = bytes.baseAddress
            return unsafe d2i_X509_SIG(nil, &cursor, bytes.count)
        }
        guard let parsed = unsafe parsed else { throw malformed(source) }
        defer { unsafe X509_SIG_free(parsed) }
        var algorithm: UnsafePointer<X509_ALGOR>? = nil
        unsafe X509_SIG_get0(parsed, &algorithm, nil)
        let cost = unsafe COpenSSL_pbe_cost(algorithm)
        guard (1...maximumDerivationCost).contains(cost) else {
            throw PKIError(
                .keyMalformed, subject: source, "an unknown encryption, or an unreasonable iteration count",
                found: cost > 0 ? "\(cost) iterations" : nil,
                remedy: "convert it with: openssl pkcs8 -topk8 -v2 aes-256-cbc -in FILE -out NEW")
        }
        let info = unsafe passphrase.withUnsafeBytes { secret in
            unsafe PKCS8_decrypt(parsed, secret.bindMemory(to: CChar.self).baseAddress, Int32(clamping: secret.count))
        }
        guard let info = unsafe info else {
            throw PKIError(
                .passphraseRejected, subject: source, "the key cannot be decrypted", remedy: "check the passphrase",
                underlying: OpenSSL.takeErrors())
        }
        defer { unsafe PKCS8_PRIV_KEY_INFO_free(info) }
        guard let key = unsafe EVP_PKCS82PKEY(info) else { throw malformed(source) }
        return unsafe key
    }

    private static func traditional(_ der: [UInt8], _ type: Int32, source: String) throws -> OpaquePointer {
        OpenSSL.prepare()
        OpenSSL.clearErrors()
        let key = unsafe der.withUnsafeBufferPointer { bytes -> OpaquePointer? in
            var cursor = bytes.baseAddress
            let key = unsafe d2i_PrivateKey(type, nil, &cursor, bytes.count)
            guard unsafe cursor == bytes.baseAddress?.advanced(by: bytes.count) else {
                unsafe EVP_PKEY_free(key)
                return nil
            }
            return unsafe key
        }
        guard let key = unsafe key else { throw malformed(source) }
        return unsafe key
    }

    private static func malformed(_ source: String) -> PKIError {
        PKIError(.keyMalformed, subject: source, "not a private key", remedy: "the file is damaged", underlying: OpenSSL.takeErrors())
    }
}
