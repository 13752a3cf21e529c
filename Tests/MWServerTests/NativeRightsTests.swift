import EngineContract
import MWProtocol
import MWStorage
import NIOCore
import Testing

@testable import MWServer

/// What becomes of native requests beyond the rights of who asks: all or nothing, and before storage knows of them.
@Suite struct NativeRightsTests {
    private static func prefixes(_ texts: String...) -> AccessGrant.Keys { .prefixes(texts.map { Array($0.utf8) }) }

    private static func reader(_ harness: StorageHarness) throws -> NativeHarnessClient {
        try harness.connectNative(as: try VerifiedPeers.principal("reader", [AccessGrant(.read, over: self.prefixes("world/"))]))
    }

    private static func writer(_ harness: StorageHarness) throws -> NativeHarnessClient {
        try harness.connectNative(as: try VerifiedPeers.principal("writer", [AccessGrant(.write, over: self.prefixes("world/"))]))
    }

    private func filled() throws -> StorageHarness {
        let harness = try StorageHarness()
        let client = try harness.connectNative()
        _ = try client.write(NativePut([("world/a", "1"), ("other/a", "secret")]))
        return harness
    }

    private func isDenied<Request: NativeRequest>(_ request: Request, _ client: NativeHarnessClient, _ harness: StorageHarness) throws
        -> Bool
    {
        let before = (harness.disk.writeCount, harness.sessions.loop.counters.deniedRequests)
        let failure = try client.failure(of: request)
        guard let failure, failure.code == .permissionDenied else { return false }
        #expect(!failure.isRetryable && !failure.mayHaveTakenEffect && !failure.detail.contains("other/"))
        #expect(harness.disk.writeCount == before.0)
        #expect(harness.sessions.loop.counters.deniedRequests == before.1 + 1)
        return true
    }

    @Test func `A get of which one key is outside the rights reads none, whether that key exists or not`() throws {
        let harness = try self.filled()
        let client = try Self.reader(harness)
        #expect(try client.ask(NativeGet(["world/a"])).entries.map(\.shown) == ["=1@1"])
        #expect(try self.isDenied(NativeGet(["world/a", "other/a"]), client, harness))
        #expect(try self.isDenied(NativeGet(["other/none", "world/a"]), client, harness))
        #expect(try self.isDenied(NativeGet([]), try Self.writer(harness), harness))
        #expect(try client.ask(NativeGet([])).entries.isEmpty)
        let audited = try #require(harness.sessions.loop.audit.rejections.latest().first)
        #expect(audited.rejection.stage == .request && audited.rejection.check == "read")
        #expect(audited.rejection.reason == "get is not allowed")
    }

    @Test func `A put or remove of which one key is outside the rights does nothing`() throws {
        let harness = try self.filled()
        let client = try Self.writer(harness)
        #expect(try self.isDenied(NativePut([("world/b", "2"), ("other/b", "2")]), client, harness))
        #expect(try self.isDenied(NativeRemove(["world/a", "other/a"]), client, harness))
        #expect(try client.write(NativePut([("world/b", "2")])).changes == 1)
        #expect(try client.write(NativeRemove(["world/b"])).changes == 1)
        let reader = try Self.reader(harness)
        #expect(try self.isDenied(NativePut([("world/b", "2")]), reader, harness))
        #expect(try self.isDenied(NativeRemove(["world/b"]), reader, harness))
        #expect(try self.isDenied(NativePut([]), reader, harness))
        #expect(try self.isDenied(NativeRemove([]), reader, harness))
    }

    @Test func `A scan needs the whole of its range, in a snapshot too`() throws {
        let harness = try self.filled()
        let client = try Self.reader(harness)
        #expect(try client.ask(NativeScan("world/", upTo: "world0")).entries.map(\.shown) == ["world/a=1@1"])
        #expect(try self.isDenied(NativeScan(), client, harness))
        #expect(try self.isDenied(NativeScan("world/", upTo: "world1"), client, harness))
        #expect(try self.isDenied(NativeScan("other/", upTo: "world0"), client, harness))
        let snapshot = try client.ask(NativeOpenSnapshot()).snapshot
        #expect(try self.isDenied(NativeScan(snapshot: snapshot), client, harness))
        #expect(try self.isDenied(NativeGet(["other/a"], snapshot: snapshot), client, harness))
        #expect(try self.isDenied(NativeOpenSnapshot(), try Self.writer(harness), harness))
    }

    @Test func `A transaction needs read for what it looks at and write for what it changes, in both branches, whichever would run`() throws
    {
        let harness = try self.filled()
        let (reader, writer) = (try Self.reader(harness), try Self.writer(harness))
        let holds = NativeCompare("world/a", 0, 0, number: 1)
        #expect(try self.isDenied(NativeTransaction(if: [holds], then: [.get("other/a")]), reader, harness))
        #expect(try self.isDenied(NativeTransaction(if: [NativeCompare("other/a", 2, 0, value: "x")], then: []), reader, harness))
        #expect(try self.isDenied(NativeTransaction(if: [holds], then: [], else: [.put("world/a", "2")]), reader, harness))
        #expect(try self.isDenied(NativeTransaction(if: [holds], then: [], else: [.get("other/a")]), reader, harness))
        #expect(try self.isDenied(NativeTransaction(if: [holds], then: [.put("world/b", "2")]), writer, harness), "a condition is a read")
        #expect(try self.isDenied(NativeTransaction(then: [.put("world/b", "2"), .remove("other/a")]), writer, harness))
        #expect(try self.isDenied(NativeTransaction(then: [.put("world/b", "2")], else: [.remove("other/a")]), writer, harness))
        #expect(try self.isDenied(NativeTransaction(then: []), writer, harness))
        #expect(try reader.write(NativeTransaction(if: [holds], then: [.get("world/a")])).hasSucceeded)
    }

    @Test func `A transaction does not tell what it wrote over to whom may not read it`() throws {
        let harness = try self.filled()
        let writer = try Self.writer(harness)
        let outcome = try writer.write(NativeTransaction(then: [.put("world/a", "2"), .remove("world/a")]))
        #expect(outcome.results.map(\.shown) == ["world/a=@0", "world/a=@0"])
    }

    @Test func `Prefixes, sessions and leases need the right to write some key`() throws {
        let harness = try self.filled()
        let (reader, writer) = (try Self.reader(harness), try Self.writer(harness))
        var grant = NativeGrantLease()
        grant.timeToLiveMilliseconds = 10_000
        var keep = NativeKeepLease()
        keep.lease = 1
        var revoke = NativeRevokeLease()
        revoke.lease = 1
        var resume = NativeResumeSession()
        resume.session = ByteBuffer(repeating: 1, count: 16)
        var close = NativeCloseSession()
        close.session = resume.session
        #expect(try self.isDenied(NativeAllocatePrefix(), reader, harness))
        #expect(try self.isDenied(NativeOpenSession(), reader, harness))
        #expect(try self.isDenied(resume, reader, harness))
        #expect(try self.isDenied(close, reader, harness))
        #expect(try self.isDenied(grant, reader, harness))
        #expect(try self.isDenied(keep, reader, harness))
        #expect(try self.isDenied(revoke, reader, harness))
        _ = try writer.write(NativeAllocatePrefix())
        _ = try writer.write(NativeOpenSession())
        _ = try writer.write(grant)
    }

    @Test func `Rights that change hold from the next request on, for a snapshot that is open too`() throws {
        let harness = try self.filled()
        let client = try harness.connectNative()
        let snapshot = try client.ask(NativeOpenSnapshot()).snapshot
        #expect(try client.ask(NativeGet(["other/a"], snapshot: snapshot)).entries.map(\.shown) == ["=secret@1"])
        var outcome = JudgingOutcome()
        let less = try VerifiedPeers.principal("alice", [AccessGrant(.read, over: Self.prefixes("world/"))])
        client.client.session.apply(.admitted(client.client.session.peer, less), generation: 2, counting: &outcome)
        #expect(outcome.changed == 1)
        #expect(try self.isDenied(NativeGet(["other/a"], snapshot: snapshot), client, harness))
        #expect(try self.isDenied(NativeScan(snapshot: snapshot), client, harness))
        #expect(try self.isDenied(NativePut([("world/a", "2")]), client, harness))
        #expect(try client.ask(NativeGet(["world/a"], snapshot: snapshot)).entries.map(\.shown) == ["=1@1"])
    }
}
