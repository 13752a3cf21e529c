package import MWPKI

/// A file of private keys and trusted certificates, each under an alias: PKCS#12, JKS or PEM.
///
/// Read one with ``init(bytes:source:passphrase:keyPassphrase:acceptsUnauthenticated:limits:)``, then take the ``identity(alias:)`` or
/// the ``trustStore(revocationLists:revocationGraceSeconds:at:)`` out of it; both judge what they return, where reading does not, so that a store with
/// weak keys can still be shown. Aliases are compared without regard to case, as Java does.
package struct Keystore: Sendable {
    /// How a store is written.
    package enum Format: String, Sendable, CaseIterable {
        case pkcs12, jks, pem
    }

    package let format: Format
    /// In the file's order, which means nothing: Java writes them in the order of their hashes.
    package let entries: [Entry]
    package let revocationLists: [CertificateRevocationList]
    /// What the reader should know: weak protection, parts left out.
    package let warnings: [String]
    /// The file, for messages.
    private let source: String

    /// Reads a store; what it is shows in its content.
    ///
    /// - Parameters:
    ///   - source: the file's name, for messages.
    ///   - passphrase: the store's. Not needed for PEM without encryption, nor for a PKCS#12 without MAC.
    ///   - keyPassphrase: that of the private keys, if it is another one. JKS allows that; PKCS#12 hardly ever.
    ///   - acceptsUnauthenticated: whether a PKCS#12 without MAC (a Java truststore without password) is read at all. Anybody who can
    ///     write such a file decides what it says.
    ///   - limits: how much of the file is believed.
    /// - Throws: `KeystoreError`, or `PKIError` for a certificate or PEM block that cannot be read.
    package init(
        bytes: [UInt8], source: String, passphrase: Passphrase?, keyPassphrase: Passphrase? = nil, acceptsUnauthenticated: Bool = false,
        limits: KeystoreLimits = KeystoreLimits()
    ) throws {
        do {
            guard bytes.count <= limits.maximumFileBytes else {
                throw KeystoreError(
                    .fileTooLarge, "the file is too large for a keystore", expected: "at most \(limits.maximumFileBytes) bytes",
                    found: "\(bytes.count)")
            }
            let passphrases = try (store: passphrase?.forStores(), key: keyPassphrase?.forStores())
            let format = try Self.format(of: bytes)
            switch format {
            case .jks:
                guard let store = passphrases.store else {
                    throw KeystoreError(
                        .passphraseMissing, "JKS needs a passphrase",
                        remedy: "give it with --passphrase-file, --passphrase-fd or --passphrase-env")
                }
                let entries = try JKSReader.entries(of: bytes, store, keyPassphrase: passphrases.key, limits: limits)
                try self.init(format, entries, [], [JKSReader.weakness], source)
            case .pkcs12:
                let request = PKCS12Reader.Request(
                    passphrase: passphrases.store, keyPassphrase: passphrases.key, acceptsUnauthenticated: acceptsUnauthenticated,
                    limits: limits)
                let reader = try PKCS12Reader(bytes, request)
                let assembly = try EntryAssembly(reader.bags, limits: limits)
                try self.init(format, assembly.entries, assembly.revocationLists, reader.warnings + assembly.warnings, source)
            case .pem:
                let bags = try PEMBundle.bags(of: bytes, passphrases.key ?? passphrases.store, limits: limits)
                let assembly = try EntryAssembly(bags, limits: limits)
                try self.init(format, assembly.entries, assembly.revocationLists, assembly.warnings, source)
            }
        } catch let error as KeystoreError {
            throw error.about(source)
        }
    }

    /// A new store, to be written. Throws `aliasDuplicate` if two aliases differ in nothing but case.
    package init(entries: [Entry], revocationLists: [CertificateRevocationList] = []) throws {
        try self.init(.pkcs12, entries, revocationLists, [], "new keystore")
    }

    private init(
        _ format: Format, _ entries: [Entry], _ revocationLists: [CertificateRevocationList], _ warnings: [String], _ source: String
    ) throws {
        var aliases: Set<String> = []
        for entry in entries where !aliases.insert(entry.alias.lowercased()).inserted {
            throw KeystoreError(
                .aliasDuplicate, "two entries are called \(entry.alias.quoted)", remedy: "rename one: keytool -changealias")
        }
        self.format = format
        self.entries = entries
        self.revocationLists = revocationLists
        self.warnings = warnings
        self.source = source
    }

    // MARK: - Use

    /// The private key and chain under `alias`, or the only ones there are.
    ///
    /// - Throws: `keyMissing`, `aliasUnknown`, `aliasAmbiguous`; `PKIError` for DSA, RSA below 2048 bits, SHA-1 signatures and whatever
    ///   else is too weak, with the remedy.
    package func identity(alias: String? = nil) throws -> Identity {
        let (entry, key, chain) = try keyEntry(alias)
        let about = "\(source): entry \(entry.alias.quoted)"
        guard let leaf = chain.first else {
            throw KeystoreError(.certificateMissing, subject: about, "the private key has no certificate")
        }
        // RFC 8446 §4.4.2: the root may be left out, as the peer has it or will not believe it.
        let intermediates = chain.dropFirst().filter { !$0.isSelfIssued }
        return try Identity(leaf: leaf, intermediates: Array(intermediates), key: try key.privateKey(source: about), source: about)
    }

    /// The trusted certificates, with their aliases.
    ///
    /// - Parameters:
    ///   - lists: further revocation lists, beside those in the store.
    ///   - now: when the lists must be current.
    /// - Throws: `trustAnchorMissing`; `PKIError` for an anchor that is too weak or a revocation list that does not fit.
    package func trustStore(
        revocationLists lists: [CertificateRevocationList] = [], revocationGraceSeconds: Int64 = 0, at now: Timestamp = .now()
    ) throws -> TrustStore {
        let anchors = entries.compactMap { entry in
            entry.trustedCertificate.map { TrustAnchor(alias: entry.alias, certificate: $0) }
        }
        guard !anchors.isEmpty else {
            throw KeystoreError(
                .trustAnchorMissing, subject: source, "the store has no trusted certificate", found: inventory,
                remedy: "import one: keytool -importcert, or name the truststore rather than the keystore")
        }
        return try TrustStore(
            anchors: anchors, revocationLists: revocationLists + lists, revocationGraceSeconds: revocationGraceSeconds, at: now,
            source: source)
    }

    private func keyEntry(_ alias: String?) throws -> (Entry, StoredKey, [Certificate]) {
        let candidates = entries.compactMap { entry -> (Entry, StoredKey, [Certificate])? in
            guard case .privateKey(let key, let chain) = entry.content else { return nil }
            return (entry, key, chain)
        }
        guard let first = candidates.first else {
            throw KeystoreError(
                .keyMissing, subject: source, "the store has no private key", found: inventory,
                remedy: "name the keystore rather than the truststore")
        }
        let names = candidates.map(\.0.alias.quoted).joined(separator: ", ")
        guard let alias else {
            guard candidates.count == 1 else {
                throw KeystoreError(
                    .aliasAmbiguous, subject: source, "the store has several private keys", found: names, remedy: "say which: --alias NAME")
            }
            return first
        }
        let wanted = alias.lowercased()
        guard let match = candidates.first(where: { $0.0.alias.lowercased() == wanted }) else {
            throw KeystoreError(.aliasUnknown, subject: source, "no private key is called \(alias.quoted)", found: names)
        }
        return match
    }

    private var inventory: String {
        let keys = entries.count { $0.isPrivateKey }
        return "\(keys) private keys, \(entries.count - keys) trusted certificates"
    }
}

extension Keystore {
    /// One key with its chain, or one trusted certificate.
    package struct Entry: Sendable {
        /// What an entry holds.
        package enum Content: Sendable {
            /// The chain is leaf first, and never empty.
            case privateKey(StoredKey, chain: [Certificate])
            case trustedCertificate(Certificate)
        }

        /// As in the file; Java lower-cases those of keys, and in JKS all.
        package let alias: String
        /// When it was put into the store. JKS only.
        package let created: Timestamp?
        package let content: Content

        /// Throws `certificateMissing` for an empty chain, and `keyMismatch` if `key` is not that of its first certificate.
        package init(alias: String, created: Timestamp?, key: StoredKey, chain: [Certificate]) throws {
            guard let leaf = chain.first else {
                throw KeystoreError(.certificateMissing, "the private key has no certificate")
            }
            guard leaf.publicKeyPin == key.publicKeyPin else {
                throw KeystoreError(
                    .keyMismatch, "the private key is not that of its certificate", expected: leaf.publicKeyPin.description,
                    found: key.publicKeyPin.description)
            }
            self.alias = alias
            self.created = created
            content = .privateKey(key, chain: chain)
        }

        /// The entry of an identity in use.
        package init(alias: String, created: Timestamp? = nil, identity: Identity) throws {
            try self.init(alias: alias, created: created, key: StoredKey(identity.key), chain: identity.chain)
        }

        package init(alias: String, created: Timestamp? = nil, trusted certificate: Certificate) {
            self.alias = alias
            self.created = created
            content = .trustedCertificate(certificate)
        }

        package var isPrivateKey: Bool {
            if case .privateKey = content { true } else { false }
        }

        package var trustedCertificate: Certificate? {
            if case .trustedCertificate(let certificate) = content { certificate } else { nil }
        }

        /// All of its certificates: the chain, or the trusted one.
        package var certificates: [Certificate] {
            switch content {
            case .privateKey(_, let chain): chain
            case .trustedCertificate(let certificate): [certificate]
            }
        }
    }
}

extension String {
    /// In quotes, with control characters escaped: aliases are the file author's words.
    var quoted: String { debugDescription }
}

extension Passphrase {
    func forStores() throws -> StorePassphrase {
        try unsafe withUnsafeBytes { try unsafe StorePassphrase(utf8: $0) }
    }
}

extension Certificate {
    /// An entry's certificate.
    static func stored(_ der: ArraySlice<UInt8>, _ about: String) throws -> Certificate {
        do {
            return try Certificate(der: Array(der), source: about)
        } catch {
            throw KeystoreError(.certificateMalformed, subject: about, "the certificate cannot be read", underlying: error)
        }
    }
}
