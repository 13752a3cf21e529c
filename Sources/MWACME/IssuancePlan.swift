package import MWPKI

/// What to order, where and how.
package struct IssuancePlan: Sendable {
    package enum Profile: Sendable, Hashable {
        /// An order with a CA that has no such profile fails before it is made.
        case required(String)
        /// Left out, with a warning, where the CA has no such profile.
        case preferred(String)

        package var name: String {
            switch self {
            case .required(let name), .preferred(let name): name
            }
        }
    }

    /// Which of several chains to take.
    package enum ChainPreference: Sendable, Hashable {
        case rootCommonName(String)
        /// Of any certificate in the chain, or of the root above it; the octets.
        case keyIdentifier([UInt8])
    }

    /// The certificate that the new one replaces (RFC 9773 §5).
    package struct Predecessor: Sendable, Hashable {
        package var certificateID: CertificateID
        package var directoryURL: String
        package var accountURL: String
        package var identifiers: [Identifier]
        package var isRefused: Bool

        /// Nil where RFC 9773 gives the certificate no identifier.
        package init?(_ generation: CertificateGeneration) {
            guard let id = generation.certificateID else { return nil }
            certificateID = id
            directoryURL = generation.directoryURL
            accountURL = generation.accountURL
            identifiers = generation.identifiers
            isRefused = generation.renewal.replacesRefused
        }
    }

    /// RFC 8555 §7.3.4.
    package struct ExternalAccountBinding: Sendable {
        package var keyIdentifier: String
        package var macKey: SecretBytes

        package init(keyIdentifier: String, macKey: SecretBytes) {
            self.keyIdentifier = keyIdentifier
            self.macKey = macKey
        }

        /// `macKey` in base64url, as CAs hand it out; padding is let pass. Nil when it is not that.
        package init?(keyIdentifier: String, macKeyText: String) {
            guard let bytes = Base64URL.decode(String(macKeyText.trimmed.prefix { $0 != "=" })), !bytes.isEmpty, !keyIdentifier.isEmpty
            else { return nil }
            self.init(keyIdentifier: keyIdentifier, macKey: SecretBytes(bytes))
        }
    }

    package var directoryURL: String
    package var identifiers: [Identifier]
    package var keyAlgorithm: KeyAlgorithm = .ec(.p256)
    /// Those we can serve, the best first.
    package var challengePreference: [ChallengeType] = [.tlsALPN01, .http01, .dns01]
    package var profile: Profile?
    package var chainPreference: ChainPreference?
    package var replaces: Predecessor?
    /// As `mailto:admin@example.com`.
    package var contacts: [String] = []
    package var termsOfServiceAgreed = false
    package var externalAccountBinding: ExternalAccountBinding?
    /// Between the answers of dns-01 and telling the CA.
    package var recordPropagation: Duration = .zero
    package var limits = ACMELimits()
    /// RFC 8555 §6.1 demands one.
    package var userAgent = "mwstorage"
    package var language = "en"

    package init(directoryURL: String, identifiers: [Identifier]) {
        self.directoryURL = directoryURL
        self.identifiers = identifiers
    }

    /// Of what is ordered, and how it is proved: equal for equal orders, whatever the order of names.
    package var digest: String {
        let parts =
            [directoryURL, "\(keyAlgorithm)", profile?.name ?? "", challengePreference.map(\.rawValue).joined(separator: " ")]
            + identifiers.sorted().map(\.value) + [externalAccountBinding?.keyIdentifier ?? "", "\(termsOfServiceAgreed)"]
        return Hex.encode(OpenSSL.sha256(Array(parts.joined(separator: "\n").utf8)))
    }

    /// Throws `planInvalid` for what no CA could fulfil.
    package func validate() throws(ACMEError) {
        func invalid(_ subject: String, _ what: String, _ remedy: String) -> ACMEError {
            ACMEError(.planInvalid, subject: subject, what, remedy: remedy)
        }
        guard WebAddress.isUsable(directoryURL) else {
            throw invalid(ACMEProblem.safe(directoryURL), "not the URL of a directory", "give an https URL")
        }
        guard !identifiers.isEmpty else { throw invalid("order", "no names", "give at least one DNS name or IP address") }
        guard identifiers.count <= ACMEOrder.maximumAuthorizations else {
            throw invalid("order", "too many names", "\(ACMEOrder.maximumAuthorizations) at most")
        }
        guard Set(identifiers).count == identifiers.count else { throw invalid("order", "a name is given twice", "give each name once") }
        for identifier in identifiers where !challengePreference.contains(where: { $0.canProve(identifier) }) {
            throw invalid(
                "\(identifier)", "none of the challenges allowed here can prove it",
                identifier.isWildcard ? "allow dns-01, with a program that sets the record" : "allow http-01 or tls-alpn-01")
        }
        if case .rsa(let bits) = keyAlgorithm, !(KeyAlgorithm.minimumRSABits...4096).contains(bits) {
            throw invalid("certificate key", "RSA of \(bits) bits", "public CAs take 2048 to 4096")
        }
        switch keyAlgorithm {
        case .ec(.p256), .ec(.p384), .rsa: break
        default: throw invalid("certificate key", "\(keyAlgorithm) is not supported", "use EC P-256, EC P-384 or RSA")
        }
    }
}
