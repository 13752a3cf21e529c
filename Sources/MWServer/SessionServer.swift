package import Logging
internal import MWStorage
package import MWTLS
package import MWWebSocket
internal import Metrics
package import NIOCore
internal import NIOHTTP1
internal import NIOPosix
internal import Synchronization

#if canImport(Glibc)
    internal import Glibc
#elseif canImport(Darwin)
    internal import Darwin
#endif

/// A listener for WebSocket over mutual TLS, whatever its sessions say: ``StorageServer`` and the echo executable are one of these each.
///
/// Call order: ``init(_:security:eventLoops:audit:logger:publish:makeFactory:)``, ``listen(on:)``, any number of ``judgeSessions(by:)``, then
/// ``stop(_:code:reason:within:)`` and ``shutdown()``.
package final class SessionServer: Sendable {
    package struct Options: Sendable {
        package var limits = ServerLimits()
        package var closeCodes = ServerCloseCodes()
        package var opening = OpeningPolicy()
        /// What the process may have open; nil asks the system.
        package var descriptors: Int?

        package init() {}
    }

    /// Connections that the system holds until they are accepted: what arrives while one loop handles a burst.
    private static let backlog: Int32 = 1_024
    /// Reads of one connection in a row, so that one that sends without end does not starve the others. 1: NIO keeps as many buffers for
    /// each connection, idle or not.
    private static let readsInARow: UInt = 1
    /// 512 B: the hello of a client with classic key shares. It doubles with each read that fills it, as far as a bulk reader needs.
    private static let readBuffers = AdaptiveRecvByteBufferAllocator(minimum: 512, initial: 512, maximum: 64 * 1024)

    private let options: Options
    private let logger: Logger
    private let group: MultiThreadedEventLoopGroup
    /// Where handshakes are computed: the loops serve who is in, and whoever wants in waits.
    private let handshakers: NIOThreadPool
    private let loops: [ObjectIdentifier: NIOLoopBound<LoopEntry>]
    /// What each event loop has for its sessions, to be used there.
    let sessionLoops: [NIOLoopBound<SessionLoop>]
    /// Who gets in. What replaces it holds for every handshake from then on; ``judgeSessions(by:)`` brings it to those who are in.
    package let security: CurrentSecurity
    private let listeners = Mutex<[any Channel]>([])
    private let handshakes: Mutex<HandshakeBudget>
    private let acceptGate: Mutex<AcceptGate>
    private let acceptingPaused = Gauge(label: "mwstorage_accepting_paused")
    package let census: ConnectionCensus
    package let audit: AuditLog

    /// What one event loop has for its connections.
    private struct LoopEntry {
        let sessions: SessionLoop
        let gate: HandshakeGate
    }

    /// - Parameters:
    ///   - makeFactory: Called once on each event loop, after all loops exist.
    package init(
        _ options: Options, security: CurrentSecurity, eventLoops: Int, audit: AuditLog? = nil, logger: Logger,
        publish: @escaping @Sendable (SessionCounters) -> Void = { _ in },
        makeFactory: @escaping @Sendable (SessionLoop) -> any SessionFactory
    ) async throws {
        self.options = options
        self.logger = logger
        self.security = security
        let audit = audit ?? AuditLog(logger: logger)
        self.audit = audit
        let census = ConnectionCensus(options.limits)
        self.census = census
        var random = SystemRandomNumberGenerator()
        self.handshakes = Mutex(HandshakeBudget(options.limits, seed: (random.next(), random.next())))
        self.acceptGate = Mutex(
            AcceptGate(descriptors: options.descriptors ?? Self.allowedDescriptors, reserve: options.limits.descriptorReserve))
        self.acceptingPaused.record(0)
        let group = MultiThreadedEventLoopGroup(numberOfThreads: max(1, eventLoops))
        self.group = group
        let handshakers = NIOThreadPool(numberOfThreads: max(1, eventLoops))
        handshakers.start()
        self.handshakers = handshakers
        var loops: [ObjectIdentifier: NIOLoopBound<LoopEntry>] = [:]
        var sessionLoops: [NIOLoopBound<SessionLoop>] = []
        for (number, eventLoop) in group.makeIterator().enumerated() {
            let (entry, sessions) = try await eventLoop.submit {
                let sessions = SessionLoop(
                    eventLoop: eventLoop, number: number, loopCount: eventLoops, limits: options.limits, closeCodes: options.closeCodes,
                    census: census, audit: audit, logger: logger)
                sessions.factory = makeFactory(sessions)
                sessions.startTicking(publish: publish)
                let gate = HandshakeGate(
                    eventLoop: eventLoop, stepsPerTick: options.limits.maximumHandshakeStepsPerTurn,
                    maximumWaiting: options.limits.maximumWaitingHandshakes, elsewhere: { Self.run($1, askedAt: $0, on: handshakers) },
                    isQuiet: { sessions.isQuiet })
                return (
                    NIOLoopBound(LoopEntry(sessions: sessions, gate: gate), eventLoop: eventLoop),
                    NIOLoopBound(sessions, eventLoop: eventLoop)
                )
            }.get()
            loops[ObjectIdentifier(eventLoop)] = entry
            sessionLoops.append(sessions)
        }
        self.loops = loops
        self.sessionLoops = sessionLoops
    }

    private static func run(_ step: @escaping HandshakeGate.Step, askedAt: NIODeadline, on pool: NIOThreadPool) {
        pool.submit { state in
            // The pool ends when the server does: nobody waits for this handshake any more.
            guard case .active = state else { return }
            // Of this thread only, on Linux. It stays so; saying it again costs nothing beside a step.
            _ = setpriority(__priority_which_t(PRIO_PROCESS.rawValue), 0, Self.handshakeNiceness)
            var turns = ProcessorTurns(askedAt: StorageOptions.monotonicClock() - Duration(NIODeadline.now() - askedAt))
            step { turns.partEnded() }
        }
    }

    /// How much handshakes stand back behind what the loops do, where processors are short: a tenth of their share, so that they never stop.
    /// It says who goes next; who runs gives way by `ProcessorTurns`.
    private static let handshakeNiceness: Int32 = 10

    /// The policy that makes `limits` hold in TLS too.
    package static func tlsPolicy(_ limits: ServerLimits) -> TLSPolicy { TLSPolicy(handshakeTimeout: limits.openingTimeout) }

    /// The event loops, to bring things to.
    package var eventLoops: [any EventLoop] { Array(self.group.makeIterator()) }

    /// Asks every event loop, on it; those that have ended do not answer.
    package func gather<Value: Sendable>(_ body: @escaping @Sendable (SessionLoop) -> Value) async -> [Value] {
        var values: [Value] = []
        for future in self.onEachLoop(body) {
            if let value = try? await future.get() { values.append(value) }
        }
        return values
    }

    /// Runs `body` on every event loop.
    func onEachLoop<Value: Sendable>(_ body: @escaping @Sendable (SessionLoop) -> Value) -> [EventLoopFuture<Value>] {
        self.loops.values.map { bound in bound.eventLoop.submit { body(bound.value.sessions) } }
    }

    // MARK: Listening

    /// Listens on sockets that somebody else has bound, as a service manager; they are ours from now on, whatever happens.
    ///
    /// Throws ``ServerError`` and then listens nowhere.
    package func listen(onDescriptors descriptors: [CInt]) async throws -> [SocketAddress] {
        var bound: [SocketAddress] = []
        for (index, descriptor) in descriptors.enumerated() {
            do {
                let channel = try await self.bootstrap.withBoundSocket(descriptor).get()
                self.listeners.withLock { $0.append(channel) }
                if let address = channel.localAddress { bound.append(address) }
            } catch {
                for rest in descriptors[(index + 1)...] { close(rest) }
                await self.closeListeners()
                throw ServerError(
                    .addressUnavailable, "inherited socket \(descriptor)", "cannot listen on it", remedy: "compare with the .socket unit",
                    underlying: error)
            }
        }
        return bound
    }

    /// Listens on every address of every host.
    ///
    /// - Returns: where it listens, with the ports that the system chose. Throws ``ServerError`` and then listens nowhere.
    package func listen(on addresses: [ListenAddress]) async throws -> [SocketAddress] {
        var bound: [SocketAddress] = []
        do {
            for address in addresses { bound += try await self.listen(on: address) }
        } catch {
            await self.closeListeners()
            throw error
        }
        return bound
    }

    private func listen(on address: ListenAddress) async throws -> [SocketAddress] {
        var bound: [SocketAddress] = []
        var missing: ServerError?
        for var resolved in try address.resolved() {
            // Port 0 means one port for all addresses of the host.
            if address.port == 0, let port = bound.first?.port { resolved.port = port }
            do {
                let channel = try await self.bootstrap.bind(to: resolved).get()
                self.listeners.withLock { $0.append(channel) }
                bound.append(channel.localAddress ?? resolved)
            } catch {
                let failure = ServerError(
                    .addressUnavailable, resolved.hostAndPort, "cannot listen",
                    remedy: "stop what listens there, or choose another address or port", underlying: error)
                // A machine without IPv6 still has a localhost; a port that is taken is a fault.
                guard let error = error as? IOError, error.isAddressMissing else { throw failure }
                missing = failure
            }
        }
        if let missing, bound.isEmpty { throw missing }
        return bound
    }

    private var bootstrap: ServerBootstrap {
        ServerBootstrap(group: self.group, childGroup: self.group)
            .serverChannelOption(.backlog, value: Self.backlog)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .serverChannelInitializer { [logger = self.logger] channel in
                channel.eventLoop.makeCompletedFuture {
                    // NIO's bootstrap adds a handler that stops accepting for a second after such an error.
                    try channel.pipeline.syncOperations.addHandler(AcceptErrorHandler(logger))
                }
            }
            .childChannelInitializer { [self] channel in
                channel.eventLoop.makeCompletedFuture { try self.accept(channel) }
            }
    }

    private func accept(_ channel: any Channel) throws {
        guard let entry = self.loops[ObjectIdentifier(channel.eventLoop)]?.value else { preconditionFailure("a loop of another group") }
        self.countDescriptor(of: channel)
        if let reason = self.reasonToShed(channel, entry.sessions) {
            entry.sessions.counters.openingsShed[reason, default: 0] += 1
            return channel.close(promise: nil)
        }
        try self.setOptions(of: channel)
        let pipeline = channel.pipeline.syncOperations
        let set = self.security.set
        let opening = OpeningHandler(
            on: entry.sessions, policy: self.options.opening, security: self.security, generation: set.generation)
        try pipeline.addHandler(
            TLSHandler(
                context: set.context, gate: entry.gate, buffers: entry.sessions.buffers, turns: entry.sessions,
                whenLate: { opening.handshakeEndedLate($0) }))
        try pipeline.addHandler(HeaderByteLimiter(maximumBytes: self.options.limits.maximumHeaderBytes))
        try pipeline.addHandler(ByteToMessageHandler(HTTPRequestDecoder(leftOverBytesStrategy: .forwardBytes)))
        try pipeline.addHandler(opening)
    }

    /// Here, and not by the bootstrap, which makes futures of each.
    private func setOptions(of channel: any Channel) throws {
        guard let options = channel.syncOptions else { preconditionFailure("a socket's channel has its options on its loop") }
        try options.setOption(.tcpOption(.tcp_nodelay), value: 1)
        try options.setOption(.maxMessagesPerRead, value: Self.readsInARow)
        try options.setOption(.recvAllocator, value: Self.readBuffers)
        try options.setOption(.writeBufferWaterMark, value: self.waterMark)
    }

    private var waterMark: ChannelOptions.Types.WriteBufferWaterMark {
        .init(low: self.options.limits.maximumUnsentBytes / 2, high: self.options.limits.maximumUnsentBytes)
    }

    /// Why this connection is not even listened to: the cheapest refusal there is.
    private func reasonToShed(_ channel: any Channel, _ sessions: SessionLoop) -> SessionCounters.Shed? {
        guard sessions.openingCount < self.options.limits.maximumOpenings else { return .tooManyOpenings }
        let address = channel.remoteAddress.flatMap(AddressPrefix.init)
        switch self.handshakes.withLock({ $0.admit(address, at: NIODeadline.now().uptimeNanoseconds) }) {
        case .admitted: return nil
        case .addressExhausted: return .tooManyHandshakesOfAddress
        case .exhausted: return .tooManyHandshakes
        }
    }

    // MARK: Descriptors

    private static var allowedDescriptors: Int {
        var limit = rlimit()
        guard unsafe getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return 1_024 }
        return Int(clamping: limit.rlim_cur)
    }

    private func countDescriptor(of channel: any Channel) {
        self.act(on: self.changeGate { $0.accepted() })
        channel.closeFuture.whenComplete { [self] _ in self.act(on: self.changeGate { $0.closed() }) }
    }

    private func changeGate(_ change: (inout AcceptGate) -> AcceptGate.Action) -> AcceptGate.Action {
        self.acceptGate.withLock { gate in
            let action = change(&gate)
            // Under the lock: the gauge says what was last.
            if action != .none { self.acceptingPaused.record(gate.isPaused ? 1 : 0) }
            return action
        }
    }

    private func act(on action: AcceptGate.Action) {
        switch action {
        case .none: return
        case .pause:
            self.logger.warning(
                "accepting is paused: file descriptors run low", metadata: ["remedy": "raise the limit of open files, or close connections"]
            )
        case .resume: self.logger.notice("accepting goes on")
        }
        // By what holds when the listener's loop gets to it: a pause and a resume of two loops may overtake each other on their way there.
        for listener in self.listeners.withLock({ $0 }) {
            listener.eventLoop.execute { [self] in
                listener.setOption(.autoRead, value: !self.isAcceptingPaused).whenFailure { _ in }
            }
        }
    }

    /// Whether connections wait to be accepted, for want of descriptors.
    package var isAcceptingPaused: Bool { self.acceptGate.withLock { $0.isPaused } }

    // MARK: Stopping

    /// Accepts nothing more.
    func closeListeners() async {
        let listeners = self.listeners.withLock { listeners in
            defer { listeners = [] }
            return listeners
        }
        for listener in listeners { try? await listener.close().get() }
    }

    /// Accepts nothing more, answers what was asked, says goodbye with `code`, and ends within `deadline`.
    package func stop(_ cause: SessionEnd.Cause, code: UInt16, reason: String, within deadline: Duration) async {
        await self.closeListeners()
        let drained = self.loops.values.map { bound in
            bound.eventLoop.flatSubmit { bound.value.sessions.drain(cause, code, reason) }
        }
        let aborts = self.loops.values.map { bound in
            bound.eventLoop.scheduleTask(in: TimeAmount(deadline)) { bound.value.sessions.abort("not gone when the server had to end") }
        }
        for future in drained { try? await future.get() }
        for abort in aborts { abort.cancel() }
    }

    /// Ends the event loops. Nothing may be brought to them any more.
    package func shutdown() async {
        await self.closeListeners()
        for bound in self.loops.values { try? await bound.eventLoop.submit { bound.value.sessions.end() }.get() }
        // Before the loops that its steps end on.
        try? await self.handshakers.shutdownGracefully()
        try? await self.group.shutdownGracefully()
    }
}

/// Says that connections cannot be accepted, most often for want of descriptors (EMFILE).
private final class AcceptErrorHandler: ChannelInboundHandler {
    typealias InboundIn = any Channel

    private let logger: Logger

    init(_ logger: Logger) { self.logger = logger }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        self.logger.error("cannot accept connections; paused for a second", metadata: ["reason": "\(error)"])
        context.fireErrorCaught(error)
    }
}

extension IOError {
    /// The machine does not have this address, or not this family of addresses.
    var isAddressMissing: Bool { self.errnoCode == EADDRNOTAVAIL || self.errnoCode == EAFNOSUPPORT }
}
