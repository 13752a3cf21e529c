import MWTLS
import NIOCore
import NIOEmbedded
import Testing

/// Much plaintext is encrypted in turns. Method: two embedded channels, joined by hand; the test gives the turns, and lets the socket take bytes.
@Suite struct TurnsTests {
    private static let pieceBytes = 240 * 1024

    @Test(arguments: TLSPolicy.Version.allCases)
    func `Much leaves a piece at a time, and arrives whole, in order with what is written meanwhile`(version: TLSPolicy.Version) throws {
        let (wire, turns, socket) = try rig(version)
        let much = letters(2 << 20)
        let first = wire.server.channel.writeAndFlush(much)
        #expect(socket.writes == 1 && wire.tls.pendingPlaintextBytes == much.readableBytes - Self.pieceBytes)
        wire.server.channel.writeAndFlush(ByteBuffer(string: "small;"), promise: nil)
        #expect(socket.writes == 1 && !first.isFulfilled)
        var turnsTaken = 0
        while turns.give() { turnsTaken += 1 }
        #expect(turnsTaken == 8 && socket.writes == 9 && wire.tls.pendingPlaintextBytes == 0)
        try first.wait()
        wire.server.channel.writeAndFlush(ByteBuffer(string: "after"), promise: nil)
        wire.run()
        #expect(wire.client.received == String(buffer: much) + "small;after")
        #expect(wire.client.errors.isEmpty)
    }

    @Test func `What is sealed and is much leaves in turns, too, in order`() throws {
        let (wire, turns, socket) = try rig()
        let much = letters(2 << 20)
        wire.tls.seal(ByteBuffer(string: "first;"))
        wire.tls.seal(much)
        wire.tls.seal(ByteBuffer(string: ";last"))
        #expect(socket.writes == 0)
        wire.tls.flush()
        #expect(socket.writes == 1 && wire.tls.pendingPlaintextBytes > 1 << 20)
        while turns.give() {}
        wire.run()
        #expect(wire.client.received == "first;" + String(buffer: much) + ";last")
    }

    @Test func `Of what is said to become much not even the first waits less than a turn, and what comes after it leaves at once again`()
        throws
    {
        let (wire, turns, socket) = try rig()
        let pieces = (0..<8).map { _ in letters(Self.pieceBytes) }
        wire.tls.willWrite(pieces.count * Self.pieceBytes)
        for piece in pieces { wire.server.channel.write(piece, promise: nil) }
        wire.server.channel.flush()
        #expect(socket.writes == 1 && wire.tls.pendingPlaintextBytes == 7 * Self.pieceBytes)
        while turns.give() {}
        #expect(socket.writes == 8)
        wire.tls.willWrite(2 * Self.pieceBytes)
        for piece in pieces[..<2] { wire.server.channel.write(piece, promise: nil) }
        wire.server.channel.flush()
        #expect(socket.writes == 9 && turns.isEmpty)
        wire.run()
        #expect(wire.client.received == (pieces + pieces[..<2]).map { String(buffer: $0) }.joined())
    }

    @Test func `What takes less than a millisecond leaves at once`() throws {
        let (wire, turns, socket) = try rig()
        try wire.server.channel.writeAndFlush(letters(Self.pieceBytes * 5)).wait()
        #expect(socket.writes == 1 && turns.isEmpty)
    }

    @Test(arguments: [64 << 10, 1 << 20, 4 << 20])
    func `Other threads may have the processor between parts that take tens of microseconds, and after what is small no clock is looked at`(
        byteCount: Int
    ) throws {
        let (wire, turns, _) = try rig()
        wire.server.channel.writeAndFlush(letters(byteCount), promise: nil)
        while turns.give() {}
        if byteCount <= Self.pieceBytes / 3 {
            #expect(turns.parts.isEmpty)
        } else {
            #expect(turns.parts.max() == Self.pieceBytes / 3 && byteCount - turns.parts.reduce(0, +) < Self.pieceBytes / 3)
        }
    }

    @Test func `Many writes up to one flush are encrypted in turns too, and not before it`() throws {
        let (wire, turns, socket) = try rig()
        let pieces = (0..<20).map { letters(100_000 + $0) }
        let results = pieces.map { wire.server.channel.write($0) }
        #expect(socket.writes == 0 && turns.isEmpty)
        wire.server.channel.flush()
        while turns.give() {}
        for result in results { try result.wait() }
        wire.run()
        #expect(wire.client.received == pieces.map { String(buffer: $0) }.joined())
    }

    @Test func `Of what a peer does not take, no more than one piece is encrypted`() throws {
        let (wire, turns, socket) = try rig()
        socket.isTaking = false
        let much = letters(2 << 20)
        let result = wire.server.channel.writeAndFlush(much)
        #expect(socket.heldBytes > Self.pieceBytes && socket.heldBytes < Self.pieceBytes + 1_024)
        #expect(turns.isEmpty && !result.isFulfilled)
        // Also what the socket took later gives the others their turn.
        socket.takeHeld()
        #expect(socket.heldBytes == 0 && !turns.isEmpty)
        socket.isTaking = true
        while turns.give() {}
        try result.wait()
        wire.run()
        #expect(wire.client.received == String(buffer: much))
    }

    @Test func `What is pending makes the writer wait, and half of the limit lets it go on; each is told once`() throws {
        let (wire, turns, socket) = try rig()
        turns.maximumUnsentBytes = 4 << 20
        socket.isTaking = false
        wire.server.channel.writeAndFlush(letters(2 << 20), promise: nil)
        #expect(!wire.tls.isBackedUp && wire.told.isEmpty)
        wire.server.channel.writeAndFlush(letters(4 << 20), promise: nil)
        #expect(wire.tls.isBackedUp && wire.told == [false])
        wire.server.channel.writeAndFlush(letters(2 << 20), promise: nil)
        #expect(wire.told == [false])
        socket.isTaking = true
        socket.takeHeld()
        var pendingWhenTold: Int?
        while turns.give() {
            if wire.told.count == 2, pendingWhenTold == nil { pendingWhenTold = wire.tls.pendingPlaintextBytes }
        }
        #expect(wire.told == [false, true] && !wire.tls.isBackedUp)
        #expect(try #require(pendingWhenTold) < 2 << 20)
    }

    @Test(arguments: TLSPolicy.Version.allCases)
    func `A close waits for the last byte of what was flushed, and then says close_notify`(version: TLSPolicy.Version) throws {
        let (wire, turns, socket) = try rig(version)
        let much = letters(2 << 20)
        let flushed = wire.server.channel.writeAndFlush(much)
        let unflushed = wire.server.channel.write(ByteBuffer(string: "never flushed"))
        let closed = wire.server.channel.close()
        #expect(throws: ChannelError.self) { try unflushed.wait() }
        #expect(throws: ChannelError.self) { try wire.server.channel.writeAndFlush(ByteBuffer(string: "too late")).wait() }
        #expect(socket.writes == 1)
        while turns.give() {}
        try flushed.wait()
        wire.run()
        #expect(wire.client.received == String(buffer: much))
        #expect(wire.client.errors.isEmpty && wire.server.errors.isEmpty)
        #expect(!wire.client.channel.isActive && !wire.server.channel.isActive)
        try closed.wait()
    }

    @Test func `A half-close waits for the last byte, too`() throws {
        let (wire, turns, _) = try rig()
        let much = letters(2_000_000)
        let flushed = wire.server.channel.writeAndFlush(much)
        let half = wire.server.channel.close(mode: .output)
        #expect(throws: ChannelError.self) { try wire.server.channel.writeAndFlush(ByteBuffer(string: "too late")).wait() }
        while turns.give() {}
        try flushed.wait()
        _ = try? half.wait()
        wire.run()
        #expect(wire.client.received == String(buffer: much))
        #expect(wire.client.errors.isEmpty)
    }

    @Test func `A peer that takes nothing of what a close waits for is waited for no longer than for its own end`() throws {
        let (wire, turns, socket) = try rig()
        socket.isTaking = false
        let flushed = wire.server.channel.writeAndFlush(letters(2 << 20))
        let behind = wire.server.channel.writeAndFlush(ByteBuffer(string: "behind"))
        wire.server.channel.close(promise: nil)
        #expect(wire.server.channel.isActive)
        wire.loop.advanceTime(by: .nanoseconds(TLSPolicy().lingerTimeout.components.seconds * 1_000_000_000 + 999_999_999))
        #expect(!wire.server.channel.isActive)
        socket.failHeld()
        #expect(throws: ChannelError.self) { try flushed.wait() }
        #expect(throws: ChannelError.self) { try behind.wait() }
        #expect(!turns.give())
    }

    @Test func `What is pending fails when the connection ends, and turns that come later do nothing`() throws {
        let (wire, turns, socket) = try rig()
        let flushed = wire.server.channel.writeAndFlush(letters(2 << 20))
        #expect(!turns.isEmpty)
        wire.server.channel.pipeline.fireChannelInactive()
        #expect(throws: (any Error).self) { try flushed.wait() }
        #expect(turns.give() && !turns.give() && socket.writes == 1)
        #expect(wire.tls.pendingPlaintextBytes == 0 && !wire.tls.isBackedUp)
    }

    @Test func `A peer that breaks TLS gets an alert and nothing of what is pending`() throws {
        let (wire, turns, socket) = try rig()
        let flushed = wire.server.channel.writeAndFlush(letters(2 << 20))
        _ = try? wire.server.channel.writeInbound(ByteBuffer(bytes: [23, 3, 3, 0, 20] + [UInt8](repeating: 7, count: 20)))
        #expect(wire.server.errors.count == 1 && socket.writes == 2)
        #expect(throws: TLSError.self) { try flushed.wait() }
        while turns.give() {}
        #expect(socket.writes == 2)
    }

    @Test func `Inside a read burst, too, much leaves in turns, and what is small behind it`() throws {
        let (wire, turns, socket) = try rig()
        let much = letters(2 << 20)
        wire.server.onRead = { context, _ in
            context.writeAndFlush(NIOAny(much), promise: nil)
            context.writeAndFlush(NIOAny(ByteBuffer(string: "small")), promise: nil)
        }
        wire.client.channel.writeAndFlush(ByteBuffer(string: "question"), promise: nil)
        try wire.deliverToServer()
        #expect(socket.writes == 1)
        while turns.give() {}
        wire.run()
        #expect(wire.client.received == String(buffer: much) + "small")
    }

    // MARK: What it needs

    private func rig(_ version: TLSPolicy.Version = .tls13) throws -> (wire: TurnWire, turns: Turns, socket: Socket) {
        let (turns, socket) = (Turns(), Socket())
        let wire = try TurnWire(Wire(version, turns: turns, socket: socket))
        wire.run()
        socket.writes = 0
        return (wire, turns, socket)
    }

    /// No piece of them looks like another.
    private func letters(_ count: Int) -> ByteBuffer {
        var buffer = ByteBufferAllocator().buffer(capacity: count)
        while buffer.readableBytes + 16 <= count { buffer.writeString(String(100_000_000_000_000 + buffer.readableBytes) + ";") }
        buffer.writeRepeatingByte(UInt8(ascii: "."), count: count - buffer.readableBytes)
        return buffer
    }
}

/// A wire, the server's handler, and what its writer is told.
@dynamicMemberLookup
private final class TurnWire {
    private final class Listener: ChannelInboundHandler {
        typealias InboundIn = ByteBuffer
        let tls: TLSHandler
        var told: [Bool] = []

        init(_ tls: TLSHandler) { self.tls = tls }

        func channelWritabilityChanged(context: ChannelHandlerContext) {
            told.append(context.channel.isWritable && !tls.isBackedUp)
            context.fireChannelWritabilityChanged()
        }
    }

    private let wire: Wire
    private let listener: Listener
    var tls: TLSHandler { listener.tls }
    var told: [Bool] { listener.told }

    init(_ wire: Wire) throws {
        self.wire = wire
        let pipeline = wire.server.channel.pipeline.syncOperations
        listener = Listener(try pipeline.handler(type: TLSHandler.self))
        try pipeline.addHandler(listener)
    }

    func run() { wire.run() }
    func deliverToServer() throws { try wire.deliverToServer() }
    subscript<Value>(dynamicMember path: KeyPath<Wire, Value>) -> Value { wire[keyPath: path] }
}

private final class Turns: TLSTurns {
    private var waiting: [() -> Void] = []
    /// Of what was encrypted.
    private(set) var parts: [Int] = []
    var maximumUnsentBytes = 16 << 20
    var isEmpty: Bool { waiting.isEmpty }

    func afterOthers(_ body: @escaping () -> Void) { waiting.append(body) }

    func worked(_ bytes: Int) { parts.append(bytes) }

    /// Whether somebody waited for it.
    func give() -> Bool {
        guard !waiting.isEmpty else { return false }
        waiting.removeFirst()()
        return true
    }
}

/// Takes what is written, or holds it until it is told to.
private final class Socket: ChannelOutboundHandler {
    typealias OutboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    var isTaking = true
    var writes = 0
    private var held: [(bytes: ByteBuffer, promise: EventLoopPromise<Void>?)] = []
    private var context: ChannelHandlerContext?
    var heldBytes: Int { held.reduce(0) { $0 + $1.bytes.readableBytes } }

    func handlerAdded(context: ChannelHandlerContext) { self.context = context }
    func handlerRemoved(context: ChannelHandlerContext) { self.context = nil }

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        writes += 1
        if isTaking { context.write(data, promise: promise) } else { held.append((unwrapOutboundIn(data), promise)) }
    }

    func takeHeld() {
        let taken = held
        held = []
        for (bytes, promise) in taken { context?.writeAndFlush(wrapOutboundOut(bytes), promise: promise) }
    }

    func failHeld() {
        let failed = held
        held = []
        for (_, promise) in failed { promise?.fail(ChannelError.ioOnClosedChannel) }
    }
}

extension EventLoopFuture {
    fileprivate var isFulfilled: Bool {
        var isFulfilled = false
        assumeIsolated().whenComplete { _ in isFulfilled = true }
        return isFulfilled
    }
}
