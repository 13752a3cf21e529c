import Logging
import MWClient
import MWPKI
import MWProtocol
import MWTLS
import MWWebSocket
import NIOCore
import Synchronization
import TestCertificates
import Testing

@Suite(.timeLimit(.minutes(10))) struct StorageClientTrustTests {
    // MARK: Trust

    @Test("a client that the server does not trust learns the alert's name, and does not try again", arguments: TLSPolicy.Version.allCases)
    func unauthenticated(version: TLSPolicy.Version) async throws {
        let server = try await FakeServer.start(versions: version)
        let stranger = try TestAuthority(name: "Another CA").issueClient()
        let client = try StorageClient(configuration: server.configuration(client: stranger), logger: quiet)
        async let run = failure { try await client.run() }
        let error = await failure { _ = try await client.get([bytes("a")]) }
        #expect(error?.code == .unauthenticated && error?.alert == "unknown_ca", "\(error.map { "\($0)" } ?? "none")")
        #expect(await run?.code == .unauthenticated)
        #expect(server.acceptedCount == 1)
        #expect(client.counters.connections == 0)
        try await server.stop()
    }

    @Test("a server that we do not trust is refused, and not tried again")
    func untrustedServer() async throws {
        let server = try await FakeServer.start()
        let configuration = try server.configuration(trusting: TestAuthority(name: "Another CA"))
        let client = try StorageClient(configuration: configuration, logger: quiet)
        #expect(await failure { try await client.run() }?.code == .serverNotTrusted)
        #expect(server.acceptedCount == 1)
        try await server.stop()
    }

    @Test("a server with another name is refused, unless that name or its certificate is asked for")
    func serverName() async throws {
        let server = try await FakeServer.start(issue: { try $0.issueServer(names: ["db.example.org"]) })
        let client = try StorageClient(configuration: server.configuration(), logger: quiet)
        #expect(await failure { try await client.run() }?.code == .serverNotTrusted)
        let named = try server.configuration { $0.verification = .name("db.example.org") }
        try await withClient(named) { client in
            async let prefix = client.allocatePrefix()
            let connection = try #require(await server.connections.next())
            connection.reply(prefix: 1, to: try #require(await connection.requests.next()))
            #expect(try await prefix == 1)
        }
        try await server.stop()
    }

    @Test("a pinned server is accepted under any name, another certificate of the same authority is not")
    func pin() async throws {
        let authority = try TestAuthority()
        let identity = try authority.issueServer(names: ["elsewhere.example.org"])
        let server = try await FakeServer.start(authority: authority, issue: { _ in identity })
        let pinned = try server.configuration { $0.verification = .pinned(sha256: ["\(identity.leaf.sha256)"]) }
        try await withClient(pinned) { client in
            async let prefix = client.allocatePrefix()
            let connection = try #require(await server.connections.next())
            connection.reply(prefix: 1, to: try #require(await connection.requests.next()))
            #expect(try await prefix == 1)
        }
        let other = try authority.issueServer().leaf.sha256
        let wrong = try server.configuration { $0.verification = .pinned(sha256: ["\(other)"]) }
        let client = try StorageClient(configuration: wrong, logger: quiet)
        #expect(await failure { try await client.run() }?.code == .serverNotTrusted)
        try await server.stop()
    }

    @Test("the identity is loaded anew for each connection, and one bad load is survived")
    func rotation() async throws {
        let server = try await FakeServer.start()
        let material = try server.configuration().identity
        let counter = Counter()
        var configuration = try server.configuration()
        configuration.identity = TLSMaterialSource(load: {
            // The second load meets a rotation half done.
            if counter.next() == 2 { throw PKIError(.keyMismatch, subject: "client.key.pem", "the private key is not the certificate's") }
            return try material.load()
        })
        try await withClient(configuration) { client in
            let first = try #require(await server.connections.next())
            first.cut()
            async let prefix = client.allocatePrefix()
            let second = try #require(await server.connections.next())
            second.reply(prefix: 1, to: try #require(await second.requests.next()))
            #expect(try await prefix == 1)
            #expect(counter.value == 3)
        }
        try await server.stop()
    }

    @Test("an identity that stays unusable ends the client with the reason")
    func unusableIdentity() async throws {
        let server = try await FakeServer.start()
        var configuration = try server.configuration()
        configuration.identity = TLSMaterialSource(load: { throw PKIError(.fileUnreadable, subject: "client.key.pem", "cannot be read") })
        let client = try StorageClient(configuration: configuration, logger: quiet)
        let error = await failure { try await client.run() }
        #expect(error?.code == .identityUnusable && error?.subject == "client.key.pem")
        try await server.stop()
    }
}

final class Counter: Sendable {
    private let count = Atomic<Int>(0)
    var value: Int { self.count.load(ordering: .relaxed) }
    func next() -> Int { self.count.wrappingAdd(1, ordering: .relaxed).newValue }
}
