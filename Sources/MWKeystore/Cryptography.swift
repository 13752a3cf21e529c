internal import COpenSSL
internal import MWPKI

/// A message digest, with what the formats call it.
enum DigestAlgorithm: Sendable, CaseIterable {
    case sha1, sha224, sha256, sha384, sha512

    /// The algorithm of a plain digest's object identifier.
    init?(digest identifier: ObjectIdentifier) {
        guard let match = Self.allCases.first(where: { $0.identifier == identifier }) else { return nil }
        self = match
    }

    /// The algorithm of an HMAC's object identifier.
    init?(hmac identifier: ObjectIdentifier) {
        guard let match = Self.allCases.first(where: { $0.hmacIdentifier == identifier }) else { return nil }
        self = match
    }

    var identifier: ObjectIdentifier {
        switch self {
        case .sha1: .sha1
        case .sha224: .sha224
        case .sha256: .sha256
        case .sha384: .sha384
        case .sha512: .sha512
        }
    }

    var hmacIdentifier: ObjectIdentifier {
        switch self {
        case .sha1: .hmacSHA1
        case .sha224: .hmacSHA224
        case .sha256: .hmacSHA256
        case .sha384: .hmacSHA384
        case .sha512: .hmacSHA512
        }
    }

    var count: Int {
        switch self {
        case .sha1: 20
        case .sha224: 28
        case .sha256: 32
        case .sha384: 48
        case .sha512: 64
        }
    }

    var name: String {
        switch self {
        case .sha1: "SHA-1"
        case .sha224: "SHA-224"
        case .sha256: "SHA-256"
        case .sha384: "SHA-384"
        case .sha512: "SHA-512"
        }
    }

    /// libcrypto's constant table entry; never freed.
    var method: OpaquePointer? {
        switch self {
        case .sha1: unsafe EVP_sha1()
        case .sha224: unsafe EVP_sha224()
        case .sha256: unsafe EVP_sha256()
        case .sha384: unsafe EVP_sha384()
        case .sha512: unsafe EVP_sha512()
        }
    }
}

/// What the codecs need from libcrypto, as functions of bytes.
enum Cryptography {
    /// The digest of `parts`, one after the other.
    static func digest(_ algorithm: DigestAlgorithm, _ parts: UnsafeRawBufferPointer...) throws -> SecretBytes {
        guard let context = unsafe EVP_MD_CTX_new() else { throw failure("EVP_MD_CTX_new") }
        defer { unsafe EVP_MD_CTX_free(context) }
        var isDone = unsafe EVP_DigestInit_ex(context, algorithm.method, nil) == 1
        for index in unsafe parts.indices {
            isDone = unsafe isDone && EVP_DigestUpdate(context, parts[index].baseAddress, parts[index].count) == 1
        }
        guard isDone else { throw failure("EVP_DigestUpdate") }
        return try unsafe SecretBytes(capacity: algorithm.count) { out in
            guard unsafe EVP_DigestFinal_ex(context, out.baseAddress?.assumingMemoryBound(to: UInt8.self), nil) == 1 else {
                throw failure("EVP_DigestFinal_ex")
            }
            return algorithm.count
        }
    }

    static func hmac(_ algorithm: DigestAlgorithm, key: SecretBytes, _ message: ArraySlice<UInt8>) throws -> [UInt8] {
        var out = [UInt8](repeating: 0, count: algorithm.count)
        let result = unsafe key.withUnsafeBytes { key in
            unsafe message.withUnsafeBufferPointer { message in
                unsafe HMAC(algorithm.method, key.baseAddress, Int32(key.count), message.baseAddress, message.count, &out, nil)
            }
        }
        guard unsafe result != nil else { throw failure("HMAC") }
        return out
    }

    /// PBKDF2, RFC 8018 §5.2. The caller has checked `iterations` against the limits.
    static func pbkdf2(
        _ algorithm: DigestAlgorithm, _ passphrase: SecretBytes, salt: ArraySlice<UInt8>, iterations: Int, count: Int
    ) throws -> SecretBytes {
        try unsafe SecretBytes(capacity: count) { out in
            let result = unsafe passphrase.withUnsafeBytes { passphrase in
                unsafe salt.withUnsafeBufferPointer { salt in
                    unsafe PKCS5_PBKDF2_HMAC(
                        passphrase.baseAddress?.assumingMemoryBound(to: CChar.self), Int32(clamping: passphrase.count),
                        salt.baseAddress, Int32(clamping: salt.count), Int32(clamping: iterations), algorithm.method,
                        Int32(clamping: count), out.baseAddress?.assumingMemoryBound(to: UInt8.self))
                }
            }
            guard result == 1 else { throw failure("PKCS5_PBKDF2_HMAC") }
            return count
        }
    }

    /// What a derived byte string is for, RFC 7292 appendix B.3.
    enum Purpose: Int32 {
        case key = 1
        case initializationVector = 2
        case mac = 3
    }

    /// PKCS#12's own derivation, RFC 7292 appendix B.2. The caller has checked `iterations` against the limits.
    static func pkcs12Derivation(
        _ algorithm: DigestAlgorithm, _ bmpPassphrase: SecretBytes, salt: ArraySlice<UInt8>, iterations: Int, purpose: Purpose, count: Int
    ) throws -> SecretBytes {
        try unsafe SecretBytes(capacity: count) { out in
            // The C function takes the inputs as mutable, but only reads them.
            let result = unsafe bmpPassphrase.withUnsafeBytes { passphrase in
                unsafe salt.withUnsafeBufferPointer { salt in
                    unsafe PKCS12_key_gen_uni(
                        UnsafeMutablePointer(mutating: passphrase.baseAddress?.assumingMemoryBound(to: UInt8.self)),
                        Int32(clamping: passphrase.count), UnsafeMutablePointer(mutating: salt.baseAddress), Int32(clamping: salt.count),
                        purpose.rawValue, Int32(clamping: iterations), Int32(clamping: count),
                        out.baseAddress?.assumingMemoryBound(to: UInt8.self), algorithm.method)
                }
            }
            guard result == 1 else { throw failure("PKCS12_key_gen_uni") }
            return count
        }
    }

    /// Compares in a time that depends on the lengths only.
    static func isEqual(_ left: UnsafeRawBufferPointer, _ right: UnsafeRawBufferPointer) -> Bool {
        unsafe left.count == right.count && (left.isEmpty || CRYPTO_memcmp(left.baseAddress, right.baseAddress, left.count) == 0)
    }

    /// The error of a call that does not fail for any input.
    static func failure(_ call: String) -> KeystoreError {
        KeystoreError(.cryptographyFailed, "\(call) failed", underlying: LibraryReasons(OpenSSL.takeErrors()))
    }
}
