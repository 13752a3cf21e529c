import Glibc
import MWKeystore
import MWPKI

/// Which files an identity and a trust store are made of, from the settings of a client or of the server.
struct Material: Sendable {
    /// The settings of one side, by their names.
    struct Names {
        var certificate, key, keystore, keystoreAlias, passphraseFile, trust, trustPassphraseFile, crl: Setting
        /// Only a server's key may belong to a group.
        var keyGroup: Setting?
        /// Servers only: a client that sees a list out of date has somebody to tell.
        var crlGrace: Setting?

        static let client = Names(
            certificate: .certificate, key: .key, keystore: .keystore, keystoreAlias: .keystoreAlias, passphraseFile: .passphraseFile,
            trust: .trust, trustPassphraseFile: .trustPassphraseFile, crl: .crl)
        static let server = Names(
            certificate: .serveCertificate, key: .serveKey, keystore: .serveKeystore, keystoreAlias: .serveKeystoreAlias,
            passphraseFile: .servePassphraseFile, trust: .serveTrust, trustPassphraseFile: .serveTrustPassphraseFile, crl: .serveCRL,
            keyGroup: .serveKeyGroup, crlGrace: .serveCRLGrace)
    }

    private enum IdentityFiles {
        case pem(certificate: String, key: String)
        case keystore(String, alias: String?)
        /// Not ours to read: whoever obtains it has it, or has none yet.
        case obtained(@Sendable () throws -> Identity?)
    }

    private var identity: IdentityFiles
    private var trust: String
    private var revocationLists: [String]
    private var passphrase: @Sendable () throws -> Passphrase?
    private var revocationGraceSeconds: Int64
    private var passphraseFile: String?
    private var trustPassphraseFile: String?
    private var keyPermissions = PrivateFile.Permissions.ownerOnly

    /// - Parameter given: What the command line says of the passphrase, beyond a file; it is read now, once.
    init(_ settings: Settings, names: Names, passphrase given: PassphraseOptions) throws {
        let key = try settings.found(names.key)
        let keystore = try settings.found(names.keystore)
        if let path = keystore?.values.first {
            if let key, key.origin == keystore?.origin {
                throw CommandFailure(
                    .configurationInvalid, "both a keystore and a key are set (\(key.origin))", why: "expected: one identity",
                    remedy: "give either --keystore, or --certificate and --key")
            }
            identity = .keystore(path, alias: try settings.string(names.keystoreAlias))
        } else {
            identity = .pem(certificate: try settings.required(names.certificate), key: try settings.required(names.key))
        }
        // A key on the command line beats a keystore in a file, and the other way round.
        if let key, let keystore, Self.rank(key.origin, in: settings) < Self.rank(keystore.origin, in: settings),
            let path = key.values.first
        {
            identity = .pem(certificate: try settings.required(names.certificate), key: path)
        }
        trust = try settings.required(names.trust)
        revocationLists = try settings.strings(names.crl)
        trustPassphraseFile = try settings.string(names.trustPassphraseFile)
        if let group = names.keyGroup, let name = try settings.string(group) { keyPermissions = .ownerAndGroup(try Self.group(name)) }
        revocationGraceSeconds = try names.crlGrace.map { try Self.graceSeconds(settings, $0) } ?? 0
        passphraseFile = try settings.string(names.passphraseFile)
        passphrase = try given.reader(file: passphraseFile)
    }

    /// For a server whose certificate is obtained by itself, and not by its operator.
    ///
    /// - Parameter obtained: The identity there is now; `nil` before the first.
    init(_ settings: Settings, passphrase given: PassphraseOptions, obtained: @escaping @Sendable () throws -> Identity?) throws {
        for setting in [Setting.serveCertificate, .serveKey, .serveKeystore] {
            guard let found = try settings.found(setting) else { continue }
            throw CommandFailure(
                .configurationInvalid, "both ACME and \(setting.name) are set (\(found.origin))",
                why: "with ACME the server gets its certificate itself", remedy: "remove one of them", code: "configuration.invalid")
        }
        identity = .obtained(obtained)
        trust = try settings.required(.serveTrust)
        revocationLists = try settings.strings(.serveCRL)
        trustPassphraseFile = try settings.string(.serveTrustPassphraseFile)
        revocationGraceSeconds = try Self.graceSeconds(settings, .serveCRLGrace)
        passphraseFile = try settings.string(.servePassphraseFile)
        passphrase = try given.reader(file: passphraseFile)
    }

    /// Loads everything anew each time; each file is read once in a load.
    var source: TLSMaterialSource {
        .obtained(paths: paths, identity: { try loadIdentity(try passphrase()) }) {
            let passphrase = try passphrase()
            let lists = try revocationLists.flatMap { try MaterialPath.files(of: $0, suffixes: MaterialPath.revocationListSuffixes) }
                .flatMap { try CertificateRevocationList.list(LocalFile.decisiveContents($0), source: $0) }
            let trustStore = try loadTrust(passphrase, lists)
            guard let identity = try loadIdentity(passphrase) else { return .awaitingIdentity(trustStore) }
            return .complete(TLSMaterial(identity: identity, trustStore: trustStore))
        }
    }

    func load() throws -> TLSMaterial { try source.load() }

    private func loadIdentity(_ passphrase: Passphrase?) throws -> Identity? {
        switch identity {
        case .obtained(let current):
            return try current()
        case .keystore(let path, let alias):
            // Its keys are encrypted: the passphrase is the secret, and that one's file must be private.
            let bytes = try PrivateFile.read(path, permissions: .any).bytes
            return try Keystore(bytes: bytes, source: path, passphrase: passphrase).identity(alias: alias)
        case .pem(let certificate, let key):
            return try PrivateFile.read(key, permissions: keyPermissions).withBytes { bytes in
                try Identity.pem(
                    chain: certificate == key ? bytes : LocalFile.contents(certificate), key: bytes, passphrase: passphrase,
                    source: certificate, keySource: key)
            }
        }
    }

    private func loadTrust(_ passphrase: Passphrase?, _ lists: [CertificateRevocationList]) throws -> TrustStore {
        // A directory of PEM files: an authority is added, and taken away, as a file.
        let files = try MaterialPath.files(of: trust, suffixes: MaterialPath.certificateSuffixes)
        let bytes =
            try files == [trust]
            ? LocalFile.decisiveContents(trust) : files.flatMap { try LocalFile.decisiveContents($0) + [UInt8(ascii: "\n")] }
        guard files == [trust], Self.isKeystore(bytes) else {
            return try TrustStore.pem(bytes, revocationLists: lists, revocationGraceSeconds: revocationGraceSeconds, source: trust)
        }
        let own = try trustPassphraseFile.map { try Passphrase.file($0) }
        return try Keystore(bytes: bytes, source: trust, passphrase: own ?? passphrase)
            .trustStore(revocationLists: lists, revocationGraceSeconds: revocationGraceSeconds)
    }

    /// The files and directories that a load reads.
    private var paths: [String] {
        let ofIdentity: [String] =
            switch identity {
            case .pem(let certificate, let key): [certificate, key]
            case .keystore(let path, _): [path]
            // Whoever obtains it says when there is a new one.
            case .obtained: []
            }
        return ofIdentity + [trust] + revocationLists + [passphraseFile, trustPassphraseFile].compactMap { $0 }
    }

    private static func graceSeconds(_ settings: Settings, _ setting: Setting) throws -> Int64 {
        let span = try settings.value(setting, expected: "a span of time: 30m, 24h") { TimeSpan(argument: $0) }
        return span?.duration.components.seconds ?? 0
    }

    /// The name that the trust store at `path` has for this very certificate; only keystores have names.
    static func alias(of certificate: Certificate, inTrustStore path: String, passphrase: () throws -> Passphrase?) throws -> String? {
        guard try MaterialPath.files(of: path, suffixes: MaterialPath.certificateSuffixes) == [path] else { return nil }
        let bytes = try LocalFile.contents(path)
        guard isKeystore(bytes) else { return nil }
        return try Keystore(bytes: bytes, source: path, passphrase: passphrase()).trustStore().alias(of: certificate)
    }

    /// DER (PKCS#12) begins with a SEQUENCE, JKS with FEEDFEED.
    private static func isKeystore(_ bytes: [UInt8]) -> Bool { bytes.first == 0x30 || bytes.starts(with: [0xFE, 0xED]) }

    /// The number of the group that has this name.
    private static func group(_ name: String) throws -> UInt32 {
        guard let entry = unsafe getgrnam(name) else {
            throw CommandFailure(
                .configurationInvalid, "there is no group \(name)", why: "expected: the name of a group that may read the server's key",
                remedy: "make it with groupadd, or leave serve.key-group out")
        }
        return unsafe entry.pointee.gr_gid
    }

    private static func rank(_ origin: Settings.Origin, in settings: Settings) -> Int {
        if case .environment = origin { return 1 }
        return settings.layers.firstIndex { $0.origin == origin } ?? settings.layers.count
    }
}

extension PassphraseOptions {
    /// Reads a descriptor or a variable now, as they can be read once; a file each time it is needed, so that a reload sees a new one.
    ///
    /// - Parameter file: From the settings, the option included.
    func reader(file: String?) throws -> @Sendable () throws -> Passphrase? {
        if let passphraseFd {
            let passphrase = try Passphrase.descriptor(passphraseFd)
            return { passphrase }
        }
        if let passphraseEnv {
            let passphrase = try Passphrase.takingEnvironment(passphraseEnv)
            return { passphrase }
        }
        return { try file.map { try Passphrase.file($0) } }
    }

    /// The passphrase, if one was given.
    func passphrase() throws -> Passphrase? { try reader(file: passphraseFile)() }
}
