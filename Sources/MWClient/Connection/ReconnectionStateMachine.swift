package import NIOCore

// Decides where to connect next, when, and when to stop.
//
//            started                     established
//   idle ──────────────▶ connecting ───────────────────▶ up
//                        ▲   │  ▲  │ attemptFailed       │ connectionLost
//          waitElapsed   │   │  └──┘ next endpoint       │
//                        │   │ none left                 │
//                       waiting ◀──────────────────────┘
//                            │  every endpoint final, or the rounds used up
//                            ▼
//                          ended ◀── closed (from any state)
//
// Responsibilities: the order of the endpoints (shuffled for each round, all tried before a wait), the backoff and when it starts over,
// which endpoints are final for now, and when all of them are. Not its own: sockets, timers, requests.

/// How a client behaves when a connection fails.
package struct ReconnectionPolicy: Equatable, Sendable {
    /// The ceiling of the first wait.
    package var base: Duration = .milliseconds(100)
    /// The ceiling of every wait.
    package var cap: Duration = .seconds(30)
    /// A connection that lasted this long, or that answered a request, proved itself: the backoff starts over.
    package var stableAfter: Duration = .seconds(10)
    /// The longest wait that a server may ask for with `Retry-After`.
    package var maximumRetryAfter: Duration = .seconds(300)
    /// Give up after this many rounds over all endpoints without a connection; `nil` is never.
    package var maximumFailedRounds: Int?

    package init() {}
}

package struct ReconnectionStateMachine: ~Copyable {
    /// What to do after an attempt failed or a connection was lost.
    package enum NextAction: Equatable, Sendable {
        /// Connect to the endpoint of this index, now.
        case connect(endpoint: Int)
        /// Call ``waitElapsed(using:)`` after this time; it is the n-th wait in a row.
        case wait(attempt: Int, after: Duration)
        /// Nothing is left to try.
        case giveUp
        /// The client was closed meanwhile.
        case none
    }

    private enum State {
        case idle
        case connecting(endpoint: Int, remaining: [Int])
        case up(endpoint: Int, since: NIODeadline, isProven: Bool)
        case waiting
        case ended
    }

    private let endpointCount: Int
    private let policy: ReconnectionPolicy
    private var state = State.idle
    private var backoff: Backoff
    private var failedRounds = 0
    /// Endpoints whose failure is final until a connection proves itself: each is tried once an incident, not for ever.
    private var finalEndpoints: Set<Int> = []
    /// The last failure of each endpoint that is worth a few more attempts only, and how often it came in a row.
    private var suspects: [Int: (failure: ConnectionFailure, count: Int)] = [:]
    private var retryAfter: Duration = .zero

    package init(endpointCount: Int, policy: ReconnectionPolicy) {
        precondition(endpointCount > 0, "a client needs an endpoint")
        self.endpointCount = endpointCount
        self.policy = policy
        self.backoff = Backoff(base: policy.base, cap: policy.cap)
    }

    /// The client was started: connect to the endpoint returned.
    package mutating func started(using random: inout some RandomNumberGenerator) -> Int {
        guard case .idle = self.state else { preconditionFailure("started twice") }
        return self.beginRound(using: &random) ?? 0
    }

    /// The opening handshake was answered with 101. Call ``stabilityElapsed(now:)`` after the time returned.
    package mutating func established(now: NIODeadline) -> Duration {
        guard case .connecting(let endpoint, _) = self.state else { return self.policy.stableAfter }
        self.state = .up(endpoint: endpoint, since: now, isProven: false)
        self.failedRounds = 0
        return self.policy.stableAfter
    }

    /// Another connection took over from the one that is up. Call ``stabilityElapsed(now:)`` after the time returned.
    package mutating func moved(to endpoint: Int, now: NIODeadline) -> Duration {
        switch self.state {
        case .up, .connecting: self.state = .up(endpoint: endpoint, since: now, isProven: false)
        case .idle, .waiting, .ended: break
        }
        return self.policy.stableAfter
    }

    /// A request was answered on the connection.
    package mutating func requestAnswered() { self.prove() }

    /// The time that ``established(now:)`` returned has passed, perhaps on a connection that is no more.
    package mutating func stabilityElapsed(now: NIODeadline) {
        guard case .up(_, let since, _) = self.state, now - since >= TimeAmount(self.policy.stableAfter) else { return }
        self.prove()
    }

    /// The attempt that was asked for failed.
    package mutating func attemptFailed(
        _ failure: ConnectionFailure, retryAfter: Duration? = nil, using random: inout some RandomNumberGenerator
    ) -> NextAction {
        guard case .connecting(let endpoint, var remaining) = self.state else { return .none }
        self.note(failure, at: endpoint, retryAfter: retryAfter)
        remaining.removeAll { self.finalEndpoints.contains($0) }
        if let next = remaining.popLast() {
            self.state = .connecting(endpoint: next, remaining: remaining)
            return .connect(endpoint: next)
        }
        self.failedRounds += 1
        if let maximum = self.policy.maximumFailedRounds, self.failedRounds >= maximum { return self.giveUp() }
        return self.wait(using: &random)
    }

    /// The connection ended, unasked.
    ///
    /// A wait comes first even where other endpoints are left: clients that were dropped together must not come back together.
    package mutating func connectionLost(
        _ failure: ConnectionFailure, retryAfter: Duration? = nil, using random: inout some RandomNumberGenerator
    ) -> NextAction {
        guard case .up(let endpoint, _, _) = self.state else { return .none }
        self.note(failure, at: endpoint, retryAfter: retryAfter)
        return self.wait(using: &random)
    }

    /// The wait is over: connect to the endpoint returned; `nil` after ``closed()``.
    package mutating func waitElapsed(using random: inout some RandomNumberGenerator) -> Int? {
        guard case .waiting = self.state else { return nil }
        return self.beginRound(using: &random)
    }

    /// The user closed the client: nothing more will be asked.
    package mutating func closed() { self.state = .ended }

    private mutating func beginRound(using random: inout some RandomNumberGenerator) -> Int? {
        var order = (0..<self.endpointCount).filter { !self.finalEndpoints.contains($0) }
        order.shuffle(using: &random)
        guard let first = order.popLast() else { return nil }
        self.state = .connecting(endpoint: first, remaining: order)
        return first
    }

    private mutating func wait(using random: inout some RandomNumberGenerator) -> NextAction {
        guard self.finalEndpoints.count < self.endpointCount else { return self.giveUp() }
        self.state = .waiting
        let after = max(self.backoff.next(using: &random), self.retryAfter)
        self.retryAfter = .zero
        return .wait(attempt: self.backoff.retries, after: after)
    }

    private mutating func giveUp() -> NextAction {
        self.state = .ended
        return .giveUp
    }

    private mutating func note(_ failure: ConnectionFailure, at endpoint: Int, retryAfter: Duration?) {
        switch failure.verdict {
        case .retry:
            self.suspects[endpoint] = nil
        case .retryLimited(let times):
            let before = self.suspects[endpoint].map { $0.failure == failure ? $0.count : 0 } ?? 0
            self.suspects[endpoint] = (failure, before + 1)
            if before >= times { self.finalEndpoints.insert(endpoint) }
        case .never:
            self.finalEndpoints.insert(endpoint)
        }
        if let retryAfter { self.retryAfter = max(self.retryAfter, min(retryAfter, self.policy.maximumRetryAfter)) }
    }

    private mutating func prove() {
        guard case .up(let endpoint, let since, false) = self.state else { return }
        self.state = .up(endpoint: endpoint, since: since, isProven: true)
        self.backoff.reset()
        self.finalEndpoints.removeAll()
        self.suspects.removeAll()
    }
}
