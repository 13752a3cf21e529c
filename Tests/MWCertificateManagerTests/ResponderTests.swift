import Glibc
import MWACME
import MWCertificateManager
import MWPKI
import NIOCore
import NIOPosix
import Testing

@Suite struct ResponderTests {
    static func answer(_ token: String) throws -> ChallengeAnswer {
        try ChallengeAnswer(identifier: .dns("a.test"), type: .http01, token: token, accountKey: .generate())
    }

    static func responder(_ change: (inout HTTPChallengeResponder.Limits) -> Void = { _ in }) throws -> HTTPChallengeResponder {
        var limits = HTTPChallengeResponder.Limits()
        change(&limits)
        // An address of its own: no other test takes a port that this one has given back.
        let host = "127.\(UInt8.random(in: 1...254)).\(UInt8.random(in: 1...254)).\(UInt8.random(in: 1...254))"
        return HTTPChallengeResponder(addresses: [try SocketAddress(ipAddress: host, port: 0)], limits: limits)
    }

    /// What comes back for these bytes until the connection is closed.
    static func ask(_ address: SocketAddress, _ text: String) async throws -> String {
        let channel = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton).connect(to: address) { channel in
            channel.eventLoop.makeCompletedFuture {
                try NIOAsyncChannel<ByteBuffer, ByteBuffer>(wrappingChannelSynchronously: channel)
            }
        }
        var reply = ByteBuffer()
        // A reset after the reply is as its end.
        try? await channel.executeThenClose { inbound, outbound in
            try await outbound.write(ByteBuffer(string: text))
            for try await var part in inbound { reply.writeBuffer(&part) }
        }
        return String(buffer: reply)
    }

    static func get(_ path: String, method: String = "GET") -> String { "\(method) \(path) HTTP/1.1\r\nHost: a.test\r\n\r\n" }

    @Test("case 10 http01: the token only while it is pending, exact in body and type; 404 otherwise; GET and HEAD only")
    func exact() async throws {
        let responder = try Self.responder()
        let answer = try Self.answer("token-1_A")
        try await responder.present(answer)
        let address = try #require(await responder.listeningAddresses().first)
        let reply = try await Self.ask(address, Self.get(answer.httpPath))
        #expect(reply.hasPrefix("HTTP/1.1 200 OK\r\n"))
        #expect(reply.contains("Content-Type: application/octet-stream\r\n"))
        #expect(reply.hasSuffix("\r\n\r\n\(answer.keyAuthorization)"))
        let head = try await Self.ask(address, Self.get(answer.httpPath, method: "HEAD"))
        #expect(
            head.hasPrefix("HTTP/1.1 200") && head.contains("Content-Length: \(answer.httpBody.count)\r\n") && head.hasSuffix("\r\n\r\n"))
        for path in [
            "/", "\(answer.httpPath)/", "\(answer.httpPath)?x", "/.well-known/acme-challenge/", "/.well-known/acme-challenge/token-1_a",
            "/.well-known/acme-challenge/../acme-challenge/token-1_A", "/x/.well-known/acme-challenge/token-1_A",
        ] {
            #expect(try await Self.ask(address, Self.get(path)).hasPrefix("HTTP/1.1 404"), "\(path)")
        }
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            #expect(try await Self.ask(address, Self.get(answer.httpPath, method: method)).hasPrefix("HTTP/1.1 405"))
        }
        #expect(try await Self.ask(address, "nonsense\r\n\r\n").hasPrefix("HTTP/1.1 400"))
        let other = try Self.answer("token-2")
        try await responder.present(other)
        await responder.remove(answer)
        #expect(try await Self.ask(address, Self.get(answer.httpPath)).hasPrefix("HTTP/1.1 404"))
        #expect(try await Self.ask(address, Self.get(other.httpPath)).hasSuffix(other.keyAuthorization))
        await responder.remove(other)
        await #expect(throws: (any Error).self) { try await Self.ask(address, Self.get(other.httpPath)) }
    }

    @Test("case 10 http01: it listens again at once, and a permanent listener stays and answers 404")
    func again() async throws {
        let responder = try Self.responder()
        try await responder.start()
        let address = try #require(await responder.listeningAddresses().first)
        let answer = try Self.answer("t")
        for _ in 0..<20 {
            try await responder.present(answer)
            #expect(try await Self.ask(address, Self.get(answer.httpPath)).hasSuffix(answer.keyAuthorization))
            await responder.remove(answer)
        }
        #expect(try await Self.ask(address, Self.get(answer.httpPath)).hasPrefix("HTTP/1.1 404"))
        await responder.stop()
        #expect(await responder.listeningAddresses() == [])
        // The very same port, at once, many times over.
        let fixed = HTTPChallengeResponder(addresses: [address])
        for _ in 0..<20 {
            try await fixed.present(answer)
            #expect(await fixed.listeningAddresses() == [address])
            await fixed.remove(answer)
        }
    }

    @Test("case 10 http01: a port that is taken is an error with words, and nothing is left")
    func taken() async throws {
        let responder = try Self.responder()
        try await responder.start()
        let address = try #require(await responder.listeningAddresses().first)
        let second = HTTPChallengeResponder(addresses: [address])
        let answer = try Self.answer("t")
        do {
            try await second.present(answer)
            Issue.record("bound twice")
        } catch {
            #expect("\(error)".contains("port \(address.port ?? 0)"))
        }
        await responder.stop()
        try await second.present(answer)
        #expect(try await Self.ask(address, Self.get(answer.httpPath)).hasSuffix(answer.keyAuthorization))
        await second.stop()
    }

    // Method: connections that say nothing, up to twice the limit, and one that never ends its request.
    @Test("case 10 http01: connections and bytes are bounded, and strangers do not keep the CA out")
    func bounds() async throws {
        let responder = try Self.responder {
            $0.maximumConnections = 8
            $0.connectionTimeout = .seconds(60)
        }
        let answer = try Self.answer("t")
        try await responder.present(answer)
        let address = try #require(await responder.listeningAddresses().first)
        let bootstrap = ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
        var silent: [any Channel] = []
        for _ in 0..<16 { silent.append(try await bootstrap.connect(to: address).get()) }
        #expect(try await Self.ask(address, Self.get(answer.httpPath)).hasSuffix(answer.keyAuthorization))
        let endless = "GET / HTTP/1.1\r\n" + String(repeating: "X-Y: zzzzzzzzzzzzzzzzzzzzzz\r\n", count: 2000)
        let reply = try await Self.ask(address, endless)
        #expect(!reply.hasPrefix("HTTP/1.1 200"))
        // The oldest of them had to go.
        for channel in silent.prefix(8) { try await channel.closeFuture.get() }
        for channel in silent.dropFirst(8) { try? await channel.close() }
        await responder.stop()
    }

    @Test("case 10 http01: time is bounded: who says nothing is closed")
    func time() async throws {
        let responder = try Self.responder { $0.connectionTimeout = .milliseconds(20) }
        try await responder.start()
        let address = try #require(await responder.listeningAddresses().first)
        let bootstrap = ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
        for _ in 0..<4 { try await bootstrap.connect(to: address).get().closeFuture.get() }
        await responder.stop()
    }

    @Test("case 10 http01: many at once are all answered")
    func many() async throws {
        let responder = try Self.responder()
        let answer = try Self.answer("t")
        try await responder.present(answer)
        let address = try #require(await responder.listeningAddresses().first)
        let good = try await withThrowingTaskGroup(of: Bool.self) { group in
            for _ in 0..<200 {
                group.addTask { try await Self.ask(address, Self.get(answer.httpPath)).hasSuffix(answer.keyAuthorization) }
            }
            return try await group.reduce(into: 0) { $0 += $1 ? 1 : 0 }
        }
        #expect(good == 200)
        await responder.stop()
    }
}
