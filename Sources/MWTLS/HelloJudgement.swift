// What kind of handshake a ClientHello begins. Decided before OpenSSL has chosen a version, a certificate or anything else:
//
//   ALPN                         server_name              our identity   the handshake
//   "acme-tls/1", nothing else   a pending challenge's    any            shows the challenge's identity, asks for no certificate, and ends
//   "acme-tls/1", nothing else   any other, or none       any            refused: unrecognized_name
//   "acme-tls/1" and others      any                      any            refused: no_application_protocol
//   anything else, or none       any                      present        an ordinary one: a client certificate is required
//   anything else, or none       any                      awaited        refused: internal_error, which clients take as "try again later"
//
// A challenge's handshake never becomes a connection: `TLSSession` says `challengeAnswered`, which carries no peer, and neither reads nor
// writes plaintext afterwards (RFC 8737 §4: the protocol carries no application data).

internal import COpenSSL
internal import MWPKI

/// What the ClientHello of a session came to.
enum HelloKind: Equatable {
    /// None has come yet.
    case none
    case ordinary
    case challenge(serverName: String)
    case refused(HelloRefusal)
}

/// Why a ClientHello was refused before anything else was looked at.
enum HelloRefusal: Equatable {
    case challengeNotAlone
    case challengeNotPending(serverName: String?)
    case identityAwaited
    /// The second hello, after a HelloRetryRequest, begins another kind of handshake than the first.
    case changed
    /// OpenSSL cannot use the challenge's identity.
    case challengeUnusable

    var alert: TLSAlert {
        switch self {
        case .challengeNotAlone: .noApplicationProtocol
        case .challengeNotPending: .unrecognizedName
        case .identityAwaited, .challengeUnusable: .internalError
        case .changed: .illegalParameter
        }
    }
}

/// The rules of one server's context for ClientHellos.
final class HelloJudgement: Sendable {
    static let challengeProtocol = "acme-tls/1"

    private let challenges: PendingChallenges
    private let hasIdentity: Bool

    init(challenges: PendingChallenges, hasIdentity: Bool) {
        self.challenges = challenges
        self.hasIdentity = hasIdentity
    }

    /// Makes `context` ask for every ClientHello. `self` must outlive the context.
    func install(on context: OpaquePointer) {
        unsafe SSL_CTX_set_client_hello_cb(
            context,
            { ssl, alert, argument in
                guard let ssl = unsafe ssl, let argument = unsafe argument, let state = unsafe CiphertextBIO.state(of: SSL_get_rbio(ssl))
                else { return SSL_CLIENT_HELLO_ERROR }
                let judgement = unsafe Unmanaged<HelloJudgement>.fromOpaque(argument).takeUnretainedValue()
                guard let refusal = unsafe judgement.judge(ssl, state) else { return SSL_CLIENT_HELLO_SUCCESS }
                unsafe state.pointee.hello = .refused(refusal)
                unsafe alert?.pointee = Int32(refusal.alert.rawValue)
                return SSL_CLIENT_HELLO_ERROR
            },
            Unmanaged.passUnretained(self).toOpaque())
        unsafe SSL_CTX_set_alpn_select_cb(
            context,
            { ssl, selected, selectedBytes, offered, offeredBytes, _ in
                guard let ssl = unsafe ssl, let state = unsafe CiphertextBIO.state(of: SSL_get_rbio(ssl)),
                    case .challenge = unsafe state.pointee.hello, let offered = unsafe offered, offeredBytes > 0
                else { return SSL_TLSEXT_ERR_NOACK }
                // The list is this one protocol, after the byte with its length.
                unsafe selected?.pointee = unsafe offered + 1
                unsafe selectedBytes?.pointee = unsafe offered.pointee
                return SSL_TLSEXT_ERR_OK
            }, nil)
    }

    private func judge(_ ssl: OpaquePointer, _ state: UnsafeMutablePointer<SessionState>) -> HelloRefusal? {
        let (kind, identity) = unsafe kind(ssl)
        let previous = unsafe state.pointee.hello
        // RFC 8446 §4.1.2 lets a second hello change little, and neither of these extensions; OpenSSL does not compare them.
        guard previous == .none || previous == kind else { return .changed }
        unsafe state.pointee.hello = kind
        if case .refused(let refusal) = kind { return refusal }
        guard previous == .none, let identity else { return nil }
        return unsafe use(identity, in: ssl) ? nil : .challengeUnusable
    }

    private func kind(_ ssl: OpaquePointer) -> (HelloKind, Identity?) {
        let ordinary = hasIdentity ? HelloKind.ordinary : .refused(.identityAwaited)
        guard let offered = unsafe field(TLSEXT_TYPE_application_layer_protocol_negotiation, ssl),
            let protocols = unsafe ClientHelloExtensions.protocols(offered), protocols.contains(Self.challengeProtocol)
        else { return (ordinary, nil) }
        guard protocols.count == 1 else { return (.refused(.challengeNotAlone), nil) }
        let name = unsafe field(TLSEXT_TYPE_server_name, ssl).flatMap { unsafe ClientHelloExtensions.serverName($0) }
        guard let name, let identity = challenges.identity(for: name) else {
            return (.refused(.challengeNotPending(serverName: name)), nil)
        }
        return (.challenge(serverName: name), identity)
    }

    private func field(_ type: Int32, _ ssl: OpaquePointer) -> UnsafeBufferPointer<UInt8>? {
        var start: UnsafePointer<UInt8>?
        var count = 0
        guard unsafe SSL_client_hello_get0_ext(ssl, UInt32(type), &start, &count) == 1 else { return nil }
        return unsafe UnsafeBufferPointer(start: start, count: count)
    }

    /// Shows `identity` in this handshake, and asks for no certificate in it.
    private func use(_ identity: Identity, in ssl: OpaquePointer) -> Bool {
        // Also of other key types: OpenSSL chooses among all there are.
        unsafe SSL_certs_clear(ssl)
        let isUsed =
            unsafe identity.leaf.withUnsafeX509({ unsafe SSL_use_certificate(ssl, $0) }) == 1
            && identity.key.withUnsafeKey({ unsafe SSL_use_PrivateKey(ssl, $0) }) == 1
        guard isUsed else { return false }
        // The one place where no client certificate is asked for; `TLSSession.establish` lets nothing come of it.
        unsafe SSL_set_verify(ssl, SSL_VERIFY_NONE, nil)
        return true
    }
}

extension TLSError {
    /// The error for a ClientHello that was refused.
    static func refused(_ refusal: HelloRefusal) -> TLSError {
        switch refusal {
        case .challengeNotAlone:
            TLSError(
                .challengeNotAlone, "peer", "offers acme-tls/1 beside other protocols", expected: "acme-tls/1 alone (RFC 8737)",
                alert: refusal.alert)
        case .challengeNotPending(let name):
            TLSError(
                .challengeNotPending, "peer", "asks for an ACME challenge that is not pending", found: name ?? "no server name",
                remedy: "none is needed: anybody can ask; it is a fault only while this server orders a certificate for that name",
                alert: refusal.alert)
        case .identityAwaited:
            TLSError(
                .identityAwaited, "server", "has no certificate yet, and answers nothing but ACME challenges",
                remedy: "see the log for how its order goes; try again later", alert: refusal.alert)
        case .changed:
            TLSError(
                .helloChanged, "peer", "changed its protocols or its server name from its first hello to its second", alert: refusal.alert)
        case .challengeUnusable:
            TLSError(.materialRejected, "ACME challenge", "OpenSSL cannot use its certificate and key", alert: refusal.alert)
        }
    }
}
