import ACMEPeers
import MWPKI
import Testing

@Suite("The ACME servers of the tests")
struct PeerTests {
    // Method: the directory is read over HTTPS in both, management pages in pebble; the second pebble does not trust as the first.
    @Test("pebble and caddy start by themselves, each with its own ports, roots and network")
    func start() async throws {
        let pebble = try await Pebble.start { $0.alternateRoots = 1 }
        let first = try await pebble.root()
        #expect(first.isCertificateAuthority)
        #expect(try await pebble.root(1) != first)
        #expect(try await pebble.intermediate().isSigned(by: first))
        try await pebble.restart()
        #expect(try await pebble.root() != first)
        try pebble.dns.setText("value", of: "_acme-challenge.peers.test.")
        #expect(try pebble.dns.questions(about: "peers.test.").isEmpty)
        let caddy = try await Caddy.start()
        #expect(try caddy.inside(["true"]).last == "true")
    }
}
