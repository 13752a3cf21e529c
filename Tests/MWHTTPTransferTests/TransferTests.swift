import MWHTTPTransfer
import MWPKI
import TestCertificates
import TestHTTPS
import Testing

/// What is sent, and what comes back of it. Method: a server on loopback that says what it got.
@Suite struct TransferTests {
    private let bench: Workbench

    init() throws { bench = try Workbench() }

    @Test("a request goes out as it was given: method, path, headers, body, and nothing of libcurl's own")
    func sent() async throws {
        try await bench.serving(nil, echo) { server async throws in
            let body = (0...255).map { UInt8($0) }
            let response = try await bench.transfer().send(
                TransferRequest(
                    .post, url: server.url + "/a/../b?c=%20d",
                    headers: [.init("Accept-Language", "de"), .init("Content-Type", "application/jose+json"), .init("X-Empty", "")],
                    body: body))
            #expect(response == TransferResponse(status: 200, headers: [.init("Content-Length", "256")], body: body))
            let request = try #require(server.requests.first)
            #expect(request.method == "POST")
            #expect(request.target == "/a/../b?c=%20d")
            #expect(request.body == body)
            let names = Set(request.headers.map { $0.name.lowercased() })
            #expect(names == ["host", "accept", "accept-language", "content-type", "content-length", "user-agent", "x-empty"])
            #expect(request.value(of: "User-Agent") == "test/1")
            #expect(request.value(of: "Content-Type") == "application/jose+json")
            #expect(request.value(of: "Accept-Language") == "de")
        }
    }

    @Test("a User-Agent of the request takes the place of the transfer's, and an empty POST has length 0")
    func userAgent() async throws {
        try await bench.serving(nil, echo) { server async throws in
            let request = TransferRequest(.post, url: server.url + "/", headers: [.init("user-agent", "own/2")])
            #expect(try await bench.transfer().send(request).body.isEmpty)
            #expect(server.requests.map { $0.value(of: "User-Agent") } == ["own/2"])
            #expect(server.requests.map { $0.value(of: "Content-Length") } == ["0"])
        }
    }

    @Test(
        "a header that would frame the message, or cut it, is refused before anything is sent",
        arguments: [
            ("Host", "elsewhere"), ("content-length", "0"), ("Transfer-Encoding", "chunked"), ("Expect", "100-continue"),
            ("X", "a\r\nY: b"), ("X", "a\0b"), ("X\r\nY", "a"), ("", "a"), ("X Y", "a"), ("X:", "a"),
        ])
    func badHeader(name: String, value: String) async throws {
        try await bench.serving(nil, echo) { server async throws in
            let request = TransferRequest(.get, url: server.url + "/", headers: [.init(name, value)])
            let error = await bench.failure(of: request, by: try bench.transfer())
            #expect(error.code == .requestInvalid)
            #expect(server.connectionCount == 0)
        }
    }

    @Test("a HEAD has the headers, also a length larger than the limit, and no body")
    func head() async throws {
        var limits = HTTPTransferLimits()
        limits.maximumBodyBytes = 10
        let handler: TestHTTPSServer.Handler = { $0.reply(status: 200, headers: [("Replay-Nonce", "n")], body: "more than ten bytes") }
        try await bench.serving(nil, handler) { server async throws in
            let response = try await bench.transfer(limits).send(TransferRequest(.head, url: server.url + "/"))
            #expect(response.value(of: "replay-nonce") == "n")
            #expect(response.value(of: "content-length") == "19")
            #expect(response.body.isEmpty)
        }
    }

    @Test("one connection carries one request after the other, and no option of one reaches the next")
    func reuse() async throws {
        try await bench.serving(nil, echo) { server async throws in
            let transfer = try bench.transfer()
            for round in 0..<10 {
                let post = TransferRequest(
                    .post, url: server.url + "/post", headers: [.init("Content-Type", "a/b"), .init("X-Only", "post")],
                    body: Array("body \(round)".utf8))
                #expect(try await transfer.send(post).body == post.body)
                #expect(try await transfer.send(TransferRequest(.head, url: server.url + "/head")).body.isEmpty)
                #expect(try await transfer.send(TransferRequest(.get, url: server.url + "/get")).status == 200)
            }
            #expect(server.connectionCount == 1)
            let gets = server.requests.filter { $0.method == "GET" }
            #expect(gets.count == 10)
            for get in gets {
                #expect(get.body.isEmpty)
                #expect(get.headers.map { $0.name.lowercased() }.sorted() == ["accept", "host", "user-agent"])
            }
        }
    }

    @Test("a kept connection that the server closed meanwhile costs no failure")
    func closedMeanwhile() async throws {
        // The server says nothing of closing; each connection serves one request.
        let handler: TestHTTPSServer.Handler = {
            $0.reply(status: 200)
            $0.close()
        }
        try await bench.serving(nil, handler) { server async throws in
            let transfer = try bench.transfer()
            for _ in 0..<10 { #expect(try await transfer.send(TransferRequest(.get, url: server.url + "/")).status == 200) }
            #expect(server.requests.count == 10)
            #expect(server.connectionCount == 10)
        }
    }

    @Test("after the idle time the connection is given up, and the next request starts anew")
    func idle() async throws {
        var limits = HTTPTransferLimits()
        limits.idleTimeout = .milliseconds(1)
        let ended = AsyncStream<Void>.makeStream()
        let handler: TestHTTPSServer.Handler = {
            $0.reply(status: 200)
            $0.waitForEnd()
            ended.continuation.yield()
        }
        try await bench.serving(nil, handler) { server async throws in
            let transfer = try bench.transfer(limits)
            var ends = ended.stream.makeAsyncIterator()
            for round in 1...3 {
                #expect(try await transfer.send(TransferRequest(.get, url: server.url + "/")).status == 200)
                // Nobody but the transfer ends it.
                _ = await ends.next()
                #expect(server.connectionCount == round)
            }
        }
    }

    @Test("100 requests at a time are all answered, each its own, over no more connections than allowed")
    func concurrent() async throws {
        var limits = HTTPTransferLimits()
        limits.maximumConnections = 8
        limits.timeout = .seconds(120)
        limits.connectTimeout = .seconds(120)
        try await bench.serving(nil, echo) { server async throws in
            let transfer = try bench.transfer(limits)
            try await withThrowingTaskGroup(of: Bool.self) { group in
                for number in 0..<100 {
                    group.addTask {
                        let body = Array("number \(number)".utf8)
                        return try await transfer.send(TransferRequest(.post, url: server.url + "/", body: body)).body == body
                    }
                }
                for try await isOwn in group { #expect(isOwn) }
            }
            #expect(server.requests.count == 100)
            #expect(server.connectionCount <= 8)
        }
    }

    @Test("more requests than may be under way are refused, and those that are go on")
    func overloaded() async throws {
        var limits = HTTPTransferLimits()
        limits.maximumRequestsInFlight = 1
        let arrived = AsyncStream<Void>.makeStream()
        let handler: TestHTTPSServer.Handler = {
            arrived.continuation.yield()
            $0.waitForEnd()
        }
        try await bench.serving(nil, handler) { server async throws in
            let transfer = try bench.transfer(limits)
            let request = TransferRequest(.get, url: server.url + "/")
            let first = Task { await bench.failure(of: request, by: transfer) }
            var arrivals = arrived.stream.makeAsyncIterator()
            _ = await arrivals.next()
            #expect(await bench.failure(of: request, by: transfer).code == .overloaded)
            first.cancel()
            #expect(await first.value.code == .cancelled)
        }
    }

    @Test("cancelling the task ends the transfer and its connection at once, while others go on")
    func cancellation() async throws {
        let arrived = AsyncStream<Void>.makeStream()
        let ended = AsyncStream<Void>.makeStream()
        let handler: TestHTTPSServer.Handler = {
            guard $0.request.target == "/hang" else { return echo($0) }
            arrived.continuation.yield()
            $0.waitForEnd()
            ended.continuation.yield()
        }
        try await bench.serving(nil, handler) { server async throws in
            let transfer = try bench.transfer()
            let hanging = Task { await bench.failure(of: TransferRequest(.get, url: server.url + "/hang"), by: transfer) }
            var arrivals = arrived.stream.makeAsyncIterator()
            _ = await arrivals.next()
            hanging.cancel()
            #expect(await hanging.value.code == .cancelled)
            // The server sees the end of the connection.
            var ends = ended.stream.makeAsyncIterator()
            _ = await ends.next()
            #expect(try await transfer.send(TransferRequest(.get, url: server.url + "/")).status == 200)
        }
    }

    @Test("a task that is cancelled before it sends gets that as its answer")
    func cancelledBefore() async throws {
        try await bench.serving(nil, echo) { server async throws in
            let transfer = try bench.transfer()
            let (gate, open) = AsyncStream<Void>.makeStream()
            let task = Task {
                // Ends at once in a cancelled task.
                for await _ in gate { break }
                return await bench.failure(of: TransferRequest(.get, url: server.url + "/"), by: transfer)
            }
            task.cancel()
            open.yield()
            #expect(await task.value.code == .cancelled)
            #expect(server.requests.isEmpty)
        }
    }
}
