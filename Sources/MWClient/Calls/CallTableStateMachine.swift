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
        /// The mwDB protocol has no idempotency key: a second time may undo what others did in between.
        case once
    }

    package enum SubmitAction: Equatable, Sendable {
        case queued
        case refuseQueueFull
        case refuseExpired
    }

    package enum AnswerAction: Equatable, Sendable {
        case complete(CallID)
        /// Nobody waits for it any more.
        case drop
        /// Nothing was asked under this id: the peer breaks the protocol.
        case unknownRequest
    }

    /// A call that ended without an answer.
    package struct Ended: Equatable, Sendable {
        package enum Reason: Equatable, Sendable {
            case deadline, cancelled, connectionLost, clientEnded
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
        var request: RequestID?
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
        self.inFlight.count >= self.limits.maximumInFlight && self.inFlight.values.allSatisfy { $0.deadline <= now }
    }

    /// The earliest deadline of all calls; costs a walk over them.
    package var earliestDeadline: NIODeadline? { self.calls.values.lazy.map(\.deadline).min() }

    package mutating func submitted(_ call: CallID, effect: Effect, bytes: Int, deadline: NIODeadline, now: NIODeadline) -> SubmitAction {
        guard deadline > now else { return .refuseExpired }
        guard self.queuedCalls < self.limits.maximumQueuedCalls, self.queuedBytes + bytes <= self.limits.maximumQueuedBytes else {
            return .refuseQueueFull
        }
        self.calls[call] = Call(effect: effect, bytes: bytes, deadline: deadline)
        self.queue.append(call)
        self.queuedCalls += 1
        self.queuedBytes += bytes
        self.budget.deposit()
        return .queued
    }

    /// The next call to send and its id on the wire; `nil` when nothing waits or enough is in flight.
    package mutating func nextToSend() -> (call: CallID, request: RequestID)? {
        guard self.inFlight.count < self.limits.maximumInFlight else { return nil }
        while let id = self.queue.popFirst() {
            guard var call = self.calls[id], call.request == nil else { continue }
            let request = self.takeRequestID()
            call.request = request
            self.calls[id] = call
            self.inFlight[request] = Sent(call: id, deadline: call.deadline)
            self.leaveQueue(call)
            return (id, request)
        }
        return nil
    }

    package mutating func answered(_ request: RequestID) -> AnswerAction {
        guard let id = self.inFlight.removeValue(forKey: request)?.call else { return .unknownRequest }
        return self.calls.removeValue(forKey: id) == nil ? .drop : .complete(id)
    }

    /// Nobody waits for the call any more; `nil` if it ended before.
    package mutating func cancelled(_ call: CallID) -> Ended? { self.end(call, .cancelled) }

    /// Ends every call whose deadline is reached.
    package mutating func deadlinesReached(now: NIODeadline) -> [Ended] {
        let expired = self.calls.filter { $0.value.deadline <= now }.keys.sorted()
        return expired.compactMap { self.end($0, .deadline) }
    }

    /// The connection is no more: what was repeatable goes to the head of the queue in its old order (over the queue's bounds if need be:
    /// it was admitted once), as far as the budget reaches; everything else that was sent fails.
    package mutating func connectionLost() -> (resent: Int, ended: [Ended]) {
        let lost = self.inFlight.values.map(\.call).sorted()
        self.inFlight.removeAll(keepingCapacity: true)
        var again: [CallID] = []
        var ended: [Ended] = []
        for id in lost {
            guard var call = self.calls[id] else { continue }
            if call.effect == .repeatable, self.budget.withdraw() {
                call.request = nil
                self.calls[id] = call
                self.queuedCalls += 1
                self.queuedBytes += call.bytes
                again.append(id)
            } else if let end = self.end(id, .connectionLost) {
                ended.append(end)
            }
        }
        self.queue.insert(contentsOf: again, at: self.queue.startIndex)
        return (again.count, ended)
    }

    /// The client ends: every call ends with it.
    package mutating func clientEnded() -> [Ended] {
        let all = self.calls.keys.sorted().compactMap { self.end($0, .clientEnded) }
        self.inFlight.removeAll()
        return all
    }

    private mutating func end(_ id: CallID, _ reason: Ended.Reason) -> Ended? {
        guard let call = self.calls.removeValue(forKey: id) else { return nil }
        let wasSent = call.request != nil
        if !wasSent {
            self.leaveQueue(call)
            self.sweep()
        }
        return Ended(call: id, reason: reason, wasSent: wasSent, mayHaveTakenEffect: wasSent && call.effect == .once)
    }

    private mutating func leaveQueue(_ call: Call) {
        self.queuedCalls -= 1
        self.queuedBytes -= call.bytes
    }

    /// How many ended calls the queue may hold before it is swept, at least.
    private static let sweepThreshold = 64

    private mutating func sweep() {
        guard self.queue.count > 2 * self.queuedCalls + Self.sweepThreshold else { return }
        self.queue.removeAll { id in self.calls[id].map { $0.request != nil } ?? true }
    }

    private mutating func takeRequestID() -> RequestID {
        while true {
            let id = RequestID(self.nextRequest)
            self.nextRequest = self.nextRequest == Self.maximumRequestID ? 0 : self.nextRequest + 1
            if self.inFlight[id] == nil { return id }
        }
    }
}
