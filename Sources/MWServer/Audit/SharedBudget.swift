/// An ``EventBudget`` of which one source, an address or a principal, gets half at the most: a flood from one does not hide the others.
package struct SharedBudget: Sendable {
    /// Buckets that the sources share, in each of two tables: 128 KiB in all, however many sources there are.
    private static let tableLength = 1 << 13

    private var all: EventBudget
    private var sources: AddressBuckets

    /// - Parameters:
    ///   - burst: Events at once.
    ///   - perSecond: Events in the long run.
    ///   - seed: Unpredictable: nobody can then choose to share buckets with somebody else.
    package init(burst: Int, perSecond: Int, seed: (UInt64, UInt64)) {
        self.all = EventBudget(burst: burst, perSecond: Double(perSecond))
        self.sources = AddressBuckets(
            TokenBucket.Rate(perSecond: max(1, perSecond / 2), burst: max(1, burst / 2)), seed: seed, tableLength: Self.tableLength)
    }

    /// Whether one more of `source` may be said; if so, how many were not since the last that was.
    ///
    /// - Parameters:
    ///   - source: A hash of it.
    ///   - uptime: Seconds of a clock that is never set back.
    package mutating func take(_ source: UInt64, at uptime: Double) -> (isAllowed: Bool, suppressed: UInt64) {
        // The source first: what it has too much of must not cost the others their tokens.
        guard self.sources.take(key: source, at: UInt64(max(0, uptime) * 1e9)) else {
            self.all.suppress()
            return (false, 0)
        }
        return self.all.take(at: uptime)
    }
}
