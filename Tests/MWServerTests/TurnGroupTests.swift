import MWProtocol
import MWTLS
import MWWebSocket
import NIOCore
import NIOEmbedded
import TestCertificates
import Testing

@testable import MWServer

/// In which order a turn's messages reach the network. Method: sessions of one embedded loop, whose networks write down what they are told.
@Suite struct TurnGroupTests {
    /// Numbers of connections, in the order in which they were flushed.
    private final class Record {
        var flushes: [Int] = []
    }

    private final class Recorder: ChannelOutboundHandler {
        typealias OutboundIn = ByteBuffer
        let number: Int
        let record: Record

        init(_ number: Int, _ record: Record) { (self.number, self.record) = (number, record) }

        func flush(context: ChannelHandlerContext) {
            self.record.flushes.append(self.number)
            context.flush()
        }
    }

    private func clients(_ count: Int, _ harness: SessionHarness, _ record: Record) throws -> [HarnessClient] {
        try (0..<count).map { number in
            let client = try harness.connect(EchoDelegate())
            try client.channel.pipeline.syncOperations.addHandler(Recorder(number, record), position: .first)
            return client
        }
    }

    /// Sessions that were flushed together, how many each time. The last one that was written to is first; within a group it is last.
    private static func groups(_ flushes: [Int]) -> [Int] {
        var groups: [Int] = []
        for (index, number) in flushes.enumerated() {
            if index > 0, number == flushes[index - 1] + 1 { groups[groups.count - 1] += 1 } else { groups.append(1) }
        }
        return groups
    }

    @Test func `What a turn writes leaves for a few sessions at first, then for twice as many, up to eight, for each once`() throws {
        let harness = try SessionHarness()
        let record = Record()
        let clients = try self.clients(40, harness, record)
        for _ in 0..<2 {
            record.flushes = []
            for client in clients {
                for text in ["a", "b"] { client.session.send(.binary, ByteBuffer(string: text)) }
            }
            #expect(record.flushes.isEmpty, "nobody is flushed before the turn ends")
            harness.eventLoop.run()
            #expect(record.flushes.sorted() == Array(0..<40), "each once")
            let groups = Self.groups(record.flushes)
            #expect(groups[0] == 1, "the first need not wait, in each turn anew")
            #expect(groups.max() == 8)
            for (group, next) in zip(groups, groups.dropFirst().dropLast()) { #expect(next == min(2 * group, 8)) }
            for client in clients {
                #expect(try client.messages() == ["a", "b"])
            }
        }
        #expect(clients.allSatisfy { $0.writeCount == 2 })
    }

    @Test func `A session that is flushed before its group's turn, or ends, is not flushed again, and the others are`() throws {
        let harness = try SessionHarness()
        let record = Record()
        let clients = try self.clients(5, harness, record)
        for client in clients { client.session.send(.binary, ByteBuffer(string: "a")) }
        clients[2].session.flush()
        try clients[1].channel.close().wait()
        harness.eventLoop.run()
        #expect(record.flushes.first == 2)
        for number in [0, 3, 4] {
            #expect(record.flushes.count { $0 == number } == 1)
            #expect(try clients[number].messages() == ["a"])
        }
        #expect(try clients[2].messages() == ["a"])
        #expect(clients[2].writeCount == 1)
    }

    @Test func `Frames that are sent now leave now, behind what was written, and a turn does not send them again`() throws {
        let harness = try SessionHarness()
        let record = Record()
        let client = try self.clients(1, harness, record)[0]
        client.session.send(.binary, ByteBuffer(string: "first"))
        client.session.sendNow(frames: ByteBuffer(bytes: [0x82, 4] + Array("next".utf8)), isWithOthers: true)
        #expect(record.flushes == [0])
        #expect(try client.messages() == ["first", "next"])
        let sent = client.writeCount
        harness.eventLoop.run()
        #expect(client.writeCount == sent)
    }

    private static func clients(_ count: Int, _ harness: SessionHarness, _ record: Record) throws -> [EncryptedClient] {
        let pair = try TestAuthority().materialPair()
        let contexts = (
            server: try TLSContext(server: pair.server),
            client: try TLSContext(client: pair.client, verification: .name(.dns("localhost")))
        )
        return try (0..<count).map { try EncryptedClient(harness, contexts, Recorder($0, record)) }
    }

    // As watchers are told of a change: each connection has one watch, and the change is all that there is.
    @Test func `What many are sent now leaves the first at once, then two, four and eight at a time, and the rest with the turn`() throws {
        let harness = try SessionHarness()
        let record = Record()
        let clients = try Self.clients(20, harness, record)
        let frames = ByteBuffer(bytes: [0x82, 4] + Array("news".utf8))
        for round in 1...2 {
            record.flushes = []
            var counts: [Int] = []
            for client in clients {
                client.session.sendNow(frames: frames, isWithOthers: true)
                counts.append(record.flushes.count)
            }
            #expect(counts == [1, 1, 3, 3, 3, 3, 7] + [Int](repeating: 7, count: 7) + [Int](repeating: 15, count: 6))
            #expect(record.flushes == [0, 2, 1, 6, 5, 4, 3, 14, 13, 12, 11, 10, 9, 8, 7], "the last one that was encrypted first")
            harness.eventLoop.run()
            #expect(record.flushes.dropFirst(15) == [19, 18, 17, 16, 15])
            for client in clients {
                #expect(try client.received() == String(repeating: String(buffer: frames), count: round))
            }
        }
    }

    @Test func `What was written before, and what is written behind, keeps its place beside what leaves in groups`() throws {
        let harness = try SessionHarness()
        let record = Record()
        let clients = try Self.clients(3, harness, record)
        func frames(_ text: String) -> ByteBuffer { ByteBuffer(bytes: [0x82, UInt8(text.utf8.count)] + Array(text.utf8)) }
        for client in clients {
            client.session.send(frames: frames("a"))
            client.session.sendNow(frames: frames("b"), isWithOthers: true)
            client.session.sendShared(frames: frames("c"))
            client.session.send(frames: frames("d"))
            client.session.sendNow(frames: frames("e"), isWithOthers: true)
        }
        harness.eventLoop.run()
        let expected = ["a", "b", "c", "d", "e"].map { String(buffer: frames($0)) }.joined()
        for client in clients {
            #expect(try client.received() == expected)
        }
        let flushes = record.flushes.count
        harness.eventLoop.run()
        #expect(record.flushes.count == flushes, "nothing is left to be flushed")
    }

    @Test func `Who has one watch is told at once; who has several, of all of them in one write`() throws {
        let harness = try WatchHarness()
        let record = Record()
        let peers = try (0..<4).map { _ in try harness.connect() }
        for (number, peer) in peers.enumerated() {
            for _ in 0..<(number == 1 ? 3 : 1) { try peer.send(NativeWatch(NativeRange(""))) }
            _ = try peer.said()
            try peer.client.channel.pipeline.syncOperations.addHandler(Recorder(number, record), position: .first)
        }
        let writes = peers[1].client.writeCount
        for revision in 1...2 {
            record.flushes = []
            try harness.put(("k", "\(revision)"))
            #expect(record.flushes == [0, 2, 3, 1])
            let news = "@\(revision) k=\(revision)" + (revision == 1 ? "" : " after \(revision - 1)")
            for number in [0, 2, 3] {
                #expect(try peers[number].said() == ["1 \(news)"])
            }
            #expect(try peers[1].said() == (1...3).map { "\($0) \(news)" })
            #expect(peers[1].client.writeCount == writes + revision)
        }
    }

    /// A session behind TLS, and the client's end.
    private final class EncryptedClient {
        let channel: EmbeddedChannel
        let session: SessionHandler
        private var client: TLSSession
        private var plaintext = ByteBuffer()

        init(_ harness: SessionHarness, _ contexts: (server: TLSContext, client: TLSContext), _ recorder: Recorder) throws {
            self.channel = EmbeddedChannel(loop: harness.eventLoop)
            self.client = TLSSession(context: contexts.client)
            _ = harness.loop.census.enter(harness.principal.fingerprint, principal: harness.principal.name)
            let info = SessionInfo(
                connectionID: harness.loop.makeConnectionID(), principal: harness.principal, address: "192.0.2.1:4711", subprotocol: nil,
                tls: "some")
            self.session = SessionHandler(info, peer: harness.peer, generation: 1, on: harness.loop, delegate: EchoDelegate())
            try self.channel.connect(to: SocketAddress(ipAddress: "192.0.2.1", port: 4711)).wait()
            let pipeline = self.channel.pipeline.syncOperations
            try pipeline.addHandlers([recorder, TLSHandler(context: contexts.server, buffers: harness.loop.buffers)])
            while self.client.phase == .handshaking {
                if case .failed(let error) = self.client.handshake() { throw error }
                let hello = self.client.takeOutboundCiphertext()
                if hello.readableBytes > 0 { try self.channel.writeInbound(hello) }
                harness.eventLoop.run()
                try self.receive()
            }
            try pipeline.addHandler(self.session)
            harness.eventLoop.run()
            try self.receive()
        }

        private func receive() throws {
            while let bytes = try self.channel.readOutbound(as: ByteBuffer.self) { self.client.receive(bytes) }
        }

        /// All that came so far.
        func received() throws -> String {
            try self.receive()
            _ = self.client.read(into: &self.plaintext)
            return String(buffer: self.plaintext)
        }
    }

    // With slices, as a large value goes to many watchers: nothing of it is copied, and it counts as unsent until the network has it.
    @Test func `A shared message reaches a slow reader whole, and what follows waits behind it`() throws {
        let harness = try SessionHarness()
        let client = try harness.connect(EchoDelegate())
        let network = try client.narrow(to: 1000)
        network.isStuck = true
        let value = ByteBuffer(string: String(repeating: "v", count: 50_000))
        let slices = [0..<20_000, 20_000..<20_001, 20_001..<50_000].compactMap { value.getSlice(at: $0.lowerBound, length: $0.count) }
        client.session.send(.binary, ByteBuffer(string: "before"))
        client.session.sendShared(.binary, headBytes: 3, then: slices) { $0.writeString("id:") }
        client.session.send(.binary, ByteBuffer(string: "behind"))
        #expect(!client.session.mayAnswer, "the network has enough")
        try client.sendWithoutRunning([ByteBuffer(string: "asked")])
        harness.eventLoop.run()
        #expect(try client.messages().isEmpty, "it takes nothing")
        #expect(client.session.unsentBytes > 50_000)
        var isTaken = false
        client.session.whenTaken { isTaken = true }
        harness.eventLoop.run()
        #expect(!isTaken)
        network.isStuck = false
        client.channel.flush()
        try client.take(network)
        #expect(isTaken && client.session.mayAnswer && client.session.unsentBytes == 0)
        #expect(try client.messages() == ["before", "id:" + String(buffer: value), "behind", "asked"])
        #expect(network.writes.contains(20_000) && network.writes.contains(29_999), "slices are not copied")
    }

    @Test func `A slow reader of a shared message is closed with 1013, and the others of its turn have it`() throws {
        let harness = try SessionHarness()
        let clients = try (0..<3).map { _ in try harness.connect(EchoDelegate()) }
        let network = try clients[1].narrow(to: 1000)
        network.isStuck = true
        let value = ByteBuffer(string: String(repeating: "v", count: 50_000))
        for client in clients { client.session.sendShared(.binary, headBytes: 0, then: [value]) { _ in } }
        harness.eventLoop.run()
        for number in [0, 2] {
            #expect(try clients[number].messages() == [String(buffer: value)])
        }
        harness.advance(by: .seconds(30))
        #expect(!clients[1].session.isOpen && clients[0].session.isOpen && clients[2].session.isOpen)
        #expect(try clients[1].messages().isEmpty)
        network.isStuck = false
        clients[1].channel.flush()
        let events = try clients[1].receive()
        guard events.count == 2, events.first == .message(.binary, value), case .closeReceived(.tryAgainLater?, _)? = events.last else {
            Issue.record("neither whole, nor closed: \(events.count) events")
            return
        }
    }
}
