internal import MWTLS
internal import NIOCore
internal import NIOHTTP1

/// One request, one answer, and the end of the connection.
///
///     [TLS handshake] ─▶ request head ─▶ request end ─▶ [admitted?] ─▶ answer ─▶ close
final class MonitoringHandler: ChannelInboundHandler {
    typealias InboundIn = HTTPServerRequestPart
    typealias OutboundOut = ByteBuffer

    private enum State {
        case awaitingPeer
        case awaitingHead
        case awaitingEnd(HTTPRequestHead)
        /// Answered, refused, or gone.
        case done
    }

    private struct Answer {
        var status: HTTPResponseStatus
        var contentType = "text/plain; charset=utf-8"
        var extraHeader = ""
        var body: String
    }

    private let answers: MonitoringAnswers
    private let isPlain: Bool
    private let timeout: TimeAmount
    private var state: State
    /// Where TLS is spoken.
    private var peer: VerifiedPeer?
    private var deadline: Scheduled<Void>?

    init(_ answers: MonitoringAnswers, isPlain: Bool, timeout: TimeAmount) {
        self.answers = answers
        self.isPlain = isPlain
        self.timeout = timeout
        self.state = isPlain ? .awaitingHead : .awaitingPeer
    }

    func handlerAdded(context: ChannelHandlerContext) {
        self.deadline = context.eventLoop.assumeIsolated().scheduleTask(in: self.timeout) { context.channel.abort() }
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        self.deadline?.cancel()
        self.deadline = nil
        self.state = .done
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if let event = event as? TLSHandshakeCompleted, case .awaitingPeer = self.state {
            self.state = .awaitingHead
            self.peer = event.peer
        }
        context.fireUserInboundEventTriggered(event)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        switch (self.state, self.unwrapInboundIn(data)) {
        case (.awaitingHead, .head(let head)): self.state = .awaitingEnd(head)
        case (.awaitingEnd(let head), .end): self.answer(context, head)
        default: break
        }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        switch error {
        case let error as TLSError:
            if case .awaitingPeer = self.state { self.answers.handshakeRefused(error, self.address(context)) }
            // The TLS handler sends the alert and closes by itself.
            self.state = .done
        case is HeaderByteLimiter.Exceeded:
            self.send(context, Answer(status: .requestHeaderFieldsTooLarge, body: "send at most 8 KiB of header\n"), isHead: false)
        case is HTTPParserError:
            self.send(context, Answer(status: .badRequest, body: "this is not an HTTP/1.1 request\n"), isHead: false)
        default:
            self.state = .done
            context.close(promise: nil)
        }
    }

    private func answer(_ context: ChannelHandlerContext, _ head: HTTPRequestHead) {
        if !self.isPlain {
            guard let peer = self.peer else { return context.close(promise: nil) }
            // Only now: the set in use may be newer than the handshake.
            if let reason = self.answers.refusal(peer, self.address(context)) {
                return self.send(context, Answer(status: .forbidden, body: reason + "\n"), isHead: false)
            }
        }
        let isHead = head.method == .HEAD
        guard isHead || head.method == .GET else {
            let answer = Answer(status: .methodNotAllowed, extraHeader: "Allow: GET, HEAD\r\n", body: "use GET or HEAD\n")
            return self.send(context, answer, isHead: false)
        }
        switch head.uri.prefix(while: { $0 != "?" }) {
        case "/metrics":
            let type = "text/plain; version=0.0.4; charset=utf-8"
            self.send(context, Answer(status: .ok, contentType: type, body: self.answers.metrics()), isHead: isHead)
        case "/readyz":
            let reasons = self.answers.reasonsNotReady()
            let body = reasons.isEmpty ? "ready\n" : "not ready\n" + reasons.map { "\($0)\n" }.joined()
            self.send(context, Answer(status: reasons.isEmpty ? .ok : .serviceUnavailable, body: body), isHead: isHead)
        case "/livez":
            let alive = self.answers.isAlive(context.eventLoop).assumeIsolated()
            alive.whenComplete { result in
                let isAlive = (try? result.get()) == true
                let body = isAlive ? "alive\n" : "a thread that serves clients does not answer\n"
                self.send(context, Answer(status: isAlive ? .ok : .serviceUnavailable, body: body), isHead: isHead)
            }
        default:
            self.send(context, Answer(status: .notFound, body: "there are /metrics, /livez and /readyz\n"), isHead: isHead)
        }
    }

    private func send(_ context: ChannelHandlerContext, _ answer: Answer, isHead: Bool) {
        if case .done = self.state { return }
        self.state = .done
        var text = "HTTP/1.1 \(answer.status.code) \(answer.status.reasonPhrase)\r\nConnection: close\r\n\(answer.extraHeader)"
        text += "Content-Type: \(answer.contentType)\r\nContent-Length: \(answer.body.utf8.count)\r\nCache-Control: no-store\r\n\r\n"
        if !isHead { text += answer.body }
        let sent = context.eventLoop.makePromise(of: Void.self)
        // In the clear, a close with bytes unread would reset the connection, and the answer with it: the peer closes, or the deadline does.
        let mode = self.isPlain ? CloseMode.output : .all
        sent.futureResult.assumeIsolated().whenComplete { _ in context.close(mode: mode, promise: nil) }
        context.writeAndFlush(self.wrapOutboundOut(ByteBuffer(string: text)), promise: sent)
    }

    private func address(_ context: ChannelHandlerContext) -> String { context.remoteAddress?.hostAndPort ?? "unknown" }
}
