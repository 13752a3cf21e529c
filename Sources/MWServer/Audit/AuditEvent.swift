package import MWPKI
package import MWTLS

/// What an auditor wants to know: who came, who was let in or refused and why, what was denied, what was changed and by whom.
///
/// No event holds a value, a private key or a passphrase; keys are bounded.
package enum AuditEvent: Sendable {
    /// The 101 was sent.
    case connectionAdmitted(SessionInfo)
    /// A connection whose 101 was sent is gone.
    case connectionEnded(SessionInfo, SessionEnd)
    /// TLS was refused: by us, or by the peer, or it was never finished.
    case handshakeRefused(Rejection)
    /// An ACME validation (RFC 8737) saw the certificate for a name that is being proven. No client certificate, no session.
    case challengeAnswered(serverName: String, address: String)
    /// TLS was good, and the opening handshake was answered with something else than 101.
    case openingRefused(Rejection)
    /// A request was beyond the principal's rights.
    case requestDenied(SessionInfo, DeniedRequest)
    /// Certificates, trust, revocation lists and policy were loaded anew and are in use.
    case reloadDone(AuditedReload)
    /// They could not be used; the old ones stay.
    case reloadFailed(AuditedReload)
    /// Somebody with the right to administer asked for something.
    case administration(SessionInfo, AuditedAction)
    /// A certificate of our own came into use.
    case certificateInstalled(AuditedCertificate, source: String)
    /// The server began to listen.
    case serverStarted(addresses: [String])
    /// The server stopped as it was told to.
    case serverStopped
}

/// A certificate as logs and reports name it: which it is, not what it can do.
package struct AuditedCertificate: Sendable, Hashable {
    package let fingerprint: CertificateFingerprint
    package let subject: String
    package let issuer: String
    /// Lower-case hex.
    package let serialNumber: String
    /// Subject alternative names.
    package let names: [String]
    package let notBefore: Timestamp
    package let notAfter: Timestamp

    package init(_ certificate: Certificate) {
        self.fingerprint = certificate.sha256
        self.subject = certificate.subject
        self.issuer = certificate.issuer
        self.serialNumber = certificate.serialNumber
        self.names = certificate.names
        self.notBefore = certificate.notBefore
        self.notAfter = certificate.notAfter
    }

    package init(_ summary: TLSError.CertificateSummary) {
        self.fingerprint = summary.fingerprint
        self.subject = summary.subject
        self.issuer = summary.issuer
        self.serialNumber = summary.serialNumber
        self.names = summary.names
        self.notBefore = summary.notBefore
        self.notAfter = summary.notAfter
    }
}

/// A peer that was refused: who, from where, by which check, what that check wanted and saw, and what mends it.
package struct Rejection: Sendable, Hashable {
    package enum Stage: String, Sendable, Hashable, CaseIterable {
        case handshake
        case opening
        case request
    }

    package var stage: Stage
    /// `address:port` of the peer.
    package var address: String
    /// Known once TLS has verified the peer.
    package var principal: String?
    /// The one that was refused; in a handshake it is not proven that the peer has its key.
    package var certificate: AuditedCertificate?
    /// A stable name: the code of the TLS error, `http.` and the status, or the right that is missing.
    package var check: String
    package var reason: String
    package var expected: String?
    package var found: String?
    package var remedy: String?
    /// What the peer was told: an alert, a status, a close code. Never more.
    package var told: String?

    package init(
        _ stage: Stage, address: String, principal: String? = nil, certificate: AuditedCertificate? = nil, check: String, reason: String,
        expected: String? = nil, found: String? = nil, remedy: String? = nil, told: String? = nil
    ) {
        self.stage = stage
        self.address = address
        self.principal = principal
        self.certificate = certificate
        self.check = check
        self.reason = reason
        self.expected = expected
        self.found = found
        self.remedy = remedy
        self.told = told
    }

    /// A refused TLS handshake.
    package init(_ error: TLSError, address: String) {
        self.init(
            .handshake, address: address, certificate: error.certificate.map { AuditedCertificate($0) }, check: "\(error.code)",
            reason: "\(error.subject): \(error.what)", expected: error.expected, found: error.found, remedy: error.remedy,
            told: error.alert?.description)
    }
}

/// A request that its sender has no right to.
package struct DeniedRequest: Sendable, Hashable {
    /// Bytes of a key that are kept: enough to tell which it was.
    package static let maximumKeyBytes = 256

    /// As the protocol calls it: `get`, `put`, `watch`, `reload`.
    package let operation: String
    /// The right that is missing: `read`, `write`, `watch`, `administer`.
    package let right: String
    /// The first key that is not allowed, cut at ``maximumKeyBytes``; nil for a request without keys.
    package let key: [UInt8]?
    package let isKeyCut: Bool

    package init(operation: String, right: String, key: (some Collection<UInt8>)?) {
        self.operation = operation
        self.right = right
        self.key = key.map { Array($0.prefix(Self.maximumKeyBytes)) }
        self.isKeyCut = (key?.count ?? 0) > Self.maximumKeyBytes
    }

    /// A request without keys.
    package init(operation: String, right: String) {
        self.init(operation: operation, right: right, key: [UInt8]?.none)
    }
}

/// One attempt to load everything anew.
package struct AuditedReload: Sendable {
    /// What asked for it: `signal`, `files`, `timer`, `renewal`, or the principal of an administrator.
    package var trigger: String
    /// Counts the sets that came into use; 1 is that of the start.
    package var generation: UInt64?
    package var certificate: AuditedCertificate?
    package var trustAnchors: Int?
    package var revocationLists: Int?
    /// Connections that were closed because the new set does not allow them.
    package var closedConnections: Int?
    /// Why it failed; nil if it did not.
    package var failure: String?

    package init(
        trigger: String, generation: UInt64? = nil, certificate: AuditedCertificate? = nil, trustAnchors: Int? = nil,
        revocationLists: Int? = nil, closedConnections: Int? = nil, failure: String? = nil
    ) {
        self.trigger = trigger
        self.generation = generation
        self.certificate = certificate
        self.trustAnchors = trustAnchors
        self.revocationLists = revocationLists
        self.closedConnections = closedConnections
        self.failure = failure
    }
}

/// What an administrator did.
package struct AuditedAction: Sendable, Hashable {
    /// As the protocol calls it: `reload`, `revoke`.
    package var operation: String
    /// What it concerned: a fingerprint, a serial number, an identity.
    package var subject: String?
    /// Why it was not done; nil if it was.
    package var failure: String?

    package init(operation: String, subject: String? = nil, failure: String? = nil) {
        self.operation = operation
        self.subject = subject
        self.failure = failure
    }
}
