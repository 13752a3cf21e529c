import EngineContract
import Logging
import MWPKI
import MWServer
import MWTLS
import MWWebSocket
import NIOCore
import Synchronization
import TestCertificates
import Testing

/// Who gets in, over real sockets and both versions of TLS (tls.md, cases 26 and 27). What is only about names is in AccessPolicyTests.
@Suite struct AccessPolicyServerTests {
    static func source(_ rules: [(String, [IdentityMatcher])]) -> AccessPolicySource {
        AccessPolicySource {
            try AccessPolicy(
                rules: rules.map { AccessRule(name: $0.0, matchers: $0.1, grants: .everything) }, source: "test policy")
        }
    }

    struct Case: CustomTestStringConvertible, Sendable {
        let testDescription: String
        var commonName = "alice"
        var names: [AlternativeName] = []
        let rules: @Sendable () throws -> [(String, [IdentityMatcher])]
        /// Nil is a 403.
        let principal: String?
    }

    static let cases: [Case] = [
        Case(testDescription: "a certificate that a rule names", rules: { [("a", [.commonName("alice")])] }, principal: "a"),
        Case(testDescription: "a valid certificate that no rule names", rules: { [("a", [.commonName("bob")])] }, principal: nil),
        Case(
            testDescription: "CN alice beside SAN bob, and a rule for the CN", names: [.dns("bob.example.org")],
            rules: { [("a", [.commonName("alice")])] }, principal: nil),
        Case(
            testDescription: "CN alice beside SAN bob, and rules for both", names: [.dns("bob.example.org")],
            rules: { [("a", [.commonName("alice")]), ("b", [.dns(try NamePattern(dns: "bob.example.org"))])] }, principal: "b"),
        Case(
            testDescription: "a SAN of a kind that no rule can name hides the CN", names: [.email("alice@example.org")],
            rules: { [("a", [.commonName("alice")])] }, principal: nil),
        Case(
            testDescription: "two URI names, both in a rule", names: [.uri("spiffe://example.org/a"), .uri("spiffe://example.org/b")],
            rules: {
                [("a", [.uri(try NamePattern(uri: "spiffe://example.org/a")), .uri(try NamePattern(uri: "spiffe://example.org/b"))])]
            },
            principal: nil),
        Case(
            testDescription: "one URI name beside a DNS name", names: [.uri("spiffe://example.org/a"), .dns("x.example.org")],
            rules: { [("a", [.uri(try NamePattern(uri: "spiffe://example.org/*"))])] }, principal: "a"),
        Case(
            testDescription: "a certificate for *.example.org, and rules for that pattern and for names below",
            names: [.dns("*.example.org")],
            rules: { [("a", [.dns(try NamePattern(dns: "*.example.org"))]), ("b", [.dns(try NamePattern(dns: "example.org"))])] },
            principal: nil),
        Case(
            testDescription: "two DNS names of two rules", names: [.dns("x.example.org"), .dns("y.example.org")],
            rules: { [("a", [.dns(try NamePattern(dns: "x.example.org"))]), ("b", [.dns(try NamePattern(dns: "y.example.org"))])] },
            principal: nil),
    ]

    @Test(arguments: [TLSPolicy.Version.tls12, .tls13], Self.cases)
    func `case 26, case 27: a certificate is exactly what a rule names, or gets 403: one log line, no session, nothing of storage`(
        version: TLSPolicy.Version, one: Case
    ) async throws {
        let rules = try one.rules()
        try await RunningServer.with({ $0.accessPolicy = Self.source(rules) }) { running in
            let writes = running.disk.writeCount
            let identity = try running.authority.issueClient(name: one.commonName) { $0.alternativeNames = one.names }
            let context = try running.clientContext(identity, policy: TLSPolicy(minimumVersion: version, maximumVersion: version))
            let peer = try await TestPeer.connect(to: running.address, context)
            let head = try await peer.open()
            if let principal = one.principal {
                #expect(head.hasPrefix("HTTP/1.1 101 "))
                #expect(running.log.lines("connection opened").map { $0.metadata["principal"] } == [principal])
                await peer.close()
                return
            }
            #expect(head.hasPrefix("HTTP/1.1 403 "))
            await peer.untilClosed()
            let lines = running.log.lines("opening refused")
            #expect(lines.count == 1)
            #expect(lines.first?.metadata["fingerprint"] == "\(identity.leaf.sha256)")
            #expect(lines.first?.metadata["check"]?.hasPrefix("policy.") == true)
            #expect(lines.first?.metadata["principal"] == nil)
            #expect(lines.first?.metadata["remedy"]?.isEmpty == false)
            let audited = try #require(running.server.audit?.rejections.latest())
            #expect(audited.map(\.rejection.certificate?.fingerprint) == [identity.leaf.sha256])
            #expect(audited.first?.rejection.check.hasPrefix("policy.") == true && audited.first?.rejection.told == "403 Forbidden")
            #expect(running.log.lines("connection opened").isEmpty)
            #expect(running.server.openConnections == 0)
            #expect(running.disk.writeCount == writes)
        }
    }

    @Test func `Who is nobody here gets 403 whatever it asks for`() async throws {
        try await RunningServer.with({ $0.accessPolicy = Self.source([("a", [.commonName("bob")])]) }) { running in
            let identity = try running.authority.issueClient(name: "alice")
            let peer = try await TestPeer.connect(to: running.address, try running.clientContext(identity))
            let head = try await peer.open("POST /elsewhere HTTP/1.1\r\nHost: localhost\r\n\r\n")
            #expect(head.hasPrefix("HTTP/1.1 403 "))
            await peer.untilClosed()
        }
    }

    @Test
    func `A reloaded policy counts for new connections and for open ones, which close with 1008; one that cannot be used changes nothing`()
        async throws
    {
        let names = Mutex(["alice"])
        let source = AccessPolicySource {
            let rules = names.withLock { $0 }.map { AccessRule(name: $0, matchers: [.commonName($0)], grants: .everything) }
            return try AccessPolicy(rules: rules, source: "test policy")
        }
        try await RunningServer.with({ $0.accessPolicy = source }) { running in
            let (alice, bob) = (try running.authority.issueClient(name: "alice"), try running.authority.issueClient(name: "bob"))
            let open = try await running.connect(alice)
            await #expect(throws: TestPeer.Ended.self) { try await running.connect(bob) }
            names.withLock { $0 = ["bob"] }
            try await running.server.reload()
            #expect(try await open.next() == .closeReceived(.policyViolation, "the access policy does not admit this certificate"))
            await (try running.connect(bob)).close()
            await #expect(throws: TestPeer.Ended.self) { try await running.connect(alice) }
            names.withLock { $0 = [] }
            await #expect(throws: ServerError.self) { try await running.server.reload() }
            await (try running.connect(bob)).close()
        }
    }

    @Test func `A server does not start with a policy that cannot be used, and says at the start what it has`() async throws {
        let empty = Self.source([])
        await #expect(throws: ServerError.self) { try await RunningServer.with({ $0.accessPolicy = empty }) { _ in } }
        try await RunningServer.with { running in
            #expect(running.log.lines("no access policy: every member of the trust store has all rights").map(\.level) == [.notice])
        }
        let rules: [(String, [IdentityMatcher])] = [("a", [.alias("nobody")])]
        try await RunningServer.with({ $0.accessPolicy = Self.source(rules) }) { running in
            #expect(running.log.lines("access policy in use").first?.metadata["rules"] == "1")
            #expect(running.log.lines.contains { $0.level == .warning && $0.message.contains("no certificate under the alias nobody") })
        }
    }

    /// The audit log is a file, read when the server has stopped.
    @Test func `The audit log has who was refused and why, and what was denied: principal, right and key`() async throws {
        let directory = try TemporaryDirectory()
        let source = AccessPolicySource {
            let grants = AccessGrants([AccessGrant([.read, .write], over: .prefixes([Array("world/".utf8)]))])
            return try AccessPolicy(
                rules: [AccessRule(name: "editor", matchers: [.commonName("alice")], grants: grants)], source: "test policy")
        }
        let change = { (configuration: inout StorageServerConfiguration) in
            configuration.accessPolicy = source
            configuration.audit = .file(directory.file("audit"))
        }
        try await RunningServer.with(change) { running in
            let peer = try await running.connect()
            try await peer.send(message: "world/a#1#other/b#2#\u{2}C")
            #expect(try await peer.message() == "\u{0}#\u{3}C")
            try await peer.send(message: "other/c#\u{0}E")
            #expect(
                try await peer.next()
                    == .closeReceived(.policyViolation, "request 2 denied: get without the right read over all of its keys"))
            await #expect(throws: TestPeer.Ended.self) { try await running.connect(try running.authority.issueClient(name: "bob")) }
        }
        let bytes = try PrivateFile.read(directory.file("audit")).bytes
        let lines = String(decoding: bytes, as: UTF8.self).split(separator: "\n").map(String.init)
        let denied = lines.filter { $0.contains(#""request.denied""#) }
        #expect(denied.count == 2 && denied.allSatisfy { $0.contains(#""editor""#) }, "\(lines)")
        #expect(denied.first?.contains("other/b") == true && denied.first?.contains(#""write""#) == true, "\(denied)")
        #expect(denied.last?.contains("other/c") == true && denied.last?.contains(#""read""#) == true, "\(denied)")
        let refused = lines.filter { $0.contains("policy.noRule") }
        #expect(refused.count == 1 && refused.first?.contains("bob") == true, "\(lines)")
    }
}
