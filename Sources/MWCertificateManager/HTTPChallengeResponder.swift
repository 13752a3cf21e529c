internal import Glibc
package import MWACME
package import NIOCore
internal import NIOHTTP1
internal import NIOPosix
internal import Synchronization

/// http-01 (RFC 8555 §8.3): a small HTTP server of its own, which knows the tokens that are pending and nothing else.
///
/// It listens while an answer is presented, or from `start` to `stop` where a permanent listener is wanted (so that nobody else
/// takes the port). Its event loop is none of the server's: validation works however busy that one is.
package final class HTTPChallengeResponder: ChallengePresenter, Sendable {
    package struct Limits: Sendable, Hashable {
        /// Over this, the oldest connection is closed: strangers who hold connections do not keep the CA out.
        package var maximumConnections = 256
        /// A validation request is some hundred bytes.
        package var maximumRequestBytes = 8 << 10
        /// From accept to the last byte of the reply.
        package var connectionTimeout: Duration = .seconds(10)

        package init() {}
    }

    private let addresses: [SocketAddress]
    private let limits: Limits
    private let loop: any EventLoop
    private let state = Mutex(State())

    private struct State {
        var tokens: [String: [UInt8]] = [:]
        var isPermanent = false
        /// Bound, or being bound.
        var listening: EventLoopFuture<[any Channel]>?
        /// The same port cannot be bound before.
        var closing: EventLoopFuture<Void>?
    }

    /// - Parameter addresses: an address that this machine does not have is passed over where another can be bound.
    package init(addresses: [SocketAddress], limits: Limits = Limits()) {
        self.addresses = addresses
        self.limits = limits
        loop = MultiThreadedEventLoopGroup.singleton.next()
    }

    /// Where it listens now, with the ports that the system chose.
    package func listeningAddresses() async -> [SocketAddress] {
        guard let listening = state.withLock({ $0.listening }) else { return [] }
        return ((try? await listening.get()) ?? []).compactMap(\.localAddress)
    }

    // MARK: - Life

    /// Listens until `stop`. Throws `PresentingError`.
    package func start() async throws(PresentingError) {
        state.withLock { $0.isPermanent = true }
        try await listen()
    }

    package func stop() async {
        state.withLock {
            $0.isPermanent = false
            $0.tokens = [:]
        }
        await closeIfIdle()
    }

    package func present(_ answer: ChallengeAnswer) async throws {
        state.withLock { $0.tokens[answer.token] = answer.httpBody }
        do throws(PresentingError) {
            try await listen()
        } catch {
            await remove(answer)
            throw error
        }
    }

    package func remove(_ answer: ChallengeAnswer) async {
        state.withLock { $0.tokens[answer.token] = nil }
        await closeIfIdle()
    }

    private func listen() async throws(PresentingError) {
        let listening = state.withLock { state in
            if let listening = state.listening { return listening }
            let closed = state.closing ?? loop.makeSucceededVoidFuture()
            let listening = closed.flatMap { self.bindAll() }
            state.listening = listening
            return listening
        }
        do {
            _ = try await listening.get()
        } catch {
            // The next one tries again; whoever failed with us finds it gone already.
            state.withLock { if $0.listening === listening { $0.listening = nil } }
            let places = addresses.map { "\($0.ipAddress ?? "?") port \($0.port ?? 0)" }.joined(separator: ", ")
            throw PresentingError("cannot listen for http-01 on \(places): \(error); stop what listens there, or allow low ports")
        }
    }

    private func closeIfIdle() async {
        let closing = state.withLock { state -> EventLoopFuture<Void>? in
            guard state.tokens.isEmpty, !state.isPermanent, let listening = state.listening else { return nil }
            let closing = listening.flatMap { channels in
                EventLoopFuture.andAllComplete(channels.map { $0.close() }, on: self.loop)
            }.recover { _ in }
            state.listening = nil
            state.closing = closing
            return closing
        }
        try? await closing?.get()
    }

    // MARK: - Listening

    private func bindAll() -> EventLoopFuture<[any Channel]> {
        let connections = NIOLoopBoundBox.makeBoxSendingValue(ChallengeConnections(limit: limits.maximumConnections), eventLoop: loop)
        let attempts = addresses.map { bind($0, connections) }
        return EventLoopFuture.whenAllComplete(attempts, on: loop).flatMapThrowing { results in
            let bound = results.compactMap { try? $0.get() }
            var failure: (any Error)?
            for case .failure(let error) in results {
                // A machine without IPv6 still has its other addresses; a port that is taken is a fault.
                if (error as? IOError)?.isAddressMissing != true { failure = error }
                if bound.isEmpty { failure = failure ?? error }
            }
            guard let failure else { return bound }
            for channel in bound { channel.close(promise: nil) }
            throw failure
        }
    }

    private func bind(_ address: SocketAddress, _ connections: NIOLoopBoundBox<ChallengeConnections>) -> EventLoopFuture<any Channel> {
        var bootstrap = ServerBootstrap(group: loop, childGroup: loop)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .serverChannelOption(.backlog, value: 128)
            .childChannelInitializer { [limits, weak self] channel in
                channel.eventLoop.makeCompletedFuture {
                    connections.value.add(channel)
                    let pipeline = channel.pipeline.syncOperations
                    try pipeline.addHandler(RequestBudget(bytes: limits.maximumRequestBytes))
                    try pipeline.addHandler(HTTPResponseEncoder())
                    try pipeline.addHandler(ByteToMessageHandler(HTTPRequestDecoder()))
                    try pipeline.addHandler(
                        ChallengeHandler(timeout: TimeAmount(limits.connectionTimeout)) { token in
                            self?.state.withLock { $0.tokens[token] }
                        })
                    channel.closeFuture.whenComplete { _ in connections.value.remove(channel) }
                }
            }
        // Each family has its own listener.
        if case .v6 = address {
            bootstrap = bootstrap.serverChannelOption(ChannelOptions.Types.SocketOption(level: .ipv6, name: .ipv6_v6only), value: 1)
        }
        return bootstrap.bind(to: address)
    }
}

extension IOError {
    fileprivate var isAddressMissing: Bool { errnoCode == EADDRNOTAVAIL || errnoCode == EAFNOSUPPORT }
}

/// Those that are open, the oldest first. On one event loop.
private struct ChallengeConnections {
    let limit: Int
    var channels: [any Channel] = []

    init(limit: Int) { self.limit = limit }

    mutating func add(_ channel: any Channel) {
        channels.append(channel)
        if channels.count > limit { channels.removeFirst().close(promise: nil) }
    }

    mutating func remove(_ channel: any Channel) { channels.removeAll { $0 === channel } }
}

/// Closes a connection that sends more than one request's worth.
private final class RequestBudget: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    private var rest: Int

    init(bytes: Int) { rest = bytes }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        rest -= unwrapInboundIn(data).readableBytes
        guard rest >= 0 else { return context.close(promise: nil) }
        context.fireChannelRead(data)
    }
}

/// One request, one reply, closed.
private final class ChallengeHandler: ChannelInboundHandler {
    typealias InboundIn = HTTPServerRequestPart
    typealias OutboundOut = HTTPServerResponsePart

    private let timeout: TimeAmount
    private let answer: (String) -> [UInt8]?
    private var deadline: Scheduled<Void>?
    private var head: HTTPRequestHead?
    private var isDone = false

    init(timeout: TimeAmount, answer: @escaping (String) -> [UInt8]?) {
        self.timeout = timeout
        self.answer = answer
    }

    func channelActive(context: ChannelHandlerContext) {
        let channel = context.channel
        deadline = context.eventLoop.scheduleTask(in: timeout) { channel.close(promise: nil) }
        context.fireChannelActive()
    }

    func channelInactive(context: ChannelHandlerContext) {
        deadline?.cancel()
        context.fireChannelInactive()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        guard error is HTTPParserError, !isDone else { return context.close(promise: nil) }
        reply(.badRequest, context)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        switch unwrapInboundIn(data) {
        case .head(let head): self.head = head
        case .body: break
        case .end:
            guard !isDone, let head else { return }
            respond(to: head, context)
        }
    }

    private func respond(to head: HTTPRequestHead, _ context: ChannelHandlerContext) {
        guard head.method == .GET || head.method == .HEAD else {
            return reply(.methodNotAllowed, context, headers: [("Allow", "GET, HEAD")])
        }
        // The whole of the path is prefix and token, to the byte: nothing is decoded, nothing is looked up elsewhere.
        guard head.uri.hasPrefix(ChallengeAnswer.httpPathPrefix),
            let body = answer(String(head.uri.dropFirst(ChallengeAnswer.httpPathPrefix.count)))
        else { return reply(.notFound, context) }
        reply(.ok, context, headers: [("Content-Type", ChallengeAnswer.httpContentType)], body: body, isHead: head.method == .HEAD)
    }

    private func reply(
        _ status: HTTPResponseStatus, _ context: ChannelHandlerContext, headers: [(String, String)] = [], body: [UInt8] = [],
        isHead: Bool = false
    ) {
        isDone = true
        var fields = HTTPHeaders(headers)
        fields.add(name: "Content-Length", value: "\(body.count)")
        fields.add(name: "Connection", value: "close")
        context.write(wrapOutboundOut(.head(HTTPResponseHead(version: .http1_1, status: status, headers: fields))), promise: nil)
        if !isHead, !body.isEmpty {
            context.write(wrapOutboundOut(.body(.byteBuffer(ByteBuffer(bytes: body)))), promise: nil)
        }
        let channel = context.channel
        context.writeAndFlush(wrapOutboundOut(.end(nil))).whenComplete { _ in channel.close(promise: nil) }
    }
}
