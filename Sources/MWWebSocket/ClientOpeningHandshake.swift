/// A client's side of the opening handshake (RFC 6455 §4.1).
package struct ClientOpeningHandshake: Sendable {
    /// `Host`: name or address, with the port unless it is the scheme's own.
    package let authority: String
    package let target: String
    /// In the order we like them; empty asks for none.
    package let subprotocols: [String]
    package let key: String

    /// - Parameter nonce: 16 random bytes, new for each connection.
    package init(authority: String, target: String = "/", subprotocols: [String] = [], nonce: [UInt8]) {
        precondition(nonce.count == OpeningHandshake.nonceBytes, "the nonce has 16 bytes")
        self.authority = authority
        self.target = target
        self.subprotocols = subprotocols
        key = Base64.encode(nonce)
    }

    /// The whole HTTP/1.1 request.
    ///
    /// - Throws: ``WebSocketError`` `.openingMalformed` when authority, target or a subprotocol holds what a request cannot.
    package func requestBytes() throws(WebSocketError) -> String {
        for (name, text) in [("host", authority), ("path", target)] {
            guard !text.isEmpty, text.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F }) else {
                throw malformed("the \(name) of the URL cannot stand in a request", remedy: "escape it, or leave it out")
            }
        }
        guard target.utf8.first == UInt8(ascii: "/"), subprotocols.allSatisfy(OpeningHandshake.isToken) else {
            throw malformed("the path must start with / and subprotocols must be tokens", remedy: "correct the URL")
        }
        var text = "GET \(target) HTTP/1.1\r\nHost: \(authority)\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        text += "Sec-WebSocket-Key: \(key)\r\nSec-WebSocket-Version: \(OpeningHandshake.version)\r\n"
        if !subprotocols.isEmpty { text += "Sec-WebSocket-Protocol: \(subprotocols.joined(separator: ", "))\r\n" }
        return text + "\r\n"
    }

    /// Checks the server's answer.
    ///
    /// - Parameter body: The start of a refusal's body, if any of it came: our servers say there what to do.
    /// - Returns: The subprotocol that was agreed, or `nil`.
    /// - Throws: ``WebSocketError``: `.openingRefused` with the HTTP status (and `Retry-After` of a 503), `.openingMalformed` for a 101 that is none.
    @discardableResult
    package func validate(status: Int, headers: [HeaderField], body: String = "") throws(WebSocketError) -> String? {
        guard status == 101 else { throw refused(status, headers, body) }
        let upgrades = OpeningHandshake.tokens("Upgrade", in: headers)
        guard upgrades.count == 1, OpeningHandshake.hasToken("websocket", "Upgrade", in: headers) else {
            throw malformed("the server did not upgrade to websocket", found: upgrades.joined(separator: ", "))
        }
        guard OpeningHandshake.hasToken("upgrade", "Connection", in: headers) else {
            throw malformed("the server's Connection header does not say upgrade")
        }
        guard OpeningHandshake.values("Sec-WebSocket-Accept", in: headers) == [OpeningHandshake.accept(forKey: key)] else {
            throw malformed("the server's Sec-WebSocket-Accept does not answer our key", remedy: "look for a cache or proxy in between")
        }
        guard OpeningHandshake.values("Sec-WebSocket-Extensions", in: headers).allSatisfy(\.isEmpty) else {
            throw malformed("the server uses an extension that we did not ask for")
        }
        let selected = OpeningHandshake.values("Sec-WebSocket-Protocol", in: headers)
        guard selected.count <= 1, selected.allSatisfy(subprotocols.contains) else {
            throw malformed("the server selected a subprotocol that we did not ask for", found: selected.joined(separator: ", "))
        }
        return selected.first
    }

    private func refused(_ status: Int, _ headers: [HeaderField], _ body: String) -> WebSocketError {
        let remedy: String? =
            switch status {
            case 401, 403: "have the server's operator let a rule of its access policy match this certificate"
            case 404: "check the path of the URL"
            case 300..<400: "redirections are not followed; use the final URL"
            case 426: "the server wants another version of WebSocket"
            case 503: "try again later"
            default: nil
            }
        // What a server says is shown, so: one short line, nothing that moves a cursor.
        let said = String(decoding: body.utf8.prefix(200).map { $0 < 0x20 || $0 == 0x7F ? UInt8(ascii: " ") : $0 }, as: UTF8.self)
        let seconds = OpeningHandshake.values("Retry-After", in: headers).first.flatMap { UInt32($0) }
        return WebSocketError(
            .openingRefused, "opening handshake", "the server answered HTTP \(status)", expected: "101", found: said.isEmpty ? nil : said,
            remedy: remedy, httpStatus: status, retryAfter: seconds.map { .seconds(Int64($0)) })
    }

    private func malformed(_ what: String, found: String? = nil, remedy: String? = nil) -> WebSocketError {
        WebSocketError(.openingMalformed, "opening handshake", what, found: found, remedy: remedy)
    }
}
