// Who is let in. Every rule by which a peer is accepted or refused is in this file, and only this file makes a `VerifiedPeer`:
//
// 1. its chain ends in our trust store, with dates, purposes (EKU), constraints, strengths and revocation checked by X509_verify_cert;
//    for a server its name too (`ServerVerification.name`);
// 2. its key is not our own: the documented layout has the server's certificate in the server's trust store, so without this rule the
//    server's key would open the server as a client;
// 3. a pinned server is one of the pinned certificates;
// 4. nothing of its chain, and no name of its leaf, is on our list of refusals;
// 5. after the handshake, rules 1 to 4 were really applied to the certificate whose key signed: OpenSSL reports X509_V_OK also when no
//    certificate came, and skips the callback when a session is resumed.
//
// Rules 1 to 4 run inside the handshake, so that the peer gets the alert that says why; and again, for peers that are connected, when what
// we trust has changed (`TLSContext.judge`).

internal import COpenSSL
package import MWPKI
internal import Synchronization

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
    /// From then on a handshake would refuse it, although nothing changed: a certificate of the chain has ended, or a revocation list.
    package let validUntil: Timestamp
    /// What it sent, the leaf first: with another trust store another chain may lead to an anchor.
    fileprivate let sent: [Certificate]

    package var leaf: Certificate { chain[0] }

    /// All that its verification depends on: peers of one presentation get one verdict.
    package struct Presentation: Hashable, Sendable {
        private let fingerprints: [CertificateFingerprint]

        fileprivate init(_ fingerprints: [CertificateFingerprint]) { self.fingerprints = fingerprints }
    }

    package var presentation: Presentation { Presentation(sent.map(\.sha256)) }

    fileprivate init(
        chain: [Certificate], sent: [Certificate], validUntil: Timestamp, tlsVersion: TLSPolicy.Version, cipher: String, group: String,
        alias: String?, announcedIssuers: [String]
    ) {
        precondition(!chain.isEmpty, "a verified chain has a leaf")
        self.chain = chain
        self.sent = sent
        self.validUntil = validUntil
        self.tlsVersion = tlsVersion
        self.cipher = cipher
        self.group = group
        self.alias = alias
        self.announcedIssuers = announcedIssuers
    }
}

/// Why a chain was refused.
struct ChainRefusal: Error {
    enum Rule {
        case chain
        case ownKey
        case notPinned
        case refused(Refusal)
        case malformed(String)
    }

    let rule: Rule
    /// X509_V_ERR_…
    let result: Int32
    let certificate: TLSError.CertificateSummary?
    /// The list that the refusal is about.
    var revocationList: CertificateRevocationList?
}

/// A chain that passed, and what the peer had sent for it.
struct AcceptedChain {
    let chain: [Certificate]
    let sent: [Certificate]
}

/// The rules of one context for its peers.
final class PeerVerification: Sendable {
    /// Of our identity, and of those that we had before.
    private let ownKeys: Set<PublicKeyPin>
    private let pins: Set<CertificateFingerprint>?
    private let trustStore: TrustStore
    /// The trust store's certificates by the addresses of the objects that OpenSSL builds chains of.
    private let anchors: [UInt: Certificate]
    /// Certificates of peers that passed rule 1 before, read, with their keys: one copy for all connections of a certificate, and none is read
    /// again. It saves reading, never a check.
    private let leaves = Mutex<[CertificateFingerprint: Certificate]>([:])
    /// Beyond, all are forgotten: 10 KiB each as a rule, so 10 MiB.
    private static let maximumRememberedLeaves = 1_024
    /// A larger certificate is read each time.
    private static let maximumRememberedLeafBytes = 4 << 10
    private let refusals: RefusalSet
    private let time: Timestamp?
    let expectedName: ServerName?

    /// `own` is `nil` while a server waits for its first identity; no peer comes as far as this then. `server` is how this context, a
    /// client's, judges servers; `nil` for a server's context. `time` replaces now.
    init(
        own: Identity?, earlierKeys: Set<PublicKeyPin> = [], trustStore: TrustStore, server: ServerVerification?, refusals: RefusalSet,
        time: Timestamp?
    ) {
        self.refusals = refusals
        self.time = time
        self.ownKeys = earlierKeys.union((own?.leaf.publicKeyPin).map { [$0] } ?? [])
        self.trustStore = trustStore
        self.anchors = Dictionary(
            trustStore.anchors.map { anchor in unsafe (anchor.certificate.withUnsafeX509 { UInt(bitPattern: $0) }, anchor.certificate) },
            uniquingKeysWith: { first, _ in first })
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

    /// Rules 1 to 4, inside the handshake. Leaves the verified chain or the refusal in the session's state.
    private func judge(_ storeContext: OpaquePointer) -> Bool {
        guard let ssl = unsafe X509_STORE_CTX_get_ex_data(storeContext, SSL_get_ex_data_X509_STORE_CTX_idx()),
            let state = unsafe CiphertextBIO.state(of: SSL_get_rbio(OpaquePointer(ssl)))
        else { return false }
        unsafe state.pointee.acceptedChain = nil
        do throws(ChainRefusal) {
            let known = try unsafe readKeys(storeContext)
            unsafe state.pointee.giveWay?()
            unsafe state.pointee.acceptedChain = try unsafe verdict(storeContext, known)
            return true
        } catch {
            unsafe X509_STORE_CTX_set_error(storeContext, error.result)
            unsafe state.pointee.refusal = error
            return false
        }
    }

    /// Gives what the peer presented its keys, where OpenSSL read it without (`ContextPolicy.libraries`), and returns those certificates that
    /// had passed before, by the addresses of their objects.
    ///
    /// Each certificate takes the place of the one that OpenSSL has just read from the same bytes and that nobody else has seen: in the list
    /// that it verifies, and that it then takes the key from which the peer must prove to have. A key is read once for all handshakes of a
    /// certificate; nothing is verified less often for it.
    private func readKeys(_ storeContext: OpaquePointer) throws(ChainRefusal) -> [UInt: Certificate] {
        guard let library = unsafe ContextPolicy.libraries.certificates,
            let presented = unsafe X509_STORE_CTX_get0_untrusted(storeContext)
        else { return [:] }
        var known: [UInt: Certificate] = [:]
        for index in 0..<(unsafe COpenSSL_sk_X509_num(presented)) {
            guard let bare = unsafe COpenSSL_sk_X509_value(presented, index) else { continue }
            let complete: OpaquePointer
            if let certificate = unsafe CertificateFingerprint(of: bare).flatMap({ fingerprint in leaves.withLock { $0[fingerprint] } }) {
                unsafe complete = certificate.withUnsafeX509 { x509 in
                    unsafe X509_up_ref(x509)
                    return unsafe x509
                }
                known[UInt(bitPattern: complete)] = certificate
            } else if let copy = unsafe mws_x509_read_again(bare, library) {
                unsafe complete = unsafe copy
            } else {
                throw ChainRefusal(rule: .malformed("it cannot be read"), result: X509_V_ERR_CERT_REJECTED, certificate: nil)
            }
            _ = unsafe COpenSSL_sk_X509_set(presented, index, complete)
            if index == 0 { unsafe X509_STORE_CTX_set_cert(storeContext, complete) }
            unsafe X509_free(bare)
        }
        return known
    }

    /// Rules 1 to 4 for the chain of `storeContext`. `known` are certificates by the addresses of their objects.
    private func verdict(_ storeContext: OpaquePointer, _ known: [UInt: Certificate]) throws(ChainRefusal) -> AcceptedChain {
        let accepted = try unsafe verify(storeContext, known)
        let leaf = accepted.chain[0]
        func refusal(_ rule: ChainRefusal.Rule, _ result: Int32 = X509_V_ERR_CERT_REJECTED) -> ChainRefusal {
            ChainRefusal(rule: rule, result: result, certificate: TLSError.CertificateSummary(leaf, depth: 0))
        }
        if ownKeys.contains(leaf.publicKeyPin) { throw refusal(.ownKey) }
        if let pins, !pins.contains(leaf.sha256) { throw refusal(.notPinned) }
        if let refused = refusals.refusal(of: accepted.chain, names: trustStore.alias(of: leaf).map { [$0] } ?? []) {
            // For the peer it is what it is: taken back.
            throw refusal(.refused(refused), X509_V_ERR_CERT_REVOKED)
        }
        return accepted
    }

    /// Rule 1.
    private func verify(_ storeContext: OpaquePointer, _ known: [UInt: Certificate]) throws(ChainRefusal) -> AcceptedChain {
        unsafe setCallback(of: storeContext)
        let isValid = unsafe X509_verify_cert(storeContext) == 1
        let result = unsafe X509_STORE_CTX_get_error(storeContext)
        guard isValid, result == X509_V_OK else {
            let offending = unsafe X509_STORE_CTX_get_current_cert(storeContext) ?? X509_STORE_CTX_get0_cert(storeContext)
            let certificate = unsafe offending.flatMap { unsafe try? Certificate(sharing: $0, source: "peer") }
            let depth = unsafe Int(X509_STORE_CTX_get_error_depth(storeContext))
            throw ChainRefusal(
                rule: .chain, result: result == X509_V_OK ? X509_V_ERR_UNSPECIFIED : result,
                certificate: certificate.map { TLSError.CertificateSummary($0, depth: depth) },
                // OpenSSL has forgotten by now which list it was.
                revocationList: result == X509_V_ERR_CRL_HAS_EXPIRED
                    ? trustStore.revocationLists.first { $0.issuer == certificate?.issuer } : nil)
        }
        let accepted: AcceptedChain
        do {
            let chain = try unsafe elements(of: X509_STORE_CTX_get0_chain(storeContext)).map { element in
                // Our own are read already.
                if let own = anchors[UInt(bitPattern: element)] ?? known[UInt(bitPattern: element)] { return own }
                return try unsafe remembered(element)
            }
            let sent = try unsafe elements(of: X509_STORE_CTX_get0_untrusted(storeContext)).map { element in
                // Most often the chain without its anchor: shared, not kept twice.
                if let known = chain.first(where: { unsafe $0.withUnsafeX509 { unsafe X509_cmp($0, element) == 0 } }) { return known }
                return try unsafe Certificate(sharing: element, source: "peer")
            }
            accepted = AcceptedChain(chain: chain, sent: sent)
        } catch {
            throw ChainRefusal(rule: .malformed("\(error)"), result: X509_V_ERR_CERT_REJECTED, certificate: nil)
        }
        guard !accepted.chain.isEmpty else {
            throw ChainRefusal(rule: .malformed("no certificate"), result: X509_V_ERR_UNSPECIFIED, certificate: nil)
        }
        return accepted
    }

    /// The certificate of `x509`, whose chain has been verified.
    private func remembered(_ x509: OpaquePointer) throws -> Certificate {
        let fingerprint = unsafe CertificateFingerprint(of: x509)
        if let fingerprint, let known = leaves.withLock({ $0[fingerprint] }) { return known }
        let certificate = trustStore.interned(try unsafe Certificate(sharing: x509, source: "peer"))
        guard certificate.derBytes.count <= Self.maximumRememberedLeafBytes else { return certificate }
        leaves.withLock { leaves in
            if leaves.count >= Self.maximumRememberedLeaves { leaves.removeAll() }
            leaves[certificate.sha256] = certificate
        }
        return certificate
    }

    /// What is called for each certificate of the chain that passed, and for each error, returns what OpenSSL said.
    private func setCallback(of storeContext: OpaquePointer) {
        guard trustStore.revocationGraceSeconds == 0 else { return unsafe allowGrace(storeContext) }
        unsafe X509_STORE_CTX_set_verify_cb(storeContext) { isValid, storeContext in
            unsafe PeerVerification.giveWay(storeContext)
            return isValid
        }
    }

    /// In a handshake, between two signatures.
    private static func giveWay(_ storeContext: OpaquePointer?) {
        guard let storeContext = unsafe storeContext,
            let ssl = unsafe X509_STORE_CTX_get_ex_data(storeContext, SSL_get_ex_data_X509_STORE_CTX_idx())
        else { return }
        unsafe CiphertextBIO.state(of: SSL_get_rbio(OpaquePointer(ssl)))?.pointee.giveWay?()
    }

    /// Where an operator said so, a list that is out of date for no longer than that is still believed. Nothing else is let through: the
    /// callback answers for this one error, and for that list.
    private func allowGrace(_ storeContext: OpaquePointer) {
        _ = unsafe X509_STORE_CTX_set_ex_data(storeContext, Self.ownIndex, Unmanaged.passUnretained(self).toOpaque())
        unsafe X509_STORE_CTX_set_verify_cb(storeContext) { isValid, storeContext in
            unsafe PeerVerification.giveWay(storeContext)
            guard isValid == 0, let storeContext = unsafe storeContext else { return isValid }
            guard unsafe X509_STORE_CTX_get_error(storeContext) == X509_V_ERR_CRL_HAS_EXPIRED,
                let own = unsafe X509_STORE_CTX_get_ex_data(storeContext, PeerVerification.ownIndex)
            else { return 0 }
            let verification = unsafe Unmanaged<PeerVerification>.fromOpaque(own).takeUnretainedValue()
            guard let list = unsafe verification.revocationList(X509_STORE_CTX_get0_current_crl(storeContext)),
                verification.time ?? .now() < list.end(grace: verification.trustStore.revocationGraceSeconds)
            else { return 0 }
            unsafe X509_STORE_CTX_set_error(storeContext, X509_V_OK)
            return 1
        }
    }

    private static let ownIndex = CRYPTO_get_ex_new_index(CRYPTO_EX_INDEX_X509_STORE_CTX, 0, nil, nil, nil, nil)

    /// The one of our lists that OpenSSL speaks of: it has the same object.
    private func revocationList(_ pointer: OpaquePointer?) -> CertificateRevocationList? {
        guard let pointer = unsafe pointer else { return nil }
        return trustStore.revocationLists.first { unsafe $0.withUnsafeCRL { $0 == pointer } }
    }

    /// No signature is looked at.
    func isSuspect(_ peer: VerifiedPeer) -> Bool {
        guard let anchor = peer.chain.last, trustStore.contains(anchor), refusals.refusal(of: peer.chain) == nil else { return true }
        return peer.chain.contains { certificate in
            trustStore.revocationLists.contains {
                $0.issuer == certificate.issuer && $0.revokedSerialNumbers.contains(certificate.serialNumber)
            }
        }
    }

    /// Rules 1 to 4 for a peer that is connected, with what it presented then. `context` is the SSL_CTX of these rules.
    func judge(_ peer: VerifiedPeer, by context: OpaquePointer, role: TLSContext.Role) -> Result<VerifiedPeer, TLSError> {
        ERR_clear_error()
        defer { ERR_clear_error() }
        // Both fail only when memory is exhausted.
        guard let storeContext = unsafe X509_STORE_CTX_new(), let sent = unsafe COpenSSL_sk_X509_new_null() else {
            return .failure(TLSError(.certificateRejected, "peer", "cannot be judged again", underlying: OpenSSLErrors.drain().lines))
        }
        defer {
            unsafe X509_STORE_CTX_free(storeContext)
            unsafe COpenSSL_sk_X509_free(sent)
        }
        return withExtendedLifetime(peer) {
            for certificate in peer.sent { _ = unsafe certificate.withUnsafeX509 { unsafe COpenSSL_sk_X509_push(sent, $0) } }
            let isReady = unsafe peer.leaf.withUnsafeX509 {
                unsafe X509_STORE_CTX_init(storeContext, SSL_CTX_get_cert_store(context), $0, sent)
            }
            guard isReady == 1 else {
                return .failure(TLSError(.certificateRejected, "peer", "cannot be judged again", underlying: OpenSSLErrors.drain().lines))
            }
            // As libssl does in a handshake (ssl_verify_cert_chain).
            let parameters = unsafe X509_STORE_CTX_get0_param(storeContext)
            unsafe X509_VERIFY_PARAM_set_auth_level(parameters, SSL_CTX_get_security_level(context))
            _ = unsafe X509_STORE_CTX_set_default(storeContext, role == .server ? "ssl_client" : "ssl_server")
            _ = unsafe X509_VERIFY_PARAM_set1(parameters, SSL_CTX_get0_param(context))
            do throws(ChainRefusal) {
                let accepted = try unsafe verdict(storeContext, [:])
                return .success(
                    VerifiedPeer(
                        chain: accepted.chain, sent: accepted.sent, validUntil: trustStore.end(of: accepted.chain),
                        tlsVersion: peer.tlsVersion, cipher: peer.cipher, group: peer.group,
                        alias: trustStore.alias(of: accepted.chain[0]), announcedIssuers: peer.announcedIssuers))
            } catch {
                return .failure(TLSError.refused(error, expectedName))
            }
        }
    }

    /// Rule 5, once OpenSSL says that the handshake is over.
    func accept(_ ssl: OpaquePointer, _ state: UnsafeMutablePointer<SessionState>) -> Result<VerifiedPeer, TLSError> {
        let accepted = unsafe state.pointee.acceptedChain
        unsafe state.pointee.acceptedChain = nil
        guard let presented = unsafe SSL_get0_peer_certificate(ssl) else { return .failure(.noPeerCertificate) }
        let result = unsafe SSL_get_verify_result(ssl)
        guard result == Int(X509_V_OK) else {
            return .failure(TLSError.refused(ChainRefusal(rule: .chain, result: Int32(clamping: result), certificate: nil), expectedName))
        }
        guard unsafe SSL_session_reused(ssl) == 0, let accepted, let leaf = accepted.chain.first,
            unsafe leaf.withUnsafeX509({ unsafe X509_cmp($0, presented) }) == 0
        else {
            return .failure(TLSError(.certificateRejected, "peer", "its certificate was not verified in this handshake"))
        }
        guard let version = unsafe string(SSL_get_version(ssl)).flatMap(TLSPolicy.Version.init(rawValue:)) else {
            return .failure(TLSError(.versionRejected, "peer", "an older protocol version was negotiated", expected: "TLS 1.2 or 1.3"))
        }
        return .success(
            unsafe VerifiedPeer(
                chain: accepted.chain, sent: accepted.sent, validUntil: trustStore.end(of: accepted.chain), tlsVersion: version,
                cipher: string(SSL_CIPHER_get_name(SSL_get_current_cipher(ssl))) ?? "unknown",
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

    private func elements(of stack: OpaquePointer?) -> [OpaquePointer] {
        unsafe (0..<max(0, unsafe OPENSSL_sk_num(stack))).compactMap { index in
            unsafe OPENSSL_sk_value(stack, index).map { OpaquePointer($0) }
        }
    }
}
