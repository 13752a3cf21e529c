import MWClient
import MWPKI
import MWProtocol
import MWTLS
import MWWebSocket
import NIOCore
import TestCertificates
import Testing

/// A client whose certificate is replaced while it is connected. Method: files in a temporary directory, and a server that answers when the test
/// says so.
@Suite(.timeLimit(.minutes(10))) struct IdentityRotationTests {
    private struct Bench {
        let server: FakeServer
        let directory: TemporaryDirectory
        let configuration: StorageClientConfiguration

        init() async throws {
            self.server = try await FakeServer.start()
            self.directory = try TemporaryDirectory()
            let material = TLSMaterial(
                identity: try self.server.authority.issueClient(name: "old"), trustStore: try self.server.authority.trustStore())
            let source = try material.writePEM(to: self.directory, prefix: "client")
            self.configuration = try self.server.configuration {
                $0.identity = source
                $0.identityWatchInterval = .milliseconds(10)
                $0.timeouts.drain = .seconds(60)
            }
        }

        func replace(with identity: Identity) throws {
            try self.directory.write("client.chain.pem", identity.chain.map(\.pem).joined())
            try self.directory.write("client.key.pem", identity.key.pem().bytes)
        }
    }

    @Test("calls move over to a connection with the new identity, and those under way are answered on the old one")
    func moves() async throws {
        let bench = try await Bench()
        let next = try bench.server.authority.issueClient(name: "new")
        try await withClient(bench.configuration) { client in
            async let first = client.get([bytes("1")])
            let old = try #require(await bench.server.connections.next())
            let request = try #require(await old.requests.next())
            #expect(old.certificate?.commonName == "old")
            try bench.replace(with: next)
            let new = try #require(await bench.server.connections.next())
            #expect(new.certificate == next.leaf)
            // The server sees the connection before the client has its 101 and moves over.
            while client.counters.connections < 2 { await Task.yield() }
            async let second = client.get([bytes("2")])
            old.reply(values: ["one"], to: request)
            #expect(try await first == [bytes("one")])
            new.reply(values: ["two"], to: try #require(await new.requests.next()))
            #expect(try await second == [bytes("two")])
            // The old one is left with a goodbye, and got nothing more.
            #expect(await old.ended.next() == .some(.normal))
            #expect(await old.requests.next() == nil)
            #expect(client.counters.failed == 0 && client.counters.resent == 0 && client.counters.connections == 2)
        }
        try await bench.server.stop()
    }

    @Test("an identity that cannot be used, or that the server refuses, changes nothing")
    func refused() async throws {
        let bench = try await Bench()
        let stranger = try TestAuthority(name: "Other").issueClient(name: "stranger")
        try await withClient(bench.configuration) { client in
            async let first = client.get([bytes("1")])
            let old = try #require(await bench.server.connections.next())
            old.reply(values: ["one"], to: try #require(await old.requests.next()))
            #expect(try await first == [bytes("one")])
            try bench.replace(with: stranger)
            while bench.server.acceptedCount < 2 { await Task.yield() }
            async let second = client.get([bytes("2")])
            old.reply(values: ["two"], to: try #require(await old.requests.next()))
            #expect(try await second == [bytes("two")])
            #expect(client.counters.failed == 0 && client.counters.connections == 1)
        }
        try await bench.server.stop()
    }

    @Test("an old connection that breaks during the move loses no call that may be asked again")
    func breaks() async throws {
        let bench = try await Bench()
        try await withClient(bench.configuration) { client in
            async let first = client.get([bytes("1")])
            let old = try #require(await bench.server.connections.next())
            _ = try #require(await old.requests.next())
            try bench.replace(with: try bench.server.authority.issueClient(name: "new"))
            let new = try #require(await bench.server.connections.next())
            old.cut()
            // A read is asked again: on the new connection, or on the next one if the break was seen before the new one was.
            if let request = await new.requests.next() {
                new.reply(values: ["one"], to: request)
            } else {
                let (later, request) = try #require(await bench.server.nextRequest())
                #expect(later.certificate?.commonName == "new")
                later.reply(values: ["one"], to: request)
            }
            #expect(try await first == [bytes("one")])
            #expect(client.counters.resent == 1 && client.counters.failed == 0)
        }
        try await bench.server.stop()
    }
}
