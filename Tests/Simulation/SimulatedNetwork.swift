import DequeModule
import NIOCore
import NIOEmbedded

/// What is wrong with a connection.
struct LinkFaults {
    /// Cut once so many bytes went one way.
    var cut: (way: LinkWay, after: Int)?
    /// Nothing goes that way any more once so many bytes went; nobody is told.
    var stall: (way: LinkWay, after: Int)?
    /// Microseconds that bytes are under way.
    var latency = 50...2_000
    /// Bytes under way each way: above it, what an end sends stays with it.
    var windowBytes = 64 * 1024
    /// Bytes that arrive together, at most.
    var segmentBytes = 64 * 1024
}

enum LinkWay: CaseIterable {
    case toServer
    case toClient
}

/// A connection: two channels, and the bytes under way between them.
///
/// What arrives is delivered in order, each segment after a delay of its own; an end that does not read is not given anything.
// Safety: used on one thread only.
final class SimulatedLink: @unchecked Sendable {
    let number: Int
    let client: EmbeddedChannel
    let server: EmbeddedChannel
    var faults: LinkFaults
    var mutator: LinkMutator?
    private let clock: SimulatedClock
    private var ways: [LinkWay: LinkFlow] = [:]
    private(set) var isCut = false
    private let onEnd: (SimulatedLink) -> Void

    /// - Parameter waterMarks: Bytes that may wait in the server's end, and in the client's.
    init(
        number: Int, clock: SimulatedClock, faults: LinkFaults, waterMarks: (server: Int, client: Int),
        onEnd: @escaping (SimulatedLink) -> Void
    ) throws {
        self.number = number
        self.clock = clock
        self.faults = faults
        self.onEnd = onEnd
        self.client = EmbeddedChannel(loop: clock.eventLoop)
        self.server = EmbeddedChannel(loop: clock.eventLoop)
        let address = try SocketAddress(ipAddress: "192.0.2.1", port: 4711)
        for (channel, way) in [(self.client, LinkWay.toServer), (self.server, .toClient)] {
            channel.connect(to: address, promise: nil)
            let flow = LinkFlow(way, self, waterMark: way == .toServer ? waterMarks.client : waterMarks.server)
            self.ways[way] = flow
            try channel.pipeline.syncOperations.addHandler(flow)
        }
    }

    private func channel(at way: LinkWay) -> EmbeddedChannel { way == .toServer ? self.server : self.client }

    private func flow(_ way: LinkWay) -> LinkFlow? { self.ways[way] }

    // MARK: From the ends

    /// Bytes leave for the other end.
    fileprivate func sent(_ bytes: ByteBuffer, _ way: LinkWay, _ flow: LinkFlow) {
        guard !self.isCut else { return }
        var bytes = self.mutator?.pass(bytes, way) ?? bytes
        while let segment = bytes.readSlice(length: min(bytes.readableBytes, self.faults.segmentBytes)), segment.readableBytes > 0 {
            flow.underway.append(segment)
            flow.underwayBytes += segment.readableBytes
        }
        self.deliverLater(way, flow)
    }

    /// Whether the network takes more.
    fileprivate func takes(_ flow: LinkFlow) -> Bool { self.isCut || flow.underwayBytes < self.faults.windowBytes }

    /// An end is closed: the other one learns it behind the bytes under way.
    fileprivate func closed(_ way: LinkWay, _ flow: LinkFlow) {
        flow.isFinished = true
        // Nobody reads any more what comes the other way.
        if let other = self.flow(way == .toServer ? .toClient : .toServer) { other.drop() }
        self.deliverLater(way, flow)
    }

    fileprivate func mayRead(_ way: LinkWay) {
        guard let flow = self.flow(way) else { return }
        flow.isWanted = true
        self.deliverLater(way, flow)
    }

    // MARK: Delivery

    private func deliverLater(_ way: LinkWay, _ flow: LinkFlow) {
        guard !flow.isScheduled, !self.isCut, !flow.isStalled, flow.isWanted || (flow.isFinished && flow.underway.isEmpty) else { return }
        guard !flow.underway.isEmpty || flow.isFinished else { return }
        flow.isScheduled = true
        self.clock.after(self.clock.delay(self.faults.latency)) {
            flow.isScheduled = false
            self.deliver(way, flow)
        }
    }

    private func deliver(_ way: LinkWay, _ flow: LinkFlow) {
        guard !self.isCut, !flow.isStalled else { return }
        let channel = self.channel(at: way)
        guard !flow.underway.isEmpty else {
            if flow.isFinished { self.end(channel) }
            return
        }
        guard flow.isWanted else { return }
        var segment = flow.underway.removeFirst()
        flow.underwayBytes -= segment.readableBytes
        if let stall = self.faults.stall, stall.way == way, flow.passed + segment.readableBytes >= stall.after {
            self.clock.log("link \(self.number) stalls \(way)")
            segment = segment.getSlice(at: segment.readerIndex, length: max(0, stall.after - flow.passed)) ?? ByteBuffer()
            flow.isStalled = true
        }
        var cutsBehind = false
        if let cut = self.faults.cut, cut.way == way, flow.passed + segment.readableBytes >= cut.after {
            segment = segment.getSlice(at: segment.readerIndex, length: max(0, cut.after - flow.passed)) ?? ByteBuffer()
            cutsBehind = true
        }
        flow.passed += segment.readableBytes
        flow.flushIfOwed()
        if segment.readableBytes > 0, channel.isActive {
            flow.isWanted = false
            channel.pipeline.syncOperations.fireChannelRead(NIOAny(segment))
            channel.pipeline.syncOperations.fireChannelReadComplete()
            // As autoRead does.
            if channel.isActive { channel.pipeline.read() }
        }
        if cutsBehind { return self.cut() }
        self.deliverLater(way, flow)
    }

    private func end(_ channel: EmbeddedChannel) {
        channel.close(promise: nil)
        if !self.client.isActive, !self.server.isActive { self.onEnd(self) }
    }

    // MARK: Faults

    /// Both ends learn, each in its time, that the connection is gone; what is under way is lost.
    func cut() {
        guard !self.isCut else { return }
        self.clock.log("link \(self.number) is cut")
        self.isCut = true
        for channel in [self.client, self.server] {
            self.clock.after(self.clock.delay(self.faults.latency)) { self.end(channel) }
        }
    }

    /// The server is gone without a word: its end is closed, and the client learns it only if `isTold`.
    func serverDied(isTold: Bool) {
        self.flow(.toClient)?.drop()
        self.isCut = true
        self.server.close(promise: nil)
        if isTold { self.clock.after(self.clock.delay(self.faults.latency)) { self.end(self.client) } }
        self.clock.log("link \(self.number): the server died, told: \(isTold)")
    }

    /// Closes what is left, for the end of a simulation.
    func abandon() {
        self.isCut = true
        self.client.close(promise: nil)
        self.server.close(promise: nil)
    }
}

/// The network's side of a channel: what the channel sends goes `way`. What the network does not take stays in the channel, which counts it.
private final class LinkFlow: ChannelOutboundHandler {
    typealias OutboundIn = ByteBuffer

    private let way: LinkWay
    private unowned let link: SimulatedLink
    /// Bytes that may stay in the channel before it says that it is full.
    private let waterMark: Int
    private var context: ChannelHandlerContext?
    private var pendingBytes = 0
    private var owesFlush = false
    var underway: Deque<ByteBuffer> = []
    var underwayBytes = 0
    var passed = 0
    /// The other end wants to read.
    var isWanted = true
    var isScheduled = false
    var isStalled = false
    var isFinished = false

    init(_ way: LinkWay, _ link: SimulatedLink, waterMark: Int) {
        self.way = way
        self.link = link
        self.waterMark = waterMark
    }

    func handlerAdded(context: ChannelHandlerContext) { self.context = context }
    func handlerRemoved(context: ChannelHandlerContext) { self.context = nil }

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        self.pendingBytes += self.unwrapOutboundIn(data).readableBytes
        context.write(data, promise: promise)
        self.updateWritability(context)
    }

    func flush(context: ChannelHandlerContext) {
        self.owesFlush = true
        self.flushIfOwed()
    }

    func flushIfOwed() {
        guard self.owesFlush, self.link.takes(self), let context = self.context else { return }
        self.owesFlush = false
        context.flush()
        guard let channel = context.channel as? EmbeddedChannel else { return }
        while let bytes = try? channel.readOutbound(as: ByteBuffer.self) {
            self.pendingBytes -= bytes.readableBytes
            self.link.sent(bytes, self.way, self)
        }
        self.updateWritability(context)
    }

    func read(context: ChannelHandlerContext) { self.link.mayRead(self.way == .toServer ? .toClient : .toServer) }

    func close(context: ChannelHandlerContext, mode: CloseMode, promise: EventLoopPromise<Void>?) {
        self.flushIfOwed()
        context.close(mode: mode, promise: promise)
        self.link.closed(self.way, self)
    }

    func drop() {
        self.underway = []
        self.underwayBytes = 0
    }

    private func updateWritability(_ context: ChannelHandlerContext) {
        guard let channel = context.channel as? EmbeddedChannel, channel.isActive else { return }
        // Full above the mark, and free again below half of it.
        let isWritable = channel.isWritable ? self.pendingBytes <= self.waterMark : self.pendingBytes <= self.waterMark / 2
        guard channel.isWritable != isWritable else { return }
        channel.isWritable = isWritable
        context.fireChannelWritabilityChanged()
    }
}
