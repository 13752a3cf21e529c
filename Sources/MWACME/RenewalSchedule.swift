package import MWPKI

/// What is remembered between two looks at a certificate; kept in its generation's file.
package struct RenewalState: Sendable, Hashable {
    /// RFC 9773 §4.3: the window is of this certificate and no other.
    package var windowID: CertificateID?
    package var window: RenewalWindow?
    /// Drawn once from the window, and again only when the window changes: drawing at each look would prefer early times.
    package var selectedTime: Timestamp?
    /// When to ask for renewal information next; nil is now.
    package var checkAt: Timestamp?
    /// How often in a row asking failed for a while.
    package var checkFailures = 0
    package var lastCheckError: String?
    /// The CA says that it gives no renewal information.
    package var isUnsupported = false
    /// In -1...1: the share of the jitter for renewals without a window.
    package var jitter: Double?
    /// Attempts to renew in a row that failed.
    package var attempts = 0
    package var lastError: String?
    /// What the CA said about the last attempt, where it said something.
    package var lastProblem: ACMEProblem?
    package var lastAttempt: Timestamp?
    /// No attempt before then.
    package var retryAt: Timestamp?
    /// What the failed attempts were for; see `planChanged`.
    package var attemptedPlan: String?
    /// We had it revoked: another one is wanted at once.
    package var revoked: Timestamp?
    /// RFC 9773 §5: the CA did not take `replaces` for this certificate.
    package var replacesRefused = false

    package init() {}

    init(json: JSONValue?) {
        guard let json else { return }
        windowID = json["windowID"]?.string.flatMap { CertificateID(text: $0) }
        if let start = json.date("windowStart"), let end = json.date("windowEnd"), end > start {
            window = RenewalWindow(start: start, end: end, explanationURL: json["explanationURL"]?.string)
        }
        selectedTime = json.date("selectedTime")
        checkAt = json.date("checkAt")
        checkFailures = max(0, json["checkFailures"]?.integer ?? 0)
        lastCheckError = json["lastCheckError"]?.string
        isUnsupported = json["isUnsupported"]?.bool ?? false
        // As an integer, so that it is read back exactly.
        jitter = json["jitterPerMillion"]?.integer.map { Double(min(max($0, -1_000_000), 1_000_000)) / 1e6 }
        attempts = max(0, json["attempts"]?.integer ?? 0)
        lastError = json["lastError"]?.string
        lastProblem = ACMEProblem(json["lastProblem"])
        lastAttempt = json.date("lastAttempt")
        retryAt = json.date("retryAt")
        attemptedPlan = json["attemptedPlan"]?.string
        revoked = json.date("revoked")
        replacesRefused = json["replacesRefused"]?.bool ?? false
    }

    /// A clock that was set back since the last attempt would hold up the next one for as long: it may be made now.
    package mutating func clockObserved(_ now: Timestamp) {
        guard let last = lastAttempt, last > now.adding(seconds: RenewalState.toleratedClockSeconds) else { return }
        lastAttempt = now
        retryAt = nil
    }

    /// Clocks that are corrected by less change nothing here.
    private static let toleratedClockSeconds: Int64 = 3600

    /// Failed attempts at something else say nothing about this: an operator who mended the configuration does not wait.
    package mutating func planChanged(to digest: String) {
        guard attemptedPlan != digest else { return }
        attemptedPlan = digest
        attempts = 0
        retryAt = nil
    }

    var json: JSONValue {
        .object([
            "windowID": .optional(windowID?.description), "windowStart": .date(window?.start), "windowEnd": .date(window?.end),
            "explanationURL": .optional(window?.explanationURL), "selectedTime": .date(selectedTime), "checkAt": .date(checkAt),
            "checkFailures": .integer(Int64(checkFailures)), "lastCheckError": .optional(lastCheckError),
            "isUnsupported": .bool(isUnsupported),
            "jitterPerMillion": jitter.map { .integer(Int64(($0 * 1e6).rounded())) } ?? .null, "attempts": .integer(Int64(attempts)),
            "lastError": .optional(lastError), "lastProblem": lastProblem?.json ?? .null, "lastAttempt": .date(lastAttempt),
            "retryAt": .date(retryAt), "attemptedPlan": .optional(attemptedPlan), "revoked": .date(revoked),
            "replacesRefused": .bool(replacesRefused),
        ])
    }
}

extension RenewalState {
    /// An attempt at a certificate failed: counted, remembered, and when to try again.
    ///
    /// - Parameter remaining: seconds until the certificate that is served expires; nil where there is none.
    package mutating func attemptFailed(_ error: ACMEError, remaining: Int64?, now: Timestamp, random: inout SplitMix64) {
        attempts += 1
        lastError = error.description
        lastProblem = error.problem
        lastAttempt = now
        let pause = RenewalSchedule.retryPause(
            attempts: attempts, disposition: error.disposition, remaining: remaining, random: &random)
        retryAt = max(now.adding(seconds: pause), error.retryAt ?? now)
    }
}

/// When to renew: a pure function of the certificate, what is remembered, the time, and random numbers.
///
/// Call `update` whenever its `wakeAt` has come; save the state when it changed; do what `decision` says; report with
/// `renewalInfoReceived` or `renewalFailed`. A renewal that succeeded brings a new certificate and a new state.
package struct RenewalSchedule: Sendable, Hashable {
    package enum Reason: Sendable, Hashable, CustomStringConvertible {
        /// The time drawn from the CA's window; a window that passed already may mean a mass revocation.
        case window(explanationURL: String?)
        case lifetime
        case almostExpired
        case expired
        case revoked

        package var description: String {
            switch self {
            case .window(nil): "the CA's renewal window"
            case .window(let page?): "the CA's renewal window, see \(page)"
            case .lifetime: "its share of the lifetime is over"
            case .almostExpired: "it expires very soon"
            case .expired: "it has expired"
            case .revoked: "it was revoked"
            }
        }
    }

    package enum Decision: Sendable, Hashable {
        case renewNow(Reason)
        /// Ask with `RenewalInfoStateMachine`.
        case askForRenewalInfo(CertificateID)
        /// Nothing until then.
        case wait(until: Timestamp)
    }

    /// RFC 9773 §4.3.3: between these, Retry-After is what the CA said.
    package static let minimumCheckSeconds: Int64 = 60
    package static let maximumCheckSeconds: Int64 = 86_400
    /// RFC 9773 §4.3.3: after long-term errors.
    package static let defaultCheckSeconds: Int64 = 6 * 3600
    /// Temporary errors: the first pause, doubled each time, until it would be the default.
    package static let firstCheckBackoffSeconds: Int64 = 60
    /// A shorter lifetime is renewed at half of it instead of two thirds.
    package static let shortLifetimeSeconds: Int64 = 10 * 86_400
    /// Of the lifetime, to both sides.
    package static let jitterShare = 0.02
    /// With less than this share of the lifetime left, nothing delays a renewal any more.
    package static let safetyShare: Int64 = 20
    /// Between two renewals that only a window asked for.
    package static let minimumWindowRenewalSeconds: Int64 = 3600
    /// After a failed renewal: five attempts in the first hour, as many as public CAs allow.
    package static let firstRetrySeconds: Int64 = 120
    package static let maximumRetrySeconds: Int64 = 6 * 3600

    package let notBefore: Timestamp
    package let notAfter: Timestamp
    package let created: Timestamp
    package let certificateID: CertificateID?

    package init(notBefore: Timestamp, notAfter: Timestamp, created: Timestamp, certificateID: CertificateID?) {
        self.notBefore = notBefore
        self.notAfter = notAfter
        self.created = created
        self.certificateID = certificateID
    }

    package init(_ generation: CertificateGeneration) {
        self.init(
            notBefore: generation.leaf.notBefore, notAfter: generation.leaf.notAfter, created: generation.created,
            certificateID: generation.certificateID)
    }

    private var lifetime: Int64 { max(0, notAfter.seconds(since: notBefore)) }

    /// Never before a quarter of what was left when it was issued: a certificate that was old when it was new is not renewed at once,
    /// for the next one would be as old.
    private var earliestTime: Timestamp { created.adding(seconds: max(0, notAfter.seconds(since: created)) / 4) }

    /// From here on, the time is too short for politeness.
    package var safetyTime: Timestamp { max(notAfter.adding(seconds: -(lifetime / RenewalSchedule.safetyShare)), earliestTime) }

    /// Two thirds or half of the lifetime, with this jitter (-1...1), never past the safety time.
    package func lifetimeTime(jitter: Double) -> Timestamp {
        let share = lifetime <= RenewalSchedule.shortLifetimeSeconds ? 0.5 : 2.0 / 3
        let seconds = Double(lifetime) * (share + RenewalSchedule.jitterShare * min(max(jitter, -1), 1))
        return min(max(notBefore.adding(seconds: Int64(seconds)), earliestTime), safetyTime)
    }

    /// When it will be renewed as things stand, and why.
    package func nextRenewal(_ state: RenewalState) -> (time: Timestamp, reason: Reason) {
        let byLifetime = lifetimeTime(jitter: state.jitter ?? 0)
        guard let window = state.window, state.windowID == certificateID, certificateID != nil, let selected = state.selectedTime else {
            return (byLifetime, .lifetime)
        }
        // A CA that always answers "past" gets one renewal an hour, or the usual one where lifetimes are shorter than that.
        let earliest = min(created.adding(seconds: RenewalSchedule.minimumWindowRenewalSeconds), byLifetime)
        let time = max(selected, earliest)
        return time > safetyTime ? (safetyTime, .almostExpired) : (time, .window(explanationURL: window.explanationURL))
    }

    /// True when the CA's window had passed already when the certificate was new: it answers "past" to everything, or is
    /// about to revoke.
    package func isWindowSuspicious(_ state: RenewalState) -> Bool {
        state.windowID == certificateID && state.window.map { $0.end <= created.adding(seconds: 60) } ?? false
    }

    /// What to do now. Changes the state where something has to be drawn or forgotten.
    package func update(_ state: inout RenewalState, now: Timestamp, random: inout SplitMix64) -> Decision {
        if state.jitter == nil { state.jitter = (random.fraction() * 2e6 - 1e6).rounded() / 1e6 }
        if state.windowID != certificateID {
            // RFC 9773 §4.3: the window of another certificate says nothing about this one.
            state.windowID = certificateID
            state.window = nil
            state.selectedTime = nil
            state.checkAt = nil
            state.checkFailures = 0
            state.isUnsupported = false
        }
        let plain = nextRenewal(state)
        let next =
            now >= notAfter ? (time: now, reason: Reason.expired) : state.revoked != nil ? (time: now, reason: Reason.revoked) : plain
        // All attempts obey the backoff of failed ones, and the CA's rate limit.
        let dueAt = max(next.time, state.retryAt ?? next.time)
        if dueAt <= now { return .renewNow(next.reason) }
        // RFC 9773 §4.3: not after expiry.
        guard let certificateID, now < notAfter else { return .wait(until: dueAt) }
        let checkAt = clampedCheck(state, now: now)
        if checkAt <= now { return .askForRenewalInfo(certificateID) }
        return .wait(until: min(dueAt, checkAt))
    }

    /// A clock that was set back must not postpone the next check for longer than a day.
    private func clampedCheck(_ state: RenewalState, now: Timestamp) -> Timestamp {
        min(state.checkAt ?? now, now.adding(seconds: RenewalSchedule.maximumCheckSeconds))
    }

    // MARK: - Reports

    package func renewalInfoReceived(
        _ outcome: RenewalInfoOutcome, _ state: inout RenewalState, now: Timestamp, random: inout SplitMix64
    ) {
        func pause(_ seconds: Int64) { state.checkAt = now.adding(seconds: seconds) }
        switch outcome {
        case .window(let window, let checkAt):
            if state.window?.start != window.start || state.window?.end != window.end || state.selectedTime == nil {
                let length = max(1, window.end.seconds(since: window.start))
                state.selectedTime = window.start.adding(seconds: Int64.random(in: 0...length, using: &random))
            }
            state.windowID = certificateID
            state.window = window
            state.checkFailures = 0
            state.lastCheckError = nil
            state.isUnsupported = false
            // RFC 9773 §4.3.2: Retry-After is when to look again, within reason.
            let wanted = checkAt?.seconds(since: now) ?? RenewalSchedule.defaultCheckSeconds
            pause(min(max(wanted, RenewalSchedule.minimumCheckSeconds), RenewalSchedule.maximumCheckSeconds))
        case .unsupported:
            state.isUnsupported = true
            state.window = nil
            state.selectedTime = nil
            state.checkFailures = 0
            pause(RenewalSchedule.maximumCheckSeconds)
        case .temporaryFailure(let reason):
            state.lastCheckError = reason
            let backoff = RenewalSchedule.firstCheckBackoffSeconds << Int64(min(state.checkFailures, 20))
            state.checkFailures += 1
            pause(min(backoff, RenewalSchedule.defaultCheckSeconds))
        case .longTermFailure(let reason):
            state.lastCheckError = reason
            state.checkFailures = 0
            pause(RenewalSchedule.defaultCheckSeconds)
        }
    }

    /// A renewal did not succeed. Backs off: longer each time, shorter the less time is left, and never before Retry-After.
    package func renewalFailed(_ error: ACMEError, _ state: inout RenewalState, now: Timestamp, random: inout SplitMix64) {
        state.attemptFailed(error, remaining: max(0, notAfter.seconds(since: now)), now: now, random: &random)
    }

    /// `remaining`: seconds until the certificate that is served expires; nil where there is none.
    package static func retryPause(
        attempts: Int, disposition: ACMEError.Disposition, remaining: Int64?, random: inout SplitMix64
    ) -> Int64 {
        let doubled = firstRetrySeconds << Int64(min(max(attempts - 1, 0), 20))
        // What only a person can change is asked rarely, yet asked: a person may have changed it at the CA.
        var pause = disposition == .permanent ? maximumRetrySeconds : min(doubled, maximumRetrySeconds)
        if let remaining, remaining > 0 { pause = min(pause, max(1, remaining / safetyShare)) }
        return max(1, Int64(Double(pause) * (0.9 + 0.2 * random.fraction())))
    }
}

/// Several CAs in order of preference: the next one is tried after so many failures in a row that another might not have.
package struct AuthoritySequence: Sendable, Hashable {
    package static let defaultFailuresBeforeFallback = 3

    /// Directory URLs, the preferred one first.
    package let directories: [String]
    package let failuresBeforeFallback: Int
    private var failures: [String: Int] = [:]
    private var retryAt: [String: Timestamp] = [:]

    package init(directories: [String], failuresBeforeFallback: Int = AuthoritySequence.defaultFailuresBeforeFallback) {
        precondition(!directories.isEmpty, "no CA")
        self.directories = directories
        self.failuresBeforeFallback = max(1, failuresBeforeFallback)
    }

    /// A new cycle begins with the first CA again; rate limits stay.
    package mutating func cycleBegan() { failures = [:] }

    package mutating func failed(_ error: ACMEError, at directory: String) {
        if let date = error.retryAt { retryAt[directory] = date }
        if error.code == .rateLimited || error.isRefusalOfAuthority {
            // Does not pass by trying again.
            failures[directory, default: 0] += failuresBeforeFallback
        } else if error.disposition == .retryOrFallback {
            failures[directory, default: 0] += 1
        }
    }

    /// A rate limit that was saved; one longer than any is was saved by a clock that has been set since.
    package mutating func remember(_ record: AccountRecord, at now: Timestamp) {
        if let date = record.rateLimit(at: now) { retryAt[record.directoryURL] = date }
    }

    /// The CA to try now: the first that neither failed too often in this cycle nor asked to wait; nil when all did.
    package func choice(at now: Timestamp) -> String? {
        directories.first { (failures[$0] ?? 0) < failuresBeforeFallback && (retryAt[$0] ?? now) <= now }
    }

    /// When all asked to wait or failed: the earliest time that one may be tried again.
    package func retryTime(after now: Timestamp) -> Timestamp {
        directories.map { max(now, retryAt[$0] ?? now) }.min() ?? now
    }
}
