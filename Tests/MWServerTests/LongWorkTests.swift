import MWProtocol
import MWTLS
import NIOCore
import Testing

@testable import MWServer
@testable import MWStorage

/// What takes long on an event loop lets other threads have the processor. Method: a clock by which each part takes a turn, and a count of how
/// often others were let run.
@Suite struct LongWorkTests {
    private final class Others {
        private var now = Duration.seconds(1)
        private(set) var runs = 0

        init(beside loop: SessionLoop) {
            loop.processorTurns = ProcessorTurns(
                now: {
                    self.now = self.now + ProcessorTurns.length
                    return self.now
                }, giveWay: { self.runs += 1 })
        }
    }

    private static let partsPerMebibyte = 1 << 20 / ProcessorTurns.bytesPerLook

    @Test func `A get of a large value is answered in parts, in either protocol and however it is asked for`() throws {
        let harness = try StorageHarness()
        let native = try harness.connectNative()
        let value = String(repeating: "value", count: 3 << 20 / 5)
        let leastRuns = 3 * Self.partsPerMebibyte - 1
        let pieces = (3 << 20) / TLSHandler.turnBytes
        _ = try native.write(NativePut([("large", value), ("small", "value")]))
        var others = Others(beside: harness.sessions.loop)
        let answer = try native.ask(NativeGet(["large"])).entries
        #expect(answer.count == 1 && answer.first?.value == ByteBuffer(string: value))
        #expect(others.runs >= pieces)
        others = Others(beside: harness.sessions.loop)
        let answers = try native.ask(NativeGet(["small", "large"])).entries
        #expect(answers.map(\.value) == [ByteBuffer(string: "value"), ByteBuffer(string: value)])
        #expect(others.runs >= leastRuns)
        let mwdb = try harness.connect()
        others = Others(beside: harness.sessions.loop)
        try mwdb.send("large#\u{0}A")
        #expect(try mwdb.messages() == [value + "#\u{1}A"])
        // It is looked through, too.
        #expect(others.runs >= leastRuns + pieces)
    }

    // Method: lengths about that from which on a value lies in pieces, and such as fill the last of them.
    @Test func `A value that leaves in pieces arrives as it is, whatever its length and whatever is written around it`() throws {
        let harness = try StorageHarness()
        let native = try harness.connectNative()
        var grant = NativeGrantLease()
        grant.timeToLiveMilliseconds = 60_000
        let (most, piece) = (SessionHandler.maximumBytesAtOnce, TLSHandler.turnBytes)
        for length in [most - 100, most - 1, most, most + 1, 6 * piece - 70, 6 * piece - 10, 6 * piece, 6 * piece + 1, 7 * piece - 12] {
            let value = String(repeating: "0123456789abcdef!", count: length / 17 + 1).prefix(length)
            let lease = try native.write(grant).lease
            _ = try native.write(NativePut([("k", String(value)), ("small", "s")], lease: length % 2 == 0 ? lease : nil))
            let entry = try #require(try native.ask(NativeGet(["k"])).entries.first)
            #expect(String(buffer: entry.value) == value && entry.lease == (length % 2 == 0 ? lease : nil))
            // Who was here before is told of the puts.
            let mwdb = try harness.connect()
            try mwdb.send(["small#\u{0}C", "k#\u{0}E", "small#\u{0}G"].map { ByteBuffer(string: $0) })
            #expect(try mwdb.messages() == ["s#\u{1}C", value + "#\u{1}E", "s#\u{1}G"])
        }
    }

    @Test func `Large values in one burst of gets are sent as the network takes them`() throws {
        let harness = try StorageHarness()
        let client = try harness.connect()
        let value = String(repeating: "v", count: 2 << 20)
        try client.send("k#\(value)#\u{2}C")
        harness.deliver(1)
        #expect(try client.messages().count == 1)
        let network = try client.narrow(to: 1 << 20)
        try client.send((0..<20).map { _ in ByteBuffer(string: "k#\u{0}E") })
        #expect(network.writes.reduce(0, +) < 3 << 20)
        for _ in 0..<20 { try client.take(network) }
        #expect(try client.messages() == Array(repeating: value + "#\u{1}E", count: 20))
    }

    // Values that are in memory are copied under a lock.
    @Test func `A small get looks at no clock, and neither does one whose value is copied under a lock`() throws {
        let harness = try StorageHarness()
        let native = try harness.connectNative()
        let value = String(repeating: "v", count: ProcessorTurns.bytesPerLook)
        _ = try native.write(NativePut([("k", value)]))
        let mwdb = try harness.connect()
        let others = Others(beside: harness.sessions.loop)
        for _ in 0..<10 {
            #expect(try native.ask(NativeGet(["k"])).entries.count == 1)
            try mwdb.send("k#\u{0}A")
            #expect(try mwdb.messages() == [value + "#\u{1}A"])
        }
        #expect(others.runs == 0 && ProcessorTurns.bytesPerLook >= HotValues.maximumValueBytes)
    }

    @Test func `A page of a scan has parts, of few entries however small they are`() throws {
        let harness = try StorageHarness()
        let client = try harness.connectNative()
        _ = try client.write(NativePut((0..<1_000).map { (String(1_000 + $0), "") }))
        let others = Others(beside: harness.sessions.loop)
        #expect(try client.ask(NativeScan()).entries.count == 1_000)
        #expect(others.runs >= 10)
        let before = others.runs
        _ = try client.write(NativePut([("0", String(repeating: "v", count: 1 << 20))]))
        #expect(try client.ask(NativeScan(limit: 1)).entries.count == 1)
        #expect(others.runs - before >= Self.partsPerMebibyte - 1)
    }

    @Test func `What a watcher is told to begin with has parts, too`() throws {
        let harness = try WatchHarness()
        let peer = try harness.connect()
        try harness.submit((0..<300).map { (key: String(1_000 + $0), value: "v") })
        harness.commit()
        harness.run()
        let others = Others(beside: harness.sessions.loop)
        try peer.send(NativeWatch(NativeRange("1"), isWithState: true))
        harness.run()
        #expect(try peer.said().contains("1 synced @1"))
        #expect(others.runs >= 3)
    }

    @Test func `Telling many watchers has parts, and so has reading the history for those who are behind`() throws {
        let harness = try WatchHarness()
        let peers = try (0..<48).map { _ in try harness.connect() }
        for peer in peers {
            try peer.send(NativeWatch(NativeRange("")))
            _ = try peer.said()
        }
        var others = Others(beside: harness.sessions.loop)
        try harness.put(("k", "v"))
        for peer in peers {
            #expect(try peer.said() == ["1 @1 k=v"])
        }
        // A watcher counts 4 KiB.
        #expect(others.runs >= 48 * (4 << 10) / ProcessorTurns.bytesPerLook)
        for number in 2...9 { try harness.put(("k", String(repeating: "\(number)", count: 60 << 10))) }
        others = Others(beside: harness.sessions.loop)
        let late = try harness.connect()
        try late.send(NativeWatch(NativeRange(""), after: 1, of: harness.storage))
        harness.run()
        #expect(try late.said().count { $0.contains(" k=") } == 8)
        // A page has two of them.
        #expect(others.runs >= 4)
    }
}
