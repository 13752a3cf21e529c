import MWProtocol
import MWTLS
import MWWebSocket
import NIOCore
import NIOPosix

/// What an attack did, in numbers.
struct AttackCounts: Sendable {
    /// Connections without a handshake that were begun, those that the server ended included.
    var halfOpenings = 0
    /// Handshakes with a bad certificate that were begun, and those that got as far as the server's verdict.
    var badHandshakes = 0
    var badHandshakesJudged = 0
    /// Slow readers that were let in, again after they were thrown out too.
    var slowReaders = 0

    var members: [(String, JSONValue)] {
        [
            ("half_openings", .integer(Int64(halfOpenings))), ("bad_handshakes", .integer(Int64(badHandshakes))),
            ("bad_handshakes_judged", .integer(Int64(badHandshakesJudged))), ("slow_readers", .integer(Int64(slowReaders))),
        ]
    }
}

/// Keeps an ``AttackPlan`` up. All state belongs to one event loop.
///
// Safety: every stored property that changes is touched on `eventLoop` only.
final class AttackRunner: @unchecked Sendable {
    enum Kind: Sendable {
        case halfOpen(Int)
        case slowReader
        case badHandshake
    }

    /// Before a connection that the server ended is begun anew: a peer that is turned away without TLS costs next to nothing, and must not keep
    /// us busier than the server.
    private static let pause = TimeAmount.milliseconds(20)
    /// Begun in each pause at the start, so that the listener's queue does not overflow.
    private static let startedTogether = 50

    private let plan: AttackPlan
    private let target: LoadTarget
    private let stranger: TLSContext
    private let sources: [SocketAddress]
    private var nextSource = 0
    private let eventLoop: any EventLoop
    private var counts = AttackCounts()
    private var channels: [ObjectIdentifier: any Channel] = [:]
    private var isOver = false

    private init(_ plan: AttackPlan, _ target: LoadTarget, _ eventLoop: any EventLoop) throws {
        self.plan = plan
        self.target = target
        self.stranger = try target.stranger()
        self.sources = try plan.sources.map { try SocketAddress(ipAddress: $0, port: 0) }
        self.eventLoop = eventLoop
    }

    /// Attacks while `body` runs, which may block.
    static func run(
        _ plan: AttackPlan, against target: LoadTarget, while body: @escaping @Sendable () throws -> Void
    ) async throws -> AttackCounts {
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        let runner = try AttackRunner(plan, target, group.next())
        runner.eventLoop.execute { runner.begin() }
        let outcome: Result<Void, any Error>
        do {
            outcome = .success(try await NIOThreadPool.singleton.runIfActive(body))
        } catch {
            outcome = .failure(error)
        }
        let counts = try await runner.eventLoop.submit { runner.end() }.get()
        try await group.shutdownGracefully()
        try outcome.get()
        return counts
    }

    // MARK: On the event loop

    private func begin() {
        let kinds =
            Array(repeating: Kind.slowReader, count: plan.slowReaders) + (0..<plan.halfOpen).map { .halfOpen($0) }
            + Array(repeating: Kind.badHandshake, count: plan.badHandshakes)
        for (index, kind) in kinds.enumerated() {
            let delay = Self.pause * Int64(index / Self.startedTogether)
            eventLoop.assumeIsolated().scheduleTask(in: delay) { self.connect(kind) }
        }
    }

    private func end() -> AttackCounts {
        isOver = true
        for channel in channels.values { channel.close(promise: nil) }
        return counts
    }

    private func connect(_ kind: Kind) {
        guard !isOver else { return }
        var bootstrap = ClientBootstrap(group: eventLoop)
        if !sources.isEmpty {
            bootstrap = bootstrap.bind(to: sources[nextSource % sources.count])
            nextSource += 1
        }
        bootstrap
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture { try self.addHandlers(to: channel, kind) }
            }
            .connect(host: target.host, port: target.port)
            .assumeIsolated()
            .whenComplete { result in
                guard case .success(let channel) = result else { return self.comeBack(kind) }
                guard !self.isOver else { return channel.close(promise: nil) }
                self.channels[ObjectIdentifier(channel)] = channel
                channel.closeFuture.assumeIsolated().whenComplete { _ in
                    self.channels[ObjectIdentifier(channel)] = nil
                    self.comeBack(kind)
                }
            }
    }

    private func comeBack(_ kind: Kind) {
        guard !isOver else { return }
        eventLoop.assumeIsolated().scheduleTask(in: Self.pause) { self.connect(kind) }
    }

    private func addHandlers(to channel: any Channel, _ kind: Kind) throws {
        let pipeline = channel.pipeline.syncOperations
        switch kind {
        case .halfOpen(let number):
            counts.halfOpenings += 1
            try pipeline.addHandler(HalfHello(try hello(), number: number))
        case .badHandshake:
            counts.badHandshakes += 1
            try pipeline.addHandlers([TLSHandler(context: stranger), VerdictReader { self.counts.badHandshakesJudged += 1 }])
        case .slowReader:
            try pipeline.addHandlers([
                TLSHandler(context: target.context), SlowReader(authority: target.authority) { self.counts.slowReaders += 1 },
            ])
        }
    }

    private func hello() throws -> ByteBuffer {
        var session = TLSSession(context: target.context)
        _ = session.handshake()
        return session.takeOutboundCiphertext()
    }
}

/// Begins a handshake and does not finish it.
private final class HalfHello: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private var hello: ByteBuffer

    /// - Parameter number: Every third says nothing, every third half a hello.
    init(_ hello: ByteBuffer, number: Int) {
        self.hello = hello
        if number % 3 == 0 { self.hello.clear() }
        if number % 3 == 1 { self.hello.moveWriterIndex(to: hello.writerIndex / 2) }
    }

    func channelActive(context: ChannelHandlerContext) {
        if hello.readableBytes > 0 { context.writeAndFlush(wrapOutboundOut(hello), promise: nil) }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
}

/// Waits for the server's verdict on a certificate.
private final class VerdictReader: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    private let judged: () -> Void

    init(_ judged: @escaping () -> Void) { self.judged = judged }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        if let error = error as? TLSError, error.code == .alertReceived { judged() }
        context.close(promise: nil)
    }
}

/// Opens a WebSocket, asks for the same value again and again, and reads nothing of it.
private final class SlowReader: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    /// Requests that are sent at once, after the 101.
    private static let requests = 64

    private let handshake: ClientOpeningHandshake
    private let opened: () -> Void
    private var machine = WebSocketStateMachine(role: .client)
    private var isOpen = false

    init(authority: String, _ opened: @escaping () -> Void) {
        var random = SystemRandomNumberGenerator()
        handshake = ClientOpeningHandshake(authority: authority, nonce: (0..<16).map { _ in random.next() })
        self.opened = opened
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        guard event is TLSHandshakeCompleted, let request = try? handshake.requestBytes() else { return }
        context.writeAndFlush(wrapOutboundOut(ByteBuffer(string: request)), promise: nil)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard !isOpen else { return }
        isOpen = true
        opened()
        var requests = ByteBuffer()
        for number in 1...Self.requests {
            var request = ByteBuffer()
            do {
                try MWDBRequest.writeGet(CollectionOfOne(Array(AttackPlan.slowKey.utf8)), id: RequestID(Int32(number)), to: &request)
            } catch {
                preconditionFailure("a benchmark's key has no separator: \\(error)")
            }
            _ = machine.writeMessage(.binary, request, to: &requests, maskingKey: 1)
        }
        context.writeAndFlush(wrapOutboundOut(requests), promise: nil)
        _ = context.channel.setOption(.autoRead, value: false)
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
}
