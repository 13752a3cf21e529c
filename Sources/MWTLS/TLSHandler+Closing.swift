package import NIOCore

// How a connection ends: what was flushed is sent, then our alert, then our half is closed; the peer has some time to do the same.

extension TLSHandler {
    package func close(context: ChannelHandlerContext, mode: CloseMode, promise: EventLoopPromise<Void>?) {
        switch (mode, state) {
        case (.input, _), (_, .closed), (_, .idle):
            context.close(mode: mode, promise: promise)
        case (_, .handshaking):
            end(with: ChannelError.ioOnClosedChannel)
            context.close(mode: mode, promise: promise)
        case (_, .lingering):
            adopt(promise)
        case (.output, .open):
            var sent: EventLoopPromise<Void>?
            guard encryptFlushed(context, sent: &sent) else { return context.close(mode: .output, promise: promise) }
            whenDry(failingWritesWith: ChannelError.outputClosed) { [sent] error in
                if let error {
                    sent?.fail(error)
                    promise?.fail(error)
                    return
                }
                self.session.close()
                self.send(context, promise: sent)
                context.close(mode: .output, promise: promise)
            }
        case (.all, .open):
            adopt(promise)
            var sent: EventLoopPromise<Void>?
            guard encryptFlushed(context, sent: &sent) else { return }
            guard pending.hasFlushed else {
                session.close()
                return linger(context, failingWritesWith: ChannelError.ioOnClosedChannel, sent: sent)
            }
            // As if it were in the channel's buffer already: the peer has the same time to take it.
            state = .lingering
            awaitPeersEnd(context)
            whenDry(failingWritesWith: ChannelError.ioOnClosedChannel) { error in
                guard error == nil else { return }
                self.session.close()
                self.send(context, promise: nil)
                self.closeOutput(context)
            }
            context.read()
        }
    }

    private func adopt(_ promise: EventLoopPromise<Void>?) {
        guard let promise else { return }
        if let closePromise { closePromise.futureResult.cascade(to: promise) } else { closePromise = promise }
    }

    /// The application is told, then the peer, then the connection ends: what the peer can see has been logged.
    func fail(_ context: ChannelHandlerContext, _ error: TLSError) {
        linger(context, failingWritesWith: error) { context.fireErrorCaught(error) }
    }

    /// The peer is past being told anything.
    func failWithoutPeer(_ context: ChannelHandlerContext, _ error: TLSError) {
        guard state != .closed else { return }
        end(with: error)
        context.fireErrorCaught(error)
    }

    /// - Parameter sent: of what waits to be sent.
    func linger(
        _ context: ChannelHandlerContext, failingWritesWith error: any Error, sent: EventLoopPromise<Void>? = nil, telling: () -> Void = {}
    ) {
        deadline?.cancel()
        state = .lingering
        telling()
        // Whoever was told may have closed the channel.
        guard state == .lingering else { return }
        send(context, promise: sent)
        // Nothing can be encrypted any more.
        failWrites(error)
        failPending(error)
        awaitPeersEnd(context)
        closeOutput(context)
        // Also where reads are asked for by hand the peer's end is to be seen.
        if state == .lingering { context.read() }
    }

    private func awaitPeersEnd(_ context: ChannelHandlerContext) {
        let loop = context.eventLoop.assumeIsolated()
        deadline = loop.scheduleTask(in: TimeAmount(policy.lingerTimeout)) { self.finishClosing(context) }
    }

    private func closeOutput(_ context: ChannelHandlerContext) {
        let halfClosed = context.eventLoop.makePromise(of: Void.self)
        halfClosed.futureResult.assumeIsolated().whenFailure { _ in self.finishClosing(context) }
        context.close(mode: .output, promise: halfClosed)
    }

    func finishClosing(_ context: ChannelHandlerContext) {
        guard state == .lingering else { return }
        state = .closed
        deadline?.cancel()
        deadline = nil
        failPending(ChannelError.ioOnClosedChannel)
        let promise = closePromise
        closePromise = nil
        context.close(mode: .all, promise: promise)
    }

    /// Nothing more happens on this connection.
    func end(with error: any Error) {
        state = .closed
        deadline?.cancel()
        deadline = nil
        failWrites(error)
        failPending(error)
        closePromise?.succeed(())
        closePromise = nil
    }

    /// What was not flushed.
    func failWrites(_ error: any Error) {
        unflushedPlaintext = ByteBuffer()
        pending.removeUnflushed()
        let promises = unflushedPromises
        unflushedPromises = []
        for promise in promises { promise.fail(error) }
    }
}
