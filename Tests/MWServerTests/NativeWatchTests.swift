import EngineContract
import MWProtocol
import MWStorage
import NIOCore
import NIOEmbedded
import Testing

@testable import MWServer

/// What watches are told over the protocol. The store commits, and the loop runs, when the test says so.
@Suite struct NativeWatchTests {
    private static let all = NativeRange("")

    // MARK: Beginning

    @Test func `From now: synced at once, then every change in the ranges, with what was there before`() throws {
        let harness = try WatchHarness()
        try harness.put(("a/1", "old"))
        let peer = try harness.connect()
        try peer.send(NativeWatch(NativeRange("a/", "a0"), NativeRange("x")))
        #expect(try peer.said() == ["1 watching behind 1", "1 synced @1"])
        try harness.put(("a/1", "new"), ("b", "not this"), ("x", "1"))
        try harness.put(("b", "nor this"))
        try harness.put(("a/1", nil), ("a/2", ""))
        try harness.put(("a/1", "again"))
        #expect(
            try peer.said() == [
                "1 @2 a/1=new after 1, x=1", "1 @4 a/1 removed after 2, a/2=", "1 @5 a/1=again",
            ])
    }

    @Test func `After a revision: what happened since, synced, and on; nothing twice`() throws {
        let harness = try WatchHarness()
        for number in 1...5 { try harness.put(("k", "\(number)"), ("other", "x")) }
        let peer = try harness.connect()
        try peer.send(NativeWatch(NativeRange("k", "l"), after: 3, of: harness.storage))
        try harness.put(("k", "6"))
        try harness.put(("k", "7"))
        #expect(
            try peer.said() == [
                "1 watching behind 3", "1 @4 k=4 after 3", "1 @5 k=5 after 4", "1 synced @5", "1 @6 k=6 after 5", "1 @7 k=7 after 6",
            ])
    }

    @Test func `After a revision of another store, above this one's, or without saying of which store, nothing begins`() throws {
        let harness = try WatchHarness()
        try harness.put(("k", "1"))
        let peer = try harness.connect()
        var other = NativeWatch(Self.all, after: 1)
        other.incarnation = ByteBuffer(integer: harness.storage.incarnation.number ^ 1)
        try peer.send(other)
        other.isWithState = true
        try peer.send(other)
        try peer.send(NativeWatch(Self.all, after: 1))
        try peer.send(NativeWatch(Self.all, after: 2, of: harness.storage))
        try peer.send(NativeWatch(Self.all, after: 1, of: harness.storage), id: 0)
        harness.run()
        #expect(
            try peer.said() == ["1 wrongIncarnation", "2 wrongIncarnation", "3 invalidArgument", "4 compacted", "0 invalidArgument"])
        #expect(harness.watches.count == 0)
        try peer.send(NativeWatch(Self.all, after: 2, of: harness.storage, isWithState: true), id: 6)
        harness.run()
        #expect(try peer.said() == ["6 watching behind 1", "6 resync @1", "6 state @1 k=1@1", "6 synced @1"])
    }

    @Test func `With state: all entries of the ranges in the order of keys, synced, then the changes behind it`() throws {
        let harness = try WatchHarness()
        try harness.put(("b", "2"), ("c", "out"))
        try harness.put(("a", "1"), ("d", "4"))
        let peer = try harness.connect()
        try peer.send(NativeWatch(NativeRange("d"), NativeRange("a", "c"), isWithState: true))
        // The state is that of the request.
        try harness.put(("a", "new"))
        #expect(
            try peer.said() == ["1 watching behind 2", "1 state @2 a=1@2, b=2@1, d=4@2", "1 synced @2", "1 @3 a=new after 2"])
        try peer.send(NativeWatch(NativeRange("x"), isWithState: true))
        harness.run()
        #expect(try peer.said() == ["2 watching behind 3", "2 synced @3"])
    }

    @Test func `A state of many pages, and entries beside the message limit, are told whole`() throws {
        var limits = ServerLimits()
        limits.maximumMessageBytes = 40_000
        let harness = try WatchHarness(limits: limits)
        let keys = (0..<300).map { "key \(1000 + $0)" }
        for key in keys { try harness.submit([(key, String(repeating: "v", count: key.hasSuffix("7") ? 30_000 : 900))]) }
        harness.commit()
        let peer = try harness.connect()
        try peer.send(NativeWatch(Self.all, isWithState: true))
        harness.run()
        let frames = try peer.frames()
        let states = try frames.filter { $0.kind == NativeEventKind.state.rawValue && $0.role == .event }.map { try NativeState($0.fields) }
        #expect(states.count > 5)
        #expect(states.flatMap(\.entries).map { String(buffer: $0.key) } == keys)
        #expect(frames.allSatisfy { $0.fields.bytes.readableBytes + NativeFrame.headerBytes <= 40_000 })
        #expect(try frames.last.map { try WatchPeer.line($0) } == "1 synced @300")
    }

    @Test func `History that is gone: refused; told anew as state where that was asked for`() throws {
        let harness = try WatchHarness()
        for number in 1...3 { try harness.put(("k", "\(number)")) }
        try harness.compact()
        let peer = try harness.connect()
        try peer.send(NativeWatch(Self.all, after: 1, of: harness.storage))
        try peer.send(NativeWatch(Self.all, after: 1, of: harness.storage, isWithState: true))
        try peer.send(NativeWatch(Self.all, after: 3, of: harness.storage, isWithState: true))
        harness.run()
        #expect(
            try peer.said() == [
                "1 compacted", "2 watching behind 3", "2 resync @3", "2 state @3 k=3@3", "2 synced @3", "3 watching behind 3",
                "3 synced @3",
            ])
    }

    @Test func `Without values, changes and state say which keys, and nothing more`() throws {
        let harness = try WatchHarness()
        try harness.put(("k", "secret"))
        let peer = try harness.connect()
        try peer.send(NativeWatch(Self.all, isWithoutValues: true, isWithState: true))
        try peer.send(NativeWatch(Self.all))
        harness.run()
        try harness.put(("k", "more"), ("l", nil))
        #expect(
            try peer.said() == [
                "1 watching behind 1", "1 state @1 k=@1", "1 synced @1", "2 watching behind 1", "2 synced @1",
                "1 @2 k= after 1", "2 @2 k=more after 1",
            ])
    }

    // MARK: Size

    @Test func `A revision over the message limit comes in parts, live and from history alike; one key over it ends the watch`() throws {
        var limits = ServerLimits()
        limits.maximumMessageBytes = 120
        let harness = try WatchHarness(limits: limits)
        let peer = try harness.connect()
        try peer.send(NativeWatch(Self.all))
        try harness.put(("a", "11111111111111111111"), ("b", "22222222222222222222"), ("c", "33333333333333333333"))
        let parts = ["@1 a=11111111111111111111, b=22222222222222222222 …", "@1 c=33333333333333333333"]
        #expect(try peer.said() == ["1 watching behind 0", "1 synced @0"] + parts.map { "1 \($0)" })
        try peer.send(NativeWatch(Self.all, after: 0, of: harness.storage))
        harness.run()
        #expect(try peer.said() == ["2 watching behind 0"] + parts.map { "2 \($0)" } + ["2 synced @1"])
        try peer.send(NativeWatch(Self.all, isWithoutValues: true))
        _ = try peer.said()
        try harness.put(("d", String(repeating: "4", count: 100)))
        #expect(try peer.said().sorted() == ["1 ended answerTooBig", "2 ended answerTooBig", "3 @2 d="])
        #expect(harness.watches.count == 1)
    }

    @Test func `A large value reaches every watcher as it was put`() throws {
        let harness = try WatchHarness()
        let peers = try (0..<3).map { _ in try harness.connect() }
        for peer in peers { try peer.send(NativeWatch(Self.all)) }
        let value = String(repeating: "0123456789", count: 50_000)
        try harness.put(("small", "s"), ("large", value))
        for peer in peers { #expect(try peer.said().last == "1 @1 small=s, large=\(value)") }
    }

    // MARK: Requests

    @Test func `A watch that is ended is told nothing more; one that is not there cannot be ended or asked`() throws {
        let harness = try WatchHarness()
        let peer = try harness.connect()
        try peer.send(NativeWatch(Self.all))
        try peer.send(NativeEndWatch(1))
        try peer.send(NativeEndWatch(1))
        try peer.send(NativeProgressRequest(of: 9))
        try harness.put(("k", "1"))
        #expect(
            try peer.said() == ["1 watching behind 0", "1 synced @0", "2 endWatch done", "3 watchUnknown", "4 watchUnknown"])
        // Its id is free again.
        try peer.send(NativeWatch(Self.all), id: 1)
        try peer.send(NativeWatch(Self.all), id: 1)
        #expect(try peer.said() == ["1 watching behind 1", "1 synced @1", "1 invalidArgument"])
    }

    @Test func `Progress is answered behind everything up to the store's revision then, also what is still in the mailbox`() throws {
        let harness = try WatchHarness()
        let peer = try harness.connect()
        try peer.send(NativeWatch(NativeRange("k")))
        try harness.submit([("k", "1")])
        harness.commit()
        try peer.send(NativeProgressRequest(of: 1))
        harness.run()
        #expect(try peer.said() == ["1 watching behind 0", "1 synced @0", "1 @1 k=1", "2 progress 1"])
        // A commit that concerns nobody wakes nobody, and is known all the same.
        try harness.put(("a", "1"))
        try peer.send(NativeProgressRequest(of: 1))
        #expect(try peer.said() == ["3 progress 2"])
        #expect(peer.client.session.requestsInFlight == 0)
    }

    @Test func `Progress of a watch that reads history comes behind it, and an end fails what is unanswered`() throws {
        let harness = try WatchHarness()
        for number in 1...3 { try harness.put(("k", "\(number)")) }
        let peer = try harness.connect()
        try peer.send(NativeWatch(Self.all, after: 1, of: harness.storage))
        try peer.send(NativeProgressRequest(of: 1))
        harness.run()
        #expect(
            try peer.said() == ["1 watching behind 1", "1 @2 k=2 after 1", "1 @3 k=3 after 2", "1 synced @3", "2 progress 3"])
        // In one message: its turn to read has not come when it is ended.
        var message = ByteBuffer()
        NativeFrame.write(NativeWatch(Self.all, after: 1, of: harness.storage), id: RequestID(3), to: &message)
        NativeFrame.write(NativeProgressRequest(of: 3), id: RequestID(4), to: &message)
        NativeFrame.write(NativeEndWatch(3), id: RequestID(5), to: &message)
        try peer.client.send([message])
        harness.run()
        #expect(try peer.said() == ["3 watching behind 1", "4 watchUnknown", "5 endWatch done"])
        #expect(peer.client.session.requestsInFlight == 0)
    }

    @Test func `A progress event is sent when nothing else was for so long`() throws {
        let harness = try WatchHarness()
        let peer = try harness.connect()
        try peer.send(NativeWatch(NativeRange("k")))
        harness.tick(after: .seconds(6))
        try harness.put(("k", "1"))
        try harness.put(("a", "1"))
        harness.tick(after: .seconds(6))
        #expect(try peer.said() == ["1 watching behind 0", "1 synced @0", "1 @1 k=1"])
        harness.tick(after: .seconds(5))
        #expect(try peer.said() == ["1 progress @2"])
        harness.tick(after: .seconds(5))
        #expect(try peer.said() == [])
    }

    @Test func `More watches, or more ranges, than the limits allow are refused`() throws {
        var limits = ServerLimits()
        limits.maximumWatchesPerConnection = 2
        limits.maximumRangesPerWatch = 1
        let harness = try WatchHarness(limits: limits)
        let peer = try harness.connect()
        try peer.send(NativeWatch(Self.all, NativeRange("b")))
        try peer.send(NativeWatch(Self.all))
        try peer.send(NativeWatch(Self.all))
        try peer.send(NativeWatch(Self.all))
        try peer.send(NativeWatch())
        try peer.send(NativeEndWatch(2))
        try peer.send(NativeWatch(Self.all))
        #expect(
            try peer.said().filter { !$0.contains("synced") } == [
                "1 tooMany", "2 watching behind 0", "3 watching behind 0", "4 tooMany", "5 tooMany", "6 endWatch done",
                "7 watching behind 0",
            ])
    }

    @Test func `The bounds of one connection's ranges are bounded, and free again when a watch ends`() throws {
        var limits = ServerLimits()
        limits.maximumWatchBoundBytesPerConnection = 10
        let harness = try WatchHarness(limits: limits)
        let peer = try harness.connect()
        try peer.send(NativeWatch(NativeRange("aaaa", "bbbb")))
        try peer.send(NativeWatch(NativeRange("ccc")))
        try peer.send(NativeEndWatch(1))
        try peer.send(NativeWatch(NativeRange("ccc")))
        #expect(
            try peer.said().filter { !$0.contains("synced") } == [
                "1 watching behind 0", "2 tooMany", "3 endWatch done", "4 watching behind 0",
            ])
    }

    @Test func `Watches that begin and end while nothing is written leave nothing for the next commit`() throws {
        let harness = try WatchHarness()
        let peer = try harness.connect()
        for _ in 0..<100 {
            let id = try peer.send(NativeWatch(Self.all))
            try peer.send(NativeEndWatch(id))
        }
        #expect(harness.hub.unseenCount == 0)
        let id = try peer.send(NativeWatch(Self.all))
        _ = try peer.said()
        try harness.put(("k", "1"))
        #expect(try peer.said() == ["\(id) @1 k=1"])
        try peer.send(NativeEndWatch(id))
        try peer.send(NativeWatch(Self.all), id: 1)
        _ = try peer.said()
        // The end of one and the beginning of another that watches the same.
        #expect(harness.hub.unseenCount == 2)
        try harness.put(("k", "2"))
        #expect(harness.hub.unseenCount == 0)
        #expect(try peer.said() == ["1 @2 k=2 after 1"])
    }

    @Test func `Many watchers are told in turns; what comes meanwhile is told behind it, and who asks for progress need not wait`() throws {
        let harness = try WatchHarness(bytesPerTurn: 1)
        let peers = try (0..<4).map { _ in try harness.connect() }
        // Ids of their own: each is told under its own.
        for (number, peer) in peers.enumerated() { try peer.send(NativeWatch(Self.all), id: Int32(number + 1)) }
        for peer in peers { _ = try peer.said() }
        let sent = harness.sessions.loop.counters.watchEventsSent
        try harness.submit([("k", "1")])
        harness.commit()
        harness.watches.deliverInTurn()
        try harness.submit([("k", "2")])
        harness.commit()
        harness.watches.deliverInTurn()
        // The second waits until all know of the first.
        #expect(harness.sessions.loop.counters.watchEventsSent == sent + 1)
        #expect(harness.watches.frontier == 0)
        try peers[3].send(NativeProgressRequest(of: 4), id: 9)
        harness.run()
        #expect(try peers[0].said() == ["1 @1 k=1", "1 @2 k=2 after 1"])
        #expect(try peers[1].said() == ["2 @1 k=1", "2 @2 k=2 after 1"])
        #expect(try peers[2].said() == ["3 @1 k=1", "3 @2 k=2 after 1"])
        #expect(try peers[3].said() == ["4 @1 k=1", "4 @2 k=2 after 1", "9 progress 2"])
        #expect(harness.watches.frontier == 2)
    }

    @Test func `Watchers that come back together share a page of history, each under its id and from where it was`() throws {
        let harness = try WatchHarness()
        for number in 1...5 { try harness.put(("k", "\(number)"), ("other", "\(number)")) }
        let peers = try (0..<4).map { _ in try harness.connect() }
        for (number, peer) in peers.enumerated() {
            let range = number == 3 ? NativeRange("other") : NativeRange("k", "l")
            try peer.send(NativeWatch(range, after: number == 2 ? 4 : 3, of: harness.storage), id: Int32(number + 1))
        }
        harness.run()
        #expect(try peers[0].said() == ["1 watching behind 3", "1 @4 k=4 after 3", "1 @5 k=5 after 4", "1 synced @5"])
        #expect(try peers[1].said() == ["2 watching behind 3", "2 @4 k=4 after 3", "2 @5 k=5 after 4", "2 synced @5"])
        #expect(try peers[2].said() == ["3 watching behind 4", "3 @5 k=5 after 4", "3 synced @5"])
        #expect(try peers[3].said() == ["4 watching behind 3", "4 @4 other=4 after 3", "4 @5 other=5 after 4", "4 synced @5"])
    }

    // MARK: Rights

    private static func principal(_ rights: AccessRights, _ prefixes: String...) throws -> Principal {
        try VerifiedPeers.principal("watcher", [AccessGrant(rights, over: .prefixes(prefixes.map { Array($0.utf8) }))])
    }

    @Test func `A watch needs the right to watch or read over all of every range, and with state the right to read`() throws {
        let harness = try WatchHarness()
        let peer = try harness.connect(as: try Self.principal([.watch], "a/", "b/"))
        try peer.send(NativeWatch(NativeRange("a/", "a0"), NativeRange("b/x", "b/y")))
        try peer.send(NativeWatch(NativeRange("a/", "a0"), NativeRange("b/x", "c")))
        try peer.send(NativeWatch(Self.all))
        try peer.send(NativeWatch(NativeRange("a/", "a0"), isWithState: true))
        #expect(
            try peer.said() == [
                "1 watching behind 0", "1 synced @0", "2 permissionDenied", "3 permissionDenied", "4 permissionDenied",
            ])
        #expect(harness.sessions.loop.counters.deniedRequests == 3)
        let reader = try harness.connect(as: try Self.principal([.read], "a/"))
        try reader.send(NativeWatch(NativeRange("a/", "a0"), isWithState: true))
        harness.run()
        #expect(try reader.said() == ["1 watching behind 0", "1 synced @0"])
    }

    @Test func `Ranges that touch are judged each by itself, at the beginning and when rights change`() throws {
        let harness = try WatchHarness()
        let peer = try harness.connect(as: try Self.principal([.watch], "a/", "a0"))
        try peer.send(NativeWatch(NativeRange("a/", "a0"), NativeRange("a0", "a1")))
        #expect(try peer.said() == ["1 watching behind 0", "1 synced @0"])
        var outcome = JudgingOutcome()
        let session = peer.client.session
        session.apply(.admitted(session.peer, try Self.principal([.watch, .read], "a/", "a0")), generation: 2, counting: &outcome)
        try harness.put(("a/1", "1"), ("a0", "2"))
        #expect(try peer.said() == ["1 @1 a/1=1, a0=2"])
    }

    @Test func `A change of rights ends the watches that are not allowed any more, at once, and leaves the others`() throws {
        let harness = try WatchHarness()
        let peer = try harness.connect(as: try Self.principal([.watch], "a/", "b/"))
        try peer.send(NativeWatch(NativeRange("a/", "a0")))
        try peer.send(NativeWatch(NativeRange("b/", "b0")))
        _ = try peer.said()
        var outcome = JudgingOutcome()
        let session = peer.client.session
        session.apply(.admitted(session.peer, try Self.principal([.watch], "b/")), generation: 2, counting: &outcome)
        try harness.put(("a/1", "secret"), ("b/1", "1"))
        #expect(try peer.said() == ["1 ended permissionDenied", "2 @1 b/1=1"])
        let audited = try #require(harness.sessions.loop.audit.rejections.latest().first)
        #expect(audited.rejection.reason == "watch is not allowed")
    }

    // MARK: The end

    @Test func `A connection that ends leaves nothing behind`() throws {
        let harness = try WatchHarness()
        try harness.put(("k", "1"))
        weak var watches: NativeWatches?
        weak var session: SessionHandler?
        do {
            let peer = try harness.connect()
            try peer.send(NativeWatch(Self.all))
            try peer.send(NativeWatch(NativeRange("a", "c"), after: 0, of: harness.storage))
            try peer.send(NativeWatch(Self.all, isWithState: true))
            watches = (peer.client.session.delegate as? NativeSession)?.watches
            session = peer.client.session
            #expect(harness.watches.count == 3)
            peer.client.channel.close(promise: nil)
            harness.run()
        }
        #expect(harness.watches.count == 0)
        // Those that were to read are let go of in their turn.
        harness.run()
        #expect(watches == nil)
        #expect(session == nil)
        try harness.put(("k", "2"))
        harness.tick()
        #expect(harness.hub.totals == (0, 0))
    }
}
