internal import MWPKI

// PKCS#12 (RFC 7292), as far as keystores in use need it.
//
//   PFX            SEQ { INTEGER 3, ContentInfo authSafe, MacData OPTIONAL }
//   ContentInfo    SEQ { 1.2.840.113549.1.7.1 (data),          [0] { OCTET STRING } }
//                | SEQ { 1.2.840.113549.1.7.6 (encryptedData), [0] { SEQ { INTEGER 0, SEQ { data, algorithm, [0] ciphertext } } } }
//   MacData        SEQ { SEQ { SEQ { digest, NULL }, OCTET STRING mac }, OCTET STRING salt, INTEGER iterations DEFAULT 1 }
//   authSafe       the octets are SEQ OF ContentInfo, and each of those's plaintext is SafeContents
//   SafeContents   SEQ OF bag: SEQ { bag type, [0] { value }, SET OF SEQ { attribute, SET { value } } OPTIONAL }
//
// The MAC covers the authSafe's octets and is checked before they are parsed. Everything outside of them has one accepted form.

/// Reads a PKCS#12 file down to its bags.
struct PKCS12Reader {
    /// What is asked of a file, and by whom.
    struct Request {
        var passphrase: StorePassphrase?
        var keyPassphrase: StorePassphrase?
        var acceptsUnauthenticated: Bool
        var limits: KeystoreLimits
    }

    private var request: Request
    private var budget: IterationBudget
    private(set) var bags: [StoreBag] = []
    private(set) var warnings: [String] = []

    init(_ bytes: [UInt8], _ request: Request) throws {
        self.request = request
        budget = IterationBudget(request.limits)
        var file = DERReader(bytes[...])
        var pfx = try file.sequence("the PFX")
        try file.finish("the PFX")
        let version = try pfx.integer("the version")
        guard version == 3 else {
            throw KeystoreError(.formatUnsupported, "an unknown version of PKCS#12", expected: "3", found: "\(version)")
        }
        let content = try Self.readAuthenticatedSafe(from: &pfx)
        try checkIntegrity(of: content, from: &pfx)
        try pfx.finish("the PFX")
        try readSafes(content)
    }

    private static func readAuthenticatedSafe(from pfx: inout DERReader) throws -> ArraySlice<UInt8> {
        var info = try pfx.sequence("the authenticated safe")
        let type = try info.objectIdentifier("the authenticated safe's type")
        guard type == .data else {
            throw KeystoreError(
                .formatUnsupported, "the store is not protected by a passphrase", expected: "data",
                found: type == .signedData ? "signed data" : "\(type)",
                remedy: "export it again with a passphrase")
        }
        var explicit = try info.explicit0("the authenticated safe")
        try info.finish("the authenticated safe")
        let content = try explicit.octets("the authenticated safe")
        try explicit.finish("the authenticated safe")
        return content
    }

    // MARK: - Integrity

    private mutating func checkIntegrity(of content: ArraySlice<UInt8>, from pfx: inout DERReader) throws {
        guard !pfx.isAtEnd else {
            guard request.acceptsUnauthenticated else {
                throw KeystoreError(
                    .unauthenticated, "the store has no integrity check, so anybody may have changed it",
                    remedy: "convert it to one with a passphrase, or allow it for this file (--allow-unauthenticated)")
            }
            warnings.append("no integrity check: whoever can write the file decides what it says")
            return
        }
        var data = try pfx.sequence("the MAC")
        var info = try data.sequence("the MAC")
        let mac = try Self.readDigest(from: &info)
        try info.finish("the MAC")
        let salt = try data.octets("the MAC's salt")
        // RFC 7292 §4: the default of 1 is left out in DER.
        let iterations = data.isAtEnd ? 1 : try data.integer("the MAC's iteration count")
        try data.finish("the MAC")
        guard let passphrase = request.passphrase else {
            throw KeystoreError(
                .passphraseMissing, "the store has a passphrase",
                remedy: "give it with --passphrase-file, --passphrase-fd or --passphrase-env")
        }
        try budget.check(salt: salt)
        try budget.spend(iterations)
        request.passphrase = try Self.verify(mac, of: content, salt: salt, iterations: iterations, passphrase)
        if mac.algorithm == .sha1 { warnings.append("its integrity check uses SHA-1: write the store anew") }
    }

    private static func readDigest(from info: inout DERReader) throws -> (algorithm: DigestAlgorithm, value: ArraySlice<UInt8>) {
        var probe = info
        var algorithm = try probe.sequence("the MAC's digest")
        let identifier = try algorithm.objectIdentifier("the MAC's digest")
        guard let digest = DigestAlgorithm(digest: identifier) else {
            throw KeystoreError(
                .algorithmUnsupported, "the MAC is not supported", found: identifier == .pbmac1 ? "PBMAC1" : "\(identifier)",
                remedy: "write the store anew: keytool -importkeystore …, or openssl pkcs12 -export -macalg SHA256 …")
        }
        _ = try info.algorithmWithoutParameters("the MAC's digest")
        let value = try info.octets("the MAC")
        guard value.count == digest.count else { throw KeystoreError.malformed("the MAC's length is not that of \(digest.name)") }
        return (digest, value)
    }

    /// The passphrase in the form that fits: an empty one is written as two zero bytes by some and as nothing by others.
    private static func verify(
        _ mac: (algorithm: DigestAlgorithm, value: ArraySlice<UInt8>), of content: ArraySlice<UInt8>, salt: ArraySlice<UInt8>,
        iterations: Int, _ passphrase: StorePassphrase
    ) throws -> StorePassphrase {
        for candidate in passphrase.isEmpty ? [passphrase, passphrase.withoutTerminator] : [passphrase] {
            let key = try Cryptography.pkcs12Derivation(
                mac.algorithm, candidate.bmp, salt: salt, iterations: iterations, purpose: .mac, count: mac.algorithm.count)
            let expected = try Cryptography.hmac(mac.algorithm, key: key, content)
            let isIntact = unsafe expected.withUnsafeBytes { expected in
                unsafe mac.value.withUnsafeBytes { unsafe Cryptography.isEqual(expected, $0) }
            }
            if isIntact { return candidate }
        }
        throw KeystoreError(
            .passphraseRejected, "the MAC does not match: another passphrase, or a damaged file", remedy: "check the passphrase")
    }

    // MARK: - Safes and bags

    private mutating func readSafes(_ content: ArraySlice<UInt8>) throws {
        var outer = DERReader(content)
        var safes = try outer.sequence("the list of safes")
        try outer.finish("the list of safes")
        while !safes.isAtEnd {
            var info = try safes.sequence("a safe")
            let type = try info.objectIdentifier("a safe's type")
            var explicit = try info.explicit0("a safe")
            try info.finish("a safe")
            switch type {
            case .data:
                try readSafeContents(DERReader(try explicit.octets("a safe")), depth: 0)
            case .encryptedData:
                let plaintext = try decryptSafe(from: &explicit)
                try plaintext.withArray { try readSafeContents(DERReader($0[...]), depth: 0) }
            default:
                throw KeystoreError(
                    .formatUnsupported, "a safe is not protected by a passphrase",
                    found: type == .envelopedData ? "enveloped data" : "\(type)",
                    remedy: "export it again with a passphrase")
            }
            try explicit.finish("a safe")
        }
    }

    private mutating func decryptSafe(from explicit: inout DERReader) throws -> SecretBytes {
        var data = try explicit.sequence("an encrypted safe")
        let version = try data.integer("an encrypted safe's version")
        guard version == 0 else { throw KeystoreError.malformed("an encrypted safe's version", expected: "0", found: "\(version)") }
        var info = try data.sequence("an encrypted safe")
        try data.finish("an encrypted safe")
        guard try info.objectIdentifier("an encrypted safe's type") == .data else {
            throw KeystoreError.malformed("an encrypted safe does not hold data")
        }
        let encryption = try PasswordEncryption(from: &info, budget: &budget)
        let ciphertext = try info.read(DERTag.context0Primitive, "an encrypted safe")
        try info.finish("an encrypted safe")
        note(encryption.weakness)
        return try decrypt(ciphertext, encryption, request.passphrase, "the safe cannot be decrypted", .passphraseRejected)
    }

    private mutating func readSafeContents(_ reader: DERReader, depth: Int) throws {
        guard depth <= request.limits.maximumNesting else {
            throw KeystoreError(.limitExceeded, "safes are nested too deep", expected: "at most \(request.limits.maximumNesting)")
        }
        var reader = reader
        var contents = try reader.sequence("a safe's contents")
        try reader.finish("a safe's contents")
        while !contents.isAtEnd {
            guard bags.count < request.limits.maximumEntries else {
                throw KeystoreError(.limitExceeded, "the store has too many bags", expected: "at most \(request.limits.maximumEntries)")
            }
            try readBag(from: &contents, depth: depth)
        }
    }

    private mutating func readBag(from contents: inout DERReader, depth: Int) throws {
        var bag = try contents.sequence("a bag")
        let type = try bag.objectIdentifier("a bag's type")
        var value = DERReader(try bag.read(DERTag.context0, "a bag"))
        let attributes = try BagAttributes(from: &bag, limits: request.limits)
        try bag.finish("a bag")
        let about = attributes.alias.map { "entry \($0.quoted)" } ?? "bag \(bags.count + 1)"
        switch type {
        case .keyBag:
            note("\(about): the private key is not encrypted within the store")
            bags.append(.key(try storedKey(SecretBytes(copying: try value.readElement(about).encoding), about), attributes))
        case .shroudedKeyBag:
            var info = try value.sequence("\(about)'s key")
            let encryption = try PasswordEncryption(from: &info, budget: &budget)
            let ciphertext = try info.octets("\(about)'s key")
            try info.finish("\(about)'s key")
            note(encryption.weakness)
            let passphrase = request.keyPassphrase ?? request.passphrase
            let pkcs8 = try decrypt(ciphertext, encryption, passphrase, "\(about): the key cannot be decrypted", .keyPassphraseRejected)
            bags.append(.key(try storedKey(pkcs8, about), attributes))
        case .certificateBag:
            guard let der = try readTyped(&value, .x509Certificate, about) else { break }
            bags.append(.certificate(try Certificate.stored(der, about), attributes))
        case .revocationListBag:
            guard let der = try readTyped(&value, .x509RevocationList, about) else { break }
            bags.append(.revocationList(try CertificateRevocationList(der: Array(der), source: about)))
        case .safeContentsBag:
            try readSafeContents(value, depth: depth + 1)
            return
        case .secretBag:
            note("\(about): a secret key, left out")
            return
        default:
            throw KeystoreError(.formatUnsupported, "\(about) is of an unknown kind", found: "\(type)")
        }
        try value.finish(about)
    }

    /// The octets of a certificate or revocation list bag, or nil, with a warning, if it is of another type than X.509.
    private mutating func readTyped(_ value: inout DERReader, _ type: ObjectIdentifier, _ about: String) throws -> ArraySlice<UInt8>? {
        var sequence = try value.sequence(about)
        let found = try sequence.objectIdentifier(about)
        guard found == type else {
            note("\(about): not X.509 (\(found)), left out")
            value = DERReader([])
            return nil
        }
        var explicit = try sequence.explicit0(about)
        try sequence.finish(about)
        let der = try explicit.octets(about)
        try explicit.finish(about)
        return der
    }

    private func storedKey(_ pkcs8: SecretBytes, _ about: String) throws -> StoredKey {
        do {
            return try StoredKey(pkcs8: pkcs8)
        } catch let error as KeystoreError {
            throw error.about(about)
        }
    }

    private func decrypt(
        _ ciphertext: ArraySlice<UInt8>, _ encryption: PasswordEncryption, _ passphrase: StorePassphrase?, _ what: String,
        _ code: KeystoreError.Code
    ) throws -> SecretBytes {
        guard let passphrase else {
            throw KeystoreError(
                .passphraseMissing, "parts of the store are encrypted",
                remedy: "give the passphrase with --passphrase-file, --passphrase-fd or --passphrase-env")
        }
        guard let plaintext = try encryption.decrypt(ciphertext, passphrase) else {
            throw KeystoreError(code, what, remedy: "check the passphrase; the key's own may be another one")
        }
        return plaintext
    }

    private mutating func note(_ warning: String?) {
        if let warning, !warnings.contains(warning) { warnings.append(warning) }
    }
}
