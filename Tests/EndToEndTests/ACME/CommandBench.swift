import ACMEPeers
import Foundation
import MWACME
import MWCertificateManager
import MWPKI
import TestCertificates

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

    /// - Parameter names: DNS names; the CA finds them here.
    init(_ pebble: Pebble, _ names: [String], challenge: String = "http-01", address: String = Loopback.uniqueAddress()) throws {
        home = try TemporaryDirectory()
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

    /// What comes after `mwstorage acme`.
    func arguments(_ verb: String) -> [String] {
        let authority = ["--directory", directoryURL, "--ca-file", trustFile, "--state", statePath]
        switch verb {
        case "issue", "renew":
            return [verb] + authority + ["--agree-to-terms", "--challenge", challenge] + listener + names.flatMap { ["--name", $0] }
        case "status": return [verb, "--state", statePath]
        case "register": return [verb] + authority + ["--agree-to-terms"]
        default: return [verb] + authority
        }
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
    /// - Returns: Whether it was killed before its end.
    func runUntilKilled(_ verb: String, afterLines lines: Int) async throws -> Bool {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: CommandProcess.path)
        process.arguments = ["acme"] + arguments(verb)
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
        await withCheckedContinuation { continuation in
            Thread.detachNewThread {
                var seen = 0
                while seen < lines, let more = try? handle.read(upToCount: 1), !more.isEmpty {
                    if more.first == UInt8(ascii: "\n") { seen += 1 }
                }
                if seen >= lines { kill(identifier, SIGKILL) }
                // So that it does not wait for somebody to read.
                while let more = try? handle.read(upToCount: 4096), !more.isEmpty {}
                continuation.resume()
            }
        }
        for await wasKilled in ends { return wasKilled }
        return false
    }
}
