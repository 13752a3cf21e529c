internal import Logging
internal import MWTLS
internal import NIOCore
internal import NIOHTTP1
internal import NIOPosix
internal import Synchronization

/// What the monitoring listener says when it is asked.
struct MonitoringAnswers: Sendable {
    /// The exposition.
    let metrics: @Sendable () -> String
    /// Why the server is not ready to serve; empty if it is.
    let reasonsNotReady: @Sendable () -> [String]
    /// Whether every thread that serves clients still answers; the future is of the given loop.
    let isAlive: @Sendable (any EventLoop) -> EventLoopFuture<Bool>
    /// Whether this peer may read now; only asked where TLS is spoken, for each answer. `nil` if it may, otherwise why not.
    let refusal: @Sendable (VerifiedPeer, _ address: String) -> String?
    /// Told of each refused TLS handshake.
    let handshakeRefused: @Sendable (TLSError, _ address: String) -> Void
}

/// A small HTTP server on a thread of its own, so that it answers also when those of the clients do not.
final class MonitoringListener: Sendable {
    /// What one of its clients may use up. Collectors and probes are few, quick, and ask one thing.
    struct Limits: Sendable {
        /// Connections at a time; the next is closed at once.
        var maximumConnections = 64
        /// Bytes of the request's head; more is answered with 431.
        var maximumHeaderBytes = 8 * 1024
        /// From accepting the connection to the last byte of the answer.
        var timeout: Duration = .seconds(10)
    }

    private let answers: MonitoringAnswers
    private let context: @Sendable () -> TLSContext
    private let limits: Limits
    private let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    private let listeners = Mutex<[any Channel]>([])
    private let connections = Atomic<Int>(0)

    /// - Parameter context: The server's current one, for addresses beyond loopback.
    init(_ answers: MonitoringAnswers, limits: Limits = Limits(), context: @escaping @Sendable () -> TLSContext) {
        self.answers = answers
        self.limits = limits
        self.context = context
    }

    /// Listens on every address of every host, and returns them with the ports that the system chose. Throws ``ServerError``, and then
    /// listens nowhere.
    func listen(on addresses: [ListenAddress]) async throws -> [SocketAddress] {
        var bound: [SocketAddress] = []
        do {
            for address in addresses {
                var first: Int?
                for var resolved in try address.resolved() {
                    if address.port == 0, let first { resolved.port = first }
                    guard let listening = try await self.listen(on: resolved) else { continue }
                    first = listening.port
                    bound.append(listening)
                }
                guard first != nil else {
                    throw ServerError(.addressUnavailable, "\(address)", "cannot listen for monitoring: this machine has no such address")
                }
            }
        } catch {
            await self.stop()
            throw error
        }
        return bound
    }

    /// nil if the machine does not have this address, or not this family of addresses.
    private func listen(on address: SocketAddress) async throws -> SocketAddress? {
        let isPlain = address.isLoopback
        let bootstrap = ServerBootstrap(group: self.group)
            .serverChannelOption(.backlog, value: Int32(self.limits.maximumConnections))
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelInitializer { [self] channel in
                channel.eventLoop.makeCompletedFuture { try self.accept(channel, isPlain: isPlain) }
            }
        do {
            let channel = try await bootstrap.bind(to: address).get()
            self.listeners.withLock { $0.append(channel) }
            return channel.localAddress ?? address
        } catch let error as IOError where error.isAddressMissing {
            return nil
        } catch {
            throw ServerError(
                .addressUnavailable, address.hostAndPort, "cannot listen for monitoring",
                remedy: "stop what listens there, or choose another address or port", underlying: error)
        }
    }

    private func accept(_ channel: any Channel, isPlain: Bool) throws {
        let open = self.connections.add(1, ordering: .relaxed).newValue
        channel.closeFuture.whenComplete { _ in self.connections.subtract(1, ordering: .relaxed) }
        guard open <= self.limits.maximumConnections else { return channel.close(promise: nil) }
        let pipeline = channel.pipeline.syncOperations
        if !isPlain {
            try pipeline.addHandler(TLSHandler(context: self.context(), gate: HandshakeGate(eventLoop: channel.eventLoop)))
        }
        try pipeline.addHandler(HeaderByteLimiter(maximumBytes: self.limits.maximumHeaderBytes))
        try pipeline.addHandler(ByteToMessageHandler(HTTPRequestDecoder(leftOverBytesStrategy: .dropBytes)))
        try pipeline.addHandler(MonitoringHandler(self.answers, isPlain: isPlain, timeout: TimeAmount(self.limits.timeout)))
    }

    /// Listens no more, and ends its thread.
    func stop() async {
        let listeners = self.listeners.withLock { listeners in
            defer { listeners = [] }
            return listeners
        }
        for listener in listeners { try? await listener.close().get() }
        try? await self.group.shutdownGracefully()
    }
}

extension SessionServer {
    /// Whether every event loop runs a task within `timeout`.
    func answers(within timeout: Duration, on loop: any EventLoop) -> EventLoopFuture<Bool> {
        let promise = loop.makePromise(of: Bool.self)
        let late = loop.scheduleTask(in: TimeAmount(timeout)) { promise.succeed(false) }
        // A loop that ends meanwhile answers nobody.
        late.futureResult.whenFailure { _ in promise.succeed(false) }
        EventLoopFuture.andAllSucceed(self.onEachLoop { _ in () }, on: loop).whenSuccess {
            promise.succeed(true)
            late.cancel()
        }
        return promise.futureResult
    }
}
