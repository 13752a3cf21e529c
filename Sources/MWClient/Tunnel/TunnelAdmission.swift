package import MWWebSocket

/// Whom a tunnel lets in: programs on this machine, and no page of a browser on it.
///
/// The tunnel lends its user's certificate to whoever connects. Two ways lead a browser there: a page of any site may open a WebSocket
/// to 127.0.0.1 (then `Origin` names that site), and a site may let its own name resolve to 127.0.0.1 (then `Host` names it).
package enum TunnelAdmission {
    /// - Returns: why the request is refused; `nil` when it is let in.
    package static func judge(_ request: OpeningRequest) -> ServerOpeningHandshake.Refusal? {
        let policy = OpeningPolicy(paths: .any, origins: .any, subprotocols: .ignored)
        if case .refuse(let refusal) = ServerOpeningHandshake.judge(request, policy: policy) { return refusal }
        // The judgement above says that there is exactly one.
        let host = Self.values("host", request).first?.lowercased() ?? ""
        guard Self.isLoopback(host) else {
            return .init(403, "Forbidden", "the Host header must name this machine's loopback: localhost, 127.0.0.1 or [::1]")
        }
        let origins = Self.values("origin", request)
        guard origins.allSatisfy({ Self.isOwn($0.lowercased(), host: host) }) else {
            return .init(403, "Forbidden", "pages of other origins may not use the tunnel; it is for programs on this machine")
        }
        return nil
    }

    /// Whether `text`, a host with or without a port, is on this machine whatever a resolver says.
    package static func isLoopback(_ text: String) -> Bool {
        let host = Self.withoutPort(text)
        if host == "localhost" || host == "[::1]" { return true }
        // 127.0.0.0/8 in the only form that is an address everywhere: four decimal numbers.
        let parts = host.split(separator: ".", omittingEmptySubsequences: false)
        return parts.count == 4 && parts[0] == "127"
            && parts.allSatisfy { part in (1...3).contains(part.utf8.count) && part.utf8.allSatisfy(Self.isDigit) && (UInt8(part) != nil) }
    }

    /// The origin is this tunnel's, or the same host without a port: mwDB's original client sends that.
    private static func isOwn(_ origin: String, host: String) -> Bool {
        for scheme in ["http://", "https://"] where origin.hasPrefix(scheme) {
            let rest = String(origin.dropFirst(scheme.count))
            return rest == host || rest == Self.withoutPort(host)
        }
        return false
    }

    private static func withoutPort(_ text: String) -> String {
        guard let colon = text.lastIndex(of: ":") else { return text }
        if let bracket = text.lastIndex(of: "]"), bracket > colon { return text }
        guard text[text.index(after: colon)...].utf8.allSatisfy(Self.isDigit) else { return text }
        return String(text[..<colon])
    }

    private static func isDigit(_ byte: UInt8) -> Bool { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) }

    private static func values(_ name: String, _ request: OpeningRequest) -> [String] {
        request.headers.filter { $0.name.lowercased() == name }.map { String($0.value.drop { $0 == " " }) }
    }
}
