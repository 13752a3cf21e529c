internal import Foundation
package import MWACME

/// pebble-challtestsrv: the DNS in which a pebble looks names up, and what a test tells it to answer.
package final class ChallengeTestServer: Sendable {
    let dnsAddress: String
    private let port: Int
    private let process: PeerProcess

    package struct Refused: Error {
        package var path: String
        package var status: Int?
    }

    /// Every name is at 127.0.0.1 until a test says otherwise.
    static func start() async throws -> ChallengeTestServer {
        let dns = Loopback.freePort()
        let port = Loopback.freePort()
        let command = [
            "pebble-challtestsrv", "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-dns01", "127.0.0.1:\(dns)", "-http01", "",
            "-https01", "", "-tlsalpn01", "", "-management", "127.0.0.1:\(port)",
        ]
        let process = try PeerProcess(command, directory: try makePeerDirectory())
        let server = ChallengeTestServer(dnsAddress: "127.0.0.1:\(dns)", port: port, process: process)
        try await process.wait("pebble-challtestsrv") { Loopback.accepts(port) }
        return server
    }

    private init(dnsAddress: String, port: Int, process: PeerProcess) {
        self.dnsAddress = dnsAddress
        self.port = port
        self.process = process
    }

    deinit { process.end(keepingDirectory: false) }

    /// Where its own page is, for programs of a test that change the DNS.
    package var managementURL: String { "http://127.0.0.1:\(port)" }

    package func setAddresses(_ addresses: [String], of name: String) throws {
        // The one kind only: what is left of the other would be asked too.
        let v6 = addresses.filter { $0.contains(":") }
        let v4 = addresses.filter { !$0.contains(":") }
        if !v4.isEmpty { try post("/add-a", ["host": .string(name), "addresses": .array(v4.map { .string($0) })]) }
        if !v6.isEmpty { try post("/add-aaaa", ["host": .string(name), "addresses": .array(v6.map { .string($0) })]) }
    }

    /// Whoever looks the name up gets SERVFAIL.
    package func setServerFailure(_ name: String) throws { try post("/set-servfail", ["host": .string(name)]) }
    package func clearServerFailure(_ name: String) throws { try post("/clear-servfail", ["host": .string(name)]) }

    package func setText(_ value: String, of name: String) throws {
        try post("/set-txt", ["host": .string(name), "value": .string(value)])
    }

    package func clearText(of name: String) throws { try post("/clear-txt", ["host": .string(name)]) }

    /// The questions that were asked about a name; proof that the CA came.
    package func questions(about name: String) throws -> [JSONValue] {
        try JSONValue(parsing: post("/dns-request-history", ["host": .string(name)])).array ?? []
    }

    @discardableResult
    private func post(_ path: String, _ members: [String: JSONValue]) throws -> [UInt8] {
        let answer = Loopback.request(port: port, path, body: JSONValue.object(members).encoded)
        guard let answer, answer.status == 200 else { throw Refused(path: path, status: answer?.status) }
        return answer.body
    }
}
