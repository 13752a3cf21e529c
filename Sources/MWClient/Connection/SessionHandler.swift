import MWProtocol
import MWWebSocket
import NIOCore

/// What a session tells its client, on their event loop.
protocol SessionDelegate: AnyObject {
    /// A whole message; `sessionReadCompleted(_:)` follows the last of a burst.
    func session(_ session: SessionHandler, received message: ByteBuffer)
    func sessionReadCompleted(_ session: SessionHandler)
    /// What could not be sent before may be sent now.
    func sessionBecameWritable(_ session: SessionHandler)
    /// Nothing more comes and nothing more is sent. Called once, whatever happens.
    func sessionEnded(_ session: SessionHandler, _ failure: ConnectionError)
}

/// One WebSocket connection after its 101: feeds the WebSocket machine and the keep-alive, collects what is to be sent into one write.
final class SessionHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private let configuration: StorageClientConfiguration
    private weak var delegate: (any SessionDelegate)?
    private var context: ChannelHandlerContext?
    private var machine: WebSocketStateMachine
    private var maskingKeys = MaskingKeys()
    private var keepAlive: KeepAlive?
    private var outbound = ByteBuffer()
    private var timer: Scheduled<Void>?
    private var hasEnded = false

    init(configuration: StorageClientConfiguration, delegate: any SessionDelegate) {
        self.configuration = configuration
        self.delegate = delegate
        self.machine = WebSocketStateMachine(
            role: .client, limits: WebSocketLimits(maximumMessageBytes: configuration.limits.maximumMessageBytes))
    }

    // MARK: Sending

    /// Whether a request handed over now would leave soon.
    var canSend: Bool {
        guard let context = self.context, self.machine.state == .open else { return false }
        return context.channel.isWritable && self.outbound.readableBytes < self.configuration.limits.unsentBytes
    }

    /// Collects a message; ``flush()`` sends what was collected.
    func write(expectedBytes: Int = 256, _ body: (inout ByteBuffer) -> Void) {
        self.machine.writeMessage(
            .binary, to: &self.outbound, expectedBytes: expectedBytes, maskingKey: self.maskingKeys.next(), body)
    }

    func flush() {
        guard let context = self.context, self.outbound.readableBytes > 0 else { return }
        var bytes = ByteBuffer()
        swap(&bytes, &self.outbound)
        context.writeAndFlush(self.wrapOutboundOut(bytes), promise: nil)
    }

    /// Begins the closing handshake; ``SessionDelegate/sessionEnded(_:_:)`` follows.
    func close() {
        guard self.machine.writeClose(.normal, to: &self.outbound, maskingKey: self.maskingKeys.next()) else { return }
        self.flush()
        if let now = self.context?.eventLoop.now { self.arm(self.keepAlive?.closeSent(at: now)) }
    }

    /// The server broke the protocol inside of the messages: tells it, and ends.
    func violated(_ code: CloseCode, _ reason: String, _ cause: (any Error)? = nil) {
        guard self.machine.writeClose(code, reason, to: &self.outbound, maskingKey: self.maskingKeys.next()) else { return }
        self.flush()
        self.end(
            ConnectionError(
                .violation,
                ClientError(
                    .protocolMismatch, subject: "server", what: "broke the protocol: \(reason)",
                    remedy: "check that the endpoint is a storage server", underlying: cause)))
    }

    /// Cuts the connection.
    func abort() { self.context?.close(promise: nil) }

    /// Ends, as the connection is of no more use.
    func giveUp(_ failure: ConnectionError) { self.end(failure) }

    // MARK: Receiving

    func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
        let timeouts = self.configuration.timeouts
        let times = KeepAliveTimes(
            pingInterval: timeouts.pingInterval, pongTimeout: timeouts.pong, closingTimeout: timeouts.closingHandshake)
        let keepAlive = KeepAlive(times: times, now: context.eventLoop.now)
        self.keepAlive = keepAlive
        self.arm(keepAlive.firstDeadline)
        // No event will say so any more.
        if !context.channel.isActive { self.end(.cut) }
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        self.timer?.cancel()
        self.context = nil
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        self.keepAlive?.bytesReceived(at: context.eventLoop.now)
        self.machine.bytesReceived(self.unwrapInboundIn(data))
        while let event = self.machine.nextEvent(outbound: &self.outbound, maskingKey: self.maskingKeys.next()) {
            switch event {
            case .message(.binary, let payload): self.delegate?.session(self, received: payload)
            case .message: self.violated(.unsupportedData, "messages are binary")
            case .ping, .pong: break
            case .closeReceived(let code, let reason): self.closeReceived(code, reason)
            case .violation(let error): self.violated(error)
            }
        }
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        if !self.hasEnded { self.delegate?.sessionReadCompleted(self) }
        self.flush()
        context.fireChannelReadComplete()
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        self.machine.isOutputBackedUp = !context.channel.isWritable
        if context.channel.isWritable {
            self.machine.writePendingPong(to: &self.outbound, maskingKey: self.maskingKeys.next())
            if !self.hasEnded { self.delegate?.sessionBecameWritable(self) }
            self.flush()
        }
        context.fireChannelWritabilityChanged()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        self.end(ConnectionError(error))
    }

    func channelInactive(context: ChannelHandlerContext) {
        self.end(.cut)
        context.fireChannelInactive()
    }

    private func closeReceived(_ code: CloseCode?, _ reason: String) {
        self.flush()
        // RFC 6455 §7.1.1: the server closes TCP first; the TLS handler waits for that a moment after our close_notify.
        self.end(ConnectionError(closedBy: code, reason))
    }

    private func violated(_ error: WebSocketError) {
        self.flush()
        self.end(
            ConnectionError(
                .violation,
                ClientError(
                    .protocolMismatch, subject: error.subject, what: error.what, found: error.found, expected: error.expected,
                    remedy: "check that the endpoint is a storage server", underlying: error)))
    }

    /// Closes, then tells: whoever is told may end the process.
    private func end(_ failure: ConnectionError) {
        guard !self.hasEnded else { return }
        self.hasEnded = true
        self.timer?.cancel()
        self.context?.close(promise: nil)
        self.delegate?.sessionEnded(self, failure)
    }

    // MARK: Timer

    private func arm(_ deadline: NIODeadline?) {
        self.timer?.cancel()
        guard let deadline, let context = self.context else { return }
        self.timer = context.eventLoop.assumeIsolated().scheduleTask(deadline: deadline) { [weak self] in self?.timerFired() }
    }

    private func timerFired() {
        guard let context = self.context, !self.hasEnded, let action = self.keepAlive?.timerFired(at: context.eventLoop.now) else { return }
        switch action {
        case .wait(let deadline):
            self.arm(deadline)
        case .sendPing(let deadline):
            self.machine.writePing(to: &self.outbound, maskingKey: self.maskingKeys.next())
            self.flush()
            self.arm(deadline)
        case .end(let error):
            if let code = error.closeCode {
                self.machine.writeClose(code, error.what, to: &self.outbound, maskingKey: self.maskingKeys.next())
                self.flush()
            }
            self.end(
                ConnectionError(
                    .keepAlive,
                    ClientError(
                        .unreachable, subject: "server", what: error.what, found: error.found, expected: error.expected,
                        remedy: "check the network in between", underlying: error)))
        }
    }
}
