import Glibc
import MWPKI
import MWTLS
import NIOCore
import NIOEmbedded
import Synchronization
import TestCertificates
import Testing

/// The handler without a network or a clock. Method: two embedded channels on one embedded loop, joined by hand; time is moved by the test.
@Suite struct HandlerTests {
    @Test("Both sides announce their verified peer once the handshake is over", arguments: TLSPolicy.Version.allCases)
    func completed(version: TLSPolicy.Version) throws {
        let pair = try TestAuthority().materialPair()
        let wire = try Wire(version, pair)
        wire.run()
        #expect(wire.server.peers.map(\.leaf) == [pair.client.identity.leaf])
        #expect(wire.client.peers.map(\.leaf) == [pair.server.identity.leaf])
        #expect(wire.server.errors.isEmpty && wire.client.errors.isEmpty)
    }

    @Test("All writes up to a flush leave in one socket write of whole records", arguments: TLSPolicy.Version.allCases)
    func coalescing(version: TLSPolicy.Version) throws {
        let wire = try Wire(version)
        wire.run()
        let results = (0..<100).map { wire.client.channel.write(ByteBuffer(string: "message \($0);")) }
        #expect(try wire.client.channel.readOutbound(as: ByteBuffer.self) == nil)
        wire.client.channel.flush()
        let ciphertext = try #require(try wire.client.channel.readOutbound(as: ByteBuffer.self))
        #expect(try wire.client.channel.readOutbound(as: ByteBuffer.self) == nil)
        let plaintextBytes = (0..<100).reduce(0) { $0 + "message \($1);".utf8.count }
        #expect(ciphertext.readableBytes < plaintextBytes + 64)
        for result in results { try result.wait() }
        try wire.server.channel.writeInbound(ciphertext)
        #expect(wire.server.received == (0..<100).map { "message \($0);" }.joined())
    }

    @Test("A flush inside a read burst waits for its end: one write answers one read")
    func flushInBurst() throws {
        let wire = try Wire(.tls13)
        wire.run()
        wire.server.onRead = { context, _ in context.writeAndFlush(NIOAny(ByteBuffer(string: "answer;")), promise: nil) }
        for _ in 0..<3 { wire.client.channel.write(ByteBuffer(string: "question;"), promise: nil); wire.client.channel.flush() }
        while let piece = try wire.client.channel.readOutbound(as: ByteBuffer.self) { wire.server.channel.pipeline.fireChannelRead(piece) }
        #expect(try wire.server.channel.readOutbound(as: ByteBuffer.self) == nil)
        wire.server.channel.pipeline.fireChannelReadComplete()
        let answers = try #require(try wire.server.channel.readOutbound(as: ByteBuffer.self))
        #expect(try wire.server.channel.readOutbound(as: ByteBuffer.self) == nil)
        try wire.client.channel.writeInbound(answers)
        #expect(wire.client.received == "answer;answer;answer;")
    }

    @Test("Much that is flushed inside a read burst reaches the channel before its end, and the writer learns that it is too much")
    func muchInBurst() throws {
        let wire = try Wire(.tls13)
        wire.run()
        // An embedded channel's writability is its test's business; where a socket would become unwritable is where bytes arrive.
        let piece = ByteBuffer(repeating: 7, count: 64 * 1024)
        var arrived: [Bool] = []
        wire.server.onRead = { context, _ in
            for _ in 0..<8 {
                context.writeAndFlush(NIOAny(piece), promise: nil)
                arrived.append(wire.server.hasOutbound)
            }
        }
        wire.client.channel.writeAndFlush(ByteBuffer(string: "question"), promise: nil)
        let question = try #require(try wire.client.channel.readOutbound(as: ByteBuffer.self))
        wire.server.channel.pipeline.fireChannelRead(question)
        #expect(arrived == [false, false, false, true, true, true, true, true])
        wire.server.channel.pipeline.fireChannelReadComplete()
        wire.server.onRead = nil
        wire.run()
        #expect(wire.client.received.utf8.count == 8 * piece.readableBytes)
        #expect(wire.client.errors.isEmpty)
    }

    // Method: something is written before, between and behind what is sealed; then once more, and the channel closes without a flush.
    @Test(arguments: TLSPolicy.Version.allCases)
    func `What is sealed leaves with the next flush or the close, in its order, and nobody holds its buffer`(
        version: TLSPolicy.Version
    ) throws {
        let wire = try Wire(version)
        wire.run()
        let handler = try wire.server.channel.pipeline.syncOperations.handler(type: TLSHandler.self)
        wire.server.channel.write(ByteBuffer(string: "first;"), promise: nil)
        var sealed = ByteBuffer(string: "second;")
        handler.seal(sealed)
        #expect(sealed.modifyIfUniquelyOwned { _ in true } == true)
        wire.server.channel.write(ByteBuffer(string: "third;"), promise: nil)
        handler.seal(ByteBuffer())
        #expect(try wire.server.channel.readOutbound(as: ByteBuffer.self) == nil)
        handler.flush()
        let ciphertext = try #require(try wire.server.channel.readOutbound(as: ByteBuffer.self))
        #expect(try wire.server.channel.readOutbound(as: ByteBuffer.self) == nil)
        try wire.client.channel.writeInbound(ciphertext)
        #expect(wire.client.received == "first;second;third;")
        handler.seal(ByteBuffer(string: "last;"))
        wire.server.channel.close(promise: nil)
        wire.run()
        #expect(wire.client.received == "first;second;third;last;")
        #expect(wire.client.errors.isEmpty)
    }

    @Test("What is written and flushed during the handshake arrives after it", arguments: TLSPolicy.Version.allCases)
    func earlyWrite(version: TLSPolicy.Version) throws {
        let wire = try Wire(version)
        let result = wire.client.channel.writeAndFlush(ByteBuffer(string: "early bird"))
        wire.run()
        try result.wait()
        #expect(wire.server.received == "early bird")
    }

    @Test("Too much written before the end of the handshake is refused")
    func tooMuchEarly() throws {
        let wire = try Wire(.tls13)
        let result = wire.client.channel.write(ByteBuffer(repeating: 0, count: TLSPolicy().maximumEarlyPlaintextBytes + 1))
        #expect(throws: TLSError(.tooMuchEarlyPlaintext, "", "")) { try result.wait() }
    }

    @Test("close says close_notify, and the other side sees an orderly end", arguments: TLSPolicy.Version.allCases)
    func orderlyClose(version: TLSPolicy.Version) throws {
        let wire = try Wire(version)
        wire.run()
        wire.client.channel.close(promise: nil)
        wire.run()
        #expect(wire.server.errors.isEmpty && wire.client.errors.isEmpty)
        #expect(!wire.server.channel.isActive && !wire.client.channel.isActive)
    }

    @Test("What was flushed before a close arrives, also inside a read burst", arguments: TLSPolicy.Version.allCases)
    func closeInBurst(version: TLSPolicy.Version) throws {
        let wire = try Wire(version)
        wire.run()
        var result: EventLoopFuture<Void>?
        wire.server.onRead = { context, _ in
            result = context.writeAndFlush(NIOAny(ByteBuffer(string: "goodbye")))
            context.close(promise: nil)
        }
        wire.client.channel.writeAndFlush(ByteBuffer(string: "hello"), promise: nil)
        wire.run()
        #expect(wire.client.received == "goodbye")
        #expect(wire.client.errors.isEmpty)
        try result?.wait()
    }

    @Test("34: an end without close_notify is a truncation", arguments: TLSPolicy.Version.allCases)
    func truncated(version: TLSPolicy.Version) throws {
        let wire = try Wire(version)
        wire.run()
        wire.server.channel.pipeline.fireChannelInactive()
        #expect(wire.server.errors.map(\.code) == [.truncated])
    }

    @Test("An end in the middle of the handshake is one typed error", arguments: TLSPolicy.Version.allCases)
    func endInHandshake(version: TLSPolicy.Version) throws {
        let wire = try Wire(version)
        let hello = try #require(try wire.client.channel.readOutbound(as: ByteBuffer.self))
        try wire.server.channel.writeInbound(hello)
        wire.server.channel.pipeline.fireChannelInactive()
        #expect(wire.server.errors.map(\.code) == [.handshakeAbandoned])
        wire.client.channel.pipeline.fireChannelInactive()
        #expect(wire.client.errors.map(\.code) == [.handshakeAbandoned])
    }

    @Test("A refused client is told by an alert before the channel closes, in one error", arguments: TLSPolicy.Version.allCases)
    func refused(version: TLSPolicy.Version) throws {
        let pair = try TestAuthority().materialPair()
        let stranger = TLSMaterial(identity: try TestAuthority().issueClient(), trustStore: pair.client.trustStore)
        let wire = try Wire(version, (pair.server, stranger))
        wire.run()
        #expect(wire.server.errors.map(\.code) == [.unknownCA])
        #expect(wire.client.errors.map(\.code) == [.alertReceived])
        #expect(wire.client.errors.map(\.alert) == [.unknownCA])
        #expect(!wire.server.channel.isActive && !wire.client.channel.isActive)
        #expect(wire.server.peers.isEmpty)
    }

    @Test(
        "30: a handshake that stalls anywhere ends at its absolute deadline", arguments: TLSPolicy.Version.allCases, [0, 1, 5, 100, 10_000])
    func stalled(version: TLSPolicy.Version, helloBytes: Int) throws {
        let wire = try Wire(version) { $0.handshakeTimeout = .seconds(10) }
        var hello = try #require(try wire.client.channel.readOutbound(as: ByteBuffer.self))
        if let part = hello.readSlice(length: min(helloBytes, hello.readableBytes)), part.readableBytes > 0 {
            try wire.server.channel.writeInbound(part)
        }
        wire.loop.advanceTime(by: .milliseconds(9_999))
        #expect(wire.server.errors.isEmpty)
        #expect(wire.server.channel.isActive)
        wire.loop.advanceTime(by: .milliseconds(1))
        #expect(wire.server.errors.map(\.code) == [.handshakeTimedOut])
        #expect(!wire.server.channel.isActive)
    }

    @Test("30: a byte a second does not move the deadline", arguments: TLSPolicy.Version.allCases)
    func slow(version: TLSPolicy.Version) throws {
        let wire = try Wire(version) { $0.handshakeTimeout = .seconds(10) }
        var hello = try #require(try wire.client.channel.readOutbound(as: ByteBuffer.self))
        var seconds = 0
        while wire.server.channel.isActive, let byte = hello.readSlice(length: 1) {
            try wire.server.channel.writeInbound(byte)
            wire.loop.advanceTime(by: .seconds(1))
            seconds += 1
        }
        #expect(seconds == 10)
        #expect(wire.server.errors.map(\.code) == [.handshakeTimedOut])
    }

    @Test("A finished handshake has no deadline any more")
    func noDeadlineAfterwards() throws {
        let wire = try Wire(.tls13)
        wire.run()
        wire.loop.advanceTime(by: .hours(24))
        #expect(wire.server.channel.isActive && wire.client.channel.isActive)
        #expect(wire.server.errors.isEmpty && wire.client.errors.isEmpty)
    }

    @Test("The gate lets handshakes in one after the other, first come, first served; waiting ones read nothing more")
    func gate() throws {
        let loop = EmbeddedEventLoop()
        let gate = HandshakeGate(eventLoop: loop, stepsPerTick: 1, maximumWaiting: 8)
        let pair = try TestAuthority().materialPair()
        let wires = try (0..<9).map { _ in try Wire(.tls13, pair, loop: loop, gate: gate) }
        for wire in wires { try wire.deliverToServer() }
        #expect(wires.map { $0.server.hasOutbound } == [true] + [Bool](repeating: false, count: 8))
        #expect(gate.waitingCount == 8)
        // One too many is sent away at once.
        let late = try Wire(.tls13, pair, loop: loop, gate: gate)
        try late.deliverToServer()
        #expect(late.server.errors.map(\.code) == [.handshakeQueueFull])
        // One turn at a time.
        for turn in 1..<9 {
            loop.advanceTime(by: .microseconds(10))
            #expect(wires.filter { $0.server.hasOutbound }.count == turn + 1)
            #expect(wires[turn].server.hasOutbound)
        }
        #expect(gate.waitingCount == 0)
        for wire in wires { wire.run(advancing: true) }
        #expect(wires.allSatisfy { $0.server.peers.count == 1 && $0.client.peers.count == 1 })
    }

    @Test("Who leaves the gate's queue costs no turn")
    func gateWithoutThoseWhoLeft() throws {
        let loop = EmbeddedEventLoop()
        let gate = HandshakeGate(eventLoop: loop)
        let pair = try TestAuthority().materialPair()
        let wires = try (0..<4).map { _ in try Wire(.tls13, pair, loop: loop, gate: gate) }
        for wire in wires { try wire.deliverToServer() }
        for wire in wires[1...2] { wire.server.channel.pipeline.fireChannelInactive() }
        loop.advanceTime(by: .microseconds(10))
        #expect(wires[3].server.hasOutbound)
    }
}

/// Handshakes that are computed on other threads. Method: what would run there is kept, and run when the test says; the loop is embedded.
@Suite struct ElsewhereTests {
    /// Where steps go.
    private final class Queue: Sendable {
        private let steps = Mutex<[HandshakeGate.Step]>([])

        var count: Int { steps.withLock { $0.count } }

        func add(_ step: @escaping HandshakeGate.Step) { steps.withLock { $0.append(step) } }

        func runFirst(givingWay giveWay: () -> Void = {}) {
            let step = steps.withLock { $0.removeFirst() }
            step(giveWay)
        }
    }

    @Test(arguments: TLSPolicy.Version.allCases)
    func `Steps run elsewhere, one at a time, and the loop has the outcome`(version: TLSPolicy.Version) throws {
        let loop = EmbeddedEventLoop()
        let queue = Queue()
        let gate = HandshakeGate(eventLoop: loop, maximumWaiting: 2, elsewhere: { queue.add($1) })
        let pair = try TestAuthority().materialPair()
        let wires = try (0..<4).map { _ in try Wire(version, pair, loop: loop, gate: gate) }
        for wire in wires { try wire.deliverToServer() }
        // One is under way, two wait, and one is too many.
        #expect(queue.count == 1 && gate.waitingCount == 2)
        #expect(wires[3].server.errors.map(\.code) == [.handshakeQueueFull])
        #expect(!wires[0].server.hasOutbound)
        while queue.count > 0 {
            queue.runFirst()
            for wire in wires.prefix(3) { wire.run() }
        }
        #expect(wires.prefix(3).allSatisfy { $0.server.peers.count == 1 && $0.client.peers.count == 1 })
        #expect(gate.waitingCount == 0)
    }

    // Each of its flights has several parts; a chain that is verified has one more for each certificate.
    @Test(arguments: TLSPolicy.Version.allCases)
    func `A step elsewhere gives way between its parts, and only there`(version: TLSPolicy.Version) throws {
        let loop = EmbeddedEventLoop()
        let queue = Queue()
        let gate = HandshakeGate(eventLoop: loop, elsewhere: { queue.add($1) })
        let wire = try Wire(version, loop: loop, gate: gate)
        var turnsOfSteps: [Int] = []
        try wire.deliverToServer()
        while queue.count > 0 {
            var turns = 0
            queue.runFirst(givingWay: { turns += 1 })
            turnsOfSteps.append(turns)
            wire.run()
        }
        #expect(wire.server.peers.count == 1 && wire.client.peers.count == 1)
        #expect(turnsOfSteps.count >= 2 && turnsOfSteps.allSatisfy { $0 >= 3 })
    }

    @Test func `A step is known by when it was asked for, however many were before it`() throws {
        let loop = EmbeddedEventLoop()
        let queue = Queue()
        let asked = Mutex<[NIODeadline]>([])
        let gate = HandshakeGate(
            eventLoop: loop,
            elsewhere: { askedAt, step in
                asked.withLock { $0.append(askedAt) }
                queue.add(step)
            })
        let pair = try TestAuthority().materialPair()
        let wires = try (0..<2).map { _ in try Wire(.tls13, pair, loop: loop, gate: gate) }
        for wire in wires {
            try wire.deliverToServer()
            loop.advanceTime(by: .milliseconds(5))
        }
        queue.runFirst()
        loop.run()
        #expect(asked.withLock { $0 } == [.uptimeNanoseconds(0), .uptimeNanoseconds(5_000_000)])
    }

    @Test func `What OpenSSL made of a peer is freed where it was made; of one that said nothing it made nothing`() throws {
        let loop = EmbeddedEventLoop()
        let queue = Queue()
        let gate = HandshakeGate(eventLoop: loop, elsewhere: { queue.add($1) })
        var silent: Wire? = try Wire(.tls13, loop: loop, gate: gate)
        try silent?.server.channel.close().wait()
        silent = nil
        #expect(queue.count == 0)
        var wire: Wire? = try Wire(.tls13, loop: loop, gate: gate)
        try wire?.deliverToServer()
        queue.runFirst()
        loop.run()
        try wire?.server.channel.close().wait()
        wire = nil
        loop.run()
        #expect(queue.count == 1)
        queue.runFirst()
        #expect(queue.count == 0)
    }

    @Test func `What comes while a step is away is taken when it is back`() throws {
        let loop = EmbeddedEventLoop()
        let queue = Queue()
        let gate = HandshakeGate(eventLoop: loop, elsewhere: { queue.add($1) })
        let wire = try Wire(.tls13, loop: loop, gate: gate)
        try wire.deliverToServer()
        queue.runFirst()
        // The server's flight goes out; the client's last one, and its first words, come while its step is away.
        wire.run()
        while queue.count > 0 {
            wire.client.channel.writeAndFlush(ByteBuffer(string: "words"), promise: nil)
            wire.run()
            queue.runFirst()
            wire.run()
        }
        #expect(wire.server.peers.count == 1)
        #expect(wire.server.received.contains("words"))
    }

    @Test func `While nobody is served a step runs here, one before the loop looks at its sockets again`() throws {
        let loop = EmbeddedEventLoop()
        let queue = Queue()
        var isQuiet = true
        let gate = HandshakeGate(eventLoop: loop, elsewhere: { queue.add($1) }, isQuiet: { isQuiet })
        let pair = try TestAuthority().materialPair()
        let wires = try (0..<4).map { _ in try Wire(.tls13, pair, loop: loop, gate: gate) }
        // Both at once: the embedded loop runs only when it is told.
        for wire in wires[..<2] { try wire.deliverToServer() }
        #expect(wires[0].server.hasOutbound && !wires[1].server.hasOutbound && queue.count == 1)
        loop.run()
        try wires[2].deliverToServer()
        #expect(wires[2].server.hasOutbound && queue.count == 1)
        loop.run()
        isQuiet = false
        try wires[3].deliverToServer()
        #expect(!wires[3].server.hasOutbound && gate.waitingCount == 1)
        // Nobody is overtaken.
        isQuiet = true
        while queue.count > 0 {
            queue.runFirst()
            for wire in wires { wire.run() }
        }
        #expect(wires.allSatisfy { $0.server.peers.count == 1 && $0.client.peers.count == 1 })
    }

    @Test func `What comes while a step is waited for is read once, and then no more`() throws {
        let loop = EmbeddedEventLoop()
        let queue = Queue()
        let gate = HandshakeGate(eventLoop: loop, elsewhere: { queue.add($1) })
        let reads = ReadCounter()
        let wire = try Wire(.tls13, loop: loop, gate: gate)
        try wire.server.channel.pipeline.syncOperations.addHandler(reads, position: .first)
        func asks(_ bytes: [UInt8]?) throws -> Int {
            let before = reads.count
            if let bytes { try wire.server.channel.writeInbound(ByteBuffer(bytes: bytes)) }
            wire.server.channel.read()
            return reads.count - before
        }
        #expect(try asks(nil) == 1)
        try wire.deliverToServer()
        #expect(queue.count == 1)
        #expect(try asks(nil) == 1)
        #expect(try asks([0x14, 3, 3]) == 0)
        #expect(try asks(nil) == 0)
        let before = reads.count
        queue.runFirst()
        loop.run()
        #expect(reads.count == before + 1 && wire.server.errors.isEmpty)
    }

    @Test func `Who is gone when its step is back is gone`() throws {
        let loop = EmbeddedEventLoop()
        let queue = Queue()
        let gate = HandshakeGate(eventLoop: loop, elsewhere: { queue.add($1) })
        let pair = try TestAuthority().materialPair()
        let wires = try (0..<3).map { _ in try Wire(.tls13, pair, loop: loop, gate: gate) }
        for wire in wires { try wire.deliverToServer() }
        wires[0].server.channel.pipeline.fireChannelInactive()
        wires[1].server.channel.pipeline.fireChannelInactive()
        queue.runFirst()
        loop.run()
        // What became of it is for whoever asked to hear of it.
        #expect(!wires[0].server.hasOutbound && wires[0].server.errors.isEmpty)
        #expect(wires[0].late.count == 1 && wires[1].late.isEmpty)
        #expect(wires[1].server.errors.map(\.code) == [.handshakeAbandoned])
        // The second took no turn: the third is under way.
        #expect(queue.count == 1 && gate.waitingCount == 0)
        queue.runFirst()
        loop.run()
        #expect(wires[2].server.hasOutbound)
    }

    // A reset is an error of the socket, with nothing after it.
    @Test func `A peer that resets in its handshake has abandoned it, once, also while its step is away`() throws {
        let loop = EmbeddedEventLoop()
        let queue = Queue()
        let gate = HandshakeGate(eventLoop: loop, elsewhere: { queue.add($1) })
        let pair = try TestAuthority().materialPair()
        let wires = try (0..<2).map { _ in try Wire(.tls13, pair, loop: loop, gate: gate) }
        try wires[0].deliverToServer()
        // The first one's step is away, the second has not said anything.
        for wire in wires {
            wire.server.channel.pipeline.fireErrorCaught(IOError(errnoCode: ECONNRESET, reason: "read"))
            loop.run()
            #expect(!wire.server.channel.isActive)
        }
        #expect(wires[0].server.errors.isEmpty && wires[1].server.errors.map(\.code) == [.handshakeAbandoned])
        queue.runFirst()
        loop.run()
        #expect(wires[0].server.errors.isEmpty && wires[0].late == [.handshakeAbandoned] && wires[1].late.isEmpty)
    }

    @Test func `A peer that closes its side while its step is away is told of it afterwards`() throws {
        let loop = EmbeddedEventLoop()
        let queue = Queue()
        let gate = HandshakeGate(eventLoop: loop, elsewhere: { queue.add($1) })
        let wire = try Wire(.tls13, loop: loop, gate: gate)
        try wire.deliverToServer()
        wire.server.channel.pipeline.fireUserInboundEventTriggered(ChannelEvent.inputClosed)
        #expect(wire.server.errors.isEmpty)
        queue.runFirst()
        loop.run()
        #expect(wire.server.errors.map(\.code) == [.handshakeAbandoned])
    }
}

/// Counts what is asked of the socket.
private final class ReadCounter: ChannelOutboundHandler {
    typealias OutboundIn = ByteBuffer
    private(set) var count = 0

    func read(context: ChannelHandlerContext) {
        count += 1
        context.read()
    }
}

/// A client and a server channel, and the wire between them.
final class Wire {
    final class End: ChannelInboundHandler {
        typealias InboundIn = ByteBuffer
        let channel: EmbeddedChannel
        private(set) var peers: [VerifiedPeer] = []
        private(set) var errors: [TLSError] = []
        private(set) var received = ""
        var onRead: ((ChannelHandlerContext, ByteBuffer) -> Void)?
        /// Ciphertext taken from the channel and not delivered yet.
        fileprivate var outbound: [ByteBuffer] = []

        fileprivate init(_ loop: EmbeddedEventLoop) { channel = EmbeddedChannel(loop: loop) }

        func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
            if let completed = event as? TLSHandshakeCompleted { peers.append(completed.peer) }
        }
        func errorCaught(context: ChannelHandlerContext, error: any Error) {
            errors.append(error as? TLSError ?? TLSError(.init(rawValue: "\(error)"), "", ""))
        }
        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            let buffer = unwrapInboundIn(data)
            received += String(buffer: buffer)
            onRead?(context, buffer)
        }

        var hasOutbound: Bool {
            collect()
            return !outbound.isEmpty
        }

        fileprivate func collect() {
            while let bytes = try? channel.readOutbound(as: ByteBuffer.self) { outbound.append(bytes) }
        }

        fileprivate func take() -> [ByteBuffer] {
            collect()
            defer { outbound = [] }
            return outbound
        }
    }

    let loop: EmbeddedEventLoop
    let client: End
    let server: End
    /// What the server's handler said after its channel had ended.
    private(set) var late: [TLSError.Code] = []

    init(
        _ version: TLSPolicy.Version, _ pair: (server: TLSMaterial, client: TLSMaterial)? = nil,
        loop: EmbeddedEventLoop = EmbeddedEventLoop(),
        gate: HandshakeGate? = nil, turns: (any TLSTurns)? = nil, socket: (any ChannelHandler)? = nil,
        _ change: (inout TLSPolicy) -> Void = { _ in }
    ) throws {
        let pair = try pair ?? TestAuthority().materialPair()
        self.loop = loop
        client = End(loop)
        server = End(loop)
        let serverContext = try TLSContext(server: pair.server, policy: policy(version, change))
        let clientContext = try TLSContext(client: pair.client, verification: .name(.dns("localhost")), policy: policy(version, change))
        if let socket { try server.channel.pipeline.syncOperations.addHandler(socket) }
        try server.channel.pipeline.syncOperations.addHandlers([
            TLSHandler(
                context: serverContext, gate: gate, turns: turns,
                whenLate: { [unowned self] in if case .failure(let error) = $0 { late.append(error.code) } }), server,
        ])
        try client.channel.pipeline.syncOperations.addHandlers([TLSHandler(context: clientContext), client])
        for channel in [server.channel, client.channel] {
            try channel.connect(to: try SocketAddress(ipAddress: "127.0.0.1", port: 1)).wait()
        }
    }

    func deliverToServer() throws {
        for bytes in client.take() { try server.channel.writeInbound(bytes) }
    }

    /// Carries bytes until there are no more. `advancing` lets the gate take its turns.
    func run(advancing: Bool = false) {
        while true {
            if advancing { loop.advanceTime(by: .milliseconds(1)) }
            loop.run()
            let (forth, back) = (client.take(), server.take())
            if forth.isEmpty, back.isEmpty { return }
            // A closed channel takes no more; that is for the other side to see.
            for bytes in forth where server.channel.isActive { _ = try? server.channel.writeInbound(bytes) }
            for bytes in back where client.channel.isActive { _ = try? client.channel.writeInbound(bytes) }
        }
    }
}
