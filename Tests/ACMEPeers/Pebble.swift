internal import Foundation
internal import MWACME
package import MWPKI
internal import Synchronization
internal import TestCertificates

/// The CA pebble, of Debian, with a DNS of its own. It keeps everything in memory: started again, it has forgotten all.
package final class Pebble: Sendable {
    package struct Configuration: Sendable {
        package var nonceRejectPercent = 0
        /// How often a valid authorization is used again for another order.
        package var authorizationReusePercent = 0
        package var alternateRoots = 0
        /// Certificates between the root and the leaf.
        package var chainLength = 1
        /// Of the certificates it issues; nil is five years.
        package var validitySeconds: Int?
        /// Key identifier to MAC key in base64url. Where there is one, all accounts need a binding.
        package var externalAccountKeys: [String: String] = [:]
        package var blockedNames = ["blocked-domain.example"]
        package var isStrict = false
        /// Looks at no challenge.
        package var alwaysValid = false

        package init() {}
    }

    package let configuration: Configuration
    package let dns: ChallengeTestServer
    /// Where it looks for answers of http-01, at whatever address the name has.
    package let httpPort: Int
    package let tlsPort: Int
    private let port: Int
    private let managementPort: Int
    private let directory: String
    private let process: Mutex<PeerProcess>

    /// For all tests that need nothing special: names and addresses are to be theirs alone.
    package static func shared() async throws -> Pebble { try await sharedTask.value }
    private static let sharedTask = Task { try await start() }

    private static let attempts = 5

    /// Starts one; it ends with the last reference.
    package static func start(_ change: (inout Configuration) -> Void = { _ in }) async throws -> Pebble {
        var configuration = Configuration()
        change(&configuration)
        let dns = try await ChallengeTestServer.start()
        // A port that was free may be gone when it is used: then it ends, and others are tried.
        for _ in 1..<attempts {
            if let pebble = try? await Pebble(configuration, dns: dns) { return pebble }
        }
        return try await Pebble(configuration, dns: dns)
    }

    private init(_ configuration: Configuration, dns: ChallengeTestServer) async throws {
        self.configuration = configuration
        self.dns = dns
        port = Loopback.freePort()
        managementPort = Loopback.freePort()
        httpPort = Loopback.freePort()
        tlsPort = Loopback.freePort()
        directory = try makePeerDirectory()
        // Of its own: whoever else answers on the port is not taken for it.
        let authority = try TestAuthority(name: "pebble's HTTPS")
        let identity = try authority.issueServer()
        try Self.write(authority.root.pem, to: directory + "/ca.pem")
        try Self.write(identity.chain.map(\.pem).joined(), to: directory + "/cert.pem")
        try Self.write(String(decoding: identity.key.pem().bytes, as: UTF8.self), to: directory + "/key.pem")
        var members: [String: JSONValue] = [
            "listenAddress": .string("127.0.0.1:\(port)"), "managementListenAddress": .string("127.0.0.1:\(managementPort)"),
            "certificate": .string(directory + "/cert.pem"), "privateKey": .string(directory + "/key.pem"),
            "httpPort": .integer(Int64(httpPort)), "tlsPort": .integer(Int64(tlsPort)), "ocspResponderURL": .string(""),
            "externalAccountBindingRequired": .bool(!configuration.externalAccountKeys.isEmpty),
            "externalAccountMACKeys": .object(configuration.externalAccountKeys.mapValues { .string($0) }),
            "domainBlocklist": .array(configuration.blockedNames.map { .string($0) }),
        ]
        if let seconds = configuration.validitySeconds { members["certificateValidityPeriod"] = .integer(Int64(seconds)) }
        try Self.write(
            String(decoding: JSONValue.object(["pebble": .object(members)]).encoded, as: UTF8.self), to: directory + "/config.json")
        process = Mutex(try Self.launch(configuration, directory, dns))
        try await untilReady()
    }

    deinit { end(keepingDirectory: false) }

    package var directoryURL: String { "https://localhost:\(port)/dir" }

    /// A PEM file with whom to trust for `directoryURL`.
    package var trustFile: String { directory + "/ca.pem" }

    /// All that it said; it tells of every request and every object.
    package var log: String { (try? String(contentsOfFile: directory + "/log", encoding: .utf8)) ?? "" }

    /// Since the beginning, restarts included.
    package var orderCount: Int { log.split(separator: "\n").count { $0.contains("Added order \"") } }
    package var accountCount: Int { log.split(separator: "\n").count { $0.contains("There are now") && $0.contains("accounts in memory") } }
    /// Authorizations for which it found no answer.
    package var refusalCount: Int { log.split(separator: "\n").count { $0.contains("set INVALID by") } }
    package var certificateCount: Int { log.split(separator: "\n").count { $0.contains("Issued certificate serial") } }

    /// As a CA that lost everything: no account, no order, other roots.
    package func restart() async throws {
        end(keepingDirectory: true)
        let again = try Self.launch(configuration, directory, dns)
        process.withLock { $0 = again }
        try await untilReady()
    }

    /// Nobody answers any more, until `restart`.
    package func stop() { end(keepingDirectory: true) }

    // MARK: - Management

    package struct CertificateStatus: Equatable, Sendable {
        /// `Valid` or `Revoked`.
        package var status: String
        package var reason: Int?
    }

    package func status(of certificate: Certificate) async throws -> CertificateStatus {
        let serial = certificate.serialNumber.lowercased().filter { $0 != ":" }
        let json = try await management("/cert-status-by-serial/\(serial)")
        let value = try JSONValue(parsing: json)
        return CertificateStatus(status: value["Status"]?.string ?? "", reason: value["Reason"]?.integer)
    }

    /// The root that certificates come from; the alternate ones have the numbers from 1 on.
    package func root(_ number: Int = 0) async throws -> Certificate { try await certificate("/roots/\(number)") }
    package func intermediate(_ number: Int = 0) async throws -> Certificate { try await certificate("/intermediates/\(number)") }

    private func certificate(_ path: String) async throws -> Certificate {
        let list = try Certificate.list(pem: await management(path), source: path)
        guard let first = list.first else { throw PeerProcess.NotStarted(program: "pebble", reason: "no certificate at \(path)") }
        return first
    }

    private func management(_ path: String) async throws -> [UInt8] {
        guard let body = await Curl.get("https://localhost:\(managementPort)\(path)", trust: trustFile) else {
            throw PeerProcess.NotStarted(program: "pebble", reason: "no page \(path)")
        }
        return body
    }

    // MARK: - The process

    private static func launch(_ configuration: Configuration, _ directory: String, _ dns: ChallengeTestServer) throws -> PeerProcess {
        var environment = [
            "PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": String(configuration.nonceRejectPercent),
            "PEBBLE_AUTHZREUSE": String(configuration.authorizationReusePercent),
            "PEBBLE_ALTERNATE_ROOTS": String(configuration.alternateRoots), "PEBBLE_CHAIN_LENGTH": String(configuration.chainLength),
        ]
        if configuration.alwaysValid { environment["PEBBLE_VA_ALWAYS_VALID"] = "1" }
        return try PeerProcess(
            ["pebble", "-config", directory + "/config.json", "-dnsserver", dns.dnsAddress] + (configuration.isStrict ? ["-strict"] : []),
            directory: directory, environment: environment)
    }

    private func untilReady() async throws {
        let process = process.withLock { $0 }
        try await process.wait("pebble") { Loopback.accepts(port) }
        guard await Curl.get(directoryURL, trust: trustFile) != nil else {
            throw PeerProcess.NotStarted(program: "pebble", reason: "somebody else answers at \(directoryURL), or: \(process.log)")
        }
    }

    private func end(keepingDirectory: Bool) { process.withLock { $0 }.end(keepingDirectory: keepingDirectory) }

    private static func write(_ text: String, to path: String) throws {
        try PrivateFile.write(Array(text.utf8), to: path, mode: 0o600)
    }
}
