internal import CCurl

/// What libcurl says of a transfer that failed, and what that means.
struct TransferOutcome {
    var code: CURLcode
    /// Its own words.
    var message: String
    /// OpenSSL's verdict on the chain, X509_V_ERR_…, where there is one.
    var verification: Int
    var collected: ReplyCollector.Failure?

    func error(
        subject: String, limits: HTTPTransferLimits, maximumBodyBytes: Int
    ) -> HTTPTransferError {
        func error(_ code: HTTPTransferError.Code, _ what: String, _ remedy: String? = nil) -> HTTPTransferError {
            HTTPTransferError(code, subject: subject, what, remedy: remedy, underlying: [message])
        }
        if let collected { return collected.error(subject: subject, limits: limits, maximumBodyBytes: maximumBodyBytes) }
        switch code {
        case CURLE_OPERATION_TIMEDOUT:
            return error(.timedOut, "no whole reply in time", "check the network and the server; try again")
        case CURLE_COULDNT_RESOLVE_HOST: return error(.nameNotResolved, "the name has no address", "check the name and the DNS")
        case CURLE_COULDNT_RESOLVE_PROXY:
            return error(.nameNotResolved, "the proxy's name has no address", "check https_proxy in the environment")
        case CURLE_COULDNT_CONNECT: return error(.connectFailed, "no connection", "check host, port and firewalls; is the server up?")
        case CURLE_PEER_FAILED_VERIFICATION: return error(.serverNotTrusted, "the server's certificate was refused", verificationRemedy)
        case CURLE_SSL_CACERT_BADFILE:
            return error(.configurationInvalid, "the trust anchors cannot be read", "give certificates in PEM form")
        case CURLE_SSL_CONNECT_ERROR:
            if wasCut { return error(.connectionLost, "the connection ended within the TLS handshake", "try again") }
            return error(.tlsFailed, "no TLS connection", "the server must speak TLS 1.2 or newer on this port")
        case CURLE_SSL_CIPHER, CURLE_SSL_INVALIDCERTSTATUS, CURLE_SSL_ISSUER_ERROR, CURLE_SSL_CLIENTCERT, CURLE_SSL_SHUTDOWN_FAILED,
            CURLE_USE_SSL_FAILED:
            return error(.tlsFailed, "TLS failed")
        case CURLE_FILESIZE_EXCEEDED: return error(.bodyTooLarge, "the reply is larger than \(maximumBodyBytes) bytes")
        case CURLE_PARTIAL_FILE: return error(.replyTruncated, "the connection ended within the reply", "try again")
        case CURLE_RECV_ERROR where message.contains("unexpected eof"):
            return error(.replyTruncated, "the connection was cut within the reply", "try again")
        case CURLE_SEND_ERROR, CURLE_RECV_ERROR, CURLE_GOT_NOTHING: return error(.connectionLost, "the connection was lost", "try again")
        // The scheme was checked: this is a reply without any status line.
        case CURLE_UNSUPPORTED_PROTOCOL, CURLE_WEIRD_SERVER_REPLY, CURLE_BAD_CONTENT_ENCODING, CURLE_HTTP2, CURLE_HTTP2_STREAM:
            return error(.replyMalformed, "the reply is not HTTP/1.1", "is this the right server and port?")
        case CURLE_URL_MALFORMAT: return error(.requestInvalid, "the URL cannot be used")
        default: return error(.ownFailure, "the transfer failed (libcurl \(code.rawValue))")
        }
    }

    /// RST or an end without a word, where OpenSSL knows no reason.
    private var wasCut: Bool {
        ["Connection reset by peer", "SSL_ERROR_SYSCALL", "unexpected eof"].contains { message.contains($0) }
    }

    // x509_vfy.h: X509_V_ERR_…
    private var verificationRemedy: String {
        if message.contains("target host name") { return "use a name that the server's certificate has" }
        return switch verification {
        case 9: "the certificate is not valid yet: check this machine's clock"
        case 10: "the certificate is expired: the server must renew it; or check this machine's clock"
        case 2, 18, 19, 20, 21, 27: "for a private CA, give its root certificate as CA file"
        case 23: "the certificate is revoked: do not trust this server"
        default: "the server's certificate must be mended"
        }
    }
}

extension ReplyCollector.Failure {
    func error(subject: String, limits: HTTPTransferLimits, maximumBodyBytes: Int) -> HTTPTransferError {
        switch self {
        case .headersTooLarge:
            HTTPTransferError(
                .headersTooLarge, subject: subject, "the reply's headers are larger than \(limits.maximumHeaderBytes) bytes",
                remedy: "is this the right server?")
        case .bodyTooLarge:
            HTTPTransferError(
                .bodyTooLarge, subject: subject, "the reply is larger than \(maximumBodyBytes) bytes", remedy: "is this the right server?")
        case .lengthUnknown:
            HTTPTransferError(
                .replyTruncated, subject: subject, "the reply does not say how long it is: nobody can know whether it is whole",
                remedy: "is this the right server?")
        case .malformed: HTTPTransferError(.replyMalformed, subject: subject, "the reply is not HTTP/1.1")
        }
    }
}
