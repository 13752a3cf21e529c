/// How long to wait before the n-th retry, with full jitter: `random(0, min(cap, base · 2ⁿ))`.
///
/// Full jitter spreads clients that were dropped together over the whole interval; the first retry is jittered too, as it is the one
/// that all of them make at once.
package struct Backoff: Equatable, Sendable {
    package let base: Duration
    package let cap: Duration
    /// How many waits were drawn since the last ``reset()``.
    package private(set) var retries = 0

    package init(base: Duration, cap: Duration) {
        precondition(base > .zero && cap >= base, "a backoff starts above zero and ends at or above its base")
        self.base = base
        self.cap = cap
    }

    /// The longest wait that ``next(using:)`` can return now.
    package var ceiling: Duration {
        var ceiling = self.base
        // Stops at the cap: the doubling cannot overflow, however many retries there were.
        for _ in 0..<self.retries where ceiling < self.cap { ceiling *= 2 }
        return min(ceiling, self.cap)
    }

    /// Draws the next wait.
    package mutating func next(using random: inout some RandomNumberGenerator) -> Duration {
        let ceiling = self.ceiling
        self.retries += 1
        let (seconds, attoseconds) = ceiling.components
        let nanoseconds = seconds * 1_000_000_000 + attoseconds / 1_000_000_000
        return .nanoseconds(Int64.random(in: 0...nanoseconds, using: &random))
    }

    /// Starts over: the connection proved itself.
    package mutating func reset() { self.retries = 0 }
}

/// Limits what is sent again to a share of what was asked, so that retries never become the load.
///
/// Each request deposits ``percent`` hundredths of a retry, each retry takes one. The balance is capped, so that a long quiet life does
/// not pay for a storm.
package struct RetryBudget: Equatable, Sendable {
    /// Retries per hundred requests.
    package let percent: Int
    private let capacity: Int
    private var balance: Int  // in hundredths of a retry

    /// - Parameters:
    ///   - percent: retries per hundred requests.
    ///   - reserve: retries that a client which has asked little yet may make, so that its first lost connection fails nothing.
    ///   - capacity: the most retries that may be saved up.
    package init(percent: Int, reserve: Int, capacity: Int) {
        self.percent = percent
        self.capacity = capacity * 100
        self.balance = min(reserve, capacity) * 100
    }

    /// A request was made for the first time.
    package mutating func deposit() { self.balance = min(self.capacity, self.balance + self.percent) }

    /// Takes one retry; false if the budget is used up.
    package mutating func withdraw() -> Bool {
        guard self.balance >= 100 else { return false }
        self.balance -= 100
        return true
    }
}
