/// A URI or DNS name that a rule accepts: exact, or with `*` in place of whole segments.
///
///     spiffe://example.org/ns/*/sa/editor      segments between slashes; `*` in the path only
///     *.editors.example.org                    segments between dots; never the last one
///
/// A `*` stands for exactly one segment of letters, digits, `-`, `_`, `.` and `~`. A name in a certificate that has a `*` itself is matched by
/// no pattern: it names many.
package struct NamePattern: Sendable, Hashable {
    /// Why a text is no such name, and what to write.
    package struct Malformed: Error, Hashable {
        package let what: String
        package let remedy: String
    }

    private enum Form: Sendable {
        case uri, dns

        var separator: Character { self == .uri ? "/" : "." }
    }

    /// As it is compared: DNS names in lower case.
    package let text: String
    private let form: Form
    /// nil is `*`; empty for an exact name.
    private let segments: [Substring?]

    package var isExact: Bool { self.segments.isEmpty }

    /// RFC 3986 bounds nothing; SPIFFE-ID §2.3 does.
    private static let maximumURIBytes = 2048
    private static let maximumDNSBytes = 253
    private static let maximumLabelBytes = 63

    private init(_ text: String, _ form: Form) {
        self.text = text
        self.form = form
        let segments = text.split(separator: form.separator, omittingEmptySubsequences: false)
        self.segments = segments.contains("*") ? segments.map { $0 == "*" ? nil : $0 } : []
    }

    // MARK: Matching

    package func matches(_ name: String) -> Bool {
        guard !name.utf8.contains(UInt8(ascii: "*")) else { return false }
        let name = self.form == .dns ? name.lowercased() : name
        guard !self.isExact else { return self.text == name }
        let segments = name.split(separator: self.form.separator, omittingEmptySubsequences: false)
        return segments.count == self.segments.count
            && zip(self.segments, segments).allSatisfy { $0.map { [segment = $1] in $0 == segment } ?? Self.isPlain($1) }
    }

    /// Whether some name is matched by both.
    package func overlaps(_ other: NamePattern) -> Bool {
        if self.isExact { return other.isExact ? self.text == other.text : other.matches(self.text) }
        if other.isExact { return self.matches(other.text) }
        return self.segments.count == other.segments.count
            && zip(self.segments, other.segments).allSatisfy { left, right in
                switch (left, right) {
                case (let left?, let right?): left == right
                case (let segment?, nil), (nil, let segment?): Self.isPlain(segment)
                case (nil, nil): true
                }
            }
    }

    /// Dots alone are a way to another place, and the rest may mean something else once decoded.
    private static func isPlain(_ segment: Substring) -> Bool {
        !segment.isEmpty && segment != "." && segment != ".."
            && segment.utf8.allSatisfy { self.isLetterOrDigit($0) || "-_.~".utf8.contains($0) }
    }

    private static func isLetterOrDigit(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "0")...UInt8(ascii: "9"): true
        default: false
        }
    }
}

// MARK: - DNS names

extension NamePattern {
    package init(dns text: String) throws(Malformed) {
        let name = text.lowercased()
        guard !name.isEmpty, name.utf8.count <= Self.maximumDNSBytes else {
            throw Malformed(what: "a DNS name has 1 to \(Self.maximumDNSBytes) characters", remedy: "correct the name")
        }
        let labels = name.split(separator: ".", omittingEmptySubsequences: false)
        for label in labels where label != "*" {
            guard !label.contains("*") else { throw .partialWildcard(label, example: "*.example.org") }
            let isLabel =
                (1...Self.maximumLabelBytes).contains(label.utf8.count)
                && label.utf8.allSatisfy { Self.isLetterOrDigit($0) || $0 == UInt8(ascii: "-") || $0 == UInt8(ascii: "_") }
            guard isLabel else {
                throw Malformed(
                    what: "not a DNS name", remedy: "write labels of letters, digits and '-' with dots between them, as editor.example.org")
            }
        }
        guard labels.last != "*" else {
            throw Malformed(what: "a '*' in place of the last label would match names of anybody", remedy: "write *.example.org")
        }
        self.init(name, .dns)
    }
}

// MARK: - URIs

extension NamePattern {
    package init(uri text: String) throws(Malformed) {
        guard text.utf8.count <= Self.maximumURIBytes, text.utf8.allSatisfy({ (0x21...0x7E).contains($0) }), Self.hasScheme(text) else {
            throw Malformed(
                what: "not a URI", remedy: "write it whole, with its scheme and without blanks, as spiffe://example.org/editor")
        }
        let segments = text.split(separator: "/", omittingEmptySubsequences: false)
        for (index, segment) in segments.enumerated() where segment.contains("*") {
            guard segment == "*" else { throw .partialWildcard(segment, example: "spiffe://example.org/ns/*/editor") }
            // scheme ':' '/' '/' authority '/' path
            guard index > 2, segments[1].isEmpty else {
                throw Malformed(
                    what: "a '*' in place of scheme or authority would match names of anybody",
                    remedy: "write the trust domain, and '*' in the path only: spiffe://example.org/ns/*/editor")
            }
        }
        if text.prefix(while: { $0 != ":" }).lowercased() == "spiffe" { try Self.checkSPIFFE(text, segments) }
        self.init(text, .uri)
    }

    /// RFC 3986 §3.1: a letter, then letters, digits, `+`, `-`, `.`; then something.
    private static func hasScheme(_ text: String) -> Bool {
        guard let colon = text.utf8.firstIndex(of: UInt8(ascii: ":")), let first = text.utf8.first else { return false }
        let scheme = text.utf8[..<colon]
        return !scheme.isEmpty && self.isLetterOrDigit(first) && first > UInt8(ascii: "9")
            && scheme.allSatisfy { self.isLetterOrDigit($0) || "+-.".utf8.contains($0) }
            && text.utf8.index(after: colon) < text.utf8.endIndex
    }

    /// SPIFFE-ID §2: `spiffe://trust-domain/path`, nothing else; X.509-SVID §2: a workload's has a path.
    private static func checkSPIFFE(_ text: String, _ segments: [Substring]) throws(Malformed) {
        let isDomain = { (byte: UInt8) in
            self.isLetterOrDigit(byte) && !(UInt8(ascii: "A")...UInt8(ascii: "Z")).contains(byte) || "-_.".utf8.contains(byte)
        }
        let isWhole =
            text.hasPrefix("spiffe://") && segments.count > 3 && !segments[2].isEmpty && segments[2].utf8.allSatisfy(isDomain)
            && segments.dropFirst(3).allSatisfy { $0 == "*" || (self.isPlain($0) && !$0.contains("~")) }
        guard isWhole else {
            throw Malformed(
                what: "not a workload's SPIFFE ID",
                remedy: "write spiffe://, a trust domain in lower case, and a path of letters, digits, '-', '_', '.': "
                    + "spiffe://example.org/editor")
        }
    }
}

extension NamePattern.Malformed {
    fileprivate static func partialWildcard(_ segment: Substring, example: String) -> Self {
        Self(
            what: "'\(segment)' has a '*' beside other characters",
            remedy: "let '*' stand for one whole segment, as \(example), or write the name out")
    }
}
