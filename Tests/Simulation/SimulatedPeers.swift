import MWPKI
import MWTLS
import TestCertificates

/// Whom clients see.
struct ServerPeer: Sendable {
    let peer: VerifiedPeer
}

/// Peers as they come to be: through a TLS handshake, in memory.
enum PeerMaker {
    struct HandshakeFailed: Error {}

    /// Clients with these names, and the server that they see.
    static func make(_ names: [String]) throws -> (clients: [VerifiedPeer], server: VerifiedPeer) {
        let authority = try TestAuthority()
        let trust = try authority.trustStore()
        let serverContext = try TLSContext(server: TLSMaterial(identity: try authority.issueServer(), trustStore: trust))
        var clients: [VerifiedPeer] = []
        var seen: VerifiedPeer?
        for name in names {
            let material = TLSMaterial(identity: try authority.issueClient(name: name), trustStore: trust)
            let context = try TLSContext(client: material, verification: .name(.dns("localhost")))
            var server = TLSSession(context: serverContext)
            var client = TLSSession(context: context)
            for _ in 0..<10 {
                if case .established(let peer) = client.handshake() { seen = peer }
                server.receive(client.takeOutboundCiphertext())
                if case .established(let peer) = server.handshake() {
                    clients.append(peer)
                    break
                }
                client.receive(server.takeOutboundCiphertext())
            }
        }
        guard let seen, clients.count == names.count else { throw HandshakeFailed() }
        return (clients, seen)
    }
}
