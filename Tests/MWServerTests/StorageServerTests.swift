import Dispatch
import EngineContract
import MWPKI
import MWServer
import MWStorage
import MWTLS
import MWWebSocket
import NIOCore
import Synchronization
import TestCertificates
import Testing

/// The whole server over real sockets, with a store in memory.
@Suite struct StorageServerTests {
    @Test func `A put is acknowledged only when the engine has synced`() async throws {
        try await RunningServer.with { running in
            let gate = DispatchSemaphore(value: 0)
            let writing = DispatchSemaphore(value: 0)
            let peer = try await running.connect()
            let other = try await running.connect()
            var faults = MemoryDisk.Faults()
            faults.duringWrite = {
                writing.signal()
                gate.wait()
            }
            running.disk.setFaults(faults)
            try await peer.send(message: "k#v#\u{2}C")
            await Self.wait(writing)
            // The write is under way and not done: others are served and do not see it.
            try await other.send(message: "k#\u{0}C")
            #expect(try await other.message() == "#\u{1}C")
            running.disk.liftFaults()
            gate.signal()
            #expect(try await peer.message() == "\u{1}#\u{3}C")
            #expect(running.disk.syncCount > 0)
            running.disk.cutPower()
            try await other.send(message: "k#\u{0}E")
            #expect(try await [other.message(), other.message()].sorted() == ["k#v#\u{5}", "v#\u{1}E"].sorted())
            await peer.close()
            await other.close()
        }
    }

    private static func wait(_ semaphore: DispatchSemaphore) async {
        await withCheckedContinuation { continuation in
            DispatchQueue.global().async {
                semaphore.wait()
                continuation.resume()
            }
        }
    }

    @Test func `Connections are spread evenly over the event loops`() async throws {
        try await RunningServer.with { running in
            var peers: [TestPeer] = []
            for _ in 0..<6 { peers.append(try await running.connect()) }
            // Each of the two loops counts by twos.
            let numbers = running.log.lines("connection opened").compactMap { $0.metadata["connection"].flatMap { UInt64("\($0)") } }
            #expect(numbers.sorted() == [1, 2, 3, 4, 5, 6])
            for peer in peers { await peer.close() }
        }
    }

    @Test func `Clients on different event loops see each other's puts and are told of them`() async throws {
        try await RunningServer.with { running in
            var peers: [TestPeer] = []
            for _ in 0..<4 {
                let peer = try await running.connect()
                try await peer.send(message: "\u{6}A")
                _ = try await peer.message()
                peers.append(peer)
            }
            try await peers[0].send(message: "k#v#\u{2}C")
            #expect(try await peers[0].message() == "\u{1}#\u{3}C")
            for peer in peers.dropFirst() { #expect(try await peer.message() == "k#v#\u{5}") }
            for peer in peers { await peer.close() }
        }
    }

    @Test func `One put of 1,000 nodes and several hundred KiB is one message, stored whole`() async throws {
        try await RunningServer.with { running in
            let peer = try await running.connect()
            var put = ByteBuffer()
            for number in 0..<1000 { put.writeString("key\(number)#\(String(repeating: "v", count: 500))\(number)#") }
            put.writeString("#\u{2}C")
            try await peer.send(messages: [put])
            #expect(try await peer.message() == "\u{1}#\u{3}C")
            try await peer.send(message: (0..<1000).map { "key\($0)#" }.joined() + "#\u{0}E")
            let reply = try await peer.message()
            #expect(reply.split(separator: "#").count == 1001)
            await peer.close()
        }
    }

    @Test func `A client that does not read is closed with 1013, and others are served meanwhile`() async throws {
        let change = { (configuration: inout StorageServerConfiguration) in
            configuration.limits.maximumUnsentBytes = 1 << 20
            configuration.limits.unsentTimeout = .milliseconds(100)
            configuration.limits.closingTimeout = .milliseconds(100)
        }
        try await RunningServer.with(change) { running in
            let writer = try await running.connect()
            try await writer.send(message: "k#\(String(repeating: "v", count: 1 << 20))#\u{2}C")
            _ = try await writer.message()
            let slow = try await running.connect()
            try await slow.channel.setOption(.autoRead, value: false).get()
            try await slow.send(messages: Array(repeating: ByteBuffer(string: "k#\u{0}C"), count: 200))
            while running.server.openConnections > 1 {
                try await writer.send(message: "other#\u{0}C")
                #expect(try await writer.message() == "#\u{1}C")
            }
            #expect(running.log.lines("connection closed").first?.metadata["cause"] == "slowReader")
            await slow.close()
            await writer.close()
        }
    }

    @Test func `Stopping answers what was asked, says 1001, and refuses new connections`() async throws {
        try await RunningServer.with { running in
            let gate = DispatchSemaphore(value: 0)
            let writing = DispatchSemaphore(value: 0)
            let (busy, idle) = (try await running.connect(), try await running.connect())
            var faults = MemoryDisk.Faults()
            faults.duringWrite = {
                writing.signal()
                gate.wait()
            }
            running.disk.setFaults(faults)
            try await busy.send(message: "k#v#\u{2}C")
            await Self.wait(writing)
            async let stopped: Void = running.server.stop()
            #expect(try await idle.next() == .closeReceived(.goingAway, "the server stops"))
            running.disk.liftFaults()
            gate.signal()
            #expect(try await busy.message() == "\u{1}#\u{3}C")
            #expect(try await busy.next() == .closeReceived(.goingAway, "the server stops"))
            await stopped
            await #expect(throws: (any Error).self) { try await running.connect() }
        }
    }

    @Test func `A restart says 1012`() async throws {
        try await RunningServer.with { running in
            let peer = try await running.connect()
            async let stopped: Void = running.server.stop(restarting: true)
            #expect(try await peer.next() == .closeReceived(.serviceRestart, "the server restarts"))
            await stopped
        }
    }

    @Test func `Stopping ends within its deadline when a client does not answer the close`() async throws {
        let change = { (configuration: inout StorageServerConfiguration) in
            configuration.drainTimeout = .milliseconds(200)
            configuration.limits.closingTimeout = .seconds(600)
        }
        try await RunningServer.with(change) { running in
            let peer = try await running.connect()
            try await peer.channel.setOption(.autoRead, value: false).get()
            let started = ContinuousClock.now
            await running.server.stop()
            #expect(ContinuousClock.now - started < .seconds(300))
            #expect(running.server.openConnections == 0)
            await peer.close()
        }
    }

    @Test func `run() ends when its task is cancelled`() async throws {
        try await withTemporaryDirectory { directory in
            let material = try TestAuthority().materialPair().server
            var configuration = StorageServerConfiguration(
                tls: TLSMaterialSource { material }, engine: .memory(), dataDirectory: directory)
            configuration.addresses = [ListenAddress(host: "127.0.0.1", port: 0)]
            let server = StorageServer(configuration: configuration, logger: LogRecorder().logger)
            let task = Task { try await server.run() }
            while server.listeningAddresses.isEmpty { await Task.yield() }
            task.cancel()
            try await task.value
            #expect(server.listeningAddresses.isEmpty)
        }
    }

    // MARK: Starting

    private func start(
        material: @escaping @Sendable () throws -> TLSMaterial, _ change: (inout StorageServerConfiguration) -> Void = { _ in }
    ) async throws {
        try await withTemporaryDirectory { directory in
            var configuration = StorageServerConfiguration(
                tls: TLSMaterialSource(load: material), engine: .memory(), dataDirectory: directory)
            configuration.addresses = [ListenAddress(host: "127.0.0.1", port: 0)]
            change(&configuration)
            let server = StorageServer(configuration: configuration, logger: LogRecorder().logger)
            try await server.start()
            await server.stop()
        }
    }

    private func expect(
        _ code: ServerError.Code, material: @escaping @Sendable () throws -> TLSMaterial,
        _ change: (inout StorageServerConfiguration) -> Void = { _ in }
    ) async throws {
        do {
            try await self.start(material: material, change)
            Issue.record("started")
        } catch let error as ServerError {
            #expect(error.code == code, "\(error)")
        }
    }

    @Test func `It does not start with a certificate that has expired, or is not valid yet`() async throws {
        let authority = try TestAuthority()
        let trust = try authority.trustStore()
        let expired = try authority.issueServer { $0.expire() }
        try await self.expect(.certificateExpired, material: { TLSMaterial(identity: expired, trustStore: trust) })
        let early = try authority.issueServer { $0.beginLater() }
        try await self.expect(.certificateNotYetValid, material: { TLSMaterial(identity: early, trustStore: trust) })
    }

    @Test func `It does not start with material that cannot be loaded, such as an empty trust store`() async throws {
        let authority = try TestAuthority()
        let identity = try authority.issueServer()
        try await self.expect(
            .materialRejected, material: { TLSMaterial(identity: identity, trustStore: try TrustStore(anchors: [])) })
    }

    @Test func `A bundled test key serves on loopback, and nowhere else`() async throws {
        // The stand-in is checked where the addresses are judged: no private key of certs/ is needed.
        let material = try TestAuthority().materialPair().server
        let bundled: Set<PublicKeyPin> = [material.identity.leaf.publicKeyPin]
        let loopback = try ListenAddress(host: "localhost", port: 8443).resolved()
        let everywhere = try ListenAddress(host: "0.0.0.0", port: 8443).resolved()
        try StorageServer.check(.complete(material), at: .now(), for: loopback, bundled: bundled)
        try StorageServer.check(.complete(material), at: .now(), for: everywhere, bundled: [])
        let error = try #require(throws: ServerError.self) {
            try StorageServer.check(.complete(material), at: .now(), for: loopback + everywhere, bundled: bundled)
        }
        #expect(error.code == .bundledTestKey)
        #expect("\(error)".contains("bundled test key"))
    }

    @Test func `A port that is taken is an error that names it`() async throws {
        try await RunningServer.with { running in
            let material = try running.authority.materialPair().server
            try await self.expect(.addressUnavailable, material: { material }) { $0.addresses = running.server.listeningAddresses }
        }
    }

    @Test func `A store that is in use is an error with the reason`() async throws {
        try await withTemporaryDirectory { directory in
            let material = try TestAuthority().materialPair().server
            let storage = try Storage.open(directory: directory, engine: .memory())
            defer { storage.close() }
            try await self.expect(.storageUnavailable, material: { material }) { $0.dataDirectory = directory }
        }
    }

    @Test func `A limit or close code that cannot work is an error that names the setting`() async throws {
        let material = try TestAuthority().materialPair().server
        try await self.expect(.configurationInvalid, material: { material }) { $0.limits.maximumMessageBytes = 0 }
        try await self.expect(.configurationInvalid, material: { material }) { $0.limits.pingInterval = .zero }
        try await self.expect(.configurationInvalid, material: { material }) { $0.closeCodes.stop = 1006 }
        try await self.expect(.configurationInvalid, material: { material }) { $0.addresses = [] }
    }

    // MARK: Reload

    @Test func `After a reload everybody is judged by the new trust, who is connected too`() async throws {
        try await RunningServer.with { running in
            let before = try await running.connect()
            let other = try TestAuthority(name: "Other CA")
            let identity = try running.authority.issueServer()
            running.source.set { TLSMaterial(identity: identity, trustStore: try other.trustStore()) }
            try await running.server.reload()
            await #expect(throws: (any Error).self) { try await running.connect() }
            let context = try TLSContext(
                client: TLSMaterial(identity: try other.issueClient(name: "new"), trustStore: try running.authority.trustStore()),
                verification: .name(.ip("127.0.0.1")))
            let after = try await TestPeer.connect(to: running.address, context)
            #expect(try await after.open().hasPrefix("HTTP/1.1 101 "))
            #expect(try await before.next() == .closeReceived(.policyViolation, "the certificate is not trusted any more"))
            await before.close()
            await after.close()
        }
    }

    @Test func `A reload that fails changes nothing, and says so`() async throws {
        try await RunningServer.with { running in
            struct Broken: Error {}
            running.source.set { throw Broken() }
            await #expect(throws: ServerError.self) { try await running.server.reload() }
            #expect(running.log.lines("reload failed, the old set stays in use").count == 1)
            let peer = try await running.connect()
            await peer.close()
        }
    }
}
