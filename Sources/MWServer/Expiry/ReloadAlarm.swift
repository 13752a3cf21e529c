package import MWPKI

/// Says again and again that the last reload failed, until one succeeds. Takes the time as an argument; whoever calls it, calls it often.
///
/// A file that is broken keeps everything from coming into use that is loaded with it: a renewed certificate too, and then the day on which
/// the old one ends is the day on which nobody can connect.
package struct ReloadAlarm: Sendable {
    /// Between two warnings.
    package static let interval: Int64 = 3_600  // seconds
    /// Between two when it is critical.
    package static let criticalInterval: Int64 = 600  // seconds
    /// Before the end of our certificate, from when on any failure is critical.
    package static let criticalBefore: Int64 = 7 * 86_400  // seconds

    package struct Alarm: Sendable, Hashable {
        package let isCritical: Bool
        package let reason: String
        /// Seconds since the first failure that was seen in this row.
        package let failing: Int64

        package init(isCritical: Bool, reason: String, failing: Int64) {
            self.isCritical = isCritical
            self.reason = reason
            self.failing = failing
        }
    }

    private var failingSince: Timestamp?
    private var told: Timestamp?

    package init() {}

    /// What to say at `now`. The failure itself has been told when it happened.
    ///
    /// - Parameter notAfter: The end of the certificate in use; nil without one.
    package mutating func due(_ last: ReloadRecord, notAfter: Timestamp?, at now: Timestamp) -> Alarm? {
        guard let reason = last.error else {
            self = ReloadAlarm()
            return nil
        }
        let since = self.failingSince ?? last.at
        self.failingSince = since
        let remaining = notAfter.map { $0.secondsSince1970 - now.secondsSince1970 }
        let isCritical = last.trigger == .renewal || (remaining ?? .max) <= Self.criticalBefore
        let pause = isCritical ? Self.criticalInterval : Self.interval
        guard now.secondsSince1970 - (self.told ?? since).secondsSince1970 >= pause else { return nil }
        self.told = now
        return Alarm(isCritical: isCritical, reason: reason, failing: now.secondsSince1970 - since.secondsSince1970)
    }
}
