import EngineContract
import MWClient
import MWProtocol
import MWStorage
import Testing

/// Replicas, watches and near caches over real connections, which are cut, to a server that restarts.
@Suite("What stays in sync with a server", .timeLimit(.minutes(10)))
struct ReplicaTests {
    private static func key(_ number: Int) -> [UInt8] { Array("model/\(1000 + number)".utf8) }
    private static let range = KeyRange.prefix(Array("model/".utf8))

    /// Writes `count` times through `client`; returns the last revision.
    private static func write(_ count: Int, through client: StorageClient) async throws -> MWClient.Revision {
        var last = MWClient.Revision.unknown
        for number in 0..<count {
            last = try await client.put([(key: Self.key(number % 50), value: Array("\(number)".utf8)), (key: [1], value: [2])])
            if number % 7 == 3 { last = try await client.remove([Self.key((number + 20) % 50)]) }
        }
        return last
    }

    private static func expectSame(_ replica: Replica, _ client: StorageClient) async throws {
        let held = try replica.scan()
        let keys = (0..<50).map { Self.key($0) }
        let stored = try await client.read(keys).entries.compactMap { $0 }
        #expect(held.value == stored)
    }

    @Test("a replica is as the store is after loading, changes, cuts and a restart")
    func replica() async throws {
        try await SyncServer.with { server in
            try await server.withClient { client in
                _ = try await Self.write(60, through: client)
                let replica = try client.replica(of: [Self.range])
                try await replica.waitUntilLoaded()
                try await Self.expectSame(replica, client)

                try await replica.waitUntil(Self.write(30, through: client))
                try await Self.expectSame(replica, client)

                for _ in 0..<3 {
                    try await server.cut()
                    try await replica.waitUntil(Self.write(20, through: client))
                    try await Self.expectSame(replica, client)
                }

                await server.stop()
                try await server.start()
                try await replica.waitUntil(Self.write(20, through: client))
                try await Self.expectSame(replica, client)
                #expect(try replica.get(Self.key(1)).isStale == false)
            }
        }
    }

    @Test("a revision of keys outside of a replica ends a wait, too")
    func foreignRevision() async throws {
        try await SyncServer.with { server in
            try await server.withClient { client in
                let replica = try client.replica(of: [Self.range])
                try await replica.waitUntilLoaded()
                let revision = try await client.put([(key: [9], value: [9])])
                try await replica.waitUntil(revision)
                #expect(replica.revision?.includes(revision) == true)
            }
        }
    }

    @Test("a replica reads as stale without its server, and loads another store whole")
    func anotherStore() async throws {
        try await SyncServer.with { server in
            try await server.withClient { client in
                let revision = try await client.put([(key: Self.key(1), value: [1]), (key: Self.key(2), value: [2])])
                let replica = try client.replica(of: [Self.range])
                try await replica.waitUntil(revision)
                let changes = replica.changes()
                await server.stop()
                try server.replaceStore()
                var events = changes.makeAsyncIterator()
                guard case .status(.stale) = try await events.next() else {
                    Issue.record("it is not stale")
                    return
                }
                let held = try replica.get(Self.key(1))
                #expect(held.isStale && held.value?.value == [1])

                try await server.start()
                let restored = try await client.put([(key: Self.key(2), value: [3])])
                #expect(restored.incarnation != revision.incarnation)
                try await replica.waitUntil(restored)
                try await Self.expectSame(replica, client)
                // Whatever was reported between, together it makes what is held.
                var model = Dictionary(uniqueKeysWithValues: (changes.start?.scan() ?? []).map { ($0.key, $0) })
                let now = try replica.scan().value
                while model.values.sorted(by: { $0.key.lexicographicallyPrecedes($1.key) }) != now {
                    guard let event = try await events.next() else { break }
                    guard case .changes(_, let parts) = event else { continue }
                    for change in parts {
                        #expect(model[change.key] == change.before)
                        model[change.key] = change.after
                    }
                }
                await #expect(throws: ClientError.self) { try await replica.waitUntil(revision, timeout: .seconds(5)) }
            }
        }
    }

    @Test("a replica that missed more than history holds is loaded again")
    func compacted() async throws {
        try await SyncServer.with { server in
            try await server.withClient { reader in
                let replica = try reader.replica(of: [Self.range])
                try await replica.waitUntilLoaded()
                let other = try reader.watch([Self.range], from: .after(try #require(replica.revision)))
                let last = try await Self.write(5, through: reader)
                try await replica.waitUntil(last)
                let storage = try #require(server.storage)
                _ = try await storage.compact(to: storage.revision)
                // Who is current needs no history; who is not, learns of the gap.
                try await server.cut()
                try await replica.waitUntil(Self.write(5, through: reader))
                try await Self.expectSame(replica, reader)
                await #expect(throws: ClientError(.compacted, subject: "watch", what: "a gap")) {
                    for try await _ in other {}
                }
            }
        }
    }

    @Test("a watch reports each revision once and whole, across cuts")
    func watch() async throws {
        try await SyncServer.with { server in
            try await server.withClient { client in
                let start = try await client.put([(key: Self.key(0), value: [0])])
                var events = try client.watch([.all], from: .after(start)).makeAsyncIterator()
                var written: [UInt64] = []
                for number in 1...40 {
                    if number % 10 == 5 { try await server.cut() }
                    let revision = try await client.put([(key: Self.key(number), value: [1]), (key: Self.key(number + 100), value: [2])])
                    written.append(revision.number)
                }
                var reported: [UInt64] = []
                while reported.count < written.count, let event = try await events.next() {
                    guard case .changes(let revision, let changes) = event else { continue }
                    #expect(changes.count == 2)
                    reported.append(revision.number)
                }
                #expect(reported == written)
            }
        }
    }

    @Test("a reader who is slow is paused, delays nobody, and misses nothing")
    func slowReader() async throws {
        try await SyncServer.with { server in
            try await server.withClient { client in
                let start = try await client.put([(key: Self.key(0), value: [0])])
                var options = WatchOptions()
                options.maximumBufferedBytes = 2_000
                var events = try client.watch([.all], from: .after(start), options: options).makeAsyncIterator()
                guard case .synced = try await events.next() else {
                    Issue.record("it is not synced")
                    return
                }
                var last = start
                for number in 0..<200 { last = try await client.put([(key: Self.key(number), value: Array(repeating: 7, count: 100))]) }
                var reported: [UInt64] = []
                while reported.last != last.number, let event = try await events.next() {
                    if case .changes(let revision, _) = event { reported.append(revision.number) }
                }
                #expect(reported == Array(start.number + 1...last.number))
            }
        }
    }

    @Test("a near cache reads from memory what did not change, and nothing else")
    func nearCache() async throws {
        try await SyncServer.with { server in
            try await server.withClient { client in
                try await client.put([(key: Self.key(1), value: [1]), (key: Self.key(2), value: [2])])
                let cache = try client.nearCache(of: [Self.range])
                // A replica beside it says when a change has been told: both hear it on one connection, the cache first.
                let replica = try client.replica(of: [Self.range])
                try await replica.waitUntilLoaded()
                while !cache.isOpen { await Task.yield() }
                #expect(try await cache.get(Self.key(1))?.value == [1])
                #expect(try await cache.get(Self.key(1))?.value == [1])
                #expect(cache.counters.hits == 1)
                try await replica.waitUntil(client.put([(key: Self.key(1), value: [5])]))
                while cache.counters.invalidations == 0 { await Task.yield() }
                #expect(try await cache.get(Self.key(1))?.value == [5])
                try await cache.put([(key: Self.key(1), value: [6])])
                #expect(try await cache.get(Self.key(1))?.value == [6])
                _ = try await cache.get(Self.key(2))
                try await server.cut()
                try await cache.put([(key: Self.key(1), value: [7])])
                while !cache.isOpen { await Task.yield() }
                #expect(try await cache.get([Self.key(1), Self.key(2), Self.key(3)]).map { $0?.value } == [[7], [2], nil])
            }
        }
    }

    @Test("a reload notice is acknowledged when copies are whole again and the program has done its part")
    func reloads() async throws {
        try await SyncServer.with { server in
            try await server.withClient { client in
                let revision = try await client.put([(key: Self.key(1), value: [1])])
                let replica = try client.replica(of: [Self.range])
                try await replica.waitUntil(revision)
                let requests = client.reloadRequests
                // The stream is registered before this is answered.
                _ = try await client.read([Self.key(1)])
                var request = NativeReloadClientsRequest()
                request.reason = "test"
                let told = try await server.reloadClients(request) {
                    for await request in requests {
                        #expect(request.reason == "test" && request.ranges.isEmpty)
                        request.done()
                        break
                    }
                }
                #expect(told.asked == 1 && told.acknowledged == 1 && told.unanswered.isEmpty)
                try await Self.expectSame(replica, client)
            }
        }
    }
}
