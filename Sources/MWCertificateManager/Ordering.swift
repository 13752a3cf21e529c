package import MWACME
package import MWPKI

// What the manager of a server and the commands share: where to order, and what is remembered of it.

extension ACMEDriver {
    /// One attempt: at the CA whose turn it is, and at once at the next where that one is out of the question.
    ///
    /// - Parameters:
    ///   - plans: one for each CA of `sequence`.
    ///   - current: what is replaced.
    ///   - failed: told of each CA's error.
    /// - Throws: the last error, whose `retryAt` is when any of the CAs may be asked again.
    package func order(
        _ plans: [IssuancePlan], replacing current: StateDirectory.Numbered?, sequence: inout AuthoritySequence,
        accountAlgorithm: KeyAlgorithm, failed: (ACMEError, IssuancePlan) -> Void = { _, _ in }
    ) async throws(ACMEError) -> Issued {
        for record in (try? await onDisk { try $0.accounts() }) ?? [] { sequence.remember(record, at: clock.now().date) }
        var last: ACMEError?
        while let directoryURL = sequence.choice(at: clock.now().date), var plan = plans.first(where: { $0.directoryURL == directoryURL }) {
            plan.replaces = current.flatMap { IssuancePlan.Predecessor($0.generation) }
            do throws(ACMEError) {
                let issued = try await issue(plan, accountAlgorithm: accountAlgorithm)
                sequence.cycleBegan()
                return issued
            } catch {
                if error.code == .cancelled { throw error }
                failed(error, plan)
                sequence.failed(error, at: directoryURL)
                last = error
                if sequence.choice(at: clock.now().date) == directoryURL { break }
            }
        }
        let now = clock.now().date
        var error =
            last
            ?? ACMEError(
                .rateLimited, subject: plans.map(\.directoryURL).joined(separator: ", "), "every CA asked to wait",
                disposition: .retryOrFallback)
        let isExhausted = sequence.choice(at: now) == nil
        let retryAt = sequence.retryTime(after: now)
        error.retryAt = isExhausted && retryAt > now ? retryAt : nil
        // All had their turns: the next attempt begins with the first again.
        if isExhausted { sequence.cycleBegan() }
        throw error
    }
}

extension StateDirectory {
    /// What is remembered about the next certificate: with the current one, or by itself while there is none.
    package func renewalState(_ contents: Contents) throws(ACMEError) -> RenewalState {
        if let current = contents.current { return current.generation.renewal }
        return try attempts().state
    }

    /// Keeps it there.
    package func remember(_ state: RenewalState, with current: Numbered?) throws(ACMEError) {
        guard var current else { return try saveAttempts(state) }
        current.generation.renewal = state
        try update(current)
    }
}

/// Whether, and why, a certificate is to be had now.
enum RenewalDecision: Sendable, Hashable {
    case obtain(String)
    case askForRenewalInfo(CertificateID)
    case wait(until: Timestamp)

    static let noCertificate = "there is no certificate yet"

    /// Changes the state where something has to be drawn or forgotten.
    static func make(
        _ current: StateDirectory.Numbered?, _ configuration: CertificateManagerConfiguration, _ state: inout RenewalState, now: Timestamp,
        random: inout SplitMix64
    ) -> RenewalDecision {
        state.planChanged(to: configuration.digest)
        state.clockObserved(now)
        guard let generation = current?.generation else {
            if let retryAt = state.retryAt, retryAt > now { return .wait(until: retryAt) }
            return .obtain(noCertificate)
        }
        if let change = generation.reasonToReplace(
            for: configuration.plan(for: generation), acceptingAuthorities: configuration.plans.map(\.directoryURL))
        {
            if let retryAt = state.retryAt, retryAt > now { return .wait(until: retryAt) }
            return .obtain(change)
        }
        switch RenewalSchedule(generation).update(&state, now: now, random: &random) {
        case .renewNow(let reason): return .obtain("\(reason)")
        case .askForRenewalInfo(let id): return .askForRenewalInfo(id)
        case .wait(let until): return .wait(until: until)
        }
    }
}
