import Histogram

/// What to do to a server.
struct LoadPlan: Sendable {
    var kind: BenchmarkCommand.Kind
    var connections: Int
    /// Requests in flight on each connection.
    var inFlight: Int
    /// In all, warm-up not counted.
    var requests: Int
    var valueBytes: Int
    var keys: Int

    /// Answers that each connection waits for before it counts: caches and congestion windows have settled by then.
    var warmUpRequests: Int { kind == .fill ? 0 : min(requests / max(connections, 1) / 5, 1000) }

    /// Requests of connection number `index`, warm-up not counted; `requests` in all.
    func share(of index: Int) -> Int {
        requests / connections + (index < requests % connections ? 1 : 0)
    }
}

/// What came of it.
struct LoadResult: Sendable {
    var requests: Int
    var seconds: Double
    /// Requests that the server answered as failed, or with something else than was put.
    var failures: Int
    /// User and system time of this process.
    var clientCPUSeconds: Double
    var latencies: Histogram<UInt32>

    /// Latencies in nanoseconds, from 1 us to 10 s, three digits.
    static func emptyLatencies() -> Histogram<UInt32> {
        Histogram<UInt32>(lowestDiscernibleValue: 1000, highestTrackableValue: 10_000_000_000, numberOfSignificantValueDigits: .three)
    }

    var members: [(String, JSONValue)] {
        func microseconds(_ percentile: Double) -> JSONValue {
            .number((Double(latencies.valueAtPercentile(percentile)) / 100).rounded() / 10)
        }
        return [
            ("requests", .integer(Int64(requests))), ("failures", .integer(Int64(failures))),
            ("seconds", .number((seconds * 1000).rounded() / 1000)),
            ("requests_per_second", .number((Double(requests) / max(seconds, 1e-9)).rounded())),
            ("p50_us", microseconds(50)), ("p99_us", microseconds(99)), ("p999_us", microseconds(99.9)),
            ("client_cpu_us_per_request", .number((clientCPUSeconds / Double(max(requests, 1)) * 1e8).rounded() / 100)),
        ]
    }
}
