import MWProtocol
import MWTLS
import MWWebSocket
import NIOCore

/// What a connection tells the generator; all on the connection's event loop.
protocol LoadObserver: AnyObject {
    func connectionOpened()
    /// - Parameter nanoseconds: From the moment the request was handed to the connection.
    func answered(after nanoseconds: UInt64)
    func requestsFailed(_ count: Int)
    func connectionFinished()
    func connectionFailed(_ error: any Error)
}

/// One connection that keeps a number of requests in flight: as little work as can be, so that the server is what is measured.
final class LoadConnection: ChannelInboundHandler {
    /// Fired down the pipeline once all connections are open.
    struct Start {}

    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private let plan: LoadPlan
    private let handshake: ClientOpeningHandshake
    private let observer: any LoadObserver
    private var machine = WebSocketStateMachine(role: .client)
    private var isOpen = false
    private var isStarted = false
    private var isFinished = false
    private var responseHead = ByteBuffer()
    private var outbound = ByteBuffer()
    private var request = ByteBuffer()
    private let value: [UInt8]
    private var random: SystemRandomNumberGenerator = SystemRandomNumberGenerator()
    private var state: UInt64
    /// The next key of a fill; -1 picks at random.
    private var nextKey: Int
    private var unsent: Int
    private var unanswered = 0
    private var warmUpLeft: Int
    /// When the request with this id was written, in nanoseconds.
    private var sentAt: [UInt64]

    init(plan: LoadPlan, index: Int, authority: String, observer: any LoadObserver) {
        self.plan = plan
        self.observer = observer
        var generator = SystemRandomNumberGenerator()
        handshake = ClientOpeningHandshake(
            authority: authority, nonce: (0..<16).map { _ in UInt8.random(in: .min ... .max, using: &generator) })
        value = [UInt8](repeating: UInt8(ascii: "v"), count: plan.valueBytes)
        state = generator.next() | 1
        warmUpLeft = plan.warmUpRequests
        unsent = plan.share(of: index) + warmUpLeft
        nextKey = plan.kind == .fill ? (0..<index).reduce(0) { $0 + plan.share(of: $1) } : -1
        sentAt = Array(repeating: 0, count: plan.inFlight)
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if event is TLSHandshakeCompleted {
            do {
                outbound.writeString(try handshake.requestBytes())
                flush(context)
            } catch {
                fail(error, context)
            }
        }
        if event is Start {
            isStarted = true
            advance(context, NIODeadline.now().uptimeNanoseconds)
            flush(context)
        }
        context.fireUserInboundEventTriggered(event)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var bytes = unwrapInboundIn(data)
        if !isOpen {
            responseHead.writeBuffer(&bytes)
            guard finishOpening(context) else { return }
            bytes = responseHead
            responseHead = ByteBuffer()
        }
        machine.bytesReceived(bytes)
        var failures = 0
        let now = NIODeadline.now().uptimeNanoseconds
        while let event = machine.nextEvent(outbound: &outbound, maskingKey: random.next()) {
            switch event {
            case .message(_, let message):
                do {
                    guard let (slot, isDone) = try Self.answer(message) else { continue }
                    received(slot: slot, at: now)
                    failures += isDone ? 0 : 1
                } catch {
                    return fail(error, context)
                }
            case .closeReceived where isFinished: context.close(promise: nil)
            case .closeReceived(let code, let reason):
                return fail(
                    CommandFailure(.outcomeUnknown, "the server closed the connection", why: "\(code.map { "\($0)" } ?? "") \(reason)"),
                    context)
            case .violation(let error): return fail(error, context)
            case .ping, .pong: continue
            }
        }
        if failures > 0 { observer.requestsFailed(failures) }
        if isStarted { advance(context, now) }
        flush(context)
    }

    func channelInactive(context: ChannelHandlerContext) {
        if !isFinished {
            observer.connectionFailed(CommandFailure(.unreachable, "the connection ended before all was answered"))
        }
        context.fireChannelInactive()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { fail(error, context) }

    private func fail(_ error: any Error, _ context: ChannelHandlerContext) {
        unsent = 0
        unanswered = 0
        observer.connectionFailed(error)
        context.close(promise: nil)
    }

    /// Looks for the whole response head; what follows it stays in `responseHead`.
    private func finishOpening(_ context: ChannelHandlerContext) -> Bool {
        let view = responseHead.readableBytesView
        let end = Array("\r\n\r\n".utf8)
        guard let range = view.firstRange(of: end) else { return false }
        let head = String(decoding: view[..<range.lowerBound], as: UTF8.self)
        responseHead.moveReaderIndex(to: range.upperBound)
        let lines = head.split(separator: "\r\n")
        let status = lines.first.flatMap { $0.split(separator: " ").dropFirst().first }.flatMap { Int($0) } ?? 0
        let fields: [HeaderField] = lines.dropFirst().compactMap { line in
            line.firstIndex(of: ":").map {
                (String(line[..<$0]), String(line[line.index(after: $0)...].drop { $0 == " " }))
            }
        }
        do {
            _ = try handshake.validate(status: status, headers: fields)
        } catch {
            fail(error, context)
            return false
        }
        isOpen = true
        observer.connectionOpened()
        return true
    }

    // MARK: Requests

    /// - Returns: The slot that was answered, and whether with what was asked for; nil for what was not asked for.
    private static func answer(_ message: ByteBuffer) throws -> (Int, Bool)? {
        switch try MWDBReply(message: message) {
        case .get(let data, let id): (Int(id.rawValue) - 1, data.readableBytes > 0)
        case .put(let isDone, let id), .remove(let isDone, let id): (Int(id.rawValue) - 1, isDone)
        case .prefix(_, let id): (Int(id.rawValue) - 1, true)
        case .forceReload: nil
        }
    }

    private func received(slot: Int, at now: UInt64) {
        guard sentAt.indices.contains(slot), sentAt[slot] != 0 else { return }
        unanswered -= 1
        if warmUpLeft > 0 {
            warmUpLeft -= 1
        } else {
            observer.answered(after: now - sentAt[slot])
        }
        sentAt[slot] = 0
    }

    /// Sends what may be sent; after the last answer, says goodbye.
    private func advance(_ context: ChannelHandlerContext, _ now: UInt64) {
        send(now)
        guard unsent == 0, unanswered == 0, !isFinished else { return }
        isFinished = true
        observer.connectionFinished()
        _ = machine.writeClose(.normal, to: &outbound, maskingKey: random.next())
    }

    private func send(_ now: UInt64) {
        guard unsent > 0, unanswered < plan.inFlight else { return }
        for slot in sentAt.indices where sentAt[slot] == 0 && unsent > 0 {
            request.clear()
            let key = Array("benchmark;\(pickKey())".utf8)
            do {
                switch plan.kind {
                case .get, .idle, .attack: try MWDBRequest.writeGet(CollectionOfOne(key), id: RequestID(Int32(slot + 1)), to: &request)
                case .put, .fill:
                    try MWDBRequest.writePut(CollectionOfOne((key: key, value: value)), id: RequestID(Int32(slot + 1)), to: &request)
                }
            } catch {
                preconditionFailure("a benchmark's key has no separator: \(error)")
            }
            _ = machine.writeMessage(.binary, request, to: &outbound, maskingKey: random32())
            sentAt[slot] = now
            unsent -= 1
            unanswered += 1
        }
    }

    private func pickKey() -> Int {
        if nextKey >= 0 {
            nextKey += 1
            return nextKey - 1
        }
        return Int(xorshift() % UInt64(plan.keys))
    }

    // RFC 6455 §5.3 wants keys that a hostile script cannot guess; there is none here, and a system call a frame would be measured too.
    private func random32() -> UInt32 { UInt32(truncatingIfNeeded: xorshift() >> 32) }

    private func xorshift() -> UInt64 {
        state ^= state << 13
        state ^= state >> 7
        state ^= state << 17
        return state
    }

    private func flush(_ context: ChannelHandlerContext) {
        guard outbound.readableBytes > 0 else { return }
        context.writeAndFlush(wrapOutboundOut(outbound), promise: nil)
        outbound = context.channel.allocator.buffer(capacity: 0)
    }
}
