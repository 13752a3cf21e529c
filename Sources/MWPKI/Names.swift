/// One attribute of a distinguished name that is being built.
package struct NameAttribute: Hashable, Sendable {
    /// Dotted numbers.
    package var oid: String
    /// As in RFC 4514, for messages.
    package var label: String
    package var value: String

    package init(oid: String, label: String? = nil, value: String) {
        self.oid = oid
        self.label = label ?? oid
        self.value = value
    }

    package static func commonName(_ value: String) -> Self { Self(oid: "2.5.4.3", label: "CN", value: value) }
    package static func organization(_ value: String) -> Self { Self(oid: "2.5.4.10", label: "O", value: value) }
    package static func organizationalUnit(_ value: String) -> Self { Self(oid: "2.5.4.11", label: "OU", value: value) }
    package static func locality(_ value: String) -> Self { Self(oid: "2.5.4.7", label: "L", value: value) }
    package static func state(_ value: String) -> Self { Self(oid: "2.5.4.8", label: "ST", value: value) }
    package static func country(_ value: String) -> Self { Self(oid: "2.5.4.6", label: "C", value: value) }

    /// What keytool writes when every question is answered with Enter; the documented stores have it. Its country is not
    /// a legal one.
    package static let unknown: [NameAttribute] = [
        .commonName("Unknown"), .organizationalUnit("Unknown"), .organization("Unknown"), .locality("Unknown"), .state("Unknown"),
        .country("Unknown"),
    ]

    static func text(_ attributes: [NameAttribute]) -> String {
        attributes.map { "\($0.label)=\(VisibleText.escape($0.value))" }.joined(separator: ",")
    }

    /// RFC 5280 §4.1.2.4: most general first, one attribute each.
    static func encode(_ attributes: [NameAttribute]) throws -> [UInt8] {
        DER.sequence(
            try attributes.reversed().map { attribute in
                DER.set([DER.sequence([try DER.objectIdentifier(attribute.oid), attribute.encodedValue])])
            })
    }

    // PrintableString where it suffices, as keytool does and as country must be; otherwise UTF8String.
    private var encodedValue: [UInt8] {
        let isPrintable = value.utf8.allSatisfy { byte in
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "0")...UInt8(ascii: "9"): true
            default: " '()+,-./:=?".utf8.contains(byte)
            }
        }
        return isPrintable ? DER.printableString(value) : DER.utf8String(value)
    }
}

/// A subject alternative name that is being built.
package enum AlternativeName: Hashable, Sendable {
    case dns(String)
    case ip(String)
    case uri(String)
    case email(String)
    /// Any bytes under any tag of GeneralName; for tests.
    case raw(tag: UInt8, bytes: [UInt8])

    /// An address where it is one, otherwise a DNS name.
    package init(serverName: String) { self = DER.addressBytes(serverName) == nil ? .dns(serverName) : .ip(serverName) }

    func encoded() throws -> [UInt8] {
        switch self {
        case .dns(let name): return DER.context(2, primitive: try visible(name))
        case .uri(let name): return DER.context(6, primitive: try visible(name))
        case .email(let name): return DER.context(1, primitive: try visible(name))
        case .ip(let text):
            guard let bytes = DER.addressBytes(text) else {
                throw PKIError(.buildFailed, subject: text, "not an IP address")
            }
            return DER.context(7, primitive: bytes)
        case .raw(let tag, let bytes): return DER.context(tag, primitive: bytes)
        }
    }

    private func visible(_ name: String) throws -> [UInt8] {
        guard !name.isEmpty, name.utf8.allSatisfy({ (0x21...0x7E).contains($0) }) else {
            throw PKIError(
                .buildFailed, subject: "\"\(VisibleText.escape(name))\"", "not a name for a certificate",
                expected: "ASCII without blanks", remedy: "write international names in their xn-- form")
        }
        return Array(name.utf8)
    }
}
