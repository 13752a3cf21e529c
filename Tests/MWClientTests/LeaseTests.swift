import MWClient
import MWProtocol
import NIOCore
import Synchronization
import Testing

/// Who holds a lock, and held it.
private final class Holders: Sendable {
    private struct State {
        var now = 0
        var most = 0
        var tokens: [UInt64] = []
    }

    private let state = Mutex(State())

    func began(_ token: UInt64) {
        self.state.withLock { state in
            state.now += 1
            state.most = max(state.most, state.now)
            state.tokens.append(token)
        }
    }

    func ended() { self.state.withLock { $0.now -= 1 } }

    var most: Int { self.state.withLock { $0.most } }
    var tokens: [UInt64] { self.state.withLock { $0.tokens } }
}

private final class Flag: Sendable {
    private let stored = Atomic(false)

    var isSet: Bool { self.stored.load(ordering: .relaxed) }
    func set() { self.stored.store(true, ordering: .relaxed) }
}

@Suite(.timeLimit(.minutes(10))) struct LeaseTests {
    /// Runs `body` with a lease's time in seconds; with more of it, where a busy machine lost the lease meanwhile.
    private func withTime(_ body: (Int64) async throws -> Void) async throws {
        for seconds in [3, 12, 48] as [Int64] {
            do { return try await body(seconds) } catch let error as ClientError where error.code == .leaseLost && seconds < 48 {}
        }
    }

    @Test("a lease is kept alive at a third of its time")
    func kept() async throws {
        try await self.withTime { seconds in
            let server = try await FakeServer.start()
            try await withNativeClient(server) { client in
                let (kept, keep) = AsyncStream.makeStream(of: Void.self)
                try await withThrowingTaskGroup(of: Void.self) { group in
                    group.addTask {
                        let isLost = try await client.withLease(timeToLive: .seconds(seconds)) { lease in
                            for await _ in kept { break }
                            return lease.isLost
                        }
                        if isLost { throw ClientError(.leaseLost, subject: "", what: "") }
                    }
                    group.addTask { try await Self.answerKeep(server, seconds) { keep.yield() } }
                    // Of what one of them throws the other hears.
                    while try await group.next() != nil {}
                }
            }
            try await server.stop()
        }
    }

    /// Answers the next connection's first request, for a lease.
    private static func grant(_ server: FakeServer, _ seconds: Int64) async throws -> (FakeConnection, NativeLease) {
        let connection = try #require(await server.connections.next())
        var lease = NativeLease()
        lease.lease = 1
        lease.timeToLiveMilliseconds = seconds * 1000
        let (id, _) = try await connection.next(NativeGrantLease.self)
        connection.answer(NativeGrantLease.self, id, lease)
        return (connection, lease)
    }

    private static func answerKeep(_ server: FakeServer, _ seconds: Int64, _ kept: () -> Void) async throws {
        let (connection, lease) = try await grant(server, seconds)
        let (keepID, request) = try await connection.next(NativeKeepLease.self)
        #expect(request.lease == 1)
        connection.answer(NativeKeepLease.self, keepID, lease)
        kept()
        let (revokeID, revoke) = try await connection.next(NativeRevokeLease.self)
        #expect(revoke.lease == 1 && revoke.writeID?.sequence == 2)
        connection.answer(NativeRevokeLease.self, revokeID, written(1))
    }

    @Test("a lease is good while the body runs, and revoked when it ends, whether it returns or throws")
    func held() async throws {
        struct Failure: Error {}
        let store = FakeNativeStore()
        try await store.whileServing { _, configuration in
            try await withClient(configuration) { client in
                let id = try await client.withLease(timeToLive: .seconds(60)) { lease in
                    #expect(store.leases == [lease.id.rawValue] && lease.timeToLive == .seconds(60))
                    // Its whole time is near enough at once.
                    try await lease.waitUntilNearEnd(.seconds(60))
                    #expect(!lease.isLost)
                    try await client.put([(key: bytes("k"), value: bytes("v"))], lease: lease.id)
                    let entry = try #require(try await client.read([bytes("k")]).entries[0])
                    #expect(entry.lease == lease.id)
                    return lease.id
                }
                #expect(id == LeaseID(rawValue: 1) && store.leases.isEmpty)
                #expect(try await client.get(bytes("k")) == nil)
                await #expect(throws: Failure.self) {
                    try await client.withLease(timeToLive: .seconds(60)) { _ -> Void in throw Failure() }
                }
                // Behind the notice that it is given back.
                _ = try await client.get(bytes("k"))
                #expect(store.leases.isEmpty)
            }
        }
    }

    @Test("a lease that the server has lost cancels the body")
    func lost() async throws {
        let store = FakeNativeStore(timeToLive: 30)
        try await store.whileServing { _, configuration in
            try await withClient(configuration) { client in
                let error = await failure {
                    try await client.withLease(timeToLive: .milliseconds(30)) { lease in
                        store.expire([lease.id.rawValue])
                        while !Task.isCancelled { try await Task.sleep(for: .seconds(60)) }
                    }
                }
                #expect(error?.code == .leaseLost)
            }
        }
    }

    @Test("a store with another incarnation is asked nothing about the leases of the one before")
    func anotherStore() async throws {
        try await self.withTime { seconds in
            let server = try await FakeServer.start()
            try await withNativeClient(server) { client in
                let isReplaced = Flag()
                try await withThrowingTaskGroup(of: Void.self) { group in
                    group.addTask {
                        let error = await failure {
                            try await client.withLease(timeToLive: .seconds(seconds)) { lease in
                                while !Task.isCancelled { try await Task.sleep(for: .seconds(60)) }
                                #expect(lease.isLost)
                                throw CancellationError()
                            }
                        }
                        #expect(error?.code == .leaseLost)
                        // By its time, and not by the other store.
                        if let error, !isReplaced.isSet { throw error }
                        _ = try await client.read([bytes("k")])
                    }
                    group.addTask { try await Self.replaceStore(server, seconds, isReplaced) }
                    while try await group.next() != nil {}
                }
            }
            try await server.stop()
        }
    }

    private static func replaceStore(_ server: FakeServer, _ seconds: Int64, _ isReplaced: Flag) async throws {
        let (granting, _) = try await grant(server, seconds)
        _ = try await granting.next(NativeKeepLease.self)
        server.welcome = FakeServer.welcome(store: 2)
        isReplaced.set()
        granting.cut()
        let other = try #require(await server.connections.next())
        // The first request there: `next` refuses any other.
        let (getID, _) = try await other.next(NativeGet.self)
        var values = NativeValues()
        values.entries = [entry("", "", 0)]
        other.answer(NativeGet.self, getID, values)
    }

    @Test("a client whose task is cancelled gives its leases back before it leaves")
    func cancelled() async throws {
        let store = FakeNativeStore()
        try await store.whileServing { _, configuration in
            let (started, start) = AsyncStream.makeStream(of: Void.self)
            await withTaskGroup(of: Void.self) { group in
                group.addTask {
                    try? await withClient(configuration) { client in
                        try await client.withLease(timeToLive: .seconds(60)) { _ in
                            start.yield()
                            while !Task.isCancelled { try await Task.sleep(for: .seconds(60)) }
                        }
                    }
                }
                for await _ in started { break }
                group.cancelAll()
            }
        }
        #expect(store.leases.isEmpty)
    }

    @Test("a lease that nobody confirms in time is lost, and the body cancelled")
    func silent() async throws {
        let server = try await FakeServer.start()
        try await withNativeClient(server) { client in
            async let code = failure {
                try await client.withLease(timeToLive: .milliseconds(200)) { lease in
                    while !Task.isCancelled { try await Task.sleep(for: .seconds(60)) }
                    #expect(lease.isLost)
                    throw CancellationError()
                }
            }?.code
            let connection = try #require(await server.connections.next())
            let (id, _) = try await connection.next(NativeGrantLease.self)
            var lease = NativeLease()
            lease.lease = 1
            lease.timeToLiveMilliseconds = 200
            connection.answer(NativeGrantLease.self, id, lease)
            #expect(await code == .leaseLost)
        }
        try await server.stop()
    }

    @Test(
        "one holds a lock at a time, first come, first served, with a token that grows; whatever connections break", arguments: [0, 1, 2])
    func lock(seed: UInt64) async throws {
        let store = FakeNativeStore(seed: seed, faults: seed == 0 ? 0 : 12)
        let holders = Holders()
        try await store.whileServing { _, configuration in
            try await withClient(configuration) { client in
                try await withThrowingTaskGroup(of: Void.self) { group in
                    for _ in 0..<6 {
                        group.addTask {
                            try await client.lock(bytes("l")) { lock in
                                holders.began(lock.token.number)
                                _ = try await client.get(lock.key)
                                holders.ended()
                            }
                        }
                    }
                    try await group.waitForAll()
                }
                _ = try await client.get(bytes("k"))
                #expect(store.leases.isEmpty)
            }
        }
        let tokens = holders.tokens
        #expect(holders.most == 1 && tokens.count == 6)
        #expect(tokens == tokens.sorted() && Set(tokens).count == 6)
    }

    @Test("a holder that is gone is waited for as long as its lease lives; a lock that stays held is not waited for longer than said")
    func lockOfAnother() async throws {
        let store = FakeNativeStore()
        try await store.whileServing { _, configuration in
            try await withClient(configuration) { client in
                let gone = try await client.grantLease(timeToLive: .seconds(60))
                try await client.put([(key: bytes("l/0"), value: [])], lease: gone.id)
                let late = await failure { try await client.lock(bytes("l"), timeout: .milliseconds(50)) { _ in } }
                #expect(late?.code == .deadlineExceeded && late?.underlying is LockHeldByOthers)
                async let token = client.lock(bytes("l")) { $0.token.number }
                while store.watchCount == 0 { _ = try await client.get(bytes("k")) }
                store.expire([gone.id.rawValue])
                #expect(try await token > 1)
            }
        }
    }
}
