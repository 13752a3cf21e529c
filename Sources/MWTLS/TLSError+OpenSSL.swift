// OpenSSL's reasons as ours: X509_V_ERR_… of a refused chain, SSL_R_… of a failed handshake.

internal import COpenSSL
internal import MWPKI

extension TLSError {
    static let noPeerCertificate = TLSError(
        .certificateRequired, "peer", "presented no certificate", expected: "a certificate that our trust store accepts",
        remedy: "give the other side an identity")

    /// The error for a chain that `PeerVerification` refused.
    static func refused(_ refusal: ChainRefusal, _ expectedName: ServerName?) -> TLSError {
        let certificate = refusal.certificate
        var error: TLSError
        switch refusal.rule {
        case .ownKey:
            error = TLSError(
                .ownCertificate, "peer", "presented our own key", expected: "a key of its own",
                found: certificate.map { "\($0.fingerprint)" }, remedy: "make an identity for each side; never copy a private key")
        case .notPinned:
            error = TLSError(
                .certificateNotPinned, "peer", "its certificate is not one of the pinned ones",
                found: certificate.map { "\($0.fingerprint)" },
                remedy: "compare the fingerprint with the server's operator, then pin the new one")
        case .refused(let refusal):
            error = TLSError(
                .certificateRefused, "peer certificate", "is on our list of refusals", found: "\(refusal)",
                remedy: "issue a new certificate, or take the refusal back")
        case .malformed(let what):
            error = TLSError(.certificateRejected, "peer", "its certificate cannot be read", found: what)
        case .chain:
            error = chainError(refusal, expectedName)
        }
        error.certificate = certificate
        error.verificationResult = Int(refusal.result)
        return error
    }

    private static func chainError(_ refusal: ChainRefusal, _ expectedName: ServerName?) -> TLSError {
        let certificate = refusal.certificate
        let reason = unsafe string(X509_verify_cert_error_string(Int(refusal.result))) ?? "unknown reason"
        func error(_ code: Code, expected: String? = nil, found: String? = nil, remedy: String? = nil) -> TLSError {
            TLSError(
                code, "peer certificate", reason.prefix(1).lowercased() + reason.dropFirst(), expected: expected, found: found,
                remedy: remedy)
        }
        let trust = "add its certificate, or the authority that signed it, to the trust store"
        switch refusal.result {
        case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT, X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY,
            X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
            return error(
                .unknownCA, found: certificate.map { "issuer \($0.issuer)" }, remedy: trust + "; have the peer send its intermediates")
        case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT, X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
            return error(.untrustedSelfSigned, found: certificate.map { "\($0.fingerprint)" }, remedy: trust)
        case X509_V_ERR_CERT_HAS_EXPIRED:
            return error(
                .certificateExpired, found: certificate.map { "valid until \($0.notAfter)" }, remedy: "renew it and compare the clocks")
        case X509_V_ERR_CERT_NOT_YET_VALID:
            // OpenSSL has judged by this clock too.
            let now = Timestamp.now()
            if let certificate, ClockJudgement.isBehind(now, notBefore: certificate.notBefore) { return clockBehind(certificate, now) }
            return error(.certificateNotYetValid, found: certificate.map { "valid from \($0.notBefore)" }, remedy: "compare the clocks")
        case X509_V_ERR_CERT_REVOKED:
            return error(.certificateRevoked, remedy: "issue a new certificate: this one was revoked by its authority")
        case X509_V_ERR_UNABLE_TO_GET_CRL, X509_V_ERR_UNABLE_TO_GET_CRL_ISSUER:
            return error(
                .revocationListMissing, found: certificate.map { "issuer \($0.issuer)" }, remedy: "load the list of that authority")
        case X509_V_ERR_CRL_HAS_EXPIRED, X509_V_ERR_CRL_NOT_YET_VALID:
            let list = refusal.revocationList
            return error(
                .revocationListExpired, found: list.map { "list of \($0.issuer), its successor was due at \($0.nextUpdate)" },
                remedy: "fetch the authority's current list and reload")
        case X509_V_ERR_INVALID_PURPOSE:
            return error(
                .purposeMismatch, expected: "an extended key usage that allows this side of a connection",
                remedy: "issue the certificate with clientAuth for clients and serverAuth for servers")
        case X509_V_ERR_EE_KEY_TOO_SMALL, X509_V_ERR_CA_KEY_TOO_SMALL:
            return error(.keyTooWeak, expected: "EC P-256, Ed25519, RSA 2048 or stronger", remedy: "make a stronger key")
        case X509_V_ERR_CA_MD_TOO_WEAK:
            return error(.signatureTooWeak, expected: "SHA-256 or stronger", remedy: "have the certificate signed again")
        case X509_V_ERR_INVALID_CA:
            return error(.issuerNotAuthority, remedy: "sign with a certificate that is an authority (basicConstraints CA)")
        case X509_V_ERR_PERMITTED_VIOLATION, X509_V_ERR_EXCLUDED_VIOLATION, X509_V_ERR_SUBTREE_MINMAX,
            X509_V_ERR_UNSUPPORTED_CONSTRAINT_TYPE, X509_V_ERR_UNSUPPORTED_CONSTRAINT_SYNTAX, X509_V_ERR_UNSUPPORTED_NAME_SYNTAX:
            return error(.nameConstraintViolated)
        case X509_V_ERR_CERT_CHAIN_TOO_LONG, X509_V_ERR_PATH_LENGTH_EXCEEDED:
            return error(.chainTooLong, remedy: "use fewer intermediates, or trust one of them")
        case X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH:
            return error(
                .serverNameMismatch, expected: expectedName.map { "a subject alternative name \($0)" },
                found: certificate.map { "subject \($0.subject)" },
                remedy: "connect with a name of the certificate, reissue it with that name, or pin its fingerprint")
        default:
            return error(.certificateRejected)
        }
    }

    private static func clockBehind(_ certificate: CertificateSummary, _ now: Timestamp) -> TLSError {
        TLSError(
            .clockBehind, "this machine's clock", "is behind: the peer's certificate seems to begin in the future",
            expected: "a time after \(certificate.notBefore)", found: "\(now)",
            remedy: "set the clock of this machine (NTP), then try again")
    }

    /// The error for a handshake that OpenSSL's own checks ended.
    static func handshake(_ errors: OpenSSLErrors, alertSent: TLSAlert?) -> TLSError {
        for reason in errors.sslReasons {
            if var error = known(reason) {
                error.alert = error.alert ?? alertSent
                error.underlying = errors.lines
                return error
            }
        }
        return TLSError(
            .handshakeFailed, "handshake", errors.lines.last.map(reasonText) ?? "failed", alert: alertSent, underlying: errors.lines)
    }

    private static func known(_ reason: Int32) -> TLSError? {
        switch reason {
        case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
            return .noPeerCertificate
        case SSL_R_HTTP_REQUEST, SSL_R_HTTPS_PROXY_REQUEST:
            return TLSError(
                .plaintextReceived, "peer", "spoke plain HTTP on the TLS port", expected: "a TLS client hello",
                remedy: "connect with wss:// or https://")
        case SSL_R_UNSUPPORTED_PROTOCOL, SSL_R_NO_PROTOCOLS_AVAILABLE, SSL_R_VERSION_TOO_LOW, SSL_R_UNKNOWN_PROTOCOL,
            SSL_R_UNKNOWN_SSL_VERSION, SSL_R_INAPPROPRIATE_FALLBACK:
            return TLSError(.versionRejected, "peer", "offers no protocol version that we accept", expected: "TLS 1.2 or 1.3")
        case SSL_R_WRONG_VERSION_NUMBER:
            return TLSError(.versionRejected, "peer", "sent a record of another protocol", expected: "TLS 1.2 or 1.3")
        case SSL_R_NO_SHARED_CIPHER, SSL_R_NO_SHARED_GROUPS, SSL_R_NO_SUITABLE_KEY_SHARE, SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM,
            SSL_R_NO_SHARED_SIGNATURE_ALGORITHMS, SSL_R_WRONG_SIGNATURE_TYPE, SSL_R_WRONG_CURVE, SSL_R_UNSUPPORTED_ELLIPTIC_CURVE:
            return TLSError(
                .parametersNotShared, "peer", "offers no cipher suite, group or signature algorithm that we accept",
                remedy: "compare the two sides with `mwstorage doctor`")
        case SSL_R_EXCESSIVE_MESSAGE_SIZE:
            return TLSError(.chainTooLarge, "peer", "sent a message larger than we accept", remedy: "send a shorter certificate chain")
        case SSL_R_BAD_SIGNATURE, SSL_R_DIGEST_CHECK_FAILED:
            return TLSError(.possessionNotProven, "peer", "its signature does not fit its certificate")
        case SSL_R_DECRYPTION_FAILED_OR_BAD_RECORD_MAC, SSL_R_BAD_RECORD_TYPE, SSL_R_ENCRYPTED_LENGTH_TOO_LONG,
            SSL_R_PACKET_LENGTH_TOO_LONG, SSL_R_DATA_LENGTH_TOO_LONG, SSL_R_UNEXPECTED_MESSAGE, SSL_R_UNEXPECTED_RECORD,
            SSL_R_BAD_PACKET, SSL_R_BAD_LENGTH, SSL_R_LENGTH_MISMATCH, SSL_R_RECORD_TOO_SMALL:
            return TLSError(.recordRejected, "peer", "sent a record that breaks the protocol")
        case SSL_R_UNEXPECTED_EOF_WHILE_READING:
            return TLSError(.handshakeAbandoned, "peer", "closed the connection before the handshake was over")
        default:
            return nil
        }
    }

    /// The reason out of `error:0A000126:SSL routines::unexpected eof while reading`.
    private static func reasonText(_ line: String) -> String {
        line.split(separator: ":", omittingEmptySubsequences: false).last.map(String.init) ?? line
    }
}

extension TLSError.CertificateSummary {
    init(_ certificate: Certificate, depth: Int) {
        self.init(
            subject: certificate.subject, issuer: certificate.issuer, fingerprint: certificate.sha256,
            serialNumber: certificate.serialNumber, names: certificate.names, notBefore: certificate.notBefore,
            notAfter: certificate.notAfter, depth: depth)
    }
}
