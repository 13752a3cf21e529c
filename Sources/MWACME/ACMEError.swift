package import MWPKI

/// Why an ACME operation did not succeed, and what that means for the next attempt.
///
/// Two errors are equal when their codes are. Nothing secret is ever in one.
package struct ACMEError: Error, Hashable, CustomStringConvertible {
    /// What kind of thing went wrong; new codes may be added.
    package struct Code: Hashable, Sendable, CustomStringConvertible {
        package let name: String

        private init(_ name: String) { self.name = name }

        package var description: String { name }

        /// The plan itself cannot work: no names, a wildcard without dns-01, an URL that is not https.
        package static let planInvalid = Code("planInvalid")
        /// The directory asks for an external account binding and none was given.
        package static let externalAccountRequired = Code("externalAccountRequired")
        /// The terms of service were not agreed to, or changed.
        package static let termsNotAccepted = Code("termsNotAccepted")
        package static let accountMissing = Code("accountMissing")
        /// The CA does not let this account do it: deactivated, revoked, or the signature is refused.
        package static let accountRefused = Code("accountRefused")
        /// None of the challenges offered is one we can answer.
        package static let challengeUnavailable = Code("challengeUnavailable")
        /// We could not put the answer to a challenge in place.
        package static let challengeNotPresented = Code("challengeNotPresented")
        /// The CA looked and was not satisfied.
        package static let challengeFailed = Code("challengeFailed")
        package static let orderInvalid = Code("orderInvalid")
        package static let profileUnknown = Code("profileUnknown")
        package static let rateLimited = Code("rateLimited")
        package static let serverFailed = Code("serverFailed")
        package static let transferFailed = Code("transferFailed")
        /// The CA's own TLS certificate was refused, or TLS failed.
        package static let tlsFailed = Code("tlsFailed")
        package static let replyMalformed = Code("replyMalformed")
        package static let replyTooLarge = Code("replyTooLarge")
        package static let redirectRefused = Code("redirectRefused")
        package static let nonceUnavailable = Code("nonceUnavailable")
        /// What the CA issued is not what was ordered.
        package static let certificateRejected = Code("certificateRejected")
        package static let timedOut = Code("timedOut")
        package static let cancelled = Code("cancelled")
        /// Any other problem the CA reported; see `problem`.
        package static let problemReported = Code("problemReported")
        package static let keyUnsupported = Code("keyUnsupported")
        package static let stateUnwritable = Code("stateUnwritable")
        /// There is no room for the state: nothing is ordered that could not be kept.
        package static let diskFull = Code("diskFull")
        package static let diskReadOnly = Code("diskReadOnly")
        /// Others may read or change the state, or it is somebody else's.
        package static let stateExposed = Code("stateExposed")
        /// Another process orders, or works on the account.
        package static let stateLocked = Code("stateLocked")
        /// A saved state is torn, truncated, of another version, or garbage.
        package static let stateMalformed = Code("stateMalformed")
        package static let ownFailure = Code("ownFailure")
    }

    /// What to do about it.
    package enum Disposition: Hashable, Sendable {
        /// The same attempt fails again until somebody changes something.
        case permanent
        /// May succeed later at the same CA; another CA would say the same.
        case retry
        /// May succeed later, and may succeed now at another CA.
        case retryOrFallback
    }

    package let code: Code
    /// The URL, name or file it is about.
    package let subject: String
    package let what: String
    package var remedy: String?
    /// As the CA reported it, with a subproblem for each identifier it names.
    package var problem: ACMEProblem?
    /// No request to this CA before then; from Retry-After.
    package var retryAt: Timestamp?
    package var disposition: Disposition
    package var underlying: [String]

    package init(
        _ code: Code, subject: String, _ what: String, remedy: String? = nil, problem: ACMEProblem? = nil, retryAt: Timestamp? = nil,
        disposition: Disposition = .permanent, underlying: [String] = []
    ) {
        self.code = code
        self.subject = subject
        self.what = what
        self.remedy = remedy
        self.problem = problem
        self.retryAt = retryAt
        self.disposition = disposition
        self.underlying = underlying
    }

    package var description: String {
        var text = "acme.\(code): \(subject): \(what)"
        if let problem { text += "; the CA says: \(problem)" }
        if !underlying.isEmpty { text += " (\(underlying.joined(separator: "; ")))" }
        if let retryAt { text += "; not before \(retryAt)" }
        if let remedy { text += "; \(remedy)" }
        return text
    }

    package static func == (left: ACMEError, right: ACMEError) -> Bool { left.code == right.code }
    package func hash(into hasher: inout Hasher) { hasher.combine(code) }
}

extension ACMEError {
    /// This CA said no and will say so again; another need not.
    var isRefusalOfAuthority: Bool {
        guard let problem else { return false }
        // CAA records name the CAs that may issue (RFC 8659).
        return disposition == .permanent || problem.kind == .caa || problem.subproblems.contains { $0.kind == .caa }
    }

    /// What the CA's problem means.
    init(_ problem: ACMEProblem, subject: String) {
        let meaning = Meaning(problem)
        self.init(
            meaning.code, subject: subject, meaning.what, remedy: meaning.remedy, problem: problem, retryAt: problem.retryAt,
            disposition: meaning.disposition)
    }

    private struct Meaning {
        var code: Code
        var what: String
        var remedy: String? = nil
        var disposition: Disposition = .permanent

        init(_ problem: ACMEProblem) {
            switch problem.kind {
            case .rateLimited:
                (code, what, disposition) = (.rateLimited, "too many requests", .retryOrFallback)
            case .accountDoesNotExist:
                (code, what, remedy) = (.accountMissing, "the CA does not know the account", "register it again")
            case .userActionRequired:
                (code, what, remedy) = (.termsNotAccepted, "somebody has to act first", "open the page that the CA names, then try again")
            case .externalAccountRequired:
                (code, what) = (.externalAccountRequired, "the CA wants an external account binding")
                remedy = "get a key identifier and an HMAC key from the CA"
            case .unauthorized:
                (code, what) = (.accountRefused, "the CA does not allow it")
                remedy = "check that the account is valid and the names are yours"
            case .caa, .dns, .connection, .tls, .incorrectResponse:
                (code, what, disposition) = (.challengeFailed, "validation failed", .retry)
            case .serverInternal:
                (code, what, disposition) = (.serverFailed, "the CA failed", .retryOrFallback)
            case .badNonce:
                (code, what, disposition) = (.nonceUnavailable, "no nonce was accepted", .retryOrFallback)
            case .orderNotReady:
                (code, what, disposition) = (.orderInvalid, "the order is not ready", .retry)
            case .invalidProfile:
                (code, what, remedy) = (.profileUnknown, "the CA refuses the profile", "choose one of those in its directory")
            case .rejectedIdentifier, .unsupportedIdentifier:
                (code, what) = (.orderInvalid, "the CA does not issue for these names")
                (remedy, disposition) = ("remove the names it complains about, or use another CA", .retryOrFallback)
            default:
                (code, what) = (.problemReported, "the CA refused")
                if let status = problem.status, status >= 500 {
                    (code, what, disposition) = (.serverFailed, "the CA failed", .retryOrFallback)
                }
            }
        }
    }
}
