import DequeModule
package import MWProtocol
package import NIOCore

// Which calls wait, which are with the server, and what becomes of each.
//
//   submitted ──▶ queued ── nextToSend ──▶ sent(id) ── answered ──▶ done
//                  │  ▲                     │   │
//   deadline,      │  │ connectionLost,     │   │ deadline, cancelled
//   cancelled      │  │ repeatable, budget  │   ▼
//                  ▼  └─────────────────────┤  abandoned(id) ── answered, connectionLost ──▶ gone
//                failed ◀── connectionLost ─┘
//
// A call whose answer is a failure that may pass waits (answered, retryable) and is queued again when its wait has elapsed.
//
// Responsibilities: the bounds of the queue, the request ids on the wire, deadlines, and the difference between "not sent" and "sent but
// unanswered", on which the meaning of every error rests. It knows no bytes and no continuations: the shell keeps those under the call's id.
//
// An abandoned call (nobody waits any more) keeps its request id until the answer comes or the connection ends: given to another
// request, the late answer would be taken for that one's. When such calls are all that fits in flight, the server answers nothing, and
// the connection is to be given up.

/// One call of the user's, for its whole life and over all connections. Unique in a client.
package struct CallID: Hashable, Comparable, Sendable {
    package let rawValue: UInt64
    package init(_ rawValue: UInt64) { self.rawValue = rawValue }
    package static func < (lhs: CallID, rhs: CallID) -> Bool { lhs.rawValue < rhs.rawValue }
}

package struct CallTableStateMachine: ~Copyable {
    package struct Limits: Equatable, Sendable {
        /// Requests with the server at one time; the server stops reading above its own 1,024.
        package var maximumInFlight = 1_024
        /// Calls that wait.
        package var maximumQueuedCalls = 16_384
        /// Bytes of the calls that wait.
        package var maximumQueuedBytes = 64 * 1024 * 1024

        package init() {}
    }

    /// Whether a call may be made twice.
    package enum Effect: Equatable, Sendable {
        /// Asking again changes nothing (reads), or nothing that matters (a prefix is only ever skipped).
        case repeatable
        /// There is no way to ask what became of it: a second time may undo what others did in between.
        case once
        /// It is sent under a session and a sequence, and may be sent again with them: see ``WriteSessionStateMachine``.
        case identified
    }

    package enum SubmitAction: Equatable, Sendable {
        case queued
        case refuseQueueFull
        case refuseExpired
        /// The connection that it is bound to is gone.
        case refuseGone
    }

    /// A call to send.
    package struct Outgoing: Equatable, Sendable {
        package let call: CallID
        package let request: RequestID
        /// What an identified call carries.
        package let write: WriteSessionStateMachine.Header?
    }

    /// What the server answered, as far as it matters here.
    package enum Verdict: Equatable, Sendable {
        /// It was done, or it will never be.
        case final
        /// A failure of no effect: the same request may succeed after this time.
        case retryable(after: TimeAmount)
        /// There is no such session, any more: this time nothing was done.
        case sessionUnknown
    }

    package enum AnswerAction: Equatable, Sendable {
        /// - Parameter isUncertain: it had been sent before, unanswered: a failure says nothing about that time.
        case complete(CallID, isUncertain: Bool)
        /// It will be sent again.
        case again(CallID)
        /// Nobody waits for it any more.
        case drop
        /// Nothing was asked under this id: the peer breaks the protocol.
        case unknownRequest
    }

    /// A call that ended without an answer.
    package struct Ended: Equatable, Sendable {
        package enum Reason: Equatable, Sendable {
            case deadline, cancelled, connectionLost, clientEnded
            /// The session that it was sent under is lost, or the next connection is to another store.
            case sessionLost
            /// The server gives no session.
            case sessionRefused
        }
        package let call: CallID
        package let reason: Reason
        /// It was handed to the connection.
        package let wasSent: Bool
        /// It was sent, and it is one that has an effect.
        package let mayHaveTakenEffect: Bool

        package init(call: CallID, reason: Reason, wasSent: Bool, mayHaveTakenEffect: Bool) {
            self.call = call
            self.reason = reason
            self.wasSent = wasSent
            self.mayHaveTakenEffect = mayHaveTakenEffect
        }
    }

    /// The ids on the wire run from 0 to here, then start again, leaving out those in flight, as the original client's do.
    package static let maximumRequestID: Int32 = 1_000_000

    private struct Call {
        let effect: Effect
        let bytes: Int
        let deadline: NIODeadline
        /// The only connection it makes sense on.
        let connection: UInt64?
        var request: RequestID?
        /// Of an identified call, from when it is first sent.
        var write: WriteSessionStateMachine.Number?
        /// It was sent on a connection that was lost before the answer came.
        var isUncertain = false
        /// How often it got a new number, as its session was unknown.
        var renewals = 0
        /// It waits until then, and is in no queue.
        var retryAt: NIODeadline?
    }

    /// A request with the server; it outlives its call when that is abandoned.
    private struct Sent {
        let call: CallID
        let deadline: NIODeadline
    }

    private let limits: Limits
    private var budget: RetryBudget
    private var calls: [CallID: Call] = [:]
    private var inFlight: [RequestID: Sent] = [:]
    /// Calls to send, first to last. May hold calls that ended: they are skipped, and swept before they outnumber the others.
    private var queue: Deque<CallID> = []
    /// The same for identified calls, which may have to wait for their session.
    private var writeQueue: Deque<CallID> = []
    private var waiting: Set<CallID> = []
    private var connection: UInt64?
    private var serverMaximumInFlight: Int?
    private var writes = WriteSessionStateMachine()
    private var ends: [Ended] = []
    private var nextRequest: Int32 = 0
    package private(set) var queuedCalls = 0
    package private(set) var queuedBytes = 0

    package init(limits: Limits, budget: RetryBudget) {
        precondition(limits.maximumInFlight < Self.maximumRequestID, "fewer requests in flight than there are ids")
        self.limits = limits
        self.budget = budget
    }

    /// Requests with the server, abandoned ones included.
    package var inFlightCount: Int { self.inFlight.count }

    /// Nothing waits and nothing is with the server.
    package var isIdle: Bool { self.calls.isEmpty }

    /// The connection can carry nothing more: all that fits in flight is past its deadline, and nothing was answered since the last of it was
    /// sent. Cancelled requests count from their deadline, too. Costs a walk over what is in flight.
    package func isStuck(now: NIODeadline) -> Bool {
        self.inFlight.count >= self.maximumInFlight && self.inFlight.values.allSatisfy { $0.deadline <= now }
    }

    /// The earliest time at which something is to be done; costs a walk over all calls.
    package var earliestDeadline: NIODeadline? {
        var earliest = self.calls.values.lazy.map(\.deadline).min()
        for id in self.waiting { if let at = self.calls[id]?.retryAt { earliest = min(earliest ?? at, at) } }
        if let at = self.sessionDeadline { earliest = min(earliest ?? at, at) }
        return earliest
    }

    /// When something is to be done about the session of the writes.
    package var sessionDeadline: NIODeadline? { self.writes.nextDeadline }

    /// - Parameter connection: the only connection that it makes sense on.
    package mutating func submitted(
        _ call: CallID, effect: Effect, bytes: Int, deadline: NIODeadline, connection: UInt64? = nil, now: NIODeadline
    ) -> SubmitAction {
        guard deadline > now else { return .refuseExpired }
        guard connection == nil || connection == self.connection else { return .refuseGone }
        guard self.queuedCalls < self.limits.maximumQueuedCalls, self.queuedBytes + bytes <= self.limits.maximumQueuedBytes else {
            return .refuseQueueFull
        }
        self.calls[call] = Call(effect: effect, bytes: bytes, deadline: deadline, connection: connection)
        if effect == .identified { self.writeQueue.append(call) } else { self.queue.append(call) }
        self.queuedCalls += 1
        self.queuedBytes += bytes
        self.budget.deposit()
        return .queued
    }

    // MARK: Sending

    /// The next call to send and its id on the wire; `nil` when nothing waits, or enough is in flight, or it has more than `room` bytes.
    package mutating func nextToSend(room: Int = .max, now: NIODeadline) -> Outgoing? {
        guard self.inFlight.count < self.maximumInFlight else { return nil }
        let read = self.head(ofWrites: false)
        var write = self.head(ofWrites: true)
        if let id = write, self.connection == nil || self.calls[id]?.write == nil && !self.writes.canAssign(now: now) { write = nil }
        // In the order in which they were made.
        let isWrite = write.map { id in read.map { id < $0 } ?? true } ?? false
        guard let id = isWrite ? write : read, var call = self.calls[id], call.bytes <= room else { return nil }
        if isWrite { self.writeQueue.removeFirst() } else { self.queue.removeFirst() }
        let request = self.takeRequestID()
        call.request = request
        var header: WriteSessionStateMachine.Header?
        if isWrite {
            let number = call.write ?? self.writes.assign(now: now)
            call.write = number
            header = self.writes.header(of: number)
            assert(header != nil, "a write of a session that is lost")
        }
        self.calls[id] = call
        self.inFlight[request] = Sent(call: id, deadline: call.deadline)
        self.leaveQueue(call)
        return Outgoing(call: id, request: request, write: header)
    }

    /// The first call of a queue that is to be sent, left there.
    private mutating func head(ofWrites: Bool) -> CallID? {
        while let id = ofWrites ? self.writeQueue.first : self.queue.first {
            if let call = self.calls[id], call.request == nil, call.retryAt == nil { return id }
            if ofWrites { self.writeQueue.removeFirst() } else { self.queue.removeFirst() }
        }
        return nil
    }

    // MARK: Answers

    package mutating func answered(_ request: RequestID, _ verdict: Verdict = .final, now: NIODeadline) -> AnswerAction {
        guard let id = self.inFlight.removeValue(forKey: request)?.call else { return .unknownRequest }
        guard var call = self.calls[id] else { return .drop }
        switch verdict {
        case .final: break
        case .retryable(let after):
            let at = now + after
            guard call.effect != .once, call.write.map({ self.writes.header(of: $0) != nil }) ?? true, at < call.deadline,
                self.budget.withdraw()
            else { break }
            call.request = nil
            call.retryAt = at
            self.enterQueue(call)
            self.calls[id] = call
            self.waiting.insert(id)
            return .again(id)
        case .sessionUnknown:
            guard let number = call.write else { break }
            self.ends += self.sessionLost(number.session)
            guard !call.isUncertain, call.renewals < Self.maximumRenewals else { break }
            // Not done, and never asked before: another number, of another session, cannot do it twice.
            call.request = nil
            call.write = nil
            call.renewals += 1
            self.enterQueue(call)
            self.calls[id] = call
            self.writeQueue.insert(id, at: self.writeQueue.firstIndex { $0 > id } ?? self.writeQueue.endIndex)
            return .again(id)
        }
        self.calls[id] = nil
        if let number = call.write { self.writes.concluded(number) }
        return .complete(id, isUncertain: call.isUncertain)
    }

    /// What ended because of what was answered to others.
    package mutating func takeEnds() -> [Ended] {
        guard !self.ends.isEmpty else { return [] }
        defer { self.ends = [] }
        return self.ends
    }

    /// A session is new when it is first used; one that is unknown then, again and again, is a server's fault.
    private static let maximumRenewals = 2

    /// Puts calls whose wait is over back where they are sent from.
    package mutating func waitsElapsed(now: NIODeadline) {
        self.writes.waitElapsed(now: now)
        let due = self.waiting.filter { id in self.calls[id]?.retryAt.map { $0 <= now } ?? true }.sorted()
        guard !due.isEmpty else { return }
        self.waiting.subtract(due)
        for id in due { self.calls[id]?.retryAt = nil }
        self.requeue(due)
    }

    // MARK: Ends

    /// Nobody waits for the call any more; `nil` if it ended before.
    package mutating func cancelled(_ call: CallID) -> Ended? { self.end(call, .cancelled) }

    /// Ends every call whose deadline is reached.
    package mutating func deadlinesReached(now: NIODeadline) -> [Ended] {
        let expired = self.calls.filter { $0.value.deadline <= now }.keys.sorted()
        return expired.compactMap { self.end($0, .deadline) }
    }

    /// The client ends: every call ends with it.
    package mutating func clientEnded() -> [Ended] {
        let all = self.calls.keys.sorted().compactMap { self.end($0, .clientEnded) }
        self.inFlight.removeAll()
        return all
    }

    // MARK: Connections

    /// There is a connection, the `number`th, to a store: calls that were sent to another one end.
    package mutating func connected(_ number: UInt64, to incarnation: Incarnation, maximumInFlight: Int? = nil) -> [Ended] {
        let gone = self.leaveConnection(for: number)
        self.serverMaximumInFlight = maximumInFlight
        guard let lost = self.writes.connected(to: incarnation) else { return gone }
        return gone + self.sessionLost(lost)
    }

    /// The connection is no more: what may be sent again goes to the head of the queue in its old order (over the queue's bounds if need be:
    /// it was admitted once), as far as the budget reaches; everything else that was sent fails.
    package mutating func connectionLost() -> (resent: Int, ended: [Ended]) {
        let lost = self.inFlight.values.map(\.call).sorted()
        self.inFlight.removeAll(keepingCapacity: true)
        self.writes.connectionLost()
        var again: [CallID] = []
        var ended: [Ended] = []
        for id in lost {
            guard var call = self.calls[id] else { continue }
            if let number = call.write, self.writes.header(of: number) == nil {
                if let end = self.end(id, .sessionLost) { ended.append(end) }
            } else if call.effect != .once, call.connection == nil, self.budget.withdraw() {
                call.request = nil
                call.isUncertain = call.effect == .identified
                self.calls[id] = call
                self.enterQueue(call)
                again.append(id)
            } else if let end = self.end(id, .connectionLost) {
                ended.append(end)
            }
        }
        self.requeue(again)
        return (again.count, ended + self.leaveConnection(for: nil))
    }

    private mutating func leaveConnection(for next: UInt64?) -> [Ended] {
        self.connection = next
        let bound = self.calls.filter { $0.value.connection != nil && $0.value.connection != next }.keys.sorted()
        return bound.compactMap { self.end($0, .connectionLost) }
    }

    // MARK: The session of the writes

    /// Whether a session is to be asked for now, as writes wait for one; then it counts as asked for.
    package mutating func wantsSession(now: NIODeadline) -> Bool {
        guard let id = self.head(ofWrites: true), self.calls[id]?.write == nil else { return false }
        return self.writes.wantsOpening(now: now)
    }

    /// The session to be kept alive now.
    package mutating func wantsKeepAlive(now: NIODeadline) -> WriteSessionID? { self.writes.wantsKeepAlive(now: now) }

    /// The session that is open.
    package var session: (id: WriteSessionID, number: UInt64)? { self.writes.open }

    package mutating func sessionOpened(_ id: WriteSessionID, timeToLive: TimeAmount, maximumOutcomes: Int64, now: NIODeadline) {
        self.writes.opened(id, timeToLive: timeToLive, maximumOutcomes: maximumOutcomes, now: now)
    }

    /// - Parameter tryAgainAt: nil: the server gives none, and the writes that wait for one end.
    package mutating func sessionRefused(tryAgainAt: NIODeadline?) -> [Ended] {
        self.writes.openingFailed(tryAgainAt: tryAgainAt)
        guard tryAgainAt == nil else { return [] }
        let unnumbered = self.calls.filter { $0.value.effect == .identified && $0.value.write == nil }.keys.sorted()
        return unnumbered.compactMap { self.end($0, .sessionRefused) }
    }

    /// A session is no more: nobody knows what became of its writes that were sent on lost connections; those that were not get other numbers.
    /// Those in flight are answered each for itself.
    package mutating func sessionLost(_ number: UInt64) -> [Ended] {
        self.writes.sessionLost(number)
        var ended: [Ended] = []
        for id in self.calls.filter({ $0.value.write?.session == number && $0.value.request == nil }).keys.sorted() {
            if self.calls[id]?.isUncertain == true {
                if let end = self.end(id, .sessionLost) { ended.append(end) }
            } else {
                self.calls[id]?.write = nil
            }
        }
        return ended
    }

    // MARK: Private

    private var maximumInFlight: Int { min(self.limits.maximumInFlight, self.serverMaximumInFlight ?? .max) }

    private mutating func requeue(_ ids: [CallID]) {
        self.queue.insert(contentsOf: ids.filter { self.calls[$0]?.effect != .identified }, at: self.queue.startIndex)
        self.writeQueue.insert(contentsOf: ids.filter { self.calls[$0]?.effect == .identified }, at: self.writeQueue.startIndex)
    }

    private mutating func end(_ id: CallID, _ reason: Ended.Reason) -> Ended? {
        guard let call = self.calls.removeValue(forKey: id) else { return nil }
        let isQueued = call.request == nil
        if call.retryAt != nil { self.waiting.remove(id) }
        if let number = call.write { self.writes.concluded(number) }
        if isQueued {
            self.leaveQueue(call)
            self.sweep()
        }
        let wasSent = !isQueued || call.isUncertain
        return Ended(call: id, reason: reason, wasSent: wasSent, mayHaveTakenEffect: wasSent && call.effect != .repeatable)
    }

    private mutating func enterQueue(_ call: Call) {
        self.queuedCalls += 1
        self.queuedBytes += call.bytes
    }

    private mutating func leaveQueue(_ call: Call) {
        self.queuedCalls -= 1
        self.queuedBytes -= call.bytes
    }

    /// How many ended calls the queue may hold before it is swept, at least.
    private static let sweepThreshold = 64

    private mutating func sweep() {
        guard self.queue.count + self.writeQueue.count > 2 * self.queuedCalls + Self.sweepThreshold else { return }
        self.queue.removeAll { id in self.calls[id].map { $0.request != nil || $0.retryAt != nil } ?? true }
        self.writeQueue.removeAll { id in self.calls[id].map { $0.request != nil || $0.retryAt != nil } ?? true }
    }

    private mutating func takeRequestID() -> RequestID {
        while true {
            let id = RequestID(self.nextRequest)
            self.nextRequest = self.nextRequest == Self.maximumRequestID ? 0 : self.nextRequest + 1
            if self.inFlight[id] == nil { return id }
        }
    }
}
