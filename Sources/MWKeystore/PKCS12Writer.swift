internal import MWPKI

/// Writes a PKCS#12 file as a current keytool does; the layout is drawn in PKCS12Reader.swift.
///
/// Certificates go into an encrypted safe, keys into shrouded bags: PBES2 with AES-256-CBC and PBKDF2-HMAC-SHA256. The MAC is
/// HMAC-SHA256. Trusted certificates carry Java's mark, without which Java does not see them.
struct PKCS12Writer {
    /// What RFC 8018 §4.1 asks for, twice over.
    static let saltBytes = 20

    private let passphrase: StorePassphrase
    private let iterations: Int
    private let random: (Int) throws -> [UInt8]

    static func bytes(
        of entries: [Keystore.Entry], revocationLists: [CertificateRevocationList], _ passphrase: StorePassphrase, iterations: Int,
        random: @escaping (Int) throws -> [UInt8]
    ) throws -> [UInt8] {
        try PKCS12Writer(passphrase: passphrase, iterations: iterations, random: random).file(entries, revocationLists)
    }

    private func file(_ entries: [Keystore.Entry], _ revocationLists: [CertificateRevocationList]) throws -> [UInt8] {
        var certificates: [[UInt8]] = []
        var keys: [[UInt8]] = []
        var chained: Set<CertificateFingerprint> = []
        for entry in entries {
            switch entry.content {
            case .privateKey(let key, let chain):
                let identifier = chain.first?.sha256.bytes ?? []
                keys.append(try keyBag(key, alias: entry.alias, identifier: identifier))
                // Two entries may share an intermediate; once is enough.
                for (position, certificate) in chain.enumerated() where chained.insert(certificate.sha256).inserted || position == 0 {
                    let attributes = position == 0 ? [friendlyName(entry.alias), localKeyID(identifier)] : []
                    certificates.append(certificateBag(certificate, attributes))
                }
            case .trustedCertificate(let certificate):
                certificates.append(certificateBag(certificate, [friendlyName(entry.alias), Self.trustedKeyUsage]))
            }
        }
        let lists = revocationLists.map { bag(.revocationListBag, typed(.x509RevocationList, $0.derBytes), []) }
        var safes: [[UInt8]] = []
        if !keys.isEmpty { safes.append(data(DER.sequence(keys))) }
        if !certificates.isEmpty || !lists.isEmpty { safes.append(try encryptedData(DER.sequence(certificates + lists))) }
        let content = DER.sequence(safes)
        return DER.sequence([DER.integer(3), data(content), try macData(of: content)])
    }

    // MARK: - Bags

    private func keyBag(_ key: StoredKey, alias: String, identifier: [UInt8]) throws -> [UInt8] {
        let encrypted = try key.pkcs8.withArray {
            try PasswordEncryption.encrypt($0, passphrase, iterations: iterations, random: random)
        }
        let info = DER.sequence([encrypted.algorithm, DER.octetString(encrypted.ciphertext)])
        return bag(.shroudedKeyBag, info, [friendlyName(alias), localKeyID(identifier)])
    }

    private func certificateBag(_ certificate: Certificate, _ attributes: [[UInt8]]) -> [UInt8] {
        bag(.certificateBag, typed(.x509Certificate, certificate.derBytes), attributes)
    }

    private func typed(_ type: ObjectIdentifier, _ der: [UInt8]) -> [UInt8] {
        DER.sequence([DER.objectIdentifier(type), DER.context(0, constructed: DER.octetString(der))])
    }

    private func bag(_ type: ObjectIdentifier, _ value: [UInt8], _ attributes: [[UInt8]]) -> [UInt8] {
        DER.sequence(
            [DER.objectIdentifier(type), DER.context(0, constructed: value)] + (attributes.isEmpty ? [] : [DER.setOf(attributes)]))
    }

    private func friendlyName(_ alias: String) -> [UInt8] {
        DER.sequence([DER.objectIdentifier(.friendlyName), DER.setOf([DER.bmpString(alias)])])
    }

    private func localKeyID(_ identifier: [UInt8]) -> [UInt8] {
        DER.sequence([DER.objectIdentifier(.localKeyID), DER.setOf([DER.octetString(identifier)])])
    }

    private static let trustedKeyUsage = DER.sequence(
        [DER.objectIdentifier(.trustedKeyUsage), DER.setOf([DER.objectIdentifier(.anyExtendedKeyUsage)])])

    // MARK: - Safes

    private func data(_ content: [UInt8]) -> [UInt8] {
        DER.sequence([DER.objectIdentifier(.data), DER.context(0, constructed: DER.octetString(content))])
    }

    private func encryptedData(_ plaintext: [UInt8]) throws -> [UInt8] {
        let encrypted = try PasswordEncryption.encrypt(plaintext, passphrase, iterations: iterations, random: random)
        let info = DER.sequence(
            [DER.objectIdentifier(.data), encrypted.algorithm, DER.context(0, primitive: encrypted.ciphertext)])
        return DER.sequence([DER.objectIdentifier(.encryptedData), DER.context(0, constructed: DER.sequence([DER.integer(0), info]))])
    }

    private func macData(of content: [UInt8]) throws -> [UInt8] {
        let algorithm = DigestAlgorithm.sha256
        let salt = try random(Self.saltBytes)
        let key = try Cryptography.pkcs12Derivation(
            algorithm, passphrase.bmp, salt: salt[...], iterations: iterations, purpose: .mac, count: algorithm.count)
        let mac = try Cryptography.hmac(algorithm, key: key, content[...])
        let digest = DER.sequence([DER.sequence([DER.objectIdentifier(algorithm.identifier), DER.null]), DER.octetString(mac)])
        return DER.sequence([digest, DER.octetString(salt), DER.integer(UInt64(iterations))])
    }
}
