import ArgumentParser
import Glibc
import Histogram
import MWPKI
import MWTLS

/// The load of `scripts/bench watch`: the same measuring code with the same TLS on the same thread for us and for Redis.
@main
struct BenchCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "mwstorage-bench", abstract: "Measures how long a write takes to reach the first and the last of many watchers.")

    @Option var dialect: Dialect
    @Option var host = "localhost"
    @Option var port: Int
    @Option var watchers = 1
    @Option var rounds = 1_000
    @Option var valueBytes = 1_024
    @Option var certificate: String
    @Option var key: String
    @Option var trust: String
    /// For a processor of its own: it never sleeps while it waits.
    @Flag var polls = false

    func run() throws {
        let source = TLSMaterialSource.pem(certificateChainFile: certificate, privateKeyFile: key, trustFile: trust)
        guard let name = ServerName(host) else { throw ValidationError("'\(host)' is not a name or address") }
        let context = try TLSContext(client: try source.load(), verification: .name(name), policy: TLSPolicy())
        let plan = WatchBench.Plan(
            dialect: dialect, host: host, port: port, watchers: watchers, rounds: rounds, warmUpRounds: max(10, rounds / 10),
            valueBytes: valueBytes, isPolling: polls)
        // A connection that has ended is an error of its next write.
        _ = signal(SIGPIPE, SIG_IGN)
        var bench = try WatchBench(plan, context)
        let result = try bench.run()
        func us(_ histogram: Histogram<UInt32>, _ percentile: Double) -> String {
            "\((Double(histogram.valueAtPercentile(percentile)) / 100).rounded() / 10)"
        }
        print(
            us(result.first, 50), us(result.first, 99), us(result.last, 50), us(result.last, 99), us(result.written, 50),
            us(result.written, 99), result.cpuMicroseconds, result.cpuShare)
    }
}
