import MWPKI
import MWServer
import MWTLS
import TestCertificates

/// Principals as they come to be: through a TLS handshake, in memory.
enum VerifiedPeers {
    struct HandshakeFailed: Error {}

    /// What a server learns of `client` from a handshake.
    static func verify(_ client: Identity, by authority: TestAuthority) throws -> VerifiedPeer {
        let trust = try authority.trustStore()
        let serverContext = try TLSContext(server: TLSMaterial(identity: try authority.issueServer(), trustStore: trust))
        let clientContext = try TLSContext(
            client: TLSMaterial(identity: client, trustStore: trust), verification: .name(.dns("localhost")))
        var server = TLSSession(context: serverContext)
        var peer = TLSSession(context: clientContext)
        for _ in 0..<10 {
            _ = peer.handshake()
            server.receive(peer.takeOutboundCiphertext())
            if case .established(let verified) = server.handshake() { return verified }
            peer.receive(server.takeOutboundCiphertext())
        }
        throw HandshakeFailed()
    }

    static func peer(_ name: String) throws -> VerifiedPeer {
        let authority = try TestAuthority()
        return try self.verify(try authority.issueClient(name: name), by: authority)
    }

    /// - Parameter grants: What a policy gives; all rights, without a policy, if nil.
    static func principal(_ name: String, _ grants: [AccessGrant]? = nil) throws -> Principal {
        let peer = try self.peer(name)
        guard let grants else { return try AccessPolicy.none.admit(peer).get() }
        let rule = AccessRule(name: name, matchers: [.commonName(name)], grants: AccessGrants(grants))
        return try AccessPolicy(rules: [rule], source: "test").admit(peer).get()
    }
}
