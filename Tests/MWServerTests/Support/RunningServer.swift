import EngineContract
import MWPKI
import MWServer
import MWStorage
import MWTLS
import NIOCore
import Synchronization
import TestCertificates

/// A server on a port of its own, with mutual TLS and a store in memory, and clients that know it.
final class RunningServer: Sendable {
    let server: StorageServer
    let authority: TestAuthority
    let disk: MemoryDisk
    let log: LogRecorder
    let address: SocketAddress
    /// What the next `reload()` finds.
    let source: Source

    private init(
        server: StorageServer, authority: TestAuthority, disk: MemoryDisk, log: LogRecorder, address: SocketAddress, source: Source
    ) {
        self.server = server
        self.authority = authority
        self.disk = disk
        self.log = log
        self.address = address
        self.source = source
    }

    /// What the server's material source reads.
    final class Source: Sendable {
        private let current: Mutex<@Sendable () throws -> ServerMaterial>

        init(_ load: @escaping @Sendable () throws -> ServerMaterial) { self.current = Mutex(load) }

        func loadForServer() throws -> ServerMaterial { try self.current.withLock { $0 }() }

        func load() throws -> TLSMaterial { try TLSMaterialSource.obtained { try self.loadForServer() }.load() }

        func set(_ load: @escaping @Sendable () throws -> TLSMaterial) { self.current.withLock { $0 = { .complete(try load()) } } }

        func await(_ trustStore: TrustStore) { self.current.withLock { $0 = { .awaitingIdentity(trustStore) } } }
    }

    /// Runs `body` with a server, and stops it.
    ///
    /// - Parameter hasIdentity: Whether its source has a certificate at the start.
    static func with(
        hasIdentity: Bool = true, _ change: (inout StorageServerConfiguration) -> Void = { _ in },
        _ body: (RunningServer) async throws -> Void
    ) async throws {
        try await withTemporaryDirectory { directory in
            let authority = try TestAuthority()
            let material = TLSMaterial(identity: try authority.issueServer(), trustStore: try authority.trustStore())
            let source = Source { hasIdentity ? .complete(material) : .awaitingIdentity(material.trustStore) }
            let disk = MemoryDisk()
            let log = LogRecorder()
            var configuration = StorageServerConfiguration(
                tls: .obtained { try source.loadForServer() }, engine: .memory(disk), dataDirectory: directory)
            configuration.addresses = [ListenAddress(host: "127.0.0.1", port: 0)]
            configuration.eventLoops = 2
            // However busy the machine is: a test of one of these deadlines sets its own.
            configuration.limits.openingTimeout = .seconds(60)
            configuration.limits.watchProgressInterval = .seconds(600)
            configuration.drainTimeout = .seconds(5)
            // Most clients of tests do not leave by themselves.
            configuration.drainNoticePeriod = .milliseconds(20)
            change(&configuration)
            let server = StorageServer(configuration: configuration, logger: log.logger)
            try await server.start()
            let port = server.listeningAddresses.first?.port ?? 0
            let running = RunningServer(
                server: server, authority: authority, disk: disk, log: log,
                address: try SocketAddress(ipAddress: "127.0.0.1", port: port), source: source)
            do {
                try await body(running)
                await server.stop()
            } catch {
                await server.stop()
                throw error
            }
        }
    }

    func clientContext(
        _ identity: Identity? = nil, policy: TLSPolicy = TLSPolicy(), trusting authority: TestAuthority? = nil
    ) throws -> TLSContext {
        let material = TLSMaterial(
            identity: try identity ?? self.authority.issueClient(name: "alice"),
            trustStore: try (authority ?? self.authority).trustStore())
        return try TLSContext(client: material, verification: .name(.ip("127.0.0.1")), policy: policy)
    }

    /// The next reload finds the same identity, and this trust store.
    func trust(_ trustStore: TrustStore) throws {
        let identity = try self.source.load().identity
        self.source.set { TLSMaterial(identity: identity, trustStore: trustStore) }
    }

    /// The next reload finds the same identity and authority, and a list that revokes these.
    func revoke(_ certificates: [Certificate]) throws {
        try self.trust(self.authority.trustStore(revocationLists: [self.authority.revocationList(revoking: certificates)]))
    }

    /// A client with an open WebSocket.
    ///
    /// - Parameter authority: The server's, where that is not ours.
    func connect(
        _ identity: Identity? = nil, policy: TLSPolicy = TLSPolicy(), of authority: TestAuthority? = nil
    ) async throws -> TestPeer {
        let context = try self.clientContext(identity, policy: policy, trusting: authority)
        let peer = try await TestPeer.connect(to: self.address, context)
        let head = try await peer.open()
        guard head.hasPrefix("HTTP/1.1 101 ") else { throw TestPeer.Ended(reason: head) }
        return peer
    }
}
