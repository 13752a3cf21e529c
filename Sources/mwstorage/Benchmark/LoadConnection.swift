import MWTLS
import NIOCore

/// One connection, on its loop's thread: as little work as can be, so that the server is what is measured. All that is to be sent after a
/// burst of replies goes out in one write.
final class LoadConnection: ChannelInboundHandler, LoadWorker {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    /// What the buffers of all connections together may keep for the next requests.
    private static let maximumKeptBytes = 256 << 20

    private let loop: LoadLoop
    private let keptBytes: Int
    private var opening: LoadOpening
    private var stream: LoadStream
    private var context: ChannelHandlerContext?
    private var isOpen = false
    private var isLeaving = false
    var isWaiting = false

    init(_ loop: LoadLoop, index: Int) {
        self.loop = loop
        keptBytes = Self.maximumKeptBytes / loop.plan.connections
        opening = LoadOpening(loop.target, isNative: loop.plan.isNative)
        stream = LoadStream(loop.plan, loop.values, index: index)
    }

    // MARK: What the loop wants

    var hasRoom: Bool { stream.hasRoom }

    func begin(_ ticket: LoadTicket) { stream.begin(ticket) }

    func fill(from book: inout LoadBook, _ now: UInt64) { stream.fill(from: &book, now) }

    func flush() {
        guard let context, stream.outbound.readableBytes > 0 else { return }
        context.writeAndFlush(wrapOutboundOut(stream.outbound), promise: nil)
        stream.sent(keeping: keptBytes)
    }

    func leave() {
        guard isOpen, !isLeaving else { return }
        isLeaving = true
        stream.writeClose()
        flush()
    }

    // MARK: What the channel says

    func handlerAdded(context: ChannelHandlerContext) { self.context = context }

    func handlerRemoved(context: ChannelHandlerContext) { self.context = nil }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if event is TLSHandshakeCompleted {
            do {
                stream.write(try opening.request())
                flush()
            } catch {
                fail(error)
            }
        }
        context.fireUserInboundEventTriggered(event)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        do {
            if isOpen { return try receive(unwrapInboundIn(data)) }
            guard let rest = try opening.received(unwrapInboundIn(data)) else { return }
            isOpen = true
            loop.connectionOpened()
            try receive(rest)
        } catch {
            fail(error)
        }
    }

    private func receive(_ bytes: ByteBuffer) throws {
        try stream.receive(bytes, at: NIODeadline.now().uptimeNanoseconds, &loop.book)
        guard let goodbye = stream.goodbye else { return }
        guard isLeaving else {
            throw CommandFailure(.outcomeUnknown, "the server closed the connection", why: goodbye, code: "closed")
        }
        context?.close(promise: nil)
    }

    /// After each burst of reads.
    func channelReadComplete(context: ChannelHandlerContext) {
        if isOpen, !isLeaving { loop.answersReceived(by: self) }
        flush()
    }

    func channelInactive(context: ChannelHandlerContext) {
        if !isLeaving { fail(CommandFailure(.unreachable, "the connection ended before all was answered", code: "closed")) }
        context.fireChannelInactive()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        guard let error = error as? IOError else { return fail(error) }
        fail(CommandFailure(.unreachable, "the connection was lost", why: "\(error)", code: "closed"))
    }

    private func fail(_ error: any Error) {
        let wasLeaving = isLeaving
        isLeaving = true
        if !wasLeaving { loop.fail(error) }
        context?.close(promise: nil)
    }
}
