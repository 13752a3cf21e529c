internal import MWPKI

// The second part of an issuance: the order, its authorizations, the answers to their challenges.

extension IssuanceStateMachine {
    // MARK: - The order

    mutating func beginOrder(at now: Moment) -> Action {
        phase = .ordering
        if let url = inFlight.orderURL, inFlight.accountURL == account.url {
            stage = .resuming
            return send(at: now) { [signer] _ in .post(url, nil, by: signer) }
        }
        return placeOrder(at: now)
    }

    mutating func placeOrder(at now: Moment) -> Action {
        guard let directory = conversation.directory else { preconditionFailure("no directory yet") }
        stage = .ordering
        phase = .ordering
        inFlight.orderURL = nil
        order = nil
        proofs = []
        isResumed = false
        var payload: [String: JSONValue] = ["identifiers": .array(plan.identifiers.map(\.json))]
        if let name = plan.profile?.name, directory.profiles[name] != nil { payload["profile"] = .string(name) }
        var request = Conversation.Request.post(directory.newOrder, nil, by: signer)
        sentReplaces = false
        if let id = replaceable(directory) {
            payload["replaces"] = .string(id.description)
            request.blamable = ["replace"]
            sentReplaces = true
        }
        request.payload = JSONValue.object(payload).encoded
        return act(on: conversation.begin(request), at: now)
    }

    /// RFC 9773 §5: where the CA gives renewal information, issued that certificate to this account, and a name is the same.
    private func replaceable(_ directory: ACMEDirectory) -> CertificateID? {
        guard directory.renewalInfo != nil, let old = plan.replaces, !old.isRefused, !inFlight.replacesRefused,
            old.directoryURL == plan.directoryURL, old.accountURL == account.url,
            !Set(old.identifiers).isDisjoint(with: plan.identifiers)
        else { return nil }
        return old.certificateID
    }

    mutating func orderRefused(_ error: ACMEError, at now: Moment) -> Action {
        if sentReplaces, let problem = error.problem, blamesReplaces(problem) {
            // At once, and once: without it the CA treats it as any order.
            inFlight.replacesRefused = true
            warnings.append("the CA did not take the order as a replacement (\(problem.kind?.name ?? "status \(problem.status ?? 0)"))")
            return placeOrder(at: now)
        }
        if error.code == .accountMissing, error.problem != nil, !hasReregistered { return registerAgain(at: now) }
        return giveUp(error, keepsOrder: error.disposition != .permanent, at: now)
    }

    private func blamesReplaces(_ problem: ACMEProblem) -> Bool {
        if problem.kind == .alreadyReplaced || problem.status == 409 || problem.mentions(["replace"]) { return true }
        return problem.kind == .unauthorized || problem.kind == .malformed
    }

    mutating func ordered(_ json: JSONValue, _ response: HTTPResponse) throws -> Action {
        guard let location = response.value(of: "Location"),
            let url = WebAddress.resolve(location, against: conversation.directory?.newOrder ?? plan.directoryURL)
        else { throw ACMEError.malformed(plan.directoryURL, "no Location with the order's URL") }
        order = try ACMEOrder(json, source: url)
        inFlight.orderURL = url
        inFlight.accountURL = account.url
        // From here on a crash resumes this order instead of making another.
        stage = .savingOrder
        return .save(.order(inFlight))
    }

    mutating func orderFound(_ json: JSONValue, _ response: HTTPResponse, at now: Moment) throws -> Action {
        let found = try ACMEOrder(json, source: inFlight.orderURL ?? plan.directoryURL)
        switch found.status {
        case .processing where now.date.seconds(since: inFlight.created) > plan.limits.maximumProcessingAge.components.seconds:
            return placeOrder(at: now)
        case .pending, .ready, .processing, .valid:
            order = found
            return orderAdvanced(at: now, response)
        case .invalid, .expired, .deactivated, .revoked, .other:
            return placeOrder(at: now)
        }
    }

    mutating func resumptionRefused(_ error: ACMEError, at now: Moment) -> Action {
        if error.code == .accountMissing, error.problem != nil, !hasReregistered { return registerAgain(at: now) }
        // The CA dropped it, or it was another account's.
        if let status = error.problem?.status, [400, 403, 404, 405, 410].contains(status), error.code != .rateLimited {
            return placeOrder(at: now)
        }
        return giveUp(error, keepsOrder: true, at: now)
    }

    /// An order that was resumed turned out to be dead: once, a new one takes its place.
    private mutating func replaceDeadOrder(at now: Moment) -> Action? {
        guard isResumed, !hasReordered else { return nil }
        hasReordered = true
        return placeOrder(at: now)
    }

    /// Goes on from the order's status (RFC 8555 §7.1.6), which may be any after a crash.
    mutating func orderAdvanced(at now: Moment, _ response: HTTPResponse? = nil) -> Action {
        guard let order else { preconditionFailure("no order") }
        switch order.status {
        case .pending where proofs.isEmpty:
            phase = .authorizing
            proofs = order.authorizations.map { Proof(url: $0) }
            pollDeadline = nil
            return readAuthorization(0, at: now)
        case .pending: return pauseBeforeOrder(response, limit: plan.limits.validationTimeout, at: now)
        case .ready: return finalize(at: now)
        case .processing:
            phase = .finalizing
            return pauseBeforeOrder(response, limit: plan.limits.processingTimeout, at: now)
        case .valid: return download(at: now)
        case .invalid, .expired, .deactivated, .revoked, .other:
            if let action = replaceDeadOrder(at: now) { return action }
            return giveUp(invalidOrder(order.error), keepsOrder: false, at: now)
        }
    }

    /// The CA's words about the order, with those about each identifier.
    func invalidOrder(_ problem: ACMEProblem?) -> ACMEError {
        let each = proofs.compactMap(\.problem)
        var problem = problem ?? each.first ?? ACMEProblem(type: nil, detail: "the order is invalid, and the CA does not say why")
        if problem.subproblems.isEmpty, each.count > 1 { problem.subproblems = each }
        var error = ACMEError(problem, subject: names)
        if !each.isEmpty {
            error = ACMEError(
                .challengeFailed, subject: each.compactMap(\.identifier?.description).joined(separator: ", "), "validation failed",
                remedy: "make sure that the CA reaches this server under these names", problem: problem, disposition: .retry)
        } else if error.disposition == .permanent {
            error.disposition = .retry
        }
        return error
    }

    mutating func lookAtOrder(at now: Moment) -> Action {
        guard let url = inFlight.orderURL else { preconditionFailure("no order") }
        stage = .lookingAtOrder
        if phase == .cleaningUp { phase = .validating }
        return send(at: now) { [signer] _ in .post(url, nil, by: signer) }
    }

    mutating func pauseBeforeOrder(_ response: HTTPResponse?, limit: Duration, at now: Moment) -> Action {
        stage = .pausingBeforeOrder
        return pause(response, limit: limit, what: "the order", problem: finalizeProblem, at: now)
    }

    /// Waits before the next look: as long as the CA says, otherwise longer each time; gives up at the deadline.
    mutating func pause(
        _ response: HTTPResponse?, limit: Duration, what: String, problem: ACMEProblem? = nil, at now: Moment
    ) -> Action {
        let end = pollDeadline ?? now.uptime + limit
        pollDeadline = end
        var pause = Duration.backoff(
            polls, first: plan.limits.firstPollPause, maximum: plan.limits.maximumPollPause, random: &conversation.random)
        polls += 1
        let retryAt = response?.retryAfter(at: now.date)
        if let retryAt { pause = max(pause, .seconds(max(0, retryAt.seconds(since: now.date)))) }
        guard now.uptime + pause <= end else {
            return giveUp(
                ACMEError(
                    .timedOut, subject: names, "the CA has not finished with \(what) within \(limit)",
                    remedy: "the order is kept and looked at again", problem: problem, retryAt: retryAt, disposition: .retryOrFallback),
                keepsOrder: true,
                at: now)
        }
        return .wait(pause)
    }

    // MARK: - Authorizations

    mutating func readAuthorization(_ index: Int, at now: Moment) -> Action {
        guard index < proofs.count else { return present(from: 0, at: now) }
        stage = .readingAuthorization(index)
        let url = proofs[index].url
        return send(at: now) { [signer] _ in .post(url, nil, by: signer) }
    }

    mutating func authorizationRead(_ index: Int, _ json: JSONValue, at now: Moment) throws -> Action {
        let authorization = try ACMEAuthorization(json, source: proofs[index].url)
        let identifier = authorization.identifier
        // RFC 8555 §7.1.3: in any order, so the identifier comes from the authorization itself. RFC 9444: or one above ours.
        guard plan.identifiers.contains(where: { $0 == identifier || $0.value.hasSuffix("." + identifier.value) }) else {
            throw ACMEError.malformed(proofs[index].url, "an authorization for \(identifier), which was not ordered")
        }
        proofs[index].identifier = identifier
        switch authorization.status {
        case .valid: proofs[index].isDone = true
        case .pending, .processing:
            proofs[index].candidates = plan.challengePreference.flatMap { type in
                authorization.challenges.filter { $0.type == type && type.canProve(identifier) }
            }
            guard !proofs[index].candidates.isEmpty else {
                let offered = authorization.challenges.map(\.type.rawValue) + authorization.skippedChallenges
                return giveUp(
                    ACMEError(
                        .challengeUnavailable, subject: "\(identifier)", "none of the challenges offered can be used",
                        remedy: "offered: \(offered.joined(separator: ", ")); "
                            + "allowed here: \(plan.challengePreference.map(\.rawValue).joined(separator: ", "))",
                        disposition: .retryOrFallback), keepsOrder: false, at: now)
            }
        default:
            if let action = replaceDeadOrder(at: now) { return action }
            proofs[index].problem = problem(of: authorization)
            return giveUp(invalidOrder(nil), keepsOrder: false, at: now)
        }
        return readAuthorization(index + 1, at: now)
    }

    private func problem(of authorization: ACMEAuthorization) -> ACMEProblem {
        var problem = authorization.problems.first ?? ACMEProblem(type: nil, detail: "the authorization is \(authorization.status)")
        problem.identifier = authorization.identifier
        return problem
    }

    /// Some CAs leave the authorization pending when the challenge that was answered has failed.
    private func problem(ofPending authorization: ACMEAuthorization, _ proof: Proof) -> ACMEProblem? {
        guard let answered = proof.candidates.first, let seen = authorization.challenges.first(where: { $0.url == answered.url }),
            // One that is processing and has an error is tried again (RFC 8555 §8.2).
            seen.status == .invalid || (seen.status == .pending && seen.error != nil)
        else { return nil }
        return seen.error ?? proof.refusal ?? ACMEProblem(type: nil, detail: "the challenge is \(seen.status)")
    }

    // MARK: - Answers

    /// All answers are in place before the CA is told of any: a name and its wildcard need two records at once.
    mutating func present(from first: Int, at now: Moment) -> Action {
        phase = .presenting
        for index in first..<max(first, proofs.count) where !proofs[index].isDone {
            guard let challenge = proofs[index].candidates.first, let identifier = proofs[index].identifier else { continue }
            do {
                let answer = try ChallengeAnswer(
                    identifier: identifier, type: challenge.type, token: challenge.token, accountKey: account.key)
                proofs[index].answer = answer
                proofs[index].isPresented = true
                stage = .presenting(index)
                return .present(answer)
            } catch {
                return giveUp(ACMEError(own: error, subject: "\(identifier)"), keepsOrder: true, at: now)
            }
        }
        if plan.recordPropagation > .zero, proofs.contains(where: { $0.isPresented && $0.answer?.type == .dns01 }) {
            stage = .propagating
            return .wait(plan.recordPropagation)
        }
        return answer(from: 0, at: now)
    }

    mutating func presentationFailed(_ index: Int, _ reason: String, at now: Moment) -> Action {
        let failed = proofs[index].candidates.removeFirst()
        let identifier = proofs[index].identifier.map(\.description) ?? names
        guard !proofs[index].candidates.isEmpty else {
            // Removed too: a hook that failed may have done half of its work.
            return giveUp(
                ACMEError(
                    .challengeNotPresented, subject: identifier, "the answer to \(failed.type.rawValue) cannot be put in place",
                    disposition: .retry, underlying: [ACMEProblem.safe(reason)]), keepsOrder: true, at: now)
        }
        warnings.append("\(identifier): \(failed.type.rawValue) cannot be answered: \(ACMEProblem.safe(reason))")
        return present(from: index, at: now)
    }

    mutating func answer(from first: Int, at now: Moment) -> Action {
        phase = .validating
        for index in first..<max(first, proofs.count) where !proofs[index].isDone {
            guard let challenge = proofs[index].candidates.first else { continue }
            // A resumed order may have been told already.
            if challenge.status == .processing || challenge.status == .valid { continue }
            stage = .answering(index)
            return send(at: now) { [signer] _ in
                // RFC 8555 §7.5.1: an empty object.
                var request = Conversation.Request.post(challenge.url, .object([:]), by: signer)
                request.expects = .anything
                return request
            }
        }
        polls = 0
        pollDeadline = now.uptime + plan.limits.validationTimeout
        return poll(0, at: now)
    }

    mutating func answered(_ index: Int, at now: Moment) -> Action { answer(from: index + 1, at: now) }

    mutating func poll(_ first: Int, at now: Moment) -> Action {
        for index in first..<max(first, proofs.count) where !proofs[index].isDone {
            stage = .polling(index)
            let url = proofs[index].url
            return send(at: now) { [signer] _ in .post(url, nil, by: signer) }
        }
        pollDeadline = nil
        polls = 0
        guard proofs.contains(where: { $0.problem != nil }) else { return cleanUp(then: .order, at: now) }
        return giveUp(invalidOrder(nil), keepsOrder: false, at: now)
    }

    mutating func polled(_ index: Int, _ json: JSONValue, _ response: HTTPResponse, at now: Moment) throws -> Action {
        let authorization = try ACMEAuthorization(json, source: proofs[index].url)
        switch authorization.status {
        case .valid:
            proofs[index].isDone = true
            polls = 0
            return poll(index + 1, at: now)
        case .pending, .processing:
            if let problem = problem(ofPending: authorization, proofs[index]) { return proofFailed(index, problem, at: now) }
            if proofs.contains(where: { $0.problem != nil }) {
                // The order is lost; the others are looked at so that all that is wrong is said at once.
                looksAfterFailure += 1
                if looksAfterFailure > plan.limits.maximumLooksAfterFailure {
                    proofs[index].isDone = true
                    return poll(index + 1, at: now)
                }
            }
            stage = .pausingBeforePoll(index)
            return pause(
                response, limit: plan.limits.validationTimeout, what: "validation", problem: proofs.lazy.compactMap(\.refusal).first,
                at: now)
        default:
            if authorization.problems.isEmpty, let url = proofs[index].candidates.first?.url {
                stage = .readingChallenge(index)
                return send(at: now) { [signer] _ in .post(url, nil, by: signer) }
            }
            return proofFailed(index, problem(of: authorization), at: now)
        }
    }

    mutating func challengeRead(_ index: Int, _ problem: ACMEProblem?, at now: Moment) -> Action {
        proofFailed(
            index,
            problem ?? proofs[index].refusal ?? ACMEProblem(type: nil, detail: "the authorization is invalid, and the CA does not say why"),
            at: now)
    }

    private mutating func proofFailed(_ index: Int, _ problem: ACMEProblem, at now: Moment) -> Action {
        proofs[index].isDone = true
        var problem = problem
        problem.identifier = proofs[index].identifier
        proofs[index].problem = problem
        return poll(index + 1, at: now)
    }
}
