internal import Logging
package import MWPKI
package import MWTLS
package import MWWebSocket
package import NIOCore
internal import NIOPosix

#if canImport(Glibc)
    internal import Glibc
#elseif canImport(Darwin)
    internal import Darwin
#endif

/// One WebSocket session on its event loop: drives the frame machine, hands messages to its delegate, and sends what the delegate writes.
///
///     read burst ─▶ machine ─▶ delegate ─▶ outbound buffer ─▶ one write and flush
///
/// It is responsible for: one write for each read burst; holding back reading while too much is unanswered or unsent; pings, and the closing
/// handshake, with their deadlines (``SessionLoop`` calls ``ticked(_:)``); the one log line about the end. It knows nothing of the messages'
/// meaning. Everything here runs on the connection's event loop.
package final class SessionHandler: ChannelDuplexHandler {
    package typealias InboundIn = ByteBuffer
    package typealias OutboundIn = Never
    package typealias OutboundOut = ByteBuffer

    private enum Phase {
        case open
        /// Our close frame is out; the peer's, or the deadline, ends it.
        case closing(NIODeadline)
        case ended
    }

    /// A burst's replies leave in one write, unless they grow over this: 256 KiB fill a socket's buffer.
    private static let flushThresholdBytes = 256 * 1024
    /// How long one connection's messages keep the loop from the others, but for the one that is under way. The bytes above take less.
    private static let turnTime = TimeAmount.milliseconds(1)
    /// Messages between two looks at the clock.
    private static let messagesPerLook = 8

    package private(set) var info: SessionInfo
    /// Who TLS says is there, as the newest ``SecuritySet`` sees it.
    package private(set) var peer: VerifiedPeer
    package let loop: SessionLoop
    /// Of the principal in ``info``, at hand for every request.
    private(set) var grants: AccessGrants
    /// Requests that were taken and are not answered yet.
    package private(set) var requestsInFlight = 0
    /// All that were taken, as the delegate counts them with ``countRequest()``.
    package var requestCount: UInt64 { self.tally.value.requests }
    package var receivedBytes: UInt64 { self.tally.value.receivedBytes }
    /// Where ``SessionLoop`` keeps it.
    var index = 0
    var isScheduledForFlush = false
    var isScheduledForResume = false

    let delegate: any SessionDelegate
    private let machineBox: UncheckedBox<WebSocketStateMachine>
    private var machine: WebSocketStateMachine {
        @inline(__always) _read { yield self.machineBox.value }
        @inline(__always) _modify { yield &self.machineBox.value }
    }
    private var context: ChannelHandlerContext?
    /// It may hold what the channel does not know of yet.
    private var tls: TLSHandler?
    private var phase = Phase.open
    private var end: SessionEnd?
    private var holds: Holds = []
    private let outboundBox = UncheckedBox(ByteBuffer())
    private var outbound: ByteBuffer {
        @inline(__always) _read { yield self.outboundBox.value }
        @inline(__always) _modify { yield &self.outboundBox.value }
    }
    private var hasUntakenBytes = false
    private var isTaking = false
    private var isInReadBurst = false
    private var hasSeenBurst = false
    private var isCloseDue = false
    private var hasEnded = false
    private var owesRead = false
    private let openedAt: NIODeadline
    private var lastHeard: NIODeadline
    private var pingedAt: NIODeadline?
    /// Since when the network took too little, while it had too much to take.
    private var unwritableSince: NIODeadline?
    /// Of the ``SecuritySet`` that judged last.
    private var generation: UInt64
    private let tally = UncheckedBox(Tally())
    /// Bytes handed to the network in all, and what it had taken of them at `unwritableSince`.
    package var writtenBytes: Int { self.tally.value.writtenBytes }
    private var takenBytesThen = 0
    /// Written since the last flush: the network does not know of them.
    private var unflushedBytes = 0
    /// With what is to be written; the next flush hands on all of it.
    private var gatheredBytes: Int { self.unflushedBytes + self.outbound.readableBytes }

    /// - Parameter generation: Of the ``SecuritySet`` that admitted `peer`.
    package init(_ info: SessionInfo, peer: VerifiedPeer, generation: UInt64, on loop: SessionLoop, delegate: any SessionDelegate) {
        self.info = info
        self.grants = info.principal.grants
        self.peer = peer
        self.generation = generation
        (self.loop, self.delegate) = (loop, delegate)
        self.machineBox = UncheckedBox(WebSocketStateMachine(role: .server, limits: loop.webSocketLimits))
        (self.openedAt, self.lastHeard) = (loop.now, loop.now)
    }

    package func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
        self.machine.isReturningInput = true
        self.tls = try? context.pipeline.syncOperations.handler(type: TLSHandler.self)
        context.triggerUserOutboundEvent(TLSPlaintextReturned(), promise: nil)
        self.loop.sessionOpened(self)
        if !context.channel.isActive { self.connectionEnded() }
    }

    package func handlerRemoved(context: ChannelHandlerContext) {
        self.connectionEnded()
        (self.context, self.tls) = (nil, nil)
    }

    // MARK: Reading

    package func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let bytes = self.unwrapInboundIn(data)
        self.loop.counters.receivedBytes &+= UInt64(bytes.readableBytes)
        self.tally.value.receivedBytes &+= UInt64(bytes.readableBytes)
        self.lastHeard = self.loop.now
        self.pingedAt = nil
        // What came before is taken first, and this one when the burst ends: by then the machine alone holds the buffer, and can unmask in
        // place.
        self.isInReadBurst = true
        if self.hasUntakenBytes { self.takeMessages() }
        self.machine.bytesReceived(bytes)
        self.hasUntakenBytes = true
        // What the HTTP decoder had left over comes without the end of a burst.
        if !self.hasSeenBurst { self.loop.scheduleResume(self) }
    }

    package func channelReadComplete(context: ChannelHandlerContext) {
        self.isInReadBurst = false
        self.hasSeenBurst = self.hasUntakenBytes || self.hasSeenBurst
        self.takeMessages()
        if !self.hasEnded { self.delegate.readBurstEnded(in: self) }
        self.flush()
        if self.isCloseDue { self.closeTransport() } else if self.isReading { self.tls?.readOn() }
    }

    package func read(context: ChannelHandlerContext) {
        if self.isReading { context.read() } else { self.owesRead = true }
    }

    private var isReading: Bool {
        if case .open = self.phase { return self.holds.isEmpty }
        return true
    }

    /// The connection is torn down, though the channel does not say so yet: nothing that came over it is done any more.
    private var isCutOff: Bool { if case .ended = self.phase { true } else { false } }

    private func takeMessages() {
        guard !self.isTaking, !self.hasEnded else { return }
        self.isTaking = true
        var count = 0
        var end: NIODeadline?
        while self.isReading, !self.isCutOff, !self.hasEnded {
            if self.gatheredBytes >= Self.flushThresholdBytes {
                // Inside a burst the TLS handler keeps what is flushed: the rest is taken at its end.
                if self.isInReadBurst || self.letOthersTakeTurns() { break }
                continue
            }
            guard let event = self.machine.nextEvent(outbound: &self.outbound) else {
                self.hasUntakenBytes = false
                break
            }
            switch event {
            case .message(let opcode, let payload): self.delegate.messageReceived(opcode, payload, in: self)
            case .ping, .pong: break
            case .closeReceived(let code, let reason): self.closeReceived(code, reason)
            case .violation(let error): self.violated(error)
            }
            count += 1
            // Most bursts have one message, which costs no look. A message that holds up the next ones goes on by itself.
            guard count == 2 || count % Self.messagesPerLook == 0, !self.isInReadBurst, self.isReading else { continue }
            let now = self.loop.eventLoop.now
            guard now >= end ?? now + Self.turnTime else {
                end = end ?? now + Self.turnTime
                continue
            }
            if self.letOthersTakeTurns() { break }
        }
        if var input = self.machine.takeReturnedInput() { self.loop.buffers.giveBack(inbound: &input) }
        self.isTaking = false
    }

    /// Goes on when all that is ready on this loop had its turn, the network too.
    ///
    /// - Returns: false when there is no time for it: the connection closes.
    private func letOthersTakeTurns() -> Bool {
        self.flush(isDue: true)
        guard case .open = self.phase, !self.hasEnded else { return false }
        self.hold(.turn)
        self.loop.afterOthers { self.release(.turn) }
        return true
    }

    private func resume() {
        guard self.isReading, !self.isTaking, !self.hasEnded else { return }
        self.takeMessages()
        guard !self.hasEnded else { return }
        self.delegate.readBurstEnded(in: self)
        self.flush()
        if self.owesRead && self.isReading {
            self.owesRead = false
            self.context?.read()
        }
    }

    /// Takes nothing more from the peer until ``release(_:)``.
    package func hold(_ reason: Holds) { self.holds.insert(reason) }

    /// The reason is over: goes on where it stopped, if there is no other.
    package func release(_ reason: Holds) {
        guard self.holds.contains(reason) else { return }
        self.holds.remove(reason)
        self.resume()
    }

    /// Whether the next request of a message may be taken, that has several. What was written so far is handed on if it is much. While it
    /// is false there will be a ``SessionDelegate/readBurstEnded(in:)``, a ``SessionDelegate/mayGoOn(in:)``, or a request of this session
    /// that ends.
    package var mayTakeNext: Bool {
        guard case .open = self.phase, !self.hasEnded else { return false }
        if !self.isInReadBurst {
            self.flushIfLarge()
        } else if self.gatheredBytes >= Self.flushThresholdBytes {
            // The TLS handler keeps what is flushed until the burst ends.
            return false
        }
        return self.holds.isSubset(of: .unfinishedMessage)
    }

    /// A request was taken, whenever it is answered.
    package func countRequest() { self.tally.value.requests &+= 1 }

    /// A request was taken that is answered later.
    package func requestStarted() {
        self.requestsInFlight += 1
        if self.requestsInFlight >= self.loop.limits.maximumRequestsInFlight { self.hold(.requestsInFlight) }
    }

    /// Its answer has been written.
    package func requestEnded() {
        self.requestsInFlight -= 1
        // A close that began meanwhile keeps its cause.
        if case .open = self.phase, self.requestsInFlight == 0, self.holds.contains(.draining), let end = self.end {
            self.end = nil
            self.close(end)
        }
        if self.holds.contains(.requestsInFlight), self.requestsInFlight < self.loop.limits.maximumRequestsInFlight {
            // Goes on once everything that ends now has ended.
            self.holds.remove(.requestsInFlight)
            self.loop.scheduleResume(self)
        }
    }

    /// What ``SessionLoop`` calls for a session that ``requestEnded()`` had scheduled.
    func resumeIfReading() {
        self.isInReadBurst = false
        self.resume()
        if self.isCloseDue { self.closeTransport() }
    }

    // MARK: Writing

    /// Appends a message whose payload `body` writes straight into the outbound buffer; nothing is appended when it throws.
    /// It leaves with everything else of this burst.
    package func send<Failure: Error>(
        _ opcode: MessageOpcode, expectedBytes: Int = 1024, _ body: (inout ByteBuffer) throws(Failure) -> Void
    ) throws(Failure) {
        guard !self.hasEnded else { return }
        self.prepareOutbound()
        try self.machine.writeMessage(opcode, to: &self.outbound, expectedBytes: expectedBytes, body)
    }

    /// Appends a message of `payloadBytes`, which `body` fills in place.
    func send(_ opcode: MessageOpcode, payloadBytes: Int, _ body: (UnsafeMutableRawBufferPointer) -> Void) {
        guard !self.hasEnded else { return }
        self.prepareOutbound()
        unsafe self.machine.writeMessage(opcode, payloadBytes: payloadBytes, to: &self.outbound, body)
    }

    /// Appends a message.
    package func send(_ opcode: MessageOpcode, _ payload: ByteBuffer) {
        guard !self.hasEnded else { return }
        self.prepareOutbound()
        self.machine.writeMessage(opcode, payload, to: &self.outbound)
    }

    /// Appends whole frames. They leave with everything else of this burst.
    package func send(frames: ByteBuffer) {
        guard self.machine.state == .open, !self.hasEnded else { return }
        self.prepareOutbound()
        self.outbound.writeImmutableBuffer(frames)
    }

    /// Sends whole frames after everything written so far, and hands all of it to the network, unless this is inside a read burst: by the end
    /// of the call nobody holds `frames` any more. Messages may be taken, and ``SessionDelegate/mayGoOn(in:)`` called, before it returns.
    /// Where it `isWithOthers`, it is encrypted, and may leave a little later in this turn, together with what others are sent.
    package func sendNow(frames: ByteBuffer, isWithOthers: Bool = false) {
        guard self.machine.state == .open, let context = self.context, frames.readableBytes > 0 else { return }
        if self.outbound.readableBytes > 0 { self.writeOutbound(context, sealing: self.tls) }
        self.write(frames, context, sealing: self.tls)
        if isWithOthers, self.tls != nil { self.loop.sealed(self) } else { self.flush(isDue: true) }
    }

    /// Sends whole frames that others are sent too, after everything written so far: the bytes are shared, not copied.
    package func sendShared(frames: ByteBuffer) {
        guard self.machine.state == .open, let context = self.context, frames.readableBytes > 0 else { return }
        self.writeOutbound(context)
        self.write(frames, context)
        self.loop.scheduleFlush(self)
    }

    /// Sends a message of which only the head is this session's own: `slices` follow it, and are shared, not copied.
    ///
    /// - Parameter head: Appends exactly `headBytes`.
    package func sendShared(
        _ opcode: MessageOpcode, headBytes: Int, then slices: [ByteBuffer], _ head: (inout ByteBuffer) -> Void
    ) {
        guard self.machine.state == .open, let context = self.context else { return }
        self.prepareOutbound()
        let payloadBytes = slices.reduce(headBytes) { $0 + $1.readableBytes }
        self.machine.writeMessageHeader(opcode, payloadBytes: payloadBytes, to: &self.outbound)
        head(&self.outbound)
        self.tls?.willWrite(payloadBytes)
        self.writeOutbound(context)
        for slice in slices { self.write(slice, context) }
        self.loop.scheduleFlush(self)
    }

    /// Calls `body` once the network has taken everything that was written so far, or takes nothing any more.
    package func whenTaken(_ body: @escaping () -> Void) {
        guard let context = self.context else { return body() }
        let promise = context.eventLoop.makePromise(of: Void.self)
        promise.futureResult.assumeIsolated().whenComplete { _ in body() }
        self.writeOutbound(context)
        context.write(self.wrapOutboundOut(ByteBuffer()), promise: promise)
        self.loop.scheduleFlush(self)
    }

    /// Whether a message can still be sent.
    package var isOpen: Bool { self.machine.state == .open }

    /// Whether an answer of any size may be written now. While it is not, the network has enough to take, and what can wait waits for
    /// ``SessionDelegate/mayGoOn(in:)``.
    package var mayAnswer: Bool { self.isOpen && !self.hasEnded && !self.holds.contains(.unsentBytes) }

    /// Bytes that were written so far, wherever they are now.
    package var sentBytes: Int { self.writtenBytes + self.outbound.readableBytes }

    /// Bytes that the network has not taken yet. Asks the channel, which costs as much as a small message.
    package var unsentBytes: Int { self.bufferedBytes + self.gatheredBytes }

    /// Those of them that were handed to it.
    private var bufferedBytes: Int {
        let buffered = try? self.context?.channel.syncOptions?.getOption(.bufferedWritableBytes)
        return (buffered ?? 0) + (self.tls?.pendingPlaintextBytes ?? 0)
    }

    private func prepareOutbound() {
        if self.outbound.capacity == 0 { self.outbound = self.loop.buffers.takeOutbound() }
        if !self.isTaking { self.loop.scheduleFlush(self) }
    }

    /// Hands what was written to the network if that is much: between answers of which each may be large. Messages may be taken, and
    /// ``SessionDelegate/mayGoOn(in:)`` called, before it returns.
    package func flushIfLarge() {
        if self.gatheredBytes >= Self.flushThresholdBytes { self.flush() }
    }

    /// Hands everything written so far to the network; if it `isDue`, also where all of it is encrypted already.
    package func flush(isDue: Bool = false) {
        guard let context = self.context, isDue || self.isScheduledForFlush || self.outbound.readableBytes > 0 else { return }
        let hasBuffer = self.outbound.capacity > 0
        var sent = self.outbound
        if hasBuffer { self.outbound = ByteBuffer() }
        self.write(sent, context, isFlushed: true)
        self.unflushedBytes = 0
        // By now the TLS handler has encrypted it and let go of it, unless it is much.
        if hasBuffer { self.loop.buffers.giveBack(outbound: &sent) }
    }

    /// Encrypts everything written so far, which leaves with the next flush.
    func seal() {
        guard let context = self.context, let tls = self.tls, self.outbound.readableBytes > 0 else { return }
        var sent = self.writeOutbound(context, sealing: tls)
        self.loop.buffers.giveBack(outbound: &sent)
    }

    /// Returns what was written: its storage is free to be used again after the next flush, or at once if sealed.
    @discardableResult
    private func writeOutbound(_ context: ChannelHandlerContext, sealing tls: TLSHandler? = nil) -> ByteBuffer {
        let sent = self.outbound
        self.outbound = ByteBuffer()
        if sent.readableBytes > 0 { self.write(sent, context, sealing: tls) }
        return sent
    }

    private func write(_ bytes: ByteBuffer, _ context: ChannelHandlerContext, sealing tls: TLSHandler? = nil, isFlushed: Bool = false) {
        self.loop.counters.sentBytes &+= UInt64(bytes.readableBytes)
        self.tally.value.writtenBytes &+= bytes.readableBytes
        self.unflushedBytes += bytes.readableBytes
        if isFlushed, let tls = self.tls { return tls.writeAndFlush(bytes) }
        if let tls { return tls.seal(bytes) }
        if bytes.readableBytes > 0 { context.write(self.wrapOutboundOut(bytes), promise: nil) }
        if isFlushed { context.flush() }
    }

    package func channelWritabilityChanged(context: ChannelHandlerContext) {
        if context.channel.isWritable, self.tls?.isBackedUp != true {
            self.unwritableSince = nil
            self.machine.isOutputBackedUp = false
            if self.machine.writePendingPong(to: &self.outbound) { self.flush() }
            self.holds.remove(.unsentBytes)
            if !self.hasEnded { self.delegate.mayGoOn(in: self) }
            self.resume()
        } else {
            if self.unwritableSince == nil {
                self.unwritableSince = self.loop.now
                self.takenBytesThen = self.writtenBytes - self.bufferedBytes
            }
            self.machine.isOutputBackedUp = true
            self.hold(.unsentBytes)
        }
    }

    // MARK: Time

    /// Pings, deadlines and age.
    package func ticked(_ now: NIODeadline) {
        let limits = self.loop.limits
        switch self.phase {
        case .ended: return
        case .closing(let deadline):
            if now >= deadline {
                self.end?.reason += "; no close frame came back"
                self.closeTransport()
            }
        case .open:
            self.noteProgress(now)
            if let since = self.unwritableSince, now >= since + TimeAmount(limits.unsentTimeout) {
                self.closeAsSlowReader("the connection took too little in \(limits.unsentTimeout)")
            } else if let pinged = self.pingedAt, now >= pinged + TimeAmount(limits.pongTimeout), self.holds.isEmpty {
                self.close(.missedPong, self.loop.closeCodes.missedPong, "no answer to a ping within \(limits.pongTimeout)")
            } else if self.pingedAt == nil, now >= self.lastHeard + TimeAmount(limits.pingInterval), self.holds.isEmpty {
                self.pingedAt = now
                if self.machine.writePing(to: &self.outbound) { self.flush() }
            } else if let lifetime = limits.connectionLifetime, now >= self.openedAt + TimeAmount(lifetime) {
                self.drain(.lifetime, self.loop.closeCodes.lifetime, "the connection reached its age of \(lifetime)")
            }
        }
    }

    /// Closes when what its peer presented has come to its end, by the clock on the wall.
    package func judgeDates(at now: Timestamp) {
        guard case .open = self.phase, now >= self.peer.validUntil else { return }
        self.close(refused: PeerRefusal(endOf: self.peer, at: now))
    }

    /// A slow reader is not one that takes next to nothing, whatever else is sent to it meanwhile.
    private func noteProgress(_ now: NIODeadline) {
        guard self.unwritableSince != nil else { return }
        // What is buffered is encrypted, a little more than was written: taken bytes never seem more than they are.
        let taken = self.writtenBytes - self.bufferedBytes
        guard taken - self.takenBytesThen >= self.loop.limits.leastTakenBytes else { return }
        (self.unwritableSince, self.takenBytesThen) = (now, taken)
    }

    /// Does not count `duration`, in which this loop did not listen.
    func forgiveSilence(of duration: TimeAmount) {
        self.lastHeard = self.lastHeard + duration
        self.pingedAt = self.pingedAt.map { $0 + duration }
        self.unwritableSince = self.unwritableSince.map { $0 + duration }
    }

    // MARK: Closing

    /// Takes no more requests, and closes once those in flight are answered.
    package func drain(_ cause: SessionEnd.Cause, _ code: UInt16, _ reason: String) {
        guard case .open = self.phase, !self.holds.contains(.draining) else { return }
        let end = SessionEnd(.server, cause, CloseCode(rawValue: code) ?? .goingAway, reason)
        if self.requestsInFlight == 0 {
            self.close(end)
        } else {
            self.end = end
            self.hold(.draining)
            self.delegate.drainBegan(in: self)
        }
    }

    /// Begins the closing handshake; what was written before goes out first.
    package func close(_ cause: SessionEnd.Cause, _ code: UInt16, _ reason: String) {
        self.close(SessionEnd(.server, cause, CloseCode(rawValue: code) ?? .internalError, reason))
    }

    /// What a newer set of trust, refusals and policy says of the peer: it stays, as who it is now, or is closed at once.
    func apply(_ verdict: PeerVerdict, generation: UInt64, counting outcome: inout JudgingOutcome) {
        guard case .open = self.phase, generation >= self.generation else { return }
        self.generation = generation
        outcome.judged += 1
        switch verdict {
        case .admitted(let peer, let principal):
            self.peer = peer
            guard principal != self.info.principal else { return }
            outcome.changed += 1
            self.loop.principalChanged(of: self, to: principal)
            self.info.principal = principal
            self.grants = principal.grants
            self.delegate.principalChanged(in: self)
        case .refused(let refusal):
            outcome.closed += 1
            self.close(refused: refusal)
        }
    }

    /// Serves nothing more: what it asked for is not answered, and what was answered and not taken yet is thrown away.
    private func close(refused refusal: PeerRefusal) {
        let code = self.loop.closeCodes.refused
        self.loop.sessionRefused(self, refusal)
        if self.bufferedBytes > 0 {
            // Also what only the system still holds.
            _ = (self.context?.channel as? any SocketOptionProvider)?.setSoLinger(linger(l_onoff: 1, l_linger: 0))
            self.end = SessionEnd(.server, refusal.cause, CloseCode(rawValue: code), refusal.toldPeer)
            return self.abort(refusal.toldPeer)
        }
        self.close(refusal.cause, code, refusal.toldPeer)
        guard case .closing(let deadline) = self.phase else { return }
        self.phase = .closing(min(deadline, self.loop.now + TimeAmount(self.loop.limits.refusedClosingTimeout)))
    }

    private func close(_ end: SessionEnd) {
        guard case .open = self.phase else { return }
        self.end = end
        self.prepareOutbound()
        self.machine.writeClose(end.code ?? .normal, end.reason, to: &self.outbound)
        self.phase = .closing(self.loop.now + TimeAmount(self.loop.limits.closingTimeout))
        self.loop.scheduleFlush(self)
        // From here on the peer is read from whatever held it back: its close frame is awaited.
        self.loop.scheduleResume(self)
    }

    private func closeReceived(_ code: CloseCode?, _ reason: String) {
        // RFC 6455 §7.1.1: the server closes the TCP connection first.
        self.end = self.end ?? SessionEnd(.client, .normal, code, reason.printable)
        self.closeTransport()
    }

    private func violated(_ error: WebSocketError) {
        self.end = self.end ?? SessionEnd(.server, .protocolViolation, error.closeCode, "\(error)")
        self.closeTransport()
    }

    /// What is written goes out, then TLS says its goodbye and lingers, so that the close frame is not overtaken by a reset.
    private func closeTransport() {
        // Inside a burst the TLS handler has not encrypted yet what was flushed; closing now would lose it.
        self.isCloseDue = true
        guard let context = self.context, !self.isInReadBurst else { return }
        if case .ended = self.phase { return }
        self.phase = .ended
        self.writeOutbound(context)
        context.flush()
        context.close(mode: .all, promise: nil)
    }

    /// Closes without any goodbye: there is no time left for one.
    func abort(_ reason: String) {
        guard let context = self.context else { return }
        self.end = self.end ?? SessionEnd(.server, .stop, nil, reason)
        self.phase = .ended
        context.channel.abort()
    }

    package func errorCaught(context: ChannelHandlerContext, error: any Error) {
        self.end = self.end ?? SessionEnd(.network, .connectionLost, nil, "\(error)")
        self.closeTransport()
    }

    package func channelInactive(context: ChannelHandlerContext) { self.connectionEnded() }

    private func connectionEnded() {
        guard !self.hasEnded else { return }
        self.hasEnded = true
        self.phase = .ended
        let end = self.end ?? SessionEnd(.network, .connectionLost, nil, "the connection ended without a closing handshake")
        self.loop.sessionEnded(self, end)
        self.delegate.sessionEnded(self)
        self.outbound = ByteBuffer()
    }
}
