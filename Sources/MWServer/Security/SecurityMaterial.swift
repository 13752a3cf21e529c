internal import MWPKI
internal import MWTLS
internal import NIOCore

/// Everything that is read for a ``SecuritySet``: each file once, checked, and not in use yet.
struct SecurityMaterial: Sendable {
    let tls: ServerMaterial
    /// Of the files; those of `mwstorage revoke` come on top.
    let refusals: RefusalSet
    let accessPolicy: AccessPolicy
}

/// Where ``SecurityMaterial`` is read from, and what of it no server should use.
struct SecuritySource: Sendable {
    let tls: TLSMaterialSource
    let refusedFiles: [String]
    let accessPolicy: AccessPolicySource?
    /// What ACME validations are shown, by every set alike.
    let challenges: PendingChallenges
    let addresses: [SocketAddress]
    let policy: TLSPolicy

    init(_ configuration: StorageServerConfiguration, challenges: PendingChallenges, addresses: [SocketAddress]) {
        self.tls = configuration.tls
        self.refusedFiles = configuration.refusedFiles
        self.accessPolicy = configuration.accessPolicy
        self.challenges = challenges
        self.addresses = addresses
        self.policy = SessionServer.tlsPolicy(configuration.limits)
    }

    /// Everything that a load reads.
    var paths: [String] { self.tls.paths + self.refusedFiles + (self.accessPolicy?.paths ?? []) }

    /// Reads all anew. Blocks: not on an event loop. Throws ``ServerError`` with the first thing that is wrong.
    func load(at now: Timestamp = .now()) throws(ServerError) -> SecurityMaterial {
        let material: ServerMaterial
        var refusals = RefusalSet()
        do {
            material = try self.tls.loadForServer()
            for path in self.refusedFiles {
                refusals = refusals.union(try RefusalSet.parse(PrivateFile.read(path, permissions: .anyoneMayRead).bytes, source: path))
            }
        } catch {
            throw Self.rejected(error)
        }
        try StorageServer.check(material, at: now, for: self.addresses)
        return SecurityMaterial(tls: material, refusals: refusals, accessPolicy: try self.loadAccessPolicy())
    }

    /// `material` with the identity as it is now; nil where that does not come into being by itself, or is not there. Blocks.
    ///
    /// Throws ``ServerError``.
    func renewIdentity(of material: SecurityMaterial, at now: Timestamp) throws(ServerError) -> SecurityMaterial? {
        let identity: Identity?
        do { identity = try self.tls.loadIdentity?() } catch { throw Self.rejected(error) }
        guard let identity else { return nil }
        let tls = ServerMaterial.complete(TLSMaterial(identity: identity, trustStore: material.tls.trustStore))
        try StorageServer.check(tls, at: now, for: self.addresses)
        return SecurityMaterial(tls: tls, refusals: material.refusals, accessPolicy: material.accessPolicy)
    }

    private func loadAccessPolicy() throws(ServerError) -> AccessPolicy {
        do {
            return try self.accessPolicy?.load() ?? .none
        } catch {
            throw ServerError(.policyRejected, "access policy", "it cannot be used", underlying: error)
        }
    }

    /// A set out of `material` and `more` refusals, which takes nobody with one of `ownKeys` for a client.
    func makeSet(
        _ material: SecurityMaterial, refusing more: RefusalSet, ownKeys: Set<PublicKeyPin> = [], generation: UInt64
    ) throws(ServerError) -> SecuritySet {
        do throws(TLSError) {
            let context = try TLSContext(
                server: material.tls, challenges: self.challenges, policy: self.policy, refusals: material.refusals.union(more),
                ownKeys: ownKeys)
            return SecuritySet(generation: generation, context: context, accessPolicy: material.accessPolicy)
        } catch {
            throw Self.rejected(error)
        }
    }

    private static func rejected(_ error: any Error) -> ServerError {
        ServerError(.materialRejected, "certificates", "the identity or trust store cannot be used", underlying: error)
    }
}
