import ACMEPeers
import Foundation
import MWACME
import MWCertificateManager
import MWPKI
import TestCertificates
import Testing

/// `mwstorage acme …` as an operator types it: a state of its own, and an address of its own where the CA's DNS has its names.
struct CommandBench: Sendable {
    let home: TemporaryDirectory
    let address: String
    let directoryURL: String
    let trustFile: String
    var names: [String]
    var challenge = "http-01"
    /// Where it answers, if the CA looks there.
    var listener: [String]
    /// What the command is run by, as in another network.
    var prefix: [String] = []

    /// - Parameters:
    ///   - names: DNS names; the CA finds them here.
    ///   - home: Another bench's, with its state.
    init(
        _ pebble: Pebble, _ names: [String], challenge: String = "http-01", address: String = Loopback.uniqueAddress(),
        home: TemporaryDirectory? = nil
    ) throws {
        self.home = try home ?? TemporaryDirectory()
        self.address = address
        (directoryURL, trustFile, self.names, self.challenge) = (pebble.directoryURL, pebble.trustFile, names, challenge)
        let host = address.contains(":") ? "[\(address)]" : address
        listener =
            challenge == "http-01" ? ["--http-listen", "\(host):\(pebble.httpPort)"] : ["--tls-listen", "\(host):\(pebble.tlsPort)"]
        for name in names where Identifier(name).map({ if case .dns = $0 { true } else { false } }) == true {
            try pebble.dns.setAddresses([address], of: name)
        }
    }

    init(_ caddy: Caddy, challenge: String) throws {
        home = try TemporaryDirectory()
        address = "127.0.0.1"
        (directoryURL, trustFile, names, self.challenge) = (Caddy.directoryURL, caddy.trustFile, ["localhost"], challenge)
        listener = challenge == "http-01" ? ["--http-listen", "127.0.0.1:80"] : ["--tls-listen", "127.0.0.1:443"]
        prefix = try caddy.inside([])
    }

    var statePath: String { home.file("state") }
    var state: StateDirectory { StateDirectory(path: statePath) }

    func generation() throws -> CertificateGeneration? { try state.load().current?.generation }

    /// Which CA and state; agreed at the end.
    var authority: [String] { ["--directory", directoryURL, "--ca-file", trustFile, "--state", statePath, "--agree-to-terms"] }

    /// Which names, proved how.
    var certificate: [String] { ["--challenge", challenge] + listener + names.flatMap { ["--name", $0] } }

    /// What comes after `mwstorage acme`.
    func arguments(_ verb: String) -> [String] {
        switch verb {
        case "issue", "renew": [verb] + authority + certificate
        case "status": [verb, "--state", statePath]
        default: [verb] + authority
        }
    }

    /// All that comes after `mwstorage acme`, as the test says.
    func acme(_ arguments: [String], input: [UInt8] = []) async throws -> CommandProcess.Ended {
        try await CommandProcess.run(["acme"] + arguments, input: input)
    }

    func issue(_ more: [String] = []) async throws -> CommandProcess.Ended { try await acme(arguments("issue") + more) }

    /// What `acme status` says; and its exit code.
    func status(_ more: [String] = []) async throws -> (document: JSONValue, exit: Int32) {
        let ended = try await acme(arguments("status") + ["-o", "json"] + more)
        return (try ended.document, ended.status)
    }

    func run(_ verb: String, _ more: [String] = [], program: [String] = [], environment: [String: String] = [:]) async throws
        -> CommandProcess.Ended
    {
        let words = prefix + program + [CommandProcess.path, "acme"] + arguments(verb) + more
        return try await CommandProcess.run(
            Array(words.dropFirst()), program: words[0], environment: ["PATH": "/usr/bin:/bin:/usr/sbin:/sbin"].merging(environment) { $1 },
            home: home)
    }

    /// Starts it, and kills it with SIGKILL once it has said `lines` lines about what it is doing.
    ///
    /// - Parameter meanwhile: Happens before the kill, when all these lines were said.
    /// - Returns: Whether it was killed before its end.
    func runUntilKilled(
        _ verb: String, afterLines lines: Int, _ more: [String] = [], meanwhile: (() async throws -> Void)? = nil
    ) async throws -> Bool {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: CommandProcess.path)
        process.arguments = ["acme"] + arguments(verb) + more
        process.environment = CommandProcess.environment(home: home)
        let errors = Pipe()
        process.standardInput = FileHandle.nullDevice
        process.standardOutput = FileHandle.nullDevice
        process.standardError = errors
        let (ends, end) = AsyncStream<Bool>.makeStream()
        process.terminationHandler = {
            end.yield($0.terminationReason == .uncaughtSignal)
            end.finish()
        }
        try process.run()
        let identifier = process.processIdentifier
        let handle = errors.fileHandleForReading
        let isToBeKilledAtOnce = meanwhile == nil
        let isThere = await withCheckedContinuation { continuation in
            Thread.detachNewThread {
                var seen = 0
                while seen < lines, let more = try? handle.read(upToCount: 1), !more.isEmpty {
                    if more.first == UInt8(ascii: "\n") { seen += 1 }
                }
                if seen >= lines, isToBeKilledAtOnce { kill(identifier, SIGKILL) }
                continuation.resume(returning: seen >= lines)
                // So that it does not wait for somebody to read.
                while let more = try? handle.read(upToCount: 4096), !more.isEmpty {}
                try? handle.close()
            }
        }
        if isThere, let meanwhile {
            defer { if process.isRunning { kill(identifier, SIGKILL) } }
            try await meanwhile()
        }
        for await wasKilled in ends { return wasKilled }
        return false
    }
}

extension CommandProcess.Ended {
    /// The JSON on standard output.
    var document: JSONValue { get throws { try JSONValue(parsing: output) } }

    /// The error's JSON: the last line of standard error, after the steps.
    var failure: JSONValue {
        get throws {
            let line = try #require(errors.split(separator: "\n").last { $0.contains("\"error\"") })
            return try JSONValue(parsing: Array(line.utf8))
        }
    }
}
