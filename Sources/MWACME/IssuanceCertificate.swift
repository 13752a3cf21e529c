internal import MWPKI

// The last part of an issuance: finalize, download, choose among chains, check.

extension IssuanceStateMachine {
    mutating func finalize(at now: Moment) -> Action {
        phase = .finalizing
        guard let url = order?.finalize else {
            return giveUp(
                ACMEError.malformed(inFlight.orderURL ?? names, "the order is ready and \"finalize\" is missing"), keepsOrder: true, at: now
            )
        }
        finalizeAttempts += 1
        guard finalizeAttempts <= plan.limits.maximumFinalizeAttempts else {
            return giveUp(
                ACMEError(.timedOut, subject: names, "the CA does not finalize the order", disposition: .retryOrFallback),
                keepsOrder: true, at: now)
        }
        stage = .finalizing
        if finalizeAttempts == 1 {
            polls = 0
            pollDeadline = now.uptime + plan.limits.processingTimeout
        }
        let key = inFlight.key
        return send(at: now) { [signer] plan in
            let request = try CertificateRequest(names: plan.identifiers.map(\.alternativeName), key: key)
            var message = Conversation.Request.post(
                url, .object(["csr": .string(Base64URL.encode(request.derBytes))]), by: signer)
            // Whether the first one had its effect is seen by looking at the order.
            message.isRepeatable = false
            return message
        }
    }

    mutating func finalizeRefused(_ error: ACMEError, at now: Moment) -> Action {
        // RFC 8555 §7.4: not yet; and after a lost reply the order itself tells how far it is.
        let isUnclear = [.transferFailed, .serverFailed, .replyMalformed].contains(error.code) && error.retryAt == nil
        guard error.problem?.kind == .orderNotReady || isUnclear else {
            return giveUp(error, keepsOrder: error.disposition != .permanent, at: now)
        }
        if isUnclear { finalizeProblem = error.problem }
        if isUnclear, finalizeAttempts >= plan.limits.maximumFinalizeAttempts { return giveUp(error, keepsOrder: true, at: now) }
        return pauseBeforeOrder(nil, limit: plan.limits.processingTimeout, at: now)
    }

    mutating func orderRead(_ json: JSONValue, _ response: HTTPResponse, at now: Moment) throws -> Action {
        let wasFinalizing = if case .finalizing = stage { true } else { false }
        order = try ACMEOrder(json, source: inFlight.orderURL ?? plan.directoryURL)
        if wasFinalizing, let status = order?.status, status == .ready || status == .pending {
            // Some CAs answer with the order as it was.
            return pauseBeforeOrder(response, limit: plan.limits.processingTimeout, at: now)
        }
        return orderAdvanced(at: now, response)
    }

    // MARK: - Download

    mutating func download(at now: Moment) -> Action {
        phase = .downloading
        guard let url = order?.certificate else {
            return giveUp(
                ACMEError.malformed(inFlight.orderURL ?? names, "the order is valid and has no certificate"), keepsOrder: true, at: now)
        }
        stage = .downloading
        return downloadChain(url, at: now)
    }

    private mutating func downloadChain(_ url: String, at now: Moment) -> Action {
        send(at: now) { [signer] _ in
            var request = Conversation.Request.post(url, nil, by: signer)
            request.expects = .chain
            return request
        }
    }

    mutating func downloaded(_ response: HTTPResponse, at now: Moment) throws -> Action {
        do throws(ACMEError) {
            defaultChain = try IssuedChain.read(response.body, source: order?.certificate ?? names)
        } catch {
            // Damaged on its way, perhaps: it is asked for again before another is ordered.
            return giveUp(error, keepsOrder: isFresh(at: now), at: now)
        }
        let base = order?.certificate ?? plan.directoryURL
        alternates = response.links(relation: "alternate").compactMap { WebAddress.resolve($0, against: base) }
        alternates = Array(alternates.prefix(plan.limits.maximumAlternateChains))
        guard let preference = plan.chainPreference, !IssuedChain.suits(defaultChain, preference) else {
            return conclude(defaultChain, at: now)
        }
        return nextAlternate(0, at: now)
    }

    /// RFC 8555 §7.4.2.
    private mutating func nextAlternate(_ index: Int, at now: Moment) -> Action {
        guard index < alternates.count else {
            warnings.append("no chain of the CA is the preferred one; its default is used")
            return conclude(defaultChain, at: now)
        }
        stage = .downloadingAlternate(index)
        return downloadChain(alternates[index], at: now)
    }

    mutating func alternateDownloaded(_ index: Int, _ response: HTTPResponse, at now: Moment) -> Action {
        if let preference = plan.chainPreference, let chain = try? IssuedChain.read(response.body, source: alternates[index]),
            IssuedChain.suits(chain, preference),
            (try? IssuedChain.check(chain, plan: plan, key: inFlight.key, at: now.date)) != nil
        {
            return conclude(chain, at: now)
        }
        return nextAlternate(index + 1, at: now)
    }

    mutating func alternateRefused(_ index: Int, _ error: ACMEError, at now: Moment) -> Action {
        warnings.append("an alternate chain cannot be had: \(error)")
        return nextAlternate(index + 1, at: now)
    }

    /// Only what is as it was ordered gets out of here.
    private mutating func conclude(_ chain: [Certificate], at now: Moment) -> Action {
        do throws(ACMEError) {
            warnings += try IssuedChain.check(chain, plan: plan, key: inFlight.key, at: now.date)
        } catch {
            // One that is not valid yet will be, once the clock is right.
            let isEarly = chain.first.map { $0.notBefore > now.date } ?? false
            return giveUp(error, keepsOrder: isEarly && isFresh(at: now), at: now)
        }
        guard let accountURL = account.url else { preconditionFailure("no account") }
        account.retryAt = nil
        let generation = CertificateGeneration(
            chain: chain, key: inFlight.key, directoryURL: plan.directoryURL, accountURL: accountURL, identifiers: plan.identifiers,
            profile: plan.profile?.name, created: now.date, renewal: RenewalState())
        stage = .over
        phase = .finished
        return .finished(IssuedCertificate(generation: generation, account: account, warnings: warnings))
    }
}

/// What the CA returned, and whether it is what was ordered.
enum IssuedChain {
    static func read(_ body: [UInt8], source: String) throws(ACMEError) -> [Certificate] {
        do {
            return try Certificate.list(pem: body, source: source)
        } catch {
            throw rejected(source, "it is no chain of certificates", ["\(error)"])
        }
    }

    /// Throws `certificateRejected`; returns what is odd and not wrong.
    static func check(_ chain: [Certificate], plan: IssuancePlan, key: PrivateKey, at now: Timestamp) throws(ACMEError) -> [String] {
        guard let leaf = chain.first else { throw rejected("certificate", "it is empty") }
        let subject = "certificate \(leaf.serialNumber)"
        guard key.matches(leaf) else { throw rejected(subject, "it is for another key") }
        let (ordered, issued) = (Set(plan.identifiers), Identifier.all(in: leaf))
        let missing = ordered.subtracting(issued).sorted()
        guard missing.isEmpty else {
            throw rejected(subject, "names are missing in it: \(missing.map(\.description).joined(separator: ", "))")
        }
        guard leaf.notAfter > now else { throw rejected(subject, "it expired at \(leaf.notAfter)") }
        guard leaf.notBefore <= now.adding(seconds: plan.limits.toleratedClockSkew.components.seconds) else {
            throw rejected(subject, "it is not valid before \(leaf.notBefore); check the clock")
        }
        guard chain.count > 1 else { throw rejected(subject, "the certificates of its issuer are missing") }
        do {
            // In order, each signed by the next, strong enough.
            _ = try Identity(leaf: leaf, intermediates: Array(chain.dropFirst()), key: key, source: subject)
        } catch {
            throw rejected(subject, "its chain cannot be used", ["\(error)"])
        }
        if let expired = chain.dropFirst().first(where: { $0.notAfter <= now }) {
            throw rejected(subject, "its issuer \(expired.subject) expired at \(expired.notAfter)")
        }
        let extra = issued.subtracting(ordered).sorted()
        return extra.isEmpty ? [] : ["the CA added names: \(extra.map(\.description).joined(separator: ", "))"]
    }

    /// A root is seldom in the chain itself: the last certificate names it.
    static func suits(_ chain: [Certificate], _ preference: IssuancePlan.ChainPreference) -> Bool {
        guard let last = chain.last else { return false }
        switch preference {
        case .rootCommonName(let name): return last.issuerCommonName == name || chain.dropFirst().contains { $0.commonName == name }
        case .keyIdentifier(let identifier):
            return last.authorityKeyIdentifier == identifier || chain.dropFirst().contains { $0.subjectKeyIdentifier == identifier }
        }
    }

    private static func rejected(_ subject: String, _ what: String, _ underlying: [String] = []) -> ACMEError {
        ACMEError(
            .certificateRejected, subject: subject, "what the CA issued is not what was ordered: \(what)",
            remedy: "the certificate in use stays", disposition: .retryOrFallback, underlying: underlying)
    }
}
