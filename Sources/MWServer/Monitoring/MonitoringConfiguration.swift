/// Where a server says how it is, and what it measures: `/metrics` in Prometheus' text format, `/livez` and `/readyz`.
///
/// On loopback addresses it is plain HTTP, for a probe or collector on the same machine, which has no certificate to show. Every other
/// address speaks mutual TLS with the server's own certificate and trust, and answers only who has, when the answer is made, the right `read`
/// or `administer` over all keys. Nothing turns that off.
public struct MonitoringConfiguration: Sendable {
    /// Where to listen.
    public var addresses: [ListenAddress]
    /// What `/metrics` answers, in Prometheus' text format 0.0.4; called for each scrape, on the listener's own thread.
    public var metrics: @Sendable () -> String

    /// Loopback, on the first port that Prometheus' list of exporters leaves to own programs.
    public static let localhost = ListenAddress(host: "localhost", port: 9464)

    /// - Parameter metrics: The whole exposition.
    public init(addresses: [ListenAddress] = [Self.localhost], metrics: @escaping @Sendable () -> String) {
        self.addresses = addresses
        self.metrics = metrics
    }
}
