import ACMEPeers
import Foundation
import Logging
import MWACME
import MWCertificateManager
import MWClient
import MWPKI
import MWProtocol
import Synchronization
import TestCertificates
import Testing

/// `mwstorage serve --acme …` as a process, with a state, a name and an address of one test, against pebble: tls-alpn-01 on the address that
/// clients use.
final class ACMEServerBench: Sendable {
    let pebble: Pebble
    let directory: TemporaryDirectory
    let name: String
    let address: String

    init(_ name: String, pebble: Pebble) async throws {
        self.pebble = pebble
        self.name = name
        directory = try TestStore.make()
        address = Loopback.uniqueAddress()
        try pebble.dns.setAddresses([address], of: name)
    }

    var state: StateDirectory { StateDirectory(path: directory.file("data/acme")) }

    func start(_ more: [String] = []) async throws -> ServerProcess {
        let arguments = [
            "--listen", "\(address):\(pebble.tlsPort)", "--acme", "--acme-directory", pebble.directoryURL, "--acme-ca-file",
            pebble.trustFile, "--acme-agree-to-terms", "--acme-name", name,
        ]
        return try await ServerProcess(
            arguments + more, identity: ["--trust", directory.file("server.trust.pem")], directory: directory)
    }

    /// A client that knows the CA's root, and the server by its name; over the address that the CA validates.
    ///
    /// - Parameter failedRounds: Attempts until it gives up; `nil` is never.
    func client(failedRounds: Int? = nil) async throws -> StorageClientConfiguration {
        let root = directory.file("pebble.pem")
        if !FileManager.default.fileExists(atPath: root) { try directory.write("pebble.pem", try await pebble.root().pem) }
        let identity = TLSMaterialSource.pem(
            certificateChainFile: directory.file("client.chain.pem"), privateKeyFile: directory.file("client.key.pem"), trustFile: root)
        var configuration = StorageClientConfiguration(
            endpoints: [try Endpoint("wss://\(address):\(pebble.tlsPort)")], identity: identity)
        configuration.subprotocol = .mwdb
        configuration.verification = .name(name)
        configuration.timeouts.request = .seconds(120)
        configuration.reconnection.maximumFailedRounds = failedRounds
        return configuration
    }

    static let quiet = Logger(label: "acme", factory: { _ in SwiftLogNoOpLogHandler() })
}

@Suite("serve --acme")
struct ServeACMETests {
    private static let key = Array("key".utf8)

    private func put(_ client: StorageClient, _ value: String) async throws {
        try await client.put([(key: Self.key, value: Array(value.utf8))])
    }

    // Method: a client that connects again and again waits for the server's first certificate; its log and the CA's say how it came.
    @Test(
        "case 11 tls_alpn01, case 40 first_start_no_cert: a server without a certificate gets one over its own listener, and keeps it",
        .timeLimit(.minutes(10)))
    func firstCertificate() async throws {
        let bench = try await ACMEServerBench("first.test", pebble: .start())
        let server = try await bench.start()
        try await withStorageClient(try await bench.client(), logger: ACMEServerBench.quiet) { client in
            try await self.put(client, "value")
            let values = try await client.get([Self.key])
            #expect(values == [Array("value".utf8)])
        }
        let log = server.log
        #expect(log.contains("there is no certificate yet"))
        #expect(log.contains("acme challenge answered") && log.contains("server_name=\(bench.name)"))
        #expect(!log.contains("PRIVATE KEY"))
        let first = try #require(try bench.state.load().current)
        #expect(first.generation.leaf.dnsNames == [bench.name])
        #expect(await server.terminate() == 0)

        let again = try await bench.start()
        try await withStorageClient(try await bench.client(failedRounds: 1), logger: ACMEServerBench.quiet) { client in
            let values = try await client.get([Self.key])
            #expect(values == [Array("value".utf8)])
            #expect(client.counters.failedAttempts == 0)
        }
        #expect(!again.log.contains("there is no certificate yet"))
        let status = try await AdministrationClient.with(try await bench.client(failedRounds: 1), logger: ACMEServerBench.quiet) { client in
            // The manager begins when the server already listens.
            while true {
                let status = try await client.ask(NativeStatusRequest())
                if let acme = status.services.first(where: { $0.name == "acme" }) { return acme }
            }
        }
        #expect(status.entries.contains(NativeText("certificate", "good")), "\(status)")
        #expect(status.entries.contains { $0.name == "next renewal" }, "\(status)")
        again.send(SIGHUP)
        #expect(await again.terminate() == 0)
        #expect(try bench.state.load().current?.number == first.number)
        #expect(bench.pebble.certificateCount == 1 && bench.pebble.accountCount == 1)
    }

    // Method: the state has two generations, each of an authority of its own; the newer begins in an hour. The client trusts the older's only.
    @Test("a certificate that begins later does not take the place of the one before it, at a start or a reload", .timeLimit(.minutes(10)))
    func beginsLater() async throws {
        let bench = try await ACMEServerBench("later.test", pebble: .shared())
        try bench.state.prepare()
        let (older, newer) = (try TestAuthority(name: "Older"), try TestAuthority(name: "Newer"))
        for authority in [older, newer] {
            let identity = try authority.issueServer(names: [bench.name]) {
                if authority.root == newer.root { $0.notBefore = Timestamp.now().adding(seconds: 3600) }
            }
            _ = try bench.state.add(
                CertificateGeneration(
                    chain: identity.chain, key: identity.key, directoryURL: bench.pebble.directoryURL,
                    accountURL: bench.pebble.directoryURL, identifiers: [.dns(bench.name)], profile: nil, created: .now(),
                    renewal: RenewalState()))
        }
        try bench.directory.write("pebble.pem", older.root.pem)
        let server = try await bench.start()
        let client = try await bench.client(failedRounds: 1)
        try await withStorageClient(client, logger: ACMEServerBench.quiet) { try await self.put($0, "before") }
        server.send(SIGHUP)
        while !server.log.contains("reloaded") { try await Task.sleep(for: .milliseconds(5)) }
        try await withStorageClient(client, logger: ACMEServerBench.quiet) { try await self.put($0, "after") }
        #expect(await server.terminate() == 0)
        #expect(server.log.contains("it begins later"))
        #expect(try bench.state.load().current?.number == 2)
    }

    // Method: pebble looks at the address itself, and asks for its reverse form (RFC 8738 §6); the client verifies the server by address.
    @Test("case 13 ip_identifier, case 43 perms_and_secrets: one certificate for a name and an address; its state is its owner's only")
    func address() async throws {
        let bench = try await ACMEServerBench("address.test", pebble: .start())
        let server = try await bench.start(["--acme-name", bench.address, "--log-level", "trace"])
        var configuration = try await bench.client()
        configuration.verification = .nameFromEndpoint
        try await withStorageClient(configuration, logger: ACMEServerBench.quiet) { try await self.put($0, "value") }
        #expect(await server.terminate() == 0)
        let generation = try #require(try bench.state.load().current?.generation)
        #expect(generation.leaf.dnsNames == [bench.name] && generation.leaf.ipAddresses == [bench.address])
        let log = server.log
        #expect(log.contains("in-addr.arpa"))
        let key = String(decoding: try generation.key.pem().bytes, as: UTF8.self)
        // Of the PEM, a line that is the key's alone.
        let secret = try #require(key.split(separator: "\n").dropFirst(2).first)
        #expect(secret.count > 20 && !log.contains(secret) && !log.contains("PRIVATE KEY"))
        let files = try FileManager.default.contentsOfDirectory(atPath: bench.state.path)
        for file in files {
            let mode = try FileManager.default.attributesOfItem(atPath: bench.state.path + "/" + file)[.posixPermissions] as? Int
            #expect(mode == 0o600, "\(file)")
        }
        let mode = try FileManager.default.attributesOfItem(atPath: bench.state.path)[.posixPermissions] as? Int
        #expect(mode == 0o700 && !files.isEmpty)
    }

    // Method: nothing of the server's own listener is reachable for the CA; the CA counts.
    @Test("case 10 http01: a server that answers on a port of its own, with a second CA that is asked only where the first fails")
    func fallbackOverHTTP() async throws {
        let bench = try await ACMEServerBench("http.test", pebble: .start())
        let server = try await bench.start([
            "--acme-challenge", "http-01", "--acme-http-listen", "\(bench.address):\(bench.pebble.httpPort)",
            "--acme-directory", "https://localhost:1/dir", "--acme-key-type", "ec-p384",
        ])
        try await withStorageClient(try await bench.client(), logger: ACMEServerBench.quiet) { try await self.put($0, "value") }
        let generation = try #require(try bench.state.load().current?.generation)
        #expect(generation.directoryURL == bench.pebble.directoryURL && generation.key.algorithm == .ec(.p384))
        #expect(!server.log.contains("acme challenge answered"))
        #expect(await server.terminate() == 0)
        #expect(bench.pebble.certificateCount == 1)
    }

    // Method: 50 starts, each ended at a moment that chance picks, every other one by SIGKILL, the first two when the order that the CA made
    // has been saved; then one that may finish. The CA counts. It
    // looks at no challenge: an order that it found unanswered is over, and the pause after that is longer than a test.
    @Test("case 40 first_start_no_cert: 50 restarts before the first certificate issue exactly one", .timeLimit(.minutes(10)))
    func restartLoop() async throws {
        let bench = try await ACMEServerBench("loop.test", pebble: .start { $0.alwaysValid = true })
        for round in 0..<50 {
            let server = try await bench.start()
            if round < 2 {
                while try bench.state.orders().first?.orderURL == nil, try bench.state.load().current == nil {
                    try await Task.sleep(for: .milliseconds(1))
                }
            } else {
                try await Task.sleep(for: .milliseconds(.random(in: 0...120)))
            }
            server.send(round.isMultiple(of: 2) ? SIGKILL : SIGTERM)
            #expect(await server.waitUntilEnded() == (round.isMultiple(of: 2) ? SIGKILL : 0))
        }
        #expect(bench.pebble.orderCount >= 1, "those that were ended had ordered")
        let server = try await bench.start()
        try await withStorageClient(try await bench.client(), logger: ACMEServerBench.quiet) { try await self.put($0, "v") }
        #expect(await server.terminate() == 0)
        #expect(bench.pebble.certificateCount == 1)
        #expect(try bench.state.load().current?.number == 1)
    }

    // Method: certificates of 40 s, renewed when half of that is over: a renewal has 20 s to be in use before anybody could notice. Clients
    // that make a new connection for each put, and never a second attempt, run until six certificates have been served; one client stays
    // connected all the time.
    @Test("case 33 lifetimes: five renewals under load, no failed handshake, and old connections stay", .timeLimit(.minutes(20)))
    func renewalsUnderLoad() async throws {
        let bench = try await ACMEServerBench("renewal.test", pebble: .start { $0.validitySeconds = 40 })
        // All of them come from one address.
        let server = try await bench.start(["--handshake-rate", "100000", "--handshake-rate-per-address", "100000"])
        let load = Load()
        try await withStorageClient(try await bench.client(), logger: ACMEServerBench.quiet) { old in
            try await self.put(old, "first")
            let (connected, failed) = (old.counters.connections, old.counters.failedAttempts)
            let once = try await bench.client(failedRounds: 1)
            try await withThrowingTaskGroup(of: Void.self) { group in
                for _ in 0..<3 { group.addTask { await load.run(once) } }
                group.addTask {
                    defer { load.stop() }
                    // As the server says, once each is in use; however long a busy machine takes for them.
                    while server.log.split(separator: "\n").count(where: { $0.contains("a new certificate is in use") }) < 5 {
                        try await self.put(old, "on")
                        try await Task.sleep(for: .milliseconds(100))
                    }
                }
                try await group.waitForAll()
            }
            try await self.put(old, "last")
            #expect(old.counters.connections == connected && old.counters.failedAttempts == failed)
        }
        #expect(load.failures.isEmpty, "\(load.failures.prefix(3)) of \(load.connections)")
        #expect(load.connections > 100)
        let log = server.log.split(separator: "\n")
        let renewals = log.count { $0.contains("a new certificate is in use") }
        #expect(renewals >= 5)
        // pebble looks from several places, and gives up the others once it has seen enough.
        let refused = log.filter { $0.contains("tls handshake refused") && !$0.contains("check=handshakeAbandoned") }
        #expect(refused.isEmpty)
        #expect(await server.terminate() == 0)
    }

    /// Clients that connect, put and leave, until they are stopped; each makes one attempt.
    private final class Load: Sendable {
        private let counts = Mutex((connections: 0, failures: [String]()))
        private let isStopped = Atomic(false)

        var connections: Int { counts.withLock { $0.connections } }
        var failures: [String] { counts.withLock { $0.failures } }

        func stop() { isStopped.store(true, ordering: .relaxed) }

        func run(_ configuration: StorageClientConfiguration) async {
            while !isStopped.load(ordering: .relaxed) {
                do {
                    let failed = try await withStorageClient(configuration, logger: ACMEServerBench.quiet) { client in
                        try await client.put([(key: ServeACMETests.key, value: [1])])
                        return client.counters.failedAttempts
                    }
                    counts.withLock { counts in
                        counts.connections += 1
                        if failed > 0 { counts.failures.append("\(failed) attempts failed") }
                    }
                } catch {
                    counts.withLock { $0.failures.append("\(error)") }
                }
            }
        }
    }

    // Method: no CA is reached; each command ends by itself.
    @Test("what is set wrongly is said before anything starts: both kinds of identity, no name, a wildcard without dns-01")
    func wrongSettings() async throws {
        let directory = try TestStore.make()
        let serve = ["serve", "--check", "--data", directory.file("data"), "--listen", "127.0.0.1:0", "--trust"]
        let acme = [directory.file("server.trust.pem"), "--acme", "--acme-directory", "https://ca.test/dir"]
        func failure(_ more: [String]) async throws -> String {
            let ended = try await CommandProcess.run(serve + acme + more)
            #expect(ended.status == 78, "\(ended.errors)")
            return ended.errors
        }
        let both = try await failure(["--acme-name", "a.test"] + TestStore.identity(directory, "server"))
        #expect(both.contains("both ACME and serve.certificate are set (flag)"))
        let nameless = try await failure([])
        #expect(nameless.contains("serve.acme.name is not set"))
        let wildcard = try await failure(["--acme-name", "*.a.test"])
        #expect(wildcard.contains("dns-01"))
        let good = try await CommandProcess.run(serve + acme + ["--acme-name", "a.test"])
        #expect(good.status == 0, "\(good.errors)")
        #expect(!FileManager.default.fileExists(atPath: directory.file("data")), "a check makes nothing")
    }
}
