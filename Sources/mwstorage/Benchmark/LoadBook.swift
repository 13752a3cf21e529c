/// What one event loop still has to ask, what is in flight, and what came of the rest.
struct LoadBook: Sendable {
    var dispenser: LoadDispenser
    var tally = LoadTally()
    /// What is noticed from now on counts, unless it belongs to the warm-up.
    var isMeasuring = false
    private(set) var inFlight = 0
    /// When the last answer came, in nanoseconds of the uptime.
    private(set) var lastAnswer: UInt64 = 0
    /// When something was asked last while nothing was in flight.
    private(set) var lastAwakening: UInt64 = 0
    private(set) var firstFailure: String?
    private(set) var firstWrong: String?
    private(set) var isValueMissing = false

    init(_ dispenser: LoadDispenser) { self.dispenser = dispenser }

    /// The next request, if there is one to be done by now.
    @inline(__always)
    mutating func next(_ now: UInt64) -> LoadTicket? {
        guard let ticket = dispenser.next(now) else { return nil }
        if inFlight == 0 { lastAwakening = now }
        inFlight += 1
        return ticket
    }

    /// Sees which requests have become due.
    @inline(__always)
    mutating func notice(_ now: UInt64) {
        dispenser.notice(now) { late in
            if isMeasuring { tally.recordLateness(late) }
        }
    }

    /// A request is answered.
    @inline(__always)
    mutating func settle(_ ticket: LoadTicket, _ outcome: LoadOutcome, at now: UInt64) {
        inFlight -= 1
        lastAnswer = now
        if ticket.isMeasured {
            tally.requests += 1
            tally.recordLatency(now &- ticket.due)
        }
        switch outcome {
        case .right(let bytes): if ticket.isMeasured { tally.bytes += bytes }
        case .failed(let what): failed(what)
        case .wrong(let wrong): found(wrong)
        }
    }

    // The warm-up's count too: nothing that is wrong may pass.

    private mutating func failed(_ what: String) {
        tally.failures += 1
        if firstFailure == nil { firstFailure = what }
    }

    private mutating func found(_ wrong: LoadWrong) {
        tally.wrong += 1
        isValueMissing = isValueMissing || wrong.isMissing
        if firstWrong == nil { firstWrong = "\(wrong)" }
    }

    /// Asks nothing more.
    mutating func stop(_ now: UInt64) {
        dispenser.stop(now) { waited in
            // The server is charged for it; how long they would have had to wait nobody knows.
            tally.unsent += 1
            tally.recordLatency(waited)
        }
    }
}
