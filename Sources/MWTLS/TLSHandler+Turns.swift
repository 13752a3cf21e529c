package import NIOCore

// Much plaintext, in turns:
//
//   write, flush ──> pending ──a turn's worth──> session ──> channel ──taken by the socket──> the others' turn ──> the next turn's worth …
//
// One piece is on its way at a time. What is flushed meanwhile waits behind what is pending, so that order is kept; a close waits for the last byte.

extension TLSHandler {
    /// How far the encryption of what is pending has come.
    struct Pump {
        /// A piece is on its way into the socket, or the others have their turn.
        var isWaiting = false
        /// The writer has to wait.
        var isBackedUp = false
        /// What it was told last.
        var saidWritable = true
        /// Done when all that was flushed is encrypted, or cannot be any more. Nothing is written meanwhile.
        var whenDry: (((any Error)?) -> Void)?
    }

    /// What is encrypted in one turn. Default 240 KiB, which takes 0.1 ms: 15 whole records, whose ciphertext fits a buffer of the pool.
    @inlinable package static var turnBytes: Int { 15 * TLSSession.maximumRecordPlaintextBytes }
    /// Between two looks at the clock: 80 KiB, whole records that take 25 us.
    static let partBytes = turnBytes / 3
    /// Up to this size everything leaves at once. Default 1.2 MiB, half a millisecond, so that a value of 1 MiB does: turns cost it a quarter
    /// more, in system calls; one of 16 MiB they cost less than its ciphertext would, in memory that the system has to find.
    @inlinable package static var maximumBytesAtOnce: Int { 5 * turnBytes }

    /// Bytes that were flushed and that the channel does not know of yet.
    package var pendingPlaintextBytes: Int { pending.flushedByteCount }

    /// Whether the writer has to wait because of what is pending, whatever the channel says of itself. Its changes are told as the channel's
    /// are, by `channelWritabilityChanged`.
    package var isBackedUp: Bool { pump.isBackedUp }

    /// Whether what is to be sent has to wait for its turn.
    var isMuch: Bool { isMuch(with: 0) }

    func isMuch(with moreBytes: Int) -> Bool {
        guard turns != nil else { return false }
        let bytes = session.outboundCiphertextBytes + unflushedPlaintext.readableBytes + moreBytes
        return isMuchToCome || !pending.isEmpty || bytes > Self.maximumBytesAtOnce
    }

    /// `byteCount` bytes are written before the next flush, in pieces: if that is much, the first of them have to wait, too.
    package func willWrite(_ byteCount: Int) { isMuchToCome = isMuch(with: byteCount) }

    /// Returns whether all is well.
    func pendingFlushed(_ context: ChannelHandlerContext) -> Bool {
        if !pump.isWaiting { encryptPiece(context) }
        tellWritability(context)
        return state == .open
    }

    private func encryptPiece(_ context: ChannelHandlerContext) {
        if let buffers { session.useOutbound(buffers.takeOutbound()) }
        var promises: [EventLoopPromise<Void>] = []
        do {
            var bytesLeft = Self.turnBytes
            while bytesLeft > 0, var piece = pending.next(upTo: bytesLeft) {
                if let promise = piece.promise { promises.append(promise) }
                try write(piece.bytes)
                bytesLeft -= piece.bytes.readableBytes
                // Unless more of it is to come, or others are sent it, too.
                buffers?.giveBack(outbound: &piece.bytes)
            }
        } catch {
            for promise in promises { promise.fail(error) }
            return fail(context, error)
        }
        pump.isWaiting = true
        let taken = context.eventLoop.makePromise(of: Void.self)
        taken.futureResult.assumeIsolated().whenComplete { [promises] result in
            for promise in promises { promise.completeWith(result) }
            self.pieceEnded(result)
        }
        send(context, promise: taken)
        guard !pending.hasFlushed, let whenDry = pump.whenDry else { return }
        pump.whenDry = nil
        whenDry(nil)
    }

    private func pieceEnded(_ result: Result<Void, any Error>) {
        if case .failure(let error) = result { failPending(error) }
        guard pending.hasFlushed, let turns else {
            pump.isWaiting = false
            if let context { tellWritability(context) }
            return
        }
        // Also when the socket took it long after it was written: it may take all that there is without ever being full again.
        turns.afterOthers { self.goOn() }
    }

    private func goOn() {
        pump.isWaiting = false
        guard let context, pending.hasFlushed, state == .open || state == .lingering else { return }
        encryptPiece(context)
        tellWritability(context)
    }

    package func channelWritabilityChanged(context: ChannelHandlerContext) {
        if turns == nil { context.fireChannelWritabilityChanged() } else { tellWritability(context) }
    }

    /// By the channel's own marks, over what it holds and what is pending.
    private func tellWritability(_ context: ChannelHandlerContext) {
        guard let turns else { return }
        if pending.isEmpty {
            pump.isBackedUp = false
        } else {
            let buffered = try? context.channel.syncOptions?.getOption(.bufferedWritableBytes)
            let unsentBytes = pending.flushedByteCount + (buffered ?? 0)
            if unsentBytes > turns.maximumUnsentBytes { pump.isBackedUp = true }
            if unsentBytes < turns.maximumUnsentBytes / 2 { pump.isBackedUp = false }
        }
        let isWritable = context.channel.isWritable && !pump.isBackedUp
        guard isWritable != pump.saidWritable else { return }
        pump.saidWritable = isWritable
        context.fireChannelWritabilityChanged()
    }

    /// Calls `body` once all that was flushed is encrypted, or with an error when it cannot be any more. What was not flushed fails.
    func whenDry(failingWritesWith error: any Error, _ body: @escaping ((any Error)?) -> Void) {
        guard pending.hasFlushed else { return body(nil) }
        failWrites(error)
        let earlier = pump.whenDry
        pump.whenDry = { error in
            earlier?(error)
            body(error)
        }
    }

    func failPending(_ error: any Error) {
        for promise in pending.removeAll() { promise.fail(error) }
        let whenDry = pump.whenDry
        pump.whenDry = nil
        whenDry?(error)
    }
}
