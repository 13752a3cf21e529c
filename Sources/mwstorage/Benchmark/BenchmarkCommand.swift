import ArgumentParser
import Glibc

/// `mwstorage benchmark`: a load generator for one's own server.
struct BenchmarkCommand: AsyncParsableCommand, CommandWithOutput {
    enum Kind: String, ExpressibleByArgument, CaseIterable {
        /// Reads keys that `fill` wrote, in random order.
        case get
        /// Writes the keys of `fill` anew, in random order; each is answered when it is durable.
        case put
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
            Writes keys of the form 'benchmark;N' and leaves them there. 'fill' goes before 'get'. Latencies are measured from the moment \
            a request is handed to its connection; our own CPU time is reported, so that a busy generator is not taken for a slow server.
            """)

    @Argument(help: "get, put, fill, idle or attack.")
    var kind: Kind

    @Option(help: "Connections to open.")
    var connections = 16

    @Option(help: "Requests in flight on each connection.")
    var inFlight = 1

    @Option(help: "Requests to send in all, warm-up not counted.")
    var requests = 100_000

    @Option(help: "Length of each value.")
    var valueBytes = ByteSize(bytes: 1024)

    @Option(help: "How many different keys.")
    var keys = 10_000

    @OptionGroup(title: "Attack")
    var attack: AttackOptions

    @OptionGroup(title: "Connection")
    var connection: ConnectionOptions

    @OptionGroup var output: OutputOptions

    func validate() throws {
        guard (1...100_000).contains(connections) else { throw ValidationError("--connections must be between 1 and 100000") }
        guard (1...4096).contains(inFlight) else { throw ValidationError("--in-flight must be between 1 and 4096") }
        guard requests > 0, keys > 0, keys <= 100_000_000 else { throw ValidationError("--requests and --keys must be positive") }
        guard (1...(8 << 20)).contains(valueBytes.bytes) else { throw ValidationError("--value-bytes must be between 1 and 8MiB") }
    }

    func run() async throws {
        let settings = try await connection.settings()
        let target = try LoadTarget(settings, passphrase: connection.passphrase)
        if kind == .attack {
            let plan = AttackPlan(
                halfOpen: attack.halfOpen, slowReaders: attack.slowReaders, badHandshakes: attack.badHandshakes, sources: attack.source)
            let counts = try await AttackRunner.run(plan, against: target) {
                try Output.line("attacking")
                var byte: UInt8 = 0
                while unsafe Glibc.read(STDIN_FILENO, &byte, 1) > 0 {}
            }
            return try Output.record(counts.members, format: output.format ?? .text)
        }
        let generator = LoadGenerator(
            target: target,
            plan: LoadPlan(
                kind: kind, connections: connections, inFlight: kind == .idle ? 0 : inFlight,
                requests: kind == .fill ? keys : requests, valueBytes: valueBytes.bytes, keys: keys))
        if kind == .idle {
            try await generator.hold { count in
                try Output.line("holding \(count)")
                var byte: UInt8 = 0
                while unsafe Glibc.read(STDIN_FILENO, &byte, 1) > 0 {}
            }
            return
        }
        let result = try await generator.run()
        try Output.record(result.members, format: output.format ?? .text)
    }
}
