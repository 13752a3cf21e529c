internal import MWPKI

// The AlgorithmIdentifiers of password-based encryption.
//
//   PBES2 (RFC 8018 §6.2)     SEQ { 1.2.840.113549.1.5.13, SEQ { KDF, cipher } }
//     KDF                     SEQ { 1.2.840.113549.1.5.12, SEQ { OCTET STRING salt, INTEGER iterations,
//                                   INTEGER key length OPTIONAL, SEQ { HMAC, NULL } DEFAULT hmacWithSHA1 } }
//     cipher                  SEQ { cipher, OCTET STRING initialization vector }
//   PKCS#12 (RFC 7292 app. C) SEQ { 1.2.840.113549.1.12.1.n, SEQ { OCTET STRING salt, INTEGER iterations } }

/// How much key derivation a file may still ask for.
struct IterationBudget {
    private let limits: KeystoreLimits
    private var left: Int

    init(_ limits: KeystoreLimits) {
        self.limits = limits
        left = limits.maximumTotalIterations
    }

    /// Takes `iterations` off the budget, `times` over, or throws.
    mutating func spend(_ iterations: Int, times: Int = 1) throws {
        guard iterations > 0 else { throw KeystoreError.malformed("an iteration count of zero") }
        guard iterations <= limits.maximumIterations, iterations <= left / times else {
            throw KeystoreError(
                .limitExceeded, "the file asks for too many key derivation iterations",
                expected: "at most \(limits.maximumIterations), and \(limits.maximumTotalIterations) in all", found: "\(iterations)",
                remedy: "export it again with fewer (keytool writes 10000)")
        }
        left -= iterations * times
    }

    func check(salt: ArraySlice<UInt8>) throws {
        guard salt.count <= limits.maximumSaltBytes else {
            throw KeystoreError(
                .limitExceeded, "a salt is too long", expected: "at most \(limits.maximumSaltBytes) bytes", found: "\(salt.count)")
        }
    }
}

/// A cipher whose key is derived from a passphrase.
struct PasswordEncryption {
    private enum Scheme {
        case pbes2(DigestAlgorithm, initializationVector: ArraySlice<UInt8>)
        case pkcs12
    }

    private let scheme: Scheme
    private let cipher: CipherAlgorithm
    private let salt: ArraySlice<UInt8>
    private let iterations: Int

    /// Reads an AlgorithmIdentifier and takes its iterations off `budget`.
    init(from reader: inout DERReader, budget: inout IterationBudget) throws {
        var algorithm = try reader.sequence("the encryption algorithm")
        let identifier = try algorithm.objectIdentifier("the encryption algorithm")
        var parameters = try algorithm.sequence("the encryption parameters")
        try algorithm.finish("the encryption algorithm")
        if identifier == .pbes2 {
            let derivation = try Self.readPBKDF2(from: &parameters)
            var cipher = try parameters.sequence("the cipher")
            let cipherIdentifier = try cipher.objectIdentifier("the cipher")
            guard let algorithm = CipherAlgorithm(pbes2: cipherIdentifier) else { throw Self.unsupported("cipher", cipherIdentifier) }
            let initializationVector = try cipher.octets("the initialization vector")
            try cipher.finish("the cipher")
            guard initializationVector.count == algorithm.blockBytes else {
                throw KeystoreError.malformed("the initialization vector has \(initializationVector.count) bytes")
            }
            guard derivation.keyBytes ?? algorithm.keyBytes == algorithm.keyBytes else {
                throw KeystoreError.malformed("the derived key's length is not that of \(algorithm.name)")
            }
            self.cipher = algorithm
            scheme = .pbes2(derivation.prf, initializationVector: initializationVector)
            (salt, iterations) = (derivation.salt, derivation.iterations)
            try budget.spend(iterations)
        } else {
            guard let algorithm = CipherAlgorithm(pkcs12: identifier) else { throw Self.unsupported("encryption scheme", identifier) }
            cipher = algorithm
            scheme = .pkcs12
            salt = try parameters.octets("the salt")
            iterations = try parameters.integer("the iteration count")
            // Key and initialization vector are derived each on its own.
            try budget.spend(iterations, times: 2)
        }
        try parameters.finish("the encryption parameters")
        try budget.check(salt: salt)
    }

    /// What to say about it, if it no longer protects.
    var weakness: String? {
        cipher.isWeak ? "\(cipher.name) protects an entry: too weak to rely on; write the store anew" : nil
    }

    /// The plaintext, or nil if the padding shows that the passphrase is another one.
    func decrypt(_ ciphertext: ArraySlice<UInt8>, _ passphrase: StorePassphrase) throws -> SecretBytes? {
        switch scheme {
        case .pbes2(let prf, let initializationVector):
            let key = try Cryptography.pbkdf2(prf, passphrase.utf8, salt: salt, iterations: iterations, count: cipher.keyBytes)
            return try unsafe initializationVector.withUnsafeBytes {
                try unsafe Cryptography.decrypt(cipher, key: key, initializationVector: $0, ciphertext)
            }
        case .pkcs12:
            let key = try derive(.key, cipher.keyBytes, passphrase)
            let initializationVector = try derive(.initializationVector, cipher.blockBytes, passphrase)
            return try unsafe initializationVector.withUnsafeBytes {
                try unsafe Cryptography.decrypt(cipher, key: key, initializationVector: $0, ciphertext)
            }
        }
    }

    /// AES-256-CBC with a key from PBKDF2-HMAC-SHA256: the AlgorithmIdentifier and the ciphertext.
    static func encrypt(
        _ plaintext: [UInt8], _ passphrase: StorePassphrase, iterations: Int, random: (Int) throws -> [UInt8]
    ) throws -> (algorithm: [UInt8], ciphertext: [UInt8]) {
        let cipher = CipherAlgorithm.aes256
        let salt = try random(PKCS12Writer.saltBytes)
        let initializationVector = try random(cipher.blockBytes)
        let key = try Cryptography.pbkdf2(.sha256, passphrase.utf8, salt: salt[...], iterations: iterations, count: cipher.keyBytes)
        let ciphertext = try unsafe initializationVector.withUnsafeBytes { vector in
            try unsafe Cryptography.encrypt(cipher, key: key, initializationVector: vector, plaintext)
        }
        let derivation = DER.sequence(
            [
                DER.objectIdentifier(.pbkdf2),
                DER.sequence(
                    [
                        DER.octetString(salt), DER.integer(UInt64(iterations)), DER.integer(UInt64(cipher.keyBytes)),
                        DER.sequence([DER.objectIdentifier(.hmacSHA256), DER.null]),
                    ]),
            ])
        let encryption = DER.sequence([DER.objectIdentifier(.aes256CBC), DER.octetString(initializationVector)])
        return (DER.sequence([DER.objectIdentifier(.pbes2), DER.sequence([derivation, encryption])]), ciphertext)
    }

    private func derive(_ purpose: Cryptography.Purpose, _ count: Int, _ passphrase: StorePassphrase) throws -> SecretBytes {
        try Cryptography.pkcs12Derivation(
            .sha1, passphrase.bmp, salt: salt, iterations: iterations, purpose: purpose, count: count)
    }

    private static func readPBKDF2(
        from reader: inout DERReader
    ) throws -> (prf: DigestAlgorithm, salt: ArraySlice<UInt8>, iterations: Int, keyBytes: Int?) {
        var algorithm = try reader.sequence("the key derivation")
        let identifier = try algorithm.objectIdentifier("the key derivation")
        guard identifier == .pbkdf2 else { throw unsupported("key derivation", identifier) }
        var parameters = try algorithm.sequence("the key derivation's parameters")
        try algorithm.finish("the key derivation")
        let salt = try parameters.octets("the salt")
        let iterations = try parameters.integer("the iteration count")
        let keyBytes = parameters.nextTag == DERTag.integer ? try parameters.integer("the key's length") : nil
        var prf = DigestAlgorithm.sha1
        if !parameters.isAtEnd {
            let identifier = try parameters.algorithmWithoutParameters("the key derivation's function")
            guard let found = DigestAlgorithm(hmac: identifier) else { throw unsupported("key derivation function", identifier) }
            prf = found
        }
        try parameters.finish("the key derivation's parameters")
        return (prf, salt, iterations, keyBytes)
    }

    private static func unsupported(_ what: String, _ identifier: ObjectIdentifier) -> KeystoreError {
        KeystoreError(
            .algorithmUnsupported, "the \(what) is not supported", found: identifier.description,
            remedy: "rewrite the store with a current keytool or openssl (PBES2, AES-256-CBC, PBKDF2)")
    }
}

extension DERReader {
    /// An AlgorithmIdentifier whose parameters are NULL or absent.
    mutating func algorithmWithoutParameters(_ what: String) throws -> ObjectIdentifier {
        var algorithm = try sequence(what)
        let identifier = try algorithm.objectIdentifier(what)
        if !algorithm.isAtEnd {
            guard try algorithm.read(DERTag.null, "\(what)'s parameter").isEmpty else {
                throw KeystoreError.malformed("\(what)'s parameter is not NULL")
            }
        }
        try algorithm.finish(what)
        return identifier
    }
}
