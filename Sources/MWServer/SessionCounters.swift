internal import MWTLS
internal import Metrics

/// What one event loop counted since it was last published: plain integers, so that the hot path takes no lock.
package struct SessionCounters: Sendable {
    package var receivedBytes: UInt64 = 0
    package var sentBytes: UInt64 = 0
    /// Of the whole server, when this was published.
    package var connectionsOpen = 0
    package var connectionsAccepted: UInt64 = 0
    package var connectionsOpened: UInt64 = 0
    /// By ``SessionEnd/Cause``.
    package var connectionsClosed: [SessionEnd.Cause: UInt64] = [:]
    /// By outcome: `completed`, `acme_challenge`, or the code of the TLS error.
    package var handshakes: [String: UInt64] = [:]
    /// By HTTP status.
    package var openingsRefused: [Int: UInt64] = [:]
    package var openingsTimedOut: UInt64 = 0
    /// Of each admitted client's certificate.
    package var certificateRemainingSeconds: [Int64] = []
    /// Closed as soon as they were accepted.
    package var openingsShed: [Shed: UInt64] = [:]

    /// Why a connection was closed before anything of it was read.
    package enum Shed: String, Sendable, Hashable, CaseIterable {
        /// ``ServerLimits/maximumOpenings``
        case tooManyOpenings
        /// ``ServerLimits/maximumHandshakesPerSecond``
        case tooManyHandshakes
        /// ``ServerLimits/maximumHandshakesPerSecondAndAddress``
        case tooManyHandshakesOfAddress
    }

    package var getRequests: UInt64 = 0
    package var putRequests: UInt64 = 0
    package var removeRequests: UInt64 = 0
    package var prefixRequests: UInt64 = 0
    // Of the native protocol only.
    package var scanRequests: UInt64 = 0
    package var transactionRequests: UInt64 = 0
    /// Opened and closed.
    package var snapshotRequests: UInt64 = 0
    /// Opened, resumed and closed.
    package var sessionRequests: UInt64 = 0
    /// Granted, kept and revoked.
    package var leaseRequests: UInt64 = 0
    package var failedRequests: UInt64 = 0
    /// Beyond the rights of who asked; each of them failed too.
    package var deniedRequests: UInt64 = 0
    package var keysRead: UInt64 = 0
    package var forceReloadsSent: UInt64 = 0
    package var forceReloadsDeferred: UInt64 = 0
    /// Of the whole server, when this was published: open watches, and how far behind the slowest is, in revisions.
    package var watchesOpen = 0
    package var watchLag: UInt64 = 0
    /// Events of all kinds.
    package var watchEventsSent: UInt64 = 0
    /// Watches whose client took too little, and that went on from history.
    package var watchesLagged: UInt64 = 0
    /// Of these, those that ended because that did not help, and those that began anew with the state.
    package var watchesOverflowed: UInt64 = 0
    package var watchesResynced: UInt64 = 0
    /// Requests of this loop in each commit that told it of outcomes.
    package var commitBatches: UInt64 = 0
    package var commitBatchRequests: UInt64 = 0

    package init() {}

    /// Whether somebody asked for anything, or was told anything.
    var hasServed: Bool {
        let requests =
            getRequests | putRequests | removeRequests | prefixRequests | scanRequests | transactionRequests | snapshotRequests
            | sessionRequests | leaseRequests | failedRequests
        return requests | forceReloadsSent | watchEventsSent != 0
    }
}

/// The server's metrics: names as Prometheus wants them, no label without a bound.
///
/// Each event loop hands its ``SessionCounters`` over about twice a second.
struct ServerMetrics: Sendable {
    private let receivedBytes = Counter(label: "mwstorage_received_bytes_total")
    private let sentBytes = Counter(label: "mwstorage_sent_bytes_total")
    private let accepted = Counter(label: "mwstorage_connections_accepted_total")
    private let opened = Counter(label: "mwstorage_connections_opened_total")
    private let openingsTimedOut = Counter(label: "mwstorage_openings_timed_out_total")
    private let get = Counter(label: "mwstorage_requests_total", dimensions: [("type", "get")])
    private let put = Counter(label: "mwstorage_requests_total", dimensions: [("type", "put")])
    private let remove = Counter(label: "mwstorage_requests_total", dimensions: [("type", "remove")])
    private let prefix = Counter(label: "mwstorage_requests_total", dimensions: [("type", "prefix")])
    private let scan = Counter(label: "mwstorage_requests_total", dimensions: [("type", "scan")])
    private let transaction = Counter(label: "mwstorage_requests_total", dimensions: [("type", "transaction")])
    private let snapshot = Counter(label: "mwstorage_requests_total", dimensions: [("type", "snapshot")])
    private let session = Counter(label: "mwstorage_requests_total", dimensions: [("type", "session")])
    private let lease = Counter(label: "mwstorage_requests_total", dimensions: [("type", "lease")])
    private let failed = Counter(label: "mwstorage_requests_failed_total")
    private let denied = Counter(label: "mwstorage_requests_denied_total")
    private let keysRead = Counter(label: "mwstorage_keys_read_total")
    private let forceReloads = Counter(label: "mwstorage_force_reloads_total")
    private let forceReloadsDeferred = Counter(label: "mwstorage_force_reloads_deferred_total")
    private let commitBatches = Counter(label: "mwstorage_commit_batches_total")
    private let commitBatchRequests = Counter(label: "mwstorage_commit_batch_requests_total")
    private let watches = Gauge(label: "mwstorage_watches")
    private let watchLag = Gauge(label: "mwstorage_watch_lag_revisions")
    private let watchEvents = Counter(label: "mwstorage_watch_events_total")
    private let watchesLagged = Counter(label: "mwstorage_watches_lagged_total")
    private let watchesOverflowed = Counter(label: "mwstorage_watches_overflowed_total")
    private let watchesResynced = Counter(label: "mwstorage_watches_resynced_total")
    private let clientRemaining = Recorder(label: "mwstorage_client_certificate_remaining_seconds", aggregate: true)
    private let connections = Gauge(label: "mwstorage_connections")
    private let certificateExpiry = Gauge(label: "mwstorage_server_certificate_not_after_timestamp_seconds")
    private let reloadsDone = Counter(label: "mwstorage_reloads_total", dimensions: [("outcome", "done")])
    private let reloadsFailed = Counter(label: "mwstorage_reloads_total", dimensions: [("outcome", "failed")])
    private let reloadFailed = Gauge(label: "mwstorage_reload_failed")
    private let lastReloadSuccess = Gauge(label: "mwstorage_reload_last_success_timestamp_seconds")
    private let lastReloadFailure = Gauge(label: "mwstorage_reload_last_failure_timestamp_seconds")

    func publish(_ counters: SessionCounters) {
        self.connections.record(counters.connectionsOpen)
        self.receivedBytes.add(counters.receivedBytes)
        self.sentBytes.add(counters.sentBytes)
        self.accepted.add(counters.connectionsAccepted)
        self.opened.add(counters.connectionsOpened)
        self.openingsTimedOut.add(counters.openingsTimedOut)
        self.get.add(counters.getRequests)
        self.put.add(counters.putRequests)
        self.remove.add(counters.removeRequests)
        self.prefix.add(counters.prefixRequests)
        self.scan.add(counters.scanRequests)
        self.transaction.add(counters.transactionRequests)
        self.snapshot.add(counters.snapshotRequests)
        self.session.add(counters.sessionRequests)
        self.lease.add(counters.leaseRequests)
        self.failed.add(counters.failedRequests)
        self.denied.add(counters.deniedRequests)
        self.keysRead.add(counters.keysRead)
        self.forceReloads.add(counters.forceReloadsSent)
        self.forceReloadsDeferred.add(counters.forceReloadsDeferred)
        self.commitBatches.add(counters.commitBatches)
        self.commitBatchRequests.add(counters.commitBatchRequests)
        self.watches.record(counters.watchesOpen)
        self.watchLag.record(Int64(clamping: counters.watchLag))
        self.watchEvents.add(counters.watchEventsSent)
        self.watchesLagged.add(counters.watchesLagged)
        self.watchesOverflowed.add(counters.watchesOverflowed)
        self.watchesResynced.add(counters.watchesResynced)
        for seconds in counters.certificateRemainingSeconds { self.clientRemaining.record(seconds) }
        // Rare, and bounded by the causes, codes and statuses there are.
        for (cause, count) in counters.connectionsClosed {
            Counter(label: "mwstorage_connections_closed_total", dimensions: [("cause", cause.rawValue)]).add(count)
        }
        for (reason, count) in counters.openingsShed {
            Counter(label: "mwstorage_openings_shed_total", dimensions: [("reason", reason.rawValue)]).add(count)
        }
        for (outcome, count) in counters.handshakes {
            Counter(label: "mwstorage_handshakes_total", dimensions: [("outcome", outcome)]).add(count)
        }
        for (status, count) in counters.openingsRefused {
            Counter(label: "mwstorage_openings_refused_total", dimensions: [("status", "\(status)")]).add(count)
        }
    }

    func reloaded(isDone: Bool, at secondsSince1970: Int64) {
        (isDone ? self.reloadsDone : self.reloadsFailed).increment()
        guard !isDone else { return self.loaded(at: secondsSince1970) }
        self.reloadFailed.record(1)
        self.lastReloadFailure.record(secondsSince1970)
    }

    /// What is on disk is in use; at the start too.
    func loaded(at secondsSince1970: Int64) {
        self.reloadFailed.record(0)
        self.lastReloadSuccess.record(secondsSince1970)
    }

    func certificateLoaded(notAfter secondsSince1970: Int64) { self.certificateExpiry.record(secondsSince1970) }
}

extension Counter {
    fileprivate func add(_ count: UInt64) {
        if count > 0 { self.increment(by: Int64(clamping: count)) }
    }
}
