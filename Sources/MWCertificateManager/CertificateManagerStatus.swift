package import MWACME
package import MWPKI

/// What an operator asks about a certificate that looks after itself.
package struct CertificateManagerStatus: Sendable {
    package struct Account: Sendable, Hashable {
        package let directoryURL: String
        /// Nil before the registration.
        package let url: String?
        package let contacts: [String]
        /// No request to this CA before then.
        package let rateLimitedUntil: Timestamp?
        /// Which of two keys the CA knows is found out at the next request.
        package let isRollingOver: Bool
    }

    package struct Order: Sendable, Hashable {
        package let directoryURL: String
        /// Nil before the CA made the order.
        package let url: String?
        package let identifiers: [Identifier]
        package let created: Timestamp
    }

    package struct Generation: Sendable {
        package let number: UInt64
        package let certificate: Certificate
        package let identifiers: [Identifier]
        package let directoryURL: String
        package let accountURL: String
        package let profile: String?
        package let created: Timestamp
    }

    package var directory: String
    /// Nil while there is none.
    package var generation: Generation?
    package var previous: UInt64?
    /// When the CA is asked for renewal information again, or whether it gives some by then; nil where there is nothing to ask about.
    package var nextCheck: Timestamp?
    package var nextRenewal: Timestamp?
    /// Why then.
    package var reason: String?
    package var window: RenewalWindow?
    /// The CA's page about its window.
    package var explanationURL: String? { window?.explanationURL }
    /// The window had passed when the certificate was new.
    package var isWindowSuspicious = false
    /// That failed, in a row.
    package var attempts = 0
    package var lastAttempt: Timestamp?
    package var lastError: String?
    /// Type, detail and subproblems, as the CA gave them.
    package var lastProblem: ACMEProblem?
    package var lastCheckError: String?
    /// No attempt before then.
    package var retryAt: Timestamp?
    package var accounts: [Account] = []
    package var orders: [Order] = []
    /// About damaged files, and what else is odd.
    package var warnings: [String] = []

    /// Of a state directory, without its lock and without changing anything.
    ///
    /// - Parameter plans: what is wanted, where it is known: then a certificate that is no longer what is wanted says so.
    /// - Throws: `stateExposed`, as everything that reads the directory.
    package init(of directory: StateDirectory, plans: [IssuancePlan] = [], at now: Timestamp) throws(ACMEError) {
        self.directory = directory.path
        let contents = try directory.load()
        warnings = contents.warnings
        previous = contents.previous?.number
        if let current = contents.current {
            describe(current, plans: plans, at: now)
        } else {
            let (state, damage) = try directory.attempts()
            warnings += damage
            describe(state)
            nextRenewal = max(now, state.retryAt ?? now)
            reason = CertificateManager.noCertificate
        }
        accounts = try directory.accounts().map { record in
            Account(
                directoryURL: record.directoryURL, url: record.url, contacts: record.contacts,
                rateLimitedUntil: record.retryAt.flatMap { $0 > now ? $0 : nil }, isRollingOver: record.pendingKey != nil)
        }
        orders = try directory.orders().filter { order in
            order.key.publicKeyPin != contents.current?.generation.key.publicKeyPin
        }.map { Order(directoryURL: $0.directoryURL, url: $0.orderURL, identifiers: $0.identifiers, created: $0.created) }
    }

    private mutating func describe(_ current: StateDirectory.Numbered, plans: [IssuancePlan], at now: Timestamp) {
        let generation = current.generation
        let state = generation.renewal
        self.generation = Generation(
            number: current.number, certificate: generation.leaf, identifiers: generation.identifiers,
            directoryURL: generation.directoryURL, accountURL: generation.accountURL, profile: generation.profile,
            created: generation.created)
        describe(state)
        let schedule = RenewalSchedule(generation)
        window = state.windowID == generation.certificateID ? state.window : nil
        isWindowSuspicious = schedule.isWindowSuspicious(state)
        if generation.certificateID != nil, now < generation.leaf.notAfter { nextCheck = max(now, state.checkAt ?? now) }
        let next = schedule.nextRenewal(state)
        (nextRenewal, reason) = (max(next.time, state.retryAt ?? next.time), "\(next.reason)")
        if state.revoked != nil { (nextRenewal, reason) = (max(now, state.retryAt ?? now), "\(RenewalSchedule.Reason.revoked)") }
        if !plans.isEmpty {
            let configuration = CertificateManagerConfiguration(plans: plans, stateDirectory: StateDirectory(path: directory))
            if let change = generation.reasonToReplace(
                for: configuration.plan(for: generation), acceptingAuthorities: plans.map(\.directoryURL))
            {
                (nextRenewal, reason) = (max(now, state.retryAt ?? now), change)
            }
        }
        if now >= generation.leaf.notAfter { warnings.append("the certificate expired at \(generation.leaf.notAfter)") }
    }

    private mutating func describe(_ state: RenewalState) {
        attempts = state.attempts
        lastAttempt = state.lastAttempt
        lastError = state.lastError
        lastProblem = state.lastProblem
        lastCheckError = state.lastCheckError
        retryAt = state.retryAt
    }
}
