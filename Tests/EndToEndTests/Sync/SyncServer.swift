import EngineContract
import Foundation
import Logging
import MWClient
import MWPKI
import MWProtocol
import MWServer
import MWStorage
import MWTLS
import NIOCore
import Synchronization
import TestCertificates

/// A server in this process that can be stopped and started again over the same store, or another one, behind a proxy that cuts.
final class SyncServer: Sendable {
    private let authority: TestAuthority
    private let directory: Mutex<String>
    private let proxy: FaultyProxy
    private let running: Mutex<StorageServer?>
    private let disk: Mutex<MemoryDisk>

    private init(authority: TestAuthority, directory: String, proxy: FaultyProxy) {
        self.authority = authority
        self.directory = Mutex(directory)
        self.proxy = proxy
        self.running = Mutex(nil)
        self.disk = Mutex(MemoryDisk())
    }

    static func with(_ body: (SyncServer) async throws -> Void) async throws {
        try await withTemporaryDirectory { directory in
            let proxy = try await FaultyProxy.start()
            let server = SyncServer(authority: try TestAuthority(), directory: directory, proxy: proxy)
            try await server.start()
            do {
                try await body(server)
                await server.stop()
                try await proxy.stop()
            } catch {
                await server.stop()
                try? await proxy.stop()
                throw error
            }
        }
    }

    var storage: Storage? { self.running.withLock { $0 }?.storage }

    func start() async throws {
        let material = TLSMaterial(identity: try self.authority.issueServer(), trustStore: try self.authority.trustStore())
        var configuration = StorageServerConfiguration(
            tls: .obtained { .complete(material) }, engine: .memory(self.disk.withLock { $0 }),
            dataDirectory: self.directory.withLock { $0 })
        configuration.addresses = [ListenAddress(host: "127.0.0.1", port: 0)]
        configuration.eventLoops = 1
        configuration.drainTimeout = .seconds(5)
        configuration.drainNoticePeriod = .milliseconds(20)
        let server = StorageServer(configuration: configuration, logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
        try await server.start()
        self.running.withLock { $0 = server }
        self.proxy.lead(to: server.listeningAddresses.first?.port)
    }

    func stop() async {
        self.proxy.lead(to: nil)
        await self.running.withLock { $0.take() }?.stop()
    }

    /// The next start is with an empty store, which is another incarnation.
    func replaceStore() throws {
        self.disk.withLock { $0 = MemoryDisk() }
        let directory = self.directory.withLock { directory in
            directory += "/other"
            return directory
        }
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
    }

    /// Has another client, an administrator, ask all others to read afresh, while `body` runs.
    func reloadClients(
        _ request: NativeReloadClientsRequest, while body: () async throws -> Void
    ) async throws -> NativeReloadClients {
        var told = NativeReloadClients()
        try await self.withClient { administrator in
            async let answer = administrator.ask(request)
            try await body()
            told = try await answer
        }
        return told
    }

    func cut() async throws { try await self.proxy.cutAll() }

    /// Runs `body` with a client that comes back at once.
    func withClient(_ body: (StorageClient) async throws -> Void) async throws {
        let material = TLSMaterial(identity: try self.authority.issueClient(), trustStore: try self.authority.trustStore())
        var configuration = StorageClientConfiguration(
            endpoints: [try Endpoint("wss://127.0.0.1:\(self.proxy.port)")], identity: TLSMaterialSource(load: { material }))
        configuration.reconnection.base = .milliseconds(1)
        configuration.reconnection.cap = .milliseconds(20)
        configuration.timeouts.drain = .milliseconds(500)
        try await withStorageClient(configuration, logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }, body)
    }
}
