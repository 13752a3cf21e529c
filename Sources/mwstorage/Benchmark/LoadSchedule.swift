/// When requests are due: at an even rate over all event loops, which take turns.
///
/// Latencies count from here, and not from when a request could be sent: a server that stalls is charged for all that would have been asked
/// meanwhile ("coordinated omission", G. Tene).
struct LoadSchedule: Hashable, Sendable {
    private static let second: UInt64 = 1_000_000_000

    /// When the first of all is due, in nanoseconds of the uptime.
    let start: UInt64
    /// A second, over all loops.
    let rate: UInt64
    /// This loop's number, and how many there are.
    let loop: UInt64
    let loops: UInt64

    init(start: UInt64, rate: Int, loop: Int, loops: Int) {
        precondition(rate > 0 && loops > 0 && loop < loops, "a schedule needs a rate and its loop")
        self.start = start
        self.rate = UInt64(rate)
        self.loop = UInt64(loop)
        self.loops = UInt64(loops)
    }

    /// When this loop's request is due.
    ///
    /// - Parameter index: From 0.
    @inline(__always)
    func due(_ index: Int) -> UInt64 {
        let (high, low) = (UInt64(index) * loops + loop).multipliedFullWidth(by: Self.second)
        return start + rate.dividingFullWidth((high, low)).quotient
    }

    /// How many of this loop's requests are due by then, the first included.
    func dueCount(by time: UInt64) -> Int {
        guard time >= start else { return 0 }
        let (high, low) = (time - start).multipliedFullWidth(by: rate)
        let last = Self.second.dividingFullWidth((high, low)).quotient
        return last >= loop ? Int((last - loop) / loops) + 1 : 0
    }
}

/// A request, as far as anybody has to remember it.
struct LoadTicket: Hashable, Sendable {
    /// What it asks for follows from this.
    var number: UInt64
    /// What its latency counts from, in nanoseconds of the uptime: when the schedule wanted it, or else when it was sent.
    var due: UInt64

    /// Of the warm-up's numbers.
    static let warmUpBit: UInt64 = 1 << 63

    var isMeasured: Bool { number & Self.warmUpBit == 0 }
}

/// Gives out one loop's requests, in their order: when they are due, or whenever somebody has room.
struct LoadDispenser: Sendable {
    /// nil: whenever somebody has room.
    let schedule: LoadSchedule?
    private let loop: UInt64
    private let loops: UInt64
    private let bits: UInt64
    /// Of this loop's requests, how many there will be.
    private(set) var limit: Int
    private(set) var taken = 0
    /// How many of the schedule's were seen to be due.
    private var noticed = 0

    /// - Parameters:
    ///   - limit: How many requests, of this loop; nil for as many as there is time for.
    ///   - end: After a schedule's last request, in nanoseconds of the uptime.
    init(_ schedule: LoadSchedule?, loop: Int, loops: Int, limit: Int?, end: UInt64? = nil, isWarmUp: Bool) {
        self.schedule = schedule
        self.loop = UInt64(loop)
        self.loops = UInt64(loops)
        bits = isWarmUp ? LoadTicket.warmUpBit : 0
        let untilEnd = if let schedule, let end { schedule.dueCount(by: end - 1) } else { Int.max }
        self.limit = min(limit ?? .max, untilEnd)
    }

    /// There are no more.
    var isEmpty: Bool { taken == limit }

    /// The next request, if it is due by now.
    @inline(__always)
    mutating func next(_ now: UInt64) -> LoadTicket? {
        guard taken < limit else { return nil }
        var due = now
        if let schedule {
            due = schedule.due(taken)
            guard due <= now else { return nil }
        }
        let number = (UInt64(taken) &* loops &+ loop) | bits
        taken += 1
        return LoadTicket(number: number, due: due)
    }

    /// Sees which requests have become due.
    ///
    /// - Parameter late: Called for each, with how long ago it was due, in nanoseconds.
    @inline(__always)
    mutating func notice(_ now: UInt64, late: (UInt64) -> Void) {
        guard let schedule, noticed < limit, schedule.due(noticed) <= now else { return }
        let due = min(limit, schedule.dueCount(by: now))
        while noticed < due {
            late(now - schedule.due(noticed))
            noticed += 1
        }
    }

    /// When the first is due that was not yet seen to be; nil if there is none.
    var nextDue: UInt64? { noticed < limit ? schedule?.due(noticed) : nil }

    /// Gives out no more.
    ///
    /// - Parameter unsent: Called for each that was due and not given out, with how long ago it was due.
    mutating func stop(_ now: UInt64, unsent: (UInt64) -> Void = { _ in }) {
        if let schedule {
            for index in taken..<max(taken, min(limit, schedule.dueCount(by: now))) { unsent(now - schedule.due(index)) }
        }
        limit = taken
        noticed = taken
    }
}
