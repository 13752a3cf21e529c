import ACMEPeers
import MWACME
import MWCertificateManager
import MWPKI
import TestCertificates
import Testing

/// `mwstorage acme …` as a process of its own, against a pebble, with a state directory, a name and an address of one test.
struct ACMECommandBench: Sendable {
    let pebble: Pebble
    let directory: TemporaryDirectory
    let name: String
    let address: String

    init(_ name: String, pebble: Pebble? = nil) async throws {
        if let pebble { self.pebble = pebble } else { self.pebble = try await Pebble.shared() }
        self.name = name
        directory = try TemporaryDirectory()
        address = Loopback.uniqueAddress()
        try self.pebble.dns.setAddresses([address], of: name)
    }

    var stateDirectory: String { directory.file("acme") }
    var state: StateDirectory { StateDirectory(path: stateDirectory) }

    var authority: [String] {
        ["--state", stateDirectory, "--directory", pebble.directoryURL, "--ca-file", pebble.trustFile, "--agree-to-terms"]
    }

    /// http-01 on the address of the name.
    var certificate: [String] {
        ["--name", name, "--challenge", "http-01", "--http-listen", "\(address):\(pebble.httpPort)"]
    }

    func acme(_ arguments: [String], input: [UInt8] = []) async throws -> CommandProcess.Ended {
        try await CommandProcess.run(["acme"] + arguments, input: input)
    }

    func issue(_ more: [String] = []) async throws -> CommandProcess.Ended { try await acme(["issue"] + authority + certificate + more) }

    /// What `acme status` says; and its exit code.
    func status(_ more: [String] = []) async throws -> (document: JSONValue, exit: Int32) {
        let ended = try await acme(["status", "--state", stateDirectory, "-o", "json"] + more)
        return (try ended.document, ended.status)
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
