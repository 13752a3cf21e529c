import MWProtocol
import NIOCore

/// The calls of a client on its event loop: keeps bytes and continuations under the ids that ``CallTableStateMachine`` decides about, and
/// resumes each exactly once, in ``deliver()``.
final class CallDesk {
    struct PendingCall {
        let request: Request
        let continuation: CheckedContinuation<Answer, any Error>
    }

    /// What a reply means for the connection it came on.
    enum ReplyOutcome {
        case fine
        /// The server broke the protocol.
        case violation(reason: String, cause: ClientError?)
    }

    private let eventLoop: any EventLoop
    private var table: CallTableStateMachine
    private var pending: [CallID: PendingCall] = [:]
    private var deadlineTimer: (at: NIODeadline, task: Scheduled<Void>)?
    /// Calls ended at their deadline, not in answer to anybody.
    var onExpiry: () -> Void = {}
    /// Why there is no connection, for the errors of calls that wait for one.
    var lastError: ClientError?
    private(set) var counters = ClientCounters()
    private var results: [(CheckedContinuation<Answer, any Error>, Result<Answer, ClientError>)] = []

    init(limits: CallTableStateMachine.Limits, budget: RetryBudget, eventLoop: any EventLoop) {
        self.eventLoop = eventLoop
        self.table = CallTableStateMachine(limits: limits, budget: budget)
    }

    /// Nothing waits and nothing is with the server.
    var isIdle: Bool { self.table.isIdle }

    /// Requests that are with the server.
    var inFlightCount: Int { self.table.inFlightCount }

    /// Nothing more can be sent on the connection, as the server answers nothing.
    var isStuck: Bool { self.table.isStuck(now: self.eventLoop.now) }

    /// Counts what is not about calls.
    func count(_ change: (inout ClientCounters) -> Void) { change(&self.counters) }

    /// Takes a call; or refuses it, because the client has ended for `refusal`.
    func submit(_ id: CallID, _ call: PendingCall, deadline: NIODeadline, refusal: ClientError?) {
        self.counters.calls += 1
        if let refusal { return self.finish(call, .failure(refusal)) }
        let action = self.table.submitted(
            id, effect: call.request.effect, bytes: call.request.bytes.readableBytes, deadline: deadline, now: self.eventLoop.now)
        switch action {
        case .queued:
            self.pending[id] = call
            self.armDeadlineTimer(deadline)
        case .refuseQueueFull:
            let error = ClientError(
                .queueFull, subject: "\(call.request.kind)", what: "too many calls wait for a connection",
                found: "\(self.table.queuedCalls) calls of \(self.table.queuedBytes) bytes", remedy: "ask again later",
                underlying: self.lastError)
            self.finish(call, .failure(error))
        case .refuseExpired:
            let error = ClientError(
                .deadlineExceeded, subject: "\(call.request.kind)", what: "was not sent in time", found: self.lastError.map { "\($0)" },
                underlying: self.lastError)
            self.finish(call, .failure(error))
        }
    }

    func cancel(_ id: CallID) {
        if let ended = self.table.cancelled(id) { self.fail(ended, because: nil) }
    }

    /// The next request to send on the connection, now in flight; `nil` when there is none, or enough are.
    func nextToSend() -> (Request, RequestID)? {
        while let (id, requestID) = self.table.nextToSend() {
            if let call = self.pending[id] { return (call.request, requestID) }
        }
        return nil
    }

    /// The server answered.
    func answered(_ reply: Reply, id: RequestID) -> ReplyOutcome {
        switch self.table.answered(id) {
        case .unknownRequest: return .violation(reason: "an answer to nothing that was asked", cause: nil)
        case .drop: return .fine
        case .complete(let id):
            guard let call = self.pending.removeValue(forKey: id) else { return .fine }
            return self.complete(call, reply)
        }
    }

    private func complete(_ call: PendingCall, _ reply: Reply) -> ReplyOutcome {
        do {
            if let answer = try Answer(reply, to: call.request.kind) {
                self.finish(call, .success(answer))
                return .fine
            }
        } catch {
            self.finish(call, .failure(error))
            return .fine
        }
        let error = ClientError(
            .protocolMismatch, subject: "\(call.request.kind)", what: "the server answered something else",
            mayHaveTakenEffect: call.request.effect == .once)
        self.finish(call, .failure(error))
        return .violation(reason: "an answer of another kind than its request", cause: error)
    }

    func connectionLost(because cause: ClientError) {
        let (resent, ended) = self.table.connectionLost()
        self.counters.resent += resent
        for call in ended { self.fail(call, because: cause) }
    }

    /// Ends every call.
    func end(because cause: ClientError) {
        self.deadlineTimer?.task.cancel()
        self.deadlineTimer = nil
        for ended in self.table.clientEnded() { self.fail(ended, because: cause) }
    }

    // MARK: Deadlines

    /// How late a deadline may be noticed: a coarse tick, as each costs a walk over all calls, and many that end together share one.
    private static let deadlineGranularity = TimeAmount.milliseconds(2)

    private func armDeadlineTimer(_ deadline: NIODeadline) {
        if let timer = self.deadlineTimer {
            guard deadline < timer.at else { return }
            timer.task.cancel()
        }
        let at = max(deadline, self.eventLoop.now + Self.deadlineGranularity)
        let task = self.eventLoop.assumeIsolated().scheduleTask(deadline: at) { [weak self] in
            if let self { self.deadlineReached() }
        }
        self.deadlineTimer = (at, task)
    }

    private func deadlineReached() {
        self.deadlineTimer = nil
        for ended in self.table.deadlinesReached(now: self.eventLoop.now) { self.fail(ended, because: self.lastError) }
        if let next = self.table.earliestDeadline { self.armDeadlineTimer(next) }
        self.onExpiry()
    }

    // MARK: Ends

    private func fail(_ ended: CallTableStateMachine.Ended, because cause: ClientError?) {
        guard let call = self.pending.removeValue(forKey: ended.call) else { return }
        self.finish(call, .failure(ClientError(ended, kind: call.request.kind, cause: cause)))
    }

    private func finish(_ call: PendingCall, _ result: Result<Answer, ClientError>) {
        switch result {
        case .success:
            self.counters.succeeded += 1
        case .failure(let error):
            self.counters.failed += 1
            if error.mayHaveTakenEffect { self.counters.outcomeUnknown += 1 }
        }
        self.results.append((call.continuation, result))
    }

    /// Resumes the calls that ended, once the counters that they may look at are out.
    func deliver() {
        var results: [(CheckedContinuation<Answer, any Error>, Result<Answer, ClientError>)] = []
        swap(&results, &self.results)
        for (continuation, result) in results { continuation.resume(with: result.mapError { $0 as any Error }) }
    }
}

extension ClientError {
    /// What a call that ended without an answer throws.
    init(_ ended: CallTableStateMachine.Ended, kind: Request.Kind, cause: ClientError?) {
        let subject = "\(kind)"
        let effect = ended.mayHaveTakenEffect
        let because = cause.map { "\($0)" }
        switch ended.reason {
        case .deadline:
            self.init(
                .deadlineExceeded, subject: subject, what: ended.wasSent ? "was sent and not answered in time" : "was not sent in time",
                found: because, remedy: effect ? Self.askFirst : nil, mayHaveTakenEffect: effect, underlying: cause)
        case .cancelled:
            self.init(
                .cancelled, subject: subject, what: ended.wasSent ? "was cancelled after it was sent" : "was cancelled before it was sent",
                remedy: effect ? Self.askFirst : nil, mayHaveTakenEffect: effect)
        case .connectionLost, .clientEnded:
            if effect {
                self.init(
                    .outcomeUnknown, subject: subject, what: "the connection ended before the answer came", found: because,
                    remedy: Self.askFirst, mayHaveTakenEffect: true, underlying: cause)
            } else if ended.reason == .clientEnded, let cause, cause.code != .closed {
                self = cause
            } else if !ended.wasSent {
                self.init(.notSent, subject: subject, what: "the client was closed before it was sent")
            } else {
                self.init(
                    .connectionLost, subject: subject, what: "the connection ended before the answer came", found: because,
                    remedy: "ask again", underlying: cause)
            }
        }
    }

    private static let askFirst = "it may have been done: read before writing again"
}
