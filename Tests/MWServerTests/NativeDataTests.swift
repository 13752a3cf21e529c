import Dispatch
import EngineContract
import MWProtocol
import MWStorage
import NIOCore
import Testing

@testable import MWServer

/// Reads and writes of the native protocol, over a store in memory.
@Suite struct NativeDataTests {
    @Test func `A put is answered with the revision that it made, and a get with values and their revisions, in the order of its keys`()
        throws
    {
        let harness = try StorageHarness()
        let client = try harness.connectNative()
        let first = try client.write(NativePut([("a", "1"), ("b", "2")]))
        #expect(first.changes == 2 && !first.isRepeated && first.revision == 1)
        let second = try client.write(NativePut([("b", "3")]))
        #expect(second.revision == 2)
        let values = try client.ask(NativeGet(["b", "none", "a", "b"]))
        #expect(values.revision == 2)
        #expect(values.entries.map(\.shown) == ["=3@2", "=@0", "=1@1", "=3@2"])
        #expect(try client.ask(NativeGet(["a"])).entries.map(\.shown) == ["=1@1"])
        #expect(try client.ask(NativeGet(["none"])).entries.map(\.shown) == ["=@0"])
        var withoutValues = NativeGet(["a", "none"])
        withoutValues.isWithoutValues = true
        #expect(try client.ask(withoutValues).entries.map(\.shown) == ["=@1", "=@0"])
        let counters = harness.sessions.loop.counters
        #expect(counters.getRequests == 4 && counters.putRequests == 2 && counters.keysRead == 8)
    }

    @Test func `A remove says how many keys it changed, and makes no revision if that is none`() throws {
        let harness = try StorageHarness()
        let client = try harness.connectNative()
        _ = try client.write(NativePut([("a", "1"), ("b", "2")]))
        let removed = try client.write(NativeRemove(["a", "none"]))
        #expect(removed.revision == 2 && removed.changes == 1)
        let nothing = try client.write(NativeRemove(["a", "none"]))
        #expect(nothing.revision == 2 && nothing.changes == 0)
        #expect(try client.ask(NativeGet(["a", "b"])).entries.map(\.shown) == ["=@0", "=2@1"])
    }

    // Method: a value that is too large for the memory in front of the engine, and a commit between the moment when the get begins and the
    // engine's look.
    @Test func `A get of a key that goes while it is read is of the revision in which it has gone`() throws {
        let harness = try StorageHarness()
        let client = try harness.connectNative()
        _ = try client.write(NativePut([("k", String(repeating: "v", count: 100 << 10))]))
        let (disk, storage) = (harness.disk, harness.storage)
        var faults = MemoryDisk.Faults()
        faults.beforeRead = {
            // The commit reads, too.
            disk.liftFaults()
            let stored = DispatchSemaphore(value: 0)
            let submitter = storage.makeSubmitter { _ in stored.signal() }
            try? submitter.submit(token: 0) { (batch) throws(StorageError) in try batch.remove([UInt8(ascii: "k")]) }
            submitter.flush()
            stored.wait()
        }
        disk.setFaults(faults)
        let values = try client.ask(NativeGet(["k"]))
        #expect(values.revision == 2 && values.entries.map(\.shown) == ["=@0"])
    }

    @Test func `Any bytes can be a key and a value, the empty ones too`() throws {
        let harness = try StorageHarness()
        let client = try harness.connectNative()
        var put = NativePut()
        let all = ByteBuffer(bytes: UInt8.min...UInt8.max)
        for (key, value) in [(ByteBuffer(), all), (all, ByteBuffer())] {
            var pair = NativePair()
            (pair.key, pair.value) = (key, value)
            put.pairs.append(pair)
        }
        _ = try client.write(put)
        var get = NativeGet()
        get.keys = [ByteBuffer(), all]
        let entries = try client.ask(get).entries
        #expect(entries.map(\.value) == [all, ByteBuffer()] && entries.allSatisfy { $0.revision == 1 })
        #expect(try client.ask(NativeScan()).entries.map(\.key) == [ByteBuffer(), all])
    }

    @Test func `A get alone in its message is answered and counted as one among others`() throws {
        let harness = try StorageHarness()
        let client = try harness.connectNative()
        _ = try client.write(NativePut([("a", "1")]))
        for (keys, isWithoutValues) in [(["a"], false), (["a"], true), (["absent"], false), ([""], false)] {
            var get = NativeGet(keys)
            get.isWithoutValues = isWithoutValues
            var alone = ByteBuffer()
            NativeFrame.write(get, id: RequestID(7), to: &alone)
            var ping = ByteBuffer()
            NativeFrame.write(NativePing(), id: RequestID(8), to: &ping)
            var among = alone
            among.writeImmutableBuffer(ping)
            let session = client.client.session
            let requests = session.requestCount
            let (gets, keysRead) = (session.loop.counters.getRequests, session.loop.counters.keysRead)
            try client.client.send([alone])
            let first = try client.frames()
            try client.client.send([among])
            let second = try client.frames()
            #expect(first.count == 1 && second.count == 2 && first[0] == second[0])
            #expect(session.requestCount == requests + 3)
            #expect(session.loop.counters.getRequests == gets + 2 && session.loop.counters.keysRead == keysRead + 2)
        }
    }

    @Test func `Replies to all requests of one burst leave with one write`() throws {
        let harness = try StorageHarness()
        let client = try harness.connectNative()
        _ = try client.write(NativePut([("a", "1")]))
        let before = client.client.writeCount
        var message = ByteBuffer()
        for number: Int32 in 0..<100 { NativeFrame.write(NativeGet(["a"]), id: RequestID(number), to: &message) }
        try client.client.send([message])
        #expect(try client.frames().count == 100)
        #expect(client.client.writeCount == before + 1)
        var puts = ByteBuffer()
        for number: Int32 in 0..<100 { NativeFrame.write(NativePut([("k\(number)", "v")]), id: RequestID(number), to: &puts) }
        try client.client.send([puts])
        harness.deliver(100)
        #expect(try client.frames().map(\.id.rawValue) == Array(0..<100))
        #expect(client.client.writeCount == before + 2)
        #expect(client.client.session.requestsInFlight == 0)
    }

    @Test func `More writes in one message than may be in flight are all done, the rest as the first are answered`() throws {
        var limits = ServerLimits()
        limits.maximumRequestsInFlight = 10
        let harness = try StorageHarness(limits: limits)
        let client = try harness.connectNative()
        var message = ByteBuffer()
        for number: Int32 in 0..<35 { NativeFrame.write(NativePut([("k\(number)", "v")]), id: RequestID(number), to: &message) }
        try client.client.send([message])
        #expect(client.client.session.requestsInFlight == 10)
        for count in [10, 10, 10, 5] { harness.deliver(count) }
        #expect(try client.frames().map(\.id.rawValue) == Array(0..<35))
    }

    // MARK: Scans

    private func filled(_ count: Int, _ harness: StorageHarness) throws -> NativeHarnessClient {
        let client = try harness.connectNative()
        _ = try client.write(NativePut((0..<count).map { (String(1_000 + $0), "v\($0)") }))
        return client
    }

    @Test func `A scan gives a page at a time, forward or backward, until there is no more`() throws {
        let harness = try StorageHarness()
        let client = try self.filled(10, harness)
        let first = try client.ask(NativeScan("1002", upTo: "1007", limit: 3))
        #expect(first.entries.map(\.shown) == ["1002=v2@1", "1003=v3@1", "1004=v4@1"])
        #expect(first.hasMore && first.revision == 1)
        let rest = try client.ask(NativeScan("1004\0", upTo: "1007", limit: 3))
        #expect(rest.entries.map(\.shown) == ["1005=v5@1", "1006=v6@1"] && !rest.hasMore)
        var backward = NativeScan("1002", upTo: "1007", limit: 2)
        backward.isBackward = true
        backward.isKeysOnly = true
        let page = try client.ask(backward)
        #expect(page.entries.map(\.shown) == ["1006=@1", "1005=@1"] && page.hasMore)
        #expect(try client.ask(NativeScan("1005", upTo: "1005")).entries.isEmpty)
        #expect(try client.ask(NativeScan("1007", upTo: "1002")).entries.isEmpty)
        #expect(try client.ask(NativeScan("1009\0")).hasMore == false)
    }

    @Test func `A page has no more entries and bytes than the server allows, whatever is asked for, and one entry at least`() throws {
        var limits = ServerLimits()
        limits.maximumScanEntries = 4
        limits.maximumScanBytes = 30
        let harness = try StorageHarness(limits: limits)
        let client = try self.filled(10, harness)
        var asked = NativeScan(limit: .max)
        asked.maximumBytes = .max
        let page = try client.ask(asked)
        #expect(page.entries.count == 4 && page.hasMore)
        asked.maximumBytes = 10
        #expect(try client.ask(asked).entries.count == 2)
        asked.maximumBytes = 1
        #expect(try client.ask(asked).entries.count == 1)
        _ = try client.write(NativePut([("0", String(repeating: "x", count: 1_000))]))
        #expect(try client.ask(NativeScan()).entries.count == 1, "a large entry has a page of its own")
    }

    // MARK: Snapshots

    @Test func `A snapshot shows what was there when it was opened, to gets and scans, whatever is put meanwhile`() throws {
        let harness = try StorageHarness()
        let client = try self.filled(5, harness)
        let opened = try client.ask(NativeOpenSnapshot())
        #expect(opened.revision == 1 && opened.lifetimeMilliseconds == 60_000)
        let writer = try harness.connectNative()
        for number in 0..<5 {
            _ = try writer.write(NativePut([("1000", "new\(number)"), ("1003\(number)", "new")]))
            _ = try writer.write(NativeRemove(["1004"]))
            let page = try client.ask(NativeScan(snapshot: opened.snapshot))
            #expect(page.revision == 1)
            #expect(page.entries.map(\.shown) == ["1000=v0@1", "1001=v1@1", "1002=v2@1", "1003=v3@1", "1004=v4@1"])
            let values = try client.ask(NativeGet(["1000", "1004", "10030"], snapshot: opened.snapshot))
            #expect(values.revision == 1 && values.entries.map(\.shown) == ["=v0@1", "=v4@1", "=@0"])
        }
        #expect(try client.ask(NativeGet(["1000"])).entries.map { String(buffer: $0.value) } == ["new4"])
        var close = NativeCloseSnapshot()
        close.snapshot = opened.snapshot
        _ = try client.ask(close)
        #expect(try client.failure(of: close)?.code == .snapshotUnknown)
        #expect(try client.failure(of: NativeScan(snapshot: opened.snapshot))?.code == .snapshotUnknown)
        #expect(try client.failure(of: NativeGet(["a"], snapshot: opened.snapshot))?.code == .snapshotUnknown)
    }

    @Test func `A snapshot is its connection's alone, there are so many of them, and one that nobody uses goes`() throws {
        var limits = ServerLimits()
        limits.maximumSnapshotsPerConnection = 2
        limits.snapshotLifetime = .seconds(10)
        let harness = try StorageHarness(limits: limits)
        let client = try self.filled(1, harness)
        let used = try client.ask(NativeOpenSnapshot()).snapshot
        let idle = try client.ask(NativeOpenSnapshot()).snapshot
        #expect(try client.failure(of: NativeOpenSnapshot())?.code == .tooMany)
        let other = try harness.connectNative()
        #expect(try other.failure(of: NativeGet(["a"], snapshot: used))?.code == .snapshotUnknown)
        for _ in 0..<3 {
            harness.sessions.advance(by: .seconds(6))
            _ = try client.ask(NativeGet(["a"], snapshot: used))
        }
        #expect(try client.failure(of: NativeGet(["a"], snapshot: idle))?.code == .snapshotUnknown)
        _ = try client.ask(NativeOpenSnapshot())
    }

    // MARK: Beside mwDB

    @Test func `What either protocol puts, the other reads; mwDB clients are told of native puts, and not of removes`() throws {
        let harness = try StorageHarness()
        let native = try harness.connectNative()
        let mwdb = try harness.connect()
        try mwdb.send("a#1#\u{2}E")
        harness.deliver(1)
        #expect(try mwdb.messages() == ["\u{1}#\u{3}E"])
        #expect(try native.ask(NativeGet(["a"])).entries.map(\.shown) == ["=1@1"])
        _ = try native.write(NativePut([("a", "2"), ("b", "3")]))
        #expect(try mwdb.messages() == ["a#2#b#3#\u{5}"])
        _ = try native.write(NativeRemove(["a"]))
        #expect(try mwdb.messages() == [])
        try mwdb.send("a#b#\u{0}C")
        #expect(try mwdb.messages() == ["#3#\u{1}C"])
        _ = try native.write(NativeTransaction(then: [.put("c", "4"), .get("b")]))
        #expect(try mwdb.messages() == ["c#4#\u{5}"])
    }

    @Test func `A welcome says which store it is, and how far it is`() throws {
        let harness = try StorageHarness()
        let client = try self.filled(1, harness)
        let welcome = try client.ask(NativeHello())
        #expect(welcome.incarnation == ByteBuffer(integer: harness.storage.incarnation.number))
        #expect(welcome.incarnation.readableBytes == 16)
        #expect(welcome.revision == 1 && welcome.compactedRevision == harness.storage.compactedRevision.native)
    }

    @Test func `What is over the message limit is answered as a failure, whether it is one value or many`() throws {
        var limits = ServerLimits()
        limits.maximumMessageBytes = 4_096
        let harness = try StorageHarness(limits: limits)
        let client = try harness.connectNative()
        _ = try client.write(NativePut([("a", String(repeating: "x", count: 3_000))]))
        #expect(try client.failure(of: NativeGet(["a", "a"]))?.code == .answerTooBig)
        #expect(try client.failure(of: NativeGet(["a"])) == nil)
        // What is not told is read nevertheless: sixteen times as much, and no more.
        var blind = NativeGet(Array(repeating: "a", count: 21))
        blind.isWithoutValues = true
        #expect(try client.failure(of: blind) == nil)
        blind.keys += blind.keys
        #expect(try client.failure(of: blind)?.code == .answerTooBig)
        let failure = try client.failure(of: NativeTransaction(then: [.get("a"), .get("a")]), submitted: true)
        #expect(failure?.code == .answerTooBig && failure?.mayHaveTakenEffect == true)
    }

    @Test func `A disk that fails is a typed failure without its paths, and reads go on`() throws {
        let harness = try StorageHarness()
        let client = try self.filled(1, harness)
        var faults = MemoryDisk.Faults()
        faults.failWrites = (after: 0, with: .diskFull)
        harness.disk.setFaults(faults)
        let failure = try #require(try client.failure(of: NativePut([("b", "1")]), submitted: true))
        #expect(failure.code == .storageReadOnly && failure.isRetryable && failure.mayHaveTakenEffect)
        #expect(failure.retryAfterMilliseconds != nil && !failure.detail.contains("/"))
        #expect(try client.ask(NativeGet(["1000"])).entries.map(\.shown) == ["=v0@1"])
    }
}
