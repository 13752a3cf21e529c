// Decides where to connect anew, and when, while the old connection still works: its server has said that it is about to end.
//
//   next ──▶ wait (first) ── next ──▶ connect ── next ──▶ connect … ── next ──▶ wait (every endpoint failed) ── next ──▶ …
//
// The first wait is random within a part of the time that the server gives: all of its clients were told at once. The other endpoints come
// first; the one that is left comes last, as a new server may already listen there. It ends when a connection takes over, or the old one ends:
// then `ReconnectionStateMachine` has the word.

package struct RelocationStateMachine: Sendable {
    package enum NextAction: Equatable, Sendable {
        /// Connect to the endpoint of this index, now.
        case connect(endpoint: Int)
        /// Call ``next(using:)`` after this time.
        case wait(Duration)
    }

    private let endpointCount: Int
    private let leaving: Int
    private let within: Duration
    private var backoff: Backoff
    private var hasWaited = false
    private var remaining: [Int] = []

    /// The first wait takes this part of the server's time at most: moving, and finishing what is under way, need the others.
    private static let spreadParts = 4

    /// - Parameters:
    ///   - leaving: the endpoint of the old connection.
    ///   - within: when its server closes what is left.
    package init(endpointCount: Int, leaving: Int, within: Duration, policy: ReconnectionPolicy) {
        precondition(endpointCount > 0, "a client has an endpoint")
        self.endpointCount = endpointCount
        self.leaving = leaving
        self.within = within
        self.backoff = Backoff(base: policy.base, cap: policy.cap)
    }

    /// At the beginning, after each wait and after each attempt that failed.
    package mutating func next(using random: inout some RandomNumberGenerator) -> NextAction {
        guard self.hasWaited else {
            self.hasWaited = true
            self.beginRound(using: &random)
            var spread = Backoff(base: max(.nanoseconds(1), self.within / Self.spreadParts), cap: max(.nanoseconds(1), self.within))
            return .wait(spread.next(using: &random))
        }
        if let endpoint = self.remaining.popLast() { return .connect(endpoint: endpoint) }
        self.beginRound(using: &random)
        return .wait(self.backoff.next(using: &random))
    }

    private mutating func beginRound(using random: inout some RandomNumberGenerator) {
        var others = (0..<self.endpointCount).filter { $0 != self.leaving }
        others.shuffle(using: &random)
        self.remaining = [self.leaving] + others
    }
}
