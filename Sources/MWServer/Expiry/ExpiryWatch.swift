internal import Logging
internal import MWPKI
internal import MWTLS
internal import Metrics
internal import NIOCore
internal import Synchronization

/// Looks every minute at what will expire, and whether what would replace it cannot be loaded: warns in the log, and keeps the dates in the
/// metrics.
final class ExpiryWatch: Sendable {
    /// Between two looks. Certificates of an hour are warned of in time too.
    private static let interval = TimeAmount.minutes(1)
    /// Trust anchors, and revocation lists, that have a series of their own. More than one looks at.
    private static let maximumSeries = 64

    private struct State {
        var warnings = ExpiryWarnings()
        var reloadAlarm = ReloadAlarm()
        var dates: [String: Gauge] = [:]
    }

    private let sessions: SessionServer
    private let lastReload: @Sendable () -> ReloadRecord
    private let logger: Logger
    private let state = Mutex(State())
    private let task = Mutex<RepeatedTask?>(nil)

    init(_ sessions: SessionServer, lastReload: @escaping @Sendable () -> ReloadRecord, logger: Logger) {
        self.sessions = sessions
        self.lastReload = lastReload
        self.logger = logger
    }

    /// Begins now.
    func start() {
        guard let loop = self.sessions.eventLoops.first else { return }
        let task = loop.scheduleRepeatedAsyncTask(initialDelay: .zero, delay: Self.interval) { [weak self] _ in
            guard let self else { return loop.makeSucceededVoidFuture() }
            return self.sessions.clientCertificates(on: loop).map { clients in self.look(clients, at: .now()) }
        }
        self.task.withLock { $0 = task }
    }

    func stop() { self.task.withLock { $0 }?.cancel() }

    private func look(_ clients: [Expiring], at now: Timestamp) {
        let context = self.sessions.security.set.context
        let ours = Self.expiring(in: context)
        self.setDates(ours.filter { $0.kind == .trustAnchor || $0.kind == .revocationList })
        self.lookAtReload(context.identity?.leaf.notAfter, at: now)
        let warnings = self.state.withLock { $0.warnings.due(ours + clients, at: now) }
        for warning in warnings {
            self.logger.log(level: warning.isUrgent ? .error : .warning, "\(warning)", metadata: ["id": "\(warning.subject.id)"])
        }
    }

    /// That a reload failed is a warning that comes again.
    private func lookAtReload(_ notAfter: Timestamp?, at now: Timestamp) {
        let last = self.lastReload()
        guard let alarm = self.state.withLock({ $0.reloadAlarm.due(last, notAfter: notAfter, at: now) }) else { return }
        var metadata: Logger.Metadata = ["reason": "\(alarm.reason)", "trigger": "\(last.trigger)", "failing_for": "\(alarm.failing) s"]
        if let notAfter { metadata["certificate_in_use_ends"] = "\(notAfter)" }
        self.logger.log(
            level: alarm.isCritical ? .critical : .error,
            "what is on disk cannot be loaded: no change of certificates, revocations or policy comes into use", metadata: metadata)
    }

    private static func expiring(in context: TLSContext) -> [Expiring] {
        var all: [Expiring] = []
        if let identity = context.identity {
            all.append(Expiring(.serverCertificate, identity.leaf))
            all += identity.intermediates.map { Expiring(.intermediate, $0) }
        }
        all += context.trustStore.anchors.map { Expiring(.trustAnchor, $0.certificate, name: $0.alias) }
        all += context.trustStore.revocationLists.map { Expiring($0) }
        return all
    }

    private func setDates(_ all: [Expiring]) {
        self.state.withLock { state in
            var dates: [String: Gauge] = [:]
            for subject in all where dates.count < Self.maximumSeries {
                let gauge = state.dates[subject.id] ?? Self.gauge(subject)
                gauge.record(subject.until.secondsSince1970)
                dates[subject.id] = gauge
            }
            for (id, gauge) in state.dates where dates[id] == nil { gauge.destroy() }
            state.dates = dates
        }
    }

    private static func gauge(_ subject: Expiring) -> Gauge {
        switch subject.kind {
        case .revocationList:
            Gauge(label: "mwstorage_revocation_list_next_update_timestamp_seconds", dimensions: [("issuer", subject.name)])
        default:
            Gauge(
                label: "mwstorage_trust_anchor_not_after_timestamp_seconds",
                dimensions: [("name", subject.name), ("sha256", String(subject.id.suffix(64)))])
        }
    }
}

extension SessionServer {
    /// The certificates of all open sessions, each once for each event loop.
    fileprivate func clientCertificates(on loop: any EventLoop) -> EventLoopFuture<[Expiring]> {
        let all = self.onEachLoop { sessions -> [Expiring] in
            var seen: Set<CertificateFingerprint> = []
            return sessions.sessions.compactMap { session in
                let principal = session.info.principal
                guard seen.insert(principal.fingerprint).inserted else { return nil }
                return Expiring(.clientCertificate, principal.certificate, name: principal.name)
            }
        }
        return EventLoopFuture.whenAllSucceed(all, on: loop).map { $0.flatMap(\.self) }
    }
}
