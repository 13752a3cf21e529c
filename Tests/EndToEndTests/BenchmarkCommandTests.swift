import Foundation
import TestCertificates
import Testing

/// `mwstorage benchmark` against a server: every kind, what it finds wrong, and how it ends.
@Suite("Benchmark")
struct BenchmarkCommandTests {
    private static let members: Set<String> = [
        "requests", "failures", "wrong", "seconds", "requests_per_second", "bytes_per_second", "p50_us", "p90_us", "p99_us", "p999_us",
        "maximum_us", "mean_us", "generator_cpu_us_per_request", "generator_cpu_share", "late_us",
    ]

    /// Runs it, with few connections and small values.
    private func run(
        _ server: ServerProcess, _ arguments: String..., status: Int32 = 0, sourceLocation: SourceLocation = #_sourceLocation
    ) async throws -> (numbers: [String: Double], errors: String) {
        let arguments = arguments.flatMap { $0.split(separator: " ").map(String.init) }
        let ended = try await server.run(
            ["benchmark"] + arguments + ["--connections", "4", "--keys", "50", "--value-bytes", "100", "-o", "json"])
        #expect(ended.status == status, "\(ended.errors)", sourceLocation: sourceLocation)
        let numbers = try JSONSerialization.jsonObject(with: Data(ended.output)) as? [String: Double] ?? [:]
        #expect(Set(numbers.keys) == Self.members, sourceLocation: sourceLocation)
        return (numbers, ended.errors)
    }

    @Test("every kind of request gets right answers", arguments: ["native", "mwdb"])
    func kinds(_ spoken: String) async throws {
        let server = try await ServerProcess()
        let spoken = "--protocol \(spoken)"
        let fill = try await run(server, "fill --in-flight 3", spoken)
        #expect(fill.numbers["requests"] == 50)
        #expect(try await server.run(["get", "benchmark;0", "benchmark;49"]).text.count == 202)
        for kind in ["get", "put", "mixed --read-share 0.5"] {
            for more in ["", "--in-flight 8 --loops 2", "--keys-per-request 7", "--rate 100000 --in-flight 2", "--warm-up 20ms"] {
                let result = try await run(server, kind, "--requests 101", spoken, more)
                #expect(result.numbers["requests"] == 101)
                #expect(result.numbers["failures"] == 0 && result.numbers["wrong"] == 0)
                #expect(result.numbers["bytes_per_second"] ?? 0 > 0)
            }
        }
        #expect(try await run(server, "fill --keys-per-request 8", spoken).numbers["requests"] == 7, "the last has two")
        let duration = try await run(server, "get --duration 100ms --warm-up 0s --rate 1000", spoken)
        #expect(duration.numbers["requests"] ?? 0 <= 100)
    }

    @Test("scans read everything, again and again")
    func scans() async throws {
        let server = try await ServerProcess()
        _ = try await run(server, "fill")
        // Somebody else's, among ours and behind them.
        #expect(try await server.run(["put", "benchmark;x", "x"]).status == 0)
        #expect(try await server.run(["put", "zebra", "x"]).status == 0)
        let result = try await run(server, "scan --scan-entries 7 --requests 200 --in-flight 2")
        #expect(result.numbers["requests"] == 200)
        #expect(try await server.run(["remove", "benchmark;23"]).status == 0)
        let wrong = try await run(server, "scan --scan-entries 7 --requests 200", status: 1)
        #expect(wrong.numbers["wrong"] ?? 0 > 0)
        #expect(wrong.errors.contains("in place of benchmark;23"), "\(wrong.errors)")
    }

    @Test("handshakes are counted one by one")
    func handshakes() async throws {
        let server = try await ServerProcess()
        let result = try await run(server, "handshake --requests 20 --loops 2")
        #expect(result.numbers["requests"] == 20)
        #expect(result.numbers["failures"] == 0)
        #expect(try await run(server, "handshake --requests 5 --protocol mwdb").numbers["requests"] == 5)
    }

    @Test("what is not what was written is wrong, and what to do about it is said")
    func wrong() async throws {
        let server = try await ServerProcess()
        let empty = try await run(server, "get --requests 40", status: 1)
        #expect(empty.numbers["wrong"] == 40)
        #expect(empty.errors.contains("is absent") && empty.errors.contains("mwstorage benchmark fill"), "\(empty.errors)")

        _ = try await run(server, "fill")
        let seed = try await run(server, "get --requests 40 --seed 2", status: 1)
        #expect(seed.numbers["wrong"] == 40)
        #expect(seed.errors.contains("--seed"))
        #expect(try await server.run(["put", "benchmark;23", "x"]).status == 0)
        let one = try await run(server, "get --requests 1000", status: 1)
        #expect((1...100).contains(one.numbers["wrong"] ?? 0))
        #expect(one.errors.contains("benchmark;23 has a value of 1 bytes"), "\(one.errors)")
    }

    @Test("SIGINT ends it, with what was measured until then")
    func interrupted() async throws {
        let server = try await ServerProcess()
        _ = try await run(server, "fill")
        // Progress and result in one stream, so that the first line can be waited for.
        let arguments = ["benchmark", "get", "--duration", "1h", "--warm-up", "0s", "--keys", "50", "--value-bytes", "100", "--progress"]
        let command = try StreamingCommand(
            ["-c", #"exec "$0" "$@" 2>&1"#, CommandProcess.path] + arguments + server.connection, program: "/bin/sh")
        let progress = try #require(await command.next())
        #expect(progress.contains("requests, p50"))
        command.send(SIGINT)
        let requests = try #require(await command.line(with: "requests:"))
        #expect(requests.split(separator: " ").last.flatMap { Int($0) } ?? 0 > 0)
        #expect(await command.waitUntilEnded() == 130)
    }

    @Test("at a rate, all that was due while the server stalled counts how long it waited")
    func stall() async throws {
        let server = try await ServerProcess()
        _ = try await run(server, "fill")
        let arguments = [
            "benchmark", "get", "--duration", "1h", "--warm-up", "0s", "--rate", "200", "--connections", "1", "--keys", "50",
            "--value-bytes", "100", "--progress",
        ]
        let command = try StreamingCommand(
            ["-c", #"exec "$0" "$@" 2>&1"#, CommandProcess.path] + arguments + server.connection, program: "/bin/sh")
        _ = try #require(await command.next())
        server.send(SIGSTOP)
        // A second without any answer: 200 requests, of which one was in flight and the others were due.
        #expect(await command.line(with: ": 0 requests") != nil)
        server.send(SIGCONT)
        command.send(SIGINT)
        let p99 = try #require(await command.line(with: "p99_us:"))
        #expect(p99.split(separator: " ").last.flatMap { Double($0) } ?? 0 > 500_000, "\(p99)")
    }

    @Test("a server that goes away in the middle is a failure")
    func serverGone() async throws {
        let server = try await ServerProcess()
        _ = try await run(server, "fill")
        let arguments = ["benchmark", "get", "--duration", "1h", "--warm-up", "0s", "--keys", "50", "--value-bytes", "100", "--progress"]
        let command = try StreamingCommand(
            ["-c", #"exec "$0" "$@" 2>&1"#, CommandProcess.path] + arguments + server.connection, program: "/bin/sh")
        _ = try #require(await command.next())
        server.send(SIGKILL)
        #expect(await command.line(with: "mwstorage:") != nil)
        #expect([69, 75].contains(await command.waitUntilEnded()))
    }

    @Test(
        "arguments that make no sense are refused, with what would",
        arguments: [
            ("get --connections 0", "--connections must be between 1 and 100000"),
            ("get --in-flight 5000", "--in-flight must be between 1 and 4096"),
            ("get --rate 0", "--rate must be between 1"),
            ("get --keys 5 --keys-per-request 6", "--keys-per-request must be between 1 and 5"),
            ("get --loops 17", "--loops must be between 1 and 16"),
            ("get --value-bytes 1GiB", "--value-bytes must be between 1 and 256MiB"),
            ("get --keys-per-request 1000 --value-bytes 1MiB", "over 256MiB"),
            ("get --read-share 0.5", "--read-share is for mixed"),
            ("mixed --read-share 1.5", "--read-share must be between 0 and 1"),
            ("get --scan-entries 5", "--scan-entries is for scans"),
            ("get --duration 10", "duration"),
            ("get --duration 0s", "--duration must be between"),
            ("fill --duration 10s", "it takes no --requests, --duration"),
            ("scan --protocol mwdb", "scan needs the native protocol"),
            ("handshake --in-flight 2", "it takes no --in-flight"),
            ("idle --rate 5", "until standard input ends"),
            ("watch", "kind"),
        ])
    func refusals(_ arguments: String, _ reason: String) async throws {
        let ended = try await CommandProcess.run(["benchmark"] + arguments.split(separator: " ").map(String.init))
        #expect(ended.status == 64)
        #expect(ended.errors.contains(reason), "\(ended.errors)")
    }
}
