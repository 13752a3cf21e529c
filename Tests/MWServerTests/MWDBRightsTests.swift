import EngineContract
import MWProtocol
import MWWebSocket
import NIOCore
import NIOEmbedded
import Testing

@testable import MWServer

/// What becomes of mwDB's requests beyond the rights of who asks. Sessions on an embedded loop, over a store in memory that counts what reaches it.
@Suite struct MWDBRightsTests {
    private static func prefix(_ text: String) -> AccessGrant.Keys { .prefixes([Array(text.utf8)]) }

    /// As a reload does.
    private func change(_ client: HarnessClient, to principal: Principal) {
        var outcome = JudgingOutcome()
        client.session.apply(.admitted(client.session.peer, principal), generation: 2, counting: &outcome)
        #expect(outcome.changed == 1)
    }

    private func closes(_ client: HarnessClient) throws -> [WebSocketEvent] {
        try client.receive().filter { if case .closeReceived = $0 { true } else { false } }
    }

    @Test func `A put or remove outside the rights is answered as failed, stores nothing, and is logged with principal, right and key`()
        throws
    {
        let harness = try StorageHarness()
        try harness.putInProcess("other/k", "old")
        let before = harness.disk.writeCount
        let client = try harness.connect(
            as: try VerifiedPeers.principal("writer", [AccessGrant([.read, .write], over: Self.prefix("world/"))]))
        try client.send("other/k\u{1}#v#\u{2}C")
        #expect(try client.messages() == ["\u{0}#\u{3}C"])
        try client.send("other/k#\u{3}E")
        #expect(try client.messages() == ["\u{0}#\u{4}E"])
        #expect(harness.disk.writeCount == before)
        let line = try #require(harness.sessions.log.lines("request failed").first)
        #expect(line.metadata["principal"] == "writer")
        #expect(line.metadata["reason"] == "denied: put without the right write over the key 'other/k\\x01'")
        // The ring counts the same refusal of the same peer.
        let audited = try #require(harness.sessions.loop.audit.rejections.latest().first)
        #expect(audited.count == 2 && audited.rejection.stage == .request && audited.rejection.principal == "writer")
        #expect(audited.rejection.reason == "put is not allowed" && audited.rejection.check == "write")
        #expect(harness.sessions.loop.counters.deniedRequests == 2 && harness.sessions.loop.counters.failedRequests == 2)
        // What it may do goes on.
        try client.send("world/k#v#\u{2}G")
        harness.deliver(1)
        #expect(try client.messages() == ["\u{1}#\u{3}G"])
    }

    @Test func `A put or remove of several keys of which one is outside the rights stores none of them`() throws {
        let harness = try StorageHarness()
        try harness.putInProcess("world/old", "1")
        let before = harness.disk.writeCount
        let client = try harness.connect(
            as: try VerifiedPeers.principal("writer", [AccessGrant([.read, .write], over: Self.prefix("world/"))]))
        try client.send("world/a#1#world/b#2#other#3#\u{2}C")
        try client.send("world/old#worlds#\u{3}E")
        #expect(try client.messages() == ["\u{0}#\u{3}C", "\u{0}#\u{4}E"])
        #expect(harness.disk.writeCount == before)
        try client.send("world/a#world/b#world/old#\u{0}G")
        #expect(try client.messages() == ["##1#\u{1}G"])
    }

    /// An empty value would say that there is nothing: a client that believes it may put over what it cannot see.
    @Test(arguments: ["other/there", "other/missing", "world/k#other/there"])
    func `A get outside the rights is closed with 1008 whether the key exists or not, without a read`(keys: String) throws {
        let harness = try StorageHarness()
        try harness.putInProcess("other/there", "secret")
        let client = try harness.connect(as: try VerifiedPeers.principal("reader", [AccessGrant(.read, over: Self.prefix("world/"))]))
        try client.send("\(keys)#\u{0}C")
        guard case .closeReceived(let code, let reason)? = try self.closes(client).first else {
            Issue.record("not closed")
            return
        }
        #expect(code == .policyViolation)
        #expect(reason == "request 1 denied: get without the right read over all of its keys")
        #expect(harness.sessions.loop.counters.keysRead == 0)
        #expect(harness.sessions.log.lines("connection closed").first?.metadata["cause"] == "requestDenied")
    }

    @Test func `Whoever may read or write something gets a prefix, as the original client asks for one; nobody else does`() throws {
        let harness = try StorageHarness()
        for right in [AccessRights.read, .write] {
            let client = try harness.connect(as: try VerifiedPeers.principal("some", [AccessGrant(right, over: Self.prefix("world/"))]))
            try client.send("\u{6}A")
            harness.deliver(1)
            #expect(try client.messages().count == 1)
        }
        let watcher = try harness.connect(as: try VerifiedPeers.principal("watcher", [AccessGrant([.watch, .administer], over: .all)]))
        try watcher.send("\u{6}A")
        #expect(try self.closes(watcher).count == 1)
    }

    @Test func `Others' puts are told only as far as the principal may read or watch them, and its own not at all`() throws {
        let harness = try StorageHarness()
        let reader = try VerifiedPeers.principal("reader", [AccessGrant(.read, over: Self.prefix("a/"))])
        let grants: [(Principal, [String])] = [
            (reader, ["a/1#x#\u{5}", "a/2#x#a/3#z#\u{5}"]), (reader, ["a/1#x#\u{5}", "a/2#x#a/3#z#\u{5}"]),
            (try VerifiedPeers.principal("watcher", [AccessGrant(.watch, over: Self.prefix("b/"))]), ["b/1#y#\u{5}"]),
            (try VerifiedPeers.principal("writer", [AccessGrant(.write, over: .all)]), []),
            (try VerifiedPeers.principal("all", [AccessGrant(.watch, over: .all)]), ["a/1#x#b/1#y#\u{5}", "a/2#x#c#y#a/3#z#\u{5}"]),
        ]
        let clients = try grants.map { principal, _ in try harness.connect(as: principal) }
        // The first answer of each; an empty put has one for everybody.
        for client in clients { try client.send("#\u{2}C") }
        for client in clients { _ = try client.messages() }
        let writer = try harness.connect()
        try writer.send(["a/1#x#b/1#y#\u{2}E", "a/2#x#c#y#a/3#z#\u{2}G"].map { ByteBuffer(string: $0) })
        harness.deliver(2)
        for (client, expected) in zip(clients, grants) { #expect(try client.messages() == expected.1) }
        #expect(try writer.messages() == ["\u{1}#\u{3}E", "\u{1}#\u{3}G"])
    }

    @Test func `A client with few rights that put something itself is told of the others' puts of that commit`() throws {
        let harness = try StorageHarness()
        let grants = [AccessGrant([.read, .write], over: Self.prefix("a/"))]
        let (first, second) = (try harness.connect(as: try VerifiedPeers.principal("first", grants)), try harness.connect())
        for client in [first, second] { try client.send("a/x#\u{0}C") }
        for client in [first, second] { _ = try client.messages() }
        var frame = ByteBuffer()
        var machine = WebSocketStateMachine(role: .client)
        machine.writeMessage(.binary, ByteBuffer(string: "a/own#1#\u{2}E"), to: &frame, maskingKey: 9)
        first.channel.pipeline.fireChannelRead(frame)
        first.channel.pipeline.fireChannelReadComplete()
        try second.send("b#2#a/k#2#\u{2}E")
        harness.deliver(2)
        #expect(try first.messages() == ["a/k#2#\u{5}", "\u{1}#\u{3}E"])
        #expect(try second.messages() == ["a/own#1#\u{5}", "\u{1}#\u{3}E"])
    }

    @Test func `After a change of rights, waiting gets are denied and waiting news are cut down`() throws {
        let harness = try StorageHarness()
        let wide = try VerifiedPeers.principal("alice", [AccessGrant([.read, .write], over: .all)])
        let narrow = try VerifiedPeers.principal("alice", [AccessGrant([.read, .write], over: Self.prefix("a/"))])
        let (waiting, fresh, writer) = (try harness.connect(as: wide), try harness.connect(as: wide), try harness.connect())
        try waiting.send(["b#1#\u{2}C", "b#\u{0}E"].map { ByteBuffer(string: $0) })
        try writer.send("a/k#1#b#2#\u{2}C")
        harness.deliver(2)
        _ = try waiting.messages()
        // This one has had no answer yet, so what was put waits for it.
        self.change(fresh, to: narrow)
        try fresh.send("a/k#\u{0}C")
        #expect(try fresh.messages() == ["1#\u{1}C", "a/k#1#\u{5}"])

        try waiting.send(["b#3#\u{2}G", "b#\u{0}I"].map { ByteBuffer(string: $0) })
        self.change(waiting, to: narrow)
        harness.deliver(1)
        let events = try waiting.receive()
        #expect(!events.contains { if case .message(_, let bytes) = $0 { String(buffer: bytes).hasSuffix("I") } else { false } })
        #expect(events.contains { if case .closeReceived(.policyViolation?, _) = $0 { true } else { false } })
        // The next request is judged by the new rights too.
        try fresh.send("b#1#\u{2}E")
        #expect(try fresh.messages() == ["\u{0}#\u{3}E"])
    }
}
