internal import COpenSSL
package import MWPKI

/// What the TLS connections of one listener, or of one client, share: identity, trust store and policy, as an OpenSSL SSL_CTX that never
/// changes once it exists.
///
/// A reload makes a new context; connections that are open keep theirs. Both sides always present and always verify a certificate: no
/// parameter turns that off. Any number of threads may make sessions out of one context.
@safe package final class TLSContext: Sendable {
    package enum Role: Sendable, Hashable { case server, client }

    package let role: Role
    package let policy: TLSPolicy
    /// `nil` in a server's that waits for its first certificate: it answers ACME challenges, and refuses every other handshake.
    package let identity: Identity?
    package let trustStore: TrustStore
    /// How a client's context judges servers; `nil` in a server's.
    package let serverVerification: ServerVerification?
    /// Whether the OpenSSL in use offers a post-quantum key exchange (3.5 and later do).
    package let offersPostQuantumKeyExchange: Bool
    /// Whom we refuse although the trust store accepts them.
    package let refusals: RefusalSet
    let peerVerification: PeerVerification
    private let helloJudgement: HelloJudgement?

    // Safety: OpenSSL allows concurrent SSL_new on an SSL_CTX that nobody changes, and nobody does after init.
    nonisolated(unsafe) let pointer: OpaquePointer

    /// The context of a listener. Clients must present a certificate that `material`'s trust store accepts for clientAuth.
    ///
    /// - Parameter material: With an identity, or still awaiting one.
    /// - Parameter challenges: What ACME validations are shown; the context that follows gets the same.
    /// - Parameter ownKeys: Of earlier identities; nobody is a client with one of these, nor with that of `material`.
    ///
    /// Throws `TLSError` `materialRejected` when OpenSSL cannot use the identity or the trust store, `policyRejected` when it cannot keep
    /// the policy.
    package convenience init(
        server material: ServerMaterial, challenges: PendingChallenges = PendingChallenges(), policy: TLSPolicy = TLSPolicy(),
        refusals: RefusalSet = RefusalSet(), ownKeys: Set<PublicKeyPin> = []
    ) throws(TLSError) {
        let hellos = HelloJudgement(challenges: challenges, hasIdentity: material.identity != nil)
        try self.init(
            role: .server, identity: material.identity, trustStore: material.trustStore, verification: nil, hellos: hellos, policy: policy,
            refusals: refusals, ownKeys: ownKeys)
    }

    /// The same, with an identity.
    package convenience init(
        server material: TLSMaterial, challenges: PendingChallenges = PendingChallenges(), policy: TLSPolicy = TLSPolicy(),
        refusals: RefusalSet = RefusalSet()
    ) throws(TLSError) {
        try self.init(server: .complete(material), challenges: challenges, policy: policy, refusals: refusals)
    }

    /// The context of a client that presents `material`'s identity and accepts servers as `verification` says. Throws as `init(server:)`.
    package convenience init(client material: TLSMaterial, verification: ServerVerification, policy: TLSPolicy = TLSPolicy())
        throws(TLSError)
    {
        if case .pinned(let pins, _) = verification, pins.isEmpty {
            throw TLSError(.policyRejected, "server verification", "no certificate is pinned", remedy: "pin one, or verify by name")
        }
        try self.init(
            role: .client, identity: material.identity, trustStore: material.trustStore, verification: verification, hellos: nil,
            policy: policy, refusals: RefusalSet(), ownKeys: [])
    }

    private init(
        role: Role, identity: Identity?, trustStore: TrustStore, verification: ServerVerification?, hellos: HelloJudgement?,
        policy: TLSPolicy, refusals: RefusalSet, ownKeys: Set<PublicKeyPin>
    ) throws(TLSError) {
        ContextPolicy.initializeLibrary()
        ERR_clear_error()
        let method = unsafe role == .server ? TLS_server_method() : TLS_client_method()
        guard let context = unsafe SSL_CTX_new_ex(ContextPolicy.libraries.tls, nil, method) else {
            throw TLSError(.policyRejected, "OpenSSL", "makes no context", underlying: OpenSSLErrors.drain().lines)
        }
        unsafe self.pointer = unsafe context
        self.role = role
        self.policy = policy
        self.identity = identity
        self.trustStore = trustStore
        self.helloJudgement = hellos
        self.serverVerification = verification
        self.refusals = refusals
        self.peerVerification = PeerVerification(
            own: identity, earlierKeys: ownKeys, trustStore: trustStore, server: verification, refusals: refusals,
            time: policy.verificationTime)
        // From here on `deinit` runs when something throws: every stored property but one has its value, so give that one its value first.
        do {
            self.offersPostQuantumKeyExchange = try unsafe ContextPolicy.apply(policy, to: context)
        } catch {
            unsafe SSL_CTX_free(context)
            throw error
        }
        if let identity { try unsafe ContextPolicy.use(identity, in: context) }
        try unsafe ContextPolicy.trust(trustStore, role: role, in: context)
        unsafe ContextPolicy.verify(policy, trustStore, verification, in: context)
        unsafe peerVerification.install(on: context)
        unsafe hellos?.install(on: context)
        unsafe SSL_CTX_set_info_callback(context) { ssl, place, value in
            guard let ssl = unsafe ssl else { return }
            unsafe TLSSession.observe(ssl, place: place, value: value)
        }
    }

    /// Judges a connected peer as its handshake would be judged now: chain, dates, purpose, revocation, refusals.
    ///
    /// Returns it with the chain and the alias of this context's trust store, or why it is refused. Costs up to half a millisecond of CPU,
    /// a signature check for each certificate of its chain; any thread may call it.
    package func judge(_ peer: VerifiedPeer) -> Result<VerifiedPeer, TLSError> {
        unsafe peerVerification.judge(peer, by: pointer, role: role)
    }

    /// Whether a glance says that ``judge(_:)`` may refuse `peer`: who has many to judge begins with these. No verdict either way.
    package func isSuspect(_ peer: VerifiedPeer) -> Bool { peerVerification.isSuspect(peer) }

    deinit {
        unsafe SSL_CTX_free(pointer)
    }
}
