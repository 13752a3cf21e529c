/// Where a server listens: `wss://host:port`, port 443 if none is given. There is no unencrypted form.
public struct Endpoint: Hashable, Sendable, CustomStringConvertible {
    /// A DNS name, or an IP address (IPv6 without its brackets).
    public let host: String
    /// The TCP port.
    public let port: Int
    /// The path of the opening handshake, `/` by default.
    public let path: String

    /// Reads a URL of the form `wss://host[:port][/path]`.
    ///
    /// - Throws: ``ClientError`` with `invalidArgument` for anything else, `ws://` with its own explanation.
    public init(_ url: String) throws {
        guard let separator = url.firstRange(of: "://") else {
            throw ClientError.invalid(url, "is not a URL", remedy: "write wss://host:port")
        }
        switch url[..<separator.lowerBound].lowercased() {
        case "wss": break
        case "ws", "http":
            throw ClientError.invalid(
                url, "would be unencrypted, and is refused",
                remedy: "write wss://host:port; a client that only speaks ws:// uses `mwstorage tunnel`")
        case let other:
            throw ClientError.invalid(url, "has the unknown scheme \(other)", remedy: "write wss://host:port")
        }
        let rest = url[separator.upperBound...]
        let authorityEnd = rest.firstIndex { $0 == "/" || $0 == "?" || $0 == "#" } ?? rest.endIndex
        self.path = try Self.path(rest[authorityEnd...], of: url)
        (self.host, self.port) = try Self.hostAndPort(rest[..<authorityEnd], of: url)
    }

    /// `wss://host:port`, the path only where it is not `/`.
    public var description: String { "wss://\(self.authority)\(self.path == "/" ? "" : self.path)" }

    /// What the `Host` header says.
    package var authority: String { self.host.contains(":") ? "[\(self.host)]:\(self.port)" : "\(self.host):\(self.port)" }

    /// The port of wss where none is given, RFC 6455 §3.
    private static let defaultPort = 443

    private static func path(_ text: Substring, of url: String) throws -> String {
        guard text.first != "#", !text.contains("#") else {
            throw ClientError.invalid(url, "has a fragment, which a WebSocket URL must not have")  // RFC 6455 §3
        }
        guard text.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F }) else {
            throw ClientError.invalid(url, "has a path with bytes that must be percent-encoded")
        }
        if text.isEmpty { return "/" }
        return text.first == "?" ? "/" + text : String(text)
    }

    private static func hostAndPort(_ authority: Substring, of url: String) throws -> (String, Int) {
        guard !authority.contains("@") else {
            throw ClientError.invalid(url, "carries a user name or password", remedy: "the client certificate says who you are; remove it")
        }
        var host = authority
        var portText: Substring?
        if authority.first == "[" {
            guard let end = authority.firstIndex(of: "]") else { throw ClientError.invalid(url, "has a `[` without a `]`") }
            host = authority[authority.index(after: authority.startIndex)..<end]
            let after = authority[authority.index(after: end)...]
            guard after.isEmpty || after.first == ":" else { throw ClientError.invalid(url, "has text after the `]`") }
            portText = after.isEmpty ? nil : after.dropFirst()
        } else if let colon = authority.firstIndex(of: ":") {
            host = authority[..<colon]
            portText = authority[authority.index(after: colon)...]
        }
        let isAddress = authority.first == "["
        let allowed: (UInt8) -> Bool = { byte in
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "0")...UInt8(ascii: "9"),
                UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "_"):
                true
            case UInt8(ascii: ":"): isAddress
            default: false
            }
        }
        guard !host.isEmpty, host.utf8.allSatisfy(allowed) else { throw ClientError.invalid(url, "has no valid host name") }
        guard let portText else { return (String(host), Self.defaultPort) }
        guard portText.utf8.allSatisfy({ $0 >= UInt8(ascii: "0") && $0 <= UInt8(ascii: "9") }), let port = Int(portText),
            (1...65535).contains(port)
        else { throw ClientError.invalid(url, "has no valid port", remedy: "write a number from 1 to 65535") }
        return (String(host), port)
    }
}
