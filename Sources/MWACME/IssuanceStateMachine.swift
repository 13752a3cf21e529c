package import MWPKI

//   start ─→ save order's key ─→ directory ─→ account ─┬─ saved order? ─→ look at it ──────────────┐
//                                 (both keys? register)└─→ new order ─→ save its URL ──────────────┤
//       ┌──────────────── pending ─────────────────────────────────────────────────────────────────┤
//       ↓                                                                                          │
//   authorizations ─→ present ─→ answer ─→ poll until valid ─→ clean up ─→ look at the order ──────┤
//                                                                                                  │
//   finished ←─ check ←─ [alternate chains] ←─ download ←─ valid ←─ processing ←─ finalize ←─ ready┘
//
// Responsibilities: the order of requests, what of it is durable when, which challenge, when to look again, when to give up,
// and whether what the CA returned is what was ordered. Not here: nonces, signatures and repetition (`Conversation`).

/// One certificate, from nothing or from an order that a crash interrupted.
///
/// Call `start`, perform the action, report it with its event, and so on, until `.finished` or `.failed`. One action is under
/// way at any time; an event that does not answer it is a programmer error.
package struct IssuanceStateMachine: ~Copyable {
    package enum Action: Sendable {
        /// `responseReceived` or `transferFailed`. Do not follow redirects.
        case send(HTTPRequest, timeout: Duration)
        /// On a monotonic clock; then `timerFired`.
        case wait(Duration)
        /// Put the answer in place; then `challengePresented`, or `challengeFailed`.
        case present(ChallengeAnswer)
        /// Remove it; then `challengeCleanedUp`, whatever came of it.
        case cleanUp(ChallengeAnswer)
        /// Must be durable; then `stateSaved`, or `stateNotSaved`.
        case save(ACMEState)
        /// Checked, and not yet saved. When the generation is durable, remove the saved order, and save the account (its
        /// `retryAt` may have gone).
        case finished(IssuedCertificate)
        /// `keepsOrder`: leave the saved order for the next attempt; otherwise remove it.
        case failed(ACMEError, keepsOrder: Bool)
    }

    /// For people who watch.
    package enum Phase: String, Sendable, Hashable {
        case preparing, readingDirectory, registering, ordering, authorizing, presenting, validating, finalizing, downloading, cleaningUp
        case finished, failed
    }

    enum Stage {
        case idle
        case savingKey
        case readingDirectory
        case resolvingRollover, savingResolution
        case savingAccountKey, registering, savingAccount
        case resuming, ordering, savingOrder
        case readingAuthorization(Int)
        case presenting(Int), propagating
        case answering(Int)
        case polling(Int), pausingBeforePoll(Int)
        /// Whose authorization is invalid and does not say why.
        case readingChallenge(Int)
        case cleaningUp(Ending)
        case lookingAtOrder, pausingBeforeOrder
        case finalizing
        case downloading, downloadingAlternate(Int)
        case savingRateLimit(ACMEError)
        case over
    }

    /// What follows when all answers are removed.
    enum Ending {
        case order
        case failure(ACMEError, keepsOrder: Bool)
    }

    /// One authorization on its way.
    struct Proof {
        let url: String
        var identifier: Identifier?
        /// Those left to try, the preferred one first.
        var candidates: [ACMEChallenge] = []
        var answer: ChallengeAnswer?
        var isPresented = false
        var isDone = false
        /// Of the answer itself, which some CAs refuse for what they validate nevertheless.
        var refusal: ACMEProblem?
        var problem: ACMEProblem?
    }

    let plan: IssuancePlan
    var account: AccountRecord
    var inFlight: OrderInFlight
    var conversation: Conversation
    var stage = Stage.idle
    var order: ACMEOrder?
    var proofs: [Proof] = []
    var deadline: Duration?
    var pollDeadline: Duration?
    var polls = 0
    var looksAfterFailure = 0
    var finalizeAttempts = 0
    /// What the CA said to finalize while it may have had its effect.
    var finalizeProblem: ACMEProblem?
    var hasReregistered = false
    var hasReordered = false
    var isResumed: Bool
    var sentReplaces = false
    var defaultChain: [Certificate] = []
    var alternates: [String] = []

    package internal(set) var phase = Phase.preparing
    /// What an operator should know although it went on.
    package internal(set) var warnings: [String] = []
    /// RFC 9773 §5: do not send `replaces` for that certificate again.
    package var replacesRefused: Bool { inFlight.replacesRefused }

    /// - Parameters:
    ///   - account: of the plan's CA; without a URL it is registered first.
    ///   - saved: the order that was saved last, if there is one. One that is not for this plan is passed over.
    ///   - certificateKey: a new key of the plan's kind; asked for when nothing can be resumed.
    package init(
        plan: IssuancePlan, account: AccountRecord, saved: OrderInFlight?, at now: Moment, seed: UInt64,
        certificateKey: () throws -> PrivateKey
    ) throws {
        self.plan = plan
        self.account = account
        isResumed = saved?.serves(plan) ?? false
        if let saved, saved.serves(plan) {
            inFlight = saved
        } else {
            inFlight = OrderInFlight(plan: plan, key: try certificateKey(), at: now.date)
        }
        conversation = Conversation(plan: plan, seed: seed)
    }

    // MARK: - Events

    package mutating func start(at now: Moment) -> Action {
        guard case .idle = stage else { preconditionFailure("started twice") }
        deadline = now.uptime + plan.limits.totalTimeout
        do throws(ACMEError) {
            try plan.validate()
        } catch {
            return end(error, keepsOrder: true)
        }
        if let retryAt = account.rateLimit(at: now.date) {
            return end(
                ACMEError(
                    .rateLimited, subject: plan.directoryURL, "the CA asked to wait", retryAt: retryAt, disposition: .retryOrFallback),
                keepsOrder: true)
        }
        // The key is durable, and the disk known to be writable, before there is an order to lose.
        stage = .savingKey
        return .save(.order(inFlight))
    }

    package mutating func responseReceived(_ response: HTTPResponse, at now: Moment) -> Action {
        act(on: conversation.responseReceived(response, at: now), at: now)
    }

    package mutating func transferFailed(_ failure: TransferFailure, at now: Moment) -> Action {
        act(on: conversation.transferFailed(failure, at: now), at: now)
    }

    package mutating func timerFired(at now: Moment) -> Action {
        if conversation.isPausing {
            if let late = overdue(at: now) {
                conversation.abandon()
                return giveUp(late, keepsOrder: true, at: now)
            }
            return act(on: conversation.timerFired(), at: now)
        }
        switch stage {
        case .propagating: return answer(from: 0, at: now)
        case .pausingBeforePoll(let index): return poll(index, at: now)
        case .pausingBeforeOrder: return lookAtOrder(at: now)
        default: preconditionFailure("no timer was asked for")
        }
    }

    package mutating func challengePresented(at now: Moment) -> Action {
        guard case .presenting(let index) = stage else { preconditionFailure("nothing was to be presented") }
        return present(from: index + 1, at: now)
    }

    /// It could not be put in place. Another kind of challenge is tried, if there is one.
    package mutating func challengeFailed(_ reason: String, at now: Moment) -> Action {
        guard case .presenting(let index) = stage else { preconditionFailure("nothing was to be presented") }
        return presentationFailed(index, reason, at: now)
    }

    package mutating func challengeCleanedUp(at now: Moment) -> Action {
        guard case .cleaningUp(let ending) = stage else { preconditionFailure("nothing was to be removed") }
        return cleanUp(then: ending, at: now)
    }

    package mutating func stateSaved(at now: Moment) -> Action {
        switch stage {
        case .savingKey:
            phase = .readingDirectory
            stage = .readingDirectory
            return act(on: conversation.begin(.get(plan.directoryURL)), at: now)
        case .savingResolution: return prepareAccount(at: now)
        case .savingAccountKey: return register(at: now)
        case .savingAccount: return beginOrder(at: now)
        case .savingOrder: return orderAdvanced(at: now)
        case .savingRateLimit(let error): return end(error, keepsOrder: true)
        default: preconditionFailure("nothing was to be saved")
        }
    }

    package mutating func stateNotSaved(_ reason: String, at now: Moment) -> Action {
        if case .savingRateLimit(let error) = stage { return end(error, keepsOrder: true) }
        return end(
            ACMEError(
                .stateUnwritable, subject: "ACME state", "it cannot be saved", remedy: "make room, or the directory writable",
                disposition: .retry, underlying: [reason]), keepsOrder: true)
    }

    /// Stops: an event for the action before is no longer expected. What was presented is removed first; the order is kept for
    /// the next time. Not while an answer is being removed: wait for that.
    package mutating func cancel(at now: Moment) -> Action {
        if case .cleaningUp = stage { preconditionFailure("an answer is being removed") }
        conversation.abandon()
        return giveUp(ACMEError(.cancelled, subject: names, "stopped before it was done", disposition: .retry), keepsOrder: true, at: now)
    }

    // MARK: - Between the steps

    /// For messages.
    var names: String { plan.identifiers.map(\.description).joined(separator: ", ") }

    mutating func act(on step: Conversation.Step, at now: Moment) -> Action {
        switch step {
        case .send(let request, let timeout):
            if let late = overdue(at: now) {
                conversation.abandon()
                return giveUp(late, keepsOrder: true, at: now)
            }
            return .send(request, timeout: timeout)
        case .wait(let pause): return .wait(pause)
        case .reply(let response, let json):
            do {
                return try replied(response, json, at: now)
            } catch {
                // A damaged order or authorization is none to go on with; the next attempt looks at it again.
                return giveUp(ACMEError(own: error, subject: plan.directoryURL), keepsOrder: true, at: now)
            }
        case .failed(let error): return refused(error, at: now)
        }
    }

    /// Whether an order whose certificate may have been issued is still worth another look. An age below zero is a clock that was set.
    func isFresh(at now: Moment) -> Bool {
        abs(now.date.seconds(since: inFlight.created)) < plan.limits.maximumUnclearAge.components.seconds
    }

    private func overdue(at now: Moment) -> ACMEError? {
        guard let deadline, now.uptime >= deadline else { return nil }
        return ACMEError(.timedOut, subject: names, "it took longer than \(plan.limits.totalTimeout)", disposition: .retryOrFallback)
    }

    private mutating func replied(_ response: HTTPResponse, _ json: JSONValue, at now: Moment) throws -> Action {
        switch stage {
        case .readingDirectory: return try directoryRead(json, at: now)
        case .resolvingRollover: return try rolloverResolved(response)
        case .registering: return try registered(response)
        case .resuming: return try orderFound(json, response, at: now)
        case .ordering: return try ordered(json, response)
        case .readingAuthorization(let index): return try authorizationRead(index, json, at: now)
        case .answering(let index): return answered(index, at: now)
        case .polling(let index): return try polled(index, json, response, at: now)
        case .readingChallenge(let index): return challengeRead(index, ACMEProblem(json["error"]), at: now)
        case .lookingAtOrder, .finalizing: return try orderRead(json, response, at: now)
        case .downloading: return try downloaded(response, at: now)
        case .downloadingAlternate(let index): return alternateDownloaded(index, response, at: now)
        default: preconditionFailure("no reply was awaited")
        }
    }

    private mutating func refused(_ error: ACMEError, at now: Moment) -> Action {
        switch stage {
        case .resolvingRollover where error.code == .accountMissing: return pendingKeyUnknown()
        case .resuming: return resumptionRefused(error, at: now)
        case .ordering: return orderRefused(error, at: now)
        case .answering(let index) where error.problem != nil && error.code != .rateLimited && error.code != .serverFailed:
            // Some CAs refuse an answer to what they validated, or began to, already: the authorization tells.
            proofs[index].refusal = error.problem
            return answered(index, at: now)
        // Some CAs validate before they reply, and take their time.
        case .answering(let index) where error.code == .transferFailed: return answered(index, at: now)
        case .readingChallenge(let index) where error.retryAt == nil: return challengeRead(index, nil, at: now)
        case .downloading where error.code != .accountMissing,
            .lookingAtOrder where finalizeAttempts > 0 && error.code != .accountMissing:
            // A replica that lags, or a proxy: the certificate may be there a little later.
            return giveUp(error, keepsOrder: error.disposition != .permanent || isFresh(at: now), at: now)
        case .finalizing: return finalizeRefused(error, at: now)
        case .downloadingAlternate(let index): return alternateRefused(index, error, at: now)
        default: break
        }
        if error.code == .accountMissing, error.problem != nil, !hasReregistered {
            if !proofs.contains(where: \.isPresented) { return registerAgain(at: now) }
            // Forgotten in the middle: what was presented has to go first, and the next attempt registers again.
            var error = error
            error.disposition = .retry
            return giveUp(error, keepsOrder: true, at: now)
        }
        return giveUp(error, keepsOrder: error.disposition != .permanent, at: now)
    }

    // MARK: - The end

    /// Removes what was presented, then fails.
    mutating func giveUp(_ error: ACMEError, keepsOrder: Bool, at now: Moment) -> Action {
        cleanUp(then: .failure(error, keepsOrder: keepsOrder), at: now)
    }

    mutating func cleanUp(then ending: Ending, at now: Moment) -> Action {
        for index in proofs.indices where proofs[index].isPresented {
            proofs[index].isPresented = false
            guard let answer = proofs[index].answer else { continue }
            stage = .cleaningUp(ending)
            phase = .cleaningUp
            return .cleanUp(answer)
        }
        switch ending {
        case .order: return lookAtOrder(at: now)
        case .failure(let error, let keepsOrder):
            guard let retryAt = error.retryAt, retryAt > now.date else { return end(error, keepsOrder: keepsOrder) }
            // Remembered, so that no restart asks before then.
            account.retryAt = retryAt
            stage = .savingRateLimit(error)
            return .save(.account(account))
        }
    }

    private mutating func end(_ error: ACMEError, keepsOrder: Bool) -> Action {
        stage = .over
        phase = .failed
        return .failed(error, keepsOrder: keepsOrder)
    }
}

/// What an issuance brings.
package struct IssuedCertificate: Sendable {
    package let generation: CertificateGeneration
    package let account: AccountRecord
    package let warnings: [String]
}
