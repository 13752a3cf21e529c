import MWPKI
import MWPrometheus
import MWProtocol
import MWServer
import Metrics

/// The metrics of a server process.
enum MetricsSetup {
    private static let helpOfACME: [String: String] = [
        "mwstorage_acme_attempts_total": "Attempts to get a certificate.",
        "mwstorage_acme_certificate_not_after_timestamp_seconds": "End of the certificate that ACME got, in seconds since 1970.",
        "mwstorage_acme_certificates_issued_total": "Certificates that were issued.",
        "mwstorage_acme_failures_in_a_row": "Failed attempts since the last that succeeded.",
        "mwstorage_acme_failures_total": "Attempts that failed.",
        "mwstorage_acme_install_failures_total": "Certificates that were issued and could not be put into use.",
        "mwstorage_acme_last_success_timestamp_seconds": "When a certificate was last issued, in seconds since 1970.",
        "mwstorage_acme_next_check_timestamp_seconds": "When the CA is asked next whether to renew, in seconds since 1970.",
        "mwstorage_acme_next_renewal_timestamp_seconds": "When the certificate will be renewed, in seconds since 1970.",
        "mwstorage_acme_suspicious_window": "1 if the CA suggests a renewal at an unlikely time, else 0.",
    ]

    /// Makes this process's metrics go into the registry that is returned; once, before anything counts.
    static func bootstrap(engine: String) -> PrometheusRegistry {
        let registry = PrometheusRegistry(
            help: ServerMetricNames.help.merging(ProcessMetrics.help) { $1 }.merging(helpOfACME) { $1 }, buckets: ServerMetricNames.buckets)
        MetricsSystem.bootstrap(registry)
        ProcessMetrics.install(in: registry)
        Gauge(
            label: "mwstorage_build_info",
            dimensions: [("version", softwareVersion), ("openssl", OpenSSL.version), ("engine", engine)]
        ).record(1)
        return registry
    }
}
