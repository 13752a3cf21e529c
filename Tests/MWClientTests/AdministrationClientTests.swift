import Logging
import MWClient
import MWProtocol
import MWWebSocket
import NIOCore
import Testing

/// The client of the native protocol against a server that answers what the test says.
@Suite(.timeLimit(.minutes(10))) struct AdministrationClientTests {
    private static func with(
        _ server: FakeServer, _ change: (inout StorageClientConfiguration) -> Void = { _ in },
        _ body: (AdministrationClient) async throws -> Void
    ) async throws {
        try await AdministrationClient.with(server.configuration(change), logger: quiet, body)
    }

    @Test("replies are matched by id, whatever message they share and whatever comes between them")
    func matched() async throws {
        let server = try await FakeServer.start()
        try await Self.with(server) { client in
            async let first = client.ask(NativePing(payload: ByteBuffer(string: "1")))
            let connection = try #require(await server.connections.next())
            let one = try #require(await connection.frames.next())
            async let second = client.ask(NativePing(payload: ByteBuffer(string: "2")))
            let two = try #require(await connection.frames.next())
            #expect(one.kind == NativeRequestKind.ping.rawValue && one.role == .request && one.id != two.id)
            connection.reply { buffer in
                NativeFrame(.event, kind: 77, id: two.id).write(to: &buffer)
                for frame in [two, one] {
                    NativeFrame(.reply, kind: frame.kind, id: frame.id, fields: frame.fields).write(to: &buffer)
                }
            }
            #expect(try await String(buffer: first.payload) == "1")
            #expect(try await String(buffer: second.payload) == "2")
        }
        try await server.stop()
    }

    @Test("a failure is an error of its kind, with the server's words and advice")
    func failures() async throws {
        let server = try await FakeServer.start()
        let cases: [(NativeFailure, ClientError.Code)] = [
            (NativeFailure(.permissionDenied, "no", remedy: "ask"), .forbidden), (NativeFailure(.unknownRequest, "no"), .protocolMismatch),
            (NativeFailure(.invalidArgument, "no"), .invalidArgument),
            (NativeFailure(.overloaded, "no", isRetryable: true, retryAfterMilliseconds: 1500), .refused),
            (NativeFailure(.init(rawValue: 999), "no"), .refused),
        ]
        // What may succeed later is asked again as far as the budget reaches: not at all.
        try await Self.with(
            server,
            { configuration in
                configuration.reconnection.retryReserve = 0
                configuration.reconnection.retryPercent = 0
            }
        ) { client in
            var connection: FakeConnection?
            for (failure, code) in cases {
                async let thrown = MWClientTests.failure { _ = try await client.ask(NativeStatusRequest()) }
                if connection == nil { connection = await server.connections.next() }
                let request = try #require(await connection?.frames.next())
                connection?.reply { NativeFrame.write(failure: failure, of: .status, id: request.id, to: &$0) }
                let error = try #require(await thrown)
                #expect(error.code == code && error.found == "no", "\(error)")
                #expect(error.underlying as? NativeFailure == failure)
                if code == .forbidden { #expect(error.remedy == "ask") }
                if failure.code == .overloaded { #expect(error.remedy?.contains("1500 ms") == true) }
            }
        }
        try await server.stop()
    }

    @Test("a server that selects no subprotocol, or refuses it, is of no use, and is not asked again")
    func noSubprotocol() async throws {
        let refusal = "HTTP/1.1 400 Bad Request\r\nContent-Length: 5\r\n\r\nnone\n"
        for opening: FakeServer.Opening in [.upgradeWithoutSubprotocol, .answer(refusal)] {
            let server = try await FakeServer.start([opening])
            try await Self.with(server) { client in
                let error = await failure { _ = try await client.ask(NativeWhoAmI()) }
                #expect(error?.code == .protocolMismatch, "\(String(describing: error))")
            }
            #expect(server.acceptedCount == 1)
            try await server.stop()
        }
    }

    @Test("what is no answer ends the connection with its close code, and the call with it")
    func broken() async throws {
        let broken: [(CloseCode, @Sendable (RequestID, inout ByteBuffer) -> Void)] = [
            (.protocolError, { _, buffer in buffer.writeBytes([0, 0, 0, 99, 1]) }),
            (.unsupportedData, { id, buffer in NativeFrame(.request, kind: 3, id: id).write(to: &buffer) }),
            (.protocolError, { id, buffer in NativeFrame(.reply, kind: 16, id: id).write(to: &buffer) }),
            (.protocolError, { _, buffer in NativeFrame(.reply, kind: 3, id: RequestID(4711)).write(to: &buffer) }),
        ]
        for (code, write) in broken {
            let server = try await FakeServer.start()
            try await Self.with(server, { $0.reconnection.maximumFailedRounds = 1 }) { client in
                async let thrown = failure { _ = try await client.ask(NativeWhoAmI()) }
                let connection = try #require(await server.connections.next())
                let request = try #require(await connection.frames.next())
                connection.reply { write(request.id, &$0) }
                #expect(await thrown?.code == .protocolMismatch)
                #expect(await connection.ended.next() == code)
            }
            try await server.stop()
        }
    }

    @Test("an answer that cannot be read fails its call only; one that lacks fields has their defaults")
    func unreadable() async throws {
        let server = try await FakeServer.start()
        try await Self.with(server) { client in
            async let thrown = failure { _ = try await client.ask(NativeWhoAmI()) }
            let connection = try #require(await server.connections.next())
            let request = try #require(await connection.frames.next())
            let torn = NativeFields(bytes: ByteBuffer(bytes: [0, 1, 0, 0, 0, 9]))
            connection.reply { NativeFrame(.reply, kind: 3, id: request.id, fields: torn).write(to: &$0) }
            #expect(await thrown?.code == .protocolMismatch)

            async let identity = client.ask(NativeWhoAmI())
            let again = try #require(await connection.frames.next())
            connection.reply { NativeFrame(.reply, kind: 3, id: again.id).write(to: &$0) }
            #expect(try await identity == NativeIdentity())
        }
        try await server.stop()
    }

    @Test("a question is asked again on the next connection, and pages are asked for until the last")
    func again() async throws {
        let server = try await FakeServer.start()
        try await Self.with(server) { client in
            async let sessions = client.sessions()
            let lost = try #require(await server.connections.next())
            _ = await lost.frames.next()
            lost.cut()
            let connection = try #require(await server.connections.next())
            for page: Int64 in 1...3 {
                let request = try #require(await connection.frames.next())
                #expect(try NativeSessionsRequest(request.fields).after == page - 1)
                var reply = NativeSessions()
                reply.sessions = [NativeSessionEntry()]
                reply.sessions[0].connection = page
                reply.hasMore = page < 3
                connection.reply { [reply] in NativeFrame.write(reply: reply, to: .sessions, id: request.id, to: &$0) }
            }
            #expect(try await sessions.map(\.connection) == [1, 2, 3])
        }
        try await server.stop()
    }
}
