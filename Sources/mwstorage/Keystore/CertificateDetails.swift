import MWPKI

/// What `inspect` shows of a certificate, as named parts in a fixed order.
struct CertificateDetails {
    let members: [(String, JSONValue)]
    private let warnings: [String]

    init(_ certificate: Certificate, at now: Timestamp) {
        var members: [(String, JSONValue)] = [
            ("subject", .string(certificate.subject)),
            ("issuer", .string(certificate.isSelfSigned ? "itself" : certificate.issuer)),
            ("serial_number", .string(certificate.serialNumber)),
            ("not_before", .string("\(certificate.notBefore)")),
            ("not_after", .string("\(certificate.notAfter)")),
            ("validity", .string(Self.validity(certificate, at: now))),
            ("key", .string("\(certificate.keyAlgorithm)")),
            ("signature", .string(certificate.signatureAlgorithm)),
            ("authority", .bool(certificate.isCertificateAuthority)),
        ]
        let names =
            certificate.dnsNames.map { "dns:\($0)" } + certificate.ipAddresses.map { "ip:\($0)" } + certificate.uriNames.map { "uri:\($0)" }
            + certificate.emailAddresses.map { "email:\($0)" }
        members.append(("names", .array(names.map { .string($0) })))
        members.append(("key_usage", .array((certificate.keyUsage?.names ?? []).map { .string($0) })))
        members.append(("extended_key_usage", .array(certificate.extendedKeyUsages.map { .string($0) })))
        members.append(("sha256", .string(certificate.sha256.hex)))
        members.append(("public_key_sha256", .string(certificate.publicKeyPin.hex)))
        warnings = Self.warnings(certificate, at: now)
        members.append(("warnings", .array(warnings.map { .string($0) })))
        self.members = members
    }

    /// Lines for people, without the parts that say nothing.
    func lines(indent: String) -> [String] {
        let shown = members.filter { member in
            if case .array(let values) = member.1 { return !values.isEmpty && member.0 != "warnings" }
            return true
        }
        let labels = shown.map { $0.0.split(separator: "_").joined(separator: " ") + ":" }
        let width = labels.map(\.count).max() ?? 0
        return zip(labels, shown).map { label, member in
            indent + label + String(repeating: " ", count: width - label.count + 1) + Self.plain(member.1)
        } + warnings.map { "\(indent)warning: \($0)" }
    }

    private static func plain(_ value: JSONValue) -> String {
        switch value {
        case .string(let text): text
        case .bool(let flag): flag ? "yes" : "no"
        case .array(let values): values.map(plain).joined(separator: ", ")
        default: value.text
        }
    }

    private static func validity(_ certificate: Certificate, at now: Timestamp) -> String {
        let daySeconds: Int64 = 86_400
        switch certificate.validity(at: now) {
        case .expired: return "expired"
        case .notYetValid: return "not yet valid"
        case .valid: return "\((certificate.notAfter.secondsSince1970 - now.secondsSince1970) / daySeconds) days left"
        }
    }

    private static func warnings(_ certificate: Certificate, at now: Timestamp) -> [String] {
        var warnings: [String] = []
        if certificate.validity(at: now) == .expired { warnings.append("expired: peers refuse it") }
        if certificate.validity(at: now) == .notYetValid { warnings.append("not yet valid: peers refuse it; is the clock right?") }
        do {
            try certificate.keyAlgorithm.requireStrong(subject: certificate.subject)
        } catch let error as PKIError {
            warnings.append([error.what, error.remedy].compactMap { $0 }.joined(separator: "; "))
        } catch {}
        if !certificate.hasStrongSignature, !(certificate.isSelfSigned && certificate.isCertificateAuthority) {
            warnings.append("signed with \(certificate.signatureAlgorithm), which is too weak; issue it again with SHA-256")
        }
        if !certificate.hasSubjectAlternativeName, !certificate.isCertificateAuthority,
            !certificate.extendedKeyUsages.contains("clientAuth")
        {
            warnings.append("no subject alternative name: as a server's it must be pinned by its SHA-256")
        }
        if BundledTestKeys.publicKeyPins.contains(certificate.publicKeyPin) {
            warnings.append("its private key is published with the source of MWStorage: for tests only")
        }
        return warnings
    }
}
