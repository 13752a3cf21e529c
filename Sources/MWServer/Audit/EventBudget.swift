/// How many events of one kind may be said in a time: a token bucket. What is over it is counted, and said with the next one that is not.
package struct EventBudget: Sendable {
    private let burst: Double
    private let perSecond: Double
    private var tokens: Double
    private var lastRefill: Double?
    private var suppressed: UInt64 = 0

    /// - Parameters:
    ///   - burst: Events at once.
    ///   - perSecond: Events in the long run.
    package init(burst: Int, perSecond: Double) {
        self.burst = Double(burst)
        self.perSecond = perSecond
        self.tokens = Double(burst)
    }

    /// Whether one more may be said; if so, how many were not since the last that was.
    ///
    /// - Parameter uptime: Seconds of a clock that is never set back.
    package mutating func take(at uptime: Double) -> (isAllowed: Bool, suppressed: UInt64) {
        let elapsed = max(0, uptime - (self.lastRefill ?? uptime))
        self.lastRefill = uptime
        self.tokens = min(self.burst, self.tokens + elapsed * self.perSecond)
        guard self.tokens >= 1 else {
            self.suppressed += 1
            return (false, 0)
        }
        self.tokens -= 1
        defer { self.suppressed = 0 }
        return (true, self.suppressed)
    }

    /// Counts one that is not said, whatever is left.
    package mutating func suppress() { self.suppressed += 1 }
}
