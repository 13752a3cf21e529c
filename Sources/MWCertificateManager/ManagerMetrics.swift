internal import MWACME
internal import MWPKI
internal import Metrics

/// Names as Prometheus wants them; the only label is the code of a failure, of which there are as many as `ACMEError.Code` has.
struct ManagerMetrics: Sendable {
    private let notAfter = Gauge(label: "mwstorage_acme_certificate_not_after_timestamp_seconds")
    private let nextRenewal = Gauge(label: "mwstorage_acme_next_renewal_timestamp_seconds")
    private let nextCheck = Gauge(label: "mwstorage_acme_next_check_timestamp_seconds")
    private let lastSuccess = Gauge(label: "mwstorage_acme_last_success_timestamp_seconds")
    private let failuresInARow = Gauge(label: "mwstorage_acme_failures_in_a_row")
    private let windowIsSuspicious = Gauge(label: "mwstorage_acme_suspicious_window")
    private let attempts = Counter(label: "mwstorage_acme_attempts_total")
    private let issued = Counter(label: "mwstorage_acme_certificates_issued_total")
    private let installFailures = Counter(label: "mwstorage_acme_install_failures_total")

    func attempted() { attempts.increment() }

    func succeeded() { issued.increment() }

    func failed(_ code: ACMEError.Code) {
        Counter(label: "mwstorage_acme_failures_total", dimensions: [("code", code.name)]).increment()
    }

    func installFailed() { installFailures.increment() }

    /// What is so now; a time that is not known is 0.
    func show(_ current: StateDirectory.Numbered?, state: RenewalState, nextRenewal: Timestamp?, nextCheck: Timestamp?) {
        failuresInARow.record(state.attempts)
        self.nextRenewal.record(nextRenewal?.secondsSince1970 ?? 0)
        self.nextCheck.record(nextCheck?.secondsSince1970 ?? 0)
        notAfter.record(current?.generation.leaf.notAfter.secondsSince1970 ?? 0)
        lastSuccess.record(current?.generation.created.secondsSince1970 ?? 0)
        let isSuspicious = current.map { RenewalSchedule($0.generation).isWindowSuspicious($0.generation.renewal) } ?? false
        windowIsSuspicious.record(isSuspicious ? 1 : 0)
    }
}
