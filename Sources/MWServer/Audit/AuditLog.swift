internal import DequeModule
package import Logging
internal import Metrics
internal import NIOCore
internal import NIOPosix
internal import Synchronization

/// The audit log of one server: events in, lines out, in order, on a thread of its own.
///
///     record ─▶ budget ─▶ rejections (ring)
///                   └──▶ queue (bounded) ─▶ writer thread ─▶ sink
///
/// What happens when the sink fails, as a full disk does: the line is kept and tried again with the next event, until the queue is full; from
/// then on events are dropped and counted, which also shows as a gap in `sequence`. Both are loud in log and metrics. Whoever asked for
/// `isRequired` has no connection admitted whose line is not in the sink; see ``record(_:whenWritten:)``.
///
/// Nothing here blocks an event loop. Without a sink only the ring is kept.
package final class AuditLog: Sendable {
    package struct Limits: Sendable {
        /// Events that wait for the writer: some MiB at the most, and a burst of one for each connection the server may have.
        package var maximumQueuedEvents = 16_384
        /// Refused peers, and denied requests, that are written in a second in the long run, each kind by itself. More are counted and said
        /// with the next: who is nobody must not be able to fill a disk. One address, or one principal whose requests are denied, gets half
        /// of it at the most: nor must it be able to hide the others.
        package var refusalsPerSecond = 100
        /// How many at once.
        package var refusalsAtOnce = 1_000

        package init() {}
    }

    /// Whether nobody is admitted unless the audit log says so.
    package let isRequired: Bool
    package let rejections: RejectionLog

    fileprivate struct Entry {
        let record: AuditRecord
        let whenWritten: (@Sendable (Bool) -> Void)?
    }

    fileprivate struct Queue {
        var entries = Deque<Entry>()
        var sequence: UInt64 = 0
        var isWriterAwake = false
        var isHealthy = true
        var isClosed = false
        var dropped: UInt64 = 0
        var refusedHandshakes: SharedBudget
        var refusedOpenings: SharedBudget
        var deniedRequests: SharedBudget
    }

    private let queue: Mutex<Queue>
    private let sink: (any AuditSink)?
    private let writer: NIOThreadPool?
    private let limits: Limits
    private let logger: Logger
    private let now: @Sendable () -> AuditTime
    private let metrics = AuditMetrics()

    /// - Parameters:
    ///   - sink: Closed by ``close()``.
    ///   - isRequired: Only with a sink.
    package init(
        sink: (any AuditSink)? = nil, isRequired: Bool = false, limits: Limits = .init(), logger: Logger,
        now: @escaping @Sendable () -> AuditTime = { .now() }
    ) {
        var random = SystemRandomNumberGenerator()
        let budget = SharedBudget(
            burst: limits.refusalsAtOnce, perSecond: limits.refusalsPerSecond, seed: (random.next(), random.next()))
        self.queue = Mutex(Queue(refusedHandshakes: budget, refusedOpenings: budget, deniedRequests: budget))
        self.sink = sink
        self.isRequired = isRequired && sink != nil
        self.rejections = RejectionLog()
        self.limits = limits
        self.logger = logger
        self.now = now
        self.writer = sink.map { _ in NIOThreadPool(numberOfThreads: 1) }
        self.writer?.start()
        if sink != nil { self.metrics.isHealthy(true) }
    }

    /// Whether lines go anywhere.
    package var isWritten: Bool { self.sink != nil }

    /// Whether everything may go on: false where the log is required and could not be written when it was last tried.
    package var allowsAdministration: Bool { !self.isRequired || self.queue.withLock { $0.isHealthy } }

    /// Takes an event; returns at once.
    package func record(_ event: AuditEvent) { self.record(event, nil) }

    /// Takes an event, and says whether its line is in the sink: called on any thread, also before this returns.
    ///
    /// Where the log is not required it says yes at once, whatever becomes of the line. A line that could not be written is not tried again:
    /// what it says is not going to happen.
    package func record(_ event: AuditEvent, whenWritten: @escaping @Sendable (Bool) -> Void) {
        guard self.isRequired else {
            self.record(event, nil)
            return whenWritten(true)
        }
        self.record(event, whenWritten)
    }

    private func record(_ event: AuditEvent, _ whenWritten: (@Sendable (Bool) -> Void)?) {
        let time = self.now()
        if let rejection = event.rejection { self.rejections.append(rejection, at: time.time) }
        guard self.sink != nil else { return }
        let source = event.source
        enum Fate { case queued(wakes: Bool), suppressed, dropped(wakes: Bool) }
        let fate = self.queue.withLock { queue -> Fate in
            let (isAllowed, suppressed) = queue.admit(event, source, at: time.uptime)
            guard isAllowed else { return .suppressed }
            queue.sequence += 1
            guard queue.entries.count < self.limits.maximumQueuedEvents, !queue.isClosed else {
                queue.dropped += 1
                // The sink may be well again.
                defer { queue.isWriterAwake = true }
                return .dropped(wakes: !queue.isWriterAwake)
            }
            let record = AuditRecord(time: time, sequence: queue.sequence, event: event, suppressed: suppressed)
            queue.entries.append(Entry(record: record, whenWritten: whenWritten))
            defer { queue.isWriterAwake = true }
            return .queued(wakes: !queue.isWriterAwake)
        }
        func wake() { self.writer?.submit { _ in self.writeQueue() } }
        switch fate {
        case .queued(let wakes):
            if wakes { wake() }
        case .suppressed:
            self.metrics.suppressed.increment()
            whenWritten?(false)
        case .dropped(let wakes):
            if wakes { wake() }
            self.metrics.dropped.increment()
            whenWritten?(false)
        }
    }

    // MARK: The writer's thread

    private func writeQueue() {
        while let entry = self.queue.withLock({ $0.next() }) {
            do throws(ServerError) {
                try self.sink?.write(entry.record.line)
                self.metrics.written.increment()
                self.wrote()
                entry.whenWritten?(true)
            } catch {
                self.metrics.failures.increment()
                self.failed(error, entry)
                return
            }
        }
    }

    private func wrote() {
        let dropped = self.queue.withLock { queue -> UInt64? in
            guard !queue.isHealthy else { return nil }
            queue.isHealthy = true
            defer { queue.dropped = 0 }
            return queue.dropped
        }
        guard let dropped else { return }
        self.metrics.isHealthy(true)
        self.logger.notice("the audit log is written again", metadata: ["lost_events": "\(dropped)"])
    }

    private func failed(_ error: ServerError, _ entry: Entry) {
        let (wasHealthy, refused) = self.queue.withLock { queue -> (Bool, [Entry]) in
            // Whoever waits for a line is told now. The others are tried again with the next event.
            var refused = entry.whenWritten == nil ? [] : [entry]
            refused += queue.entries.filter { $0.whenWritten != nil }
            queue.entries.removeAll { $0.whenWritten != nil }
            if entry.whenWritten == nil { queue.entries.prepend(entry) }
            queue.dropped += UInt64(refused.count)
            queue.isWriterAwake = false
            defer { queue.isHealthy = false }
            return (queue.isHealthy, refused)
        }
        for entry in refused { entry.whenWritten?(false) }
        guard wasHealthy else { return }
        self.metrics.isHealthy(false)
        let consequence =
            self.isRequired ? "nobody is admitted until it can" : "events are kept until \(self.limits.maximumQueuedEvents) wait"
        self.logger.critical("the audit log cannot be written", metadata: ["reason": "\(error)", "consequence": "\(consequence)"])
    }

    // MARK: Rotation and end

    /// Goes on in the file that has the name now. Returns when it does; logs what is wrong, and then stays with the old one.
    package func reopen() async {
        await self.onWriter { sink in
            do throws(ServerError) {
                try sink.reopen()
            } catch {
                self.logger.error("the audit log cannot be opened anew, the old file stays in use", metadata: ["reason": "\(error)"])
            }
        }
    }

    /// Writes what is queued, and takes nothing more.
    package func close() async {
        self.queue.withLock { $0.isClosed = true }
        await self.onWriter { sink in
            self.writeQueue()
            let lost = self.queue.withLock { $0.entries.count }
            if lost > 0 {
                self.metrics.dropped.increment(by: Int64(lost))
                self.logger.error("events are lost: the audit log cannot be written", metadata: ["lost_events": "\(lost)"])
            }
            sink.close()
        }
        try? await self.writer?.shutdownGracefully()
    }

    private func onWriter(_ body: @escaping @Sendable (any AuditSink) -> Void) async {
        guard let sink = self.sink, let writer = self.writer else { return }
        try? await writer.runIfActive { body(sink) }
    }
}

extension AuditLog.Queue {
    /// Whether the budget of the event's kind, and the part of it that its source has, allow it to be written.
    fileprivate mutating func admit(
        _ event: AuditEvent, _ source: UInt64, at uptime: Double
    ) -> (isAllowed: Bool, suppressed: UInt64) {
        switch event {
        // Anybody who knows the name of a pending challenge can cause the second.
        case .handshakeRefused, .challengeAnswered: self.refusedHandshakes.take(source, at: uptime)
        case .openingRefused: self.refusedOpenings.take(source, at: uptime)
        case .requestDenied: self.deniedRequests.take(source, at: uptime)
        default: (true, 0)
        }
    }

    /// What to write next; nil puts the writer to sleep.
    fileprivate mutating func next() -> AuditLog.Entry? {
        guard let entry = self.entries.popFirst() else {
            self.isWriterAwake = false
            return nil
        }
        return entry
    }
}

extension AuditEvent {
    /// Whose part of a budget it takes: the address' (of IPv6 the network's), or the principal's where it has one of its own.
    fileprivate var source: UInt64 {
        switch self {
        case .handshakeRefused(let rejection), .openingRefused(let rejection): Self.source(address: rejection.address)
        case .challengeAnswered(_, let address): Self.source(address: address)
        case .requestDenied(let session, _): Self.source(session.principal.name)
        default: 0
        }
    }

    private static func source(_ name: some StringProtocol) -> UInt64 {
        // Seeded anew in each process.
        var hasher = Hasher()
        hasher.combine(String(name))
        return UInt64(bitPattern: Int64(hasher.finalize()))
    }

    /// - Parameter address: `address:port`, IPv6 in brackets.
    private static func source(address: String) -> UInt64 {
        let host = (address.lastIndex(of: ":").map { address[..<$0] } ?? address[...]).filter { $0 != "[" && $0 != "]" }
        guard let known = (try? SocketAddress(ipAddress: host, port: 0)).flatMap(AddressPrefix.init) else { return Self.source(host) }
        return known.bits
    }

    /// What belongs into the ring of rejections.
    fileprivate var rejection: Rejection? {
        switch self {
        case .handshakeRefused(let rejection), .openingRefused(let rejection): rejection
        case .requestDenied(let session, let request): Rejection(request, of: session)
        default: nil
        }
    }
}

extension Rejection {
    fileprivate init(_ request: DeniedRequest, of session: SessionInfo) {
        self.init(
            .request, address: session.address, principal: session.principal.name,
            certificate: AuditedCertificate(session.principal.certificate), check: request.right,
            reason: "\(request.operation) is not allowed",
            expected: "the right to \(request.right)", remedy: "grant it in the policy, if it is meant to be")
    }
}

private struct AuditMetrics: Sendable {
    let written = Counter(label: "mwstorage_audit_events_total")
    let dropped = Counter(label: "mwstorage_audit_events_dropped_total")
    let suppressed = Counter(label: "mwstorage_audit_events_suppressed_total")
    let failures = Counter(label: "mwstorage_audit_write_failures_total")
    private let healthy = Gauge(label: "mwstorage_audit_writable")

    func isHealthy(_ isHealthy: Bool) { self.healthy.record(isHealthy ? 1 : 0) }
}
