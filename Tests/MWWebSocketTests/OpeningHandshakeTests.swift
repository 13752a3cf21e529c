import MWWebSocket
import Testing

@Suite("The opening handshake, at the server")
struct ServerOpeningHandshakeTests {
    static let good: [HeaderField] = [
        ("Host", "localhost:8443"), ("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Version", "13"),
    ]

    /// A good request, with a header replaced by the given ones, or left out.
    static func request(
        _ method: String = "GET", _ target: String = "/", minor: Int = 1, replacing name: String = "", with fields: [HeaderField] = []
    ) -> OpeningRequest {
        OpeningRequest(method: method, target: target, minorVersion: minor, headers: good.filter { $0.name != name } + fields)
    }

    static func status(_ request: OpeningRequest, _ policy: OpeningPolicy = OpeningPolicy()) -> Int {
        switch ServerOpeningHandshake.judge(request, policy: policy) {
        case .accept: return 101
        case .refuse(let refusal):
            let bytes = refusal.responseBytes
            #expect(bytes.hasPrefix("HTTP/1.1 \(refusal.status) "))
            #expect(bytes.contains("\r\nConnection: close"))
            #expect(bytes.hasSuffix("\r\n\r\n\(refusal.explanation)\n"))
            #expect(bytes.contains("\r\nContent-Length: \(refusal.explanation.utf8.count + 1)\r\n"))
            return refusal.status
        }
    }

    @Test("a body of no bytes is no body: Java's HTTP client announces one with every GET")
    func emptyBody() {
        #expect(Self.status(Self.request(with: [("Content-Length", "0")])) == 101)
    }

    @Test("the example of RFC 6455 §1.3 is accepted with its key")
    func example() {
        guard case .accept(let acceptance) = ServerOpeningHandshake.judge(Self.request(), policy: OpeningPolicy()) else {
            Issue.record("refused")
            return
        }
        #expect(acceptance.acceptKey == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
        #expect(
            acceptance.responseBytes
                == "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                + "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
    }

    static let cases: [(claim: String, request: OpeningRequest, status: Int)] = [
        ("POST", request("POST"), 405),
        ("HEAD", request("HEAD"), 405),
        ("lower case method", request("get"), 405),
        ("HTTP/1.0", request(minor: 0), 400),
        ("HTTP/2.0", OpeningRequest(method: "GET", target: "/", majorVersion: 2, minorVersion: 0, headers: good), 400),
        ("another path", request("GET", "/chat"), 404),
        ("absolute target", request("GET", "https://localhost/"), 404),
        ("empty target", request("GET", ""), 404),
        ("path with a query", request("GET", "/?a=b"), 101),
        ("no Host", request(replacing: "Host"), 400),
        ("empty Host", request(replacing: "Host", with: [("Host", " ")]), 400),
        ("two Hosts", request(replacing: "", with: [("host", "localhost:8443")]), 400),
        ("two hosts in one line", request(replacing: "Host", with: [("Host", "a, b")]), 400),
        ("no Upgrade", request(replacing: "Upgrade"), 426),
        ("Upgrade to something else", request(replacing: "Upgrade", with: [("Upgrade", "h2c")]), 426),
        ("Upgrade in capitals among others", request(replacing: "Upgrade", with: [("upgrade", "h2c, WebSocket")]), 101),
        ("Upgrade in a second line", request(replacing: "Upgrade", with: [("Upgrade", "h2c"), ("Upgrade", "websocket")]), 101),
        ("Upgrade as part of a token", request(replacing: "Upgrade", with: [("Upgrade", "websockets")]), 426),
        ("no Connection", request(replacing: "Connection"), 400),
        ("Connection: close", request(replacing: "Connection", with: [("Connection", "close")]), 400),
        ("Connection: close, Upgrade", request(replacing: "Connection", with: [("Connection", "close, Upgrade")]), 400),
        ("Connection: keep-alive, Upgrade", request(replacing: "Connection", with: [("Connection", "keep-alive,upgrade")]), 101),
        (
            "Connection over two lines",
            request(replacing: "Connection", with: [("Connection", "keep-alive"), ("Connection", "\tUPGRADE ,")]), 101
        ),
        ("no key", request(replacing: "Sec-WebSocket-Key"), 400),
        ("empty key", request(replacing: "Sec-WebSocket-Key", with: [("Sec-WebSocket-Key", "")]), 400),
        ("key of 15 bytes", request(replacing: "Sec-WebSocket-Key", with: [("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAA")]), 400),
        ("key of 17 bytes", request(replacing: "Sec-WebSocket-Key", with: [("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAAA=")]), 400),
        (
            "key that is not base 64", request(replacing: "Sec-WebSocket-Key", with: [("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ-_")]),
            400
        ),
        ("key without padding", request(replacing: "Sec-WebSocket-Key", with: [("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ")]), 400),
        ("key with stray bits", request(replacing: "Sec-WebSocket-Key", with: [("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZR==")]), 400),
        ("two keys", request(with: [("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")]), 400),
        ("no version", request(replacing: "Sec-WebSocket-Version"), 426),
        ("version 8", request(replacing: "Sec-WebSocket-Version", with: [("Sec-WebSocket-Version", "8")]), 426),
        ("version 14", request(replacing: "Sec-WebSocket-Version", with: [("Sec-WebSocket-Version", "14")]), 426),
        ("version 13, 8", request(replacing: "Sec-WebSocket-Version", with: [("Sec-WebSocket-Version", "13, 8")]), 426),
        ("version +13", request(replacing: "Sec-WebSocket-Version", with: [("Sec-WebSocket-Version", "+13")]), 426),
        ("two versions", request(with: [("Sec-WebSocket-Version", "13")]), 400),
        ("a body by length", request(with: [("Content-Length", "5")]), 400),
        ("two lengths", request(with: [("Content-Length", "0"), ("Content-Length", "5")]), 400),
        ("a chunked body", request(with: [("Transfer-Encoding", "chunked")]), 400),
        ("extensions are ignored", request(with: [("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits")]), 101),
        ("an Origin", request(with: [("Origin", "https://example.com")]), 403),
        ("Origin null", request(with: [("Origin", "null")]), 403),
        ("the Origin the original client sends", request(with: [("Origin", "https://localhost")]), 101),
        ("the Origin of another port here", request(with: [("Origin", "https://localhost:3000")]), 403),
        ("an Origin that starts with the host", request(with: [("Origin", "https://localhost.example.com")]), 403),
        ("two Origins", request(with: [("Origin", "https://localhost"), ("Origin", "https://localhost")]), 400),
        ("an unknown subprotocol", request(with: [("Sec-WebSocket-Protocol", "chat")]), 400),
    ]

    @Test("each request gets its status", arguments: cases.indices)
    func judges(_ index: Int) {
        let (claim, request, status) = Self.cases[index]
        #expect(Self.status(request) == status, "\(claim)")
    }

    @Test("405 says what is allowed, 426 which version")
    func refusalHeaders() {
        guard case .refuse(let method) = ServerOpeningHandshake.judge(Self.request("PUT"), policy: OpeningPolicy()),
            case .refuse(let version) = ServerOpeningHandshake.judge(
                Self.request(replacing: "Sec-WebSocket-Version", with: [("Sec-WebSocket-Version", "7")]), policy: OpeningPolicy())
        else {
            Issue.record("accepted")
            return
        }
        #expect(method.responseBytes.contains("\r\nAllow: GET\r\n"))
        #expect(version.responseBytes.contains("\r\nSec-WebSocket-Version: 13\r\n"))
        #expect(ServerOpeningHandshake.Refusal.unavailable("full", retryAfterSeconds: 7).responseBytes.contains("\r\nRetry-After: 7\r\n"))
    }

    @Test("the echo's policy demands no path, Origin or subprotocol")
    func echoPolicy() {
        let policy = OpeningPolicy(paths: .any, origins: .any, subprotocols: .ignored)
        let fields: [HeaderField] = [("Origin", "https://example.com"), ("Sec-WebSocket-Protocol", "chat")]
        #expect(Self.status(Self.request("GET", "/any/path?agent=x", with: fields), policy) == 101)
    }

    @Test("of the subprotocols asked for, the one we like best is selected")
    func subprotocols() {
        let policy = OpeningPolicy(subprotocols: .supported(["mwstorage.2", "mwstorage.1"]))
        func selected(_ lines: String...) -> String? {
            let fields = lines.map { HeaderField("Sec-WebSocket-Protocol", $0) }
            guard case .accept(let acceptance) = ServerOpeningHandshake.judge(Self.request(with: fields), policy: policy) else {
                return "refused"
            }
            #expect(acceptance.responseBytes.contains("Sec-WebSocket-Protocol") == (acceptance.subprotocol != nil))
            return acceptance.subprotocol
        }
        #expect(selected() == nil)
        #expect(selected("mwstorage.1") == "mwstorage.1")
        #expect(selected("chat, mwstorage.1", "mwstorage.2") == "mwstorage.2")
        #expect(selected("chat") == "refused")
        #expect(selected("MWSTORAGE.1") == "refused")
        #expect(selected("mwstorage.1, mwstorage.1") == "refused")
        #expect(selected("mwstorage.1, b@d") == "refused")
    }
}

@Suite("The opening handshake, at the client")
struct ClientOpeningHandshakeTests {
    private let handshake = ClientOpeningHandshake(
        authority: "localhost:8443", subprotocols: ["mwstorage.1"], nonce: Array("the sample nonce".utf8))
    private static let good: [HeaderField] = [
        ("upgrade", "WebSocket"), ("connection", "keep-alive, Upgrade"), ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
    ]

    @Test("the request is one our server accepts")
    func request() throws {
        let bytes = try handshake.requestBytes()
        #expect(
            bytes == """
                GET / HTTP/1.1\r
                Host: localhost:8443\r
                Upgrade: websocket\r
                Connection: Upgrade\r
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r
                Sec-WebSocket-Version: 13\r
                Sec-WebSocket-Protocol: mwstorage.1\r
                \r

                """)
        let headers = bytes.split(separator: "\r\n").dropFirst().map { line in
            let parts = line.split(separator: ": ", maxSplits: 1)
            return HeaderField(String(parts[0]), String(parts[1]))
        }
        let judgement = ServerOpeningHandshake.judge(
            OpeningRequest(method: "GET", target: "/", minorVersion: 1, headers: headers),
            policy: OpeningPolicy(subprotocols: .supported(["mwstorage.1"])))
        guard case .accept(let acceptance) = judgement else {
            Issue.record("refused")
            return
        }
        #expect(acceptance.subprotocol == "mwstorage.1")
        #expect(acceptance.acceptKey == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    }

    @Test("what would split the request is refused", arguments: ["a b", "a\r\nX: y", "", "ä"])
    func injection(_ text: String) {
        let nonce = Array("the sample nonce".utf8)
        let malformed = WebSocketError(.openingMalformed, "", "")
        #expect(throws: malformed) { try ClientOpeningHandshake(authority: text, nonce: nonce).requestBytes() }
        #expect(throws: malformed) { try ClientOpeningHandshake(authority: "a", target: text, nonce: nonce).requestBytes() }
        #expect(throws: malformed) { try ClientOpeningHandshake(authority: "a", subprotocols: [text], nonce: nonce).requestBytes() }
    }

    @Test("a right answer is taken, with and without our subprotocol")
    func accepted() throws {
        #expect(try handshake.validate(status: 101, headers: Self.good) == nil)
        #expect(try handshake.validate(status: 101, headers: Self.good + [("Sec-WebSocket-Protocol", "mwstorage.1")]) == "mwstorage.1")
    }

    static let wrong: [(claim: String, headers: [HeaderField])] = [
        ("no Upgrade", good.filter { $0.name != "upgrade" }), ("two Upgrades", good + [("Upgrade", "h2c")]),
        ("no Connection", good.filter { $0.name != "connection" }), ("no accept", good.filter { $0.name != "sec-websocket-accept" }),
        ("two accepts", good + [("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")]),
        ("another key's accept", good.dropLast() + [("Sec-WebSocket-Accept", "HSmrc0sMlYUkAGmm5OPpG2HaGWk=")]),
        ("an extension", good + [("Sec-WebSocket-Extensions", "permessage-deflate")]),
        ("a subprotocol we did not ask for", good + [("Sec-WebSocket-Protocol", "chat")]),
        ("two subprotocols", good + [("Sec-WebSocket-Protocol", "mwstorage.1"), ("Sec-WebSocket-Protocol", "mwstorage.1")]),
    ]

    @Test("a wrong 101 is malformed, and not worth trying again", arguments: wrong.indices)
    func malformed(_ index: Int) {
        let error = #expect(throws: WebSocketError.self) { try handshake.validate(status: 101, headers: Self.wrong[index].headers) }
        #expect(error?.code == .openingMalformed, "\(Self.wrong[index].claim)")
        #expect(error?.isPermanent == true)
    }

    @Test("a refusal carries its status, what the server said, and how long to stay away")
    func refused() {
        for (status, isPermanent) in [
            (400, true), (401, true), (403, true), (404, true), (426, true), (302, true), (429, false), (500, false), (503, false),
        ] {
            let error = #expect(throws: WebSocketError.self) {
                try handshake.validate(status: status, headers: [("retry-after", "12")], body: "go\naway\u{1B}[2J")
            }
            #expect(error?.code == .openingRefused)
            #expect(error?.httpStatus == status)
            #expect(error?.retryAfter == .seconds(12))
            #expect(error?.isPermanent == isPermanent, "\(status)")
            #expect(error?.found == "go away [2J")
        }
    }

    @Test("a Retry-After that is no number of seconds is left alone", arguments: ["-1", "soon", "99999999999999999999", ""])
    func retryAfter(_ text: String) {
        let error = #expect(throws: WebSocketError.self) { try handshake.validate(status: 503, headers: [("Retry-After", text)]) }
        #expect(error?.retryAfter == nil)
    }
}

@Suite("SHA-1 and base 64, through Sec-WebSocket-Accept and keys")
struct AcceptKeyTests {
    // From independent implementations: base64(sha1(key + GUID)).
    @Test("keys of any length get the accept that others compute", arguments: AcceptKeyTests.keysAndAccepts.indices)
    func vectors(_ index: Int) {
        #expect(OpeningHandshake.accept(forKey: Self.keysAndAccepts[index].key) == Self.keysAndAccepts[index].accept)
    }

    static let keysAndAccepts: [(key: String, accept: String)] = [
        (String(repeating: "k", count: 0), "Kfh9QIsMVZcl6xEPYxPHzW8SZ8w="),
        (String(repeating: "k", count: 1), "cai0HFWL7DEHZkyHxdyv1Pn3R6M="),
        (String(repeating: "k", count: 18), "qChxkF3JDYNASeew3saQqqTWi7o="),
        (String(repeating: "k", count: 19), "tWclcP21hrR+xgjYVswtQRW71GQ="),
        (String(repeating: "k", count: 20), "tSsjsIAvEVIQ+IC5K8+T/OkG8nU="),
        (String(repeating: "k", count: 24), "Osl8Plp/k+NDIMqB3yv/XvvAbcA="),
        (String(repeating: "k", count: 27), "qUNe7W8rvas6tQS5F4QBTf/JpvE="),
        (String(repeating: "k", count: 28), "x9bmfLYIxLMaaT5h0sFuRlAhhb8="),
        (String(repeating: "k", count: 64), "d3g+v0T8vq/Wjewzan1FGbXRhkk="),
        (String(repeating: "k", count: 83), "c8WQ7edrEIKQKdUK6YpbGv6/vjc="),
        (String(repeating: "k", count: 84), "oSGTDoRzn25LiA1UjW2lEH1Pvlc="),
        (String(repeating: "k", count: 100), "rWzVOVhJgr+k5nChyKqRW0+OIwk="),
        (String(repeating: "k", count: 1000), "D5UkHUEpPcw/Kmar+sMcS126/cM="),
    ]
}
