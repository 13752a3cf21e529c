internal import COpenSSL
package import MWPKI

/// A private key as a store holds it: parsed, but not yet judged strong enough to use.
package struct StoredKey: Sendable {
    /// PKCS#8, not encrypted.
    let pkcs8: SecretBytes
    package let algorithm: KeyAlgorithm
    package let publicKeyPin: PublicKeyPin

    /// Parses a PKCS#8 PrivateKeyInfo (RFC 5208 §5) of any algorithm that libcrypto knows, and nothing after it.
    init(pkcs8: SecretBytes) throws {
        OpenSSL.prepare()
        OpenSSL.clearErrors()
        let key = try unsafe pkcs8.withUnsafeBytes { bytes -> OpaquePointer in
            var cursor = unsafe bytes.baseAddress?.assumingMemoryBound(to: UInt8.self)
            let info = unsafe d2i_PKCS8_PRIV_KEY_INFO(nil, &cursor, bytes.count)
            defer { unsafe PKCS8_PRIV_KEY_INFO_free(info) }
            guard unsafe info != nil, let start = bytes.baseAddress, let end = unsafe cursor,
                unsafe UnsafeRawPointer(end) - start == bytes.count, let key = unsafe EVP_PKCS82PKEY(info)
            else {
                throw KeystoreError(.keyMalformed, "not a private key", underlying: LibraryReasons(OpenSSL.takeErrors()))
            }
            return unsafe key
        }
        let parsed = try unsafe PrivateKey(uncheckedOwning: key)
        self.init(pkcs8: pkcs8, algorithm: parsed.algorithm, publicKeyPin: parsed.publicKeyPin)
    }

    /// A key that is in use already.
    package init(_ key: PrivateKey) throws {
        self.init(pkcs8: try key.pkcs8(), algorithm: key.algorithm, publicKeyPin: key.publicKeyPin)
    }

    private init(pkcs8: SecretBytes, algorithm: KeyAlgorithm, publicKeyPin: PublicKeyPin) {
        self.pkcs8 = pkcs8
        self.algorithm = algorithm
        self.publicKeyPin = publicKeyPin
    }

    /// The key for use. Throws `PKIError` for DSA, RSA below 2048 bits, and whatever else the policy refuses, with the remedy.
    package func privateKey(source: String) throws -> PrivateKey {
        try pkcs8.withArray { try PrivateKey(pkcs8: $0, source: source) }
    }

    /// As `-----BEGIN PRIVATE KEY-----`, not encrypted, or encrypted where there is a passphrase.
    package func pem(passphrase: Passphrase? = nil, source: String) throws -> SecretBytes {
        try privateKey(source: source).pem(passphrase: passphrase)
    }
}

/// What libcrypto said, as an error's cause.
struct LibraryReasons: Error, CustomStringConvertible {
    private let reasons: [String]

    init?(_ reasons: [String]) {
        guard !reasons.isEmpty else { return nil }
        self.reasons = reasons
    }

    var description: String { reasons.joined(separator: ", ") }
}
