internal import MWPKI

/// Requests to one CA, one at a time: it signs them, keeps nonces, follows redirects of GET, and repeats what is worth repeating.
///
/// `begin` → (`responseReceived` | `transferFailed` | `timerFired`)* → `.reply` or `.failed`, then the next `begin`.
struct Conversation: Sendable {
    enum Signer: Sendable {
        case nobody
        /// RFC 8555 §6.2: by the account's URL, for all but the next case.
        case account(url: String, PrivateKey)
        /// newAccount, and revocation by the certificate's key.
        case key(PrivateKey)
    }

    enum Expectation: Sendable, Hashable {
        case json, chain, anything
    }

    struct Request: Sendable {
        var url: String
        var signer: Signer
        /// Empty for POST-as-GET (RFC 8555 §6.3).
        var payload: [UInt8] = []
        var expects: Expectation = .json
        /// False where a second one needs thought: the caller looks what became of the first.
        var isRepeatable = true
        /// A server error that mentions one of these is the caller's at once.
        var blamable: [String] = []

        static func get(_ url: String) -> Request { Request(url: url, signer: .nobody) }

        static func post(_ url: String, _ payload: JSONValue?, by signer: Signer) -> Request {
            Request(url: url, signer: signer, payload: payload?.encoded ?? [])
        }
    }

    enum Step: Sendable {
        case send(HTTPRequest, timeout: Duration)
        case wait(Duration)
        case reply(HTTPResponse, JSONValue)
        case failed(ACMEError)
    }

    private enum Phase {
        case idle, fetchingNonce, sending, pausing
    }

    /// Larger than any nonce seen, and fit for a header.
    static let maximumNonceBytes = 1024

    let limits: ACMELimits
    let userAgent: String
    let language: String
    /// Set as soon as it is read.
    var directory: ACMEDirectory?
    var random: SplitMix64

    private var phase = Phase.idle
    private var request: Request?
    private var url = ""
    /// The newest last.
    private var nonces: [String] = []
    private var redirects = 0
    private var rejectedNonces = 0
    private var failures = 0
    private var requests = 0

    init(plan: IssuancePlan, seed: UInt64) {
        limits = plan.limits
        userAgent = plan.userAgent
        language = plan.language
        random = SplitMix64(seed: seed)
    }

    var isPausing: Bool { phase == .pausing }

    mutating func begin(_ request: Request) -> Step {
        precondition(phase == .idle, "one request at a time")
        self.request = request
        url = request.url
        redirects = 0
        rejectedNonces = 0
        failures = 0
        return send()
    }

    mutating func timerFired() -> Step {
        precondition(phase == .pausing, "no timer was asked for")
        return send()
    }

    /// Forgets the request under way.
    mutating func abandon() { phase = .idle }

    // MARK: - Sending

    private mutating func send() -> Step {
        guard let request else { preconditionFailure("nothing to send") }
        requests += 1
        guard requests <= limits.maximumRequests else {
            return fail(ACMEError(.timedOut, subject: url, "the CA needs too many requests", disposition: .retryOrFallback))
        }
        guard WebAddress.isUsable(url) else { return fail(ACMEError.malformed(ACMEProblem.safe(url), "not an https URL")) }
        let message: HTTPRequest
        switch request.signer {
        case .nobody: message = HTTPRequest(method: .get, url: url, headers: commonHeaders)
        case .account(let account, let key):
            guard let nonce = nonces.popLast() else { return fetchNonce() }
            do {
                message = try signed(request, header: ["kid": .string(account)], key: key, nonce: nonce)
            } catch {
                return fail(ACMEError(own: error, subject: "signature"))
            }
        case .key(let key):
            guard let nonce = nonces.popLast() else { return fetchNonce() }
            do {
                message = try signed(request, header: ["jwk": try JSONWebKey(key).json], key: key, nonce: nonce)
            } catch {
                return fail(ACMEError(own: error, subject: "signature"))
            }
        }
        phase = .sending
        return .send(limited(message), timeout: limits.requestTimeout)
    }

    private mutating func fetchNonce() -> Step {
        guard let directory else { preconditionFailure("no directory yet") }
        phase = .fetchingNonce
        return .send(
            limited(HTTPRequest(method: .head, url: directory.newNonce, headers: commonHeaders)), timeout: limits.requestTimeout)
    }

    private var commonHeaders: [HTTPRequest.Header] {
        // RFC 8555 §6.1.
        [HTTPRequest.Header("User-Agent", userAgent), HTTPRequest.Header("Accept-Language", language)]
    }

    private func limited(_ message: HTTPRequest) -> HTTPRequest {
        var message = message
        message.maximumReplyBytes = limits.maximumReplyBytes
        return message
    }

    private func signed(_ request: Request, header: [String: JSONValue], key: PrivateKey, nonce: String) throws -> HTTPRequest {
        var header = header
        header["nonce"] = .string(nonce)
        header["url"] = .string(url)
        let body = try JSONWebSignature.sign(request.payload, header: header, key: key)
        // RFC 8555 §6.2.
        var headers = commonHeaders + [HTTPRequest.Header("Content-Type", "application/jose+json")]
        if request.expects == .chain { headers.append(HTTPRequest.Header("Accept", "application/pem-certificate-chain")) }
        return HTTPRequest(method: .post, url: url, headers: headers, body: body)
    }

    // MARK: - Receiving

    mutating func responseReceived(_ response: HTTPResponse, at now: Moment) -> Step {
        guard let request, phase == .sending || phase == .fetchingNonce else { preconditionFailure("nothing was sent") }
        // RFC 8555 §6.5: every reply, also of an error, may bring one; an invalid one is ignored.
        if let nonce = response.value(of: "Replay-Nonce"), Base64URL.isText(nonce), nonce.utf8.count <= Conversation.maximumNonceBytes {
            nonces = [nonce]
        }
        if phase == .fetchingNonce, response.status < 400 {
            guard response.status < 300, !nonces.isEmpty else {
                return pauseOrFail(
                    ACMEError(
                        .nonceUnavailable, subject: directory?.newNonce ?? url, "the CA gives no nonce", disposition: .retryOrFallback),
                    at: now, response: response)
            }
            return send()
        }
        switch response.status {
        case 200..<300: return accepted(response, request, at: now)
        case 300..<400: return redirected(response, request)
        default: return refused(response, request, at: now)
        }
    }

    mutating func transferFailed(_ failure: TransferFailure, at now: Moment) -> Step {
        guard let request, phase == .sending || phase == .fetchingNonce else { preconditionFailure("nothing was sent") }
        let subject = phase == .fetchingNonce ? directory?.newNonce ?? url : url
        let error: ACMEError
        switch failure {
        case .timeout:
            error = ACMEError(.transferFailed, subject: subject, "no reply in time", disposition: .retryOrFallback)
        case .connect(let reason):
            error = ACMEError(
                .transferFailed, subject: subject, "no connection", remedy: "check the network and the directory URL",
                disposition: .retryOrFallback, underlying: [ACMEProblem.safe(reason)])
        case .other(let reason):
            error = ACMEError(
                .transferFailed, subject: subject, "the transfer failed", disposition: .retryOrFallback,
                underlying: [ACMEProblem.safe(reason)])
        case .tls(let reason):
            // The next second sees the same certificate.
            return fail(
                ACMEError(
                    .tlsFailed, subject: subject, "the CA's own TLS certificate was refused", remedy: "for a private CA, give its root",
                    disposition: .retryOrFallback, underlying: [ACMEProblem.safe(reason)]))
        case .tooLarge:
            return fail(
                ACMEError(
                    .replyTooLarge, subject: subject, "the reply is larger than \(limits.maximumReplyBytes) bytes",
                    remedy: "check that the directory URL is that of an ACME server", disposition: .retryOrFallback))
        }
        // A nonce may be refused as often as it likes; what was sent once may have had its effect.
        guard request.isRepeatable || phase == .fetchingNonce else { return fail(error) }
        return pauseOrFail(error, at: now, response: nil)
    }

    private mutating func accepted(_ response: HTTPResponse, _ request: Request, at now: Moment) -> Step {
        switch request.expects {
        case .anything, .chain: return finish(response, .null)
        case .json:
            guard let json = try? JSONValue(parsing: response.body), case .object = json else {
                let error = ACMEError.malformed(url, "it is not a JSON object (cut off, or a page for people)")
                return request.isRepeatable ? pauseOrFail(error, at: now, response: response) : fail(error)
            }
            return finish(response, json)
        }
    }

    private mutating func redirected(_ response: HTTPResponse, _ request: Request) -> Step {
        // A signature covers the URL, and RFC 8555 has no redirects for it: only a plain GET follows.
        guard case .nobody = request.signer, [301, 302, 303, 307, 308].contains(response.status) else {
            return fail(
                ACMEError(
                    .redirectRefused, subject: url, "a redirect (status \(response.status)) where none is followed",
                    disposition: .retryOrFallback))
        }
        redirects += 1
        guard redirects <= limits.maximumRedirects, let location = response.value(of: "Location"),
            let target = WebAddress.resolve(location, against: url)
        else {
            return fail(
                ACMEError(
                    .redirectRefused, subject: url, "too many redirects, or one to no https URL", disposition: .retryOrFallback))
        }
        url = target
        return send()
    }

    private mutating func refused(_ response: HTTPResponse, _ request: Request, at now: Moment) -> Step {
        let problem = ACMEProblem(response, at: now.date)
        let error = ACMEError(problem, subject: url)
        if problem.kind == .badNonce, phase == .sending {
            // RFC 8555 §6.5: again, with the nonce of this reply.
            rejectedNonces += 1
            guard rejectedNonces <= limits.maximumRejectedNonces else { return fail(error) }
            return rejectedNonces <= limits.unpausedRejectedNonces ? send() : pause(rejectedNonces - limits.unpausedRejectedNonces)
        }
        if problem.mentions(request.blamable), response.status >= 500 { return fail(error) }
        let isRateLimit = problem.kind == .rateLimited
        let isTransient = [408, 500, 502, 503, 504].contains(response.status)
        // Without Retry-After, how long a rate limit lasts is anybody's guess, and asking again makes it longer.
        if isRateLimit, problem.retryAt == nil { return fail(error) }
        guard isRateLimit || (isTransient && (request.isRepeatable || phase == .fetchingNonce)) else { return fail(error) }
        return pauseOrFail(error, at: now, response: response)
    }

    // MARK: - Pausing

    private mutating func pauseOrFail(_ error: ACMEError, at now: Moment, response: HTTPResponse?) -> Step {
        failures += 1
        var pause = Duration.backoff(failures - 1, first: limits.firstBackoff, maximum: limits.maximumBackoff, random: &random)
        if let retryAt = response?.retryAfter(at: now.date) {
            let wanted = max(0, retryAt.seconds(since: now.date))
            guard wanted <= limits.maximumInlineWait.components.seconds else {
                var error = error
                error.retryAt = retryAt
                return fail(error)
            }
            pause = max(pause, .seconds(wanted))
        }
        guard failures <= limits.maximumFailures else { return fail(error) }
        phase = .pausing
        return .wait(pause)
    }

    private mutating func pause(_ count: Int) -> Step {
        phase = .pausing
        return .wait(.backoff(count - 1, first: limits.firstPollPause, maximum: limits.maximumPollPause, random: &random))
    }

    private mutating func fail(_ error: ACMEError) -> Step {
        phase = .idle
        request = nil
        return .failed(error)
    }

    private mutating func finish(_ response: HTTPResponse, _ json: JSONValue) -> Step {
        phase = .idle
        request = nil
        return .reply(response, json)
    }
}

extension ACMEError {
    /// Something of ours failed that no CA can be blamed for.
    init(own error: any Error, subject: String) {
        if let error = error as? ACMEError {
            self = error
        } else {
            self.init(.ownFailure, subject: subject, "cannot be made", underlying: ["\(error)"])
        }
    }
}
