// Who is let in. Every rule by which a peer is accepted or refused is in this file, and only this file makes a `VerifiedPeer`:
//
// 1. its chain ends in our trust store, with dates, purposes (EKU), constraints, strengths and revocation checked by X509_verify_cert;
//    for a server its name too (`ServerVerification.name`);
// 2. its key is not our own: the documented layout has the server's certificate in the server's trust store, so without this rule the
//    server's key would open the server as a client;
// 3. a pinned server is one of the pinned certificates;
// 4. after the handshake, rules 1 to 3 were really applied to the certificate whose key signed: OpenSSL reports X509_V_OK also when no
//    certificate came, and skips the callback when a session is resumed.
//
// Rules 1 to 3 run inside the handshake, so that the peer gets the alert that says why.

internal import COpenSSL
package import MWPKI

/// A peer that proved possession of a key whose certificate our trust store accepts. Only `PeerVerification` makes one.
package struct VerifiedPeer: Sendable {
    /// The chain that was verified: the leaf first, the trust anchor last.
    package let chain: [Certificate]
    package let tlsVersion: TLSPolicy.Version
    /// The cipher suite, as OpenSSL spells it: `TLS_AES_256_GCM_SHA384`.
    package let cipher: String
    /// The key exchange group: `x25519`.
    package let group: String
    /// The trust store's alias of the leaf itself, if it is an anchor: the human name in the documented layout, where all subjects are equal.
    package let alias: String?
    /// A server's: the subjects of the authorities whose clients it says it accepts (RFC 8446 §4.2.4), in RFC 4514 form. Empty: any.
    package let announcedIssuers: [String]

    package var leaf: Certificate { chain[0] }

    fileprivate init(
        chain: [Certificate], tlsVersion: TLSPolicy.Version, cipher: String, group: String, alias: String?, announcedIssuers: [String]
    ) {
        precondition(!chain.isEmpty, "a verified chain has a leaf")
        self.chain = chain
        self.tlsVersion = tlsVersion
        self.cipher = cipher
        self.group = group
        self.alias = alias
        self.announcedIssuers = announcedIssuers
    }
}

/// Why a chain was refused inside the handshake.
struct ChainRefusal {
    enum Rule {
        case chain
        case ownKey
        case notPinned
        case malformed(String)
    }

    let rule: Rule
    /// X509_V_ERR_…
    let result: Int32
    let certificate: TLSError.CertificateSummary?
}

/// The rules of one context for its peers.
final class PeerVerification: Sendable {
    /// `nil` while a server waits for its first identity; no peer comes as far as this then.
    private let ownPin: PublicKeyPin?
    private let pins: Set<CertificateFingerprint>?
    private let trustStore: TrustStore
    let expectedName: ServerName?

    /// `server` is how this context, a client's, judges servers; `nil` for a server's context.
    init(own: Identity?, trustStore: TrustStore, server: ServerVerification?) {
        self.ownPin = own?.leaf.publicKeyPin
        self.trustStore = trustStore
        switch server {
        case .pinned(let pins, _)?:
            self.pins = pins
            self.expectedName = nil
        case .name(let name)?:
            self.pins = nil
            self.expectedName = name
        case nil:
            self.pins = nil
            self.expectedName = nil
        }
    }

    /// Makes `context` ask for, require and judge certificates. `self` must outlive the context.
    func install(on context: OpaquePointer) {
        unsafe SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nil)
        unsafe SSL_CTX_set_cert_verify_callback(
            context,
            { storeContext, argument in
                guard let storeContext = unsafe storeContext, let argument = unsafe argument else { return 0 }
                return unsafe Unmanaged<PeerVerification>.fromOpaque(argument).takeUnretainedValue().judge(storeContext) ? 1 : 0
            },
            Unmanaged.passUnretained(self).toOpaque())
    }

    /// Rules 1 to 3, inside the handshake. Leaves the verified chain or the refusal in the session's state.
    private func judge(_ storeContext: OpaquePointer) -> Bool {
        guard let ssl = unsafe X509_STORE_CTX_get_ex_data(storeContext, SSL_get_ex_data_X509_STORE_CTX_idx()),
            let state = unsafe CiphertextBIO.state(of: SSL_get_rbio(OpaquePointer(ssl)))
        else { return false }
        unsafe state.pointee.verifiedChain = []
        guard let chain = unsafe verify(storeContext, state) else { return false }
        let leaf = chain[0]
        if leaf.publicKeyPin == ownPin {
            unsafe refuse(storeContext, state, .ownKey, X509_V_ERR_CERT_REJECTED, leaf)
            return false
        }
        if let pins, !pins.contains(leaf.sha256) {
            unsafe refuse(storeContext, state, .notPinned, X509_V_ERR_CERT_REJECTED, leaf)
            return false
        }
        unsafe state.pointee.verifiedChain = chain
        return true
    }

    /// Rule 1.
    private func verify(_ storeContext: OpaquePointer, _ state: UnsafeMutablePointer<SessionState>) -> [Certificate]? {
        let isValid = unsafe X509_verify_cert(storeContext) == 1
        let result = unsafe X509_STORE_CTX_get_error(storeContext)
        guard isValid, result == X509_V_OK else {
            let offending = unsafe X509_STORE_CTX_get_current_cert(storeContext) ?? X509_STORE_CTX_get0_cert(storeContext)
            let certificate = unsafe offending.flatMap { unsafe try? Certificate(sharing: $0, source: "peer") }
            let failure = result == X509_V_OK ? X509_V_ERR_UNSPECIFIED : result
            let depth = unsafe Int(X509_STORE_CTX_get_error_depth(storeContext))
            unsafe refuse(storeContext, state, .chain, failure, certificate, depth: depth)
            return nil
        }
        do {
            let chain = try unsafe certificates(X509_STORE_CTX_get0_chain(storeContext))
            if !chain.isEmpty { return chain }
            unsafe refuse(storeContext, state, .malformed("no certificate"), X509_V_ERR_UNSPECIFIED, nil)
        } catch {
            unsafe refuse(storeContext, state, .malformed("\(error)"), X509_V_ERR_CERT_REJECTED, nil)
        }
        return nil
    }

    private func refuse(
        _ storeContext: OpaquePointer, _ state: UnsafeMutablePointer<SessionState>, _ rule: ChainRefusal.Rule, _ result: Int32,
        _ certificate: Certificate?, depth: Int = 0
    ) {
        unsafe X509_STORE_CTX_set_error(storeContext, result)
        let summary = certificate.map { TLSError.CertificateSummary($0, depth: depth) }
        unsafe state.pointee.refusal = ChainRefusal(rule: rule, result: result, certificate: summary)
    }

    /// Rule 4, once OpenSSL says that the handshake is over.
    func accept(_ ssl: OpaquePointer, _ state: UnsafeMutablePointer<SessionState>) -> Result<VerifiedPeer, TLSError> {
        let chain = unsafe state.pointee.verifiedChain
        unsafe state.pointee.verifiedChain = []
        guard let presented = unsafe SSL_get0_peer_certificate(ssl) else { return .failure(.noPeerCertificate) }
        let result = unsafe SSL_get_verify_result(ssl)
        guard result == Int(X509_V_OK) else {
            return .failure(TLSError.refused(ChainRefusal(rule: .chain, result: Int32(clamping: result), certificate: nil), expectedName))
        }
        guard unsafe SSL_session_reused(ssl) == 0, let leaf = chain.first,
            unsafe leaf.withUnsafeX509({ unsafe X509_cmp($0, presented) }) == 0
        else {
            return .failure(TLSError(.certificateRejected, "peer", "its certificate was not verified in this handshake"))
        }
        guard let version = unsafe string(SSL_get_version(ssl)).flatMap(TLSPolicy.Version.init(rawValue:)) else {
            return .failure(TLSError(.versionRejected, "peer", "an older protocol version was negotiated", expected: "TLS 1.2 or 1.3"))
        }
        return .success(
            unsafe VerifiedPeer(
                chain: chain, tlsVersion: version, cipher: string(SSL_CIPHER_get_name(SSL_get_current_cipher(ssl))) ?? "unknown",
                group: string(mws_ssl_negotiated_group_name(ssl)) ?? "unknown", alias: trustStore.alias(of: leaf),
                announcedIssuers: announcedIssuers(ssl)))
    }

    /// What a server announced to a client; a client announces nothing.
    private func announcedIssuers(_ ssl: OpaquePointer) -> [String] {
        guard unsafe SSL_is_server(ssl) == 0, let names = unsafe SSL_get0_peer_CA_list(ssl) else { return [] }
        return (0..<max(0, unsafe OPENSSL_sk_num(names))).compactMap { index in
            guard let name = unsafe OPENSSL_sk_value(names, index) else { return nil }
            return unsafe DistinguishedName.text(OpaquePointer(name))
        }
    }

    private func certificates(_ stack: OpaquePointer?) throws -> [Certificate] {
        try (0..<max(0, unsafe OPENSSL_sk_num(stack))).compactMap { index in
            guard let element = unsafe OPENSSL_sk_value(stack, index) else { return nil }
            return try unsafe Certificate(sharing: OpaquePointer(element), source: "peer")
        }
    }
}
