import Histogram
import MWTLS
import NIOCore
import NIOPosix

/// One writer, and so many watchers: how long until the first and until the last of them knows what was written.
///
/// All connections are on one event loop, for both sides of the comparison: what one loop has to do for a thousand connections is in the
/// times of the last watcher, with the same TLS and the same sockets.
//
// Safety: every stored property that changes is touched on `eventLoop` only.
final class WatchBench: @unchecked Sendable {
    struct Plan: Sendable {
        var dialect: Dialect
        var host: String
        var port: Int
        var watchers: Int
        /// Writes that are measured, and those before them.
        var rounds: Int
        var warmUpRounds: Int
        var valueBytes: Int
    }

    struct Result: Sendable {
        var first = WatchBench.emptyHistogram()
        var last = WatchBench.emptyHistogram()
        var written = WatchBench.emptyHistogram()
    }

    /// Handshakes under way at a time.
    private static let maximumConnecting = 16

    private let plan: Plan
    private let context: TLSContext
    private let eventLoop: any EventLoop
    private let finished: EventLoopPromise<Result>
    private var result = Result()
    private var channels: [any Channel] = []
    private var started = 0
    private var ready = 0
    private var writer: BenchHandler?
    private var value: ByteBuffer
    private var round = 0
    private var writtenAt: UInt64 = 0
    private var notified = 0
    private var isAnswered = false

    init(_ plan: Plan, _ context: TLSContext, _ eventLoop: any EventLoop) {
        self.plan = plan
        self.context = context
        self.eventLoop = eventLoop
        value = ByteBuffer(repeating: UInt8(ascii: "v"), count: plan.valueBytes)
        finished = eventLoop.makePromise()
    }

    func run() async throws -> Result {
        eventLoop.execute { [self] in for _ in 0..<min(Self.maximumConnecting, plan.watchers + 1) { connectNext() } }
        let result = try await finished.futureResult.get()
        try await eventLoop.submit { [self] in for channel in channels { channel.close(promise: nil) } }.get()
        return result
    }

    // MARK: What the connections say

    func heard(_ heard: [Heard], by duty: Duty) {
        for heard in heard {
            switch heard {
            case .ready:
                ready += 1
                if ready == plan.watchers + 1 { writeNext() } else { connectNext() }
            case .written:
                result.written.recordUnlessWarmUp(since: writtenAt, isMeasured)
                isAnswered = true
            case .notified:
                notified += 1
                if notified == 1 { result.first.recordUnlessWarmUp(since: writtenAt, isMeasured) }
                if notified == plan.watchers { result.last.recordUnlessWarmUp(since: writtenAt, isMeasured) }
            }
        }
        if isAnswered, notified == plan.watchers { writeNext() }
    }

    func failed(_ error: any Error) { finished.fail(error) }

    // MARK: Private

    private var isMeasured: Bool { round > plan.warmUpRounds }

    private func writeNext() {
        guard round < plan.warmUpRounds + plan.rounds else { return finished.succeed(result) }
        round += 1
        notified = 0
        isAnswered = false
        value.setInteger(UInt32(round), at: 0)
        // Behind what this turn of the loop has still to read and write.
        eventLoop.execute { [self] in
            writtenAt = NIODeadline.now().uptimeNanoseconds
            writer?.write(value)
        }
    }

    private func connectNext() {
        guard started < plan.watchers + 1 else { return }
        let duty: Duty = started == 0 ? .writer : .watcher
        started += 1
        let handler = BenchHandler(duty, plan, self)
        if duty == .writer { writer = handler }
        let bound = NIOLoopBound(handler, eventLoop: eventLoop)
        ClientBootstrap(group: eventLoop)
            .channelOption(.tcpOption(.tcp_nodelay), value: 1)
            .channelInitializer { [context] channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandlers([TLSHandler(context: context), bound.value])
                }
            }
            .connect(host: plan.host, port: plan.port)
            .assumeIsolated()
            .whenComplete { [self] result in
                switch result {
                case .success(let channel): channels.append(channel)
                case .failure(let error): finished.fail(error)
                }
            }
    }

    /// Nanoseconds, from 1 us to 60 s, three digits.
    private static func emptyHistogram() -> Histogram<UInt32> {
        Histogram<UInt32>(lowestDiscernibleValue: 1000, highestTrackableValue: 60_000_000_000, numberOfSignificantValueDigits: .three)
    }
}

extension Histogram<UInt32> {
    fileprivate mutating func recordUnlessWarmUp(since start: UInt64, _ isMeasured: Bool) {
        if isMeasured { record(NIODeadline.now().uptimeNanoseconds - start) }
    }
}

/// One connection.
final class BenchHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private let duty: Duty
    private let bench: WatchBench
    private let conversation: any Conversation
    private var context: ChannelHandlerContext?
    private var outbound = ByteBuffer()

    init(_ duty: Duty, _ plan: WatchBench.Plan, _ bench: WatchBench) {
        self.duty = duty
        self.bench = bench
        conversation =
            plan.dialect == .native
            ? NativeConversation(duty, authority: "\(plan.host):\(plan.port)") : RedisConversation(duty, plan.dialect)
    }

    func write(_ value: ByteBuffer) {
        guard let context else { return }
        conversation.write(value, &outbound)
        flush(context)
    }

    func handlerAdded(context: ChannelHandlerContext) { self.context = context }

    func handlerRemoved(context: ChannelHandlerContext) { self.context = nil }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if event is TLSHandshakeCompleted { step(context) { try conversation.begin(&outbound) } }
        context.fireUserInboundEventTriggered(event)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let bytes = unwrapInboundIn(data)
        var heard: [Heard] = []
        step(context) { heard = try conversation.received(bytes, &outbound) }
        if !heard.isEmpty { bench.heard(heard, by: duty) }
    }

    func channelInactive(context: ChannelHandlerContext) {
        bench.failed(Unexpected(description: "a connection ended"))
        context.fireChannelInactive()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { bench.failed(error) }

    private func step(_ context: ChannelHandlerContext, _ body: () throws -> Void) {
        do { try body() } catch { bench.failed(error) }
        flush(context)
    }

    private func flush(_ context: ChannelHandlerContext) {
        guard outbound.readableBytes > 0 else { return }
        context.writeAndFlush(wrapOutboundOut(outbound), promise: nil)
        outbound = context.channel.allocator.buffer(capacity: 0)
    }
}
