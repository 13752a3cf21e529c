import EngineContract
import MWProtocol
import MWStorage
import MWWebSocket
import NIOCore
import NIOEmbedded
import Testing

@testable import MWServer

/// Who is told of a put, when, and what.
@Suite struct ForceReloadTests {
    /// A client that has had its first answer.
    private func settled(_ harness: StorageHarness) throws -> HarnessClient {
        let client = try harness.connect()
        try client.send("x#\u{0}C")
        _ = try client.receive()
        return client
    }

    @Test func `A put reaches every other client as it was put, and not its writer`() throws {
        let harness = try StorageHarness()
        let clients = try (0..<3).map { _ in try self.settled(harness) }
        try clients[0].send("a#1#b#2#\u{2}E")
        harness.deliver(1)
        #expect(try clients[0].messages() == ["\u{1}#\u{3}E"])
        #expect(try clients[1].messages() == ["a#1#b#2#\u{5}"])
        #expect(try clients[2].messages() == ["a#1#b#2#\u{5}"])
    }

    @Test func `Puts of several clients in one commit: each is told of the others' only, in order`() throws {
        let harness = try StorageHarness()
        let clients = try (0..<4).map { _ in try self.settled(harness) }
        // One turn of the event loop, so one commit.
        for (index, client) in clients.prefix(3).enumerated() {
            var frame = ByteBuffer()
            var machine = WebSocketStateMachine(role: .client)
            machine.writeMessage(.binary, ByteBuffer(string: "k\(index)#v#\u{2}E"), to: &frame, maskingKey: 9)
            client.channel.pipeline.fireChannelRead(frame)
            client.channel.pipeline.fireChannelReadComplete()
        }
        harness.sessions.eventLoop.run()
        harness.deliver(3)
        for (index, client) in clients.prefix(3).enumerated() {
            let others = (0..<3).filter { $0 != index }.map { "k\($0)#v#\u{5}" }
            #expect(try client.messages().filter { $0.hasSuffix("\u{5}") } == others)
        }
        #expect(try clients[3].messages() == (0..<3).map { "k\($0)#v#\u{5}" })
    }

    @Test func `An empty value and a separator at the end arrive as pairs`() throws {
        let harness = try StorageHarness()
        let (writer, other) = (try self.settled(harness), try self.settled(harness))
        try writer.send("a#1#b##\u{2}E")
        harness.deliver(1)
        #expect(try other.messages() == ["a#1#b##\u{5}"])
        guard case .forceReload(let pairs) = try MWDBReply(message: ByteBuffer(string: "a#1#b##\u{5}")) else {
            Issue.record("not a force reload")
            return
        }
        #expect(pairs.slices.map { String(buffer: $0.value) } == ["1", ""])
    }

    @Test func `A client without its first answer is told after it`() throws {
        let harness = try StorageHarness()
        let (writer, fresh) = (try self.settled(harness), try harness.connect())
        try writer.send("a#1#\u{2}E")
        harness.deliver(1)
        #expect(try fresh.messages() == [])
        try fresh.send("a#\u{0}C")
        #expect(try fresh.messages() == ["1#\u{1}C", "a#1#\u{5}"])
    }

    @Test func `A client with a request of id 0 in flight is told after that answer`() throws {
        let harness = try StorageHarness()
        let (writer, other) = (try self.settled(harness), try self.settled(harness))
        try other.send("other#x#\u{2}A")
        try writer.send("a#1#\u{2}E")
        harness.deliver(2)
        let messages = try other.messages()
        #expect(messages == ["\u{1}#\u{3}A", "a#1#\u{5}"])
    }

    @Test func `Removes, failed puts and puts of nothing tell nobody`() throws {
        let harness = try StorageHarness()
        let (writer, other) = (try self.settled(harness), try self.settled(harness))
        try writer.send("a#\u{3}E")
        harness.deliver(1)
        try writer.send("#\u{2}G")
        try writer.send("torn#\u{2}I")
        var faults = MemoryDisk.Faults()
        faults.failWrites = (after: 0, with: .diskFull)
        harness.disk.setFaults(faults)
        try writer.send("a#1#\u{2}K")
        harness.deliver(1)
        #expect(try writer.messages().count == 4)
        #expect(try other.messages() == [])
    }

    @Test func `What the server's own program puts is told to every client`() throws {
        let harness = try StorageHarness()
        let client = try self.settled(harness)
        try harness.putInProcess("a", "1")
        harness.deliver(0)
        #expect(try client.messages() == ["a#1#\u{5}"])
    }

    @Test func `A client that must wait and is sent too much is closed with 1013`() throws {
        let (harness, writer) = try self.harnessOfSmallLimit()
        let waiting = try self.settled(harness)
        try self.putOverLimit(writer, harness)
        // Its outcome comes last.
        try waiting.send("other#x#\u{2}A")
        harness.deliver(1)
        guard case .closeReceived(.tryAgainLater?, _)? = try waiting.receive().first(where: { $0.isClose }) else {
            Issue.record("no close frame")
            return
        }
        // Its own four answers, and what the other one put.
        #expect(try writer.messages().count == 5)
    }

    @Test func `A client that has read nothing yet is not closed for what it was not told: it holds nothing old`() throws {
        let (harness, writer) = try self.harnessOfSmallLimit()
        let fresh = try harness.connect()
        try self.putOverLimit(writer, harness)
        harness.deliver(0)
        try fresh.send("k2#\u{0}C")
        let messages = try fresh.messages()
        #expect(messages.first == "\(String(repeating: "v", count: 400))#\u{1}C")
    }

    @Test func `One commit over the limit of unsent bytes ends no connection that had taken everything`() throws {
        var limits = ServerLimits()
        limits.maximumUnsentBytes = 1000
        let harness = try StorageHarness(limits: limits)
        let (writer, other) = (try self.settled(harness), try self.settled(harness))
        let value = String(repeating: "v", count: 3000)
        try writer.send("k#\(value)#\u{2}E")
        harness.deliver(1)
        #expect(try other.messages() == ["k#\(value)#\u{5}"])
        #expect(try writer.messages() == ["\u{1}#\u{3}E"])
    }

    private func harnessOfSmallLimit() throws -> (StorageHarness, writer: HarnessClient) {
        var limits = ServerLimits()
        limits.maximumUnsentBytes = 1000
        let harness = try StorageHarness(limits: limits)
        return (harness, try self.settled(harness))
    }

    /// Four puts, each a commit: before the last one, more than the limit waits already.
    private func putOverLimit(_ writer: HarnessClient, _ harness: StorageHarness) throws {
        for (number, id) in ["E", "G", "I", "K"].enumerated() {
            try writer.send("k\(number)#\(String(repeating: "v", count: 400))#\u{2}\(id)")
            harness.awaitOutcomes(1)
        }
    }
}

extension WebSocketEvent {
    fileprivate var isClose: Bool {
        if case .closeReceived = self { true } else { false }
    }
}
