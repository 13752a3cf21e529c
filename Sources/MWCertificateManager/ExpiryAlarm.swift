internal import MWACME
internal import MWPKI

/// Says how near the end of a certificate is that is not being renewed: once for each step towards it.
struct ExpiryAlarm: Sendable, Hashable {
    enum Level: Int, Sendable, Hashable, Comparable {
        case soon = 1
        case near, imminent, over

        static func < (left: Level, right: Level) -> Bool { left.rawValue < right.rawValue }
    }

    /// Before the end of a certificate of 90 days or more; shorter ones in proportion.
    static let days: [(Level, Int64)] = [(.imminent, 1), (.near, 7), (.soon, 30)]
    private static let wholeDays: Int64 = 90
    private static let secondsPerDay: Int64 = 86_400

    private var generation: UInt64?
    private var told: Level?

    static func level(notBefore: Timestamp, notAfter: Timestamp, now: Timestamp) -> Level? {
        let remaining = notAfter.seconds(since: now)
        if remaining <= 0 { return .over }
        let lifetime = min(max(0, notAfter.seconds(since: notBefore)), wholeDays * secondsPerDay)
        return days.first { remaining <= $0.1 * lifetime / wholeDays }?.0
    }

    /// The level, where it is higher than the last one told of this generation, and renewing it failed.
    mutating func raise(for current: StateDirectory.Numbered, now: Timestamp) -> Level? {
        if generation != current.number {
            generation = current.number
            told = nil
        }
        guard current.generation.renewal.attempts > 0 else { return nil }
        let leaf = current.generation.leaf
        guard let level = ExpiryAlarm.level(notBefore: leaf.notBefore, notAfter: leaf.notAfter, now: now) else { return nil }
        if let told, told >= level { return nil }
        told = level
        return level
    }
}
