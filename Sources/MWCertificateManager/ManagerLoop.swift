internal import Logging
internal import MWACME
internal import MWPKI

//   step: look at the directory ─→ install what is new ─→ decide ─┬─ wait ──────────────────────────→ sleep
//                                                                 ├─ ask for renewal information ───→ again
//                                                                 └─ lock ─→ look again ─→ order ───→ again
//
// Every way round the loop without a sleep leaves a time in the state before which that way is not taken again.

/// The life of a `CertificateManager`, one step after the other.
struct ManagerLoop: Sendable {
    private let configuration: CertificateManagerConfiguration
    private let driver: ACMEDriver
    private let logger: Logger
    private let installed: CertificateManager.Installer
    private let show: @Sendable (RenewalState) -> Void
    private let metrics = ManagerMetrics()

    private var current: StateDirectory.Numbered?
    /// While there is no certificate.
    private var attempts = RenewalState()
    /// What the server presents.
    private var inUse: UInt64?
    /// What has been told to begin later.
    private var waitsFor: UInt64?
    /// Of what this process wrote or read last.
    private var signature: StateDirectory.Signature?
    private var sequence: AuthoritySequence
    private var alarm = ExpiryAlarm()
    private var suspected: UInt64?
    private var told: Set<String> = []
    private var isWaitingForLock = false
    private var random: SplitMix64

    init(
        _ configuration: CertificateManagerConfiguration, driver: ACMEDriver, logger: Logger,
        installed: @escaping CertificateManager.Installer, show: @escaping @Sendable (RenewalState) -> Void
    ) {
        self.configuration = configuration
        self.driver = driver
        self.logger = logger
        self.installed = installed
        self.show = show
        sequence = AuthoritySequence(
            directories: configuration.plans.map(\.directoryURL), failuresBeforeFallback: configuration.failuresBeforeFallback)
        random = SplitMix64(seed: driver.seed())
    }

    private var now: Timestamp { driver.clock.now().date }

    private var state: RenewalState { current?.generation.renewal ?? attempts }

    /// Throws what makes a start pointless.
    mutating func start() async throws(ACMEError) {
        let signature = await driver.inBackground { [configuration] in configuration.stateDirectory.signature() }
        try await read(signature)
    }

    /// Does what is due; returns how long nothing is, zero for "look again at once".
    mutating func step() async -> Duration {
        await refresh()
        await install()
        let now = now
        var state = state
        let decision = RenewalDecision.make(current, configuration, &state, now: now, random: &random)
        await remember(state)
        raiseAlarms(now)
        publish()
        switch decision {
        case .obtain(let reason): return await obtain(reason)
        case .askForRenewalInfo(let id):
            await ask(id)
            return .zero
        case .wait(let until):
            let pause = min(.seconds(max(1, until.seconds(since: self.now))), configuration.maximumSleep)
            guard let current, current.number == waitsFor, waitsFor != inUse else { return pause }
            return min(pause, .seconds(max(1, current.generation.leaf.notBefore.seconds(since: self.now))))
        }
    }

    // MARK: - The directory

    /// Reads the directory where another process wrote to it.
    private mutating func refresh() async {
        let seen = await driver.inBackground { [configuration] in configuration.stateDirectory.signature() }
        guard seen != signature else { return }
        do throws(ACMEError) {
            try await read(seen)
        } catch {
            tellOnce("the ACME state cannot be read; the certificate in use stays: \(error)")
        }
    }

    private mutating func read(_ seen: StateDirectory.Signature) async throws(ACMEError) {
        let (contents, attempts) = try await driver.onDisk { directory in
            (try directory.load(), try directory.attempts())
        }
        signature = seen
        for warning in contents.warnings + attempts.warnings { tellOnce(warning) }
        // What is newer in memory came from a disk that has lost it since: it goes on being used.
        if let current, current.number > contents.current?.number ?? 0 { return }
        current = contents.current
        self.attempts = attempts.state
    }

    private mutating func remember(_ state: RenewalState) async {
        guard state != self.state else { return }
        if current == nil { attempts = state } else { current?.generation.renewal = state }
        show(state)
        let current = current
        do throws(ACMEError) {
            signature = try await driver.onDisk { directory in
                try directory.remember(state, with: current)
                return directory.signature()
            }
        } catch {
            tellOnce("the ACME state cannot be saved; it is remembered until this process ends: \(error)")
        }
    }

    // MARK: - In use

    private mutating func install() async {
        guard let current, current.number != inUse else { return }
        let leaf = current.generation.leaf
        // This clock is behind the CA's: clients of the same time would refuse it.
        guard leaf.validity(at: now) != .notYetValid else {
            if waitsFor != current.number {
                logger.notice("the new certificate is not in use yet: it begins later", metadata: ["not_before": "\(leaf.notBefore)"])
            }
            waitsFor = current.number
            return
        }
        do {
            try await installed(current)
        } catch {
            metrics.installFailed()
            logger.error("the new certificate cannot be used, the old one stays", metadata: ["reason": "\(error)"])
            return
        }
        let isNew = inUse != nil
        inUse = current.number
        logger.notice(
            isNew ? "a new certificate is in use" : "certificate in use",
            metadata: [
                "names": "\(names(current))", "not_after": "\(leaf.notAfter)", "fingerprint": "\(leaf.sha256)",
                "generation": "\(current.number)", "ca": "\(current.generation.directoryURL)",
            ])
    }

    private func names(_ current: StateDirectory.Numbered) -> String {
        current.generation.identifiers.map(\.description).joined(separator: ", ")
    }

    private func runHook(_ current: StateDirectory.Numbered) async {
        guard let hook = configuration.afterIssue else { return }
        do {
            try await hook.runAfterIssue(of: current)
        } catch {
            logger.error("the program that runs after an issuance failed", metadata: ["reason": "\(error)"])
        }
    }

    // MARK: - Renewal information

    private mutating func ask(_ id: CertificateID) async {
        guard let current else { return }
        let generation = current.generation
        let outcome = await driver.renewalInfo(
            id, directoryURL: generation.directoryURL, plan: configuration.plan(for: generation))
        if Task.isCancelled { return }
        // Meanwhile another process may have renewed or revoked it: that is not overwritten.
        await refresh()
        guard self.current?.number == current.number, state == generation.renewal else { return }
        var state = state
        let before = state.window
        RenewalSchedule(generation).renewalInfoReceived(outcome, &state, now: now, random: &random)
        await remember(state)
        switch outcome {
        case .window(let window, _) where window != before:
            var metadata: Logger.Metadata = [
                "start": "\(window.start)", "end": "\(window.end)", "renewal": "\(state.selectedTime.map(String.init) ?? "-")",
            ]
            guard let page = window.explanationURL else { return logger.info("the CA says when to renew", metadata: metadata) }
            metadata["explanation"] = "\(page)"
            logger.warning("the CA says when to renew, and why", metadata: metadata)
        case .window, .unsupported: break
        case .temporaryFailure(let reason), .longTermFailure(let reason):
            logger.info("the CA does not say when to renew", metadata: ["reason": "\(reason)"])
        }
    }

    // MARK: - Ordering

    private mutating func obtain(_ reason: String) async -> Duration {
        let lock: StateLock?
        do throws(ACMEError) {
            lock = try await driver.onDisk { directory in try StateLock.take(in: directory) }
        } catch {
            await failed(error)
            return .zero
        }
        guard let lock else {
            if !isWaitingForLock { logger.info("another process orders; waiting for it", metadata: ["reason": "\(reason)"]) }
            isWaitingForLock = true
            return configuration.lockPause
        }
        defer { lock.release() }
        isWaitingForLock = false
        // Between the look and the lock another process may have got it, or been told by the CA to wait.
        let (number, before) = (current?.number, state)
        await refresh()
        guard current?.number == number, state == before else { return .zero }
        logger.notice(
            "ordering a certificate",
            metadata: ["reason": "\(reason)", "names": "\(configuration.plans[0].identifiers.map(\.value).joined(separator: ", "))"])
        metrics.attempted()
        do throws(ACMEError) {
            let issued = try await driver.order(
                configuration.plans, replacing: current, sequence: &sequence, accountAlgorithm: configuration.accountAlgorithm
            ) { [logger, metrics] error, plan in
                metrics.failed(error.code)
                logger.error("no certificate from this CA", metadata: ["ca": "\(plan.directoryURL)", "reason": "\(error)"])
            }
            await succeeded(issued)
        } catch {
            if error.code == .cancelled { return .zero }
            // What the attempt itself left in the generation.
            await refresh()
            await failed(error)
        }
        return .zero
    }

    private mutating func succeeded(_ issued: ACMEDriver.Issued) async {
        metrics.succeeded()
        for warning in issued.warnings { logger.warning("\(warning)") }
        current = issued.current
        attempts = RenewalState()
        signature = await driver.inBackground { [configuration] in configuration.stateDirectory.signature() }
        show(issued.current.generation.renewal)
        await install()
        await runHook(issued.current)
    }

    private mutating func failed(_ error: ACMEError) async {
        var state = state
        let now = now
        state.attemptFailed(
            error, remaining: current.map { max(0, $0.generation.leaf.notAfter.seconds(since: now)) }, now: now, random: &random)
        await remember(state)
        logger.error(
            "no certificate this time",
            metadata: [
                "attempts": "\(state.attempts)", "next": "\(state.retryAt.map(String.init) ?? "-")", "reason": "\(error)",
                "not_after": "\(current.map { "\($0.generation.leaf.notAfter)" } ?? "-")",
            ])
    }

    // MARK: - Words and numbers

    private mutating func raiseAlarms(_ now: Timestamp) {
        guard let current else { return }
        let schedule = RenewalSchedule(current.generation)
        if suspected != current.number, schedule.isWindowSuspicious(current.generation.renewal) {
            suspected = current.number
            logger.critical(
                "the CA's renewal window had passed when the certificate was new: it is about to revoke, or its renewal information is wrong",
                metadata: [
                    "names": "\(names(current))", "window_end": "\(current.generation.renewal.window.map { "\($0.end)" } ?? "-")",
                    "explanation": "\(current.generation.renewal.window?.explanationURL ?? "-")",
                ])
        }
        guard let level = alarm.raise(for: current, now: now) else { return }
        let metadata: Logger.Metadata = [
            "names": "\(names(current))", "not_after": "\(current.generation.leaf.notAfter)",
            "attempts": "\(current.generation.renewal.attempts)", "last_error": "\(current.generation.renewal.lastError ?? "-")",
        ]
        switch level {
        case .soon: logger.warning("the certificate ends and is not renewed", metadata: metadata)
        case .near: logger.error("the certificate ends soon and is not renewed", metadata: metadata)
        case .imminent: logger.critical("the certificate is about to end and is not renewed", metadata: metadata)
        case .over: logger.critical("the certificate has ended and is not renewed: clients refuse it", metadata: metadata)
        }
    }

    private func publish() {
        let state = state
        let next = current.map { RenewalSchedule($0.generation).nextRenewal(state).time }
        metrics.show(current, state: state, nextRenewal: max(next, state.retryAt), nextCheck: current == nil ? nil : state.checkAt)
    }

    /// The later of two times that may not be known.
    private func max(_ left: Timestamp?, _ right: Timestamp?) -> Timestamp? {
        guard let left else { return right }
        guard let right else { return left }
        return Swift.max(left, right)
    }

    private func max(_ left: Int64, _ right: Int64) -> Int64 { Swift.max(left, right) }

    /// A warning that would be said at each look is said once.
    private mutating func tellOnce(_ text: String) {
        // Bounded: whatever writes new sentences without end is told only so much.
        guard told.count < ManagerLoop.maximumTold, told.insert(text).inserted else { return }
        logger.error("\(text)")
    }

    private static let maximumTold = 200
}
