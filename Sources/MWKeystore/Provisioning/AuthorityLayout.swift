package import MWPKI

/// A private authority in a directory, and the identities it issues.
///
///     ca.pem ca.key            the authority
///     ca.crl                   what it revoked
///     server.pem server.key    the server's chain and key
///     server.p12               the same as PKCS#12, and server.truststore.p12, whom it trusts: the authority
///     server.passphrase        of both
///     NAME.…                   the same for each client
///
/// Values in, files out: nothing here reads or writes a disk.
package struct AuthorityLayout: Sendable {
    package let authority: Identity
    package let options: ProvisioningOptions

    package static let certificateFile = "ca.pem"
    package static let keyFile = "ca.key"
    package static let revocationListFile = "ca.crl"
    package static let serverName = "server"
    /// The authority's alias in truststores.
    static let alias = "ca"
    /// Bytes of a keystore's passphrase before they are written as hex: as strong as the keys.
    static let passphraseBytes = 16
    /// Random passphrases need no stretching; this is keytool's count, which every reader takes.
    static let iterations = 10_000
    /// RFC 5280 appendix A.1: ub-common-name.
    static let maximumNameBytes = 64

    /// The authority that a directory holds already.
    ///
    /// - Throws: `PKIError` if certificate or key are unreadable, do not belong together, or the certificate is no authority's.
    package init(certificate: [UInt8], key: [UInt8], options: ProvisioningOptions) throws {
        try options.validate()
        let authority = try Identity.pem(
            chain: certificate, key: key, source: Self.certificateFile, keySource: Self.keyFile)
        guard authority.leaf.isCertificateAuthority else {
            throw KeystoreError(
                .invalidRequest, subject: Self.certificateFile, "not the certificate of an authority",
                remedy: "name the directory that `mwstorage provision --layout ca` made")
        }
        self.authority = authority
        self.options = options
    }

    private init(authority: Identity, options: ProvisioningOptions) {
        self.authority = authority
        self.options = options
    }

    /// A new authority, a server and these clients.
    package static func files(clients: [String], options: ProvisioningOptions) throws -> [ProvisionedFile] {
        try options.validate()
        let key = try PrivateKey.generate(options.keyAlgorithm)
        // Two authorities of one name are told apart by nobody; a piece of the key's hash makes it unique.
        let name = "MWStorage CA " + key.publicKeyPin.hex.prefix(8)
        let days = max(options.days, ProvisioningOptions.authorityDays)
        let builder = CertificateBuilder.authority(name: name, pathLength: 0, days: days, from: options.now)
        let layout = AuthorityLayout(authority: try builder.identity(key: key), options: options)
        var files = [
            ProvisionedFile(certificateFile, text: layout.authority.leaf.pem, "the authority's certificate, which both sides trust"),
            ProvisionedFile(keyFile, try key.pem(), isPrivate: true, "the authority's key: keep it off the server"),
            try layout.revocationList(revoking: []),
        ]
        files += try layout.serverFiles()
        for client in clients { files += try layout.clientFiles(client) }
        try requireDistinct(files)
        return files
    }

    package func serverFiles() throws -> [ProvisionedFile] {
        let builder = CertificateBuilder.server(names: options.serverNames, days: options.days, from: options.now)
        return try identityFiles(Self.serverName, builder)
    }

    /// - Throws: `invalidRequest` for a name that cannot be a file name and a common name.
    package func clientFiles(_ name: String) throws -> [ProvisionedFile] {
        try Self.requireClientName(name)
        return try identityFiles(name, CertificateBuilder.client(name: name, days: options.days, from: options.now))
    }

    /// The list that revokes `certificates` and all that `previous` revoked.
    ///
    /// - Throws: `invalidRequest` if this authority did not issue one of them, or did not sign `previous`.
    package func revocationList(
        revoking certificates: [Certificate], previous: CertificateRevocationList? = nil
    ) throws -> ProvisionedFile {
        var builder = RevocationListBuilder(days: options.days, from: options.now)
        // Grows with every list, without a file to count in.
        builder.number = UInt64(clamping: options.now.secondsSince1970)
        if let previous {
            guard previous.isSigned(by: authority.leaf) else {
                throw KeystoreError(
                    .invalidRequest, subject: Self.revocationListFile, "another authority's revocation list",
                    remedy: "restore the one that belongs to \(Self.certificateFile)")
            }
            builder.revoked = RevokedSerialNumbers.list(of: previous)
        }
        for certificate in certificates {
            guard certificate.isSigned(by: authority.leaf) else {
                throw KeystoreError(
                    .invalidRequest, subject: certificate.subject, "this authority did not issue the certificate",
                    expected: authority.leaf.subject, found: certificate.issuer)
            }
            guard !builder.revoked.contains(where: { $0.serialNumber == certificate.serialNumber }) else { continue }
            builder.revoked.append((certificate.serialNumber, options.now))
        }
        let list = try builder.signed(by: authority)
        return ProvisionedFile(
            Self.revocationListFile, text: list.pem, replaces: true,
            "\(builder.revoked.count) revoked certificates, valid until \(list.nextUpdate)")
    }

    // MARK: -

    private func identityFiles(_ name: String, _ builder: CertificateBuilder) throws -> [ProvisionedFile] {
        guard builder.notAfter <= authority.leaf.notAfter else {
            throw KeystoreError(
                .invalidRequest, subject: "--days", "the certificate would outlive its authority",
                expected: "until \(authority.leaf.notAfter)", found: "\(builder.notAfter)", remedy: "ask for fewer days")
        }
        let identity = try builder.identity(key: PrivateKey.generate(options.keyAlgorithm), issuer: authority)
        let passphraseText = SecretBytes(Array(Hex.encode(try OpenSSL.randomBytes(Self.passphraseBytes)).utf8))
        let passphrase = Passphrase(secret: passphraseText)
        let keystore = try Keystore(entries: [Keystore.Entry(alias: name, identity: identity)])
        let truststore = try Keystore(entries: [Keystore.Entry(alias: Self.alias, trusted: authority.leaf)])
        let line = passphraseText.withArray { SecretBytes($0 + Array("\n".utf8)) }
        let until = "until \(identity.leaf.notAfter)"
        return [
            ProvisionedFile("\(name).pem", text: identity.chain.map(\.pem).joined(), "\(name)'s certificate, \(until)"),
            ProvisionedFile("\(name).key", try identity.key.pem(), isPrivate: true, "\(name)'s key"),
            ProvisionedFile(
                "\(name).p12", SecretBytes(try keystore.pkcs12(passphrase: passphrase, iterations: Self.iterations)), isPrivate: true,
                "both as PKCS#12, alias \(name)"),
            ProvisionedFile(
                "\(name).truststore.p12", SecretBytes(try truststore.pkcs12(passphrase: passphrase, iterations: Self.iterations)),
                isPrivate: true, "the authority as PKCS#12 truststore"),
            ProvisionedFile("\(name).passphrase", line, isPrivate: true, "the passphrase of \(name)'s PKCS#12 files"),
        ]
    }

    private static func requireClientName(_ name: String) throws {
        let isPlain = name.utf8.allSatisfy { byte in
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "0")...UInt8(ascii: "9"): true
            default: "._@+-".utf8.contains(byte)
            }
        }
        guard isPlain, name.utf8.count <= maximumNameBytes, let first = name.utf8.first, first != UInt8(ascii: "."),
            first != UInt8(ascii: "-")
        else {
            throw KeystoreError(
                .invalidRequest, subject: name.quoted, "not a client's name",
                expected: "1 to \(maximumNameBytes) letters, digits and ._@+- that begin with a letter, digit, _ , @ or +")
        }
        guard ![serverName, alias].contains(name.lowercased()), !name.hasSuffix(".truststore") else {
            throw KeystoreError(.invalidRequest, subject: name.quoted, "this name is taken by another file of the layout")
        }
    }

    private static func requireDistinct(_ files: [ProvisionedFile]) throws {
        var names: Set<String> = []
        for file in files where !names.insert(file.name.lowercased()).inserted {
            throw KeystoreError(.invalidRequest, subject: file.name, "two clients would have the same files")
        }
    }
}
