import Histogram

/// What was measured, of one event loop or of all.
struct LoadTally: Sendable {
    /// Answered, however.
    var requests = 0
    /// Of them, refused or not done.
    var failures = 0
    /// Of them, answered with something else than was written.
    var wrong = 0
    /// Bytes of values that were read or written.
    var bytes = 0
    /// Due before the end, and never sent: there was no room. They are in the latencies with how long they had waited, and nowhere else.
    var unsent = 0
    /// Nanoseconds.
    var latencies = LoadTally.emptyHistogram()
    /// Nanoseconds from when a request was due until the generator took notice.
    var lateness = LoadTally.emptyHistogram()

    /// The longest latency that is told apart, in nanoseconds: 1,000 s.
    private static let maximumLatency: UInt64 = 1_000_000_000_000

    /// From 0.1 us to ``maximumLatency``, three digits.
    private static func emptyHistogram() -> Histogram<UInt32> {
        Histogram<UInt32>(lowestDiscernibleValue: 100, highestTrackableValue: maximumLatency, numberOfSignificantValueDigits: .three)
    }

    @inline(__always)
    mutating func recordLatency(_ nanoseconds: UInt64) { latencies.record(min(nanoseconds, Self.maximumLatency)) }

    @inline(__always)
    mutating func recordLateness(_ nanoseconds: UInt64) { lateness.record(min(nanoseconds, Self.maximumLatency)) }

    mutating func add(_ other: LoadTally) {
        requests += other.requests
        failures += other.failures
        wrong += other.wrong
        bytes += other.bytes
        unsent += other.unsent
        latencies.add(other.latencies)
        lateness.add(other.lateness)
    }
}

/// What a run came to.
struct LoadResult: Sendable {
    var tally = LoadTally()
    /// From the end of the warm-up to the last answer.
    var seconds = 0.0
    /// Processor time of the event loops meanwhile.
    var cpuSeconds = 0.0
    var firstFailure: String?
    var firstWrong: String?
    /// A value was not there at all.
    var isValueMissing = false

    var requestsPerSecond: Double { Double(tally.requests) / max(seconds, 1e-9) }

    /// Of one processor.
    var cpuShare: Double { cpuSeconds / max(seconds, 1e-9) }

    var members: [(String, JSONValue)] {
        [
            ("requests", .integer(Int64(tally.requests))), ("failures", .integer(Int64(tally.failures))),
            ("wrong", .integer(Int64(tally.wrong))), ("seconds", Self.rounded(seconds, 1000)),
            ("requests_per_second", Self.rounded(requestsPerSecond, 1)),
            ("bytes_per_second", Self.rounded(Double(tally.bytes) / max(seconds, 1e-9), 1)),
            ("p50_us", percentile(50)), ("p90_us", percentile(90)), ("p99_us", percentile(99)), ("p999_us", percentile(99.9)),
            ("maximum_us", Self.microseconds(Double(tally.latencies.maxRecorded))),
            ("mean_us", Self.microseconds(tally.latencies.totalCount > 0 ? tally.latencies.mean : 0)),
            ("generator_cpu_us_per_request", Self.rounded(cpuSeconds / Double(max(tally.requests, 1)) * 1e6, 100)),
            ("generator_cpu_share", Self.rounded(cpuShare, 100)),
            ("late_us", Self.microseconds(Double(tally.lateness.valueAtPercentile(99)))),
        ]
    }

    private func percentile(_ percentile: Double) -> JSONValue {
        Self.microseconds(Double(tally.latencies.valueAtPercentile(percentile)))
    }

    private static func microseconds(_ nanoseconds: Double) -> JSONValue { rounded(nanoseconds / 1000, 10) }

    private static func rounded(_ value: Double, _ parts: Double) -> JSONValue { .number((value * parts).rounded() / parts) }

    // MARK: What the numbers do not say

    /// From this share of its event loops' time on, the generator may be what was measured.
    static let busyShare = 0.9
    /// Below this share of the rate that was asked for, it was not held.
    private static let heldShare = 0.99

    /// For people, one a line.
    func remarks(_ plan: LoadPlan) -> [String] {
        var remarks: [String] = []
        if tally.wrong > 0 {
            remarks.append("\(tally.wrong) replies are not what was written\(firstWrong.map { ", the first: \($0)" } ?? "")")
            if isValueMissing {
                remarks.append("to mend it: run 'mwstorage benchmark fill' first, with the same --keys, --value-bytes and --seed")
            } else {
                remarks.append("to mend it, if the store was filled otherwise: fill it with the same --value-bytes and --seed")
            }
        }
        if tally.failures > 0 {
            remarks.append("\(tally.failures) requests failed\(firstFailure.map { ", the first: \($0)" } ?? "")")
        }
        if cpuShare >= Self.busyShare * Double(plan.loops) {
            remarks.append(
                "the generator used \(Self.rounded(cpuShare, 100).text) of its \(plan.loops) event loops: it, and not the server, may be "
                    + "what was measured (more --loops, if there are processors for them)")
        }
        if let rate = plan.rate, requestsPerSecond < Double(rate) * Self.heldShare, tally.requests > 0 {
            remarks.append("the rate was not held: \(Self.rounded(requestsPerSecond, 1).text) a second in place of \(rate)")
        }
        if tally.unsent > 0 {
            remarks.append("\(tally.unsent) requests were due and found no room; the latencies have how long they waited until the end")
        }
        return remarks
    }
}
