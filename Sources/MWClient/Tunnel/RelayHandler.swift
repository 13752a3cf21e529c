import NIOCore

/// One end of a tunnel: what is read here is written there, byte for byte. Two of them know each other and share an event loop.
///
/// A side whose partner cannot take more is not read; a side that ends, ends its partner once everything is written.
final class RelayHandler: ChannelDuplexHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    /// How long an end that was told everything may take to close.
    private static let lingerTimeout = TimeAmount.seconds(1)

    private var partner: RelayHandler?
    private var context: ChannelHandlerContext?
    private var isReadHeld = false
    private var hasEnded = false

    static func pair() -> (RelayHandler, RelayHandler) {
        let first = RelayHandler()
        let second = RelayHandler()
        first.partner = second
        second.partner = first
        return (first, second)
    }

    func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
        if !context.channel.isActive { self.end() }
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        self.end()
        self.context = nil
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        self.partner?.context?.write(self.wrapOutboundOut(self.unwrapInboundIn(data)), promise: nil)
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        self.partner?.context?.flush()
        context.fireChannelReadComplete()
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if let event = event as? ChannelEvent, event == .inputClosed {
            // The other direction goes on.
            self.partner?.context?.close(mode: .output, promise: nil)
        }
        context.fireUserInboundEventTriggered(event)
    }

    func channelInactive(context: ChannelHandlerContext) {
        self.end()
        context.fireChannelInactive()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        if context.channel.isWritable { self.partner?.readAgain() }
        context.fireChannelWritabilityChanged()
    }

    func read(context: ChannelHandlerContext) {
        if self.partner?.context?.channel.isWritable ?? true { context.read() } else { self.isReadHeld = true }
    }

    /// Sends what came outside of a read: what a parser gave back when it left.
    func flushPartner() { self.partner?.context?.flush() }

    private func readAgain() {
        guard self.isReadHeld else { return }
        self.isReadHeld = false
        self.context?.read()
    }

    private func end() {
        guard !self.hasEnded else { return }
        self.hasEnded = true
        let partner = self.partner
        self.partner = nil
        partner?.partnerEnded()
    }

    private func partnerEnded() {
        self.partner = nil
        self.hasEnded = true
        guard let context = self.context else { return }
        // Everything that was written leaves before the end of the stream does; closing at once would drop it.
        let loop = context.eventLoop.assumeIsolated()
        let done = context.eventLoop.makePromise(of: Void.self)
        context.flush()
        context.close(mode: .output, promise: done)
        done.futureResult.assumeIsolated().whenComplete { _ in
            loop.scheduleTask(in: Self.lingerTimeout) { context.close(promise: nil) }
        }
        self.readAgain()
    }
}
