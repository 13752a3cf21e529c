import Glibc
import Histogram
import MWTLS
import NIOCore

/// One writer, and so many watchers: how long until the first and until the last of them knows what was written.
///
/// All connections are on one thread, for both sides of the comparison: what one thread has to do for a thousand connections is in the times of
/// the last watcher, with the same TLS and the same sockets. So it does little, and says what it took. Where it polls, its processor does not
/// have to be woken: on a virtual machine that takes as long as ten messages, for whoever it is that sends them.
struct WatchBench: ~Copyable {
    struct Plan: Sendable {
        var dialect: Dialect
        var host: String
        var port: Int
        var watchers: Int
        /// Writes that are measured, and those before them.
        var rounds: Int
        var warmUpRounds: Int
        var valueBytes: Int
        /// Looks again and again for what came, instead of sleeping until something has.
        var isPolling: Bool
    }

    struct Result {
        var first = WatchBench.emptyHistogram()
        var last = WatchBench.emptyHistogram()
        var written = WatchBench.emptyHistogram()
        /// Of this thread, for each notification: its time on the processor but for looking in vain, also as a share of all time.
        var cpuMicroseconds = 0.0
        var cpuShare = 0.0
    }

    /// Handshakes under way at a time.
    private static let maximumConnecting = 16

    private let plan: Plan
    private let context: TLSContext
    private var poller: Poller
    private var buffers = BenchConnection.Buffers()
    private var result = Result()
    /// The writer first.
    private var connections: [BenchConnection] = []
    private var ready = 0
    private var value: ByteBuffer
    private var round = 0
    private var writtenAt: UInt64 = 0
    private var notified = 0
    private var isAnswered = false
    /// On the processor, looking in vain; since when it has done nothing else.
    private var idleNanoseconds: UInt64 = 0
    private var idleSince: UInt64?

    init(_ plan: Plan, _ context: TLSContext) throws {
        self.plan = plan
        self.context = context
        poller = try Poller()
        value = ByteBuffer(repeating: UInt8(ascii: "v"), count: plan.valueBytes)
    }

    mutating func run() throws -> Result {
        for _ in 0..<min(Self.maximumConnecting, plan.watchers + 1) { try connectNext() }
        while ready <= plan.watchers { try takeWhatCame() }
        for connection in connections { connection.acknowledgeAtOnce() }
        for _ in 0..<plan.warmUpRounds { try writeOnce() }
        idleNanoseconds = 0
        let (cpu, begin) = (Self.nanoseconds(CLOCK_THREAD_CPUTIME_ID), Self.nanoseconds(CLOCK_MONOTONIC))
        for _ in 0..<plan.rounds { try writeOnce() }
        let used = Double(Self.nanoseconds(CLOCK_THREAD_CPUTIME_ID) - cpu - idleNanoseconds)
        result.cpuMicroseconds = used / 1000 / Double(max(1, plan.rounds * plan.watchers))
        result.cpuShare = used / Double(max(1, Self.nanoseconds(CLOCK_MONOTONIC) - begin))
        return result
    }

    // MARK: Private

    private var isMeasured: Bool { round > plan.warmUpRounds }

    /// Writes, and waits until all know.
    private mutating func writeOnce() throws {
        round += 1
        notified = 0
        isAnswered = false
        value.setInteger(UInt32(round), at: 0)
        writtenAt = Self.nanoseconds(CLOCK_MONOTONIC)
        try connections[0].write(value)
        while !isAnswered || notified < plan.watchers { try takeWhatCame() }
    }

    private mutating func takeWhatCame() throws {
        let count = try poller.wait(isLooking: plan.isPolling)
        countIdle(count == 0)
        for position in 0..<count {
            let index = poller.ready(position)
            var heard = Heard()
            try connections[index].ready(&buffers, &heard, isEnding: poller.isEnding(position))
            note(heard)
            for _ in 0..<heard.ready where connections.count <= plan.watchers { try connectNext() }
        }
    }

    private mutating func countIdle(_ isIdle: Bool) {
        guard isIdle != (idleSince != nil) else { return }
        let now = Self.nanoseconds(CLOCK_THREAD_CPUTIME_ID)
        if let idleSince { idleNanoseconds += now - idleSince }
        idleSince = isIdle ? now : nil
    }

    private mutating func note(_ heard: Heard) {
        ready += heard.ready
        if heard.written > 0 {
            isAnswered = true
            if isMeasured { result.written.record(sinceWrite) }
        }
        guard heard.notified > 0 else { return }
        if notified == 0, isMeasured { result.first.record(sinceWrite) }
        notified += heard.notified
        if notified == plan.watchers, isMeasured { result.last.record(sinceWrite) }
    }

    private var sinceWrite: UInt64 { Self.nanoseconds(CLOCK_MONOTONIC) - writtenAt }

    private mutating func connectNext() throws {
        let connection = try BenchConnection(connections.isEmpty ? .writer : .watcher, plan, context)
        try poller.add(connection.socket, index: connections.count)
        connections.append(connection)
    }

    private static func nanoseconds(_ clock: clockid_t) -> UInt64 {
        var time = timespec()
        unsafe clock_gettime(clock, &time)
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }

    /// Nanoseconds, from 1 us to 60 s, three digits.
    private static func emptyHistogram() -> Histogram<UInt32> {
        Histogram<UInt32>(lowestDiscernibleValue: 1000, highestTrackableValue: 60_000_000_000, numberOfSignificantValueDigits: .three)
    }
}
