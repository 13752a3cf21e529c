import MWClient
import MWProtocol
import MWWebSocket
import NIOCore
import Testing

@Suite(.timeLimit(.minutes(10))) struct ExactlyOnceTests {
    @Test("whatever breaks, every write that returns was done once, and every one returns", arguments: 0..<12)
    func cuts(seed: UInt64) async throws {
        // Six writers; each value is unique, so that the store can count how often it was put.
        let store = FakeNativeStore(seed: seed, faults: 25)
        try await store.whileServing { _, configuration in
            try await withClient(configuration) { client in
                try await withThrowingTaskGroup(of: Void.self) { writers in
                    for writer in 0..<6 {
                        writers.addTask {
                            for step in 1...25 {
                                try await client.put([(key: bytes("w\(writer)"), value: bytes("\(step)"))])
                                #expect(store.applied("w\(writer)", "\(step)") == 1)
                                #expect(try await client.get(bytes("w\(writer)")) == bytes("\(step)"))
                            }
                        }
                    }
                    try await writers.waitForAll()
                }
                #expect(client.counters.outcomeUnknown == 0 && client.counters.failed == 0)
            }
        }
    }

    @Test(
        "sessions that end at any time: a write that returns was done once, an unknown one at most once, any other never", arguments: 0..<6)
    func sessionsEnd(seed: UInt64) async throws {
        let store = FakeNativeStore(seed: seed, faults: 25)
        try await store.whileServing { _, configuration in
            try await withClient(configuration) { client in
                try await withThrowingTaskGroup(of: Void.self) { writers in
                    for writer in 0..<6 {
                        writers.addTask {
                            for step in 1...25 {
                                if (step + writer) % 7 == 0 { store.forgetSessions() }
                                let code = await failure {
                                    try await client.put([(key: bytes("w\(writer)"), value: bytes("\(step)"))])
                                }?.code
                                let count = store.applied("w\(writer)", "\(step)")
                                switch code {
                                case nil: #expect(count == 1)
                                case .outcomeUnknown?: #expect(count <= 1)
                                default: #expect(count == 0 && code == .refused)
                                }
                            }
                        }
                    }
                    try await writers.waitForAll()
                }
            }
        }
    }

    @Test("a lost reply: the write is sent again under its number, and its first outcome is what it returns")
    func lostReply() async throws {
        let server = try await FakeServer.start()
        try await withNativeClient(server) { client in
            async let put = client.put([(key: bytes("k"), value: bytes("v"))])
            let lost = try #require(await server.connections.next())
            let (_, first) = try await lost.next(NativePut.self)
            lost.cut()
            let connection = try #require(await server.connections.next())
            let (id, second) = try await connection.next(NativePut.self)
            #expect(first == second)
            var outcome = written(7)
            outcome.isRepeated = true
            connection.answer(NativePut.self, id, outcome)
            #expect(try await put.number == 7)
            #expect(client.counters.resent == 1)
        }
        try await server.stop()
    }

    @Test("a write that was lost and is now refused, or comes back to another store, has an unknown outcome; nothing is guessed")
    func unknown() async throws {
        for other in [false, true] {
            let server = try await FakeServer.start()
            try await withNativeClient(server) { client in
                async let code = failure { try await client.put([(key: bytes("k"), value: bytes("v"))]) }?.code
                let lost = try #require(await server.connections.next())
                _ = try await lost.next(NativePut.self)
                if other { server.welcome = FakeServer.welcome(store: 2) }
                lost.cut()
                let connection = try #require(await server.connections.next())
                if !other {
                    let (id, _) = try await connection.next(NativePut.self)
                    connection.fail(NativePut.self, id, NativeFailure(.permissionDenied, "not any more"))
                }
                #expect(await code == .outcomeUnknown)
                // The next write is a new one of a new session there.
                async let put = client.put([(key: bytes("k"), value: bytes("w"))])
                let (id, request) = try await connection.next(NativePut.self)
                #expect(request.writeID?.sequence == (other ? 1 : 2))
                connection.answer(NativePut.self, id, written(3))
                #expect(try await put.incarnation == (other ? Incarnation(Array(repeating: 2, count: 16)) : NativeClientTests.store))
            }
            try await server.stop()
        }
    }

    @Test("a write whose answer cannot be read has an unknown outcome; one whose session was not opened had none, and is tried again")
    func unreadable() async throws {
        let server = try await FakeServer.start()
        try await withNativeClient(server) { client in
            async let error = failure { try await client.put([(key: bytes("k"), value: bytes("v"))]) }
            let connection = try #require(await server.connections.next())
            let opening = try #require(await connection.frames.next())
            var refusal = NativeFailure(.unavailable, "no disk")
            refusal.isRetryable = true
            refusal.mayHaveTakenEffect = true
            connection.fail(NativeOpenSession.self, opening.id, refusal)
            let (id, _) = try await connection.next(NativePut.self)
            connection.reply { buffer in
                NativeFrame.write(.reply, kind: NativeRequestKind.put.rawValue, id: id, to: &buffer) { buffer in
                    buffer.writeNativeField(1) { $0.writeInteger(UInt8(1)) }
                }
            }
            let found = await error
            #expect(found?.code == .outcomeUnknown && found?.mayHaveTakenEffect == true, "\(String(describing: found))")
        }
        try await server.stop()
    }

    @Test("a deadline that passes after the write was sent is an unknown outcome, before it was sent it is none")
    func deadline() async throws {
        let server = try await FakeServer.start()
        try await withNativeClient(server) { client in
            // Connected, with a session: what is put now is sent at once.
            async let first = client.put([(key: bytes("k"), value: [])])
            let connection = try #require(await server.connections.next())
            let (id, _) = try await connection.next(NativePut.self)
            connection.answer(NativePut.self, id, written(1))
            #expect(try await first.number == 1)
            let error = await putUntilSent(client)
            #expect(error?.code == .outcomeUnknown && error?.mayHaveTakenEffect == true, "\(String(describing: error))")
        }
        try await server.stop()

        let silent = try await FakeServer.start()
        silent.welcome = nil
        try await withNativeClient(silent) { client in
            let error = await failure { try await client.put([(key: bytes("k"), value: [])], timeout: .milliseconds(100)) }
            #expect(error?.code == .deadlineExceeded && error?.mayHaveTakenEffect == false)
        }
        try await silent.stop()
    }

    @Test("what the server says may have been done is an unknown outcome; what it cannot do now is asked again")
    func failures() async throws {
        let server = try await FakeServer.start()
        try await withNativeClient(server) { client in
            async let code = failure { try await client.put([(key: bytes("k"), value: [])]) }?.code
            let connection = try #require(await server.connections.next())
            let (id, _) = try await connection.next(NativePut.self)
            connection.fail(NativePut.self, id, NativeFailure(.storageFailure, "who knows", mayHaveTakenEffect: true))
            #expect(await code == .outcomeUnknown)

            async let put = client.put([(key: bytes("k"), value: [])])
            let (busy, first) = try await connection.next(NativePut.self)
            let overloaded = NativeFailure(.overloaded, "busy", isRetryable: true, retryAfterMilliseconds: 1)
            connection.fail(NativePut.self, busy, overloaded)
            let (again, second) = try await connection.next(NativePut.self)
            #expect(first.writeID?.sequence == 2 && second.writeID?.sequence == 2)
            connection.answer(NativePut.self, again, written(3))
            #expect(try await put.number == 3)
        }
        try await server.stop()
    }

    @Test("a drain notice: calls finish on the old connection, the next ones go over a new one, and then the old one is left")
    func draining() async throws {
        let server = try await FakeServer.start()
        try await withNativeClient(server) { client in
            let events = client.events
            async let slow = client.put([(key: bytes("slow"), value: [])])
            let old = try #require(await server.connections.next())
            let (slowID, _) = try await old.next(NativePut.self)
            var notice = NativeDrainNotice()
            notice.withinMilliseconds = 100
            old.reply { [notice] in NativeFrame.write(event: notice, .draining, id: .zero, to: &$0) }
            let new = try #require(await server.connections.next())
            old.answer(NativePut.self, slowID, written(1))
            #expect(try await slow.number == 1)
            for await case .moved in events { break }
            async let fast = client.put([(key: bytes("fast"), value: [])])
            let (id, request) = try await new.next(NativePut.self)
            // The session is the store's, not the connection's.
            #expect(request.writeID?.sequence == 2)
            new.answer(NativePut.self, id, written(2))
            #expect(try await fast.number == 2)
            #expect(await old.ended.next() == .normal)
            #expect(client.counters.failed == 0 && client.counters.resent == 0)
        }
        try await server.stop()
    }
}
