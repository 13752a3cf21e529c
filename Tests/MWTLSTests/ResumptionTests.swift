import COpenSSL
import MWPKI
import MWTLS
import NIOCore
import TestCertificates
import Testing

/// Every connection is a full handshake: cases 10 to 12 and 33. Method: a client that wants to resume, with what it got from us and with what
/// it got elsewhere.
@Suite struct ResumptionTests {
    private func resuming(_ session: Session, identity: Identity) -> RawPeer {
        let client = RawPeer(.client, identity: identity)
        unsafe client.withSSL { ssl in _ = unsafe SSL_set_session(ssl, session.pointer) }
        return client
    }

    @Test("10: no session and no ticket is issued, so a revoked client cannot come back with one", arguments: TLSPolicy.Version.allCases)
    func nothingIssued(version: TLSPolicy.Version) throws {
        let authority = try TestAuthority()
        let identity = try authority.issueClient()
        let context = try TLSContext(server: authority.materialPair().server, policy: policy(version))
        let client = RawPeer(.client, identity: identity)
        let server = SessionEndpoint(context)
        join(client, server)
        #expect(server.peer != nil)
        try server.write("after the handshake, where 1.3 would have sent tickets")
        join(client, server)
        #expect(!client.text.isEmpty)
        #expect(!client.hasResumableSession)

        // Offering it all the same gets a full handshake, which asks for the certificate again.
        let again = resuming(try #require(Session(of: client)), identity: identity)
        let second = SessionEndpoint(context)
        join(again, second)
        #expect(second.error == nil)
        #expect(second.peer?.leaf == identity.leaf)
        #expect(!again.isReused)
    }

    @Test("11, 12: a session of another server is not resumed, and the client gets a full handshake", arguments: TLSPolicy.Version.allCases)
    func foreignTicket(version: TLSPolicy.Version) throws {
        let authority = try TestAuthority()
        let identity = try authority.issueClient()
        let session = try #require(try foreignSession(version, identity: identity, authority: authority))
        let client = resuming(session, identity: identity)
        let server = SessionEndpoint(try TLSContext(server: authority.materialPair().server, policy: policy(version)))
        join(client, server)
        #expect(server.error == nil)
        #expect(server.peer?.leaf == identity.leaf)
        #expect(!client.isReused)
    }

    @Test("33: 0-RTT data is skipped, never delivered")
    func earlyData() throws {
        let authority = try TestAuthority()
        let identity = try authority.issueClient()
        let session = try #require(try foreignSession(.tls13, identity: identity, authority: authority, earlyDataBytes: 4096))
        let client = resuming(session, identity: identity)
        let text = Array("early".utf8)
        var written = 0
        let isSent = unsafe client.withSSL { ssl in unsafe SSL_write_early_data(ssl, text, text.count, &written) == 1 }
        #expect(isSent && written == text.count)
        let server = SessionEndpoint(try TLSContext(server: authority.materialPair().server, policy: policy(.tls13)))
        join(client, server)
        #expect(server.peer?.leaf == identity.leaf)
        client.write("late")
        join(client, server)
        #expect(server.text == "late")
        let status = unsafe client.withSSL { ssl in unsafe SSL_get_early_data_status(ssl) }
        #expect(status == SSL_EARLY_DATA_REJECTED)
    }

    /// A resumable session from a server that has nothing to do with ours.
    private func foreignSession(
        _ version: TLSPolicy.Version, identity: Identity, authority: TestAuthority, earlyDataBytes: UInt32 = 0
    ) throws -> Session? {
        let number = version == .tls13 ? TLS1_3_VERSION : TLS1_2_VERSION
        let server = RawPeer(.server, identity: try authority.issueServer(), minimum: number, maximum: number) { context in
            _ = unsafe SSL_CTX_set_max_early_data(context.pointer, earlyDataBytes)
        }
        let client = RawPeer(.client, identity: identity)
        join(client, server)
        server.write("hello")
        join(client, server)
        #expect(client.hasResumableSession)
        return Session(of: client)
    }
}

/// The owner of an SSL_SESSION.
@safe private final class Session {
    // Safety: OpenSSL counts its references atomically.
    nonisolated(unsafe) let pointer: OpaquePointer

    init?(of peer: RawPeer) {
        guard let session = unsafe peer.withSSL({ unsafe SSL_get1_session($0) }) else { return nil }
        unsafe self.pointer = unsafe session
    }

    deinit { unsafe SSL_SESSION_free(pointer) }
}
