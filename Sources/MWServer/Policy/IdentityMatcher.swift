package import MWPKI

/// What of a certificate a rule knows its principal by. Names are equal byte by byte as a whole, or segment by segment with `*` for any one segment.
package enum IdentityMatcher: Sendable, Hashable {
    /// This very certificate.
    case fingerprint(CertificateFingerprint)
    /// This key, whatever the certificate.
    case publicKey(PublicKeyPin)
    /// The certificate's only URI name, a SPIFFE ID among others.
    case uri(NamePattern)
    /// One of its DNS names.
    case dns(NamePattern)
    /// Its common name; counts only where there are no subject alternative names at all.
    case commonName(String)
    /// The name that this very certificate has in the trust store.
    case alias(String)

    /// How the policy file calls them.
    package enum Kind: String, Sendable, Hashable, CaseIterable {
        case fingerprint = "sha256"
        case publicKey = "spki"
        case uri
        case dns
        case commonName = "cn"
        case alias
    }

    package var kind: Kind {
        switch self {
        case .fingerprint: .fingerprint
        case .publicKey: .publicKey
        case .uri: .uri
        case .dns: .dns
        case .commonName: .commonName
        case .alias: .alias
        }
    }

    /// With `*` in it.
    package var pattern: NamePattern? {
        switch self {
        case .uri(let name), .dns(let name): name.isExact ? nil : name
        case .fingerprint, .publicKey, .commonName, .alias: nil
        }
    }

    /// The value as the policy file has it.
    package var value: String {
        switch self {
        case .fingerprint(let fingerprint): fingerprint.hex
        case .publicKey(let pin): pin.hex
        case .uri(let name), .dns(let name): name.text
        case .commonName(let name), .alias(let name): name
        }
    }

    /// Why it does not match; nil if it does.
    package func mismatch(_ identity: PresentedIdentity) -> String? {
        switch self {
        case .fingerprint(let fingerprint):
            return fingerprint == identity.fingerprint ? nil : "its SHA-256 is \(identity.fingerprint.hex)"
        case .publicKey(let pin):
            return pin == identity.publicKeyPin ? nil : "the SHA-256 of its public key is \(identity.publicKeyPin.hex)"
        case .uri(let pattern):
            guard let name = identity.uriName else {
                return identity.uriNames.isEmpty
                    ? "it has no URI name" : "it has \(identity.uriNames.count) URI names, and none counts unless it is the only one"
            }
            return pattern.matches(name) ? nil : "its URI name is \(name)"
        case .dns(let pattern):
            if identity.dnsNames.contains(where: pattern.matches) { return nil }
            guard !identity.dnsNames.isEmpty else { return "it has no DNS name" }
            return "its DNS \(identity.dnsNames.count == 1 ? "name is" : "names are") \(identity.dnsNames.joined(separator: ", "))"
        case .commonName(let name):
            guard !identity.hasAlternativeNames else { return "it has subject alternative names, so its common name does not count" }
            guard let commonName = identity.commonName else { return "it has no common name" }
            return name.utf8.elementsEqual(commonName.utf8) ? nil : "its common name is \(commonName)"
        case .alias(let name):
            guard let alias = identity.alias else { return "it is not itself in the trust store under a name" }
            return name.utf8.elementsEqual(alias.utf8) ? nil : "its name in the trust store is \(alias)"
        }
    }
}

extension IdentityMatcher {
    /// Names are equal byte by byte: to Swift two strings are equal that only look the same, and who issues may be asked for either.
    package static func == (left: IdentityMatcher, right: IdentityMatcher) -> Bool {
        switch (left, right) {
        case (.fingerprint(let left), .fingerprint(let right)): left == right
        case (.publicKey(let left), .publicKey(let right)): left == right
        case (.uri(let left), .uri(let right)), (.dns(let left), .dns(let right)): left == right
        case (.commonName(let left), .commonName(let right)), (.alias(let left), .alias(let right)):
            left.utf8.elementsEqual(right.utf8)
        default: false
        }
    }

    package func hash(into hasher: inout Hasher) {
        hasher.combine(self.kind)
        switch self {
        case .fingerprint(let fingerprint): hasher.combine(fingerprint)
        case .publicKey(let pin): hasher.combine(pin)
        case .uri(let name), .dns(let name): hasher.combine(name)
        case .commonName(let name), .alias(let name): for byte in name.utf8 { hasher.combine(byte) }
        }
    }
}

extension IdentityMatcher: CustomStringConvertible {
    /// `uri spiffe://example.org/editor`.
    package var description: String { "\(self.kind.rawValue) \(self.value)" }
}

/// What a certificate says of who has it. Not that it is so: only ``AccessPolicy/admit(_:)`` makes a ``Principal``, out of a verified peer.
package struct PresentedIdentity: Sendable, Hashable {
    package var fingerprint: CertificateFingerprint
    package var publicKeyPin: PublicKeyPin
    package var uriNames: [String] = []
    package var dnsNames: [String] = []
    package var commonName: String?
    /// Of any kind, known here or not.
    package var hasAlternativeNames = false
    /// The trust store's name for this very certificate.
    package var alias: String?

    package init(fingerprint: CertificateFingerprint, publicKeyPin: PublicKeyPin) {
        self.fingerprint = fingerprint
        self.publicKeyPin = publicKeyPin
    }

    package init(_ certificate: Certificate, alias: String?) {
        self.init(fingerprint: certificate.sha256, publicKeyPin: certificate.publicKeyPin)
        self.uriNames = certificate.uriNames
        self.dnsNames = certificate.dnsNames
        self.commonName = certificate.commonName
        self.hasAlternativeNames = certificate.hasSubjectAlternativeName
        self.alias = alias
    }

    /// SPIFFE X.509-SVID §2: a certificate with two URI names is no one's.
    package var uriName: String? { self.uriNames.count == 1 ? self.uriNames.first : nil }

    /// Every matcher without `*` that matches: what a rule can name.
    package var matchers: [IdentityMatcher] {
        var matchers: [IdentityMatcher] = [.fingerprint(self.fingerprint), .publicKey(self.publicKeyPin)]
        if let name = self.uriName.flatMap({ try? NamePattern(uri: $0) }), name.isExact { matchers.append(.uri(name)) }
        for name in self.dnsNames {
            if let name = try? NamePattern(dns: name), name.isExact { matchers.append(.dns(name)) }
        }
        if !self.hasAlternativeNames, let commonName = self.commonName { matchers.append(.commonName(commonName)) }
        if let alias = self.alias { matchers.append(.alias(alias)) }
        return matchers
    }
}
