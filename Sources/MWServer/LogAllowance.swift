package import NIOCore

/// Lets one line of a kind through in each interval, and counts those that it does not: what anybody can cause must not fill the log.
package struct LogAllowance {
    private let interval: TimeAmount
    private var nextLine: NIODeadline?
    private var withheld: UInt64 = 0

    package init(interval: Duration) { self.interval = TimeAmount(interval) }

    /// Asks for one line. `nil`: not now. Otherwise how many were withheld since the last one.
    package mutating func admit(at now: NIODeadline) -> UInt64? {
        if let nextLine = self.nextLine, now < nextLine {
            self.withheld += 1
            return nil
        }
        defer { self.withheld = 0 }
        self.nextLine = now + self.interval
        return self.withheld
    }
}
