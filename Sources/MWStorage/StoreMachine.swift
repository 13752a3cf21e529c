// What requests do to the store.
//
//   committer                        machine                                 engine
//   commitBegan(now) ──────────────▶
//   requestsReceived(queue) … ─────▶ evaluates each, in order,  ───────────▶ reads what there was
//                                    on what those before it did
//   commitEnded ───────────────────▶ ends leases and sessions, forgets ────▶ reads what there is
//   apply changes.batch, sync        (one engine batch, made on the way)
//   commitApplied ─────────────────▶
//
// The next commit may begin while the one before is being written: until that has been applied, it may have requests that
// `Request.Kind.readsOnlyState` says. What the engine does not show yet is in what is kept of the commit before.
//
// Responsible for: which revision a request makes; what it changes, and whether at all; outcomes of sessions, and that none
// is done twice; leases and the keys that go with them; prefixes; how much history there is. Not for: threads, syncs, who
// waits, what may be done by whom. Its state runs ahead of the engine by the commits under way: after a failed one it is made
// anew from what the engine holds then.

/// The rules of the store: takes requests and a time, and makes an engine batch and outcomes.
struct StoreMachine: ~Copyable {
    let limits: StorageLimits
    let makeSessionID: @Sendable () -> SessionID
    /// What the commit under way writes.
    private(set) var changes = CommittedChanges()

    /// As of the last request that was evaluated.
    fileprivate(set) var revision: Revision
    /// As of the beginning of the commit.
    private var previousRevision: Revision
    /// As of the last commit that has been applied.
    private var appliedRevision: Revision
    var prefixes: PrefixCounter
    var history: HistoryLedger
    /// History up to this revision is off the disk.
    var trimmed: Revision
    var sessions: [SessionID: Session] = [:]
    var sessionCounts: [String: Int] = [:]
    var leases: [LeaseID: Lease] = [:]
    var leaseCounts: [String: Int] = [:]
    var leaseKeyCount = 0
    var leaseKeyBytes = 0
    var lastLease: UInt64
    var deadlines = DeadlineQueue()

    /// Of keys that commits before this one have written.
    private var known: KnownRevisions

    // The commit under way.
    /// The one that ended last has been applied.
    private var isApplied = true
    var now: Duration
    private var wallTime: UInt64 = 0
    var overlay = CommitOverlay()
    /// Outcomes that the engine does not have yet.
    var newOutcomes: [WriteKey: OutcomeRecord] = [:]
    /// Of the commit before, which the engine may not show yet.
    private var earlierOverlay = CommitOverlay()
    private var earlierChanges = CommittedChanges()
    private(set) var earlierOutcomes: [WriteKey: OutcomeRecord] = [:]
    /// Of the results of its transactions.
    var resultBytes = 0
    private var isPrefixChanged = false
    var isLeaseCounterChanged = false
    private var storedCompacted: Revision
    private var storedRevision: Revision
    private var skippedTo: Revision?

    struct WriteKey: Hashable {
        let session: SessionID
        let sequence: UInt64
    }

    // MARK: Commits

    mutating func commitBegan(now: Duration, wallTime: UInt64) {
        // The one before it will have been done, or this machine is made anew.
        learn()
        // What was kept of the one before that has been forgotten.
        swap(&changes, &earlierChanges)
        swap(&overlay, &earlierOverlay)
        swap(&newOutcomes, &earlierOutcomes)
        if isApplied { forgetEarlier() }
        previousRevision = revision
        resultBytes = 0
        isPrefixChanged = false
        isLeaseCounterChanged = false
        self.now = now
        self.wallTime = wallTime
    }

    /// It is later than when the commit began: what its requests, those of `queues`, keep alive, they keep from now on.
    mutating func timePassed(to now: Duration, wallTime: UInt64, for queues: [RequestQueue]) {
        self.now = now
        self.wallTime = wallTime
        for queue in queues where queue.hasSessions {
            for request in queue.requests {
                guard case .guardedWrite(let terms) = request.kind, let write = terms.writeID else { continue }
                // Not where it was refused.
                try? touch(write.session, terms.principal)
            }
        }
    }

    private mutating func learn() {
        for entry in overlay.entries {
            unsafe changes.batch.withKey(at: entry.key) { key in
                if entry.state.lease == nil {
                    unsafe known.set(key, entry.hash, entry.state.revision)
                } else {
                    unsafe known.forget(key, entry.hash)
                }
            }
        }
    }

    /// Evaluates the requests of a queue, and adds their outcomes to it.
    mutating func requestsReceived(_ queue: RequestQueue, _ engine: any StorageEngine) {
        queue.outcomes.reserveCapacity(queue.requests.count)
        changes.reserve(for: queue)
        var start = WriteBatch.start
        for request in queue.requests {
            let origin = CommitOrigin(submitter: queue.submitter, token: request.token)
            let result: CommitOutcome.Result
            do throws(StorageError) {
                result = try perform(request, from: start, of: queue, origin, engine)
            } catch {
                result = .failed(error)
            }
            queue.outcomes.append(CommitOutcome(token: request.token, result: result))
            start = request.end
        }
    }

    /// Ends what is over, and completes the batch: if it is empty there is nothing to apply.
    ///
    /// Only now: what the requests kept alive, while a slow disk kept them waiting, is not over. The commit before has been applied.
    mutating func commitEnded(_ engine: any StorageEngine) throws(StorageError) -> EndedCommit {
        expire(engine)
        changes.writeHistory(at: wallTime)
        history.trim(to: limits, at: now)
        try trimHistory()
        if history.compacted != storedCompacted {
            changes.batch.putMeta(MetaRecord.compactedKey, history.compacted.number)
            storedCompacted = history.compacted
        }
        if revision != storedRevision {
            changes.batch.putMeta(MetaRecord.revisionKey, revision.number)
            storedRevision = revision
        }
        if !changes.batch.isEmpty { changes.batch.putMeta(MetaRecord.historyBytesKey, UInt64(history.byteCount)) }
        if isPrefixChanged { try prefixes.store(in: &changes.batch) }
        if isLeaseCounterChanged { changes.batch.putMeta(MetaRecord.lastLeaseKey, lastLease) }
        isApplied = false
        return EndedCommit(
            changes: changes, previousRevision: previousRevision, revision: revision, compacted: history.compacted, usage: usage)
    }

    /// The engine shows a commit, and everybody has been told.
    mutating func commitApplied(_ commit: EndedCommit) {
        appliedRevision = commit.revision
        isApplied = true
        if commit.changes === earlierChanges { forgetEarlier() }
    }

    private mutating func forgetEarlier() {
        earlierChanges.removeAll()
        earlierOverlay.removeAll()
        if !earlierOutcomes.isEmpty { earlierOutcomes.removeAll(keepingCapacity: true) }
    }

    /// When there is something to do though nobody asks for anything.
    var nextDeadline: Duration? {
        if trimmed < history.compacted { return .zero }
        return [deadlines.first, history.nextDeadline(limits)].compactMap { $0 }.min()
    }

    var usage: StorageUsage {
        var usage = StorageUsage()
        usage.sessions = sessions.count
        usage.leases = leases.count
        usage.leaseKeys = leaseKeyCount
        usage.historyRevisions = history.revisionCount
        usage.historyBytes = history.byteCount
        return usage
    }

    private mutating func trimHistory() throws(StorageError) {
        let made = Int(revision.number - previousRevision.number)
        var budget = StorageLimits.maximumTrimmedPerCommit + made
        while trimmed < history.compacted, budget > 0 {
            trimmed = trimmed.next
            try changes.batch.removeHistory(of: trimmed)
            budget -= 1
        }
    }

    // MARK: Requests

    private mutating func perform(
        _ request: Request, from start: WriteBatch.Mark, of queue: RequestQueue, _ origin: CommitOrigin, _ engine: any StorageEngine
    ) throws(StorageError) -> CommitOutcome.Result {
        switch request.kind {
        case .write:
            return .written(try write(queue, from: start, to: request.end, lease: nil, origin, engine))
        case .guardedWrite(let terms):
            if let outcome = try firstOutcome(of: terms, engine) { return try repeated(outcome, as: .written) }
            if let lease = terms.lease { try requireLease(lease, of: terms.principal) }
            let written = try write(queue, from: start, to: request.end, lease: terms.lease, origin, engine)
            record(.written(written.revision, changes: UInt32(written.changes)), of: terms)
            return .written(written)
        case .transaction(let request):
            if let outcome = try firstOutcome(of: request.terms, engine) { return try repeated(outcome, as: .transaction) }
            let outcome = try transact(request, origin, engine)
            record(.transaction(outcome.revision, hasSucceeded: outcome.hasSucceeded, results: outcome.results), of: request.terms)
            return .transaction(outcome)
        case .allocatePrefix(let terms):
            if let terms, let outcome = try firstOutcome(of: terms, engine) { return try repeated(outcome, as: .prefix) }
            guard let prefix = prefixes.grant() else { throw .prefixesExhausted }
            isPrefixChanged = true
            if let terms { record(.prefix(prefix, revision), of: terms) }
            return .prefix(prefix, isRepeated: false)
        case .reservePrefixes(let below):
            isPrefixChanged = prefixes.reserve(below: below) || isPrefixChanged
            return .done
        case .openSession(let request): return .session(try openSession(request))
        case .resumeSession(let request): return .session(try resumeSession(request))
        case .closeSession(let request):
            try closeSession(request)
            return .done
        case .grantLease(let request):
            if let outcome = try firstOutcome(of: request.terms, engine) { return try repeated(outcome, as: .lease) }
            return .lease(try grantLease(request))
        case .keepLease(let terms): return .lease(try keepLease(terms))
        case .revokeLease(let terms):
            if let outcome = try firstOutcome(of: terms, engine) { return try repeated(outcome, as: .written) }
            return .written(try revokeLease(terms, origin, engine))
        case .compact(let target):
            history.compact(to: min(target, revision))
            return .compacted(history.compacted)
        }
    }

    private mutating func write(
        _ queue: RequestQueue, from start: WriteBatch.Mark, to end: WriteBatch.Mark, lease: LeaseID?, _ origin: CommitOrigin,
        _ engine: any StorageEngine
    ) throws(StorageError) -> Written {
        let mark = requestBegan()
        var failure: StorageError?
        unsafe queue.batch.forEach(from: start, to: end) { change in
            guard failure == nil else { return }
            do throws(StorageError) {
                switch unsafe change {
                case .put(let key, let value):
                    try unsafe put(key.behindKeyspace, value, lease: lease, engine)
                case .remove(let key): try unsafe remove(key.behindKeyspace, engine)
                }
            } catch { failure = error }
        }
        if let failure {
            undoRequest(to: mark)
            throw failure
        }
        let count = try requestEnded(from: mark, origin)
        return Written(revision: revision, changes: count)
    }

    // MARK: Changes

    /// Where the batch is when a request begins.
    mutating func requestBegan() -> WriteBatch.Mark {
        overlay.requestBegan()
        return changes.batch.mark
    }

    mutating func undoRequest(to mark: WriteBatch.Mark) {
        overlay.undoRequest()
        changes.batch.rollBack(to: mark)
    }

    mutating func put(
        _ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer, lease: LeaseID?, _ engine: any StorageEngine
    ) throws(StorageError) {
        let hash = unsafe CommitOverlay.hash(key)
        let index = unsafe overlay.find(key, hash, in: changes.batch)
        let before = try index == nil ? unsafe state(of: key, hash, engine) : .absent
        let mark = changes.batch.mark
        try unsafe changes.batch.putData(key: key, value: value, revision: revision.next, lease: lease)
        let end = changes.batch.mark.byteCount
        let state = CommitOverlay.State(
            revision: revision.next, lease: lease, value: end - value.count - StoredValue.overheadBytes(lease)..<end)
        if let index { return overlay.update(index, to: state) }
        let place = WriteBatch.keyRange(ofOperationAt: mark, keyBytes: key.count)
        overlay.insert(place, hash: hash, before: before, state: state)
    }

    mutating func remove(_ key: UnsafeRawBufferPointer, _ engine: any StorageEngine) throws(StorageError) {
        let hash = unsafe CommitOverlay.hash(key)
        let index = unsafe overlay.find(key, hash, in: changes.batch)
        let before: CommitOverlay.State
        if let index { before = overlay.entries[index].state } else { before = try unsafe state(of: key, hash, engine) }
        guard before.isPresent else { return }
        let mark = changes.batch.mark
        try unsafe changes.batch.remove(key: key)
        if let index { return overlay.update(index, to: .absent) }
        let place = WriteBatch.keyRange(ofOperationAt: mark, keyBytes: key.count)
        overlay.insert(place, hash: hash, before: before, state: .absent)
    }

    /// Calls `body` once with what is under `key` by now, borrowed for that call, or with nil.
    borrowing func read<R>(
        _ key: UnsafeRawBufferPointer, _ engine: any StorageEngine, _ body: (StoredValue?) -> R
    ) throws(StorageError) -> R {
        let index = unsafe overlay.find(key, CommitOverlay.hash(key), in: changes.batch)
        guard let state = index.map({ overlay.entries[$0].state }) else { return try unsafe StoreMachine.read(key, engine, body) }
        guard state.isPresent else { return body(nil) }
        guard let range = state.value else { return try unsafe StoreMachine.read(key, engine, body) }
        let result = unsafe changes.batch.withUnsafeBytes { bytes in
            unsafe StoredValue(decoding: UnsafeRawBufferPointer(rebasing: bytes[range])).map { body($0) }
        }
        guard let result else { preconditionFailure("a value that this program has just made") }
        return result
    }

    /// What there was before this commit.
    private borrowing func state(
        of key: UnsafeRawBufferPointer, _ hash: Int, _ engine: any StorageEngine
    ) throws(StorageError) -> CommitOverlay.State {
        if let revision = unsafe known.revision(of: key, hash) { return CommitOverlay.State(revision: revision) }
        if let index = unsafe earlierOverlay.find(key, hash, in: earlierChanges.batch) {
            let state = earlierOverlay.entries[index].state
            return CommitOverlay.State(revision: state.revision, lease: state.lease)
        }
        return try unsafe StoreMachine.read(key, engine) { stored in
            stored.map { CommitOverlay.State(revision: $0.revision, lease: $0.lease) } ?? .absent
        }
    }

    private static func read<R>(
        _ key: UnsafeRawBufferPointer, _ engine: any StorageEngine, _ body: (StoredValue?) -> R
    ) throws(StorageError) -> R {
        var result: R?
        try unsafe withEngineKey(key, in: .data) { (engineKey) throws(StorageError) in
            try unsafe engine.read(engineKey) { bytes in
                guard let bytes = unsafe bytes else { return result = body(nil) }
                if let stored = unsafe StoredValue(decoding: bytes) { result = body(stored) }
            }
        }
        guard let result else { throw StoredValue.damaged }
        return result
    }

    /// Gives what the request has changed a revision, if it is anything.
    ///
    /// - Returns: how many keys.
    /// - Throws: what is wrong with the leases; then the request has done nothing.
    mutating func requestEnded(from mark: WriteBatch.Mark, _ origin: CommitOrigin) throws(StorageError) -> Int {
        // A key that was absent before and after has not changed, whatever happened in between.
        let changed = overlay.touched.count { overlay.entries[$0].before.isPresent || overlay.entries[$0].state.isPresent }
        guard changed > 0 else {
            undoRequest(to: mark)
            return 0
        }
        do throws(StorageError) {
            try moveLeaseKeys()
        } catch {
            undoRequest(to: mark)
            throw error
        }
        revision = revision.next
        let bytes = changes.append(origin, revision, of: overlay)
        history.append(revision, bytes: bytes, at: now, limits)
        return changed
    }
}

extension StoreMachine {
    /// The state that `engine` holds.
    ///
    /// Sessions, leases and history are as young as they can be: their time counts anew.
    static func reading(_ engine: any StorageEngine, _ options: StorageOptions) throws(StorageError) -> StoreMachine {
        let snapshot = try engine.snapshot()
        var machine = StoreMachine(
            options, revision: Revision(try MetaRecord.read(MetaRecord.revisionKey, from: snapshot) ?? 0),
            compacted: Revision(try MetaRecord.read(MetaRecord.compactedKey, from: snapshot) ?? 0),
            prefixes: try PrefixCounter(readingFrom: snapshot),
            lastLease: try MetaRecord.read(MetaRecord.lastLeaseKey, from: snapshot) ?? 0)
        guard machine.storedCompacted <= machine.revision else {
            throw StorageError(
                .corrupt, subject: "history", found: "that it is forgotten up to revision \(machine.storedCompacted), behind the store's",
                expected: "at most \(machine.revision)", remedy: "restore a backup")
        }
        try machine.loadHistory(from: snapshot, wallTime: options.wallClock())
        try machine.loadSessions(from: snapshot)
        try machine.loadLeases(from: snapshot)
        return machine
    }

    private init(_ options: StorageOptions, revision: Revision, compacted: Revision, prefixes: PrefixCounter, lastLease: UInt64) {
        self.limits = options.limits
        self.makeSessionID = options.makeSessionID
        self.now = options.clock()
        self.revision = revision
        self.previousRevision = revision
        self.appliedRevision = revision
        self.storedCompacted = compacted
        self.storedRevision = revision
        self.trimmed = compacted
        self.history = HistoryLedger(compacted: compacted)
        self.prefixes = prefixes
        self.lastLease = lastLease
        self.known = KnownRevisions(maximumBytes: StorageLimits.maximumKnownRevisionBytes)
    }

    private mutating func loadHistory(from snapshot: any EngineSnapshot, wallTime: UInt64) throws(StorageError) {
        var oldest: Revision?
        try unsafe StoreMachine.scan(.history, of: snapshot, isFirstOnly: true) { (key, _) throws(StorageError) in
            oldest = try unsafe HistoryRecord.revision(ofKey: key)
        }
        guard let oldest, oldest > .zero else { return }
        // A commit may have forgotten more than it took off the disk.
        trimmed = min(Revision(oldest.number - 1), trimmed)
        let bytes: UInt64 = try MetaRecord.read(MetaRecord.historyBytesKey, from: snapshot) ?? 0
        let (now, longest) = (now, limits.maximumHistoryAge)
        history = try HistoryLedger(compacted: storedCompacted, last: revision, bytes: Int(clamping: bytes)) {
            (revision) throws(StorageError) in
            var time = wallTime
            try unsafe StoreMachine.scan(.history, KeyRange(lower: HistoryRecord.key(of: revision)), of: snapshot, isFirstOnly: true) {
                (_, record) throws(StorageError) in time = try unsafe HistoryRecord.time(of: record)
            }
            // The time of day may have been set, and not only forth.
            return now - min(.milliseconds(Int64(clamping: wallTime > time ? wallTime - time : 0)), longest)
        }
    }

    /// After a failed commit: goes on from what has been read afresh, but gives out nothing that it gave out before.
    mutating func replace(with opened: consuming StoreMachine) {
        _ = opened.prefixes.reserve(below: prefixes.next)
        opened.lastLease = max(opened.lastLease, lastLease)
        // What an earlier skip came to has been told to nobody that did not read afresh.
        if appliedRevision > opened.revision { opened.skip(to: appliedRevision == skippedTo ? appliedRevision : appliedRevision.next) }
        self = opened
    }

    /// Whether it has come to a revision that the engine does not know of.
    var isAhead: Bool { revision != storedRevision }

    /// What was acknowledged as handed to the operating system is gone: its revisions are not made again, for others, and
    /// history does not tell what they had been. The loss itself is a revision, so that who has seen the last one reads afresh.
    private mutating func skip(to next: Revision) {
        revision = next
        previousRevision = next
        appliedRevision = next
        skippedTo = next
        history = HistoryLedger(compacted: next)
    }
}

/// A commit that has been evaluated: what is to be applied, and what to say of it then.
struct EndedCommit {
    let changes: CommittedChanges
    let previousRevision: Revision
    let revision: Revision
    let compacted: Revision
    let usage: StorageUsage
}
