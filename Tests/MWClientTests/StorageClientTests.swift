import Logging
import MWClient
import MWPKI
import MWProtocol
import MWTLS
import MWWebSocket
import NIOCore
import Synchronization
import TestCertificates
import Testing

@Suite(.timeLimit(.minutes(10))) struct StorageClientTests {
    @Test("get, put, remove and prefix ask what they say and return what is answered")
    func calls() async throws {
        let server = try await FakeServer.start()
        try await withClient(server.configuration()) { client in
            async let values = client.get([bytes("a"), bytes("b"), bytes("c")])
            let connection = try #require(await server.connections.next())
            let get = try #require(await connection.requests.next())
            #expect(get == .get(MWDBElements(bytes: ByteBuffer(string: "a#b#c")), id: RequestID(0)))
            connection.reply(values: ["1", "", "3"], to: get)
            #expect(try await values == [bytes("1"), nil, bytes("3")])

            async let put = client.put([(key: bytes("k"), value: bytes("v")), (key: bytes("e"), value: [])])
            let putRequest = try #require(await connection.requests.next())
            #expect(putRequest == .put(try #require(MWDBPairs(bytes: ByteBuffer(string: "k#v#e#"))), id: RequestID(1)))
            connection.reply(done: true, to: putRequest)
            _ = try await put

            async let removal = client.remove([bytes("k")])
            let remove = try #require(await connection.requests.next())
            #expect(remove == .remove(MWDBElements(bytes: ByteBuffer(string: "k")), id: RequestID(2)))
            connection.reply(done: true, to: remove)
            _ = try await removal

            async let prefix = client.allocatePrefix()
            let prefixRequest = try #require(await connection.requests.next())
            #expect(prefixRequest == .prefix(id: RequestID(3)))
            connection.reply(prefix: 42, to: prefixRequest)
            #expect(try await prefix == 42)
            #expect(client.counters.succeeded == 4 && client.counters.failed == 0)
        }
        try await server.stop()
    }

    @Test("answers may come in any order")
    func outOfOrder() async throws {
        let server = try await FakeServer.start()
        try await withClient(server.configuration()) { client in
            async let first = client.get([bytes("1")])
            let connection = try #require(await server.connections.next())
            let one = try #require(await connection.requests.next())
            async let second = client.get([bytes("2")])
            let two = try #require(await connection.requests.next())
            connection.reply(values: ["two"], to: two)
            connection.reply(values: ["one"], to: one)
            #expect(try await (first, second) == ([bytes("one")], [bytes("two")]))
        }
        try await server.stop()
    }

    @Test("a write that the server could not do is refused, and took no effect")
    func refusedWrite() async throws {
        let server = try await FakeServer.start()
        try await withClient(server.configuration()) { client in
            async let error = failure { try await client.put([(key: bytes("k"), value: bytes("v"))]) }
            let connection = try #require(await server.connections.next())
            connection.reply(done: false, to: try #require(await connection.requests.next()))
            let refused = await error
            #expect(refused?.code == .refused && refused?.mayHaveTakenEffect == false)
        }
        try await server.stop()
    }

    @Test(
        "what this protocol cannot say is refused before anything is sent",
        arguments: [("a#b", "v"), ("k", "v#w"), ("", "v")])
    func unspeakable(key: String, value: String) async throws {
        let server = try await FakeServer.start()
        let client = try StorageClient(configuration: server.configuration(), logger: quiet)
        let error = await failure { try await client.put([(key: bytes(key), value: bytes(value))]) }
        #expect(error?.code == .invalidArgument)
        await client.close()
        try await server.stop()
    }

    @Test("asking for nothing is answered without a server")
    func nothing() async throws {
        let server = try await FakeServer.start()
        let client = try StorageClient(configuration: server.configuration(), logger: quiet)
        #expect(try await client.get([]) == [])
        try await client.put([])
        try await client.remove([])
        #expect(server.acceptedCount == 0)
        await client.close()
        try await server.stop()
    }

    @Test("FORCE_RELOAD is delivered with its pairs, and answers nothing")
    func reloads() async throws {
        let server = try await FakeServer.start()
        try await withClient(server.configuration()) { client in
            let reloads = client.reloads
            async let values = client.get([bytes("a")])
            let connection = try #require(await server.connections.next())
            let request = try #require(await connection.requests.next())
            connection.forceReload("k#v#e#")
            connection.reply(values: ["1"], to: request)
            #expect(try await values == [bytes("1")])
            var iterator = reloads.makeAsyncIterator()
            let reload = try #require(await iterator.next())
            #expect(reload.changes.map(\.key) == [bytes("k"), bytes("e")])
            #expect(reload.changes.map(\.value) == [bytes("v"), nil])
            #expect(reload.missedBefore == 0)
        }
        try await server.stop()
    }

    // MARK: Lost connections

    enum End: String, CaseIterable, Sendable {
        case cut, goingAway, restart, internalError, tryAgainLater
    }

    private func end(_ connection: FakeConnection, _ end: End) {
        switch end {
        case .cut: connection.cut()
        case .goingAway: connection.close(.goingAway)
        case .restart: connection.close(.serviceRestart)
        case .internalError: connection.close(.internalError)
        case .tryAgainLater: connection.close(.tryAgainLater)
        }
    }

    @Test("a read whose answer is lost is sent again on the next connection", arguments: End.allCases)
    func lostRead(end: End) async throws {
        let server = try await FakeServer.start()
        try await withClient(server.configuration()) { client in
            let events = client.events
            async let values = client.get([bytes("a")])
            let first = try #require(await server.connections.next())
            _ = await first.requests.next()
            self.end(first, end)
            let second = try #require(await server.connections.next())
            second.reply(values: ["1"], to: try #require(await second.requests.next()))
            #expect(try await values == [bytes("1")])
            #expect(client.counters.resent == 1)
            var seen: [String] = []
            for await event in events {
                switch event {
                case .connected: seen.append("connected")
                case .disconnected: seen.append("disconnected")
                case .reconnecting(let attempt, _): seen.append("reconnecting \(attempt)")
                case .resumed: seen.append("resumed")
                case .moved: seen.append("moved")
                case .gaveUp: seen.append("gaveUp")
                }
                if case .resumed = event { break }
            }
            #expect(seen.suffix(3) == ["disconnected", "reconnecting 1", "resumed"])
        }
        try await server.stop()
    }

    @Test("a write whose answer is lost has an unknown outcome, and is never sent again", arguments: End.allCases)
    func lostWrite(end: End) async throws {
        let server = try await FakeServer.start()
        try await withClient(server.configuration()) { client in
            async let error = failure { try await client.put([(key: bytes("k"), value: bytes("v"))]) }
            let first = try #require(await server.connections.next())
            _ = await first.requests.next()
            self.end(first, end)
            let unknown = await error
            #expect(unknown?.code == .outcomeUnknown && unknown?.mayHaveTakenEffect == true)
            // The next thing the server hears is the next call.
            async let values = client.get([bytes("a")])
            let second = try #require(await server.connections.next())
            let request = try #require(await second.requests.next())
            #expect(request.type == .get)
            second.reply(values: ["1"], to: request)
            _ = try await values
            #expect(client.counters.outcomeUnknown == 1)
        }
        try await server.stop()
    }

    @Test(
        "a connection that fails before the 101 is tried again, and the call waits for it",
        arguments: [
            FakeServer.Opening.cutBeforeTLS, .cutAfterRequest, .answer("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"),
            .answer("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 3\r\n\r\nbad"), .silence,
        ])
    func failedOpenings(opening: FakeServer.Opening) async throws {
        let server = try await FakeServer.start([opening])
        let configuration = try server.configuration { $0.timeouts.upgrade = .milliseconds(500) }
        try await withClient(configuration) { client in
            async let put = client.put([(key: bytes("k"), value: bytes("v"))])
            let (connection, request) = try #require(await server.nextRequest())
            connection.reply(done: true, to: request)
            _ = try await put
            #expect(client.counters.failedAttempts >= 1 && client.counters.connections >= 1)
        }
        try await server.stop()
    }

    @Test(
        "what no retry can mend ends the client at once, with its reason for every call",
        arguments: [
            ("HTTP/1.1 403 Forbidden\r\nContent-Length: 7\r\n\r\nnot you", ClientError.Code.forbidden),
            ("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", .unauthenticated),
            ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", .protocolMismatch),
            (
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n",
                .protocolMismatch
            ),
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", .protocolMismatch), ("nonsense\r\n\r\n", .protocolMismatch),
        ])
    func permanent(answer: String, code: ClientError.Code) async throws {
        let server = try await FakeServer.start([.answer(answer)])
        let client = try StorageClient(configuration: server.configuration(), logger: quiet)
        async let run = failure { try await client.run() }
        let error = await failure { _ = try await client.get([bytes("a")]) }
        #expect(error?.code == code, "\(error.map { "\($0)" } ?? "none")")
        #expect(await run?.code == code)
        #expect(await failure { _ = try await client.get([bytes("a")]) }?.code == code)
        #expect(server.acceptedCount == 1)
        try await server.stop()
    }

    @Test("close codes that mean our fault are final", arguments: [1002, 1003, 1007, 1008, 1009, 1010])
    func permanentCloseCodes(code: UInt16) async throws {
        let server = try await FakeServer.start()
        let client = try StorageClient(configuration: server.configuration(), logger: quiet)
        async let run = failure { try await client.run() }
        let connection = try #require(await server.connections.next())
        connection.close(try #require(CloseCode(rawValue: code)))
        let error = await run
        #expect(error?.code == (code == 1008 ? .forbidden : .protocolMismatch))
        #expect(server.acceptedCount == 1)
        try await server.stop()
    }

    @Test("a server that answers what was not asked is left with 1002", arguments: ["1#\u{1}HoSA", "1#\u{9}A", "", "#"])
    func nonsense(message: String) async throws {
        let server = try await FakeServer.start()
        let client = try StorageClient(configuration: server.configuration(), logger: quiet)
        async let run = failure { try await client.run() }
        let connection = try #require(await server.connections.next())
        connection.reply { $0.writeString(message) }
        #expect(await run?.code == .protocolMismatch)
        let code = await connection.ended.next()
        #expect(code == .some(.protocolError) || code == .some(.unsupportedData))
        try await server.stop()
    }

    @Test("a server that stops answering is noticed by an unanswered ping")
    func keepAlive() async throws {
        let server = try await FakeServer.start()
        let configuration = try server.configuration {
            $0.timeouts.pingInterval = .milliseconds(20)
            $0.timeouts.pong = .milliseconds(500)
        }
        try await withClient(configuration) { client in
            let values = try await withThrowingTaskGroup(of: [[UInt8]?]?.self) { group in
                group.addTask { try await client.get([bytes("a")]) }
                let first = try #require(await server.connections.next())
                _ = await first.requests.next()
                await first.freeze()
                group.addTask {
                    // On a busy machine a pong may be late on the next connections, too.
                    while let (next, request) = await server.nextRequest() { next.reply(values: ["1"], to: request) }
                    return nil
                }
                defer { group.cancelAll() }
                return try await group.next()
            }
            #expect(values == [bytes("1")])
        }
        try await server.stop()
    }
}
