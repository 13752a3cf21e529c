import MWProtocol
import NIOCore

// One watch over all connections: what to ask of each, and what of what the server says is reported.
//
//            request               began                   synced
//   idle ────────────▶ asked ───────────────▶ loading ───────────────▶ following
//    ▲ ▲                 │  began, no state      ▲   resync              │  │ overflowed
//    │ │                 └───────────────────────┼──────────────────────▶│  ▼
//    │ └── drained ──────────────────────────────┼─────────────────── paused
//    │                                           │                       │
//    └── disconnected, refused and ended (to be tried again), restarted ─┘      ended ◀── any failure
//
// Responsibilities: where to begin again after a connection is lost, that revisions only grow, that a revision is reported whole, that no
// gap goes unsaid. Not its own: ids and connections (`WatchDesk`), what is buffered where.
//
// `position` is the last revision up to which everything has been reported. A part of a revision, or of a state, that was cut off has not
// been reported: nothing of a revision goes out before its last part is there, and a state that was cut off begins again behind a `resync`.

struct WatchStateMachine: ~Copyable {
    struct Configuration: Equatable, Sendable {
        var ranges: [KeyRange]
        var start: WatchStart
        var options: WatchOptions
        /// Waits before a watch is asked for again that the server refused for now.
        var backoffBase: Duration = .milliseconds(100)
        var backoffCap: Duration = .seconds(30)
    }

    enum Action: Equatable {
        /// Report these, in order.
        case report([WatchEvent])
        /// Report these, then call ``request(on:)`` again after this time.
        case rearm([WatchEvent], after: Duration)
        /// Have the server end the watch; it is over for this reason.
        case fail(ClientError)
    }

    private enum Phase {
        /// Nothing is asked.
        case idle
        /// With which position.
        case asked(after: Revision?)
        /// The server reports on another store than was asked for: it has to say `resync` next.
        case outdated
        /// The state is on its way; its revision and the last key of it, once there is one.
        case loading(revision: Int64?, lastKey: [UInt8]?)
        case following
        /// The reader has to catch up.
        case paused
        case ended
    }

    private struct Partial {
        let revision: Int64
        var changes: [Change]
        var bytes: Int
    }

    private let configuration: Configuration
    private var phase = Phase.idle
    private var position: Revision?
    /// Of the store that the server reports on.
    private var incarnation = Incarnation.unknown
    /// What to ask for without a position.
    private var wantsState: Bool
    private var partial: Partial?
    private var wasInterrupted = false
    private var isStateCutOff = false
    private var backoff: Backoff

    init(_ configuration: Configuration) {
        self.configuration = configuration
        self.backoff = Backoff(base: configuration.backoffBase, cap: configuration.backoffCap)
        self.wantsState = configuration.start == .state
        if case .after(let revision) = configuration.start {
            self.position = revision
            self.incarnation = revision.incarnation
        }
    }

    /// The last revision up to which everything has been reported.
    var reported: Revision? { self.position }

    /// The server reports on a connection that is there.
    var isFollowing: Bool { if case .following = self.phase { true } else { false } }

    /// Nothing will be asked any more.
    var isEnded: Bool { if case .ended = self.phase { true } else { false } }

    // MARK: Asking

    /// What to ask on a connection; nil when nothing is to be asked now.
    mutating func request() -> NativeWatch? {
        guard case .idle = self.phase else { return nil }
        self.phase = .asked(after: self.position)
        var request = NativeWatch()
        request.ranges = self.configuration.ranges.map(\.native)
        request.isWithoutValues = !self.configuration.options.includesValues
        if let position = self.position {
            request.after = position.wireNumber
            request.incarnation = position.incarnation.buffer
            request.isWithState = self.configuration.options.onGap == .resync
        } else {
            request.isWithState = self.wantsState
        }
        return request
    }

    /// The server has begun the watch.
    mutating func began(_ reply: NativeWatching) -> Action {
        guard case .asked(let after) = self.phase else { return self.violated("a watch that begins", "it once") }
        guard reply.revision >= 0, let incarnation = Incarnation(reply.incarnation) else {
            return self.violated("a watch that begins", "a revision and an incarnation")
        }
        let isAnother = after != nil && incarnation != self.incarnation
        self.incarnation = incarnation
        var events: [WatchEvent] = []
        if self.wasInterrupted { events.append(.resumed(Revision(incarnation, reply.revision))) }
        self.wasInterrupted = false
        if isAnother {
            let reason = "the store is another one, or was restored"
            switch self.configuration.options.onGap {
            case .fail: return self.end(Self.gapError(.wrongIncarnation, reason))
            case .resync:
                self.forgetPosition(wantsState: true)
                self.phase = .outdated
                return .report(events)
            case .restart:
                self.position = Revision(incarnation, reply.revision)
                self.phase = .following
                return .report(events + [.resync(reason: reason)])
            }
        }
        if after == nil, self.wantsState {
            if self.isStateCutOff { events.append(.resync(reason: "the state was cut off")) }
            self.isStateCutOff = false
            self.phase = .loading(revision: nil, lastKey: nil)
            return .report(events)
        }
        if after == nil { self.position = Revision(incarnation, reply.revision) }
        self.phase = .following
        return .report(events)
    }

    /// The server would not begin the watch.
    mutating func refused(_ failure: NativeFailure, using random: inout some RandomNumberGenerator) -> Action {
        guard case .asked = self.phase else { return self.violated("a refusal", "it only of a watch that was asked for") }
        return self.stopped(failure, using: &random)
    }

    // MARK: Events

    mutating func stateReceived(_ state: NativeState) -> Action {
        guard case .loading(let revision, var lastKey) = self.phase else { return self.violated("a state", "changes") }
        guard state.revision >= 0, revision ?? state.revision == state.revision else {
            return self.violated("a state of revision \(state.revision)", "one of revision \(revision ?? 0)")
        }
        var entries: [Entry] = []
        entries.reserveCapacity(state.entries.count)
        for native in state.entries {
            guard native.revision <= state.revision, let entry = Entry(native, in: self.incarnation) else {
                return self.violated("an entry of revision \(native.revision)", "one within 1 to \(state.revision)")
            }
            guard lastKey.map({ $0.lexicographicallyPrecedes(entry.key) }) ?? true else {
                return self.violated("a state with a key twice, or before a smaller one", "the order of keys")
            }
            lastKey = entry.key
            entries.append(entry)
        }
        self.phase = .loading(revision: state.revision, lastKey: lastKey)
        return .report([.state(Revision(self.incarnation, state.revision), entries)])
    }

    mutating func changesReceived(_ event: NativeChanges) -> Action {
        guard case .following = self.phase, let position = self.position else { return self.violated("changes", "a state") }
        if let partial = self.partial, partial.revision != event.revision {
            return self.violated("a part of revision \(event.revision)", "the rest of revision \(partial.revision)", isTorn: true)
        }
        guard event.revision > position.wireNumber else {
            return self.violated("revision \(event.revision)", "one above \(position.wireNumber)")
        }
        var partial = self.partial.take() ?? Partial(revision: event.revision, changes: [], bytes: 0)
        for native in event.changes {
            guard native.previousRevision >= 0, native.previousRevision <= event.revision else {
                return self.violated("a previous revision of \(native.previousRevision)", "one within 0 to \(event.revision)")
            }
            let change = Change(native, hasValue: self.configuration.options.includesValues, in: self.incarnation)
            partial.bytes += change.byteCount
            partial.changes.append(change)
        }
        guard partial.bytes <= self.configuration.options.maximumRevisionBytes else {
            return self.end(
                ClientError(
                    .limitExceeded, subject: "watch", what: "one revision is larger than maximumRevisionBytes",
                    found: "\(partial.bytes) bytes so far", expected: "at most \(self.configuration.options.maximumRevisionBytes)",
                    remedy: "raise the limit"))
        }
        guard !event.isContinued else {
            self.partial = partial
            return .report([])
        }
        let revision = Revision(self.incarnation, event.revision)
        self.position = revision
        self.backoff.reset()
        return .report([.changes(revision, partial.changes)])
    }

    mutating func synced(_ event: NativeSynced) -> Action {
        if case .loading(let revision, _) = self.phase {
            guard event.revision >= 0, revision ?? event.revision == event.revision else {
                return self.violated("a state that ends at revision \(event.revision)", "\(revision ?? 0)")
            }
            self.wantsState = false
            self.position = Revision(self.incarnation, event.revision)
            self.phase = .following
            self.backoff.reset()
            return .report([.synced(Revision(self.incarnation, event.revision))])
        }
        return self.mark(event.revision) { .synced($0) }
    }

    /// An event, or the reply to a request for it.
    mutating func progressed(_ event: NativeProgress) -> Action {
        // A reply may come while the state is on its way: nothing has been reported yet.
        switch self.phase {
        case .outdated, .loading: return .report([])
        case .idle, .asked, .following, .paused, .ended: return self.mark(event.revision) { .progress($0) }
        }
    }

    mutating func resyncReceived(_ event: NativeResync) -> Action {
        switch self.phase {
        case .outdated, .loading, .following: break
        case .idle, .asked, .paused, .ended: return self.violated("a resync", "a watch that has begun")
        }
        guard let incarnation = Incarnation(event.incarnation) else { return self.violated("a resync", "an incarnation") }
        guard self.configuration.options.onGap != .fail else {
            return self.end(
                Self.gapError(incarnation == self.incarnation ? .watchOverflowed : .wrongIncarnation, event.reason))
        }
        self.incarnation = incarnation
        self.forgetPosition(wantsState: true)
        self.isStateCutOff = false
        self.phase = .loading(revision: nil, lastKey: nil)
        return .report([.resync(reason: event.reason)])
    }

    /// The server ended the watch, unasked.
    mutating func ended(_ failure: NativeFailure, using random: inout some RandomNumberGenerator) -> Action {
        switch self.phase {
        case .outdated, .loading, .following: return self.stopped(failure, using: &random)
        case .idle, .asked, .paused, .ended: return self.violated("the end of a watch", "one that has begun")
        }
    }

    mutating func disconnected(_ error: ClientError) -> Action {
        switch self.phase {
        case .idle, .paused, .ended: return .report([])
        case .asked, .outdated, .loading, .following: break
        }
        return .report(self.interrupt(error))
    }

    /// What the server said cannot be read.
    mutating func undecodable(_ error: ProtocolError) -> Action {
        self.end(
            ClientError(
                .protocolMismatch, subject: "watch", what: "the server said what cannot be read", found: error.found,
                expected: error.expected, underlying: error))
    }

    // MARK: The reader

    /// So many bytes wait for the reader now.
    ///
    /// - Returns: true: have the server end the watch, and call ``drained()`` when nothing waits any more; nil: it is over.
    mutating func buffered(_ bytes: Int) -> Result<Bool, ClientError> {
        switch self.phase {
        case .following where bytes > max(WatchOptions.leastBufferedBytes, self.configuration.options.maximumBufferedBytes):
            self.partial = nil
            self.phase = .paused
            return .success(true)
        case .loading where bytes > self.configuration.options.maximumBufferedStateBytes:
            let error = ClientError(
                .limitExceeded, subject: "watch", what: "the state is larger than maximumBufferedStateBytes, and is not read",
                found: "\(bytes) bytes", expected: "at most \(self.configuration.options.maximumBufferedStateBytes)",
                remedy: "watch a smaller range, read faster, or raise the limit")
            self.phase = .ended
            return .failure(error)
        default: return .success(false)
        }
    }

    /// The reader has read everything.
    ///
    /// - Returns: whether to call ``request()`` again.
    mutating func drained() -> Bool {
        guard case .paused = self.phase else { return false }
        self.phase = .idle
        return true
    }

    /// The state is wanted anew, whatever has been reported: have the server end the watch, then call ``request()``.
    mutating func restarted(reason: String) -> Action {
        if case .ended = self.phase { return .report([]) }
        self.forgetPosition(wantsState: true)
        self.isStateCutOff = false
        self.phase = .idle
        return .report([.resync(reason: reason)])
    }

    mutating func clientEnded() { self.phase = .ended }

    // MARK: Private

    private mutating func mark(_ number: Int64, _ event: (Revision) -> WatchEvent) -> Action {
        guard case .following = self.phase, let position = self.position else { return self.violated("a mark", "a state") }
        if let partial = self.partial { return self.violated("a mark", "the rest of revision \(partial.revision)", isTorn: true) }
        guard number >= position.wireNumber else {
            return self.violated("a mark at revision \(number)", "one not below \(position.wireNumber)")
        }
        let revision = Revision(self.incarnation, number)
        self.position = revision
        self.backoff.reset()
        return .report([event(revision)])
    }

    /// A watch that is no more, by the server's will.
    private mutating func stopped(_ failure: NativeFailure, using random: inout some RandomNumberGenerator) -> Action {
        let error = ClientError(failure, of: .watch)
        switch failure.code {
        case .compacted: return self.gap(.compacted, failure.detail)
        case .wrongIncarnation: return self.gap(.wrongIncarnation, failure.detail)
        case .watchOverflowed: break  // the history may reach back: if it does not, the next answer says so
        default: guard failure.isRetryable else { return self.end(error) }
        }
        let events = self.interrupt(error)
        var wait = self.backoff.next(using: &random)
        if let least = failure.retryAfterMilliseconds { wait = max(wait, min(.milliseconds(least), self.configuration.backoffCap)) }
        return .rearm(events, after: wait)
    }

    /// The server cannot go on from the position.
    private mutating func gap(_ code: ClientError.Code, _ reason: String) -> Action {
        guard self.configuration.options.onGap != .fail, self.position != nil else { return self.end(Self.gapError(code, reason)) }
        self.forgetPosition(wantsState: self.configuration.options.onGap == .resync)
        self.phase = .idle
        return .rearm([.resync(reason: reason)], after: .zero)
    }

    private mutating func interrupt(_ error: ClientError) -> [WatchEvent] {
        if case .loading = self.phase { self.isStateCutOff = true }
        self.partial = nil
        self.phase = .idle
        guard !self.wasInterrupted else { return [] }
        self.wasInterrupted = true
        return [.disconnected(error)]
    }

    private mutating func forgetPosition(wantsState: Bool) {
        self.position = nil
        self.partial = nil
        self.wantsState = wantsState
    }

    private mutating func violated(_ found: String, _ expected: String, isTorn: Bool = false) -> Action {
        self.end(
            ClientError(
                .protocolMismatch, subject: "watch", what: isTorn ? "the server tore a revision" : "the server broke the order of events",
                found: found, expected: expected, remedy: "report it: the server, or what is between, is at fault"))
    }

    private mutating func end(_ error: ClientError) -> Action {
        self.phase = .ended
        self.partial = nil
        return .fail(error)
    }

    private static func gapError(_ code: ClientError.Code, _ found: String) -> ClientError {
        ClientError(
            code, subject: "watch", what: "cannot report everything that was missed", found: found,
            remedy: "read afresh, then watch from there; or have the watch do so, with onGap: .resync")
    }
}
