package import MWPKI

/// What went wrong in TLS. Equality compares the code only; the rest explains.
///
/// `description` reads `tls.code: subject: what happened; what to do` and holds nothing secret.
package struct TLSError: Error, Sendable, Hashable, CustomStringConvertible {
    /// The reason, as a stable name for logs, metrics and tests. More may be added.
    package struct Code: RawRepresentable, Hashable, Sendable, CustomStringConvertible {
        package let rawValue: String
        package init(rawValue: String) { self.rawValue = rawValue }
        private init(_ name: String) { self.rawValue = name }
        package var description: String { rawValue }

        // Our own material or policy.
        package static let materialRejected = Code("materialRejected")
        package static let policyRejected = Code("policyRejected")
        /// A server without a certificate yet: it answers ACME challenges only.
        package static let identityAwaited = Code("identityAwaited")

        // The peer's certificate, judged by us.
        package static let certificateRequired = Code("certificateRequired")
        package static let unknownCA = Code("unknownCA")
        package static let untrustedSelfSigned = Code("untrustedSelfSigned")
        package static let certificateExpired = Code("certificateExpired")
        package static let certificateNotYetValid = Code("certificateNotYetValid")
        /// Not yet valid by so much, or at such a time, that it is this machine's clock that is wrong.
        package static let clockBehind = Code("clockBehind")
        package static let certificateRevoked = Code("certificateRevoked")
        package static let certificateRefused = Code("certificateRefused")
        package static let revocationListMissing = Code("revocationListMissing")
        package static let revocationListExpired = Code("revocationListExpired")
        package static let purposeMismatch = Code("purposeMismatch")
        package static let keyTooWeak = Code("keyTooWeak")
        package static let signatureTooWeak = Code("signatureTooWeak")
        package static let issuerNotAuthority = Code("issuerNotAuthority")
        package static let nameConstraintViolated = Code("nameConstraintViolated")
        package static let chainTooLong = Code("chainTooLong")
        package static let chainTooLarge = Code("chainTooLarge")
        package static let serverNameMismatch = Code("serverNameMismatch")
        package static let certificateNotPinned = Code("certificateNotPinned")
        package static let ownCertificate = Code("ownCertificate")
        package static let certificateRejected = Code("certificateRejected")
        package static let possessionNotProven = Code("possessionNotProven")

        // The peer's verdict on us.
        package static let alertReceived = Code("alertReceived")

        // The protocol.
        package static let plaintextReceived = Code("plaintextReceived")
        package static let versionRejected = Code("versionRejected")
        package static let parametersNotShared = Code("parametersNotShared")
        package static let recordRejected = Code("recordRejected")
        package static let handshakeFailed = Code("handshakeFailed")
        package static let helloChanged = Code("helloChanged")
        package static let challengeNotAlone = Code("challengeNotAlone")
        package static let challengeNotPending = Code("challengeNotPending")
        package static let keyUpdateFlood = Code("keyUpdateFlood")
        package static let renegotiationFlood = Code("renegotiationFlood")

        // The connection.
        package static let handshakeTimedOut = Code("handshakeTimedOut")
        package static let handshakeQueueFull = Code("handshakeQueueFull")
        package static let handshakeAbandoned = Code("handshakeAbandoned")
        package static let truncated = Code("truncated")
        package static let closed = Code("closed")
        package static let tooMuchEarlyPlaintext = Code("tooMuchEarlyPlaintext")
    }

    /// A certificate that an error speaks of.
    package struct CertificateSummary: Sendable, Hashable, CustomStringConvertible {
        package let subject: String
        package let issuer: String
        package let fingerprint: CertificateFingerprint
        /// Lower-case hex, without leading zeros.
        package let serialNumber: String
        /// Its subject alternative names, those of URIs first.
        package let names: [String]
        package let notBefore: Timestamp
        package let notAfter: Timestamp
        /// How far up the chain: 0 is the leaf.
        package let depth: Int

        package var description: String {
            "certificate \(depth) of the chain, subject \(subject), issuer \(issuer), serial \(serialNumber), \(fingerprint)"
        }
    }

    package var code: Code
    /// What it is about: a certificate, our identity, the peer.
    package var subject: String
    package var what: String
    package var expected: String?
    package var found: String?
    package var remedy: String?
    /// The certificate of the peer's chain that was refused.
    package var certificate: CertificateSummary?
    /// The alert received (`alertReceived`), or the one sent to the peer because of this error.
    package var alert: TLSAlert?
    /// OpenSSL's X509_V_ERR_ number behind a refused certificate.
    package var verificationResult: Int?
    /// OpenSSL's error queue, oldest first.
    package var underlying: [String]

    package init(
        _ code: Code, _ subject: String, _ what: String, expected: String? = nil, found: String? = nil, remedy: String? = nil,
        certificate: CertificateSummary? = nil, alert: TLSAlert? = nil, verificationResult: Int? = nil, underlying: [String] = []
    ) {
        self.code = code
        self.subject = subject
        self.what = what
        self.expected = expected
        self.found = found
        self.remedy = remedy
        self.certificate = certificate
        self.alert = alert
        self.verificationResult = verificationResult
        self.underlying = underlying
    }

    /// Whether the same attempt with the same configuration would fail again: a client must not retry it.
    package var isPermanent: Bool {
        switch code {
        case .alertReceived: alert?.isPermanent ?? false
        case .handshakeTimedOut, .handshakeQueueFull, .handshakeAbandoned, .truncated, .closed, .recordRejected, .keyUpdateFlood,
            .renegotiationFlood, .tooMuchEarlyPlaintext, .handshakeFailed, .clockBehind, .identityAwaited, .challengeNotPending:
            false
        default: true
        }
    }

    package var description: String {
        var text = "tls.\(code): \(subject): \(what)"
        switch (expected, found) {
        case (let expected?, let found?): text += " (expected \(expected), found \(found))"
        case (let expected?, nil): text += " (expected \(expected))"
        case (nil, let found?): text += " (found \(found))"
        case (nil, nil): break
        }
        if let certificate { text += " [\(certificate)]" }
        if let remedy { text += "; \(remedy)" }
        return text
    }

    package static func == (left: TLSError, right: TLSError) -> Bool { left.code == right.code }
    package func hash(into hasher: inout Hasher) { hasher.combine(code) }
}
