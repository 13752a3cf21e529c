package import Logging
package import MWPKI
package import MWStorage
package import MWTLS
package import MWWebSocket
package import NIOCore

/// What the connections of one event loop share: their list, the clock tick with their deadlines, counters, and buffers.
///
/// Made and used on its event loop only.
package final class SessionLoop: TLSTurns {
    package let eventLoop: any EventLoop
    package let limits: ServerLimits
    package let closeCodes: ServerCloseCodes
    package let webSocketLimits: WebSocketLimits
    package let logger: Logger
    package let census: ConnectionCensus
    /// Who came, who was refused: every decision about a peer is told to it.
    package let audit: AuditLog
    private let counterBox = UncheckedBox(SessionCounters())
    package var counters: SessionCounters {
        @inline(__always) _read { yield self.counterBox.value }
        @inline(__always) _modify { yield &self.counterBox.value }
    }
    /// The time of the last tick: near enough for every deadline, and free to read.
    package var now: NIODeadline { self.tickedAt }
    package var maximumUnsentBytes: Int { self.limits.maximumUnsentBytes }
    private var tickedAt: NIODeadline
    package private(set) var isDraining = false
    package private(set) var sessions: [SessionHandler] = []
    package var factory: (any SessionFactory)?

    /// Handshakes refused because the server has no certificate yet.
    private var awaitedIdentityLines = EventBudget(burst: 1, perSecond: SessionLoop.awaitedIdentityLinesPerSecond)

    private var openings: [OpeningHandler] = []
    private var refusalLines: EventBudget
    private var unflushed: [SessionHandler] = []
    /// Those of whom everything is encrypted, and not handed to the network.
    private var sealed: [SessionHandler] = []
    /// How many are handed to the network together, next.
    private var groupSize = 1
    private var resumable: [SessionHandler] = []
    private var waiting: [() -> Void] = []
    private var isWaitingScheduled = false
    /// Before those who gave way go on. Not zero but where there is no network: a loop runs all that is due before it looks at its sockets.
    package var pauseBetweenTurns = TimeAmount.microseconds(10)
    /// How long those who wait keep the loop from its sockets, but for the one whose turn it is.
    private static let waitersTime = TimeAmount.microseconds(250)
    private let processorBox = UncheckedBox(ProcessorTurns())
    /// Of this loop, among the threads of its processor.
    package var processorTurns: ProcessorTurns {
        @inline(__always) _read { yield self.processorBox.value }
        @inline(__always) _modify { yield &self.processorBox.value }
    }
    /// What reading an entry takes beside its bytes, in bytes that take as long. 1 KiB: half a microsecond.
    private static let bytesPerEntry = 1 << 10
    private var isTurnEndScheduled = false
    private var isInTurn = false
    /// For what the connections receive and send.
    package let buffers = BufferPool()
    private var nextConnectionID: UInt64
    private let connectionIDStride: UInt64
    private var whenEmpty: EventLoopPromise<Void>?
    private var ticking: Scheduled<Void>?

    /// Between two looks at the deadlines; a shorter deadline is looked at eight times.
    private static let tick: Duration = .milliseconds(500)
    private static let minimumTick: Duration = .milliseconds(5)

    /// Who asks more rarely than this may meet a handshake's step, half a millisecond.
    private static let quietAfter = TimeAmount.seconds(10)

    /// One a minute: often enough to be seen, and clients that reconnect each second do not fill a disk.
    private static let awaitedIdentityLinesPerSecond = 1.0 / 60

    /// - Parameter number: Of `loopCount` loops; keeps connection ids apart without a lock.
    package init(
        eventLoop: any EventLoop, number: Int = 0, loopCount: Int = 1, limits: ServerLimits, closeCodes: ServerCloseCodes = .init(),
        census: ConnectionCensus, audit: AuditLog? = nil, logger: Logger
    ) {
        self.eventLoop = eventLoop
        self.limits = limits
        self.closeCodes = closeCodes
        self.webSocketLimits = WebSocketLimits(
            maximumMessageBytes: limits.maximumMessageBytes, maximumFrameBytes: limits.maximumFrameBytes,
            maximumFragments: limits.maximumFragments)
        self.census = census
        self.audit = audit ?? AuditLog(logger: logger)
        self.refusalLines = EventBudget(burst: limits.refusalLinesAtOnce, perSecond: Double(limits.refusalLinesPerSecond))
        self.logger = logger
        self.tickedAt = .now()
        self.nextConnectionID = UInt64(number) + 1
        self.connectionIDStride = UInt64(loopCount)
    }

    package func makeConnectionID() -> UInt64 {
        defer { self.nextConnectionID &+= self.connectionIDStride }
        return self.nextConnectionID
    }

    // MARK: Time

    /// Looks at the deadlines regularly, and hands the counters to `publish`.
    package func startTicking(publish: @escaping (SessionCounters) -> Void) {
        let shortest = [
            self.limits.openingTimeout, self.limits.pingInterval, self.limits.pongTimeout, self.limits.closingTimeout,
            self.limits.unsentTimeout, self.limits.connectionLifetime ?? .seconds(60),
        ].min().map { $0 / 8 }
        self.scheduleTick(in: TimeAmount(max(Self.minimumTick, min(Self.tick, shortest ?? Self.tick))), publish)
    }

    private func scheduleTick(in delay: TimeAmount, _ publish: @escaping (SessionCounters) -> Void) {
        let due = NIODeadline.now() + delay
        self.ticking = self.eventLoop.assumeIsolated().scheduleTask(in: delay) {
            let now = NIODeadline.now()
            self.ticked(now, lateBy: now - due)
            self.counters.connectionsOpen = self.census.total
            if self.counters.hasServed { self.census.served(at: now.uptimeNanoseconds) }
            publish(self.counters)
            self.counters = SessionCounters()
            self.scheduleTick(in: delay, publish)
        }
    }

    /// Whether nobody has asked the server for anything, or been told anything, for a while; other loops are heard of with their ticks.
    var isQuiet: Bool {
        !self.counters.hasServed && self.census.isQuiet(at: self.now.uptimeNanoseconds, for: Self.quietAfter.nanoseconds)
    }

    /// Enforces every deadline that lies before `now`.
    ///
    /// - Parameter lateness: How long this loop ran nothing, or something else. Peers are not blamed for a time in which we did not listen:
    ///   a long one, half of ``ServerLimits/pongTimeout``, is not counted as their silence.
    /// - Parameter date: The clock on the wall, for the ends of certificates.
    package func ticked(_ now: NIODeadline, lateBy lateness: TimeAmount = .zero, date: Timestamp = .now()) {
        if lateness > TimeAmount(self.limits.pongTimeout / 2) {
            for session in self.sessions { session.forgiveSilence(of: lateness) }
        }
        self.tickedAt = now
        for opening in self.openings { opening.ticked(now) }
        for session in self.sessions {
            session.ticked(now)
            session.judgeDates(at: date)
        }
        self.factory?.ticked(now)
    }

    // MARK: Connections

    func openingStarted(_ opening: OpeningHandler) {
        opening.index = self.openings.count
        self.openings.append(opening)
        self.counters.connectionsAccepted += 1
    }

    /// Connections without their 101 yet.
    var openingCount: Int { self.openings.count }

    func openingEnded(_ opening: OpeningHandler) {
        guard let last = self.openings.popLast() else { return }
        if last !== opening {
            last.index = opening.index
            self.openings[opening.index] = last
        }
        self.succeedIfEmpty()
    }

    func sessionOpened(_ session: SessionHandler) {
        session.index = self.sessions.count
        self.sessions.append(session)
        self.counters.connectionsOpened += 1
        let notAfter = session.info.principal.certificate.notAfter.secondsSince1970
        self.counters.certificateRemainingSeconds.append(max(0, notAfter - Timestamp.now().secondsSince1970))
        self.log(session.info, level: self.connectionLevel, "connection opened", ["tls": "\(session.info.tls)"])
    }

    func sessionEnded(_ session: SessionHandler, _ end: SessionEnd) {
        guard let last = self.sessions.popLast() else { return }
        if last !== session {
            last.index = session.index
            self.sessions[session.index] = last
        }
        self.counters.connectionsClosed[end.cause, default: 0] += 1
        self.audit.record(.connectionEnded(session.info, end))
        self.log(
            session.info, level: self.connectionLevel, "connection closed",
            [
                "closed_by": "\(end.side.rawValue)", "cause": "\(end.cause.rawValue)", "code": "\(end.code?.description ?? "none")",
                "reason": "\(end.reason)",
            ])
        // Last: who sees the number fall finds the rest done.
        self.census.leave(session.info.principal.fingerprint, principal: session.info.principal.name)
        self.succeedIfEmpty()
    }

    func principalChanged(of session: SessionHandler, to principal: Principal) {
        self.census.move(from: session.info.principal.name, to: principal.name)
        self.log(session.info, level: .notice, "principal changed", ["principal_now": "\(principal.name)"])
    }

    /// A connection that is open is about to be closed, because of who its peer is.
    func sessionRefused(_ session: SessionHandler, _ refusal: PeerRefusal) {
        self.log(
            session.info, level: .notice, "connection refused after it was open",
            ["cause": "\(refusal.cause.rawValue)", "reason": "\(refusal.detail)"])
    }

    /// One line that says who, at the level that fits.
    package func log(_ info: SessionInfo, level: Logger.Level = .info, _ message: Logger.Message, _ more: Logger.Metadata) {
        guard self.logger.logLevel <= level else { return }
        var metadata: Logger.Metadata = [
            "connection": "\(info.connectionID)", "principal": "\(info.principal.name)",
            "fingerprint": "\(info.principal.fingerprint)", "address": "\(info.address)",
        ]
        metadata.merge(more) { $1 }
        self.logger.log(level: level, message, metadata: metadata)
    }

    /// The audit log says it of every connection, if there is one.
    private var connectionLevel: Logger.Level { self.audit.isWritten ? .debug : .info }

    /// One line about a refused peer, for people: who, from where, which check, what it wanted and saw, what mends it. Within
    /// ``ServerLimits/refusalLinesPerSecond``; the line after a gap says how many were left out.
    func logRefusal(_ message: Logger.Message, _ rejection: Rejection) {
        guard self.logger.logLevel <= .info else { return }
        let (isAllowed, suppressed) = self.refusalLines.take(at: NIODeadline.now().uptimeSeconds)
        guard isAllowed else { return }
        var metadata: Logger.Metadata = [
            "address": "\(rejection.address)", "check": "\(rejection.check)", "reason": "\(rejection.reason)",
        ]
        let details = [
            ("principal", rejection.principal), ("expected", rejection.expected), ("found", rejection.found),
            ("remedy", rejection.remedy), ("told", rejection.told), ("suppressed", suppressed > 0 ? "\(suppressed)" : nil),
        ]
        for case (let name, let value?) in details { metadata[name] = "\(value)" }
        if let certificate = rejection.certificate {
            metadata["fingerprint"] = "\(certificate.fingerprint)"
            metadata["serial"] = "\(certificate.serialNumber)"
            metadata["subject"] = "\(certificate.subject)"
            metadata["issuer"] = "\(certificate.issuer)"
            if !certificate.names.isEmpty { metadata["names"] = "\(certificate.names.joined(separator: ", "))" }
        }
        self.logger.info(message, metadata: metadata)
    }

    /// A refused peer while there is no certificate: every client that is there meets this, again and again, and one line says it for all.
    func logAwaitedIdentity(_ rejection: Rejection) {
        let (isAllowed, suppressed) = self.awaitedIdentityLines.take(at: NIODeadline.now().uptimeSeconds)
        guard isAllowed else { return }
        self.logger.warning(
            "tls handshakes are refused: there is no certificate yet",
            metadata: [
                "check": "\(rejection.check)", "reason": "\(rejection.reason)", "address": "\(rejection.address)",
                "remedy": "\(rejection.remedy ?? "wait for it")", "suppressed": "\(suppressed)",
            ])
    }

    /// An ACME validation saw its certificate: counted, logged and audited apart from clients.
    func challengeAnswered(for serverName: String, address: String) {
        self.counters.handshakes["acme_challenge", default: 0] += 1
        self.audit.record(.challengeAnswered(serverName: serverName, address: address))
        // The budget of refusals: whoever knows the name can cause these lines, too.
        guard self.logger.logLevel <= .info, self.refusalLines.take(at: NIODeadline.now().uptimeSeconds).isAllowed else { return }
        self.logger.info("acme challenge answered", metadata: ["server_name": "\(serverName)", "address": "\(address)"])
    }

    // MARK: Turns

    // What many sessions are sent is encrypted for several of them, and then handed to the network for these, one behind the other: a peer that
    // has many of them is woken once for several, not once for each. The first is alone, for it need not wait, then there are two, four, and
    // so on.

    /// Sessions that are flushed together: 8. Beyond, little is gained, and the first one waits.
    private static let maximumGroupSize = 8

    /// What `session` was sent so far is encrypted: flushes it soon, with others, at the latest at the end of this turn.
    func sealed(_ session: SessionHandler) {
        guard !session.isScheduledForFlush else { return }
        session.isScheduledForFlush = true
        self.sealed.append(session)
        if self.sealed.count >= self.groupSize { self.flushSealed() } else { self.scheduleTurnEnd() }
    }

    private func flushSealed() {
        guard !self.sealed.isEmpty else { return }
        self.groupSize = min(2 * self.groupSize, Self.maximumGroupSize)
        while let session = self.sealed.popLast() {
            // Before: what is written meanwhile is to be asked for anew.
            session.isScheduledForFlush = false
            session.flush(isDue: true)
        }
    }

    /// Flushes `session` when everything that is ready on this loop has run.
    func scheduleFlush(_ session: SessionHandler) {
        guard !session.isScheduledForFlush else { return }
        session.isScheduledForFlush = true
        self.unflushed.append(session)
        self.scheduleTurnEnd()
    }

    /// Lets `session` go on with what it had been held from.
    func scheduleResume(_ session: SessionHandler) {
        guard !session.isScheduledForResume else { return }
        session.isScheduledForResume = true
        self.resumable.append(session)
        self.scheduleTurnEnd()
    }

    /// Makes sure that ``SessionFactory/turnEnded()`` is called after everything else that is ready on this loop.
    package func scheduleTurnEnd() {
        guard !self.isTurnEndScheduled, !self.isInTurn else { return }
        self.isTurnEndScheduled = true
        self.eventLoop.assumeIsolated().execute {
            self.isTurnEndScheduled = false
            self.endTurn()
        }
    }

    /// Runs `body`, which concerns any number of sessions, and sends what it wrote: each session once.
    package func turn(_ body: () -> Void) {
        self.isInTurn = true
        body()
        self.isInTurn = false
        self.endTurn()
    }

    private func endTurn() {
        self.isInTurn = true
        repeat {
            self.flushSealed()
            while let session = self.resumable.popLast() {
                session.isScheduledForResume = false
                session.resumeIfReading()
            }
            while let session = self.unflushed.popLast() {
                session.seal()
                self.sealed.append(session)
                if self.sealed.count >= self.groupSize || self.unflushed.isEmpty { self.flushSealed() }
            }
        } while !self.resumable.isEmpty || !self.unflushed.isEmpty || !self.sealed.isEmpty
        self.groupSize = 1
        self.isInTurn = false
        self.factory?.turnEnded()
    }

    /// Not to be called where a lock is held.
    package func worked(_ bytes: Int) { self.processorTurns.worked(bytes) }

    /// After one of several entries, of `bytes`, that were read one after the other.
    @inline(__always)
    func passedEntry(of bytes: Int) { self.worked(bytes + Self.bytesPerEntry) }

    /// Calls `body` with one part after the other of `byteCount` bytes that are to be copied, or looked through. What is small is one part, and
    /// better done without this.
    @inline(never)
    func inParts(_ byteCount: Int, _ body: (Range<Int>) -> Void) {
        for start in stride(from: 0, to: byteCount, by: ProcessorTurns.bytesPerLook) {
            let end = min(start + ProcessorTurns.bytesPerLook, byteCount)
            body(start..<end)
            self.worked(end - start)
        }
    }

    /// Copies `source` to the beginning of `destination`, in parts.
    @inline(__always)
    func copy(_ source: UnsafeRawBufferPointer, to destination: UnsafeMutableRawBufferPointer) {
        guard source.count > ProcessorTurns.bytesPerLook else { return unsafe destination.copyMemory(from: source) }
        self.inParts(source.count) { part in
            unsafe UnsafeMutableRawBufferPointer(rebasing: destination[part]).copyMemory(
                from: UnsafeRawBufferPointer(rebasing: source[part]))
        }
    }

    /// Calls `body` in a turn after the network, and everybody else who waits like this, had theirs.
    package func afterOthers(_ body: @escaping () -> Void) {
        self.waiting.append(body)
        self.scheduleWaiting()
    }

    /// One timer for all who wait: with one for each, one of them would always be due, and the loop look at its sockets no more.
    private func scheduleWaiting() {
        guard !self.isWaitingScheduled, !self.waiting.isEmpty else { return }
        self.isWaitingScheduled = true
        self.eventLoop.assumeIsolated().scheduleTask(in: self.pauseBetweenTurns) {
            let end = self.eventLoop.now + Self.waitersTime
            var bodies = self.waiting[...]
            self.waiting = []
            self.turn {
                while let body = bodies.popFirst() {
                    body()
                    if self.eventLoop.now >= end { break }
                }
            }
            // In front of those who have had this turn and wait for the next.
            self.waiting.insert(contentsOf: bodies, at: 0)
            self.isWaitingScheduled = false
            self.scheduleWaiting()
        }
    }

    // MARK: Draining

    /// Ends every connection with `code` once its requests are answered; the future succeeds when none is left.
    package func drain(_ cause: SessionEnd.Cause, _ code: UInt16, _ reason: String) -> EventLoopFuture<Void> {
        let promise = self.whenEmpty ?? self.eventLoop.makePromise(of: Void.self)
        self.whenEmpty = promise
        self.isDraining = true
        for opening in self.openings { opening.abort() }
        self.turn {
            for session in self.sessions { session.drain(cause, code, reason) }
        }
        self.succeedIfEmpty()
        return promise.futureResult
    }

    /// Closes what is left, without any goodbye.
    package func abort(_ reason: String) {
        for opening in self.openings { opening.abort() }
        for session in self.sessions { session.abort(reason) }
    }

    /// Nothing runs on this loop for the server any more.
    package func end() {
        self.ticking?.cancel()
        self.ticking = nil
        self.factory?.loopEnded()
        self.factory = nil
        // They hold their sessions, which hold this.
        self.waiting = []
        self.buffers.removeAll()
    }

    private func succeedIfEmpty() {
        guard self.isDraining, self.sessions.isEmpty, self.openings.isEmpty else { return }
        self.whenEmpty?.succeed(())
        self.whenEmpty = nil
    }
}

extension NIODeadline {
    /// For an ``EventBudget``.
    var uptimeSeconds: Double { Double(self.uptimeNanoseconds) / 1e9 }
}
