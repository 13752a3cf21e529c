import EngineContract
import Glibc
import MWPKI
import MWTLS
import MWWebSocket
import NIOCore
import TestCertificates
import Testing

@testable import MWServer

/// `mwstorage revoke`, files that change by themselves, and limits by principal, over real sockets.
@Suite struct RevokeTests {
    private func ping(_ peer: TestPeer) async throws -> Bool {
        try await peer.send(message: "k#\u{0}C")
        return try await peer.message() == "#\u{1}C"
    }

    @Test func `What is revoked goes at once, does not come back, and comes back when that is lifted`() async throws {
        try await RunningServer.with { running in
            let alice = try running.authority.issueClient(name: "alice")
            for refusal in [
                Refusal.certificate(alice.leaf.sha256), .serialNumber(alice.leaf.serialNumber, issuer: nil), .identity("alice"),
            ] {
                let (hers, his) = (try await running.connect(alice), try await running.connect(running.authority.issueClient(name: "bob")))
                let (isChanged, outcome) = try await running.server.revoke(refusal, by: "root")
                #expect(isChanged && outcome.closed == 1)
                #expect(try await hers.next() == .closeReceived(.policyViolation, "the certificate is refused"))
                #expect(try await self.ping(his))
                await #expect(throws: (any Error).self) { try await running.connect(alice) }
                #expect(try await !running.server.revoke(refusal, by: "root").isChanged)
                // A reload of the files does not forget it.
                try await running.server.reload()
                await #expect(throws: (any Error).self) { try await running.connect(alice) }
                #expect(running.server.securityStatus?.revoked.map(\.refusal) == [refusal])
                #expect(try await running.server.liftRefusal(refusal, by: "root"))
                let again = try await running.connect(alice)
                #expect(try await self.ping(again))
                for peer in [hers, his, again] { await peer.close() }
            }
        }
    }

    @Test func `What was revoked is refused by the next server on the same data, and a damaged list keeps it from starting`() async throws {
        try await withTemporaryDirectory { directory in
            let authority = try TestAuthority()
            let alice = try authority.issueClient(name: "alice")
            let material = TLSMaterial(identity: try authority.issueServer(), trustStore: try authority.trustStore())
            func server() throws -> StorageServer {
                var configuration = StorageServerConfiguration(
                    tls: TLSMaterialSource { material }, engine: .memory(), dataDirectory: directory)
                configuration.addresses = [ListenAddress(host: "127.0.0.1", port: 0)]
                configuration.eventLoops = 1
                return StorageServer(configuration: configuration, logger: LogRecorder().logger)
            }
            let first = try server()
            try await first.start()
            try await first.revoke(.certificate(alice.leaf.sha256), by: "root")
            await first.stop()
            let second = try server()
            try await second.start()
            let address = try SocketAddress(ipAddress: "127.0.0.1", port: second.listeningAddresses.first?.port ?? 0)
            let context = try TLSContext(
                client: TLSMaterial(identity: alice, trustStore: try authority.trustStore()), verification: .name(.ip("127.0.0.1")))
            let peer = try await TestPeer.connect(to: address, context)
            await #expect(throws: (any Error).self) { try await peer.open() }
            await peer.untilClosed()
            #expect(peer.tlsError?.alert == .certificateRevoked)
            await second.stop()
            #expect(unsafe truncate("\(directory)/\(RefusalJournal.fileName)", 30) == 0)
            #expect(throws: ServerError.self) { try server().check() }
            let third = try server()
            let error = await #expect(throws: ServerError.self) { try await third.start() }
            #expect("\(String(describing: error))".contains("damaged"))
        }
    }

    @Test func `Files of refusals are loaded with the rest, and a line that is wrong keeps the old set`() async throws {
        let directory = try TemporaryDirectory()
        let path = try directory.write("refused", "# nobody\n")
        try await RunningServer.with({ $0.refusedFiles = [path] }) { running in
            let alice = try running.authority.issueClient(name: "alice")
            let peer = try await running.connect(alice)
            try directory.write("refused", "identity bob\nalice\n")
            let error = await #expect(throws: ServerError.self) { try await running.server.reload() }
            #expect("\(String(describing: error))".contains("refused, line 2"))
            #expect(try await self.ping(peer))
            // Whoever may write to it would decide who gets in.
            try directory.write("refused", "\(alice.leaf.sha256)\n", mode: 0o646)
            let open = await #expect(throws: ServerError.self) { try await running.server.reload() }
            #expect("\(String(describing: open))".contains("run: chmod go-w \(path)"))
            #expect(try await self.ping(peer))
            try directory.write("refused", "\(alice.leaf.sha256) # her old laptop\n")
            #expect(try await running.server.reload(.signal).closed == 1)
            #expect(try await peer.next() == .closeReceived(.policyViolation, "the certificate is refused"))
            await peer.close()
        }
    }

    // The certificate is replaced first, its key later: between the two the pair does not fit.
    @Test func `Files that are replaced are loaded by themselves, and a pair that is half written is no error`() async throws {
        let directory = try TemporaryDirectory()
        let authority = try TestAuthority()
        let trust = try authority.trustStore()
        let source = try TLSMaterial(identity: authority.issueServer(), trustStore: trust).writePEM(to: directory, prefix: "server")
        try await RunningServer.with({ configuration in
            configuration.tls = source
            configuration.reloading.watchInterval = .milliseconds(20)
            configuration.reloading.settleInterval = .milliseconds(10)
            configuration.reloading.settleTimeout = .seconds(60)
        }) { running in
            // The key follows at once, or when the server has had time to see that it does not fit.
            for looks in [0, 1, 10, 100] {
                let next = try authority.issueServer()
                try directory.write("server.chain.pem", next.chain.map(\.pem).joined())
                for _ in 0..<looks { #expect(running.server.securityStatus?.changedPaths.isEmpty == false) }
                try directory.write("server.key.pem", next.key.pem().bytes)
                // The set is in use a little before its reload is on record.
                var status = try #require(running.server.securityStatus)
                while status.set.context.identity?.leaf != next.leaf || status.lastReload.trigger == .start {
                    await Task.yield()
                    status = try #require(running.server.securityStatus)
                }
                #expect(status.lastReload.trigger == .files && status.lastReload.error == nil && status.reloadsFailed == 0)
            }
        }
    }

    @Test func `A principal has no more connections than its limit, whatever certificates it shows`() async throws {
        try await RunningServer.with({ $0.limits.maximumConnectionsPerPrincipal = 2 }) { running in
            var peers: [TestPeer] = []
            for _ in 0..<2 { peers.append(try await running.connect(running.authority.issueClient(name: "alice"))) }
            let third = try await TestPeer.connect(
                to: running.address, try running.clientContext(running.authority.issueClient(name: "alice")))
            let head = try await third.open()
            #expect(head.hasPrefix("HTTP/1.1 503 "))
            peers.append(try await running.connect(running.authority.issueClient(name: "bob")))
            await third.untilClosed()
            for peer in peers { await peer.close() }
        }
    }

    // 40 descriptors, of which 20 are left to others: the 21st connection waits in the system's queue until one ends.
    @Test func `Without descriptors to spare nobody is refused: connections wait until others end`() async throws {
        var options = SessionServer.Options()
        options.descriptors = 40
        options.limits.descriptorReserve = 20
        // However busy the machine is.
        options.limits.openingTimeout = .seconds(60)
        let authority = try TestAuthority()
        let pair = try authority.materialPair()
        let server = try await SessionServer(
            options, security: CurrentSecurity(SecuritySet(context: try TLSContext(server: pair.server), accessPolicy: .none)),
            eventLoops: 1,
            logger: LogRecorder().logger
        ) { _ in EchoFactory() }
        let address = try #require(try await server.listen(on: [ListenAddress(host: "127.0.0.1", port: 0)]).first)
        let context = try TLSContext(
            client: pair.client, verification: .name(.ip("127.0.0.1")), policy: TLSPolicy(handshakeTimeout: .seconds(60)))
        var peers: [TestPeer] = []
        for _ in 0..<20 {
            let peer = try await TestPeer.connect(to: address, context)
            #expect(try await peer.open().hasPrefix("HTTP/1.1 101 "))
            peers.append(peer)
        }
        #expect(server.isAcceptingPaused)
        let waiting = try await TestPeer.connect(to: address, context)
        // Who is in is served.
        try await peers[0].send(message: "still there")
        #expect(try await peers[0].message() == "still there")
        for peer in peers.suffix(5) { await peer.close() }
        #expect(try await waiting.open().hasPrefix("HTTP/1.1 101 "))
        #expect(!server.isAcceptingPaused)
        for peer in peers.dropLast(5) + [waiting] { await peer.close() }
        await server.stop(.stop, code: 1001, reason: "over", within: .seconds(5))
        await server.shutdown()
    }

    // 60 at once; three tokens are there, and one comes each second.
    @Test func `An address that shakes hands too often is turned away, and who was let in does not notice`() async throws {
        try await RunningServer.with({ configuration in
            configuration.limits.maximumHandshakesPerSecondAndAddress = 1
            configuration.limits.maximumHandshakeBurstOfAddress = 3
        }) { running in
            let context = try running.clientContext()
            let started = ContinuousClock.now
            let admitted = await withTaskGroup(of: Bool.self) { group in
                for _ in 0..<60 {
                    group.addTask {
                        guard let peer = try? await TestPeer.connect(to: running.address, context) else { return false }
                        guard let head = try? await peer.open(), head.hasPrefix("HTTP/1.1 101 ") else { return false }
                        let isServed = (try? await self.ping(peer)) ?? false
                        await peer.close()
                        return isServed
                    }
                }
                return await group.reduce(into: 0) { $0 += $1 ? 1 : 0 }
            }
            // However long a busy machine took for them.
            let seconds = Int((ContinuousClock.now - started) / .seconds(1))
            #expect((3...4 + seconds).contains(admitted), "in \(seconds) s")
        }
    }

    private final class EchoFactory: SessionFactory, SessionDelegate {
        func makeDelegate(for info: SessionInfo) -> any SessionDelegate { self }
        func messageReceived(_ opcode: MessageOpcode, _ payload: ByteBuffer, in session: SessionHandler) { session.send(opcode, payload) }
    }

    // The data directory's file is a directory while the first two are asked for.
    @Test func `A refusal that the disk did not keep holds, and is kept when it is asked for again`() async throws {
        try await RunningServer.with { running in
            let alice = try running.authority.issueClient(name: "alice")
            let hers = try await running.connect(alice)
            let path = "\(running.server.configuration.dataDirectory)/\(RefusalJournal.fileName)"
            #expect(unsafe mkdir(path, 0o700) == 0)
            for _ in 0..<2 {
                let error = await #expect(throws: ServerError.self) { try await running.server.revoke(.identity("alice"), by: "root") }
                #expect(error?.code == .storageUnavailable)
                await #expect(throws: (any Error).self) { try await running.connect(alice) }
            }
            #expect(try await hers.next() == .closeReceived(.policyViolation, "the certificate is refused"))
            #expect(unsafe rmdir(path) == 0)
            #expect(try await running.server.revoke(.identity("alice"), by: "root").isChanged)
            #expect(try await !running.server.revoke(.identity("alice"), by: "root").isChanged)
            #expect(try RefusalJournal(directory: running.server.configuration.dataDirectory).refusals.contains(.identity("alice")))
            await hers.close()
        }
    }
}
