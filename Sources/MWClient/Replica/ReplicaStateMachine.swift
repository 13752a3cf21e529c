// What a replica holds, and how far it may be trusted.
//
//                  state … synced                  disconnected, resync
//   loading ──────────────────────────▶ current ◀─────────────────────────▶ stale
//      │                                   │      synced                      │
//      └───────────────────────────────────┴──────────────────────────────────┴──▶ failed
//
// Responsibilities: whole revisions only; that what was held stays readable until a new state is whole, and what the difference is then;
// that each change fits what is held (a gap would show here, too); the memory bound; who waits for which revision. It opens nothing and
// knows no clock.

struct ReplicaStateMachine: ~Copyable, Sendable {
    enum Action: Equatable {
        case none
        /// Everything that changed at once, the new revision being in ``revision``.
        case changed([ReplicaChange])
        /// The watch is to be ended; ``status`` says why.
        case failed
    }

    enum WaitAction: Equatable {
        case reached
        /// Ask the watch for its progress, if it is there: what made that revision may have been elsewhere.
        case wait
        case fail(ClientError)
    }

    private let maximumBytes: Int
    private(set) var entries = SortedEntries()
    /// Nil until there is a whole state.
    private(set) var revision: Revision?
    private(set) var status = ReplicaStatus.loading
    private var next: SortedEntries?
    /// For which revision; nil: for any.
    private var waiters: [UInt64: Revision?] = [:]
    /// An event came behind which the progress is to be asked for, for those who wait.
    private var isProgressWanted = false

    init(maximumBytes: Int) { self.maximumBytes = maximumBytes }

    // MARK: What the watch reports

    mutating func received(_ event: WatchEvent, now: ContinuousClock.Instant) -> Action {
        if case .failed = self.status { return .none }
        switch event {
        case .state(_, let entries): return self.loaded(entries)
        case .changes(let revision, let changes): return self.changed(revision, changes)
        case .synced(let revision): return self.synced(revision)
        case .progress(let revision):
            self.revision = revision
            return .none
        case .resync(let reason):
            self.next = SortedEntries()
            self.becameStale(
                ClientError(.stale, subject: "replica", what: "is loaded again", found: reason), now: now)
            return .none
        case .disconnected(let error):
            self.becameStale(error, now: now)
            return .none
        case .resumed: return .none
        }
    }

    /// The watch, or the client, has ended.
    mutating func ended(_ error: ClientError) {
        if case .failed = self.status { return }
        self.status = .failed(error)
        self.entries = SortedEntries()
        self.revision = nil
        self.next = nil
    }

    private mutating func loaded(_ entries: [Entry]) -> Action {
        var next = self.next.take() ?? SortedEntries()
        for entry in entries { next.append(entry) }
        // While a new state comes, the old one is held beside it.
        guard next.byteCount + (self.revision == nil ? 0 : self.entries.byteCount) <= self.maximumBytes else {
            return self.tooLarge(next.byteCount)
        }
        self.next = next
        return .none
    }

    private mutating func synced(_ revision: Revision) -> Action {
        let isFirst = self.revision == nil
        self.revision = revision
        self.status = .current
        self.isProgressWanted = true
        guard let next = self.next.take() ?? (isFirst ? SortedEntries() : nil) else { return .none }
        var changes: [ReplicaChange] = []
        next.forEachDifference(since: self.entries) { changes.append(ReplicaChange(before: $0, after: $1)) }
        self.entries = next
        return .changed(changes)
    }

    private mutating func changed(_ revision: Revision, _ changes: [Change]) -> Action {
        var done: [ReplicaChange] = []
        done.reserveCapacity(changes.count)
        for change in changes {
            let before = self.entries[change.key]
            // A key that this revision has changed already has no other revision to compare with.
            guard before?.revision == revision || change.previousRevision.number == before?.revision.number ?? 0 else {
                return self.fail(
                    ClientError(
                        .protocolMismatch, subject: "replica", what: "a change does not follow what is held: one before it is missing",
                        found: "a change of revision \(change.previousRevision.number)", expected: "\(before?.revision.number ?? 0)",
                        remedy: "report it: the server, or this client, is at fault"))
            }
            if change.isRemoval {
                self.entries.remove(change.key)
                if let before { done.append(ReplicaChange(before: before, after: nil)) }
            } else {
                let after = Entry(key: change.key, value: change.value ?? [], revision: revision, lease: change.lease)
                self.entries.put(after)
                done.append(ReplicaChange(before: before, after: after))
            }
        }
        self.revision = revision
        guard self.entries.byteCount <= self.maximumBytes else { return self.tooLarge(self.entries.byteCount) }
        return done.isEmpty ? .none : .changed(done)
    }

    private mutating func becameStale(_ error: ClientError, now: ContinuousClock.Instant) {
        switch self.status {
        case .current: self.status = .stale(since: now, because: error)
        case .stale(let since, _): self.status = .stale(since: since, because: error)
        case .loading, .failed: break
        }
    }

    private mutating func tooLarge(_ bytes: Int) -> Action {
        self.fail(
            ClientError(
                .limitExceeded, subject: "replica", what: "would hold more than maximumBytes", found: "\(bytes) bytes",
                expected: "at most \(self.maximumBytes)", remedy: "replicate a smaller range, or raise the limit"))
    }

    private mutating func fail(_ error: ClientError) -> Action {
        self.ended(error)
        return .failed
    }

    // MARK: Waiting for a revision

    mutating func wait(_ id: UInt64, for revision: Revision) -> WaitAction {
        guard revision.incarnation != .unknown else {
            return .fail(ClientError.invalid("revision", "is one of no store", remedy: "wait for a revision that the server gave"))
        }
        if let verdict = self.verdict(on: revision) { return verdict }
        self.waiters[id] = .some(revision)
        self.isProgressWanted = true
        return .wait
    }

    /// Waits for a whole state.
    mutating func waitUntilLoaded(_ id: UInt64) -> WaitAction {
        if let verdict = self.verdict(on: nil) { return verdict }
        self.waiters[id] = .some(nil)
        return .wait
    }

    mutating func stopWaiting(_ id: UInt64) { self.waiters.removeValue(forKey: id) }

    /// Those who need not wait any more, and why where it is no success.
    mutating func endedWaits() -> [(id: UInt64, error: ClientError?)] {
        var ended: [(id: UInt64, error: ClientError?)] = []
        for (id, revision) in self.waiters {
            switch self.verdict(on: revision) {
            case .reached?: ended.append((id, nil))
            case .fail(let error)?: ended.append((id, error))
            case .wait?, nil: continue
            }
            self.waiters.removeValue(forKey: id)
        }
        return ended
    }

    /// Whether the watch is to be asked for its progress now.
    mutating func takeProgressWanted() -> Bool {
        guard self.isProgressWanted, case .current = self.status else { return false }
        self.isProgressWanted = false
        return !self.waiters.isEmpty
    }

    private func verdict(on revision: Revision?) -> WaitAction? {
        if case .failed(let error) = self.status { return .fail(error) }
        guard let reached = self.revision else { return nil }
        guard let revision else { return .reached }
        if reached.includes(revision) { return .reached }
        // While a new state is on its way, it may be one of that store.
        guard reached.incarnation != revision.incarnation, case .current = self.status else { return nil }
        return .fail(
            ClientError(
                .wrongIncarnation, subject: "revision \(revision.number)", what: "is one of another store, or of before it was restored",
                found: "\(reached.incarnation)", expected: "\(revision.incarnation)"))
    }

    // MARK: Reading

    /// Throws where what is held may not be read.
    func check(_ policy: DisconnectedPolicy) throws(ClientError) {
        switch self.status {
        case .current: return
        case .failed(let error): throw error
        case .loading:
            throw ClientError(
                .stale, subject: "replica", what: "has not loaded its range yet", remedy: "wait for it with waitUntilLoaded()")
        case .stale(_, let error):
            guard policy == .error else { return }
            throw ClientError(
                .stale, subject: "replica", what: "may not be as the store is", found: "\(error)",
                remedy: "try again, or allow stale reads with whenDisconnected: .staleReads", underlying: error)
        }
    }

    /// What is held may not be as the store is.
    var isStale: Bool { if case .current = self.status { false } else { true } }
}
