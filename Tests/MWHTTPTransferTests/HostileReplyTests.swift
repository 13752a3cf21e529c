import MWHTTPTransfer
import MWPKI
import TestCertificates
import TestHTTPS
import Testing

/// Servers that are broken, hostile or out of order: each is a typed error in bounded time and memory. Method: scripted bytes over TLS.
@Suite struct HostileReplyTests {
    private let bench: Workbench

    init() throws { bench = try Workbench() }

    @Test("a server that trickles is left when it is slower than the limit (slow loris)")
    func slowLoris() async throws {
        var limits = HTTPTransferLimits()
        limits.minimumBytesPerSecond = 1000
        limits.slownessTimeout = .seconds(1)
        limits.timeout = .seconds(600)
        let error = try await bench.failure(limits: limits) { exchange in
            exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            while exchange.send("x"), exchange.pause(.milliseconds(20)) {}
        }
        #expect(error.code == .timedOut)
    }

    @Test("headers that never end are left too", arguments: [false, true])
    func slowHeaders(isTotal: Bool) async throws {
        var limits = HTTPTransferLimits()
        if isTotal { limits.timeout = .milliseconds(300) } else { limits.slownessTimeout = .seconds(1) }
        limits.minimumBytesPerSecond = 1000
        let error = try await bench.failure(limits: limits) { exchange in
            exchange.send("HTTP/1.1 200 OK\r\n")
            while exchange.send("X: y\r\n"), exchange.pause(.milliseconds(20)) {}
        }
        #expect(error.code == .timedOut)
    }

    @Test("a server that says nothing is left after the timeout of the request")
    func silence() async throws {
        try await bench.serving(nil, { $0.waitForEnd() }) { server async throws in
            let request = TransferRequest(.get, url: server.url + "/", timeout: .milliseconds(200))
            #expect(try await bench.failure(of: request, by: bench.transfer()).code == .timedOut)
        }
    }

    @Test("a body larger than the limit is refused: announced, in chunks, or until the end", arguments: ["length", "chunked", "close"])
    func largeBody(_ kind: String) async throws {
        let error = try await bench.failure { exchange in
            switch kind {
            case "length": exchange.send("HTTP/1.1 200 OK\r\nContent-Length: \(10 << 20)\r\n\r\n")
            case "chunked": exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            default: exchange.send("HTTP/1.1 200 OK\r\n\r\n")
            }
            let piece = String(repeating: "x", count: 0x4000)
            for _ in 0..<(10 << 20) / 0x4000 {
                guard exchange.send(kind == "chunked" ? "4000\r\n\(piece)\r\n" : piece) else { return }
            }
            exchange.send("0\r\n\r\n")
            exchange.close()
        }
        #expect(error.code == .bodyTooLarge)
        #expect(error.description.contains("1048576 bytes"))
    }

    @Test("a body of exactly the limit is taken, one byte more is not", arguments: [0, 1])
    func bodyAtLimit(_ more: Int) async throws {
        let handler: TestHTTPSServer.Handler = { $0.reply(status: 200, body: [UInt8](repeating: 1, count: 1000 + more)) }
        try await bench.serving(nil, handler) { server async throws in
            let request = TransferRequest(.get, url: server.url + "/", maximumBodyBytes: 1000)
            if more == 0 {
                #expect(try await bench.transfer().send(request).body.count == 1000)
            } else {
                #expect(try await bench.failure(of: request, by: bench.transfer()).code == .bodyTooLarge)
            }
        }
    }

    @Test(
        "a flood of headers is refused: many, one long, many informational replies, many trailers",
        arguments: ["many", "long", "informational", "trailers"])
    func headerFlood(_ kind: String) async throws {
        let error = try await bench.failure { exchange in
            let field = "X-Field: \(String(repeating: "y", count: 1000))\r\n"
            switch kind {
            case "many", "long": exchange.send("HTTP/1.1 200 OK\r\n")
            case "trailers": exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n")
            default: break
            }
            // 20 MB in the end; nobody reads as much.
            for _ in 0..<20_000 {
                let bytes =
                    switch kind {
                    case "long": String(repeating: "z", count: 1000)
                    case "informational": "HTTP/1.1 102 Processing\r\n" + field + "\r\n"
                    default: field
                    }
                guard exchange.send(bytes) else { return }
            }
            exchange.send("\r\n\r\n")
            exchange.close()
        }
        // libcurl itself refuses a line of more than 100 KB before it is handed over.
        #expect(error.code == .headersTooLarge || (kind != "many" && error.code == .ownFailure))
    }

    @Test("a reset within the body is a lost connection")
    func reset() async throws {
        let error = try await bench.failure { exchange in
            exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nsome")
            exchange.reset()
        }
        #expect([.connectionLost, .replyTruncated].contains(error.code))
    }

    @Test("a reset before the reply is a lost connection, and so is an end without a word", arguments: ["reset", "close", "cut"])
    func nothing(_ kind: String) async throws {
        let error = try await bench.failure { exchange in
            switch kind {
            case "reset": exchange.reset()
            case "close": exchange.close()
            default: exchange.closeWithoutNotify()
            }
        }
        #expect([.connectionLost, .replyTruncated].contains(error.code))
    }

    @Test(
        "a body that is cut off is no response",
        arguments: [
            ("Content-Length: 1000\r\n\r\nsome", true), ("Content-Length: 1000\r\n\r\nsome", false),
            ("Transfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n", true), ("Transfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n", false),
            // Its end is the connection's: only close_notify would tell it from a cut, and libcurl does not ask.
            ("\r\nsome", false), ("\r\nsome", true), ("\r\n", false),
            ("Content-Type: application/json\r\n\r\n{\"a\":{\"b\":1", true), ("Content-Type: application/json\r\n\r\n", true),
            ("Content-Type: application/json\r\n\r\n12", true),
            ("Content-Type: application/pem-certificate-chain\r\n\r\n-----END CERTIFICATE-----\r\n", true),
        ])
    func truncated(rest: String, notify: Bool) async throws {
        let error = try await bench.failure { exchange in
            exchange.send("HTTP/1.1 200 OK\r\n" + rest)
            if notify { exchange.close() } else { exchange.closeWithoutNotify() }
        }
        #expect([.replyTruncated, .connectionLost].contains(error.code))
    }

    // Method: the end of the connection, with close_notify, is the end of the body.
    @Test(
        "a JSON reply that does not say how long it is, is taken when it is whole",
        arguments: ["application/json", "application/problem+json; charset=utf-8", "Application/JSON ;a=b"])
    func endsWithTheConnection(_ type: String) async throws {
        let handler: TestHTTPSServer.Handler = { exchange in
            exchange.send("HTTP/1.1 200 OK\r\nContent-Type: \(type)\r\nConnection: close\r\n\r\n{\"a\":")
            exchange.send("[1]}\n")
            exchange.close()
        }
        try await bench.serving(nil, handler) { server async throws in
            let response = try await bench.transfer().send(TransferRequest(.get, url: server.url + "/"))
            #expect(response.body == Array("{\"a\":[1]}\n".utf8))
        }
    }

    @Test(
        "bytes that are no HTTP are a malformed reply, not a body",
        arguments: [
            "<html>hello</html>\r\n\r\n", "\r\n\r\n\r\n", "HTTP/1.1 abc OK\r\n\r\n", "HTTP/1.1\r\n\r\n", "HTTP/9.9 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno colon here\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n folded: first\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", "\0\0\0\0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nnot a size\r\n0\r\n\r\n",
        ])
    func noHTTP(_ bytes: String) async throws {
        let error = try await bench.failure { exchange in
            exchange.send(bytes)
            exchange.close()
        }
        #expect([.replyMalformed, .connectionLost, .ownFailure].contains(error.code), "\(error)")
    }

    @Test("any bytes at all end in a response or a typed error, within their limits")
    func anyBytes() async throws {
        var random = SystemRandomNumberGenerator()
        var limits = HTTPTransferLimits()
        limits.timeout = .seconds(120)
        let parts = [
            "HTTP/1.1 ", "200 OK", "\r\n", "\r\n\r\n", "Content-Length: ", "5", "Transfer-Encoding: chunked", ":", " ", "\0", "\n", "é",
        ]
        let scripts = (0..<200).map { _ -> [UInt8] in
            let head: [UInt8] = Bool.random(using: &random) ? Array("HTTP/1.1 200 OK\r\n".utf8) : []
            return head
                + (0..<Int.random(in: 0...20, using: &random)).flatMap { _ -> [UInt8] in
                    Bool.random(using: &random)
                        ? Array(parts.randomElement(using: &random)?.utf8 ?? "".utf8)
                        : (0..<8).map { _ in UInt8.random(in: 0...255, using: &random) }
                }
        }
        let handler: TestHTTPSServer.Handler = { exchange in
            if let number = Int(exchange.request.target.dropFirst()) { exchange.send(scripts[number]) }
            exchange.close()
        }
        try await bench.serving(nil, handler) { server async throws in
            let transfer = try bench.transfer(limits)
            for number in scripts.indices {
                do throws(HTTPTransferError) {
                    let response = try await transfer.send(TransferRequest(.get, url: server.url + "/\(number)"))
                    #expect((200...999).contains(response.status), "\(scripts[number])")
                } catch {
                    #expect(error.code != .cancelled && error.code != .overloaded && error.code != .timedOut, "\(error) \(scripts[number])")
                }
            }
        }
    }

    @Test("informational replies and trailers are passed over, folded fields are joined")
    func unusual() async throws {
        let handler: TestHTTPSServer.Handler = {
            $0.send("HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n")
            $0.send("HTTP/1.1 201 Created\r\nLocation:  /a \r\nX: one\r\n  two\r\nLink: <b>\r\nlink: <c>\r\n")
            $0.send("Transfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n0\r\nTrailer-Field: t\r\n\r\n")
        }
        try await bench.serving(nil, handler) { server async throws in
            let response = try await bench.transfer().send(TransferRequest(.get, url: server.url + "/"))
            #expect(response.status == 201)
            #expect(response.body == Array("some".utf8))
            #expect(response.value(of: "LOCATION") == "/a")
            #expect(response.value(of: "x") == "one two")
            #expect(response.headers.filter { $0.name.lowercased() == "link" }.map(\.value) == ["<b>", "<c>"])
            #expect(response.value(of: "trailer-field") == nil)
        }
    }

    @Test("nobody listens: no connection; a name of the reserved domain: no address")
    func unreachable() async throws {
        // A port that was just free.
        let port = try await bench.serving(nil, echo) { $0.port }
        let refused = await bench.failure(of: TransferRequest(.get, url: "https://localhost:\(port)/"), by: try bench.transfer())
        #expect(refused.code == .connectFailed)
        #expect(refused.subject == "https://localhost:\(port)")
        // RFC 6761 §6.4: never resolves. Where there is no DNS at all, asking it may take its time.
        var limits = HTTPTransferLimits()
        limits.timeout = .seconds(120)
        limits.connectTimeout = .seconds(120)
        let request = TransferRequest(.get, url: "https://nothing.invalid/")
        #expect(try await bench.failure(of: request, by: bench.transfer(limits)).code == .nameNotResolved)
    }
}
