/// What we refuse although its authority vouches for it: one certificate, one serial number, or all certificates of one identity.
///
/// As text, one a line:
///
///     sha256:9f86d081…                      the SHA-256 of a certificate, of a leaf or of an authority in its chain
///     serial 0a1b2c issuer CN=Test CA,O=x   a serial number in hex, and the issuer's name as RFC 4514 (`mwstorage certificate inspect`)
///     serial 0a1b2c                         that serial number, whoever the issuer is
///     identity spiffe://example.org/alice   an alias, URI, DNS name, email address or, where there is none of these, common name
package enum Refusal: Hashable, Sendable, CustomStringConvertible {
    case certificate(CertificateFingerprint)
    /// Lower-case hex without leading zeros, as ``Certificate/serialNumber``; a nil issuer is any.
    case serialNumber(String, issuer: String?)
    /// A name of the leaf, or the name under which policy or trust store knows it; compared whole.
    case identity(String)

    /// RFC 5280 §4.1.2.2: at most 20 octets.
    private static let maximumSerialDigits = 40
    /// Names and distinguished names: longer than any that is used, short enough for a line.
    static let maximumNameBytes = 4096

    /// Throws `PKIError` `refusalMalformed` that says what is wrong with `text`.
    package init(_ text: String, source: String = "refusal") throws {
        let words = text.split(separator: " ", maxSplits: 1, omittingEmptySubsequences: true).map(String.init)
        func malformed(_ what: String, expected: String, found: String? = nil) -> PKIError {
            PKIError(.refusalMalformed, subject: source, what, expected: expected, found: found)
        }
        guard let word = words.first else { throw malformed("it is empty", expected: Self.forms) }
        let rest = words.count > 1 ? words[1].trimmingBlanks : ""
        switch word {
        case "serial":
            let (digits, issuer) = try Self.splitIssuer(rest, source: source)
            self = try .serialNumber(Self.serialNumber(digits, source: source), issuer: issuer)
        case "identity":
            self = .identity(try Self.name(rest, "identity", source: source))
        default:
            guard word.lowercased().hasPrefix("sha256:") else {
                throw malformed("unknown kind of refusal", expected: Self.forms, found: VisibleText.escape(word))
            }
            guard rest.isEmpty, let fingerprint = CertificateFingerprint(word) else {
                throw malformed("not a SHA-256", expected: "sha256: and 64 hex digits, and nothing after them")
            }
            self = .certificate(fingerprint)
        }
    }

    private static let forms = "sha256:HEX, serial HEX [issuer NAME], or identity NAME"

    private static func splitIssuer(_ text: String, source: String) throws -> (String, String?) {
        let parts = text.split(separator: " ", maxSplits: 2, omittingEmptySubsequences: true).map(String.init)
        if parts.count == 1 { return (parts[0], nil) }
        guard parts.count == 3, parts[1] == "issuer" else {
            throw PKIError(.refusalMalformed, subject: source, "not a serial number", expected: "serial HEX, or serial HEX issuer NAME")
        }
        return (parts[0], try name(parts[2].trimmingBlanks, "issuer", source: source))
    }

    private static func serialNumber(_ text: String, source: String) throws -> String {
        let digits = text.lowercased().filter { $0 != ":" }
        guard !digits.isEmpty, digits.utf8.count <= maximumSerialDigits, digits.allSatisfy(\.isHexDigit), digits.utf8.count == digits.count
        else {
            throw PKIError(
                .refusalMalformed, subject: source, "not a serial number", expected: "up to \(maximumSerialDigits) hex digits",
                found: VisibleText.escape(text))
        }
        let significant = digits.drop { $0 == "0" }
        return significant.isEmpty ? "0" : String(significant)
    }

    private static func name(_ text: String, _ what: String, source: String) throws -> String {
        guard !text.isEmpty, text.utf8.count <= maximumNameBytes, VisibleText.escape(text) == text else {
            throw PKIError(
                .refusalMalformed, subject: source, "not a name", expected: "\(what), and a name of visible characters after it")
        }
        return text
    }

    package var description: String {
        switch self {
        case .certificate(let fingerprint): "\(fingerprint)"
        case .serialNumber(let number, nil): "serial \(number)"
        case .serialNumber(let number, let issuer?): "serial \(number) issuer \(issuer)"
        case .identity(let name): "identity \(name)"
        }
    }
}

/// All that is refused, in a form that answers for a certificate at once.
package struct RefusalSet: Sendable, Hashable {
    package private(set) var refusals: Set<Refusal> = []

    /// Of one list; a file of more is a mistake, or needs a revocation list.
    package static let maximumCount = 100_000

    package init(_ refusals: some Sequence<Refusal> = []) { self.refusals = Set(refusals) }

    /// Reads one refusal a line; blank lines and lines that begin with `#` say nothing, nor does what follows ` #` after a SHA-256.
    ///
    /// Throws `PKIError` with the number of the first line that is wrong: half a list would let in whom the other half refuses.
    package static func parse(_ bytes: [UInt8], source: String) throws -> RefusalSet {
        guard let text = String(validating: bytes, as: UTF8.self) else {
            throw PKIError(.refusalMalformed, subject: source, "it is not UTF-8 text")
        }
        var set = RefusalSet()
        for (index, line) in text.split(omittingEmptySubsequences: false, whereSeparator: \.isNewline).enumerated() {
            var line = String(line).trimmingBlanks
            if line.isEmpty || line.hasPrefix("#") { continue }
            // Names may hold ` #`, digits cannot.
            if line.lowercased().hasPrefix("sha256:"), let comment = line.firstRange(of: " #") {
                line = String(line[..<comment.lowerBound]).trimmingBlanks
            }
            set.refusals.insert(try Refusal(line, source: "\(source), line \(index + 1)"))
        }
        guard set.refusals.count <= maximumCount else {
            throw PKIError(
                .refusalMalformed, subject: source, "too many refusals", expected: "at most \(maximumCount)",
                found: "\(set.refusals.count)", remedy: "use a certificate revocation list")
        }
        return set
    }

    package var isEmpty: Bool { refusals.isEmpty }
    package func contains(_ refusal: Refusal) -> Bool { refusals.contains(refusal) }
    package func union(_ other: RefusalSet) -> RefusalSet { RefusalSet(refusals.union(other.refusals)) }

    /// Why a peer with this chain is refused; nil when nothing here speaks of it.
    ///
    /// - Parameters:
    ///   - chain: The leaf first. Certificates and serial numbers are looked for in all of it, names at the leaf.
    ///   - names: What trust store and policy call the peer.
    package func refusal(of chain: [Certificate], names: [String] = []) -> Refusal? {
        guard !refusals.isEmpty else { return nil }
        for certificate in chain {
            for candidate in [
                Refusal.certificate(certificate.sha256), .serialNumber(certificate.serialNumber, issuer: nil),
                .serialNumber(certificate.serialNumber, issuer: certificate.issuer),
            ] where refusals.contains(candidate) { return candidate }
        }
        let own = chain.first.map(\.identityNames) ?? []
        return (names + own).lazy.map { Refusal.identity($0) }.first { refusals.contains($0) }
    }
}

extension Certificate {
    /// By what it can be called: its subject alternative names; only where there are none, its common name.
    package var identityNames: [String] {
        let names = uriNames + dnsNames + emailAddresses + ipAddresses
        if !names.isEmpty || hasSubjectAlternativeName { return names }
        return commonName.map { [$0] } ?? []
    }
}

extension String {
    fileprivate var trimmingBlanks: String {
        let isBlank: (Character) -> Bool = { $0 == " " || $0 == "\t" }
        var rest = self[...].drop(while: isBlank)
        while let last = rest.last, isBlank(last) { rest.removeLast() }
        return String(rest)
    }
}
