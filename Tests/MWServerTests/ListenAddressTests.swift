import MWPKI
import MWServer
import NIOCore
import Testing

@Suite struct ListenAddressTests {
    @Test(arguments: [
        ("127.0.0.1", true), ("127.8.8.8", true), ("::1", true), ("::ffff:127.0.0.1", true), ("0.0.0.0", false), ("::", false),
        ("192.0.2.1", false), ("::ffff:192.0.2.1", false), ("2001:db8::1", false),
    ]) func `What only this machine can reach is loopback`(host: String, isLoopback: Bool) throws {
        #expect(try SocketAddress(ipAddress: host, port: 1).isLoopback == isLoopback)
    }

    @Test func `localhost is loopback on every address that it has`() throws {
        let addresses = try ListenAddress(host: "localhost", port: 8443).resolved()
        #expect(!addresses.isEmpty && addresses.allSatisfy { $0.isLoopback && $0.port == 8443 })
    }

    @Test(arguments: ["", "not a host name"]) func `A host that means nothing here is a typed error`(host: String) {
        #expect(throws: ServerError.self) {
            let addresses = try ListenAddress(host: host, port: 1).resolved()
            // An empty host means every address to the resolver; a listener must say so.
            if host.isEmpty { Issue.record("\(addresses)") }
        }
    }

    @Test(arguments: [-1, 65_536]) func `A port is 16 bits`(port: Int) {
        #expect(throws: ServerError.self) { try ListenAddress(host: "127.0.0.1", port: port).resolved() }
    }

    @Test func `The census counts in and out, in all, for each certificate and for each principal`() throws {
        var limits = ServerLimits()
        limits.maximumConnections = 4
        limits.maximumConnectionsPerCertificate = 2
        limits.maximumConnectionsPerPrincipal = 3
        let census = ConnectionCensus(limits)
        let one = try #require(CertificateFingerprint(bytes: Array(repeating: 1, count: 32)))
        let two = try #require(CertificateFingerprint(bytes: Array(repeating: 2, count: 32)))
        let alice = [one, one, one, two, two].map { census.enter($0, principal: "alice") }
        #expect(alice == [nil, nil, .certificate, nil, .principal])
        #expect(["bob", "carol"].map { census.enter(two, principal: $0) } == [nil, .total])
        census.leave(one, principal: "alice")
        // A change of name counts for the new one, and is never refused.
        census.move(from: "bob", to: "alice")
        #expect(census.enter(one, principal: "alice") == .principal)
        census.move(from: "alice", to: "bob")
        #expect(census.enter(one, principal: "alice") == nil)
        for (fingerprint, name) in [(one, "alice"), (one, "alice"), (two, "alice"), (two, "bob")] {
            census.leave(fingerprint, principal: name)
        }
        #expect(census.total == 0)
    }
}
