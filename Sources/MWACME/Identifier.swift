package import MWPKI

/// What a certificate is for: a DNS name, perhaps a wildcard, or an IP address (RFC 8738). One that exists is well formed.
package enum Identifier: Hashable, Sendable, Comparable, CustomStringConvertible {
    /// Lower case, no dot at the end; `*.` in front for a wildcard.
    case dns(String)
    /// Canonical text: RFC 5952 for IPv6.
    case ip(String)

    /// RFC 1035 §2.3.4.
    package static let maximumNameBytes = 253
    package static let maximumLabelBytes = 63

    /// An address where it is one, otherwise a DNS name in its ASCII form. Nil when it is neither.
    package init?(_ text: String) {
        if let address = AddressText.canonical(text) {
            self = .ip(address)
            return
        }
        guard let name = Identifier.canonicalName(text) else { return nil }
        self = .dns(name)
    }

    private static func canonicalName(_ text: String) -> String? {
        var name = text.lowercased()
        if name.hasSuffix(".") { name.removeLast() }
        let labels = name.split(separator: ".", omittingEmptySubsequences: false)
        guard (1...maximumNameBytes).contains(name.utf8.count) else { return nil }
        for (index, label) in labels.enumerated() {
            if index == 0, label == "*", labels.count > 1 { continue }
            guard (1...maximumLabelBytes).contains(label.utf8.count), label.first != "-", label.last != "-" else { return nil }
            let fits = label.utf8.allSatisfy { byte in
                switch byte {
                // The underscore is no host name's, yet some private networks have it.
                case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "_"):
                    true
                default: false
                }
            }
            guard fits else { return nil }
        }
        // Four numbers that are no address, as 1.2.3.999.
        guard labels.last.map({ !$0.utf8.allSatisfy { (0x30...0x39).contains($0) } }) ?? false else { return nil }
        return name
    }

    package var isWildcard: Bool { if case .dns(let name) = self { name.hasPrefix("*.") } else { false } }

    /// Without the `*.`.
    package var base: Identifier {
        if case .dns(let name) = self, isWildcard { .dns(String(name.dropFirst(2))) } else { self }
    }

    package var value: String {
        switch self {
        case .dns(let name): name
        case .ip(let address): address
        }
    }

    package var description: String { value }

    package var alternativeName: AlternativeName {
        switch self {
        case .dns(let name): .dns(name)
        case .ip(let address): .ip(address)
        }
    }

    /// The names of a certificate.
    package static func all(in certificate: Certificate) -> Set<Identifier> {
        Set((certificate.dnsNames + certificate.ipAddresses).compactMap { Identifier($0) })
    }

    // MARK: - JSON (RFC 8555 §9.7.7, RFC 8738 §3)

    init?(_ json: JSONValue) {
        guard let type = json["type"]?.string, let value = json["value"]?.string, let identifier = Identifier(value) else { return nil }
        switch (type, identifier) {
        case ("dns", .dns), ("ip", .ip): self = identifier
        default: return nil
        }
    }

    var json: JSONValue {
        switch self {
        case .dns(let name): .object(["type": .string("dns"), "value": .string(name)])
        case .ip(let address): .object(["type": .string("ip"), "value": .string(address)])
        }
    }
}
