internal import COpenSSL
internal import MWPKI

/// A block cipher in CBC mode with PKCS#7 padding.
enum CipherAlgorithm: Sendable {
    case aes128, aes192, aes256, tripleDES, twoKeyTripleDES, rc2Bits128, rc2Bits40

    /// The cipher of a PBES2 encryption scheme.
    init?(pbes2 identifier: ObjectIdentifier) {
        switch identifier {
        case .aes128CBC: self = .aes128
        case .aes192CBC: self = .aes192
        case .aes256CBC: self = .aes256
        case .tripleDESCBC: self = .tripleDES
        default: return nil
        }
    }

    /// The cipher of one of PKCS#12's own schemes.
    init?(pkcs12 identifier: ObjectIdentifier) {
        switch identifier {
        case .pbeSHA1TripleDES: self = .tripleDES
        case .pbeSHA1TwoKeyTripleDES: self = .twoKeyTripleDES
        case .pbeSHA1RC2Bits128: self = .rc2Bits128
        case .pbeSHA1RC2Bits40: self = .rc2Bits40
        default: return nil
        }
    }

    var keyBytes: Int {
        switch self {
        case .aes128, .twoKeyTripleDES, .rc2Bits128: 16
        case .aes192, .tripleDES: 24
        case .aes256: 32
        case .rc2Bits40: 5
        }
    }

    var blockBytes: Int {
        switch self {
        case .aes128, .aes192, .aes256: 16
        case .tripleDES, .twoKeyTripleDES, .rc2Bits128, .rc2Bits40: 8
        }
    }

    /// What messages call it.
    var name: String {
        switch self {
        case .aes128: "AES-128"
        case .aes192: "AES-192"
        case .aes256: "AES-256"
        case .tripleDES: "3DES"
        case .twoKeyTripleDES: "2-key 3DES"
        case .rc2Bits128: "RC2-128"
        case .rc2Bits40: "RC2-40"
        }
    }

    /// No longer fit to protect anything.
    var isWeak: Bool { blockBytes == 8 }

    fileprivate var libraryName: String {
        switch self {
        case .aes128: "AES-128-CBC"
        case .aes192: "AES-192-CBC"
        case .aes256: "AES-256-CBC"
        case .tripleDES: "DES-EDE3-CBC"
        case .twoKeyTripleDES: "DES-EDE-CBC"
        case .rc2Bits128: "RC2-CBC"
        case .rc2Bits40: "RC2-40-CBC"
        }
    }

    fileprivate var isLegacy: Bool {
        switch self {
        case .rc2Bits128, .rc2Bits40: true
        default: false
        }
    }
}

extension Cryptography {
    /// The plaintext, or nil if the padding is wrong, which is what a wrong key looks like.
    static func decrypt(
        _ algorithm: CipherAlgorithm, key: SecretBytes, initializationVector: UnsafeRawBufferPointer, _ ciphertext: ArraySlice<UInt8>
    ) throws -> SecretBytes? {
        guard !ciphertext.isEmpty, ciphertext.count % algorithm.blockBytes == 0 else { return nil }
        return try unsafe crypt(algorithm, key: key, initializationVector: initializationVector, Array(ciphertext), encrypts: false)
    }

    static func encrypt(
        _ algorithm: CipherAlgorithm, key: SecretBytes, initializationVector: UnsafeRawBufferPointer, _ plaintext: [UInt8]
    ) throws -> [UInt8] {
        let result = try unsafe crypt(algorithm, key: key, initializationVector: initializationVector, plaintext, encrypts: true)
        guard let result else { throw failure("EVP_CipherFinal_ex") }
        return unsafe result.withUnsafeBytes { unsafe [UInt8]($0) }
    }

    private static func crypt(
        _ algorithm: CipherAlgorithm, key: SecretBytes, initializationVector: UnsafeRawBufferPointer, _ input: [UInt8],
        encrypts: Bool
    ) throws -> SecretBytes? {
        guard key.count == algorithm.keyBytes, initializationVector.count == algorithm.blockBytes else {
            throw KeystoreError.malformed("\(algorithm.name) with a key or initialization vector of another length")
        }
        let cipher = try unsafe fetch(algorithm)
        defer { unsafe EVP_CIPHER_free(cipher) }
        guard let context = unsafe EVP_CIPHER_CTX_new() else { throw failure("EVP_CIPHER_CTX_new") }
        defer { unsafe EVP_CIPHER_CTX_free(context) }
        let isReady = unsafe key.withUnsafeBytes { key in
            unsafe EVP_CipherInit_ex2(
                context, cipher, key.baseAddress?.assumingMemoryBound(to: UInt8.self),
                initializationVector.baseAddress?.assumingMemoryBound(to: UInt8.self), encrypts ? 1 : 0, nil)
        }
        guard isReady == 1 else { throw failure("EVP_CipherInit_ex2") }
        var isComplete = true
        let output = try unsafe SecretBytes(capacity: input.count + algorithm.blockBytes) { out in
            let target = unsafe out.baseAddress?.assumingMemoryBound(to: UInt8.self)
            var count: Int32 = 0
            guard unsafe EVP_CipherUpdate(context, target, &count, input, Int32(clamping: input.count)) == 1 else {
                throw failure("EVP_CipherUpdate")
            }
            var tail: Int32 = 0
            if unsafe EVP_CipherFinal_ex(context, target?.advanced(by: Int(count)), &tail) != 1 {
                isComplete = false
                OpenSSL.clearErrors()
            }
            return Int(count + tail)
        }
        return isComplete ? output : nil
    }

    /// One reference to the cipher's implementation; the caller frees it.
    private static func fetch(_ algorithm: CipherAlgorithm) throws -> OpaquePointer {
        let library = unsafe algorithm.isLegacy ? LegacyLibrary.shared.context : nil
        if unsafe algorithm.isLegacy && library == nil {
            throw legacyProviderMissing(algorithm)
        }
        guard let cipher = unsafe EVP_CIPHER_fetch(library, algorithm.libraryName, nil) else {
            OpenSSL.clearErrors()
            throw legacyProviderMissing(algorithm)
        }
        return unsafe cipher
    }

    private static func legacyProviderMissing(_ algorithm: CipherAlgorithm) -> KeystoreError {
        KeystoreError(
            .legacyProviderMissing, "\(algorithm.name) needs OpenSSL's legacy provider, which this system has not",
            remedy: "rewrite the store with a current keytool: keytool -importkeystore -srckeystore OLD -destkeystore NEW "
                + "-deststoretype PKCS12, or install the legacy provider (Debian 13: openssl-provider-legacy)")
    }
}

/// A library context of its own that has the legacy provider, so that RC2 is never available to anything else in the process.
@safe private final class LegacyLibrary: @unchecked Sendable {
    // Safety: written in `init` only; library contexts may be used from several threads.
    static let shared = LegacyLibrary()

    /// Nil if the provider cannot be loaded. Lives as long as the process.
    let context: OpaquePointer?

    private init() {
        guard let context = unsafe OSSL_LIB_CTX_new() else {
            unsafe self.context = nil
            return
        }
        guard unsafe OSSL_PROVIDER_load(context, "legacy") != nil else {
            OpenSSL.clearErrors()
            unsafe OSSL_LIB_CTX_free(context)
            unsafe self.context = nil
            return
        }
        unsafe self.context = context
    }
}
