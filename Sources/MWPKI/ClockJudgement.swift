/// Whether this machine's clock can be right: devices without a battery start in 1970, and then every certificate is "not yet valid".
package enum ClockJudgement {
    /// No clock of a machine that runs this program is before the program was written.
    package static let programWritten = Timestamp(secondsSince1970: 1_735_689_600)  // 2025-01-01
    /// Nobody issues a certificate that begins so much later.
    private static let maximumLeadDays: Int64 = 365

    /// - Parameter notBefore: Of a certificate that the clock says is not valid yet.
    package static func isBehind(_ now: Timestamp, notBefore: Timestamp) -> Bool {
        now < notBefore && (now < programWritten || now.adding(days: maximumLeadDays) < notBefore)
    }
}
