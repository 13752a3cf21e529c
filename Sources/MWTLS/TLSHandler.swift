// The one place where TLS meets a channel.
//
//   idle ──active──> handshaking ──TLSHandshakeCompleted──> open ──close, failure, the peer's close_notify──> lingering ──> closed
//                        ├───────────── failure: the alert leaves, errorCaught(TLSError) ─────────────────────────┤
//                        └───────────── an ACME validation saw its certificate, TLSChallengeAnswered ─────────────┘
//
// lingering: our last record (alert or close_notify) is written and our half of the connection closed; what still arrives is thrown away
// until the peer closes too, at most `TLSPolicy.lingerTimeout`. Closing at once with unread bytes would make the kernel send a reset,
// which destroys the alert on its way: the peer would never learn why.

package import NIOCore

/// Fired as a user inbound event once the handshake is over and the peer is accepted.
///
/// A TLS 1.3 client is told nothing about the server's verdict on its own certificate by this: a refusal arrives later, as
/// `errorCaught` with `TLSError.Code.alertReceived`. Count a client as connected only after the server's first answer.
package struct TLSHandshakeCompleted: Sendable {
    package let peer: VerifiedPeer
}

/// Fired as a user inbound event once an ACME validation (RFC 8737) has seen the challenge's certificate. The connection closes by itself;
/// nothing of it is ever read.
package struct TLSChallengeAnswered: Sendable {
    /// The name that is validated, or the reverse form of an address.
    package let serverName: String
}

/// Triggered as a user outbound event by who will give every plaintext buffer back to the ``BufferPool``, soon: what waits for long in a
/// buffer of the pool may hold a larger one than it needs.
package struct TLSPlaintextReturned: Sendable {
    package init() {}
}

/// TLS for one channel: ciphertext `ByteBuffer`s towards the socket, plaintext `ByteBuffer`s towards the application.
///
/// - All plaintext of one socket read arrives as one `ByteBuffer`, uniquely owned by who receives it.
/// - All writes up to a flush leave as whole 16 KiB records in one socket write; a flush during a read burst waits for the burst's end, or
///   until 256 KiB are to be sent: who writes much in a burst still meets an unwritable channel.
/// - With ``TLSTurns``, what is more than a turn's worth is encrypted in pieces, as the socket takes them and when the others of the loop had
///   their turns; until then it counts as unsent: ``pendingPlaintextBytes``, ``isBackedUp``.
/// - Any failure is one `errorCaught(TLSError)`; the alert is sent first and the channel closes by itself.
/// - `close(mode: .all)` sends close_notify. Unflushed writes fail, as in any channel.
package final class TLSHandler: ChannelDuplexHandler {
    package typealias InboundIn = ByteBuffer
    package typealias InboundOut = ByteBuffer
    package typealias OutboundIn = ByteBuffer
    package typealias OutboundOut = ByteBuffer

    enum State { case idle, handshaking, open, lingering, closed }

    /// Unflushed plaintext up to this size is gathered by copying; beyond, what is there is encrypted early.
    private static let maximumGatheredBytes = 64 * 1024
    /// What a read burst's flushes may hold back, in bytes. Default 256 KiB, a socket's buffer: one write less gains nothing beyond it, and
    /// only what reaches the channel makes it unwritable.
    private static let maximumHeldBackBytes = 256 * 1024
    /// How much a closing connection reads and throws away before it stops waiting for the peer.
    private static let maximumDiscardedBytes = 1024 * 1024

    let policy: TLSPolicy
    private let isServer: Bool
    private let gate: HandshakeGate?
    let buffers: BufferPool?
    let turns: (any TLSTurns)?
    /// Whoever reads the plaintext gives its buffers back.
    private var isPlaintextReturned = false
    /// Let go of once the handshake is over.
    private var whenLate: ((Result<TLSChallengeAnswered, TLSError>) -> Void)?
    /// The session; while `isSteppingElsewhere` it belongs to another thread.
    private let step: HandshakeStep
    var session: TLSSession {
        @inline(__always) _read { yield step.box.value }
        @inline(__always) _modify { yield &step.box.value }
    }
    private var isSteppingElsewhere = false
    /// What came meanwhile.
    private var heldCiphertext = ByteBuffer()
    private var isInputEndHeld = false
    /// The peer left meanwhile, and whether it would have been refused is still to be said.
    private var isVerdictOwed = false
    var state = State.idle
    private(set) var context: ChannelHandlerContext?

    var unflushedPlaintext = ByteBuffer()
    /// Behind what the session has encrypted, and before `unflushedPlaintext`.
    var pending = PendingPlaintext()
    var pump = Pump()
    /// Until the next flush.
    var isMuchToCome = false
    var unflushedPromises: [EventLoopPromise<Void>] = []
    /// A flush was asked for before it could be done: during the handshake, or inside a read burst.
    var isFlushWanted = false
    private var isInReadBurst = false
    private var isCloseWanted = false
    private var isAtGate = false
    private var isReadHeld = false
    /// Something came while a step was waited for.
    private var isMoreHere = false
    private var discardedBytes = 0
    var direct = DirectWrites()
    var deadline: Scheduled<Void>?
    var closePromise: EventLoopPromise<Void>?

    /// - Parameters:
    ///   - gate: spaces out the handshake's steps on a server's event loop; `nil` runs them at once.
    ///   - buffers: Of the event loop, for ciphertext and, after ``TLSPlaintextReturned``, for plaintext; `nil` makes new ones each time.
    ///   - turns: Of the event loop; `nil` encrypts everything at once.
    ///   - whenLate: Called instead of the event or the error that ends a handshake, where the peer had left before its last step was
    ///     computed: the channel is gone by then.
    package init(
        context: TLSContext, gate: HandshakeGate? = nil, buffers: BufferPool? = nil, turns: (any TLSTurns)? = nil,
        whenLate: ((Result<TLSChallengeAnswered, TLSError>) -> Void)? = nil
    ) {
        self.whenLate = whenLate
        self.policy = context.policy
        self.isServer = context.role == .server
        self.gate = gate
        self.buffers = buffers
        self.turns = turns
        self.step = HandshakeStep(context)
    }

    deinit { gate?.retire(step) }

    // MARK: Lifecycle

    package func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
        if context.channel.isActive { begin(context) }
    }

    package func handlerRemoved(context: ChannelHandlerContext) {
        end(with: ChannelError.ioOnClosedChannel)
        direct = DirectWrites()
        self.context = nil
    }

    package func channelActive(context: ChannelHandlerContext) {
        begin(context)
        context.fireChannelActive()
    }

    package func channelInactive(context: ChannelHandlerContext) {
        switch state {
        case .handshaking where isSteppingElsewhere: isVerdictOwed = true
        case .handshaking: peerLeft(context)
        case .open:
            session.receiveEnd()
            var rest = ByteBuffer()
            if case .failed(let error) = session.read(into: &rest) { failWithoutPeer(context, error) }
        case .idle, .lingering, .closed: break
        }
        end(with: ChannelError.ioOnClosedChannel)
        context.fireChannelInactive()
    }

    private func begin(_ context: ChannelHandlerContext) {
        guard state == .idle else { return }
        state = .handshaking
        direct = DirectWrites(around: context.channel)
        deadline = context.eventLoop.assumeIsolated().scheduleTask(in: TimeAmount(policy.handshakeTimeout)) { [policy] in
            self.failWithoutPeer(
                context,
                TLSError(
                    .handshakeTimedOut, "peer", "did not finish the handshake in time", expected: "at most \(policy.handshakeTimeout)"))
            context.close(promise: nil)
        }
        if !isServer { step(context) }
    }

    // MARK: Inbound

    package func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let ciphertext = unwrapInboundIn(data)
        isInReadBurst = true
        switch state {
        case .open:
            session.receive(ciphertext)
            readPlaintext(context)
        case .handshaking where isSteppingElsewhere:
            isMoreHere = true
            var ciphertext = ciphertext
            heldCiphertext.writeBuffer(&ciphertext)
        case .handshaking:
            isMoreHere = isAtGate
            session.receive(ciphertext)
            askForStep(context)
        case .lingering:
            discardedBytes += ciphertext.readableBytes
            if discardedBytes > Self.maximumDiscardedBytes { finishClosing(context) }
        case .idle, .closed:
            break
        }
    }

    package func channelReadComplete(context: ChannelHandlerContext) {
        isInReadBurst = false
        context.fireChannelReadComplete()
        endOfBurst(context)
        if state == .lingering { context.read() }
    }

    /// What waited for the end of a read burst: one flush for all of it, then the answer to the peer's close_notify.
    private func endOfBurst(_ context: ChannelHandlerContext) {
        if isFlushWanted, state == .open { flush(context: context) }
        if isCloseWanted, state == .open { close(context: context, mode: .all, promise: nil) }
    }

    /// For what did not come in a read burst: what answers it leaves in one write all the same.
    private func readAsBurst(_ context: ChannelHandlerContext) {
        guard !isInReadBurst else { return readPlaintext(context) }
        isInReadBurst = true
        readPlaintext(context)
        isInReadBurst = false
        context.fireChannelReadComplete()
    }

    private func readPlaintext(_ context: ChannelHandlerContext) {
        let pool = isPlaintextReturned ? buffers : nil
        var plaintext = pool?.takeInbound() ?? ByteBuffer()
        let status = session.read(into: &plaintext)
        if plaintext.readableBytes > 0 {
            context.fireChannelRead(wrapInboundOut(plaintext))
        } else {
            pool?.giveBack(inbound: &plaintext)
        }
        guard state == .open else { return }
        switch status {
        case .needsCiphertext:
            // Rare: the answer to a KeyUpdate, or no_renegotiation.
            if session.hasOutboundCiphertext, unflushedPlaintext.readableBytes == 0 { send(context, promise: nil) }
        case .closed:
            isCloseWanted = true
            if !isInReadBurst { endOfBurst(context) }
        case .failed(let error):
            fail(context, error)
        }
    }

    package func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        // With half closure allowed the end of the stream arrives as an event, and the channel stays.
        if let event = event as? ChannelEvent, event == .inputClosed {
            switch state {
            case .handshaking where isSteppingElsewhere: isInputEndHeld = true
            case .handshaking: inputEnded(context)
            case .open:
                session.receiveEnd()
                readPlaintext(context)
            case .lingering: finishClosing(context)
            case .idle, .closed: break
            }
        }
        context.fireUserInboundEventTriggered(event)
    }

    package func errorCaught(context: ChannelHandlerContext, error: any Error) {
        // The first error is the reason; what the socket says while it dies is not.
        if state == .lingering || state == .closed { return }
        guard isServer, state == .handshaking else { return context.fireErrorCaught(error) }
        // A reset is an end like any other. While a step is computed it has a verdict of its own, once that is known.
        if !isSteppingElsewhere { peerLeft(context) }
        context.close(promise: nil)
    }

    // MARK: Handshake

    private func askForStep(_ context: ChannelHandlerContext) {
        guard !isAtGate, !isSteppingElsewhere else { return }
        guard let gate else { return step(context) }
        // A peer that sends byte after byte gets no turns for it.
        guard session.hasWholeRecord else { return }
        // Before asking: the step may be taken before the answer is here.
        isAtGate = true
        switch gate.admit(self) {
        case .later: break
        case .now:
            isAtGate = false
            step(context)
        case .refused:
            isAtGate = false
            failWithoutPeer(context, TLSError(.handshakeQueueFull, "server", "too many handshakes wait", remedy: "try again later"))
            context.close(promise: nil)
        }
    }

    /// The gate's turn for this connection. Returns whether there was something to do.
    func runAdmittedStep() -> Bool {
        isAtGate = false
        isMoreHere = false
        guard state == .handshaking, let context else { return false }
        step(context)
        readWhatWasHeld(context)
        return true
    }

    /// The gate's turn for this connection, on another thread; nil if it has ended. Nothing touches the session until ``stepEnded(_:)``.
    func takeStep() -> HandshakeStep? {
        isAtGate = false
        guard state == .handshaking, context != nil else { return nil }
        isSteppingElsewhere = true
        return step
    }

    func stepEnded(_ status: TLSSession.HandshakeStatus) {
        isSteppingElsewhere = false
        isMoreHere = false
        guard state == .handshaking, let context else { return sayVerdict(status) }
        let held = heldCiphertext
        heldCiphertext = ByteBuffer()
        if held.readableBytes > 0 { session.receive(held) }
        stepped(context, status)
        if state == .handshaking, held.readableBytes > 0 { askForStep(context) }
        if isInputEndHeld, state == .handshaking, !isSteppingElsewhere, !isAtGate { inputEnded(context) }
        readWhatWasHeld(context)
    }

    /// For a peer that did not wait for it.
    private func sayVerdict(_ status: TLSSession.HandshakeStatus) {
        guard isVerdictOwed else { return }
        isVerdictOwed = false
        switch status {
        case .failed(let error): whenLate?(.failure(error))
        case .challengeAnswered(let serverName): whenLate?(.success(TLSChallengeAnswered(serverName: serverName)))
        case .needsCiphertext, .established: whenLate?(.failure(handshakeEndError()))
        }
    }

    private func readWhatWasHeld(_ context: ChannelHandlerContext) {
        guard isReadHeld, !isAtGate else { return }
        isReadHeld = false
        context.read()
    }

    package func read(context: ChannelHandlerContext) {
        // What arrives before the step is done would only lie in memory. Peers rarely send anything then, and to hear nothing of it costs two
        // system calls: so the first of it is read all the same.
        if isMoreHere, isAtGate || isSteppingElsewhere { isReadHeld = true } else { context.read() }
    }

    /// At the end of a read burst, by who is behind this handler and wants to read on: the channel, which would ask all handlers that, finds it
    /// done.
    package func readOn() {
        if state == .open { context?.read() }
    }

    private func step(_ context: ChannelHandlerContext) { stepped(context, session.handshake()) }

    private func stepped(_ context: ChannelHandlerContext, _ status: TLSSession.HandshakeStatus) {
        switch status {
        case .needsCiphertext:
            send(context, promise: nil)
        case .failed(let error):
            fail(context, error)
        case .challengeAnswered(let serverName): challengeAnswered(context, serverName)
        case .established(let peer):
            state = .open
            whenLate = nil
            deadline?.cancel()
            deadline = nil
            // Before the application's first bytes, and together with what it writes now.
            send(context, promise: nil)
            context.fireUserInboundEventTriggered(TLSHandshakeCompleted(peer: peer))
            guard state == .open else { return }
            if session.unreadCiphertextBytes > 0 { readAsBurst(context) }
            if !isInReadBurst { endOfBurst(context) }
        }
    }

    private func challengeAnswered(_ context: ChannelHandlerContext, _ serverName: String) {
        // First, while the channel still knows its peer's address.
        context.fireUserInboundEventTriggered(TLSChallengeAnswered(serverName: serverName))
        guard state == .handshaking else { return }
        linger(context, failingWritesWith: ChannelError.ioOnClosedChannel)
    }

    // A CA that has been shown its challenge's certificate has what it came for, and may leave before we have read the end of its handshake.

    private func inputEnded(_ context: ChannelHandlerContext) {
        if let serverName = session.challengeShown {
            challengeAnswered(context, serverName)
        } else {
            fail(context, handshakeEndError())
        }
    }

    private func peerLeft(_ context: ChannelHandlerContext) {
        guard let serverName = session.challengeShown else { return failWithoutPeer(context, handshakeEndError()) }
        end(with: ChannelError.ioOnClosedChannel)
        context.fireUserInboundEventTriggered(TLSChallengeAnswered(serverName: serverName))
    }

    /// Why a handshake ended with the connection: an alert may be among the last bytes of a server.
    private func handshakeEndError() -> TLSError {
        let abandoned = TLSError(.handshakeAbandoned, "peer", "closed the connection before the handshake was over")
        guard !isServer else { return abandoned }
        session.receiveEnd()
        if case .failed(let error) = session.handshake() { return error }
        return abandoned
    }

    // MARK: Outbound

    package func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        var plaintext = unwrapOutboundIn(data)
        switch state {
        case .idle, .handshaking:
            guard unflushedPlaintext.readableBytes + plaintext.readableBytes <= policy.maximumEarlyPlaintextBytes else {
                promise?.fail(TLSError(.tooMuchEarlyPlaintext, "session", "too much was written before the end of the handshake"))
                return
            }
        case .open where pump.whenDry == nil: break
        case .open, .lingering, .closed:
            promise?.fail(ChannelError.ioOnClosedChannel)
            return
        }
        if let promise { unflushedPromises.append(promise) }
        if unflushedPlaintext.readableBytes == 0 {
            unflushedPlaintext = plaintext
        } else if state != .open || unflushedPlaintext.readableBytes + plaintext.readableBytes <= Self.maximumGatheredBytes {
            unflushedPlaintext.writeBuffer(&plaintext)
        } else {
            if isMuch {
                pending.append(unflushedPlaintext)
            } else {
                guard encrypt(context) else { return }
            }
            unflushedPlaintext = plaintext
        }
    }

    package func flush(context: ChannelHandlerContext) {
        switch state {
        case .idle, .handshaking:
            isFlushWanted = true
        case .open:
            let heldBackBytes = session.outboundCiphertextBytes + unflushedPlaintext.readableBytes + pending.byteCount
            isFlushWanted = isInReadBurst && heldBackBytes < Self.maximumHeldBackBytes
            if !isFlushWanted { encryptAndSend(context) }
        case .lingering, .closed:
            context.flush()
        }
    }

    /// Writes `plaintext` behind what was written before, and encrypts it at once: nobody holds it any more, unless there is much before it.
    /// It leaves with the next flush.
    package func seal(_ plaintext: ByteBuffer) {
        guard state == .open, pump.whenDry == nil, let context else { return }
        guard !isMuch(with: plaintext.readableBytes) else {
            pending.append(unflushedPlaintext)
            pending.append(plaintext)
            unflushedPlaintext = ByteBuffer()
            return
        }
        guard encrypt(context) else { return }
        _ = encrypt(plaintext, context)
    }

    /// As a flush from behind this handler.
    package func flush() {
        if let context { flush(context: context) }
    }

    /// As a write and a flush from behind this handler.
    package func writeAndFlush(_ plaintext: ByteBuffer) {
        guard let context else { return }
        let isNext = state == .open && !isInReadBurst && pump.whenDry == nil
        guard isNext, unflushedPlaintext.readableBytes == 0, unflushedPromises.isEmpty, !isMuch(with: plaintext.readableBytes) else {
            write(context: context, data: wrapInboundOut(plaintext), promise: nil)
            return flush(context: context)
        }
        isFlushWanted = false
        if plaintext.readableBytes > 0, !encrypt(plaintext, context) { return }
        send(context, promise: nil)
    }

    /// What is to be done for a flush. Returns false when it failed.
    @discardableResult
    private func encryptAndSend(_ context: ChannelHandlerContext) -> Bool {
        if isMuch {
            pending.append(unflushedPlaintext)
            unflushedPlaintext = ByteBuffer()
            pending.flush(takePromise())
            isMuchToCome = false
            return pendingFlushed(context)
        }
        guard encrypt(context) else { return false }
        send(context, promise: takePromise())
        return true
    }

    private func encrypt(_ context: ChannelHandlerContext) -> Bool {
        guard unflushedPlaintext.readableBytes > 0 else { return true }
        let plaintext = unflushedPlaintext
        unflushedPlaintext = ByteBuffer()
        return encrypt(plaintext, context)
    }

    private func encrypt(_ plaintext: ByteBuffer, _ context: ChannelHandlerContext) -> Bool {
        if let buffers { session.useOutbound(buffers.takeOutbound()) }
        do {
            try write(plaintext)
            return true
        } catch {
            fail(context, error)
            return false
        }
    }

    /// Encrypts `plaintext`; what is more than a part of it with looks at the clock.
    func write(_ plaintext: ByteBuffer) throws(TLSError) {
        guard let turns, plaintext.readableBytes > Self.partBytes else { return try session.write(plaintext) }
        var rest = plaintext
        while let part = rest.readSlice(length: min(Self.partBytes, rest.readableBytes)), part.readableBytes > 0 {
            // With room for all of it, once.
            try session.write(part, before: rest.readableBytes)
            turns.worked(part.readableBytes)
        }
    }

    /// A flush inside a read burst waits for the burst's end; a close does not wait, and must not lose what was flushed before it. What is not
    /// much leaves together with the close, and then completes `sent`.
    ///
    /// - Returns: whether all is well.
    func encryptFlushed(_ context: ChannelHandlerContext, sent: inout EventLoopPromise<Void>?) -> Bool {
        guard isFlushWanted else { return true }
        isFlushWanted = false
        if isMuch { return encryptAndSend(context) }
        guard encrypt(context) else { return false }
        sent = takePromise()
        return true
    }

    /// One promise for all writes since the last flush.
    func takePromise() -> EventLoopPromise<Void>? {
        guard let first = unflushedPromises.first else { return nil }
        for promise in unflushedPromises.dropFirst() { first.futureResult.cascade(to: promise) }
        unflushedPromises.removeAll(keepingCapacity: true)
        return first
    }

    func send(_ context: ChannelHandlerContext, promise: EventLoopPromise<Void>?) {
        guard session.hasOutboundCiphertext || promise != nil else { return }
        var ciphertext = session.takeOutboundCiphertext()
        if direct.write(&ciphertext) {
            promise?.succeed(())
        } else {
            context.writeAndFlush(wrapOutboundOut(ciphertext), promise: noteWrite(promise, context))
        }
        // Usually the socket has taken it.
        buffers?.giveBack(outbound: &ciphertext)
    }

    /// A promise for what the channel gets, which completes `promise` too.
    private func noteWrite(_ promise: EventLoopPromise<Void>?, _ context: ChannelHandlerContext) -> EventLoopPromise<Void>? {
        guard direct.isPossible else { return promise }
        direct.writesUnderWay += 1
        let taken = context.eventLoop.makePromise(of: Void.self)
        // In this order: whoever waits for `promise` may write.
        taken.futureResult.assumeIsolated().whenComplete { _ in self.direct.writesUnderWay -= 1 }
        taken.futureResult.cascade(to: promise)
        return taken
    }

    package func triggerUserOutboundEvent(context: ChannelHandlerContext, event: Any, promise: EventLoopPromise<Void>?) {
        guard event is TLSPlaintextReturned else { return context.triggerUserOutboundEvent(event, promise: promise) }
        isPlaintextReturned = true
        promise?.succeed(())
    }
}
