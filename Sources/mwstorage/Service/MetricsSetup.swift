import MWPKI
import MWPrometheus
import MWProtocol
import MWServer
import Metrics

/// The metrics of a server process.
enum MetricsSetup {
    /// Makes this process's metrics go into the registry that is returned; once, before anything counts.
    static func bootstrap(engine: String) -> PrometheusRegistry {
        let registry = PrometheusRegistry(
            help: ServerMetricNames.help.merging(ProcessMetrics.help) { $1 }, buckets: ServerMetricNames.buckets)
        MetricsSystem.bootstrap(registry)
        ProcessMetrics.install(in: registry)
        Gauge(
            label: "mwstorage_build_info",
            dimensions: [("version", softwareVersion), ("openssl", OpenSSL.version), ("engine", engine)]
        ).record(1)
        return registry
    }
}
