/// What one side of a connection needs: its own identity, and whom it accepts.
public struct TLSMaterial: Sendable {
    package let identity: Identity
    package let trustStore: TrustStore

    package init(identity: Identity, trustStore: TrustStore) {
        self.identity = identity
        self.trustStore = trustStore
    }

    /// What an operator should know, as an expired certificate; empty when all is well.
    package func warnings(at time: Timestamp) -> [String] { identity.warnings(at: time) + trustStore.warnings(at: time) }
}

/// What a server needs. Its first certificate may still be on its way: then it has nothing to show yet, but knows whom it will accept.
package enum ServerMaterial: Sendable {
    case complete(TLSMaterial)
    case awaitingIdentity(TrustStore)

    package var identity: Identity? {
        switch self {
        case .complete(let material): material.identity
        case .awaitingIdentity: nil
        }
    }

    package var trustStore: TrustStore {
        switch self {
        case .complete(let material): material.trustStore
        case .awaitingIdentity(let trustStore): trustStore
        }
    }

    /// As `TLSMaterial.warnings(at:)`.
    package func warnings(at time: Timestamp) -> [String] {
        switch self {
        case .complete(let material): material.warnings(at: time)
        case .awaitingIdentity(let trustStore): trustStore.warnings(at: time)
        }
    }
}

/// Where `TLSMaterial` comes from. Loaded at the start and again on each reload; when a load fails, the material in use stays.
public struct TLSMaterialSource: Sendable {
    /// Reads everything anew. Blocks for the reading and for checking the keys (RSA takes some tens of milliseconds): not on an event loop.
    package let loadForServer: @Sendable () throws -> ServerMaterial
    /// Reads the identity alone, where it comes into being apart from everything else: what is wrong with a list must not keep it from use.
    package let loadIdentity: (@Sendable () throws -> Identity?)?
    /// The files and directories that it reads: who wants to know of changes watches these. Empty where it reads none.
    package let paths: [String]

    package init(paths: [String] = [], load: @escaping @Sendable () throws -> TLSMaterial) {
        self.init(paths: paths, loadForServer: { .complete(try load()) })
    }

    private init(
        paths: [String], loadForServer: @escaping @Sendable () throws -> ServerMaterial,
        loadIdentity: (@Sendable () throws -> Identity?)? = nil
    ) {
        self.paths = paths
        self.loadForServer = loadForServer
        self.loadIdentity = loadIdentity
    }

    /// For a server whose certificate is being obtained: `load` says `awaitingIdentity` until there is one. Everything else that is wrong,
    /// a damaged certificate too, it throws.
    ///
    /// - Parameter identity: The same identity, without the rest.
    package static func obtained(
        paths: [String] = [], identity: (@Sendable () throws -> Identity?)? = nil, _ load: @escaping @Sendable () throws -> ServerMaterial
    ) -> TLSMaterialSource {
        TLSMaterialSource(paths: paths, loadForServer: load, loadIdentity: identity)
    }

    /// As `loadForServer`, for who needs an identity now. Throws `PKIError` `certificateMissing` while there is none.
    package func load() throws -> TLSMaterial {
        switch try loadForServer() {
        case .complete(let material): return material
        case .awaitingIdentity:
            throw PKIError(
                .certificateMissing, subject: "identity", "its first certificate has not been issued yet",
                remedy: "wait for it; the server's log says how its order goes")
        }
    }

    /// From PEM files.
    ///
    /// A load throws a described error when a file is missing, malformed or too weak, when the key is not the certificate's,
    /// or when others may read the key: it must be mode 0600 or stricter, and the process's own or root's. Trust and revocation lists may be
    /// read by everybody (0644), and changed by nobody else.
    ///
    /// - Parameters:
    ///   - certificateChainFile: the leaf first, then each certificate's issuer.
    ///   - privateKeyFile: PKCS#8, encrypted or not; may be the same file as the chain.
    ///   - trustFile: the certificates of the authorities or peers to accept, at least one; or a directory of such files.
    ///   - revocationListFiles: PEM or DER, or directories of them; when there is any, each authority in `trustFile` needs a list that is
    ///     current.
    ///   - revocationListGrace: for how long beyond its next update a list is still believed; by default not at all.
    ///   - passphraseFile: one line, mode 0600 or stricter; for an encrypted key.
    ///   - privateKeyGroup: the number of a group that may read the key file too (mode 0640).
    public static func pem(
        certificateChainFile: String, privateKeyFile: String, trustFile: String, revocationListFiles: [String] = [],
        revocationListGrace: Duration = .zero, passphraseFile: String? = nil, privateKeyGroup: UInt32? = nil
    ) -> TLSMaterialSource {
        let paths = [certificateChainFile, privateKeyFile, trustFile] + revocationListFiles + (passphraseFile.map { [$0] } ?? [])
        return TLSMaterialSource(paths: paths) {
            let secret = privateKeyGroup.map { PrivateFile.Permissions.ownerAndGroup($0) } ?? .ownerOnly
            func bytes(_ path: String, _ permissions: PrivateFile.Permissions) throws -> [UInt8] {
                try PrivateFile.read(path, maximumBytes: PEM.maximumFileBytes, permissions: permissions).bytes
            }
            let key = try PrivateFile.read(privateKeyFile, maximumBytes: PEM.maximumFileBytes, permissions: secret)
            let identity = try key.withBytes { key in
                try Identity.pem(
                    chain: certificateChainFile == privateKeyFile ? key : bytes(certificateChainFile, .any), key: key,
                    passphrase: passphraseFile.map { try Passphrase.file($0) }, source: certificateChainFile, keySource: privateKeyFile)
            }
            let lists = try revocationListFiles.flatMap { try MaterialPath.files(of: $0, suffixes: MaterialPath.revocationListSuffixes) }
                .flatMap { try CertificateRevocationList.list(bytes($0, .anyoneMayRead), source: $0) }
            let trust = try MaterialPath.files(of: trustFile, suffixes: MaterialPath.certificateSuffixes)
                .flatMap { try bytes($0, .anyoneMayRead) + [UInt8(ascii: "\n")] }
            return TLSMaterial(
                identity: identity,
                trustStore: try TrustStore.pem(
                    trust, revocationLists: lists, revocationGraceSeconds: revocationListGrace.components.seconds, source: trustFile))
        }
    }
}
