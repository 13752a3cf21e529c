import NIOCore
import NIOPosix
import Synchronization

/// A TCP proxy in front of a server, with a network's faults: it cuts a connection at a byte, stalls one way of it, or swallows it whole.
///
/// It keeps its own port while the server behind it is killed and started again on another.
final class FaultyProxy: Sendable {
    /// What becomes of one connection.
    struct Plan: Sendable, Hashable {
        enum Fate: Sendable, Hashable {
            case none
            /// Both ends are closed once so many bytes have gone one way; what is over is lost.
            case cut(Way, after: Int)
            /// From so many bytes on nothing goes that way any more, and nobody is told.
            case stall(Way, after: Int)
            /// Accepted, read, and that is all.
            case swallow
        }

        enum Way: Sendable, Hashable, CaseIterable {
            case toServer
            case toClient
        }

        var fate = Fate.none
        /// What each read waits before it goes on.
        var delay: Duration = .zero
    }

    private let network: Network
    private let listener: any Channel

    /// Where clients connect.
    var port: Int { self.listener.localAddress?.port ?? 0 }
    /// Connections that clients opened so far.
    var acceptedCount: Int { self.network.state.withLock { $0.accepted } }

    private init(network: Network, listener: any Channel) {
        self.network = network
        self.listener = listener
    }

    /// Listens on a port of the system's choice.
    ///
    /// - Parameter plan: What becomes of the n-th connection.
    static func start(_ plan: @escaping @Sendable (Int) -> Plan = { _ in Plan() }) async throws -> FaultyProxy {
        // Both ends of a connection are on one loop: no lock between them.
        let network = Network(eventLoop: MultiThreadedEventLoopGroup.singleton.next(), plan: plan)
        let listener = try await ServerBootstrap(group: network.eventLoop)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelOption(.autoRead, value: false)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture { network.accepted(channel) }
            }
            .bind(host: "127.0.0.1", port: 0).get()
        return FaultyProxy(network: network, listener: listener)
    }

    /// Where the server is; nil: connections are closed as they come.
    func lead(to port: Int?) { self.network.state.withLock { $0.backend = port } }

    /// Connections to come have no faults.
    func heal() { self.network.state.withLock { $0.isHealed = true } }

    /// Closes every connection, the stalled and swallowed ones too.
    func cutAll() async throws {
        try await self.network.eventLoop.submit { [network] in
            for channel in network.state.withLock({ $0.open.values }) { channel.close(promise: nil) }
        }.get()
    }

    func stop() async throws {
        try await self.cutAll()
        try await self.listener.close()
    }
}

/// What the connections of a proxy share. On one event loop, but for `state`.
private final class Network: Sendable {
    struct State {
        var backend: Int?
        var accepted = 0
        var isHealed = false
        var open: [ObjectIdentifier: any Channel] = [:]
    }

    let eventLoop: any EventLoop
    let state = Mutex(State())
    private let plan: @Sendable (Int) -> FaultyProxy.Plan

    init(eventLoop: any EventLoop, plan: @escaping @Sendable (Int) -> FaultyProxy.Plan) {
        self.eventLoop = eventLoop
        self.plan = plan
    }

    func accepted(_ client: any Channel) {
        let (number, backend, isHealed) = self.state.withLock { state in
            defer { state.accepted += 1 }
            return (state.accepted, state.backend, state.isHealed)
        }
        let plan = isHealed ? FaultyProxy.Plan() : self.plan(number)
        self.track(client)
        if plan.fate == .swallow {
            client.setOption(.autoRead, value: true).whenComplete { _ in client.read() }
            return
        }
        guard let backend else { return client.close(promise: nil) }
        ClientBootstrap(group: self.eventLoop)
            .channelOption(.autoRead, value: false)
            .connect(host: "127.0.0.1", port: backend)
            .assumeIsolated().whenComplete { result in
                guard case .success(let server) = result else { return client.close(promise: nil) }
                self.track(server)
                let link = RelayLink(plan)
                do {
                    try client.pipeline.syncOperations.addHandler(RelayEnd(.toServer, to: server, link))
                    try server.pipeline.syncOperations.addHandler(RelayEnd(.toClient, to: client, link))
                } catch {
                    client.close(promise: nil)
                    return server.close(promise: nil)
                }
                for channel in [client, server] {
                    try? channel.syncOptions?.setOption(.autoRead, value: true)
                    channel.read()
                }
            }
    }

    private func track(_ channel: any Channel) {
        self.state.withLock { $0.open[ObjectIdentifier(channel)] = channel }
        channel.closeFuture.whenComplete { [weak self] _ in
            self?.state.withLock { _ = $0.open.removeValue(forKey: ObjectIdentifier(channel)) }
        }
    }
}

/// What both ways of a connection share.
private final class RelayLink {
    let plan: FaultyProxy.Plan
    var isCut = false

    init(_ plan: FaultyProxy.Plan) { self.plan = plan }
}

/// One way of a connection: from the channel that this handler is in to another.
private final class RelayEnd: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    private let way: FaultyProxy.Plan.Way
    private let peer: any Channel
    private let link: RelayLink
    /// Bytes that went this way.
    private var passed = 0
    private var isStalled = false
    private var isClosed = false

    init(_ way: FaultyProxy.Plan.Way, to peer: any Channel, _ link: RelayLink) {
        self.way = way
        self.peer = peer
        self.link = link
    }

    func handlerAdded(context: ChannelHandlerContext) {
        if !context.channel.isActive || !self.peer.isActive { self.end(context) }
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let bytes = self.unwrapInboundIn(data)
        guard self.link.plan.delay > .zero else { return self.pass(bytes, context.channel) }
        let channel = context.channel
        context.eventLoop.assumeIsolated().scheduleTask(in: TimeAmount(self.link.plan.delay)) { self.pass(bytes, channel) }
    }

    private func pass(_ bytes: ByteBuffer, _ own: any Channel) {
        guard !self.link.isCut, !self.isStalled else { return }
        var bytes = bytes
        switch self.link.plan.fate {
        case .cut(self.way, let limit) where self.passed + bytes.readableBytes >= limit:
            self.link.isCut = true
            let rest = bytes.readSlice(length: limit - self.passed) ?? ByteBuffer()
            self.peer.writeAndFlush(rest).assumeIsolated().whenComplete { _ in
                own.close(promise: nil)
                self.peer.close(promise: nil)
            }
        case .stall(self.way, let limit) where self.passed + bytes.readableBytes >= limit:
            self.isStalled = true
            self.peer.writeAndFlush(bytes.readSlice(length: limit - self.passed) ?? ByteBuffer(), promise: nil)
        case .none, .cut, .stall, .swallow:
            self.passed += bytes.readableBytes
            self.peer.writeAndFlush(bytes, promise: nil)
            if !self.peer.isWritable { try? own.syncOptions?.setOption(.autoRead, value: false) }
        }
    }

    /// This end takes more again: so may be read from the other.
    func channelWritabilityChanged(context: ChannelHandlerContext) {
        if context.channel.isWritable { try? self.peer.syncOptions?.setOption(.autoRead, value: true) }
        context.fireChannelWritabilityChanged()
    }

    func channelInactive(context: ChannelHandlerContext) { self.end(context) }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }

    private func end(_ context: ChannelHandlerContext) {
        guard !self.isClosed else { return }
        self.isClosed = true
        context.close(promise: nil)
        // Behind a stall nobody learns that the other end has gone.
        if !self.isStalled { self.peer.close(promise: nil) }
    }
}
