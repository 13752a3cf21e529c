internal import MWPKI

// A PEM bundle: RFC 7468 blocks, with the attributes of each in the text before it, as `openssl pkcs12` prints them.
//
//   Bag Attributes
//       friendlyName: server                       the alias
//       2.16.840.1.113894.746875.1.1: any          Java's mark of a trusted certificate
//   -----BEGIN CERTIFICATE-----

/// Reads and writes PEM bundles.
enum PEMBundle {
    private static let friendlyName = "friendlyName:"
    private static let trustedMark = "\(ObjectIdentifier.trustedKeyUsage):"

    static func bags(of bytes: [UInt8], _ passphrase: StorePassphrase?, limits: KeystoreLimits) throws -> [StoreBag] {
        var budget = IterationBudget(limits)
        return try PEM.blocks(bytes, source: "PEM").compactMap { block in
            var block = block
            defer { block.wipe() }
            let about = "block \(block.number)"
            let found = attributes(in: block.precedingLines)
            do {
                return try bag(of: block, found, passphrase, about, &budget)
            } catch let error as KeystoreError {
                throw error.about(about)
            }
        }
    }

    private static func bag(
        of block: PEMBlock, _ attributes: BagAttributes, _ passphrase: StorePassphrase?, _ about: String, _ budget: inout IterationBudget
    ) throws -> StoreBag? {
        switch block.label {
        case "CERTIFICATE":
            return .certificate(try Certificate.stored(block.der[...], about), attributes)
        case "X509 CRL":
            return .revocationList(try CertificateRevocationList(der: block.der, source: about))
        case "PRIVATE KEY":
            return .key(try StoredKey(pkcs8: SecretBytes(block.der)), attributes)
        case "ENCRYPTED PRIVATE KEY":
            return .key(try decrypt(block.der, passphrase, &budget), attributes)
        case "RSA PRIVATE KEY", "EC PRIVATE KEY":
            // Reads these forms, and refuses them where they are encrypted, with the remedy.
            let text = SecretBytes(Array(PEM.encode(label: block.label, block.der).utf8))
            guard block.headers.isEmpty else {
                throw KeystoreError(
                    .algorithmUnsupported, "the traditional encryption of key files is not supported",
                    remedy: "convert it: openssl pkcs8 -topk8 -in FILE -out NEW")
            }
            return .key(try text.withArray { try StoredKey(PrivateKey(pem: $0, source: about)) }, attributes)
        case let label where label.hasSuffix("PRIVATE KEY"):
            throw KeystoreError(
                .formatUnsupported, "a form of private key that is not supported", expected: "PRIVATE KEY (PKCS#8)", found: label,
                remedy: "convert it: openssl pkcs8 -topk8 -nocrypt -in FILE -out NEW; DSA keys are of no use: keytool -keyalg EC")
        default:
            // Parameters, requests, public keys: nothing that a keystore holds.
            return nil
        }
    }

    private static func decrypt(_ der: [UInt8], _ passphrase: StorePassphrase?, _ budget: inout IterationBudget) throws -> StoredKey {
        var file = DERReader(der[...])
        var info = try file.sequence("the encrypted key")
        try file.finish("the encrypted key")
        let encryption = try PasswordEncryption(from: &info, budget: &budget)
        let ciphertext = try info.octets("the encrypted key")
        try info.finish("the encrypted key")
        guard let passphrase else {
            throw KeystoreError(
                .passphraseMissing, "the private key is encrypted",
                remedy: "give its passphrase with --passphrase-file, --passphrase-fd or --passphrase-env")
        }
        let rejected = KeystoreError(
            .keyPassphraseRejected, "the private key cannot be decrypted: another passphrase, or a damaged file",
            remedy: "check the passphrase")
        guard let pkcs8 = try encryption.decrypt(ciphertext, passphrase) else { throw rejected }
        do {
            return try StoredKey(pkcs8: pkcs8)
        } catch is KeystoreError {
            // One wrong passphrase in 256 makes a padding that looks right.
            throw rejected
        }
    }

    /// What the text before a block says of it.
    private static func attributes(in lines: [ArraySlice<UInt8>]) -> BagAttributes {
        var found = BagAttributes()
        for line in lines {
            let text = line.drop { $0 == UInt8(ascii: " ") }
            if text.starts(with: friendlyName.utf8) {
                let value = String(decoding: text.dropFirst(friendlyName.utf8.count), as: UTF8.self)
                found.alias = String(value.drop { $0 == " " })
            } else if text.starts(with: trustedMark.utf8) {
                found.isMarkedTrusted = true
            }
        }
        return found
    }

    // MARK: - Writing

    static func bytes(of store: Keystore, _ passphrase: Passphrase?) throws -> SecretBytes {
        var text: [UInt8] = []
        defer { text.wipe() }
        for entry in store.entries {
            switch entry.content {
            case .privateKey(let key, let chain):
                text += header(entry.alias, isTrusted: false).utf8
                text += try unsafe key.pem(passphrase: passphrase, source: entry.alias).withUnsafeBytes { unsafe [UInt8]($0) }
                for (position, certificate) in chain.enumerated() {
                    text += header(position == 0 ? entry.alias : nil, isTrusted: false).utf8
                    text += certificate.pem.utf8
                }
            case .trustedCertificate(let certificate):
                text += header(entry.alias, isTrusted: true).utf8
                text += certificate.pem.utf8
            }
        }
        for list in store.revocationLists { text += list.pem.utf8 }
        return SecretBytes(text)
    }

    private static func header(_ alias: String?, isTrusted: Bool) -> String {
        guard let alias else { return "" }
        // A line break in an alias must not begin a block.
        let name = String(alias.unicodeScalars.map { $0.value < 0x20 || $0.value == 0x7f ? "?" : Character($0) })
        return "Bag Attributes\n    \(friendlyName) \(name)\n" + (isTrusted ? "    \(trustedMark) any\n" : "")
    }
}
