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

@Suite(.timeLimit(.minutes(10))) struct StorageClientBoundsTests {
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
            let exceeded = await putUntilSent(client)
            let late = try #require(await connection.requests.next())
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

    @Test("what a server sends right behind its 101 does not count as its answer to the opening handshake")
    func muchBehindOpening() async throws {
        let value = String(repeating: "v", count: 10_000)
        let server = try await FakeServer.start([.upgradeWithReload("k#\(value)#")])
        let configuration = try server.configuration { $0.limits.maximumOpeningHandshakeBytes = 1_024 }
        let client = try StorageClient(configuration: configuration, logger: quiet)
        let reloads = client.reloads
        async let run: Void = client.run()
        var iterator = reloads.makeAsyncIterator()
        #expect(await iterator.next()?.changes.first?.value == bytes(value))
        #expect(server.acceptedCount == 1)
        await client.close()
        try await run
        try await server.stop()
    }

    @Test("reloads that nobody reads are bounded in bytes, and those missed are counted")
    func reloadBytes() async throws {
        let server = try await FakeServer.start()
        let configuration = try server.configuration { $0.queue.maximumReloadBytes = 2_500 }
        try await withClient(configuration) { client in
            let reloads = client.reloads
            let connection = try #require(await server.connections.next())
            let value = String(repeating: "v", count: 1_000)
            func send(_ keys: [String]) async throws {
                for key in keys { connection.forceReload("\(key)#\(value)#") }
                // What came before an answer has come.
                async let prefix = client.allocatePrefix()
                connection.reply(prefix: 1, to: try #require(await connection.requests.next()))
                _ = try await prefix
            }
            try await send(["a", "b", "c", "d"])
            #expect(client.counters.reloads == 4 && client.counters.reloadsDropped == 2)
            var iterator = reloads.makeAsyncIterator()
            #expect(await iterator.next()?.changes.first?.key == bytes("a"))
            #expect(await iterator.next()?.changes.first?.key == bytes("b"))
            try await send(["e"])
            let next = await iterator.next()
            #expect(next?.changes.first?.key == bytes("e") && next?.missedBefore == 2)
        }
        try await server.stop()
    }

    @Test("a server that answers nothing loses the connection, and the next one serves")
    func unresponsive() async throws {
        let server = try await FakeServer.start()
        let configuration = try server.configuration { $0.limits.requestsInFlight = 1 }
        try await withClient(configuration) { client in
            let first = try #require(await server.connections.next())
            let error = await putUntilSent(client)
            #expect(error?.code == .deadlineExceeded && error?.mayHaveTakenEffect == true)
            #expect(await first.requests.next() != nil)
            async let prefix = client.allocatePrefix()
            let second = try #require(await server.connections.next())
            second.reply(prefix: 7, to: try #require(await second.requests.next()))
            #expect(try await prefix == 7)
        }
        try await server.stop()
    }

    @Test("several hundred KiB in one put, several MiB in one answer")
    func largeMessages() async throws {
        let server = try await FakeServer.start()
        try await withClient(server.configuration()) { client in
            let value = [UInt8](repeating: UInt8(ascii: "x"), count: 700_000)
            async let put = client.put([(key: bytes("k"), value: value)])
            let connection = try #require(await server.connections.next())
            let request = try #require(await connection.requests.next())
            guard case .put(let pairs, _) = request else {
                Issue.record("\(request)")
                return
            }
            #expect(pairs.bytes.readableBytes == 700_002)
            connection.reply(done: true, to: request)
            _ = try await put
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
