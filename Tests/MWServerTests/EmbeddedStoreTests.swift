import MWProtocol
import MWServer
import MWStorage
import NIOCore
import Testing

/// A program that has the server in it, and the server's clients, in one store.
@Suite struct EmbeddedStoreTests {
    private static func bytes(_ text: String) -> [UInt8] { Array(text.utf8) }

    @Test func `The program and its clients see at once what the other puts`() async throws {
        try await RunningServer.with({ $0.drainTimeout = .milliseconds(100) }) { running in
            let store = try #require(running.server.store)
            let client = try await running.connectNative()
            let written = try await client.ask(NativePut([("a", "1")]))
            let entry = try #require(try store.get(Self.bytes("a")))
            #expect(entry.value == Self.bytes("1") && entry.revision.number == UInt64(written.revision))
            let revision = try await store.put([(Self.bytes("a"), Self.bytes("2")), (Self.bytes("b"), Self.bytes("3"))])
            #expect(revision.number == 2 && store.revision == revision)
            #expect(try await client.ask(NativeGet(["a", "b"])).entries.map(\.shown) == ["=2@2", "=3@2"])
            try await store.remove([Self.bytes("b")])
            #expect(try await client.ask(NativeGet(["b"])).entries.map(\.shown) == ["=@0"])
            #expect(try store.get([Self.bytes("b"), Self.bytes("a")]).map { $0?.value } == [nil, Self.bytes("2")])
        }
    }

    @Test func `The program's transactions are atomic among those of clients, and its scans are of one revision`() async throws {
        try await RunningServer.with({ $0.drainTimeout = .milliseconds(100) }) { running in
            let store = try #require(running.server.store)
            let key = Self.bytes("lock")
            let won = try await store.transaction(if: [.isAbsent(key)], then: [.put(key, Self.bytes("program"))], otherwise: [.get(key)])
            #expect(won.hasSucceeded && won.entries == [nil])
            let client = try await running.connectNative()
            let lost = try await client.ask(
                NativeTransaction(if: [NativeCompare("lock", 0, 0, number: 0)], then: [.put("lock", "client")], else: [.get("lock")]))
            #expect(!lost.hasSucceeded && lost.results.map(\.shown) == ["lock=program@1"])
            let again = try await store.transaction(
                if: [.exists(key), .isAtRevision(key, 1), .hasValue(key, Self.bytes("program"))], then: [.remove(key), .put([1], [])])
            #expect(again.hasSucceeded && again.entries.map { $0?.value } == [Self.bytes("program"), nil])
            let page = try store.scan()
            #expect(page.entries.map(\.key) == [[1]] && !page.hasMore && page.revision == again.revision)
            for number: UInt8 in 2...9 { try await store.put([number], [number]) }
            let backward = try store.scan(.init(from: [2], to: [9]), isBackward: true, isKeysOnly: true, limit: 3)
            #expect(backward.entries.map(\.key) == [[8], [7], [6]] && backward.hasMore && backward.entries.allSatisfy(\.value.isEmpty))
            #expect(try store.scan(.init(from: [9], to: [2])).entries.isEmpty)
        }
    }

    @Test func `The program watches every change of clients, once and in order, and from a revision that it kept`() async throws {
        try await RunningServer.with({ $0.drainTimeout = .milliseconds(100) }) { running in
            let store = try #require(running.server.store)
            let start = store.revision
            let sequence = store.changes(in: [.init(prefix: Self.bytes("a"))])
            let client = try await running.connectNative()
            for number in 1...5 { _ = try await client.ask(NativePut([("a\(number)", "\(number)"), ("b\(number)", "x")])) }
            _ = try await client.ask(NativeRemove(["a1", "b1"]))
            var iterator = sequence.makeAsyncIterator()
            for number: UInt64 in 1...5 {
                let changes = try #require(try await iterator.next())
                #expect(changes.revision.number == number && changes.changes.map(\.key) == [Self.bytes("a\(number)")])
                #expect(changes.changes[0].value == Self.bytes("\(number)") && changes.changes[0].previousRevision == 0)
            }
            let removal = try #require(try await iterator.next())
            #expect(removal.changes.map(\.key) == [Self.bytes("a1")])
            #expect(removal.changes[0].value == nil && removal.changes[0].previousRevision == 1)
            // One that waits already when something changes.
            let now = store.revision
            async let next = Self.firstChange(behind: now, of: store)
            try await store.put(Self.bytes("z"), Self.bytes("9"))
            #expect(try await next?.changes.map(\.key) == [Self.bytes("z")])
            #expect(try await Self.firstChange(behind: start, of: store)?.revision.number == 1)
            let foreign = EmbeddedStore.Revision(incarnation: "0", number: 1)
            await #expect(throws: StorageError.self) { try await Self.firstChange(behind: foreign, of: store) }
        }
    }

    private static func firstChange(behind revision: EmbeddedStore.Revision, of store: EmbeddedStore) async throws -> EmbeddedStore.Changes?
    {
        var iterator = store.changes(after: revision).makeAsyncIterator()
        return try await iterator.next()
    }

    @Test func `Whoever waits for a change when the server stops is told that there is none, and calls throw`() async throws {
        var kept: EmbeddedStore?
        try await RunningServer.with({ $0.drainTimeout = .milliseconds(100) }) { running in
            let store = try #require(running.server.store)
            kept = store
            async let next = Self.firstChange(behind: store.revision, of: store)
            await running.server.stop()
            #expect(try await next == nil)
            #expect(running.server.store == nil)
        }
        let store = try #require(kept)
        await #expect(throws: StorageError.self) { try await store.put([1], [1]) }
        #expect(try await Self.firstChange(behind: store.revision, of: store) == nil)
    }
}
