internal import Logging
package import MWPKI
internal import MWTLS
internal import NIOCore
internal import NIOPosix
internal import Synchronization

/// What became of one load of everything.
package struct ReloadRecord: Sendable {
    package let trigger: ReloadTrigger
    package let at: Timestamp
    /// nil is done.
    package let error: String?

    package init(trigger: ReloadTrigger, at: Timestamp, error: String?) {
        self.trigger = trigger
        self.at = at
        self.error = error
    }
}

/// What is in use, and how it came to be.
package struct SecurityStatus: Sendable {
    package let set: SecuritySet
    /// When the files of ``set`` were read.
    package let loadedAt: Timestamp
    /// Of the files, the start included; revocations are no reloads.
    package let lastReload: ReloadRecord
    package let reloadsDone: UInt64
    package let reloadsFailed: UInt64
    /// The files that differ from what is in use, by name, size or time: not loaded yet, or not loadable.
    package let changedPaths: [String]
    /// What `mwstorage revoke` refused.
    package let revoked: [RefusalRecord]
}

/// Makes ``SecuritySet``s, one after the other: out of files, and out of what administrators revoke.
///
///     request ─▶ waits for the one before; who comes while one waits shares it ─▶ read (worker thread) ─▶ check ─▶ swap ─▶ judge who is in
///                                                                                         └── anything wrong: the old set stays
///
/// Reads are serialised; swaps are atomic and may come between (a revocation does not wait for a file that is being read again).
final class SecurityDesk: Sendable {
    private let source: SecuritySource
    private let journal: RefusalJournal
    private let policy: ReloadPolicy
    private let audit: AuditLog
    private let logger: Logger
    private let metrics: ServerMetrics
    let current: CurrentSecurity
    private let state: Mutex<State>
    private let line = Mutex(Line())
    private let watched: Mutex<FileWatchStateMachine>

    private struct State {
        var material: SecurityMaterial
        var loadedAt: Timestamp
        var last: ReloadRecord
        var done: UInt64 = 0
        var failed: UInt64 = 0
        /// The journal changed, and no set was made of it yet.
        var isSwapOwed = false
        /// Of every identity that this process has had: who once got at one of these keys is no client.
        var ownKeys: Set<PublicKeyPin> = []
    }

    /// The reload that has not begun to read yet, and the last one that was asked for.
    // Safety: each is awaited by whoever asked for it, and the last one by finish(); they share only what is under a lock.
    private struct Line {
        var waiting: Task<JudgingOutcome, any Error>?
        var last: Task<JudgingOutcome, any Error>?
    }

    /// Loads the first set. Blocks. Throws ``ServerError``.
    init(
        _ source: SecuritySource, journal: RefusalJournal, policy: ReloadPolicy, audit: AuditLog, logger: Logger, metrics: ServerMetrics
    ) throws(ServerError) {
        let snapshot = FileSnapshot(of: source.paths)
        let now = Timestamp.now()
        let material = try source.load(at: now)
        let set = try source.makeSet(material, refusing: journal.refusals, generation: 1)
        self.source = source
        self.journal = journal
        self.policy = policy
        self.audit = audit
        self.logger = logger
        self.metrics = metrics
        self.current = CurrentSecurity(set)
        var state = State(material: material, loadedAt: now, last: ReloadRecord(trigger: .start, at: now, error: nil))
        if let leaf = material.tls.identity?.leaf { state.ownKeys = [leaf.publicKeyPin] }
        self.state = Mutex(state)
        self.watched = Mutex(FileWatchStateMachine(policy, loaded: snapshot, at: .now()))
        metrics.loaded(at: now.secondsSince1970)
        self.announce(material, at: now)
    }

    // MARK: Reloading

    /// Reads everything anew, swaps it in, and judges with `judge` who is connected. One that is asked for while another waits to begin is
    /// that one.
    ///
    /// Throws ``ServerError`` when the new set cannot be used; then the old one stays.
    @discardableResult
    func reload(
        _ trigger: ReloadTrigger, judge: @escaping @Sendable (SecuritySet) async -> JudgingOutcome
    ) async throws -> JudgingOutcome {
        let task = self.line.withLock { line in
            if let waiting = line.waiting { return waiting }
            let before = line.last
            // Safety: see Line. A reload is not cancelled with whoever asked first: others may have joined.
            let task = Task {
                _ = await before?.result
                // Who asks from now on may mean files that are changed after we read them.
                self.line.withLock { $0.waiting = nil }
                return try await self.perform(trigger, judge)
            }
            line.waiting = task
            line.last = task
            return task
        }
        return try await task.value
    }

    /// Returns when no reload runs any more.
    func finish() async {
        _ = await self.line.withLock { $0.last }?.result
    }

    private func perform(_ trigger: ReloadTrigger, _ judge: @Sendable (SecuritySet) async -> JudgingOutcome) async throws -> JudgingOutcome
    {
        do {
            let (material, now) = try await self.readUntilSettled(trigger)
            try self.requireIdentity(of: material, at: now)
            let before = self.current.set.context.identity?.leaf.sha256
            let set = try self.swap { state in
                state.material = material
                state.loadedAt = now
            }
            self.state.withLock { state in
                state.done += 1
                state.last = ReloadRecord(trigger: trigger, at: now, error: nil)
            }
            self.watched.withLock { $0.reloadEnded(isDone: true, at: .now()) }
            self.announce(material, at: now)
            let outcome = await judge(set)
            self.metrics.reloaded(isDone: true, at: now.secondsSince1970)
            var metadata = Self.metadata(of: material)
            metadata["trigger"] = "\(trigger)"
            metadata["generation"] = "\(set.generation)"
            metadata["connections_closed"] = "\(outcome.closed)"
            self.logger.info("reloaded", metadata: metadata)
            self.audit.record(.reloadDone(Self.audited(trigger, set, outcome)))
            if let leaf = set.context.identity?.leaf, leaf.sha256 != before {
                self.audit.record(.certificateInstalled(AuditedCertificate(leaf), source: "\(trigger)"))
            }
            return outcome
        } catch {
            self.state.withLock { state in
                state.failed += 1
                state.last = ReloadRecord(trigger: trigger, at: .now(), error: "\(error)")
            }
            self.watched.withLock { $0.reloadEnded(isDone: false, at: .now()) }
            self.metrics.reloaded(isDone: false, at: Timestamp.now().secondsSince1970)
            // A renewed certificate that cannot come into use is an outage with a date: the end of the old one.
            let level: Logger.Level = trigger == .renewal ? .critical : .error
            self.logger.log(
                level: level, "reload failed, the old set stays in use", metadata: ["reason": "\(error)", "trigger": "\(trigger)"])
            self.audit.record(.reloadFailed(AuditedReload(trigger: "\(trigger)", failure: "\(error)")))
            guard trigger == .renewal, let set = await self.swapIdentity() else { throw error }
            return await judge(set)
        }
    }

    /// After a renewal that something else keeps from being loaded: only what is renewed comes into use, beside what was in use. Nobody gets
    /// in by this who would not have.
    private func swapIdentity() async -> SecuritySet? {
        let before = self.state.withLock { $0.material }
        do {
            let renewed = try await Self.offLoop { [source = self.source] in try source.renewIdentity(of: before, at: .now()) }
            guard let renewed, let leaf = renewed.tls.identity?.leaf else { return nil }
            let set = try self.swap { $0.material = renewed }
            self.metrics.certificateLoaded(notAfter: leaf.notAfter.secondsSince1970)
            self.logger.warning(
                "the renewed certificate is in use, beside the old trust, lists and policy",
                metadata: ["fingerprint": "\(leaf.sha256)", "not_after": "\(leaf.notAfter)", "generation": "\(set.generation)"])
            self.audit.record(.certificateInstalled(AuditedCertificate(leaf), source: "\(ReloadTrigger.renewal)"))
            return set
        } catch {
            self.logger.critical("the renewed certificate cannot be used", metadata: ["reason": "\(error)"])
            return nil
        }
    }

    /// A certificate that is obtained comes into being and is renewed; it does not go away before its end.
    private func requireIdentity(of material: SecurityMaterial, at now: Timestamp) throws(ServerError) {
        guard material.tls.identity == nil, let inUse = self.current.set.context.identity, now <= inUse.leaf.notAfter else { return }
        throw ServerError(
            .materialRejected, "certificates", "the certificate in use is gone, and there is no other",
            remedy: "put it back, or have a new one issued; until then the one in use is served")
    }

    /// A set that does not fit together may be one that is being written.
    private func readUntilSettled(_ trigger: ReloadTrigger) async throws -> (SecurityMaterial, Timestamp) {
        let deadline = NIODeadline.now() + TimeAmount(self.policy.settleTimeout)
        while true {
            do {
                return try await Self.offLoop { [self] in
                    // Before the contents: what changes while we read is then a change.
                    let snapshot = FileSnapshot(of: self.source.paths)
                    self.watched.withLock { $0.reloadBegan(with: snapshot) }
                    let now = Timestamp.now()
                    return (try self.source.load(at: now), now)
                }
            } catch {
                guard trigger == .files || Self.isTorn(error), NIODeadline.now() < deadline else { throw error }
            }
            try await Task.sleep(for: self.policy.settleInterval)
        }
    }

    /// The two files of an identity do not belong together.
    private static func isTorn(_ error: any Error) -> Bool {
        guard let error = (error as? ServerError)?.underlying as? PKIError else { return false }
        return error.code == .keyMismatch || error.code == .chainMalformed
    }

    /// Replaces the set in use; `change` says of which files.
    private func swap(_ change: (inout State) -> Void = { _ in }) throws -> SecuritySet {
        // Only here is the set in use replaced, so that it may be made before: every connection that is accepted asks for it.
        try self.state.withLock { state in
            var next = state
            change(&next)
            if let leaf = next.material.tls.identity?.leaf { next.ownKeys.insert(leaf.publicKeyPin) }
            let made = try self.source.makeSet(
                next.material, refusing: self.journal.refusals, ownKeys: next.ownKeys, generation: self.current.set.generation + 1)
            let set = self.current.replace { _ in made }
            next.isSwapOwed = false
            state = next
            return set
        }
    }

    static func offLoop<Result: Sendable>(_ body: @escaping @Sendable () throws -> Result) async throws -> Result {
        try await NIOThreadPool.singleton.runIfActive(body)
    }

    // MARK: Revoking

    /// Refuses, or with `isLifted` refuses no longer, what `refusal` says: on disk, then for new handshakes, then for who is connected.
    ///
    /// Returns whether that changed anything. Throws ``ServerError`` when the disk did not keep it; a refusal is in force all the same
    /// until the server ends.
    func change(
        _ refusal: Refusal, isLifted: Bool, by principal: String, judge: @Sendable (SecuritySet) async -> JudgingOutcome
    ) async throws -> (isChanged: Bool, outcome: JudgingOutcome) {
        var failure: (any Error)?
        var isChanged = true
        do {
            isChanged = try await Self.offLoop { [journal = self.journal] in
                isLifted ? try journal.remove(refusal) : try journal.add(refusal, by: principal, at: .now())
            }
        } catch {
            failure = error
        }
        if let failure {
            if isLifted { throw Self.notLifted(refusal, failure) }
            guard self.journal.refusals.contains(refusal) else { throw failure }
        }
        // What a swap that failed left undone is done by whoever asks again.
        let isSwapOwed = self.state.withLock { state in
            state.isSwapOwed = state.isSwapOwed || isChanged
            return state.isSwapOwed
        }
        guard isSwapOwed else { return (false, JudgingOutcome()) }
        let set = try await Self.offLoop { try self.swap() }
        let outcome = await judge(set)
        self.logger.notice(
            isLifted ? "refusal lifted" : "refused",
            metadata: [
                "refusal": "\(refusal)", "by": "\(principal)", "generation": "\(set.generation)", "connections_closed": "\(outcome.closed)",
            ])
        if let failure { throw Self.notKept(refusal, failure) }
        return (true, outcome)
    }

    private static func notLifted(_ refusal: Refusal, _ error: any Error) -> ServerError {
        ServerError(
            .storageUnavailable, "\(refusal)", "the list of refusals could not be changed; what was refused still is",
            remedy: "mend the disk, then ask again", underlying: error)
    }

    private static func notKept(_ refusal: Refusal, _ error: any Error) -> ServerError {
        ServerError(
            .storageUnavailable, "\(refusal)", "the list of refusals could not be kept; what was refused is so until the server ends",
            remedy: "mend the disk, then ask again", underlying: error)
    }

    // MARK: Status

    func status() -> SecurityStatus {
        let snapshot = FileSnapshot(of: self.source.paths)
        let changed = self.watched.withLock { $0.loaded.paths(differingFrom: snapshot) }
        return self.state.withLock { state in
            SecurityStatus(
                set: self.current.set, loadedAt: state.loadedAt, lastReload: state.last, reloadsDone: state.done,
                reloadsFailed: state.failed, changedPaths: changed, revoked: self.journal.all)
        }
    }

    private func announce(_ material: SecurityMaterial, at now: Timestamp) {
        let policy = material.accessPolicy
        for warning in material.tls.warnings(at: now) + policy.warnings + policy.warnings(beside: material.tls.trustStore) {
            self.logger.warning("\(warning)")
        }
        if let source = policy.source {
            self.logger.info("access policy in use", metadata: ["file": "\(source)", "rules": "\(policy.rules.count)"])
        } else {
            self.logger.notice("no access policy: every member of the trust store has all rights")
        }
        if let leaf = material.tls.identity?.leaf { self.metrics.certificateLoaded(notAfter: leaf.notAfter.secondsSince1970) }
    }

    private static func metadata(of material: SecurityMaterial) -> Logger.Metadata {
        var metadata: Logger.Metadata = [
            "trust_anchors": "\(material.tls.trustStore.anchors.count)",
            "revocation_lists": "\(material.tls.trustStore.revocationLists.count)",
            "refusals": "\(material.refusals.refusals.count)",
        ]
        if let leaf = material.tls.identity?.leaf {
            metadata["subject"] = "\(leaf.subject)"
            metadata["fingerprint"] = "\(leaf.sha256)"
            metadata["not_after"] = "\(leaf.notAfter)"
        }
        return metadata
    }

    private static func audited(_ trigger: ReloadTrigger, _ set: SecuritySet, _ outcome: JudgingOutcome) -> AuditedReload {
        AuditedReload(
            trigger: "\(trigger)", generation: set.generation, certificate: (set.context.identity?.leaf).map { AuditedCertificate($0) },
            trustAnchors: set.context.trustStore.anchors.count, revocationLists: set.context.trustStore.revocationLists.count,
            closedConnections: outcome.closed)
    }

    /// Of the files, the start included.
    var lastReload: ReloadRecord { self.state.withLock { $0.last } }

    var loadedMetadata: Logger.Metadata { Self.metadata(of: self.state.withLock { $0.material }) }

    // MARK: Watching

    /// Looks at the files until the task is cancelled, and reloads as ``ReloadPolicy`` says.
    func watch(judge: @escaping @Sendable (SecuritySet) async -> JudgingOutcome) async {
        guard let pause = self.policy.watchInterval ?? self.policy.interval.map({ $0 / 10 }) else { return }
        while !Task.isCancelled {
            do {
                try await Task.sleep(for: pause)
                let snapshot = try await Self.offLoop { [paths = self.source.paths] in FileSnapshot(of: paths) }
                switch self.watched.withLock({ $0.polled(snapshot, at: .now()) }) {
                case .none: break
                // The log has said why.
                case .reload(let trigger): _ = try? await self.reload(trigger, judge: judge)
                }
            } catch {
                return
            }
        }
    }
}
