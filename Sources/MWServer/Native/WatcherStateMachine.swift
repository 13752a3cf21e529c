// One watch: what it has been told, and what it is told next.
//
//                 ┌──────── history is gone, and state was asked for: resync ────────────┐
//                 ▼                                                                      │
//     with state ─▶ state ── last page: synced ─▶ catchingUp ── reached the present ─▶ live
//     after a revision ───────────────────────────▶   ▲   ── the first time: synced ──▶  │
//     from now ───────────────────────────────────────┼──────────────── synced ───────▶  │
//                                                     └── too much unsent, or a gap ─────┘
//     any ── asked to, no longer allowed, too slow, gone ─▶ ended
//
// Here: the order of what is sent, each revision once, and what is owed (synced, progress). Elsewhere: the store, the connection, time.
//
// A watch that is live has been told everything up to the frontier, the last revision that was brought to its event loop, or up to its own
// position if that is above: nobody touches ten thousand watches for a change that concerns one.

internal import MWProtocol
internal import NIOCore

/// The rules of one watch, as a value.
struct WatcherStateMachine: ~Copyable {
    enum Phase: Equatable {
        /// Pages of one snapshot, as of ``WatcherStateMachine/position``.
        case state
        /// Pages of history behind ``WatcherStateMachine/position``.
        case catchingUp
        /// What commits bring.
        case live
        case ended
    }

    enum Start: Equatable {
        /// From the store's revision on.
        case now(UInt64)
        case after(UInt64)
        /// The state as of a revision.
        case state(UInt64)
    }

    private(set) var phase: Phase
    /// Everything up to it has been told, or is part of the state that is being told.
    private(set) var position: UInt64
    private let isWithState: Bool
    private var owesSynced: Bool
    /// It was live, and had to stop because its client took too little.
    private(set) var isLagging = false
    private var progress: [ProgressRequest] = []
    private var lastSent: NIODeadline

    private struct ProgressRequest {
        let id: RequestID
        let revision: UInt64
    }

    init(_ start: Start, isWithState: Bool, at now: NIODeadline) {
        switch start {
        case .now(let revision): (self.phase, self.position, self.owesSynced) = (.live, revision, true)
        case .after(let revision): (self.phase, self.position, self.owesSynced) = (.catchingUp, revision, true)
        case .state(let revision): (self.phase, self.position, self.owesSynced) = (.state, revision, true)
        }
        self.isWithState = isWithState
        self.lastSent = now
    }

    // MARK: What to do next

    enum Step: Equatable {
        /// Read a page of the state, send it, then call `statePageSent`.
        case readState
        /// Read a page of history, send each revision after `revisionToldFromHistory`, then call `historyRead`.
        case readHistory(after: UInt64)
        case sendSynced(UInt64)
        case answerProgress(RequestID, UInt64)
        /// Nothing, until something happens.
        case wait
    }

    /// Ask until it says ``Step/wait``, as far as the connection takes what is sent.
    mutating func next(frontier: UInt64) -> Step {
        switch self.phase {
        case .ended: return .wait
        case .state: return .readState
        case .catchingUp:
            guard let first = self.progress.first, first.revision <= self.position else { return .readHistory(after: self.position) }
            self.progress.removeFirst()
            return .answerProgress(first.id, self.position)
        case .live:
            let told = self.told(frontier)
            if self.owesSynced {
                self.owesSynced = false
                return .sendSynced(told)
            }
            guard let first = self.progress.first else { return .wait }
            guard first.revision <= told else {
                // It was committed, and is on its way to this loop: history has it already.
                self.fallBack(to: told)
                return .readHistory(after: told)
            }
            self.progress.removeFirst()
            return .answerProgress(first.id, told)
        }
    }

    /// Everything up to it has been told; not while state is being told.
    func told(_ frontier: UInt64) -> UInt64 { self.phase == .live ? max(self.position, frontier) : self.position }

    /// Whether there is something to do without anything that happens.
    var isBusy: Bool {
        switch self.phase {
        case .state, .catchingUp: true
        case .live: self.owesSynced || !self.progress.isEmpty
        case .ended: false
        }
    }

    // MARK: State

    enum StateAction: Equatable {
        case goOn
        case sendSynced(UInt64)
    }

    mutating func statePageSent(isLast: Bool) -> StateAction {
        guard self.phase == .state, isLast else { return .goOn }
        self.phase = .catchingUp
        self.owesSynced = false
        return .sendSynced(self.position)
    }

    // MARK: History

    /// Whether `revision` is to be sent, which history has behind the position.
    mutating func revisionToldFromHistory(_ revision: UInt64) -> Bool {
        guard self.phase == .catchingUp, revision > self.position else { return false }
        self.position = revision
        return true
    }

    /// History was read up to and with `revision`.
    ///
    /// - Parameters:
    ///   - isEnd: There was nothing behind it.
    ///   - leastLive: What commits brought up to it may have passed this watch by. Never below the frontier.
    mutating func historyRead(upTo revision: UInt64, isEnd: Bool, leastLive: UInt64) {
        guard self.phase == .catchingUp else { return }
        self.position = max(self.position, revision)
        // What is between the frontier and the position will be brought, and skipped.
        guard isEnd, self.position >= leastLive else { return }
        self.phase = .live
        self.isLagging = false
    }

    enum LossAction: Equatable {
        /// Say so, take a new snapshot, and call `resynced`.
        case resync
        case end(NativeFailure.Code)
        case nothing
    }

    /// What this watch has to be told next is not there any more: forgotten history, or a snapshot that a disk error took.
    mutating func sourceLost() -> LossAction {
        switch self.phase {
        case .ended, .live: return .nothing
        case .state, .catchingUp:
            if self.isWithState { return .resync }
            self.phase = .ended
            return .end(self.isLagging ? .watchOverflowed : .compacted)
        }
    }

    /// It begins anew with the state as of `revision`.
    mutating func resynced(at revision: UInt64) {
        guard self.phase != .ended else { return }
        self.phase = .state
        self.position = revision
        self.owesSynced = true
        self.isLagging = false
    }

    // MARK: Live

    enum Delivery: Equatable {
        /// Those behind this one.
        case send(behind: UInt64)
        case skip
        /// From here on it goes by history.
        case lag
    }

    /// Commits changed something in the ranges.
    ///
    /// - Parameters:
    ///   - revisions: The first and the last that did.
    ///   - isBackedUp: The connection has too much that was not taken.
    mutating func changesCommitted(at revisions: ClosedRange<UInt64>, isBackedUp: Bool, now: NIODeadline) -> Delivery {
        guard self.phase == .live, revisions.upperBound > self.position else { return .skip }
        let told = self.position
        if isBackedUp {
            self.fallBack(to: revisions.lowerBound - 1)
            self.isLagging = true
            return .lag
        }
        self.position = revisions.upperBound
        self.lastSent = now
        return .send(behind: told)
    }

    /// Commits were not brought to this loop, or may not have been. Returns whether there is something to read now.
    mutating func gapFound(after frontier: UInt64) -> Bool {
        guard self.phase == .live else { return false }
        self.fallBack(to: self.told(frontier))
        return true
    }

    private mutating func fallBack(to revision: UInt64) {
        self.phase = .catchingUp
        self.position = max(self.position, revision)
    }

    // MARK: Progress

    /// A client wants to know when everything up to `revision`, the store's, has been told.
    mutating func progressRequested(_ id: RequestID, upTo revision: UInt64) {
        self.progress.append(ProgressRequest(id: id, revision: revision))
    }

    mutating func sent(at now: NIODeadline) { self.lastSent = now }

    /// Whether it is time for a progress event, because nothing else was sent for so long; it is taken as sent then.
    mutating func ticked(_ now: NIODeadline, interval: TimeAmount, frontier: UInt64) -> UInt64? {
        guard self.phase == .live || self.phase == .catchingUp, !self.owesSynced, now - self.lastSent >= interval else { return nil }
        self.lastSent = now
        return self.told(frontier)
    }

    // MARK: The end

    /// Returns the progress requests that will not be answered.
    mutating func end() -> [RequestID] {
        self.phase = .ended
        return self.takeProgressRequests()
    }

    /// Returns the progress requests that are not answered yet; the watch will not answer them.
    mutating func takeProgressRequests() -> [RequestID] {
        defer { self.progress = [] }
        return self.progress.map(\.id)
    }
}
