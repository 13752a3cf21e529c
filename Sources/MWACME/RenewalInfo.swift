package import MWPKI

/// RFC 9773 §4.1: base64url of the authority key identifier, a dot, base64url of the serial number's octets.
package struct CertificateID: Hashable, Sendable, CustomStringConvertible {
    package let description: String

    /// Nil where the certificate has no authority key identifier.
    package init?(_ certificate: Certificate) {
        guard let issuer = certificate.authorityKeyIdentifier else { return nil }
        self.init(authorityKeyIdentifier: issuer, serialNumber: certificate.serialNumberOctets)
    }

    /// `serialNumber`: the contents octets of its INTEGER, with the 00 in front of a high bit.
    package init?(authorityKeyIdentifier: [UInt8], serialNumber: [UInt8]) {
        guard !authorityKeyIdentifier.isEmpty, !serialNumber.isEmpty else { return nil }
        description = Base64URL.encode(authorityKeyIdentifier) + "." + Base64URL.encode(serialNumber)
    }

    init?(text: String) {
        let parts = text.split(separator: ".", omittingEmptySubsequences: false)
        guard parts.count == 2, parts.allSatisfy({ Base64URL.isText(String($0)) }) else { return nil }
        description = text
    }
}

/// RFC 9773 §4.2: when the CA would like a certificate to be renewed.
package struct RenewalWindow: Hashable, Sendable {
    package var start: Timestamp
    package var end: Timestamp
    package var explanationURL: String?

    /// Nil for what is no answer: not the JSON it should be, bad dates, an end that is not after the start.
    init?(_ json: JSONValue) {
        guard let window = json["suggestedWindow"], let start = window["start"]?.string.flatMap({ Timestamp(rfc3339: $0) }),
            let end = window["end"]?.string.flatMap({ Timestamp(rfc3339: $0) }), end > start
        else { return nil }
        self.init(start: start, end: end, explanationURL: json["explanationURL"]?.string.map(ACMEProblem.safe))
    }

    package init(start: Timestamp, end: Timestamp, explanationURL: String? = nil) {
        self.start = start
        self.end = end
        self.explanationURL = explanationURL
    }
}

/// What came of asking for renewal information.
package enum RenewalInfoOutcome: Sendable, Hashable {
    /// `checkAt`: the CA's Retry-After, if it sent a usable one.
    case window(RenewalWindow, checkAt: Timestamp?)
    /// The CA gives none.
    case unsupported
    /// May be better soon: a timeout, a server error.
    case temporaryFailure(String)
    /// Will not be better soon: malformed, refused, no such name.
    case longTermFailure(String)
}

//   idle ─start→ directory ─→ renewalInfo/certID ─→ over        GET both, without a signature (RFC 9773 §4.1)

/// Asks once; how often is `RenewalState`'s business.
package struct RenewalInfoStateMachine: ~Copyable {
    package enum Action: Sendable {
        case send(HTTPRequest, timeout: Duration)
        case wait(Duration)
        case finished(RenewalInfoOutcome)
    }

    private let plan: IssuancePlan
    private let directoryURL: String
    private let certificateID: CertificateID
    private var conversation: Conversation
    private var isAsking = false

    /// `plan` gives limits and user agent; the CA is the one that issued the certificate.
    package init(plan: IssuancePlan, directoryURL: String, certificateID: CertificateID, seed: UInt64) {
        var plan = plan
        // The next regular check is soon enough.
        plan.limits.maximumFailures = 0
        self.plan = plan
        self.directoryURL = directoryURL
        self.certificateID = certificateID
        conversation = Conversation(plan: plan, seed: seed)
    }

    package mutating func start(at now: Moment) -> Action { act(on: conversation.begin(.get(directoryURL)), at: now) }

    package mutating func responseReceived(_ response: HTTPResponse, at now: Moment) -> Action {
        act(on: conversation.responseReceived(response, at: now), at: now)
    }

    package mutating func transferFailed(_ failure: TransferFailure, at now: Moment) -> Action {
        // RFC 9773 §4.3.3: a name that does not resolve, or a refusal, will not be better in a minute.
        switch failure {
        case .timeout: .finished(.temporaryFailure("\(directoryURL): no reply in time"))
        case .other(let reason): .finished(.temporaryFailure("\(directoryURL): \(ACMEProblem.safe(reason))"))
        case .connect(let reason), .tls(let reason): .finished(.longTermFailure("\(directoryURL): \(ACMEProblem.safe(reason))"))
        case .tooLarge: .finished(.longTermFailure("\(directoryURL): the reply is too large"))
        }
    }

    package mutating func timerFired(at now: Moment) -> Action { act(on: conversation.timerFired(), at: now) }

    private mutating func act(on step: Conversation.Step, at now: Moment) -> Action {
        switch step {
        case .send(let request, let timeout): return .send(request, timeout: timeout)
        case .wait(let pause): return .wait(pause)
        case .failed(let error): return .finished(outcome(of: error))
        case .reply(let response, let json):
            if isAsking {
                guard let window = RenewalWindow(json) else {
                    return .finished(.longTermFailure("\(directoryURL): malformed renewal information"))
                }
                return .finished(.window(window, checkAt: response.retryAfter(at: now.date)))
            }
            do {
                guard let base = try ACMEDirectory(json, source: directoryURL).renewalInfo else { return .finished(.unsupported) }
                isAsking = true
                let url = base.hasSuffix("/") ? base + certificateID.description : "\(base)/\(certificateID)"
                return act(on: conversation.begin(.get(url)), at: now)
            } catch {
                return .finished(.longTermFailure("\(error)"))
            }
        }
    }

    private func outcome(of error: ACMEError) -> RenewalInfoOutcome {
        switch error.code {
        case .serverFailed, .rateLimited: .temporaryFailure("\(error)")
        default: .longTermFailure("\(error)")
        }
    }
}
