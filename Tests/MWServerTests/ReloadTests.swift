import EngineContract
import Glibc
import MWPKI
import MWServer
import MWTLS
import MWWebSocket
import NIOCore
import Synchronization
import TestCertificates
import Testing

/// Reloads over real sockets: cases 5, 6, 8, 9, 36 and 41 of the negative table on TLS 1.2 and 1.3, and who is connected. What a test claims of
/// the time after a reload is about order, not about clocks: `reload()` has returned.
@Suite struct ReloadTests {
    private func version(_ version: TLSPolicy.Version) -> TLSPolicy { TLSPolicy(minimumVersion: version, maximumVersion: version) }

    /// Puts, and says whether it was stored.
    private func put(_ peer: TestPeer, _ key: String) async throws -> Bool {
        try await peer.send(message: "\(key)#\u{1}A#\u{0}A")
        return try await peer.message().isEmpty == false
    }

    /// What a session is told when it is over, whatever came before.
    private func closeOf(_ peer: TestPeer) async throws -> (CloseCode?, String) {
        while true {
            if case .closeReceived(let code, let reason) = try await peer.next() { return (code, reason) }
        }
    }

    /// Whether somebody with this identity is let in.
    private func isAdmitted(_ identity: Identity, _ running: RunningServer, _ policy: TLSPolicy = TLSPolicy()) async -> Bool {
        guard let peer = try? await running.connect(identity, policy: policy) else { return false }
        await peer.close()
        return true
    }

    // MARK: Revocation

    @Test(arguments: TLSPolicy.Version.allCases)
    func `case 5, case 9: a reloaded list holds at once, for who comes and for who is there, in both directions`(
        version: TLSPolicy.Version
    ) async throws {
        try await RunningServer.with { running in
            let policy = self.version(version)
            let alice = try running.authority.issueClient(name: "alice")
            let bob = try running.authority.issueClient(name: "bob")
            let (hers, his) = (try await running.connect(alice, policy: policy), try await running.connect(bob, policy: policy))
            try running.revoke([alice.leaf])
            try await running.server.reload()
            let (code, reason) = try await self.closeOf(hers)
            #expect(code == .policyViolation && reason.contains("revoked"))
            #expect(try await self.ping(his))
            #expect(await !self.isAdmitted(alice, running, policy))
            try running.revoke([bob.leaf])
            try await running.server.reload()
            #expect(try await self.closeOf(his).0 == .policyViolation)
            #expect(await self.isAdmitted(alice, running, policy))
            #expect(await !self.isAdmitted(bob, running, policy))
            await hers.untilClosed()
            await his.untilClosed()
        }
    }

    private func ping(_ peer: TestPeer) async throws -> Bool {
        try await peer.send(message: "k#\u{0}C")
        return try await peer.message() == "#\u{1}C"
    }

    // 100 connections of one certificate and 20 of another, on two loops, all busy. After the reload each of the 100 asks once more.
    @Test func `After a reload no byte is served to 100 connections of a revoked certificate, and the others do not notice`() async throws {
        try await RunningServer.with { running in
            let alice = try running.authority.issueClient(name: "alice")
            let bob = try running.authority.issueClient(name: "bob")
            var (hers, his): ([TestPeer], [TestPeer]) = ([], [])
            for _ in 0..<100 { hers.append(try await running.connect(alice)) }
            for _ in 0..<20 { his.append(try await running.connect(bob)) }
            for peer in hers + his { #expect(try await self.ping(peer)) }
            try running.revoke([alice.leaf])
            let outcome = try await running.server.reload(.program)
            #expect(outcome.closed == 100 && outcome.judged == 120)
            for peer in hers {
                // It may be gone already.
                try? await peer.send(message: "k#\u{0}D")
                let event = try await peer.next()
                guard case .closeReceived(.policyViolation, _) = event else {
                    Issue.record("\(event)")
                    continue
                }
            }
            for peer in his {
                #expect(try await self.ping(peer))
                await peer.close()
            }
            for peer in hers { await peer.untilClosed() }
            #expect(running.log.lines("connection closed").count { $0.metadata["cause"] == "certificateRevoked" } == 100)
        }
    }

    @Test(arguments: TLSPolicy.Version.allCases)
    func `Who has shaken hands before a reload and asks after it is judged by the new set`(version: TLSPolicy.Version) async throws {
        try await RunningServer.with { running in
            let alice = try running.authority.issueClient(name: "alice")
            let context = try running.clientContext(alice, policy: self.version(version))
            let between = try await TestPeer.connect(to: running.address, context)
            let beside = try await TestPeer.connect(to: running.address, try running.clientContext(policy: self.version(version)))
            for peer in [between, beside] { try await peer.untilEstablished() }
            try running.revoke([alice.leaf])
            try await running.server.reload()
            #expect(try await between.open().hasPrefix("HTTP/1.1 403 "))
            #expect(try await beside.open().hasPrefix("HTTP/1.1 101 "))
            await between.untilClosed()
            await beside.close()
        }
    }

    @Test(arguments: TLSPolicy.Version.allCases)
    func `case 6: where lists are given, an authority without one is refused when it is loaded`(version: TLSPolicy.Version) async throws {
        try await RunningServer.with { running in
            let peer = try await running.connect(policy: self.version(version))
            let other = try TestAuthority(name: "Other")
            let list = try running.authority.revocationList()
            let anchors = [TrustAnchor(certificate: running.authority.root), TrustAnchor(certificate: other.root)]
            let identity = try running.source.load().identity
            running.source.set {
                TLSMaterial(identity: identity, trustStore: try TrustStore(anchors: anchors, revocationLists: [list]))
            }
            await #expect(throws: ServerError.self) { try await running.server.reload() }
            #expect(running.server.securityStatus?.lastReload.error?.contains("CN=Other") == true)
            #expect(try await self.ping(peer))
            await peer.close()
        }
    }

    // MARK: Dates

    /// What `connect` makes with something that ends in some seconds: in more of them, where a busy machine was too slow for fewer.
    private static func beforeTheEnd(
        _ connect: (Timestamp) async throws -> TestPeer
    ) async throws -> (peer: TestPeer, end: Timestamp) {
        var seconds: Int64 = 3
        while true {
            let end = Timestamp.now().adding(seconds: seconds)
            do {
                return (try await connect(end), end)
            } catch  where Timestamp.now() >= end && seconds < 100 {
                seconds *= 2
            }
        }
    }

    @Test(arguments: TLSPolicy.Version.allCases)
    func `case 41: a connection is closed when its certificate ends, without anybody's doing`(version: TLSPolicy.Version) async throws {
        try await RunningServer.with { running in
            let other = try await running.connect()
            let (peer, end) = try await Self.beforeTheEnd { end in
                let brief = try running.authority.issueClient(name: "brief") { $0.notAfter = end }
                let peer = try await running.connect(brief, policy: self.version(version))
                guard try await self.ping(peer) else { throw Broken() }
                return peer
            }
            let (code, reason) = try await self.closeOf(peer)
            #expect(Timestamp.now() >= end)
            #expect(code == .policyViolation && reason.contains("expired"))
            #expect(try await self.ping(other))
            await peer.untilClosed()
            await other.close()
        }
    }

    @Test(arguments: TLSPolicy.Version.allCases)
    func `case 8: when a list is past its next update, who is there goes and who comes is refused`(version: TLSPolicy.Version) async throws
    {
        try await RunningServer.with { running in
            let (peer, due) = try await Self.beforeTheEnd { due in
                let list = try running.authority.revocationList { $0.nextUpdate = due }
                try running.trust(running.authority.trustStore(revocationLists: [list]))
                try await running.server.reload()
                return try await running.connect(policy: self.version(version))
            }
            let (code, reason) = try await self.closeOf(peer)
            #expect(Timestamp.now() >= due)
            #expect(code == .policyViolation && reason.contains("cannot be said"))
            #expect(await !self.isAdmitted(try running.authority.issueClient(), running, self.version(version)))
            let refused = running.log.lines("tls handshake refused").last?.metadata["found"] ?? ""
            #expect(refused.contains("\(due)") && refused.contains("CN=Test CA"), "\(refused)")
            await peer.untilClosed()
        }
    }

    // MARK: Keys

    // A client's certificate for the server's key, which the authority issued, and which the server has not any more.
    @Test(arguments: TLSPolicy.Version.allCases)
    func `case 19: a key that the server had before a reload is no client's`(version: TLSPolicy.Version) async throws {
        try await RunningServer.with { running in
            let (before, trust) = try (running.source.load().identity, running.authority.trustStore())
            let thief = try running.authority.issueClient(name: "thief", key: before.key)
            for _ in 0..<2 {
                let next = try running.authority.issueServer()
                running.source.set { TLSMaterial(identity: next, trustStore: trust) }
                try await running.server.reload()
                #expect(await !self.isAdmitted(thief, running, self.version(version)))
                #expect(running.log.lines("tls handshake refused").last?.metadata["check"] == "ownCertificate")
            }
            #expect(await self.isAdmitted(try running.authority.issueClient(), running, self.version(version)))
        }
    }

    @Test func `case 39: a key file that others may read is refused at the start and by a reload, and the log says which`() async throws {
        let directory = try TemporaryDirectory()
        let authority = try TestAuthority()
        let source = try TLSMaterial(identity: authority.issueServer(), trustStore: authority.trustStore())
            .writePEM(to: directory, prefix: "server")
        try await RunningServer.with({ $0.tls = source }) { running in
            let peer = try await running.connect(authority.issueClient(), of: authority)
            for mode: mode_t in [0o640, 0o604, 0o644, 0o660, 0o602] {
                #expect(unsafe chmod(directory.file("server.key.pem"), mode) == 0)
                #expect(throws: ServerError.self) { try running.server.check() }
                await #expect(throws: ServerError.self) { try await running.server.reload() }
                #expect(running.server.securityStatus?.lastReload.error?.contains("server.key.pem") == true)
            }
            #expect(try await self.ping(peer))
            #expect(unsafe chmod(directory.file("server.key.pem"), 0o600) == 0)
            try await running.server.reload()
            await peer.close()
        }
    }

    // MARK: Bad sets

    private struct Broken: Error {}

    @Test(arguments: TLSPolicy.Version.allCases)
    func `case 36: a set that cannot be used changes nothing, and status and log say why`(version: TLSPolicy.Version) async throws {
        try await RunningServer.with({ $0.reloading.settleTimeout = .milliseconds(50) }) { running in
            let peer = try await running.connect(policy: self.version(version))
            let good = try running.source.load()
            let other = try running.authority.issueServer()
            let bad: [@Sendable () throws -> TLSMaterial] = [
                { throw Broken() },
                // The key of another certificate.
                { TLSMaterial(identity: try Identity(leaf: good.identity.leaf, key: other.key), trustStore: good.trustStore) },
                { TLSMaterial(identity: try Identity.pem(chain: Array("-----BEGIN".utf8), key: []), trustStore: good.trustStore) },
                { TLSMaterial(identity: good.identity, trustStore: try TrustStore(anchors: [])) },
                { TLSMaterial(identity: try TestAuthority().issueServer { $0.expire() }, trustStore: good.trustStore) },
            ]
            for (index, source) in bad.enumerated() {
                running.source.set(source)
                await #expect(throws: ServerError.self) { try await running.server.reload() }
                let status = try #require(running.server.securityStatus)
                #expect(status.set.generation == 1 && status.lastReload.error != nil && status.reloadsFailed == UInt64(index + 1))
                #expect(try await self.ping(peer))
            }
            #expect(running.log.lines("reload failed, the old set stays in use").count == bad.count)
            // A certificate that was renewed and cannot come into use: in time nobody could connect.
            await #expect(throws: ServerError.self) { try await running.server.reload(.renewal) }
            let levels = running.log.lines("reload failed, the old set stays in use").map { "\($0.level)" }
            #expect(levels == Array(repeating: "error", count: bad.count) + ["critical"])
            #expect(await self.isAdmitted(try running.authority.issueClient(), running, self.version(version)))
            running.source.set { good }
            try await running.server.reload()
            #expect(running.server.securityStatus?.lastReload.error == nil)
            await peer.close()
        }
    }

    // Method: the policy's file breaks before the renewal; who reads it again and again sees neither the renewed identity nor a way around it.
    @Test func `A policy that is broken does not keep a renewed certificate from coming into use, and lets nobody else in`() async throws {
        let renewed = Mutex<Identity?>(nil)
        let isBroken = Atomic(false)
        let change = { @Sendable (configuration: inout StorageServerConfiguration) in
            let source = configuration.tls
            configuration.tls = .obtained(identity: { renewed.withLock { $0 } }) { try source.loadForServer() }
            configuration.accessPolicy = AccessPolicySource {
                guard !isBroken.load(ordering: .relaxed) else { throw Broken() }
                return .none
            }
        }
        try await RunningServer.with(change) { running in
            let peer = try await running.connect()
            isBroken.store(true, ordering: .relaxed)
            // Nothing is renewed yet: everything stays, and it is an error.
            await #expect(throws: ServerError.self) { try await running.server.reload(.renewal) }
            let next = try running.authority.issueServer()
            renewed.withLock { $0 = next }
            try await running.server.reload(.renewal)
            let status = try #require(running.server.securityStatus)
            #expect(status.set.context.identity?.leaf == next.leaf && status.set.generation == 2)
            #expect(status.lastReload.error != nil && status.reloadsFailed == 2)
            #expect(running.log.lines("the renewed certificate is in use, beside the old trust, lists and policy").count == 1)
            #expect(try await self.ping(peer))
            #expect(await self.isAdmitted(try running.authority.issueClient(), running))
            #expect(await !self.isAdmitted(try TestAuthority().issueClient(), running))
            // Only a renewal goes around what is broken.
            await #expect(throws: ServerError.self) { try await running.server.reload(.signal) }
            await peer.close()
        }
    }

    // MARK: Many

    private final class Tally: Sendable {
        let isOver = Atomic(false)
        let answered = Atomic(0)
        let loads = Atomic(0)
    }

    // Four clients ask without a pause and two come and go, as often as they can, while 1,000 sets of new lists come into use.
    @Test func `1,000 reloads under load fail no request of a client that is allowed`() async throws {
        let change = { (configuration: inout StorageServerConfiguration) in
            // A thousand handshakes of one address are more than it may have, by default.
            configuration.limits.maximumHandshakesPerSecond = 1_000_000
            configuration.limits.maximumHandshakeBurst = 1_000_000
            configuration.limits.maximumHandshakesPerSecondAndAddress = 1_000_000
            configuration.limits.maximumHandshakeBurstOfAddress = 1_000_000
        }
        try await RunningServer.with(change) { running in
            let gone = try running.authority.issueClient(name: "gone").leaf
            let trust = try (0..<2).map { number in
                try running.authority.trustStore(
                    revocationLists: [running.authority.revocationList(revoking: number == 0 ? [gone] : [])])
            }
            let tally = Tally()
            try await withThrowingTaskGroup(of: Void.self) { group in
                for number in 0..<4 {
                    group.addTask {
                        let peer = try await running.connect(running.authority.issueClient(name: "client \(number)"))
                        while !tally.isOver.load(ordering: .relaxed) {
                            let isServed = try await self.ping(peer)
                            #expect(isServed)
                            tally.answered.add(1, ordering: .relaxed)
                        }
                        await peer.close()
                    }
                }
                for _ in 0..<2 {
                    let context = try running.clientContext()
                    group.addTask {
                        while !tally.isOver.load(ordering: .relaxed) {
                            let peer = try await TestPeer.connect(to: running.address, context)
                            let head = try await peer.open()
                            #expect(head.hasPrefix("HTTP/1.1 101 "))
                            let isServed = try await self.ping(peer)
                            #expect(isServed)
                            await peer.close()
                        }
                    }
                }
                for number in 0..<1_000 {
                    try running.trust(trust[number % 2])
                    try await running.server.reload()
                }
                tally.isOver.store(true, ordering: .relaxed)
                try await group.waitForAll()
            }
            #expect(running.server.securityStatus?.set.generation == 1_001)
            #expect(tally.answered.load(ordering: .relaxed) > 0)
        }
    }

    @Test func `Reloads that are asked for together are one, and each reads after it was asked for`() async throws {
        try await RunningServer.with { running in
            let material = try running.source.load()
            let tally = Tally()
            running.source.set {
                tally.loads.add(1, ordering: .relaxed)
                return material
            }
            try await withThrowingTaskGroup(of: Void.self) { group in
                for _ in 0..<200 {
                    group.addTask {
                        let before = tally.loads.load(ordering: .relaxed)
                        try await running.server.reload()
                        #expect(tally.loads.load(ordering: .relaxed) > before)
                        tally.answered.add(1, ordering: .relaxed)
                    }
                }
                try await group.waitForAll()
            }
            #expect(tally.answered.load(ordering: .relaxed) == 200)
            #expect(tally.loads.load(ordering: .relaxed) < 200)
        }
    }
}
