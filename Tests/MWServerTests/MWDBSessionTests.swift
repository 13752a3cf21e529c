import EngineContract
import MWProtocol
import MWStorage
import MWWebSocket
import NIOCore
import NIOEmbedded
import Testing

@testable import MWServer

/// mwDB's requests against a store in memory; outcomes arrive when the test delivers them.
@Suite struct MWDBSessionTests {
    @Test func `The session of an original client goes as it was captured`() throws {
        let harness = try StorageHarness()
        let client = try harness.connect()
        try client.send("\u{6}A")
        harness.deliver(1)
        #expect(try client.messages() == ["A#\u{7}A"])
        try client.send("\u{3};////////9;////////+;A#\u{2};////////+;////////+;////////+#\u{0}C")
        #expect(try client.messages() == ["##\u{1}C"])
        try client.send("k1#v1#k2##\u{2}G")
        #expect(try client.messages() == [])
        harness.deliver(1)
        #expect(try client.messages() == ["\u{1}#\u{3}G"])
        try client.send("k2#k1#none#\u{0}I")
        #expect(try client.messages() == ["#v1##\u{1}I"])
        try client.send("k1#none#\u{3}E")
        harness.deliver(1)
        #expect(try client.messages() == ["\u{1}#\u{4}E"])
        try client.send("k1#\u{0}K")
        #expect(try client.messages() == ["#\u{1}K"])
    }

    @Test func `Each prefix request gets a prefix that nobody had`() throws {
        let harness = try StorageHarness()
        let clients = try (0..<3).map { _ in try harness.connect() }
        for client in clients { try client.send("\u{6}A") }
        harness.deliver(3)
        #expect(Set(try clients.flatMap { try $0.messages() }) == ["A#\u{7}A", "C#\u{7}A", "E#\u{7}A"])
    }

    @Test func `A get that follows writes of the same client sees them, and waits for nothing else`() throws {
        let harness = try StorageHarness()
        let (writer, other) = (try harness.connect(), try harness.connect())
        try writer.send(["k#v1#\u{2}C", "k#\u{0}E", "k#v2#\u{2}G", "k#\u{0}I", "k#\u{3}K", "k#\u{0}M"].map { ByteBuffer(string: $0) })
        try other.send("k#\u{0}C")
        #expect(try other.messages().count == 1)
        #expect(try writer.messages() == [])
        harness.deliver(3)
        // All three writes shared a commit, so each get sees at least the writes before it: here, all of them.
        #expect(
            Set(try writer.messages()) == [
                "\u{1}#\u{3}C", "#\u{1}E", "\u{1}#\u{3}G", "#\u{1}I", "\u{1}#\u{4}K", "#\u{1}M",
            ])
    }

    @Test func `A get of other keys does not wait for writes under way`() throws {
        let harness = try StorageHarness()
        let client = try harness.connect()
        try client.send(["k#v1#\u{2}C", "other#\u{0}E", "k#\u{0}G"].map { ByteBuffer(string: $0) })
        #expect(try client.messages() == ["#\u{1}E"])
        harness.deliver(1)
        #expect(try client.messages() == ["\u{1}#\u{3}C", "v1#\u{1}G"])
    }

    @Test func `The writes of one read share one commit, and their replies one write`() throws {
        let harness = try StorageHarness()
        let client = try harness.connect()
        let before = harness.disk.writeCount
        try client.send((1...100).map { ByteBuffer(string: "k\($0)#v#\u{2}\(Base64Number(Int32($0)))") })
        harness.deliver(100)
        #expect(try client.messages().count == 100)
        #expect(harness.disk.writeCount == before + 1)
        #expect(client.writeCount == 1)
    }

    @Test func `Requests, keys, bytes and commits are counted where they happen`() throws {
        let harness = try StorageHarness()
        let client = try harness.connect()
        try client.send(["a#1#\u{2}C", "b#2#\u{2}E", "x#\u{3}G"].map { ByteBuffer(string: $0) })
        harness.deliver(3)
        try client.send("a#b#c#\u{0}I")
        #expect(try client.messages().count == 4)
        let counters = harness.sessions.loop.counters
        #expect(counters.putRequests == 2 && counters.removeRequests == 1 && counters.getRequests == 1)
        #expect(counters.keysRead == 3)
        #expect(counters.commitBatches == 1 && counters.commitBatchRequests == 3)
        #expect(counters.connectionsOpened == 1)
        // Each client frame has 6 bytes of header, each of the server's 2.
        #expect(counters.receivedBytes == UInt64(4 * 6 + 6 + 6 + 4 + 8))
        #expect(counters.sentBytes == UInt64(4 * 2 + 4 + 4 + 4 + 7))
    }

    @Test func `A put or remove of nothing is done at once`() throws {
        let harness = try StorageHarness()
        let client = try harness.connect()
        try client.send(["#\u{2}C", "#\u{3}E", "#\u{0}G"].map { ByteBuffer(string: $0) })
        #expect(try client.messages() == ["\u{1}#\u{3}C", "\u{1}#\u{4}E", "#\u{1}G"])
    }

    @Test func `A put without a value for its last key fails, and stores nothing`() throws {
        let harness = try StorageHarness()
        let client = try harness.connect()
        try client.send("a#1#b#\u{2}C")
        #expect(try client.messages() == ["\u{0}#\u{3}C"])
        try client.send("a#\u{0}E")
        #expect(try client.messages() == ["#\u{1}E"])
        #expect(harness.sessions.log.lines("request failed").count == 1)
    }

    @Test(arguments: [
        ("no trailer at all", CloseCode.protocolError), ("k#\u{9}A", .unsupportedData), ("k#\u{0}", .protocolError), ("", .protocolError),
        ("\u{1}#\u{1}A", .unsupportedData),
    ]) func `A torn or unknown message is closed with a code and a reason, and logged with who sent it`(text: String, code: CloseCode)
        throws
    {
        let harness = try StorageHarness()
        let client = try harness.connect()
        try client.send(text)
        guard case .closeReceived(let found, let reason)? = try client.receive().first else {
            Issue.record("no close frame")
            return
        }
        #expect(found == code)
        #expect(reason.hasPrefix("protocol."))
        let line = try #require(harness.sessions.log.lines("request failed").first)
        #expect(line.metadata["principal"] == "alice")
    }

    @Test func `A text message is unsupported data`() throws {
        let harness = try StorageHarness()
        let client = try harness.connect()
        try client.send([ByteBuffer(string: "k#\u{0}A")], .text)
        guard case .closeReceived(.unsupportedData?, _)? = try client.receive().first else {
            Issue.record("no close frame")
            return
        }
    }

    @Test func `A write that the disk refuses is answered as failed, and reads go on`() throws {
        let harness = try StorageHarness()
        let client = try harness.connect()
        try client.send("k#before#\u{2}C")
        harness.deliver(1)
        var faults = MemoryDisk.Faults()
        faults.failWrites = (after: 0, with: .diskFull)
        harness.disk.setFaults(faults)
        try client.send("k#after#\u{2}E")
        harness.deliver(1)
        try client.send("k#\u{3}G")
        harness.deliver(1)
        #expect(try client.messages() == ["\u{1}#\u{3}C", "\u{0}#\u{3}E", "\u{0}#\u{4}G"])
        try client.send("k#\u{0}I")
        #expect(try client.messages() == ["before#\u{1}I"])
        #expect(harness.sessions.log.lines("request failed").first?.metadata["reason"]?.contains("diskFull") == true)
    }

    @Test func `A read that the disk refuses closes with 1011: the peer is told the code, the log the rest`() throws {
        let harness = try StorageHarness()
        let client = try harness.connect()
        var faults = MemoryDisk.Faults()
        faults.corruptReads = true
        harness.disk.setFaults(faults)
        try client.send("k#\u{0}C")
        guard case .closeReceived(.internalError?, let reason)? = try client.receive().first else {
            Issue.record("no close frame")
            return
        }
        #expect(reason == "storage.corrupt")
        let logged = try #require(harness.sessions.log.lines("request failed").first?.metadata["reason"])
        #expect(logged.hasPrefix("storage.corrupt: "))
    }

    @Test func `An answer over the message limit is not sent: 1009, ask for fewer keys`() throws {
        var limits = ServerLimits()
        limits.maximumMessageBytes = 1000
        let harness = try StorageHarness(limits: limits)
        let client = try harness.connect()
        try client.send("k#\(String(repeating: "v", count: 600))#\u{2}C")
        harness.deliver(1)
        #expect(try client.messages().count == 1)
        try client.send("k#k#\u{0}E")
        guard case .closeReceived(.messageTooBig?, let reason)? = try client.receive().first else {
            Issue.record("no close frame")
            return
        }
        #expect(reason.contains("fewer keys"))
    }

    @Test func `A message over the limit is 1009 and nothing of it is stored`() throws {
        var limits = ServerLimits()
        limits.maximumMessageBytes = 1000
        let harness = try StorageHarness(limits: limits)
        let (client, other) = (try harness.connect(), try harness.connect())
        try client.send("k#\(String(repeating: "v", count: 2000))#\u{2}C")
        guard case .closeReceived(.messageTooBig?, _)? = try client.receive().first else {
            Issue.record("no close frame")
            return
        }
        try other.send("k#\u{0}A")
        #expect(try other.messages() == ["#\u{1}A"])
    }

    @Test func `A client that leaves while its write is under way harms nobody`() throws {
        let harness = try StorageHarness()
        let (client, other) = (try harness.connect(), try harness.connect())
        try client.send("k#v#\u{2}C")
        try client.channel.close().wait()
        harness.deliver(1)
        try other.send("k#\u{0}A")
        #expect(try other.messages() == ["v#\u{1}A", "k#v#\u{5}"])
    }

    @Test func `A stored value that this protocol cannot say closes with 1011 instead of shifting values`() throws {
        let harness = try StorageHarness()
        try harness.putInProcess("k", "a#b")
        let client = try harness.connect()
        try client.send("k#x#\u{0}C")
        guard case .closeReceived(.internalError?, _)? = try client.receive().first else {
            Issue.record("no close frame")
            return
        }
    }

    /// 30 gets of a value of 300 kB that wait for the put in front of them.
    private func waitingGets(_ harness: StorageHarness) throws -> HarnessClient {
        let client = try harness.connect()
        let value = String(repeating: "v", count: 300_000)
        try client.send((["k#\(value)#\u{2}C"] + Array(repeating: "k#\u{0}E", count: 30)).map { ByteBuffer(string: $0) })
        return client
    }

    @Test func `Large answers that waited for a write are written as the network takes them`() throws {
        let harness = try StorageHarness()
        let client = try self.waitingGets(harness)
        let network = try client.narrow(to: 1_000_000)
        harness.deliver(1)
        #expect(network.writes.reduce(0, +) < 1_400_000)
        #expect(client.session.requestsInFlight > 20)
        var rounds = 0
        while client.session.requestsInFlight > 0, rounds < 30 {
            let before = network.writes.reduce(0, +)
            try client.take(network)
            #expect(network.writes.reduce(0, +) - before < 1_400_000)
            rounds += 1
        }
        #expect(try client.messages().count == 31)
        #expect(rounds > 3)
    }

    @Test func `A network that takes everything while it is flushed gets all of them, one after the other`() throws {
        let harness = try StorageHarness()
        let client = try self.waitingGets(harness)
        let network = try client.narrow(to: 100_000)
        network.takesOnFlush = true
        harness.deliver(1)
        #expect(try client.messages().count == 31)
        let largest = try #require(network.writes.max())
        #expect(largest < 700_000)
        try client.send("k#\u{0}G")
        #expect(try client.messages().count == 1)
    }

    @Test(arguments: [
        ("a#a#a#\u{0}C", false), ("####\u{3}C", false), ("a#1#a#2#a#3#\u{2}C", false), ("a#a#a#a#\u{0}C", true),
        ("#####\u{0}C", true), ("a#a#a#a#\u{3}C", true), ("a#1#a#2#a#3#a#4#\u{2}C", true),
    ]) func `More keys than the limit close with 1009 and the reason`(request: String, isRefused: Bool) throws {
        var limits = ServerLimits()
        limits.maximumKeysPerRequest = 3
        let harness = try StorageHarness(limits: limits)
        let client = try harness.connect()
        try client.send(request)
        if isRefused {
            guard case .closeReceived(.messageTooBig?, let reason)? = try client.receive().first else {
                Issue.record("no close frame")
                return
            }
            #expect(reason.contains("at most 3 keys"))
        } else {
            if !request.contains("\u{0}") { harness.deliver(1) }
            #expect(try client.messages().count == 1)
        }
    }
}
