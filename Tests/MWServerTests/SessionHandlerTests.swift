import MWWebSocket
import NIOCore
import NIOEmbedded
import Testing

@testable import MWServer

/// One session over an embedded channel, with a delegate that echoes.
@Suite struct SessionHandlerTests {
    private func bytes(_ text: String) -> ByteBuffer { ByteBuffer(string: text) }

    @Test func `All replies to one read leave in one write`() throws {
        let client = try SessionHarness().connect(EchoDelegate())
        try client.send((0..<50).map { self.bytes("message \($0)") })
        #expect(try client.messages() == (0..<50).map { "message \($0)" })
        #expect(client.writeCount == 1)
    }

    @Test func `Several reads before the burst ends are answered in their order, in one write`() throws {
        let client = try SessionHarness().connect(EchoDelegate())
        var machine = WebSocketStateMachine(role: .client)
        for text in ["one", "two", "three"] {
            var frame = ByteBuffer()
            machine.writeMessage(.binary, self.bytes(text), to: &frame, maskingKey: 7)
            client.channel.pipeline.fireChannelRead(frame)
        }
        client.channel.pipeline.fireChannelReadComplete()
        #expect(try client.messages() == ["one", "two", "three"])
        #expect(client.writeCount == 1)
    }

    @Test func `Who asks for much lets the others of its loop have their turns`() throws {
        let harness = try SessionHarness()
        let greedy = try harness.connect(EchoDelegate())
        let other = try harness.connect(EchoDelegate())
        let large = ByteBuffer(repeating: 7, count: 128 * 1024)
        try greedy.sendWithoutRunning(Array(repeating: large, count: 16))
        try other.sendWithoutRunning([self.bytes("me too")])
        // What fills a socket's buffer, and the message that was under way.
        #expect(greedy.session.writtenBytes < 3 * 128 * 1024 + 1024)
        #expect(other.session.writtenBytes > 0)
        #expect(try greedy.receive() == Array(repeating: .message(.binary, large), count: 16))
    }

    @Test func `Between its turns nothing more is read from who asks for much`() throws {
        let harness = try SessionHarness()
        let greedy = try harness.connect(EchoDelegate())
        try greedy.sendWithoutRunning(Array(repeating: ByteBuffer(repeating: 7, count: 128 * 1024), count: 16))
        let reads = ReadCounter()
        try greedy.channel.pipeline.syncOperations.addHandler(reads, position: .first)
        greedy.channel.read()
        #expect(reads.count == 0)
        #expect(try greedy.receive().count == 16)
        #expect(reads.count == 1)
    }

    @Test func `A message that waits for its own turn is not forgotten behind the turn of its connection`() throws {
        let harness = try SessionHarness()
        let delegate = CountingDelegate { count, session in
            guard count == 8 else { return }
            harness.eventLoop.advanceTime(by: .milliseconds(2))
            session.hold(.unfinishedMessage)
            session.loop.afterOthers { if session.mayTakeNext { session.release(.unfinishedMessage) } }
        }
        let client = try harness.connect(delegate)
        try client.send((0..<24).map { self.bytes("\($0)") })
        #expect(delegate.count == 24)
    }

    @Test func `Nothing of a peer that was cut off is done any more, though it was received before`() throws {
        let harness = try SessionHarness()
        let large = ByteBuffer(repeating: 7, count: 128 * 1024)
        let delegate = CountingDelegate { _, session in session.send(.binary, large) }
        let client = try harness.connect(delegate)
        try client.sendWithoutRunning((0..<16).map { self.bytes("\($0)") })
        let count = delegate.count
        #expect(count < 16, "the rest waits for its turn")
        // A socket's channel says that it is closed in a later task of its loop.
        let close = HeldClose()
        try client.channel.pipeline.syncOperations.addHandler(close, position: .first)
        client.session.abort("refused")
        harness.eventLoop.run()
        #expect(delegate.count == count)
        close.letGo()
        #expect(client.isClosed)
    }

    private final class HeldClose: ChannelOutboundHandler {
        typealias OutboundIn = ByteBuffer

        private var held: (() -> Void)?

        func close(context: ChannelHandlerContext, mode: CloseMode, promise: EventLoopPromise<Void>?) {
            self.held = { context.close(mode: mode, promise: promise) }
        }

        func letGo() {
            self.held?()
            self.held = nil
        }
    }

    private final class CountingDelegate: SessionDelegate {
        private(set) var count = 0
        private let body: (Int, SessionHandler) -> Void

        init(_ body: @escaping (Int, SessionHandler) -> Void) { self.body = body }

        func messageReceived(_ opcode: MessageOpcode, _ payload: ByteBuffer, in session: SessionHandler) {
            self.count += 1
            self.body(self.count, session)
        }
    }

    private final class ReadCounter: ChannelOutboundHandler {
        typealias OutboundIn = ByteBuffer

        var count = 0

        func read(context: ChannelHandlerContext) {
            self.count += 1
            context.read()
        }
    }

    @Test func `A silent peer is pinged, and closed with 1011 when it does not answer`() throws {
        let harness = try SessionHarness()
        let client = try harness.connect(EchoDelegate())
        client.isPolite = false
        harness.advance(by: .seconds(19))
        #expect(try client.receive().isEmpty)
        harness.advance(by: .seconds(1))
        #expect(try client.receive() == [.ping(ByteBuffer())])
        harness.advance(by: .seconds(19))
        #expect(try client.receive().isEmpty)
        harness.advance(by: .seconds(1))
        guard case .closeReceived(.internalError?, let reason)? = try client.receive().first else {
            Issue.record("no close frame")
            return
        }
        #expect(reason.contains("ping"))
    }

    @Test func `A peer that answers pings stays`() throws {
        let harness = try SessionHarness()
        let client = try harness.connect(EchoDelegate())
        for _ in 0..<5 {
            // The harness answers it.
            harness.advance(by: .seconds(20))
            #expect(try client.receive() == [.ping(ByteBuffer())])
            harness.advance(by: .seconds(19))
            #expect(try client.receive().isEmpty)
        }
        #expect(!client.isClosed)
    }

    @Test func `A close frame that is not answered ends the connection after the closing timeout`() throws {
        let harness = try SessionHarness()
        let client = try harness.connect(EchoDelegate())
        client.isPolite = false
        client.session.close(.stop, 1001, "going")
        #expect(try client.receive() == [.closeReceived(.goingAway, "going")])
        harness.advance(by: .seconds(9))
        #expect(!client.isClosed)
        harness.advance(by: .seconds(1))
        #expect(client.isClosed)
        #expect(harness.log.lines("connection closed").first?.metadata["closed_by"] == "server")
    }

    @Test func `The peer's empty close frame is answered with 1000, and the connection ends`() throws {
        let harness = try SessionHarness()
        let delegate = EchoDelegate()
        let client = try harness.connect(delegate)
        try client.sendBytes(ByteBuffer(bytes: [0x88, 0x80, 0, 0, 0, 0]))
        #expect(try client.receive() == [.closeReceived(.normal, "")])
        #expect(client.isClosed && delegate.hasEnded)
        let line = try #require(harness.log.lines("connection closed").first)
        #expect(line.metadata["closed_by"] == "client")
        #expect(line.metadata["principal"] == "alice")
        #expect(line.metadata["fingerprint"] == "\(harness.principal.fingerprint)")
        #expect(line.metadata["address"] == "192.0.2.1:4711")
    }

    @Test func `A breach of the protocol is answered with its close code, logged, and nothing more is read`() throws {
        let harness = try SessionHarness()
        let client = try harness.connect(EchoDelegate())
        // Unmasked.
        try client.sendBytes(ByteBuffer(bytes: [0x82, 0x01, 0x41]))
        guard case .closeReceived(.protocolError?, _)? = try client.receive().first else {
            Issue.record("no close frame")
            return
        }
        #expect(client.isClosed)
        #expect(harness.log.lines("connection closed").first?.metadata["cause"] == "protocolViolation")
        #expect(harness.loop.census.total == 0)
        #expect(harness.loop.sessions.isEmpty)
    }

    @Test func `At the limit of requests in flight nothing more is taken until one is answered`() throws {
        var limits = ServerLimits()
        limits.maximumRequestsInFlight = 3
        let harness = try SessionHarness(limits: limits)
        let delegate = EchoDelegate()
        delegate.defersAnswers = true
        let client = try harness.connect(delegate)
        try client.send((0..<5).map { self.bytes("\($0)") })
        #expect(client.session.requestsInFlight == 3)
        delegate.finish(1, in: client.session)
        harness.eventLoop.run()
        #expect(client.session.requestsInFlight == 3)
        delegate.finish(3, in: client.session)
        harness.eventLoop.run()
        #expect(client.session.requestsInFlight == 1)
        #expect(try client.messages().count == 4)
    }

    @Test func `A peer that does not read is not read from, and closed with 1013 after 30 seconds`() throws {
        let harness = try SessionHarness()
        let client = try harness.connect(EchoDelegate())
        client.channel.isWritable = false
        client.channel.pipeline.fireChannelWritabilityChanged()
        try client.send("held back")
        #expect(try client.receive().isEmpty)
        harness.advance(by: .seconds(29))
        #expect(try client.receive().isEmpty)
        harness.advance(by: .seconds(1))
        guard case .closeReceived(.tryAgainLater?, _)? = try client.receive().first else {
            Issue.record("no close frame")
            return
        }
    }

    @Test func `A peer that reads again in time is answered`() throws {
        let harness = try SessionHarness()
        let client = try harness.connect(EchoDelegate())
        client.channel.isWritable = false
        client.channel.pipeline.fireChannelWritabilityChanged()
        try client.send("held back")
        harness.advance(by: .seconds(29))
        client.channel.isWritable = true
        client.channel.pipeline.fireChannelWritabilityChanged()
        #expect(try client.messages() == ["held back"])
        harness.advance(by: .seconds(2))
        #expect(!client.isClosed)
    }

    @Test func `A drained connection is closed at once when idle, with the code of the cause`() throws {
        let harness = try SessionHarness()
        let client = try harness.connect(EchoDelegate())
        client.session.drain(.restart, 1012, "the server restarts")
        #expect(try client.receive() == [.closeReceived(.serviceRestart, "the server restarts")])
        #expect(client.isClosed)
    }

    @Test func `A drained connection answers what it was asked, takes nothing more, then closes`() throws {
        let harness = try SessionHarness()
        let delegate = EchoDelegate()
        delegate.defersAnswers = true
        let client = try harness.connect(delegate)
        try client.send(["asked before"].map(self.bytes))
        client.session.drain(.stop, 1001, "the server stops")
        try client.send("asked after")
        #expect(try client.receive().isEmpty)
        #expect(client.session.requestsInFlight == 1)
        delegate.finish(1, in: client.session)
        #expect(try client.messages() == ["late", "\(WebSocketEvent.closeReceived(.goingAway, "the server stops"))"])
    }

    @Test func `A connection that is closed for a reason of its own while it is drained keeps that reason`() throws {
        let harness = try SessionHarness()
        let delegate = EchoDelegate()
        delegate.defersAnswers = true
        let client = try harness.connect(delegate)
        client.isPolite = false
        try client.send(["asked"].map(self.bytes))
        client.session.drain(.stop, 1001, "the server stops")
        client.session.close(.notAllowed, 1008, "not allowed")
        delegate.finish(1, in: client.session)
        client.channel.close(promise: nil)
        harness.eventLoop.run()
        #expect(harness.log.lines("connection closed").map(\.metadata["cause"]) == ["notAllowed"])
    }

    @Test func `A connection that reaches its lifetime is drained with 1001`() throws {
        var limits = ServerLimits()
        limits.connectionLifetime = .seconds(60)
        let harness = try SessionHarness(limits: limits)
        let client = try harness.connect(EchoDelegate())
        for _ in 0..<5 {
            harness.advance(by: .seconds(10))
            try client.send("busy")
        }
        _ = try client.receive()
        harness.advance(by: .seconds(10))
        guard case .closeReceived(.goingAway?, _)? = try client.receive().first else {
            Issue.record("no close frame")
            return
        }
    }

    @Test func `The end of the transport without a closing handshake is told apart in the log`() throws {
        let harness = try SessionHarness()
        let client = try harness.connect(EchoDelegate())
        try client.channel.close().wait()
        let line = try #require(harness.log.lines("connection closed").first)
        #expect(line.metadata["closed_by"] == "network")
        #expect(line.metadata["code"] == "none")
    }

    @Test func `A large message is echoed whole, and buffers go back to the loop`() throws {
        let client = try SessionHarness().connect(EchoDelegate())
        let large = String(repeating: "x", count: 3_000_000)
        for _ in 0..<3 {
            try client.send(large)
            #expect(try client.messages() == [large])
        }
    }

    /// Takes 400 bytes every 20 seconds, and is sent as many.
    private func drip(_ harness: SessionHarness) throws -> HarnessClient {
        let client = try harness.connect(EchoDelegate())
        let network = try client.narrow(to: 100)
        try client.send(String(repeating: "x", count: 200))
        for _ in 0..<5 {
            harness.advance(by: .seconds(20))
            // It takes what there is, and is sent more than that.
            network.isStuck = false
            client.channel.flush()
            network.isStuck = true
            client.session.send(.binary, ByteBuffer(string: String(repeating: "y", count: 400)))
            client.session.flush()
        }
        return client
    }

    @Test func `A slow peer stays as long as it takes an eighth of the limit in its time, whatever else is sent to it`() throws {
        var limits = ServerLimits()
        limits.maximumUnsentBytes = 1_600
        let harness = try SessionHarness(limits: limits)
        let client = try self.drip(harness)
        for event in try client.receive() {
            guard case .message = event else {
                Issue.record("\(event)")
                return
            }
        }
        harness.advance(by: .seconds(20))
        harness.advance(by: .seconds(29))
        #expect(client.session.isOpen)
        harness.advance(by: .seconds(1))
        #expect(!client.session.isOpen)
    }

    @Test func `A peer that only takes a byte now and then is closed with 1013`() throws {
        let harness = try SessionHarness()
        let client = try self.drip(harness)
        #expect(!client.session.isOpen)
        #expect(harness.log.lines("connection closed").allSatisfy { $0.metadata["cause"] == "slowReader" })
        guard
            case .closeReceived(.tryAgainLater?, _)? = try client.receive().first(where: {
                if case .closeReceived = $0 { true } else { false }
            })
        else {
            Issue.record("no close frame")
            return
        }
    }

    @Test func `A time in which the loop itself stood still is not the peer's silence`() throws {
        let harness = try SessionHarness()
        let client = try harness.connect(EchoDelegate())
        client.isPolite = false
        harness.advance(by: .seconds(20))
        #expect(try client.receive() == [.ping(ByteBuffer())])
        harness.loop.ticked(harness.loop.now + .seconds(61), lateBy: .seconds(60))
        #expect(try client.receive().isEmpty)
        harness.advance(by: .seconds(19))
        #expect(!client.session.isOpen)
    }

    @Test func `A session that has ended hands over nothing that had been held`() throws {
        var limits = ServerLimits()
        limits.maximumRequestsInFlight = 1
        let harness = try SessionHarness(limits: limits)
        let delegate = EchoDelegate()
        delegate.defersAnswers = true
        let client = try harness.connect(delegate)
        try client.send(["one", "two"].map(self.bytes))
        try client.channel.close().wait()
        #expect(delegate.hasEnded)
        delegate.finish(1, in: client.session)
        harness.eventLoop.run()
        #expect(delegate.receivedAfterEnd == 0)
    }
}
