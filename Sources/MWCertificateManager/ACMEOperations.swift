package import MWACME
package import MWPKI

/// What people do by hand: each operation takes the lock, is crash-safe, and can be repeated.
///
/// All throw `ACMEError`; `stateLocked` when another process has the lock for longer than `lockTimeout`.
package struct ACMEOperations: Sendable {
    package var driver: ACMEDriver
    package var accountAlgorithm: KeyAlgorithm = .ec(.p256)
    /// A whole issuance of another process, validation included.
    package var lockTimeout: Duration = .seconds(120)
    private static let lockPause: Duration = .milliseconds(200)

    package init(driver: ACMEDriver) { self.driver = driver }

    // MARK: - Accounts

    /// Makes the account at the plan's CA, or finds the one with the saved key.
    package func register(_ plan: IssuancePlan) async throws(ACMEError) -> (record: AccountRecord, account: ACMEAccount?) {
        try await operate(.register, plan)
    }

    /// Never makes one: `accountMissing`.
    package func find(_ plan: IssuancePlan) async throws(ACMEError) -> (record: AccountRecord, account: ACMEAccount?) {
        try await operate(.find, plan)
    }

    /// - Parameter contacts: as `mailto:admin@example.com`; instead of those the CA has.
    package func update(
        contacts: [String], _ plan: IssuancePlan
    ) async throws(ACMEError) -> (record: AccountRecord, account: ACMEAccount?) {
        try await operate(.updateContacts(contacts), plan)
    }

    /// A new key for the account. After a crash both keys are tried, by whatever asks the CA next.
    package func rollover(_ plan: IssuancePlan, to algorithm: KeyAlgorithm) async throws(ACMEError) -> AccountRecord {
        let key = try await driver.generate(algorithm)
        return try await operate(.rollover(to: key), plan).record
    }

    /// For ever: the CA takes nothing from this key any more.
    package func deactivate(_ plan: IssuancePlan) async throws(ACMEError) -> AccountRecord { try await operate(.deactivate, plan).record }

    private func operate(
        _ operation: AccountStateMachine.Operation, _ plan: IssuancePlan
    ) async throws(ACMEError) -> (record: AccountRecord, account: ACMEAccount?) {
        try await locked { () async throws(ACMEError) in
            try await driver.operate(operation, plan: plan, accountAlgorithm: accountAlgorithm)
        }
    }

    // MARK: - Revocation

    /// Has a certificate revoked, by our account, or with its own key where `key` is given. What was revoked before is fine.
    ///
    /// Where it is the current generation's, that is remembered: whoever keeps it orders another one at once.
    package func revoke(
        _ certificate: Certificate, reason: RevocationReason?, key: PrivateKey? = nil, _ plan: IssuancePlan
    ) async throws(ACMEError) {
        try await locked { () async throws(ACMEError) in
            let operation: AccountStateMachine.Operation =
                key.map { .revokeByKey(certificate, key: $0, reason: reason) } ?? .revoke(certificate, reason: reason)
            _ = try await driver.operate(operation, plan: plan, accountAlgorithm: accountAlgorithm)
            let now = driver.clock.now().date
            try await driver.onDisk { directory in
                guard var current = try directory.load().current, current.generation.leaf == certificate else { return }
                current.generation.renewal.revoked = now
                try directory.update(current)
            }
        }
    }

    // MARK: - Certificates

    package enum Mode: Sendable, Hashable {
        /// When there is none, when another is wanted, or when it is time to renew.
        case ifDue
        /// Whatever is there.
        case always
    }

    package enum Outcome: Sendable {
        case issued(StateDirectory.Numbered, warnings: [String])
        /// While we waited for the lock another process got it.
        case obtainedByAnother(StateDirectory.Numbered)
        case notDue(StateDirectory.Numbered, renewal: Timestamp, reason: String)
    }

    /// A certificate as the configuration wants it.
    ///
    /// Ignores the pause after attempts that failed, as a person knows what changed; not the rate limits of a CA.
    package func obtain(_ configuration: CertificateManagerConfiguration, _ mode: Mode) async throws(ACMEError) -> Outcome {
        try configuration.validate()
        let before = try await driver.onDisk { directory in try directory.load().current?.number }
        return try await locked { () async throws(ACMEError) in
            let contents = try await driver.onDisk { directory in try directory.load() }
            var state = try await driver.onDisk { directory in try directory.renewalState(contents) }
            var random = SplitMix64(seed: driver.seed())
            state.retryAt = nil
            let decision = try await decide(contents.current, configuration, &state, &random)
            if let current = contents.current {
                if current.number != before, decision == nil { return .obtainedByAnother(current) }
                if mode == .ifDue, decision == nil {
                    let next = RenewalSchedule(current.generation).nextRenewal(state)
                    return .notDue(current, renewal: next.time, reason: "\(next.reason)")
                }
            }
            return try await order(contents.current, configuration, state, &random)
        }
    }

    /// Why one is to be had now; nil when it is not. Asks for renewal information where that is due.
    private func decide(
        _ current: StateDirectory.Numbered?, _ configuration: CertificateManagerConfiguration, _ state: inout RenewalState,
        _ random: inout SplitMix64
    ) async throws(ACMEError) -> String? {
        let before = state
        var decision = RenewalDecision.make(current, configuration, &state, now: driver.clock.now().date, random: &random)
        if case .askForRenewalInfo(let id) = decision, let generation = current?.generation {
            let outcome = await driver.renewalInfo(
                id, directoryURL: generation.directoryURL, plan: configuration.plan(for: generation))
            let now = driver.clock.now().date
            RenewalSchedule(generation).renewalInfoReceived(outcome, &state, now: now, random: &random)
            decision = RenewalDecision.make(current, configuration, &state, now: now, random: &random)
        }
        if state != before {
            let changed = state
            try? await driver.onDisk { directory in try directory.remember(changed, with: current) }
        }
        guard case .obtain(let reason) = decision else { return nil }
        return reason
    }

    private func order(
        _ current: StateDirectory.Numbered?, _ configuration: CertificateManagerConfiguration, _ state: RenewalState,
        _ random: inout SplitMix64
    ) async throws(ACMEError) -> Outcome {
        // A person waits: the next CA has its turn after one failure.
        var sequence = AuthoritySequence(directories: configuration.plans.map(\.directoryURL), failuresBeforeFallback: 1)
        do throws(ACMEError) {
            let issued = try await driver.order(
                configuration.plans, replacing: current, sequence: &sequence, accountAlgorithm: accountAlgorithm)
            return .issued(issued.current, warnings: issued.warnings + (await runHook(configuration, issued.current)))
        } catch {
            if error.code == .cancelled { throw error }
            var state = state
            // What the attempt itself left in the generation.
            let contents = try await driver.onDisk { directory in try directory.load() }
            if let left = contents.current?.generation.renewal { state.replacesRefused = left.replacesRefused }
            let now = driver.clock.now().date
            state.attemptFailed(
                error, remaining: current.map { max(0, $0.generation.leaf.notAfter.seconds(since: now)) }, now: now, random: &random)
            let changed = state
            try? await driver.onDisk { directory in try directory.remember(changed, with: current) }
            throw error
        }
    }

    private func runHook(_ configuration: CertificateManagerConfiguration, _ current: StateDirectory.Numbered) async -> [String] {
        guard let hook = configuration.afterIssue else { return [] }
        do {
            try await hook.runAfterIssue(of: current)
            return []
        } catch {
            return ["the program that runs after an issuance failed: \(error)"]
        }
    }

    // MARK: - The lock

    private func locked<Value: Sendable>(_ body: () async throws(ACMEError) -> Value) async throws(ACMEError) -> Value {
        try await driver.onDisk { directory in try directory.prepare() }
        let lock = try await takeLock()
        defer { lock.release() }
        return try await body()
    }

    private func takeLock() async throws(ACMEError) -> StateLock {
        let end = driver.clock.now().uptime + lockTimeout
        while true {
            if let lock = try await driver.onDisk({ directory in try StateLock.take(in: directory) }) { return lock }
            guard driver.clock.now().uptime < end else {
                throw ACMEError(
                    .stateLocked, subject: driver.directory.path, "another process orders or works on an account",
                    remedy: "wait until it is done, or stop it", disposition: .retry)
            }
            do { try await driver.clock.sleep(for: ACMEOperations.lockPause) } catch {
                throw ACMEError(.cancelled, subject: driver.directory.path, "stopped before it was done", disposition: .retry)
            }
        }
    }
}
