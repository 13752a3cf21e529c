/// A client's request to open a WebSocket connection, as an HTTP parser gives it.
package struct OpeningRequest: Sendable {
    package var method: String
    /// As it stands in the request line.
    package var target: String
    package var majorVersion: Int
    package var minorVersion: Int
    package var headers: [HeaderField]

    package init(method: String, target: String, majorVersion: Int = 1, minorVersion: Int, headers: [HeaderField]) {
        self.method = method
        self.target = target
        self.majorVersion = majorVersion
        self.minorVersion = minorVersion
        self.headers = headers
    }
}

/// Whom a server lets open a connection, beyond what RFC 6455 demands.
package struct OpeningPolicy: Sendable {
    package enum Paths: Sendable, Equatable {
        /// This path, with any query; everything else is 404.
        case only(String)
        case any
    }

    package enum Origins: Sendable, Equatable {
        /// A request with an `Origin` is refused unless the origin is listed, or names the very host of the request without a port of its own.
        ///
        /// Browsers are not our clients, and a page must not borrow the user's certificate. The exception is mwDB's original client,
        /// which always sends `Origin: https://HOST`, without the port. A page that does so was served by this host on its default port.
        case listed(Set<String>)
        case any
    }

    package enum Subprotocols: Sendable, Equatable {
        /// The first of ours that the client asked for; asking for none selects none (mwDB's own protocol); asking only for others is 400.
        case supported([String])
        /// None is ever selected, whatever is asked for.
        case ignored
    }

    package var paths: Paths
    package var origins: Origins
    package var subprotocols: Subprotocols

    package init(paths: Paths = .only("/"), origins: Origins = .listed([]), subprotocols: Subprotocols = .supported([])) {
        self.paths = paths
        self.origins = origins
        self.subprotocols = subprotocols
    }
}

/// Decides about a request to open a WebSocket connection (RFC 6455 §4.2).
package enum ServerOpeningHandshake {
    package enum Judgement: Sendable, Equatable {
        /// Send ``Acceptance/responseBytes`` and speak WebSocket.
        case accept(Acceptance)
        /// Send ``Refusal/responseBytes`` and close.
        case refuse(Refusal)
    }

    package struct Acceptance: Sendable, Equatable {
        package var acceptKey: String
        package var subprotocol: String?
    }

    package struct Refusal: Sendable, Equatable {
        package var status: Int
        package var reason: String
        /// What to do about it, for the body.
        package var explanation: String
        /// Lines beyond those every refusal has.
        package var extraHeaders: [String: String] = [:]

        package init(_ status: Int, _ reason: String, _ explanation: String, extraHeaders: [String: String] = [:]) {
            self.status = status
            self.reason = reason
            self.explanation = explanation
            self.extraHeaders = extraHeaders
        }
    }

    /// The first thing that is wrong with the request, or its acceptance.
    package static func judge(_ request: OpeningRequest, policy: OpeningPolicy) -> Judgement {
        let headers = request.headers
        if let refusal = judgeRequestLine(request, policy) ?? judgeMessage(headers) ?? judgeUpgrade(headers) ?? judgeOrigin(headers, policy)
        {
            return .refuse(refusal)
        }
        let key = OpeningHandshake.values("Sec-WebSocket-Key", in: headers).first ?? ""
        let offered = OpeningHandshake.tokens("Sec-WebSocket-Protocol", in: headers)
        guard !offered.isEmpty, case .supported(let supported) = policy.subprotocols else {
            return .accept(Acceptance(acceptKey: OpeningHandshake.accept(forKey: key), subprotocol: nil))
        }
        guard offered.allSatisfy(OpeningHandshake.isToken), Set(offered).count == offered.count else {
            return .refuse(badRequest("Sec-WebSocket-Protocol must list different tokens"))  // RFC 6455 §4.1
        }
        guard let subprotocol = supported.first(where: offered.contains) else {
            let known = supported.isEmpty ? "none" : supported.joined(separator: ", ")
            return .refuse(badRequest("no subprotocol of Sec-WebSocket-Protocol is known here; leave the header out, or ask for: \(known)"))
        }
        return .accept(Acceptance(acceptKey: OpeningHandshake.accept(forKey: key), subprotocol: subprotocol))
    }

    private static func judgeRequestLine(_ request: OpeningRequest, _ policy: OpeningPolicy) -> Refusal? {
        guard request.method == "GET" else {
            return Refusal(405, "Method Not Allowed", "use GET to open a WebSocket connection", extraHeaders: ["Allow": "GET"])
        }
        // RFC 6455 §4.2.1 allows higher versions; over one HTTP/1.1 connection there is none.
        guard request.majorVersion == 1, request.minorVersion == 1 else { return badRequest("use HTTP/1.1") }
        if case .only(let path) = policy.paths {
            guard request.target.utf8.prefix(while: { $0 != UInt8(ascii: "?") }).elementsEqual(path.utf8) else {
                return Refusal(404, "Not Found", "there is nothing at this path; connect to \(path)")
            }
        }
        return nil
    }

    private static func judgeMessage(_ headers: [HeaderField]) -> Refusal? {
        let hosts = OpeningHandshake.values("Host", in: headers)
        guard hosts.count == 1, let host = hosts.first, !host.isEmpty, !host.utf8.contains(where: { " \t,/@".utf8.contains($0) }) else {
            return badRequest("send exactly one Host header")  // RFC 6455 §4.2.1 item 2, RFC 9112 §3.2
        }
        // A body would be read as frames. Java's HTTP client says of every GET that its body has no bytes.
        let lengths = OpeningHandshake.values("Content-Length", in: headers)
        guard lengths.allSatisfy({ $0 == "0" }), OpeningHandshake.values("Transfer-Encoding", in: headers).isEmpty else {
            return badRequest("the request must not have a body: leave Content-Length and Transfer-Encoding out")
        }
        return nil
    }

    private static func judgeUpgrade(_ headers: [HeaderField]) -> Refusal? {
        guard OpeningHandshake.hasToken("websocket", "Upgrade", in: headers) else {
            return upgradeRequired("this is a WebSocket endpoint: send Upgrade: websocket")
        }
        guard OpeningHandshake.hasToken("upgrade", "Connection", in: headers) else {
            return badRequest("send Connection: Upgrade")
        }
        guard !OpeningHandshake.hasToken("close", "Connection", in: headers) else {
            return badRequest("Connection says both upgrade and close")
        }
        let versions = OpeningHandshake.values("Sec-WebSocket-Version", in: headers)
        guard versions.count == 1 else {
            return versions.isEmpty
                ? upgradeRequired("send Sec-WebSocket-Version: \(OpeningHandshake.version)")
                : badRequest("send exactly one Sec-WebSocket-Version header")
        }
        guard versions == [OpeningHandshake.version] else {
            return upgradeRequired("only version \(OpeningHandshake.version) of WebSocket is spoken here")  // RFC 6455 §4.4
        }
        let keys = OpeningHandshake.values("Sec-WebSocket-Key", in: headers)
        guard keys.count == 1, let key = keys.first, Base64.decode(key)?.count == OpeningHandshake.nonceBytes else {
            return badRequest("send exactly one Sec-WebSocket-Key header with 16 bytes in base 64")  // RFC 6455 §4.2.1 item 5
        }
        return nil
    }

    private static func judgeOrigin(_ headers: [HeaderField], _ policy: OpeningPolicy) -> Refusal? {
        let origins = OpeningHandshake.values("Origin", in: headers)
        guard case .listed(let listed) = policy.origins, !origins.isEmpty else { return nil }
        guard origins.count == 1, let origin = origins.first else { return badRequest("send at most one Origin header") }
        if listed.contains(origin) { return nil }
        let host = OpeningHandshake.values("Host", in: headers).first.map(hostName) ?? ""
        for scheme in ["https://", "http://"] where OpeningHandshake.isEqual(origin, scheme + host) { return nil }
        return .forbidden("this origin may not connect; only clients other than browsers are meant to")
    }

    /// `Host` without its port (RFC 9110 §7.2); an IPv6 address keeps its brackets.
    private static func hostName(_ host: String) -> String {
        let bytes = host.utf8
        guard let colon = bytes.lastIndex(of: UInt8(ascii: ":")) else { return host }
        if let bracket = bytes.lastIndex(of: UInt8(ascii: "]")), bracket > colon { return host }
        return String(host[..<colon])
    }

    private static func badRequest(_ explanation: String) -> Refusal {
        Refusal(400, "Bad Request", explanation)
    }

    private static func upgradeRequired(_ explanation: String) -> Refusal {
        Refusal(
            426, "Upgrade Required", explanation,
            extraHeaders: ["Upgrade": "websocket", "Sec-WebSocket-Version": OpeningHandshake.version])
    }
}

extension ServerOpeningHandshake.Refusal {
    /// The header of the opening request is too long; for the shell, whose parser sees it first.
    package static let headerTooLong = Self(431, "Request Header Fields Too Large", "send at most 16 KiB of header")
    /// The request is not HTTP/1.1; for the shell, whose parser sees it first.
    package static let malformed = Self(400, "Bad Request", "this is not an HTTP/1.1 request")

    /// We know who it is, and it may not connect.
    package static func forbidden(_ explanation: String) -> Self { Self(403, "Forbidden", explanation) }

    /// More connections than the server takes, or it is about to end.
    package static func unavailable(_ explanation: String, retryAfterSeconds: Int) -> Self {
        Self(503, "Service Unavailable", explanation, extraHeaders: ["Retry-After": String(retryAfterSeconds)])
    }

    /// The whole HTTP/1.1 response.
    package var responseBytes: String {
        let body = explanation + "\n"
        var text = "HTTP/1.1 \(status) \(reason)\r\nConnection: \(extraHeaders["Upgrade"] == nil ? "close" : "close, Upgrade")\r\n"
        for (name, value) in extraHeaders.sorted(by: { $0.key < $1.key }) { text += "\(name): \(value)\r\n" }
        text += "Content-Type: text/plain; charset=utf-8\r\nContent-Length: \(body.utf8.count)\r\n\r\n"
        return text + body
    }
}

extension ServerOpeningHandshake.Acceptance {
    /// The whole HTTP/1.1 response; frames follow it directly.
    package var responseBytes: String {
        var text = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: \(acceptKey)\r\n"
        if let subprotocol { text += "Sec-WebSocket-Protocol: \(subprotocol)\r\n" }
        return text + "\r\n"
    }
}
