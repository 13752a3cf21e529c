package import MWPKI
package import MWTLS

/// Who a peer is. The access policy alone makes one, out of a peer that TLS has verified.
///
/// Today the policy is: every member of the trust store is admitted, with all rights. Rules and rights have their place in
/// ``admit(_:)``, and nowhere else.
package struct Principal: Sendable, Hashable {
    /// For people: the trust store's alias; else the first URI, then DNS name of the certificate; else, only without such names, its CN.
    package let name: String
    package let certificate: Certificate

    package var fingerprint: CertificateFingerprint { self.certificate.sha256 }

    /// Whether it may do what concerns the server as a whole. Nobody may as long as no rules say who.
    package var isAdministrator: Bool { false }

    private init(name: String, certificate: Certificate) {
        self.name = name
        self.certificate = certificate
    }

    /// The principal of a verified peer.
    package static func admit(_ peer: VerifiedPeer) -> Principal {
        Principal(name: peer.alias ?? Self.name(of: peer.leaf), certificate: peer.leaf)
    }

    private static func name(of leaf: Certificate) -> String {
        if let name = leaf.uriNames.first ?? leaf.dnsNames.first ?? leaf.emailAddresses.first { return name }
        // Two names for one certificate would be two identities: the CN counts only where there is no subject alternative name.
        if !leaf.hasSubjectAlternativeName, let name = leaf.commonName { return name }
        return leaf.subject
    }
}
