import DequeModule
import Synchronization

/// What a replica, its readers and its watch share.
final class ReplicaStore: WatchSink {
    /// Who reads the changes.
    private struct Feed {
        var events: Deque<ReplicaEvent> = []
        var bytes = 0
        /// What was held behind the last event that waits, once too much does: nothing more is taken.
        var fullSince: SortedEntries?
        /// There was more: the difference to ``fullSince`` is what the reader is told next.
        var hasMissed = false
        var reader: CheckedContinuation<Void, Never>?

        var isEmpty: Bool { self.events.isEmpty && !self.hasMissed }
    }

    private struct State: ~Copyable {
        var machine: ReplicaStateMachine
        var feeds: [UInt64: Feed] = [:]
        var waiters: [UInt64: CheckedContinuation<Void, any Error>] = [:]
        var nextID: UInt64 = 0
        /// Acknowledgements of reload notices: those whose state has not been asked for, and those that wait for it to be whole.
        var newReloads: [@Sendable () -> Void] = []
        var reloads: [@Sendable () -> Void] = []
    }

    /// What is to be done outside of the lock.
    private struct Wakes {
        var readers: [CheckedContinuation<Void, Never>] = []
        var waiters: [(CheckedContinuation<Void, any Error>, ClientError?)] = []
        var reloads: [@Sendable () -> Void] = []
        var isProgressWanted = false
        var isFailed = false
    }

    private let options: ReplicaOptions
    private let state: Mutex<State>
    /// Set once, before the watch begins.
    private let handle = Mutex<WatchHandle?>(nil)

    init(_ options: ReplicaOptions) {
        self.options = options
        self.state = Mutex(State(machine: ReplicaStateMachine(maximumBytes: options.maximumBytes)))
    }

    func attach(_ handle: WatchHandle) { self.handle.withLock { $0 = handle } }

    /// The handle holds this as its sink: let go, so that neither keeps the other.
    func close() { self.handle.withLock { $0.take() }?.close() }

    // MARK: The watch

    func take(_ events: [WatchEvent]) -> Int {
        for event in events {
            let wakes = self.state.withLock { state in
                let status = state.machine.status
                let action = state.machine.received(event, now: .now)
                var wakes = Wakes()
                switch action {
                case .changed(let changes):
                    if let revision = state.machine.revision, !changes.isEmpty {
                        self.publish(.changes(revision, changes), in: &state, &wakes)
                    }
                case .failed:
                    wakes.isFailed = true
                    // Nothing is held any more.
                    wakes.reloads = Self.takeReloads(&state) + state.newReloads
                    state.newReloads = []
                case .none: break
                }
                if state.machine.status != status {
                    self.publish(.status(state.machine.status), in: &state, &wakes)
                }
                if case .resync = event {
                    state.reloads += state.newReloads
                    state.newReloads = []
                }
                if event.isSynced { wakes.reloads += Self.takeReloads(&state) }
                self.collect(&state, &wakes)
                return wakes
            }
            self.perform(wakes)
        }
        return 0
    }

    func pause() -> Bool { false }

    func end(because error: ClientError?) {
        let wakes = self.state.withLock { state in
            state.machine.ended(error ?? ClientError(.closed, subject: "replica", what: "was closed"))
            var wakes = Wakes()
            wakes.reloads = Self.takeReloads(&state) + state.newReloads
            state.newReloads = []
            self.collect(&state, &wakes)
            for id in state.feeds.keys { if let reader = state.feeds[id]?.reader.take() { wakes.readers.append(reader) } }
            return wakes
        }
        self.perform(wakes)
        _ = self.handle.withLock { $0.take() }
    }

    private static func takeReloads(_ state: inout State) -> [@Sendable () -> Void] {
        defer { state.reloads = [] }
        return state.reloads
    }

    private func publish(_ event: ReplicaEvent, in state: inout State, _ wakes: inout Wakes) {
        let bytes = event.byteCount
        for id in Array(state.feeds.keys) {
            guard var feed = state.feeds.removeValue(forKey: id) else { continue }
            if feed.fullSince == nil {
                feed.events.append(event)
                feed.bytes += bytes
                // One event over the bound: the state behind it is there anyway, that before it would have cost a copy.
                if feed.bytes > self.options.maximumBufferedBytes { feed.fullSince = state.machine.entries }
            } else {
                feed.hasMissed = true
            }
            if let reader = feed.reader.take() { wakes.readers.append(reader) }
            state.feeds[id] = feed
        }
    }

    private func collect(_ state: inout State, _ wakes: inout Wakes) {
        for (id, error) in state.machine.endedWaits() {
            if let waiter = state.waiters.removeValue(forKey: id) { wakes.waiters.append((waiter, error)) }
        }
        wakes.isProgressWanted = state.machine.takeProgressWanted()
    }

    private func perform(_ wakes: Wakes) {
        for reader in wakes.readers { reader.resume() }
        for (waiter, error) in wakes.waiters {
            if let error { waiter.resume(throwing: error) } else { waiter.resume() }
        }
        for reload in wakes.reloads { reload() }
        if wakes.isFailed { self.close() }
        if wakes.isProgressWanted { self.handle.withLock { $0 }?.tell { $0.askProgress() } }
    }

    // MARK: Reading

    var status: ReplicaStatus { self.state.withLock { $0.machine.status } }
    var revision: Revision? { self.state.withLock { $0.machine.revision } }

    func snapshot() throws(ClientError) -> ReplicaSnapshot {
        // A typed throw out of the lock.
        let result = self.state.withLock { state -> Result<ReplicaSnapshot, ClientError> in
            do throws(ClientError) {
                try state.machine.check(self.options.whenDisconnected)
            } catch { return .failure(error) }
            guard let revision = state.machine.revision else { preconditionFailure("a replica that may be read has a revision") }
            return .success(ReplicaSnapshot(entries: state.machine.entries, revision: revision, isStale: state.machine.isStale))
        }
        return try result.get()
    }

    // MARK: Waiting

    func wait(for revision: Revision) async throws {
        try await self.wait { $0.wait($1, for: revision) }
    }

    /// Ends when there is a whole state.
    func waitUntilLoaded() async throws {
        try await self.wait { machine, id in machine.waitUntilLoaded(id) }
    }

    private func wait(_ begin: (inout ReplicaStateMachine, UInt64) -> ReplicaStateMachine.WaitAction) async throws {
        let id = self.state.withLock { state in
            state.nextID += 1
            return state.nextID
        }
        try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { (continuation: CheckedContinuation<Void, any Error>) in
                let (action, wakes) = self.state.withLock { state in
                    var wakes = Wakes()
                    let action = Task.isCancelled ? .fail(Self.cancelled) : begin(&state.machine, id)
                    if case .wait = action {
                        state.waiters[id] = continuation
                        self.collect(&state, &wakes)
                    }
                    return (action, wakes)
                }
                switch action {
                case .reached: continuation.resume()
                case .fail(let error): continuation.resume(throwing: error)
                case .wait: self.perform(wakes)
                }
            }
        } onCancel: {
            let waiter = self.state.withLock { state in
                state.machine.stopWaiting(id)
                return state.waiters.removeValue(forKey: id)
            }
            waiter?.resume(throwing: Self.cancelled)
        }
    }

    private static let cancelled = ClientError(.cancelled, subject: "wait", what: "was cancelled")

    // MARK: Reloading

    /// Loads everything again, and says so once it is whole.
    func reload(reason: String, done: @escaping @Sendable () -> Void) {
        let isOver = self.state.withLock { state in
            if case .failed = state.machine.status { return true }
            state.newReloads.append(done)
            return false
        }
        if isOver { return done() }
        self.handle.withLock { $0 }?.tell { $0.restart(reason: reason) }
    }

    // MARK: Changes

    /// What is held now, and a feed of what comes behind it.
    func openFeed() -> (id: UInt64, start: SortedEntries, revision: Revision?, status: ReplicaStatus) {
        self.state.withLock { state in
            state.nextID += 1
            state.feeds[state.nextID] = Feed()
            return (state.nextID, state.machine.entries, state.machine.revision, state.machine.status)
        }
    }

    func closeFeed(_ id: UInt64) {
        self.state.withLock { $0.feeds.removeValue(forKey: id)?.reader }?.resume()
    }

    private enum Found {
        case event(ReplicaEvent)
        case difference(since: SortedEntries, now: SortedEntries, Revision?, ReplicaStatus)
        case ended(ClientError?)
    }

    /// - Returns: the next events, none at the end.
    func nextEvents(of id: UInt64) async throws -> [ReplicaEvent] {
        while true {
            switch self.find(id) {
            case .event(let event)?: return [event]
            case .ended(let error)?:
                guard let error, error.code != .closed else { return [] }
                throw error
            case .difference(let before, let now, let revision, let status)?:
                var changes: [ReplicaChange] = []
                now.forEachDifference(since: before) { changes.append(ReplicaChange(before: $0, after: $1)) }
                guard let revision, !changes.isEmpty else { return [.missed, .status(status)] }
                return [.missed, .changes(revision, changes), .status(status)]
            case nil: break
            }
            await withTaskCancellationHandler {
                await withCheckedContinuation { (continuation: CheckedContinuation<Void, Never>) in
                    let isAtOnce = self.state.withLock { state in
                        guard var feed = state.feeds[id], feed.isEmpty, !Task.isCancelled else { return true }
                        if case .failed = state.machine.status { return true }
                        precondition(feed.reader == nil, "a feed has one reader")
                        feed.reader = continuation
                        state.feeds[id] = feed
                        return false
                    }
                    if isAtOnce { continuation.resume() }
                }
            } onCancel: {
                self.state.withLock { $0.feeds[id]?.reader.take() }?.resume()
            }
        }
    }

    private func find(_ id: UInt64) -> Found? {
        self.state.withLock { state in
            guard var feed = state.feeds.removeValue(forKey: id) else { return .ended(nil) }
            defer { state.feeds[id] = feed }
            if let event = feed.events.popFirst() {
                feed.bytes -= event.byteCount
                return .event(event)
            }
            let before = feed.fullSince.take()
            // Ended, it holds nothing that there could be a difference to.
            if case .failed(let error) = state.machine.status { return .ended(error) }
            if feed.hasMissed, let before {
                feed.hasMissed = false
                return .difference(since: before, now: state.machine.entries, state.machine.revision, state.machine.status)
            }
            return Task.isCancelled ? .ended(nil) : nil
        }
    }
}

extension WatchEvent {
    fileprivate var isSynced: Bool { if case .synced = self { true } else { false } }
}
