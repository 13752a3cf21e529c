package import MWPKI

/// How a client decides that it talks to the right server. Either way the chain ends in its trust store, with every date and purpose
/// checked. There is no third case: nothing turns verification off.
package enum ServerVerification: Sendable, Hashable {
    /// The leaf names this host or address in a subject alternative name (RFC 9525 §6). The common name is never looked at.
    case name(ServerName)
    /// The leaf is one of these certificates. Its names do not matter; `sni` is what the client hello says.
    case pinned(Set<CertificateFingerprint>, sni: ServerName? = nil)

    /// What the client hello carries in server_name; addresses are not sent (RFC 6066 §3).
    var serverNameIndication: String? {
        switch self {
        case .name(.dns(let host)), .pinned(_, sni: .dns(let host)?): host
        case .name(.ip), .pinned: nil
        }
    }
}

/// The name under which a server is reached: a host name in lower case, or an IP address.
package enum ServerName: Hashable, Sendable, CustomStringConvertible {
    case dns(String)
    case ip(String)

    /// RFC 1035 §2.3.4: a name in text form without the final dot.
    static let maximumNameBytes = 253
    /// RFC 1035 §2.3.4.
    static let maximumLabelBytes = 63

    /// Parses a host as it stands in a URL: `localhost`, `db.example.org`, `127.0.0.1`, `::1`, `[::1]`. `nil` when it is none of these.
    package init?(_ text: String) {
        var host = text[...]
        if host.first == "[", host.last == "]" {
            host = host.dropFirst().dropLast()
            guard let address = IPAddress(String(host)), address.isVersion6 else { return nil }
            self = .ip(address.text)
            return
        }
        if let address = IPAddress(String(host)) {
            self = .ip(address.text)
            return
        }
        if host.last == "." { host = host.dropLast() }
        let name = host.lowercased()
        guard Self.isHostName(name) else { return nil }
        self = .dns(name)
    }

    package var description: String {
        switch self {
        case .dns(let name): name
        case .ip(let address): address
        }
    }

    private static func isHostName(_ name: String) -> Bool {
        guard !name.isEmpty, name.utf8.count <= maximumNameBytes else { return false }
        let labels = name.split(separator: ".", omittingEmptySubsequences: false)
        // An all-numeric last label is a broken address, never a name (RFC 1123 §2.1).
        guard let last = labels.last, !last.utf8.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }) else { return false }
        return labels.allSatisfy { label in
            guard !label.isEmpty, label.utf8.count <= maximumLabelBytes, label.first != "-", label.last != "-" else { return false }
            return label.utf8.allSatisfy { byte in
                switch byte {
                case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "_"):
                    true
                default: false
                }
            }
        }
    }
}
