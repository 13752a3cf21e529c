import MWPKI
import MWProtocol
import MWTLS
import MWWebSocket
import NIOCore
import TestCertificates
import Testing

@testable import MWServer

/// A running server, asked by its administrator over the native protocol.
@Suite struct AdministrationTests {
    // Five connections on two event loops, two a page.
    @Test func `Sessions are listed by number, page by page, from every event loop`() async throws {
        try await RunningServer.with { running in
            let administrator = try await running.connectNative()
            let bob = try running.authority.issueClient(name: "bob")
            var others: [TestPeer] = []
            for _ in 0..<4 { others.append(try await running.connect(bob)) }
            try await others[0].send(message: "k#v#\u{2}A")
            #expect(try await others[0].message() == "\u{1}#\u{3}A")

            var request = NativeSessionsRequest()
            request.limit = 2
            var pages: [[NativeSessionEntry]] = []
            while true {
                let page = try await administrator.ask(request)
                pages.append(page.sessions)
                guard page.hasMore, let last = page.sessions.last else { break }
                request.after = last.connection
            }
            #expect(pages.map(\.count) == [2, 2, 1])
            let all = pages.flatMap { $0 }
            #expect(all.map(\.connection) == all.map(\.connection).sorted() && Set(all.map(\.connection)).count == 5)
            #expect(all.filter { $0.principal == "bob" }.count == 4)
            let writer = try #require(all.first { $0.principal == "bob" && $0.requests == 1 })
            #expect(writer.fingerprint == "\(bob.leaf.sha256)" && writer.issuer == bob.leaf.issuer && writer.subprotocol.isEmpty)
            #expect(writer.receivedBytes > 0 && writer.sentBytes > 0 && writer.address.hasPrefix("127.0.0.1:"))
            #expect(writer.tls.hasPrefix("TLSv1.3 "))
            #expect(all.first { $0.principal == "alice" }?.subprotocol == nativeSubprotocol)

            request = NativeSessionsRequest()
            for limit: Int64 in [0, -1, NativeSessionsRequest.maximumPage + 1, .min, .max] {
                request.limit = limit
                #expect(try await administrator.failure(of: request)?.code == .invalidArgument)
            }
            for other in others { await other.close() }
            await administrator.peer.close()
        }
    }

    @Test func `Each authority's open connections are counted, so that one knows when it can go`() async throws {
        try await RunningServer.with { running in
            let old = try TestAuthority()
            try running.trust(TrustStore(anchors: [running.authority, old].map { TrustAnchor(certificate: $0.certificate) }))
            try await running.server.reload()
            let administrator = try await running.connectNative()
            let clients = [try await running.connect(try old.issueClient(name: "carol")), try await running.connect()]
            var authorities = try await administrator.ask(NativeAuthoritiesRequest()).authorities
            func connections(_ authority: TestAuthority) -> Int64? {
                authorities.first { $0.certificate.fingerprint == "\(authority.certificate.sha256)" }?.connections
            }
            #expect(authorities.count == 2 && authorities.allSatisfy(\.isTrusted))
            #expect(connections(old) == 1)
            #expect(connections(running.authority) == 2)
            #expect(authorities.flatMap(\.issuers).reduce(0) { $0 + $1.count } == 3)

            // Its only client leaves.
            await clients[0].close()
            while connections(old) != 0 { authorities = try await administrator.ask(NativeAuthoritiesRequest()).authorities }
            try running.trust(running.authority.trustStore())
            #expect(try await administrator.ask(NativeReloadRequest()).connectionsClosed == 0)
            authorities = try await administrator.ask(NativeAuthoritiesRequest()).authorities
            #expect(authorities.count == 1 && connections(running.authority) == 2)
            for client in clients { await client.close() }
            await administrator.peer.close()
        }
    }

    @Test func `The status tells what is loaded, who is connected, what is used of the limits, and what others add`() async throws {
        try await RunningServer.with { running in
            running.server.addStatus(of: "acme") { [("next renewal", "tomorrow")] }
            let administrator = try await running.connectNative()
            let other = try await running.connect()
            let status = try await administrator.ask(NativeStatusRequest())
            let identity = try running.source.load().identity
            #expect(status.certificate?.fingerprint == "\(identity.leaf.sha256)")
            #expect(status.certificate?.daysLeft ?? -1 >= 0)
            #expect(status.trustAnchors.map(\.fingerprint) == ["\(running.authority.certificate.sha256)"])
            #expect(status.connections.open == 2 && status.connections.certificates == 2)
            #expect(status.connections.subprotocols.map(\.name).sorted() == ["mwdb", nativeSubprotocol])
            #expect(status.connections.daysLeft.reduce(0) { $0 + $1.count } == 2)
            #expect(status.tls.reduce(0) { $0 + $1.count } == 2 && status.tls[0].name.hasPrefix("TLSv1.3 TLS_"))
            #expect(
                status.limits.first { $0.name == "maximumConnections" } == NativeLimit("maximumConnections", 10_000, "connections", used: 2)
            )
            #expect(status.limits.first { $0.name == "maximumConnectionsPerPrincipal" }?.used == 2)
            #expect(status.limits.contains { $0.name == "maximumWaitingHandshakes" && $0.maximum == 4_096 })
            #expect(status.reload.generation == 1 && status.reload.failure == nil && status.reload.trigger == "start")
            #expect(status.storage.engine == "memory" && status.storage.durability == "sync" && status.storage.pendingRequests == 0)
            #expect(status.server.addresses.count == 1 && status.server.eventLoops == 2 && status.server.openSSL.hasPrefix("OpenSSL 3"))
            #expect(status.services == [NativeService("acme", [NativeText("next renewal", "tomorrow")])])
            await other.close()
            await administrator.peer.close()
        }
    }

    @Test func `A reload answers with what is in use; one that fails says why, and the old set stays`() async throws {
        try await RunningServer.with { running in
            let administrator = try await running.connectNative()
            let good = try await administrator.ask(NativeReloadRequest())
            #expect(good.generation == 2 && good.failure == nil && good.connectionsClosed == 0 && good.reloadsDone == 1)
            #expect(good.trigger == "alice")

            running.source.set { throw PKIError(.certificateMalformed, subject: "server.pem", "not an X.509 certificate") }
            let failure = try await administrator.failure(of: NativeReloadRequest())
            #expect(failure?.code == .reloadFailed && failure?.detail.contains("server.pem") == true)
            let status = try await administrator.ask(NativeStatusRequest())
            #expect(status.reload.generation == 2 && status.reload.reloadsFailed == 1)
            #expect(status.reload.failure?.contains("server.pem") == true)
            await administrator.peer.close()
        }
    }

    // By fingerprint, by serial number and issuer, and by identity.
    @Test(arguments: 0..<3) func `Who is refused is cut off, stays out, and comes back when that is taken back`(way: Int) async throws {
        try await RunningServer.with { running in
            let administrator = try await running.connectNative()
            let bob = try running.authority.issueClient(name: "bob")
            var victim = try await running.connect(bob)
            var refuse = NativeRefuseRequest()
            switch way {
            case 0: refuse.target.fingerprint = "\(bob.leaf.sha256)"
            case 1:
                refuse.target.serial = bob.leaf.serialNumber
                refuse.target.issuer = bob.leaf.issuer
            default: refuse.target.identity = "bob"
            }
            refuse.isTrial = true
            #expect(try await administrator.ask(refuse).connectionsClosed == 1)
            #expect(try await administrator.ask(NativeRefusalsRequest()).refusals.isEmpty, "a trial changes nothing")
            try await victim.send(message: "\u{6}A")
            #expect(try await victim.message() == "A#\u{7}A")

            refuse.isTrial = nil
            let change = try await administrator.ask(refuse)
            #expect(change.hasChanged && change.connectionsClosed == 1)
            guard case .closeReceived(let code, _) = try await victim.next() else { return #expect(Bool(false), "not closed") }
            #expect(code?.rawValue == 1008)
            await victim.close()
            #expect(try await !administrator.ask(refuse).hasChanged)
            await #expect(throws: (any Error).self) { try await running.connect(bob) }

            let listed = try await administrator.ask(NativeRefusalsRequest()).refusals
            #expect(listed.map(\.target.text) == [refuse.target.text] && listed.map(\.by) == ["alice"])
            let rejections = try await administrator.ask(NativeRejectionsRequest())
            #expect(rejections.total >= 1 && rejections.rejections.contains { $0.fingerprint == "\(bob.leaf.sha256)" && $0.remedy != nil })

            var back = NativeAcceptAgainRequest()
            back.target = refuse.target
            #expect(try await administrator.ask(back).hasChanged)
            #expect(try await !administrator.ask(back).hasChanged)
            victim = try await running.connect(bob)
            await victim.close()
            await administrator.peer.close()
        }
    }

    @Test func `A refusal of nothing, of several things, or of what is no fingerprint is an invalid argument`() async throws {
        try await RunningServer.with { running in
            let administrator = try await running.connectNative()
            var targets = [NativeRefusalTarget](repeating: NativeRefusalTarget(), count: 6)
            targets[1].fingerprint = "sha256:abcd"
            targets[2].fingerprint = String(repeating: "ab", count: 32)
            targets[2].identity = "bob"
            targets[3].issuer = "CN=Test CA"
            targets[4].serial = "not hex"
            targets[5].identity = ""
            for target in targets {
                var request = NativeRefuseRequest()
                request.target = target
                #expect(try await administrator.failure(of: request)?.code == .invalidArgument, "\(target)")
            }
            #expect(try await administrator.ask(NativeRefusalsRequest()).refusals.isEmpty)
            await administrator.peer.close()
        }
    }

    // All in one message, so that none is done before the last is read.
    @Test func `What is over the limit of administrative requests is told when to ask again, and everything is answered`() async throws {
        try await RunningServer.with { running in
            let administrator = try await running.connectNative()
            let count: Int32 = 40
            var message = ByteBuffer()
            for number in 1000..<1000 + count { NativeFrame.write(NativeStatusRequest(), id: RequestID(number), to: &message) }
            try await administrator.peer.send(messages: [message])
            var failures: [NativeFailure] = []
            for number in 1000..<1000 + count {
                let frame = try await administrator.answer(to: RequestID(number))
                if frame.role == .failure { failures.append(try NativeFailure(frame.fields)) }
            }
            #expect(failures.count == Int(count) - NativeSession.maximumAdministrationsInFlight)
            #expect(failures.allSatisfy { $0.code == .overloaded && $0.isRetryable && $0.retryAfterMilliseconds ?? 0 > 0 })
            await administrator.peer.close()
        }
    }

    // The policy names alice an administrator over everything, and bob over some keys, which is not that.
    @Test func `Who may not administer is denied all of it; denials and changes are in the audit log, questions are not`() async throws {
        let directory = try TemporaryDirectory()
        let policy = AccessPolicySource {
            let some = AccessGrants([AccessGrant(.all, over: .prefixes([Array("world/".utf8)]))])
            return try AccessPolicy(
                rules: [
                    AccessRule(name: "operator", matchers: [.commonName("alice")], grants: .everything),
                    AccessRule(name: "bob", matchers: [.commonName("bob")], grants: some),
                ], source: "test policy")
        }
        let change: (inout StorageServerConfiguration) -> Void = { configuration in
            configuration.accessPolicy = policy
            configuration.audit = .file(directory.file("audit"))
        }
        try await RunningServer.with(change) { running in
            let bob = try await running.connectNative(running.authority.issueClient(name: "bob"))
            let identity = try await bob.ask(NativeWhoAmI())
            #expect(identity.principal == "bob" && !identity.isAdministrator && identity.rules.count == 1)
            #expect(
                identity.rights.map(\.text).sorted() == ["administer 'world/…'", "read 'world/…'", "watch 'world/…'", "write 'world/…'"])
            let requests: [any NativeRequest] = [
                NativeStatusRequest(), NativeSessionsRequest(), NativeRejectionsRequest(), NativeReloadRequest(), NativeRefuseRequest(),
                NativeAcceptAgainRequest(), NativeRefusalsRequest(), NativeAuthoritiesRequest(),
            ]
            for request in requests { #expect(try await bob.failure(of: request)?.code == .permissionDenied, "\(request)") }

            let administrator = try await running.connectNative()
            _ = try await administrator.ask(NativeStatusRequest())
            _ = try await administrator.ask(NativeReloadRequest())
            var refuse = NativeRefuseRequest()
            refuse.target.identity = "carol"
            _ = try await administrator.ask(refuse)
            let denied = try await administrator.ask(NativeRejectionsRequest()).rejections.filter { $0.stage == "request" }
            #expect(denied.reduce(0) { $0 + $1.count } == Int64(requests.count) && denied.allSatisfy { $0.principal == "bob" })
            await administrator.peer.close()
            await bob.peer.close()
        }
        let lines = String(decoding: try PrivateFile.read(directory.file("audit")).bytes, as: UTF8.self).split(separator: "\n")
        #expect(lines.filter { $0.contains(#""event":"request.denied""#) }.count == 8)
        let changes = lines.filter { $0.contains(#""event":"administration""#) }
        #expect(changes.count == 2)
        #expect(changes.first?.contains(#""operation":"reload""#) == true && changes.first?.contains(#""principal":"operator""#) == true)
        #expect(changes.last?.contains(#""operation":"refuse","subject":"identity carol","outcome":"done""#) == true, "\(changes)")
    }

    // By fingerprint and by identity. What her connection still has under way is what `perform` gets.
    @Test(arguments: [true, false])
    func `A revoked administrator cannot take that back, nor do anything else that was under way`(isByName: Bool) async throws {
        try await RunningServer.with { running in
            let identity = try running.authority.issueClient(name: "alice")
            let alice = try AccessPolicy.none.admit(VerifiedPeers.verify(identity, by: running.authority)).get()
            let bob = try VerifiedPeers.principal("bob")
            var back = NativeAcceptAgainRequest()
            if isByName { back.target.identity = "alice" } else { back.target.fingerprint = "\(identity.leaf.sha256)" }
            try await running.server.revoke(Refusal(back.target), by: "root")
            var refuse = NativeRefuseRequest()
            refuse.target.identity = "bob"
            var others = NativeAcceptAgainRequest()
            others.target.identity = "carol"
            let server = running.server
            let attempts: [() async throws -> Void] = [
                { _ = try await server.perform(back, by: alice) }, { _ = try await server.perform(others, by: alice) },
                { _ = try await server.perform(refuse, by: alice) }, { _ = try await server.perform(NativeReloadRequest(), by: alice) },
            ]
            for attempt in attempts {
                let failure = await #expect(throws: NativeFailure.self) { try await attempt() }
                #expect(failure?.code == .permissionDenied)
            }
            #expect(server.securityStatus?.revoked.map(\.refusal) == [try Refusal(back.target)])
            #expect(try await server.perform(back, by: bob).hasChanged)
            #expect(try await server.perform(refuse, by: alice).hasChanged)
        }
    }
}
