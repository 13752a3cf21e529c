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
    private var random: any RandomNumberGenerator
    private var table: CallTableStateMachine
    private var pending: [CallID: PendingCall] = [:]
    private var deadlineTimer: (at: NIODeadline, task: Scheduled<Void>)?
    /// Calls ended at their deadline, not in answer to anybody.
    var onExpiry: () -> Void = {}
    /// Why there is no connection, for the errors of calls that wait for one.
    var lastError: ClientError?
    private(set) var counters = ClientCounters()
    /// The connection that answers come from.
    private var origin = AnswerOrigin(incarnation: .unknown, connection: 0)
    private var maximumMessageBytes = Int.max
    private var results: [(CheckedContinuation<Answer, any Error>, Result<Answer, ClientError>)] = []

    init(limits: CallTableStateMachine.Limits, budget: RetryBudget, eventLoop: any EventLoop, random: any RandomNumberGenerator) {
        self.eventLoop = eventLoop
        self.random = random
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
            id, effect: call.request.effect, bytes: call.request.bytes.readableBytes, deadline: deadline,
            connection: call.request.connection, now: self.eventLoop.now)
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
        case .refuseGone: self.finish(call, .failure(Self.gone(call)))
        }
    }

    /// Why a call that is bound to a connection was not sent.
    private static func gone(_ call: PendingCall) -> ClientError {
        ClientError(.snapshotLost, subject: "\(call.request.kind)", what: "the connection that its snapshot was of is gone")
    }

    func cancel(_ id: CallID) {
        if let ended = self.table.cancelled(id) { self.fail(ended, because: nil) }
    }

    /// A request to send, now in flight.
    struct Outgoing {
        let request: Request
        let id: RequestID
        let write: WriteSessionStateMachine.Header?
    }

    /// The next request to send on the connection; `nil` when there is none, or enough are, or it has more than `room` bytes.
    func nextToSend(room: Int = .max) -> Outgoing? {
        while let next = self.table.nextToSend(room: room, now: self.eventLoop.now) {
            if next.write != nil, let deadline = self.table.sessionDeadline { self.armDeadlineTimer(deadline) }
            guard let call = self.pending[next.call] else { continue }
            if let error = self.misfit(call.request) {
                let action = self.table.answered(next.request, now: self.eventLoop.now)
                self.pending[next.call] = nil
                // It fitted on a connection that was lost, and was sent there.
                if case .complete(_, isUncertain: true) = action, case .native(let kind) = call.request.kind {
                    self.finish(call, .failure(.outcomeUnknown(kind, because: error)))
                } else {
                    self.finish(call, .failure(error))
                }
                continue
            }
            return Outgoing(request: call.request, id: next.request, write: next.write)
        }
        return nil
    }

    /// Why a request must not go to the server that is there.
    private func misfit(_ request: Request) -> ClientError? {
        if request.maximumMessageBytes > self.maximumMessageBytes {
            return .tooLarge(request, maximum: self.maximumMessageBytes)
        }
        guard let incarnation = request.incarnation, incarnation != self.origin.incarnation else { return nil }
        return ClientError(
            .wrongIncarnation, subject: "\(request.kind)", what: "names revisions of another store, or of this one before it was restored",
            found: "\(incarnation)", expected: "\(self.origin.incarnation)", remedy: "read afresh")
    }

    /// The server answered.
    func answered(_ reply: Reply, id: RequestID) -> ReplyOutcome {
        let action = self.table.answered(id, self.verdict(on: reply), now: self.eventLoop.now)
        for ended in self.table.takeEnds() { self.fail(ended, because: nil) }
        switch action {
        case .unknownRequest: return .violation(reason: "an answer to nothing that was asked", cause: nil)
        case .drop: return .fine
        case .again:
            self.counters.resent += 1
            if let deadline = self.table.earliestDeadline { self.armDeadlineTimer(deadline) }
            return .fine
        case .complete(let id, let isUncertain):
            guard let call = self.pending.removeValue(forKey: id) else { return .fine }
            return self.complete(call, reply, isUncertain)
        }
    }

    /// How long to wait at most, beside what the server asks for, before a request that it could not serve is sent again. Random, so that
    /// those who were sent away together do not come back together.
    private static let retryJitter: TimeAmount = .milliseconds(100)
    /// The longest wait that a server may ask for; a deadline is usually shorter.
    private static let maximumRetryAfter: Int64 = 300_000

    private func verdict(on reply: Reply) -> CallTableStateMachine.Verdict {
        guard case .native(_, let failure?) = reply else { return .final }
        if failure.code == .sessionUnknown { return .sessionUnknown }
        guard failure.isRetryable, !failure.mayHaveTakenEffect else { return .final }
        let after = TimeAmount.milliseconds(min(max(0, failure.retryAfterMilliseconds ?? 0), Self.maximumRetryAfter))
        return .retryable(after: after + .nanoseconds(self.draw(upTo: max(after, Self.retryJitter).nanoseconds)))
    }

    private func draw(upTo most: Int64) -> Int64 { Int64.random(in: 0...most, using: &self.random) }

    private func complete(_ call: PendingCall, _ reply: Reply, _ isUncertain: Bool) -> ReplyOutcome {
        do {
            if let answer = try Answer(reply, to: call.request.kind, isUncertain: isUncertain, from: self.origin) {
                self.finish(call, .success(answer))
                return .fine
            }
        } catch {
            self.finish(call, .failure(error))
            return .fine
        }
        let error = ClientError(
            .protocolMismatch, subject: "\(call.request.kind)", what: "the server answered something else",
            mayHaveTakenEffect: call.request.effect != .repeatable)
        self.finish(call, .failure(error))
        return .violation(reason: "an answer of another kind than its request", cause: error)
    }

    // MARK: Connections

    /// Calls can be sent on this connection now.
    ///
    /// - Parameters:
    ///   - maximumInFlight: what the server allows; nil: it does not say.
    ///   - maximumMessageBytes: the same.
    func connected(_ origin: AnswerOrigin, maximumInFlight: Int?, maximumMessageBytes: Int?) {
        self.origin = origin
        self.maximumMessageBytes = maximumMessageBytes ?? .max
        let ended = self.table.connected(origin.connection, to: origin.incarnation, maximumInFlight: maximumInFlight)
        for call in ended { self.fail(call, because: nil) }
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

    // MARK: The session of the writes

    /// What to ask about the session now, whose answer goes to ``sessionAnswered(_:)``.
    func sessionRequest() -> SessionRequest? {
        let now = self.eventLoop.now
        if self.table.wantsSession(now: now) { return .open }
        return self.table.wantsKeepAlive(now: now).map { .resume($0) }
    }

    enum SessionRequest {
        case open
        case resume(WriteSessionID)
    }

    /// The session to be closed when the client leaves in peace.
    var sessionToClose: WriteSessionID? { self.table.session?.id }

    /// - Returns: false: it is no answer.
    func sessionAnswered(_ frame: NativeFrame) -> Bool {
        let now = self.eventLoop.now
        let isOpening = frame.kind == NativeRequestKind.openSession.rawValue
        guard isOpening || frame.kind == NativeRequestKind.resumeSession.rawValue else { return false }
        guard frame.role == .failure else {
            guard let opened = try? NativeSessionOpened(frame.fields), let id = WriteSessionID(opened.session) else { return false }
            guard isOpening else { return true }
            let timeToLive = TimeAmount.milliseconds(min(max(1, opened.timeToLiveMilliseconds), Self.maximumSessionMilliseconds))
            self.table.sessionOpened(id, timeToLive: timeToLive, maximumOutcomes: opened.maximumOutcomes, now: now)
            return true
        }
        guard var failure = try? NativeFailure(frame.fields) else { return false }
        if isOpening {
            // What waits for the session was never sent, whatever became of the session.
            failure.mayHaveTakenEffect = false
            let cause = ClientError(failure, of: .openSession)
            let verdict = self.verdict(on: .native(frame, failure))
            var again: NIODeadline?
            if case .retryable(let after) = verdict { again = now + after }
            for ended in self.table.sessionRefused(tryAgainAt: again) { self.fail(ended, because: cause) }
            if let again { self.armDeadlineTimer(again) }
        } else if failure.code == .sessionUnknown, let session = self.table.session {
            for ended in self.table.sessionLost(session.number) { self.fail(ended, because: ClientError(failure, of: .resumeSession)) }
        }
        return true
    }

    /// A day: what a server says beyond that is of no use, and its arithmetic stays in bounds.
    private static let maximumSessionMilliseconds: Int64 = 86_400_000

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
        self.table.waitsElapsed(now: self.eventLoop.now)
        if let next = self.table.earliestDeadline { self.armDeadlineTimer(next) }
        self.onExpiry()
    }

    // MARK: Ends

    private func fail(_ ended: CallTableStateMachine.Ended, because cause: ClientError?) {
        guard let call = self.pending.removeValue(forKey: ended.call) else { return }
        if call.request.connection != nil, ended.reason == .connectionLost { return self.finish(call, .failure(Self.gone(call))) }
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
        case .deadline where effect && kind.isNative:
            self.init(
                .outcomeUnknown, subject: subject, what: "was sent and not answered in time", found: because, remedy: Self.askFirst,
                mayHaveTakenEffect: true, underlying: cause)
        case .sessionLost:
            self.init(
                .outcomeUnknown, subject: subject,
                what: "was sent on a connection that was lost, and the server it came back to knows nothing of it", found: because,
                remedy: Self.askFirst, mayHaveTakenEffect: true, underlying: cause)
        case .sessionRefused:
            self = cause ?? ClientError(.refused, subject: subject, what: "the server gives no session for writes")
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

    static func tooLarge(_ request: Request, maximum: Int) -> ClientError {
        ClientError(
            .invalidArgument, subject: "\(request.kind)", what: "is too large for one message",
            found: "\(request.maximumMessageBytes) bytes", expected: "at most \(maximum)", remedy: "split it into several calls")
    }

    private static let askFirst = "it may have been done: read before writing again"
}
