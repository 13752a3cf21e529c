import MWProtocol
import MWTLS
import MWWebSocket
import NIOCore

/// Opens connections, one after the other: TCP, a full TLS handshake, the opening handshake of the WebSocket. Then it says goodbye, and the
/// next can begin once the connection has ended.
final class HandshakeWorker: LoadWorker {
    /// After an opening that failed: a server that turns us away without TLS must not be asked faster than one that does not.
    private static let pause = TimeAmount.milliseconds(20)

    private let loop: LoadLoop
    private let address: SocketAddress?
    private var next: LoadTicket?
    private var isBusy = false
    var isWaiting = false

    init(_ loop: LoadLoop, _ address: SocketAddress?) {
        self.loop = loop
        self.address = address
    }

    var hasRoom: Bool { !isBusy }

    func begin(_ ticket: LoadTicket) {
        isBusy = true
        next = ticket
    }

    func fill(from book: inout LoadBook, _ now: UInt64) {
        if !isBusy, let ticket = book.next(now) { begin(ticket) }
    }

    func flush() {
        guard let ticket = next else { return }
        next = nil
        let opening = HandshakeConnection(self, ticket, loop.target, isNative: loop.plan.isNative)
        loop.connect(to: address) { [context = loop.target.context] channel in
            try channel.pipeline.syncOperations.addHandlers([TLSHandler(context: context), opening])
        }
        .whenFailure { opening.fail($0) }
    }

    func leave() {}

    fileprivate func opened(_ ticket: LoadTicket) {
        settle(ticket, .right(bytes: 0))
    }

    fileprivate func failed(_ ticket: LoadTicket, _ error: any Error) {
        settle(ticket, .failed(Self.text(error)))
        loop.eventLoop.assumeIsolated().scheduleTask(in: Self.pause) { self.ended() }
    }

    fileprivate func ended() {
        isBusy = false
        loop.answersReceived(by: self)
        flush()
    }

    private func settle(_ ticket: LoadTicket, _ outcome: LoadOutcome) {
        loop.book.settle(ticket, outcome, at: NIODeadline.now().uptimeNanoseconds)
        loop.finishIfDone()
    }

    private static func text(_ error: any Error) -> String {
        let failure = CommandFailure(error)
        let text = [failure.what, failure.why].compactMap { $0 }.joined(separator: "; ")
        guard let error = error as? TLSError, error.code == .handshakeAbandoned else { return text }
        return text + " (a server has limits for handshakes: --handshake-rate, --handshake-rate-per-address)"
    }
}

/// One connection from its beginning to its end.
private final class HandshakeConnection: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private enum State { case opening, leaving, ended }

    private let worker: HandshakeWorker
    private let ticket: LoadTicket
    private var opening: LoadOpening
    private var state = State.opening

    init(_ worker: HandshakeWorker, _ ticket: LoadTicket, _ target: LoadTarget, isNative: Bool) {
        self.worker = worker
        self.ticket = ticket
        opening = LoadOpening(target, isNative: isNative)
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        guard event is TLSHandshakeCompleted else { return context.fireUserInboundEventTriggered(event) }
        do {
            context.writeAndFlush(wrapOutboundOut(ByteBuffer(string: try opening.request())), promise: nil)
        } catch {
            errorCaught(context: context, error: error)
        }
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard state == .opening else { return }
        do {
            guard try opening.received(unwrapInboundIn(data)) != nil else { return }
            state = .leaving
            worker.opened(ticket)
            var goodbye = ByteBuffer()
            var machine = WebSocketStateMachine(role: .client)
            var masks = LoadMasks()
            machine.writeClose(.normal, to: &goodbye, maskingKey: masks.next())
            // The server answers, and closes.
            context.writeAndFlush(wrapOutboundOut(goodbye), promise: nil)
        } catch {
            errorCaught(context: context, error: error)
        }
    }

    func channelInactive(context: ChannelHandlerContext) {
        switch state {
        case .opening: fail(CommandFailure(.unreachable, "the server closed the connection before it was open"))
        case .leaving:
            state = .ended
            worker.ended()
        case .ended: break
        }
        context.fireChannelInactive()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        fail(error)
        context.close(promise: nil)
    }

    func fail(_ error: any Error) {
        guard state == .opening else { return }
        state = .ended
        worker.failed(ticket, error)
    }
}
