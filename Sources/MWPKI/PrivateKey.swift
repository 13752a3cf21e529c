internal import COpenSSL

/// A private key that our policy accepts; the owner of OpenSSL's `EVP_PKEY`.
@safe package final class PrivateKey: Sendable {
    // Safety: never changed after the initialiser; OpenSSL's caches in it are under its own lock.
    private nonisolated(unsafe) let key: OpaquePointer

    package let algorithm: KeyAlgorithm
    /// Of the public half.
    package let publicKeyPin: PublicKeyPin

    /// Takes the key over without judging it: for what was judged already, and for tests that need a weak one.
    package init(uncheckedOwning key: OpaquePointer) throws {
        OpenSSL.prepare()
        guard let info = unsafe OpenSSL.encode({ unsafe i2d_PUBKEY(key, $0) }), let pin = PublicKeyPin(bytes: OpenSSL.sha256(info)) else {
            unsafe EVP_PKEY_free(key)
            throw PKIError(.keyMalformed, subject: "private key", "its public half cannot be encoded", underlying: OpenSSL.takeErrors())
        }
        unsafe self.key = unsafe key
        algorithm = unsafe KeyAlgorithm(key: key)
        publicKeyPin = pin
    }

    deinit { unsafe EVP_PKEY_free(key) }

    /// Takes the key over, and refuses it when it is weak, of a kind we do not use, or when its halves do not belong together.
    package convenience init(owning key: OpaquePointer, source: String) throws {
        try unsafe self.init(uncheckedOwning: key)
        try algorithm.requireStrong(subject: source)
        try requireConsistent(source: source)
    }

    /// Reads PKCS#8, and nothing after it.
    package convenience init(pkcs8 der: [UInt8], source: String) throws {
        try unsafe self.init(owning: KeyDecoder.pkcs8(der, source: source), source: source)
    }

    /// Reads the only private key of a PEM file: PKCS#8, encrypted or not, or the traditional forms without encryption.
    ///
    /// Other blocks (certificates) are skipped. Never asks for a passphrase: a missing one is `passphraseMissing`.
    package convenience init(pem: [UInt8], passphrase: Passphrase? = nil, source: String) throws {
        try unsafe self.init(owning: KeyDecoder.pem(pem, passphrase: passphrase, source: source), source: source)
    }

    /// A new key. Throws for what our policy refuses.
    package static func generate(_ algorithm: KeyAlgorithm = .ec(.p256)) throws -> PrivateKey {
        OpenSSL.prepare()
        try algorithm.requireStrong(subject: "new key")
        OpenSSL.clearErrors()
        let key: OpaquePointer? =
            switch algorithm {
            case .ec(let curve): unsafe COpenSSL_generate_ec(curve.rawValue)
            case .rsa(let bits): unsafe COpenSSL_generate_rsa(bits)
            case .ed25519, .dsa, .other: unsafe COpenSSL_generate_ed25519()
            }
        guard let key = unsafe key else {
            throw PKIError(.buildFailed, subject: "new key", "cannot be generated", underlying: OpenSSL.takeErrors())
        }
        return try unsafe PrivateKey(uncheckedOwning: key)
    }

    /// The key of this certificate.
    package func matches(_ certificate: Certificate) -> Bool {
        OpenSSL.clearErrors()
        defer { OpenSSL.clearErrors() }
        return unsafe certificate.withUnsafeX509 { x509 in
            guard let other = unsafe X509_get0_pubkey(x509) else { return false }
            return unsafe EVP_PKEY_eq(key, other) == 1
        }
    }

    /// The `EVP_PKEY`, for as long as `body` runs; take a reference to keep it.
    package func withUnsafeKey<R>(_ body: (OpaquePointer) throws -> R) rethrows -> R {
        try withExtendedLifetime(self) { try unsafe body(key) }
    }

    // MARK: - Writing

    /// PKCS#8, not encrypted.
    package func pkcs8() throws -> SecretBytes {
        OpenSSL.clearErrors()
        guard let info = unsafe EVP_PKEY2PKCS8(key) else { throw unwritable() }
        defer { unsafe PKCS8_PRIV_KEY_INFO_free(info) }
        var buffer: UnsafeMutablePointer<UInt8>? = nil
        let count = unsafe i2d_PKCS8_PRIV_KEY_INFO(info, &buffer)
        guard count > 0, let start = unsafe buffer else { throw unwritable() }
        defer { unsafe COpenSSL_clear_free(start, Int(count)) }
        return unsafe SecretBytes(copying: UnsafeRawBufferPointer(start: start, count: Int(count)))
    }

    /// As `PRIVATE KEY`, or, with a passphrase, as `ENCRYPTED PRIVATE KEY` (PBES2, PBKDF2 with SHA-256, AES-256-CBC).
    package func pem(passphrase: Passphrase? = nil) throws -> SecretBytes {
        guard let passphrase else {
            return try unsafe pkcs8().withUnsafeBytes { unsafe SecretBytes(PEM.encodeBytes(label: "PRIVATE KEY", $0)) }
        }
        // Without one, OpenSSL would ask on the terminal.
        guard !passphrase.secret.isEmpty else {
            throw PKIError(.passphraseMissing, subject: "private key", "an empty passphrase protects nothing")
        }
        OpenSSL.clearErrors()
        let text = unsafe passphrase.withUnsafeBytes { secret in
            unsafe OpenSSL.print { bio in
                unsafe PEM_write_bio_PKCS8PrivateKey(
                    bio, key, EVP_aes_256_cbc(), secret.bindMemory(to: CChar.self).baseAddress, Int32(clamping: secret.count), nil, nil)
                    == 1
            }
        }
        guard let text else { throw unwritable() }
        return SecretBytes(text)
    }

    /// DER of the public half, a SubjectPublicKeyInfo.
    package func publicKeyInfo() throws -> [UInt8] {
        OpenSSL.clearErrors()
        guard let info = unsafe OpenSSL.encode({ unsafe i2d_PUBKEY(key, $0) }) else { throw unwritable() }
        return info
    }

    private func unwritable() -> PKIError {
        PKIError(.keyMalformed, subject: "private key", "cannot be encoded", underlying: OpenSSL.takeErrors())
    }

    /// A damaged file may hold a private half that is not the public half's.
    private func requireConsistent(source: String) throws {
        OpenSSL.clearErrors()
        guard let context = unsafe EVP_PKEY_CTX_new_from_pkey(nil, key, nil) else {
            throw PKIError(.keyMalformed, subject: source, "cannot be checked", underlying: OpenSSL.takeErrors())
        }
        defer { unsafe EVP_PKEY_CTX_free(context) }
        guard unsafe EVP_PKEY_pairwise_check(context) == 1 else {
            throw PKIError(
                .keyMalformed, subject: source, "the private half does not belong to the public half",
                remedy: "the file is damaged; restore it or make a new key", underlying: OpenSSL.takeErrors())
        }
    }
}
