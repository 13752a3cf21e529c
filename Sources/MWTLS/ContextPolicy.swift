// What OpenSSL is told, once for each context. The Mozilla "intermediate" profile without its DHE suites, mutual authentication, and no
// way to skip a handshake.

internal import COpenSSL
internal import MWPKI

enum ContextPolicy {
    /// TLS 1.2: ephemeral elliptic curves and authenticated encryption only. TLS 1.3 keeps OpenSSL's three suites.
    private static let cipherList = "ECDHE+AESGCM:ECDHE+CHACHA20:!aDSS:!aNULL:!PSK:!SRP"
    private static let groups = "X25519:P-256:P-384"
    /// Known to OpenSSL 3.5 and later.
    private static let postQuantumGroup = "X25519MLKEM768"
    /// No DSA, no SHA-1, no SHA-224.
    private static let signatureAlgorithms = [
        "ecdsa_secp256r1_sha256", "ecdsa_secp384r1_sha384", "ecdsa_secp521r1_sha512", "ed25519", "ed448",
        "rsa_pss_rsae_sha256", "rsa_pss_rsae_sha384", "rsa_pss_rsae_sha512", "rsa_pss_pss_sha256", "rsa_pss_pss_sha384",
        "rsa_pss_pss_sha512", "rsa_pkcs1_sha256", "rsa_pkcs1_sha384", "rsa_pkcs1_sha512",
    ].joined(separator: ":")
    /// 112 bits: RSA 2048, no SHA-1. Debian's default, stated here because openssl.cnf can lower it.
    private static let securityLevel: Int32 = 2
    /// All names together in the CertificateRequest; a longer list is left out, which means "any". Old stacks fail above 16 KiB.
    private static let maximumAuthorityNameBytes = 8 * 1024

    /// Before anything else loads openssl.cnf: a machine's configuration must not change this policy.
    static func initializeLibrary() {
        _ = libraryInitialization
    }
    private static let libraryInitialization: Int32 = OPENSSL_init_ssl(UInt64(OPENSSL_INIT_NO_LOAD_CONFIG), nil)

    /// What TLS looks algorithms up in, and what reads the keys of peers' certificates; no configuration file reaches them. `nil`: OpenSSL's
    /// own, and TLS itself.
    // Safety: OpenSSL's library contexts may be used by any number of threads; these live as long as the process.
    nonisolated(unsafe) static let libraries: mws_libraries = {
        initializeLibrary()
        defer { ERR_clear_error() }
        return unsafe mws_make_libraries()
    }()

    /// Versions, suites, options. Returns whether a post-quantum group is on offer.
    static func apply(_ policy: TLSPolicy, to context: OpaquePointer) throws(TLSError) -> Bool {
        guard policy.minimumVersion <= policy.maximumVersion else {
            throw TLSError(
                .policyRejected, "versions", "the minimum is above the maximum",
                found: "\(policy.minimumVersion) to \(policy.maximumVersion)")
        }
        unsafe SSL_CTX_set_security_level(context, securityLevel)
        _ = unsafe SSL_CTX_clear_options(context, mws_ssl_options_off)
        _ = unsafe SSL_CTX_set_options(context, mws_ssl_options_on)
        unsafe mws_ssl_ctx_set_mode(context, mws_ssl_modes)
        // In 1.3 SSL_OP_NO_TICKET alone still sends tickets that point into the cache (tls.md finding 5: a revoked client resumes).
        unsafe mws_ssl_ctx_disable_session_cache(context)
        let isApplied =
            unsafe mws_ssl_ctx_set_min_version(context, number(policy.minimumVersion)) == 1
            && mws_ssl_ctx_set_max_version(context, number(policy.maximumVersion)) == 1
            && SSL_CTX_set_cipher_list(context, cipherList) == 1
            && mws_ssl_ctx_set_signature_algorithms(context, signatureAlgorithms) == 1
            && mws_ssl_ctx_set_client_signature_algorithms(context, signatureAlgorithms) == 1
            && SSL_CTX_set_num_tickets(context, 0) == 1
            // None is accepted; what a client with a foreign ticket sends all the same is skipped, up to OpenSSL's 16 KiB (RFC 8446 §4.2.10).
            && SSL_CTX_set_max_early_data(context, 0) == 1
        unsafe mws_ssl_ctx_set_maximum_chain_bytes(context, policy.maximumPeerChainBytes)
        unsafe SSL_CTX_set_verify_depth(context, Int32(clamping: policy.verificationDepth))
        let offersPostQuantum = unsafe mws_ssl_ctx_set_groups(context, "\(postQuantumGroup):\(groups)") == 1
        let hasGroups = unsafe offersPostQuantum || mws_ssl_ctx_set_groups(context, groups) == 1
        let errors = OpenSSLErrors.drain()
        guard isApplied, hasGroups, unsafe SSL_CTX_get_security_level(context) == securityLevel else {
            throw TLSError(.policyRejected, "OpenSSL", "does not accept the policy", underlying: errors.lines)
        }
        return offersPostQuantum
    }

    private static func number(_ version: TLSPolicy.Version) -> Int32 {
        switch version {
        case .tls12: TLS1_2_VERSION
        case .tls13: TLS1_3_VERSION
        }
    }

    /// Our identity.
    static func use(_ identity: Identity, in context: OpaquePointer) throws(TLSError) {
        ERR_clear_error()
        let isUsed =
            unsafe identity.leaf.withUnsafeX509({ unsafe SSL_CTX_use_certificate(context, $0) }) == 1
            && identity.key.withUnsafeKey({ unsafe SSL_CTX_use_PrivateKey(context, $0) }) == 1
            && SSL_CTX_check_private_key(context) == 1
        guard isUsed else { throw rejected(identity.leaf.subject, "OpenSSL cannot use this certificate and key") }
        for certificate in identity.intermediates {
            guard unsafe certificate.withUnsafeX509({ unsafe mws_ssl_ctx_add_chain_certificate(context, $0) }) == 1 else {
                throw rejected(certificate.subject, "OpenSSL cannot use this intermediate certificate")
            }
        }
    }

    private static func rejected(_ subject: String, _ what: String) -> TLSError {
        TLSError(
            .materialRejected, subject, what, remedy: "check that they belong together and are EC P-256 or RSA 2048, signed with SHA-256",
            underlying: OpenSSLErrors.drain().lines)
    }

    /// Whom we trust, and what a server tells clients about that.
    static func trust(_ trustStore: TrustStore, role: TLSContext.Role, in context: OpaquePointer) throws(TLSError) {
        ERR_clear_error()
        guard !trustStore.anchors.isEmpty else {
            throw TLSError(.materialRejected, "trust store", "holds no certificate", remedy: "add the authorities or peers to accept")
        }
        guard let store = unsafe X509_STORE_new() else { throw rejected("trust store", "OpenSSL makes no store") }
        defer { unsafe X509_STORE_free(store) }
        for anchor in trustStore.anchors {
            guard unsafe anchor.certificate.withUnsafeX509({ unsafe X509_STORE_add_cert(store, $0) }) == 1 else {
                throw rejected(anchor.certificate.subject, "OpenSSL cannot use this trust anchor")
            }
        }
        for list in trustStore.revocationLists {
            guard unsafe list.withUnsafeCRL({ unsafe X509_STORE_add_crl(store, $0) }) == 1 else {
                throw rejected("revocation list", "OpenSSL cannot use this revocation list")
            }
        }
        unsafe SSL_CTX_set1_cert_store(context, store)
        guard role == .server else { return }
        unsafe setSessionIDContext(trustStore, in: context)
        unsafe nameAuthorities(trustStore, in: context)
    }

    /// Without it a client that tries to resume loses its connection with internal_error instead of getting a full handshake (tls.md finding 7).
    private static func setSessionIDContext(_ trustStore: TrustStore, in context: OpaquePointer) {
        var bytes: [UInt8] = []
        for anchor in trustStore.anchors { bytes += anchor.certificate.sha256.bytes }
        var digest = [UInt8](repeating: 0, count: Int(SHA256_DIGEST_LENGTH))
        _ = unsafe SHA256(bytes, bytes.count, &digest)
        _ = unsafe SSL_CTX_set_session_id_context(context, digest, UInt32(digest.count))
    }

    /// The authorities a client may choose its certificate by. In the documented layout all subjects are equal: sent once.
    private static func nameAuthorities(_ trustStore: TrustStore, in context: OpaquePointer) {
        var seen: Set<[UInt8]> = []
        var certificates: [Certificate] = []
        for anchor in trustStore.anchors {
            let name = unsafe anchor.certificate.withUnsafeX509 { unsafe encodedSubject($0) }
            if seen.insert(name).inserted { certificates.append(anchor.certificate) }
        }
        guard seen.reduce(0, { $0 + $1.count }) <= maximumAuthorityNameBytes else { return }
        for certificate in certificates {
            _ = unsafe certificate.withUnsafeX509 { unsafe SSL_CTX_add_client_CA(context, $0) }
        }
    }

    private static func encodedSubject(_ certificate: OpaquePointer) -> [UInt8] {
        let name = unsafe X509_get_subject_name(certificate)
        let count = Int(unsafe i2d_X509_NAME(name, nil))
        guard count > 0 else { return [] }
        return unsafe [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
            var next = buffer.baseAddress
            initialized = unsafe max(0, Int(i2d_X509_NAME(name, &next)))
        }
    }

    /// How X509_verify_cert judges peers. The purpose (sslclient on servers, sslserver on clients) is libssl's default.
    static func verify(
        _ policy: TLSPolicy, _ trustStore: TrustStore, _ verification: ServerVerification?, in context: OpaquePointer
    ) {
        let parameters = unsafe SSL_CTX_get0_param(context)
        var flags = UInt(X509_V_FLAG_TRUSTED_FIRST)
        if trustStore.revocationLists.isEmpty {
            // An anchor need not be a root, and is found by its certificate, not only by its name (tls.md finding 1).
            flags |= UInt(X509_V_FLAG_PARTIAL_CHAIN)
        } else {
            // Lists in the store without these flags are silently ignored (tls.md case 7); CRL_CHECK alone looks at the leaf only. Not
            // with PARTIAL_CHAIN: a chain that ends in an intermediate asks for a list of its issuer, which is then never found (error 3).
            // `TrustStore` admits lists only where each anchor leads to a root that is an anchor too.
            flags |= UInt(X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL)
        }
        _ = unsafe X509_VERIFY_PARAM_set_flags(parameters, flags)
        if let moment = policy.verificationTime {
            unsafe X509_VERIFY_PARAM_set_time(parameters, time_t(moment.secondsSince1970))
        }
        switch verification {
        case .name(.dns(let host))?:
            // RFC 9525 §6.3: no partial wildcards; §2: the subject's common name is not looked at.
            unsafe X509_VERIFY_PARAM_set_hostflags(
                parameters, UInt32(X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | X509_CHECK_FLAG_NEVER_CHECK_SUBJECT))
            precondition(unsafe X509_VERIFY_PARAM_set1_host(parameters, host, host.utf8.count) == 1, "a ServerName is a valid host")
        case .name(.ip(let address))?:
            precondition(unsafe X509_VERIFY_PARAM_set1_ip_asc(parameters, address) == 1, "a ServerName is a valid address")
        case .pinned?, nil:
            break
        }
    }
}
