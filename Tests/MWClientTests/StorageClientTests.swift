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

private let quiet = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }

private func bytes(_ text: String) -> [UInt8] { Array(text.utf8) }

/// Runs `body` with a running client, and closes it.
private func withClient<Result: Sendable>(
    _ configuration: StorageClientConfiguration, _ body: (StorageClient) async throws -> Result
) async throws -> Result {
    try await withStorageClient(configuration, logger: quiet, body)
}

/// The error that `body` throws, as a `ClientError`.
private func failure(_ body: () async throws -> Void) async -> ClientError? {
    do {
        try await body()
        return nil
    } catch { return error as? ClientError }
}

@Suite(.timeLimit(.minutes(2))) struct StorageClientTests {
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

            async let put: Void = client.put([(key: bytes("k"), value: bytes("v")), (key: bytes("e"), value: [])])
            let putRequest = try #require(await connection.requests.next())
            #expect(putRequest == .put(try #require(MWDBPairs(bytes: ByteBuffer(string: "k#v#e#"))), id: RequestID(1)))
            connection.reply(done: true, to: putRequest)
            try await put

            async let removal: Void = client.remove([bytes("k")])
            let remove = try #require(await connection.requests.next())
            #expect(remove == .remove(MWDBElements(bytes: ByteBuffer(string: "k")), id: RequestID(2)))
            connection.reply(done: true, to: remove)
            try await removal

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
            async let put: Void = client.put([(key: bytes("k"), value: bytes("v"))])
            let (connection, request) = try #require(await server.nextRequest())
            connection.reply(done: true, to: request)
            try await put
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
            async let values = client.get([bytes("a")])
            let first = try #require(await server.connections.next())
            _ = await first.requests.next()
            await first.freeze()
            let (second, request) = try #require(await server.nextRequest())
            second.reply(values: ["1"], to: request)
            #expect(try await values == [bytes("1")])
        }
        try await server.stop()
    }

    // MARK: Trust

    @Test("a client that the server does not trust learns the alert's name, and does not try again", arguments: TLSPolicy.Version.allCases)
    func unauthenticated(version: TLSPolicy.Version) async throws {
        let server = try await FakeServer.start(versions: version)
        let stranger = try TestAuthority(name: "Another CA").issueClient()
        let client = try StorageClient(configuration: server.configuration(client: stranger), logger: quiet)
        async let run = failure { try await client.run() }
        let error = await failure { _ = try await client.get([bytes("a")]) }
        #expect(error?.code == .unauthenticated && error?.alert == "unknown_ca", "\(error.map { "\($0)" } ?? "none")")
        #expect(await run?.code == .unauthenticated)
        #expect(server.acceptedCount == 1)
        #expect(client.counters.connections == 0)
        try await server.stop()
    }

    @Test("a server that we do not trust is refused, and not tried again")
    func untrustedServer() async throws {
        let server = try await FakeServer.start()
        let configuration = try server.configuration(trusting: TestAuthority(name: "Another CA"))
        let client = try StorageClient(configuration: configuration, logger: quiet)
        #expect(await failure { try await client.run() }?.code == .serverNotTrusted)
        #expect(server.acceptedCount == 1)
        try await server.stop()
    }

    @Test("a server with another name is refused, unless that name or its certificate is asked for")
    func serverName() async throws {
        let server = try await FakeServer.start(issue: { try $0.issueServer(names: ["db.example.org"]) })
        let client = try StorageClient(configuration: server.configuration(), logger: quiet)
        #expect(await failure { try await client.run() }?.code == .serverNotTrusted)
        let named = try server.configuration { $0.verification = .name("db.example.org") }
        try await withClient(named) { client in
            async let prefix = client.allocatePrefix()
            let connection = try #require(await server.connections.next())
            connection.reply(prefix: 1, to: try #require(await connection.requests.next()))
            #expect(try await prefix == 1)
        }
        try await server.stop()
    }

    @Test("a pinned server is accepted under any name, another certificate of the same authority is not")
    func pin() async throws {
        let authority = try TestAuthority()
        let identity = try authority.issueServer(names: ["elsewhere.example.org"])
        let server = try await FakeServer.start(authority: authority, issue: { _ in identity })
        let pinned = try server.configuration { $0.verification = .pinned(sha256: ["\(identity.leaf.sha256)"]) }
        try await withClient(pinned) { client in
            async let prefix = client.allocatePrefix()
            let connection = try #require(await server.connections.next())
            connection.reply(prefix: 1, to: try #require(await connection.requests.next()))
            #expect(try await prefix == 1)
        }
        let other = try authority.issueServer().leaf.sha256
        let wrong = try server.configuration { $0.verification = .pinned(sha256: ["\(other)"]) }
        let client = try StorageClient(configuration: wrong, logger: quiet)
        #expect(await failure { try await client.run() }?.code == .serverNotTrusted)
        try await server.stop()
    }

    @Test("the identity is loaded anew for each connection, and one bad load is survived")
    func rotation() async throws {
        let server = try await FakeServer.start()
        let material = try server.configuration().identity
        let counter = Counter()
        var configuration = try server.configuration()
        configuration.identity = TLSMaterialSource(load: {
            // The second load meets a rotation half done.
            if counter.next() == 2 { throw PKIError(.keyMismatch, subject: "client.key.pem", "the private key is not the certificate's") }
            return try material.load()
        })
        try await withClient(configuration) { client in
            let first = try #require(await server.connections.next())
            first.cut()
            async let prefix = client.allocatePrefix()
            let second = try #require(await server.connections.next())
            second.reply(prefix: 1, to: try #require(await second.requests.next()))
            #expect(try await prefix == 1)
            #expect(counter.value == 3)
        }
        try await server.stop()
    }

    @Test("an identity that stays unusable ends the client with the reason")
    func unusableIdentity() async throws {
        let server = try await FakeServer.start()
        var configuration = try server.configuration()
        configuration.identity = TLSMaterialSource(load: { throw PKIError(.fileUnreadable, subject: "client.key.pem", "cannot be read") })
        let client = try StorageClient(configuration: configuration, logger: quiet)
        let error = await failure { try await client.run() }
        #expect(error?.code == .identityUnusable && error?.subject == "client.key.pem")
        try await server.stop()
    }

    // MARK: Deadlines, cancellation, bounds

    @Test("a call without a server ends at its deadline, unsent, and says why there was none")
    func deadlineUnsent() async throws {
        let server = try await FakeServer.start()
        let configuration = try server.configuration()
        try await server.stop()
        try await withClient(configuration) { client in
            let events = client.events
            // Calls wait over any number of failed attempts.
            for await case .disconnected in events { break }
            let error = await failure { try await client.put([(key: bytes("k"), value: bytes("v"))], timeout: .milliseconds(20)) }
            #expect(error?.code == .deadlineExceeded && error?.mayHaveTakenEffect == false)
            #expect((error?.underlying as? ClientError)?.code == .unreachable)
        }
    }

    @Test("a call that is sent and not answered ends at its deadline, and its late answer harms nobody")
    func deadlineSent() async throws {
        let server = try await FakeServer.start()
        try await withClient(server.configuration()) { client in
            let connection = try #require(await server.connections.next())
            async let error = failure { try await client.put([(key: bytes("k"), value: bytes("v"))], timeout: .milliseconds(300)) }
            let late = try #require(await connection.requests.next())
            let exceeded = await error
            #expect(exceeded?.code == .deadlineExceeded && exceeded?.mayHaveTakenEffect == true)
            connection.reply(done: true, to: late)
            async let prefix = client.allocatePrefix()
            connection.reply(prefix: 7, to: try #require(await connection.requests.next()))
            #expect(try await prefix == 7)
        }
        try await server.stop()
    }

    @Test("cancelling ends a call at once, sent or not")
    func cancellation() async throws {
        let server = try await FakeServer.start()
        let configuration = try server.configuration { $0.limits.requestsInFlight = 1 }
        try await withClient(configuration) { client in
            try await withThrowingTaskGroup(of: ClientError?.self) { group in
                group.addTask { await failure { try await client.put([(key: bytes("k"), value: bytes("sent"))]) } }
                let connection = try #require(await server.connections.next())
                let sent = try #require(await connection.requests.next())
                group.addTask { await failure { try await client.put([(key: bytes("k"), value: bytes("waits"))]) } }
                group.cancelAll()
                var effects: [Bool] = []
                for try await error in group {
                    #expect(error?.code == .cancelled)
                    effects.append(error?.mayHaveTakenEffect ?? false)
                }
                #expect(effects.filter { $0 }.count == 1 && effects.count == 2)
                connection.reply(done: true, to: sent)
            }
        }
        try await server.stop()
    }

    @Test("a call of a cancelled task is never made")
    func cancelledBefore() async throws {
        let server = try await FakeServer.start()
        let client = try StorageClient(configuration: server.configuration(), logger: quiet)
        let error = await withTaskGroup(of: ClientError?.self) { group in
            group.cancelAll()
            group.addTask { await failure { _ = try await client.get([bytes("a")]) } }
            return await group.next() ?? nil
        }
        #expect(error?.code == .cancelled && error?.mayHaveTakenEffect == false)
        await client.close()
        try await server.stop()
    }

    @Test("calls beyond the queue's bounds are refused at once, the others are served")
    func queueBounds() async throws {
        let server = try await FakeServer.start()
        let configuration = try server.configuration { $0.queue.maximumCalls = 2 }
        let client = try StorageClient(configuration: configuration, logger: quiet)
        // Before run(): everything waits.
        try await withThrowingTaskGroup(of: ClientError?.self) { group in
            for _ in 0..<5 { group.addTask { await failure { _ = try await client.get([bytes("a")]) } } }
            for _ in 0..<3 { #expect(try await group.next() == ClientError(.queueFull, subject: "", what: "")) }
            group.addTask { await failure { try await client.run() } }
            let connection = try #require(await server.connections.next())
            for _ in 0..<2 { connection.reply(values: ["1"], to: try #require(await connection.requests.next())) }
            for _ in 0..<2 { #expect(try await group.next() == .some(nil)) }
            await client.close()
        }
        try await server.stop()
    }

    @Test("no more requests are with the server than allowed")
    func inFlight() async throws {
        let server = try await FakeServer.start()
        let configuration = try server.configuration { $0.limits.requestsInFlight = 3 }
        try await withClient(configuration) { client in
            try await withThrowingTaskGroup(of: Void.self) { group in
                for _ in 0..<50 { group.addTask { _ = try await client.get([bytes("a")]) } }
                let connection = try #require(await server.connections.next())
                var open: [MWDBRequest] = []
                for served in 0..<50 {
                    // As many as may be in flight are there without an answer; ids in use are never given again.
                    while open.count < min(3, 50 - served) { open.append(try #require(await connection.requests.next())) }
                    #expect(Set(open.map(\.id)).count == open.count)
                    connection.reply(values: ["1"], to: open.removeFirst())
                }
                try await group.waitForAll()
            }
        }
        try await server.stop()
    }

    @Test("a message above the limit is refused before it is sent")
    func tooLarge() async throws {
        let server = try await FakeServer.start()
        let configuration = try server.configuration { $0.limits.maximumMessageBytes = 1000 }
        let client = try StorageClient(configuration: configuration, logger: quiet)
        let error = await failure {
            try await client.put([(key: bytes("k"), value: [UInt8](repeating: 1, count: 1000))])
        }
        #expect(error?.code == .invalidArgument)
        await client.close()
        try await server.stop()
    }

    @Test("several hundred KiB in one put, several MiB in one answer")
    func largeMessages() async throws {
        let server = try await FakeServer.start()
        try await withClient(server.configuration()) { client in
            let value = [UInt8](repeating: UInt8(ascii: "x"), count: 700_000)
            async let put: Void = client.put([(key: bytes("k"), value: value)])
            let connection = try #require(await server.connections.next())
            let request = try #require(await connection.requests.next())
            guard case .put(let pairs, _) = request else {
                Issue.record("\(request)")
                return
            }
            #expect(pairs.bytes.readableBytes == 700_002)
            connection.reply(done: true, to: request)
            try await put
            async let values = client.get([bytes("k")])
            connection.reply(values: [String(repeating: "y", count: 5_000_000)], to: try #require(await connection.requests.next()))
            #expect(try await values.first??.count == 5_000_000)
        }
        try await server.stop()
    }

    // MARK: Closing

    @Test("close lets calls finish, leaves with 1000, and refuses what comes after")
    func gracefulClose() async throws {
        let server = try await FakeServer.start()
        let configuration = try server.configuration { $0.timeouts.drain = .seconds(30) }
        let client = try StorageClient(configuration: configuration, logger: quiet)
        async let run: Void = client.run()
        async let values = client.get([bytes("a")])
        let connection = try #require(await server.connections.next())
        let request = try #require(await connection.requests.next())
        async let closed: Void = client.close()
        // The drain has begun when a new call is refused.
        while await failure({ _ = try await client.get([bytes("b")], timeout: .milliseconds(1)) })?.code != .closed {}
        connection.reply(values: ["1"], to: request)
        #expect(try await values == [bytes("1")])
        await closed
        try await run
        #expect(await connection.ended.next() == .some(.normal))
        #expect(await failure { _ = try await client.get([bytes("a")]) }?.code == .closed)
        await client.close()
        try await server.stop()
    }

    @Test("a drain that takes too long ends the calls: unknown for a write, not sent for what waits")
    func drainTimeout() async throws {
        let server = try await FakeServer.start()
        let configuration = try server.configuration {
            $0.timeouts.drain = .milliseconds(50)
            $0.limits.requestsInFlight = 1
        }
        let client = try StorageClient(configuration: configuration, logger: quiet)
        async let run: Void = client.run()
        async let sent = failure { try await client.put([(key: bytes("k"), value: bytes("v"))]) }
        let connection = try #require(await server.connections.next())
        _ = await connection.requests.next()
        async let waiting = failure { try await client.put([(key: bytes("k"), value: bytes("w"))]) }
        while client.counters.calls < 2 { await Task.yield() }
        await client.close()
        #expect(await sent?.code == .outcomeUnknown)
        let notSent = await waiting
        #expect(notSent?.code == .notSent && notSent?.mayHaveTakenEffect == false)
        try await run
        try await server.stop()
    }

    @Test("cancelling run() closes the client")
    func cancelRun() async throws {
        let server = try await FakeServer.start()
        let client = try StorageClient(configuration: server.configuration(), logger: quiet)
        let events = client.events
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await client.run() }
            let connection = try #require(await server.connections.next())
            // The server has welcomed it; now it knows, too.
            for await case .connected in events { break }
            group.cancelAll()
            try await group.waitForAll()
            #expect(await connection.ended.next() == .some(.normal))
        }
        #expect(await failure { _ = try await client.get([bytes("a")]) }?.code == .closed)
        try await server.stop()
    }
}

final class Counter: Sendable {
    private let count = Atomic<Int>(0)
    var value: Int { self.count.load(ordering: .relaxed) }
    func next() -> Int { self.count.wrappingAdd(1, ordering: .relaxed).newValue }
}
