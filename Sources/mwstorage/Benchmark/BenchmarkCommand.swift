import ArgumentParser
import Glibc
import Histogram
import MWClient

/// `mwstorage benchmark`: a load generator for one's own server.
struct BenchmarkCommand: AsyncParsableCommand, CommandWithOutput {
    enum Kind: String, ExpressibleByArgument, CaseIterable {
        /// Reads keys that `fill` wrote, in random order.
        case get
        /// Writes the keys of `fill` anew, in random order; each is answered when it is durable.
        case put
        /// Both.
        case mixed
        /// Reads all keys, page after page, and over again.
        case scan
        /// Opens connections and closes them.
        case handshake
        /// Writes every key once.
        case fill
        /// Opens connections and holds them until standard input ends.
        case idle
        /// Does to the server what nobody should, until standard input ends: see its options.
        case attack
    }

    static let configuration = CommandConfiguration(
        commandName: "benchmark",
        abstract: "Load a server and measure it.",
        discussion: """
            fill       writes every key once: it goes before all that read
            get        reads random keys
            put        writes random keys; each put is answered when it is durable
            mixed      both, in the proportion of --read-share
            scan       reads all keys in pages, and over again (native protocol)
            handshake  opens TLS and WebSocket and closes them, --connections at a time; every handshake is a full one
            idle       opens connections and holds them until standard input ends
            attack     half-open handshakes, slow readers and bad certificates, until standard input ends

            The keys are 'benchmark;0' and so on; they stay there. Values are made from the key's number and --seed, and every reply is \
            compared with what it must be: one that is not counts as wrong, and the exit code is 1 (as with requests that failed).

            Latencies are microseconds. Without --rate they count from when a request was sent: as fast as --in-flight allows, which hides \
            how long requests would have waited while the server stalled. With --rate requests are due at an even rate, and latencies count \
            from then, also for those that found no room in flight and had to wait. Measure throughput without, latency with a rate that \
            the server can hold.

            generator_cpu_share is the processor time of the generator's own event loops: near their number, the generator and not the \
            server may be what was measured. late_us is how far behind its own schedule the generator was, the 99th percentile.

            SIGINT ends a run early, with what was measured until then.
            """)

    @Argument(help: "What to do, see above.")
    var kind: Kind

    @Option(help: "Connections to open.")
    var connections = 16

    @Option(help: "Requests in flight on each connection.")
    var inFlight = 1

    @Option(help: "Requests to measure, in all (default: 100000).")
    var requests: Int?

    @Option(help: ArgumentHelp("How long to measure, in place of --requests: 10s, 5m.", valueName: "span"))
    var duration: TimeSpan?

    @Option(
        help: ArgumentHelp(
            "How long to send requests before measuring begins (default: 2s with --duration, else 0s).", valueName: "span"))
    var warmUp: TimeSpan?

    @Option(help: "Requests a second over all connections, at an even rate (default: as fast as --in-flight allows).")
    var rate: Int?

    @Option(help: "How many different keys.")
    var keys = 10_000

    @Option(help: ArgumentHelp("Length of each value: 100, 64KiB.", valueName: "size"))
    var valueBytes = ByteSize(bytes: 1024)

    @Option(help: "Keys of one get or put.")
    var keysPerRequest = 1

    @Option(help: "Mixed: the share of gets, 0 to 1 (default: 0.9).")
    var readShare: Double?

    @Option(help: "Scan: entries of a page; the server's limits hold (default: 100).")
    var scanEntries: Int?

    @Option(help: "Decides values, and which keys in which order: the same seed, the same requests.")
    var seed: UInt64 = 1

    @Option(help: "Event loops of the generator, each on a thread of its own.")
    var loops = 1

    @Flag(inversion: .prefixedNo, help: "A line a second on standard error (default: if it is a terminal).")
    var progress: Bool?

    @OptionGroup(title: "Attack")
    var attack: AttackOptions

    @OptionGroup var speaking: ProtocolOptions

    @OptionGroup(title: "Connection")
    var connection: ConnectionOptions

    @OptionGroup var output: OutputOptions

    func validate() throws {
        try require(connections, in: 1...100_000, "--connections")
        try require(inFlight, in: 1...4096, "--in-flight")
        if let requests { try require(requests, in: 1...100_000_000_000, "--requests") }
        if let rate { try require(rate, in: 1...10_000_000, "--rate") }
        try require(keys, in: 1...1_000_000_000, "--keys")
        try require(keysPerRequest, in: 1...min(keys, 65_536), "--keys-per-request", "(as many as --keys)")
        try require(loops, in: 1...min(connections, 256), "--loops", "(as many as --connections)")
        guard (1...Self.maximumMessageBytes).contains(valueBytes.bytes) else {
            throw ValidationError("--value-bytes must be between 1 and 256MiB")
        }
        guard keysPerRequest * (valueBytes.bytes + LoadPlan.overheadBytes) <= Self.maximumMessageBytes else {
            throw ValidationError("--keys-per-request values of --value-bytes are over 256MiB: give less of one")
        }
        if let readShare {
            guard kind == .mixed else { throw ValidationError("--read-share is for mixed requests") }
            guard (0...1).contains(readShare) else { throw ValidationError("--read-share must be between 0 and 1") }
        }
        if let scanEntries {
            guard kind == .scan else { throw ValidationError("--scan-entries is for scans") }
            try require(scanEntries, in: 1...1_000_000, "--scan-entries")
        }
        if let duration {
            guard (1...86_400_000).contains(duration.milliseconds) else { throw ValidationError("--duration must be between 1ms and 1d") }
        }
        if let warmUp { try require(Int(warmUp.milliseconds), in: 0...3_600_000, "--warm-up", "ms (1h)") }
        try validateKind()
    }

    private func validateKind() throws {
        switch kind {
        case .fill:
            guard requests == nil, duration == nil, warmUp == nil || warmUp?.milliseconds == 0 else {
                throw ValidationError("fill writes each of --keys once: it takes no --requests, --duration or --warm-up")
            }
        case .scan:
            guard speaking.isNative else { throw ValidationError("scan needs the native protocol") }
            guard keysPerRequest == 1 else { throw ValidationError("--keys-per-request is for gets and puts") }
        case .handshake:
            guard keysPerRequest == 1 else { throw ValidationError("--keys-per-request is for gets and puts") }
            guard inFlight == 1 else {
                throw ValidationError("handshake does one at a time on each of --connections: it takes no --in-flight")
            }
        case .idle, .attack:
            guard requests == nil, duration == nil, warmUp == nil, rate == nil else {
                throw ValidationError(
                    "\(kind.rawValue) goes on until standard input ends: it takes no --requests, --duration, --warm-up or --rate")
            }
        case .get, .put, .mixed: break
        }
    }

    private static let maximumMessageBytes = 256 << 20

    private func require(_ value: Int, in range: ClosedRange<Int>, _ name: String, _ more: String = "") throws {
        guard !range.contains(value) else { return }
        let end = more.isEmpty ? "" : " \(more)"
        throw ValidationError("\(name) must be between \(range.lowerBound) and \(range.upperBound)\(end)")
    }

    func run() async throws {
        let settings = try await connection.settings()
        let target = try LoadTarget(settings, connection)
        if kind == .attack { return try await attack(target) }
        let timeout = try settings.value(.timeout, expected: "a span of time: 500ms, 30s, 5m", { TimeSpan(argument: $0) })
        let runner = LoadRunner(target: target, plan: plan(timeout: timeout ?? TimeSpan(.seconds(10))))
        if kind == .idle {
            return try await runner.hold { count in
                try Output.line("holding \(count)")
                Self.waitForInputEnd()
            }
        }
        let showsProgress = progress ?? Output.isErrorTerminal
        let line = LoadProgress(warmUpSeconds: Double(runner.plan.warmUp) / 1e9)
        let outcome = try await runner.run(progress: showsProgress ? line.note : nil)
        try Output.record(outcome.result.members, format: output.format ?? .text)
        for remark in outcome.result.remarks(runner.plan) { Output.note("mwstorage: \(remark)") }
        if outcome.result.tally.wrong > 0 || outcome.result.tally.failures > 0 { throw CommandFailure.silent(.no) }
        if let signal = outcome.signal { throw CommandFailure.silent(LoadRunner.status(of: signal)) }
    }

    private func plan(timeout: TimeSpan) -> LoadPlan {
        let measured = kind == .fill ? (keys + keysPerRequest - 1) / keysPerRequest : requests ?? 100_000
        return LoadPlan(
            kind: kind, isNative: speaking.isNative, connections: connections, inFlight: kind == .idle ? 0 : inFlight,
            extent: duration.map { .duration($0.duration.nanoseconds) } ?? .requests(measured),
            warmUp: (warmUp ?? TimeSpan(.seconds(duration == nil ? 0 : 2))).duration.nanoseconds, rate: rate,
            keys: LoadKeys(count: keys, seed: seed), valueBytes: valueBytes.bytes, keysPerRequest: keysPerRequest,
            readShare: readShare ?? 0.9, scanEntries: scanEntries ?? 100, loops: loops, timeout: timeout.duration.nanoseconds)
    }

    private func attack(_ target: LoadTarget) async throws {
        let plan = AttackPlan(
            halfOpen: attack.halfOpen, slowReaders: attack.slowReaders, badHandshakes: attack.badHandshakes, sources: attack.source)
        if plan.slowReaders > 0 {
            // What they ask for, and no key that others read.
            let value = [UInt8](repeating: UInt8(ascii: "v"), count: AttackPlan.slowValueBytes)
            try await connection.withClient { _ = try await $0.put([(key: Array(AttackPlan.slowKey.utf8), value: value)]) }
        }
        let counts = try await AttackRunner.run(plan, against: target) {
            try Output.line("attacking")
            Self.waitForInputEnd()
        }
        try Output.record(counts.members, format: output.format ?? .text)
    }

    private static func waitForInputEnd() {
        var byte: UInt8 = 0
        while unsafe Glibc.read(STDIN_FILENO, &byte, 1) > 0 {}
    }
}

/// The line a second.
struct LoadProgress: Sendable {
    let warmUpSeconds: Double

    /// - Parameter seconds: Since the start.
    @Sendable func note(_ interval: LoadTally, _ seconds: Double) {
        func microseconds(_ percentile: Double) -> String {
            "\(Int((Double(interval.latencies.valueAtPercentile(percentile)) / 1000).rounded()))"
        }
        let time = "\(Int(seconds.rounded())) s:"
        guard interval.requests > 0 || seconds > warmUpSeconds + 0.5 else { return Output.note("\(time) warming up") }
        var line = "\(time) \(interval.requests) requests, p50 \(microseconds(50)) us, p99 \(microseconds(99)) us"
        if interval.failures > 0 { line += ", \(interval.failures) failed" }
        if interval.wrong > 0 { line += ", \(interval.wrong) wrong" }
        Output.note(line)
    }
}
