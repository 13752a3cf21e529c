package import MWPKI

/// A private authority of a test, made when it runs; EC P-256, under a millisecond.
///
///     let authority = try TestAuthority()
///     let server = try authority.issueServer()                                   // localhost, 127.0.0.1, ::1
///     let alice = try authority.issueClient(name: "alice")
///     let late = try authority.issueClient(name: "late") { $0.expire() }         // see CertificateBuilder below
///     let material = TLSMaterial(identity: server, trustStore: try authority.trustStore())
package struct TestAuthority: Sendable {
    /// Its certificate, the certificates between it and its root, and its key.
    package let identity: Identity
    /// The self-signed certificate at the top: what others trust.
    package let root: Certificate

    package init(name: String = "Test CA", _ change: (inout CertificateBuilder) -> Void = { _ in }) throws {
        var builder = CertificateBuilder.authority(name: name)
        change(&builder)
        identity = try builder.identity()
        root = identity.leaf
    }

    private init(identity: Identity, root: Certificate) {
        self.identity = identity
        self.root = root
    }

    package var certificate: Certificate { identity.leaf }

    // MARK: - Issuing

    /// A server's identity: `serverAuth`, names as subject alternative names; the chain has no root in it.
    package func issueServer(
        names: [String] = ["localhost", "127.0.0.1", "::1"], key: PrivateKey? = nil, _ change: (inout CertificateBuilder) -> Void = { _ in }
    ) throws -> Identity {
        try issue(.server(names: names), key: key, change)
    }

    /// A client's identity: `clientAuth`, `name` as the common name, no subject alternative name.
    package func issueClient(
        name: String = "alice", key: PrivateKey? = nil, _ change: (inout CertificateBuilder) -> Void = { _ in }
    ) throws -> Identity {
        try issue(.client(name: name), key: key, change)
    }

    /// Anything. Unlike other identities, these may be as bad as `change` makes them.
    package func issue(
        _ builder: CertificateBuilder, key: PrivateKey? = nil, _ change: (inout CertificateBuilder) -> Void = { _ in }
    ) throws -> Identity {
        var builder = builder
        change(&builder)
        return try builder.identity(key: key, issuer: identity)
    }

    /// An authority below this one.
    package func intermediate(
        name: String = "Test Intermediate", _ change: (inout CertificateBuilder) -> Void = { _ in }
    ) throws -> TestAuthority {
        TestAuthority(identity: try issue(.authority(name: name), change), root: root)
    }

    /// The lowest of `count` authorities below this one; what it issues has a chain of 1 + `count` certificates, without the root.
    package func chain(of count: Int) throws -> TestAuthority {
        var lowest = self
        for number in 0..<count { lowest = try lowest.intermediate(name: "Test Intermediate \(number + 1)") }
        return lowest
    }

    /// Another authority with the same name and another key.
    package func impostor() throws -> TestAuthority {
        guard let name = certificate.commonName else { throw PKIError(.buildFailed, subject: certificate.subject, "no common name") }
        return try TestAuthority(name: name)
    }

    // MARK: - Trusting

    /// Trusts the root, under the alias `ca`.
    package func trustStore(revocationLists: [CertificateRevocationList] = [], at now: Timestamp = .now()) throws -> TrustStore {
        try TrustStore(anchors: [TrustAnchor(alias: "ca", certificate: root)], revocationLists: revocationLists, at: now)
    }

    /// A list by this authority (not by its root, where it is below one).
    package func revocationList(
        revoking certificates: [Certificate] = [], _ change: (inout RevocationListBuilder) -> Void = { _ in }
    ) throws -> CertificateRevocationList {
        var builder = RevocationListBuilder(revoking: certificates)
        change(&builder)
        return try builder.signed(by: identity)
    }

    /// A server's and a client's material that accept each other.
    package func materialPair(clientName: String = "alice") throws -> (server: TLSMaterial, client: TLSMaterial) {
        let trust = try trustStore()
        return (
            TLSMaterial(identity: try issueServer(), trustStore: trust),
            TLSMaterial(identity: try issueClient(name: clientName), trustStore: trust)
        )
    }
}

/// What can be wrong with a certificate, for the `change` of the issuing functions.
extension CertificateBuilder {
    /// Ended an hour ago.
    package mutating func expire(at now: Timestamp = .now()) {
        notBefore = now.adding(days: -30)
        notAfter = now.adding(seconds: -3600)
    }

    /// Begins in a day.
    package mutating func beginLater(at now: Timestamp = .now()) {
        notBefore = now.adding(days: 1)
        notAfter = now.adding(days: 30)
    }

    /// An extended key usage for the other side, as `["serverAuth"]` for a client.
    package mutating func setUsages(_ usages: [String]) { extendedKeyUsages = usages }

    /// Signed with SHA-1.
    package mutating func signWithSHA1() { digest = .sha1 }

    /// No extension at all, as old authorities issue.
    package mutating func removeExtensions() {
        basicConstraints = nil
        keyUsage = nil
        extendedKeyUsages = []
        alternativeNames = []
        includesKeyIdentifiers = false
        extensions = []
    }

    /// A DNS name that ends early for whoever reads it as a C string, as `server.example` of `server.example\0.attacker.example`.
    package mutating func addNameWithNUL(_ name: String, after: String = ".attacker.example") {
        alternativeNames.append(.raw(tag: 2, bytes: Array(name.utf8) + [0] + Array(after.utf8)))
    }

    /// An authority that may only vouch for DNS names below (or equal to) these.
    package mutating func constrainNames(to names: [String], excluding excluded: [String] = []) {
        extensions.append(.nameConstraints(permittedDNSNames: names, excludedDNSNames: excluded))
    }
}
