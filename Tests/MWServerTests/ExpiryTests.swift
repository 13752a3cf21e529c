import MWPKI
import MWServer
import Testing

@Suite struct ExpiryTests {
    private static let day: Int64 = 86_400

    private func certificate(days: Int64, id: String = "a", kind: Expiring.Kind = .serverCertificate) -> Expiring {
        Expiring(
            kind, id: id, name: id, from: Timestamp(secondsSince1970: 0), until: Timestamp(secondsSince1970: 0).adding(days: days))
    }

    /// At which seconds before the end somebody is warned who looks every minute.
    private func warnings(_ subject: Expiring) -> [Int64] {
        var machine = ExpiryWarnings()
        var times: [Int64] = []
        let life = subject.until.secondsSince1970 - subject.from.secondsSince1970
        for time in stride(from: Int64(0), through: life + Self.day, by: Int(max(60, life / 5_000))) {
            for warning in machine.due([subject], at: Timestamp(secondsSince1970: time)) { times.append(warning.remainingSeconds) }
        }
        return times
    }

    // Time as a value: the whole life of a certificate, minute by minute.
    @Test func `A certificate is warned of at 30, 7 and 1 day and at its end, once each`() {
        let times = self.warnings(self.certificate(days: 365))
        #expect(times.count == 4)
        for (seen, expected) in zip(times, [30 * Self.day, 7 * Self.day, Self.day, 0]) {
            #expect(seen <= expected && seen > expected - 365 * Self.day / 5_000 - 60, "\(seen), \(expected)")
        }
    }

    @Test func `A short life is warned of in proportion: not on the first day`() {
        let week = self.certificate(days: 7)
        #expect(week.thresholds.first.map { $0 < 3 * Self.day } == true)
        #expect(self.warnings(week).count == 4)
        var machine = ExpiryWarnings()
        #expect(machine.due([week], at: Timestamp(secondsSince1970: 60)).isEmpty)
    }

    @Test func `A revocation list is warned of when 80 % of its life are over`() {
        let times = self.warnings(self.certificate(days: 10, kind: .revocationList))
        #expect(times.count == 3)
        #expect(times.first.map { $0 <= 2 * Self.day && $0 > 2 * Self.day - 600 } == true)
    }

    @Test func `Who looks late warns once, of the nearest; a clock set back does not warn twice; what is replaced is forgotten`() {
        var machine = ExpiryWarnings()
        let old = self.certificate(days: 365)
        let late = Timestamp(secondsSince1970: 0).adding(days: 364)
        let first = machine.due([old, old], at: late)
        #expect(first.count == 1)
        #expect(first.first?.isUrgent == true)
        #expect(
            first.first.map { "\($0)".hasPrefix("server certificate a expires in 1d 0h, at 1971-01-01T00:00:00Z; ") } == true, "\(first)")
        #expect(machine.due([old], at: late.adding(days: -10)).isEmpty)
        #expect(machine.due([old], at: late).isEmpty)
        #expect(machine.due([], at: late).isEmpty)
        #expect(machine.due([old], at: late).count == 1)
    }

    @Test func `Dates at the ends of the range are no trap`() {
        var machine = ExpiryWarnings()
        let extreme = Expiring(
            .trustAnchor, id: "x", name: "x", from: Timestamp(secondsSince1970: .min), until: Timestamp(secondsSince1970: .max))
        #expect(machine.due([extreme], at: Timestamp(secondsSince1970: .min)).isEmpty)
        #expect(machine.due([extreme], at: Timestamp(secondsSince1970: .max)).count == 1)
        let reversed = Expiring(.trustAnchor, id: "y", name: "y", from: extreme.until, until: extreme.from)
        #expect(machine.due([reversed], at: .now()).count == 1)
    }

    /// The minutes after the failure at which somebody is told, who looks every minute for three hours.
    private func alarms(_ trigger: ReloadTrigger, daysLeft: Int64) -> [(minute: Int64, isCritical: Bool)] {
        var alarm = ReloadAlarm()
        let failure = ReloadRecord(trigger: trigger, at: Timestamp(secondsSince1970: 0), error: "refused, line 2")
        return (0...180).compactMap { minute in
            alarm.due(
                failure, notAfter: Timestamp(secondsSince1970: daysLeft * Self.day), at: Timestamp(secondsSince1970: minute * 60)
            ).map { (minute, $0.isCritical) }
        }
    }

    // Time as a value.
    @Test func `A failed reload is told again every hour; every ten minutes, as critical, once a certificate of ours depends on it`() {
        let ordinary = self.alarms(.signal, daysLeft: 60)
        #expect(ordinary.map(\.minute) == [60, 120, 180] && !ordinary.contains { $0.isCritical })
        for urgent in [self.alarms(.renewal, daysLeft: 60), self.alarms(.timer, daysLeft: 5)] {
            #expect(urgent.map(\.minute) == Array(stride(from: 10, through: 180, by: 10)) && urgent.allSatisfy(\.isCritical))
        }
    }

    @Test func `A reload that succeeds ends the alarm, and the next failure begins another`() {
        var alarm = ReloadAlarm()
        func record(_ error: String?, at seconds: Int64) -> ReloadRecord {
            ReloadRecord(trigger: .files, at: Timestamp(secondsSince1970: seconds), error: error)
        }
        func due(_ last: ReloadRecord, at seconds: Int64) -> ReloadAlarm.Alarm? {
            alarm.due(last, notAfter: nil, at: Timestamp(secondsSince1970: seconds))
        }
        #expect(due(record("a", at: 0), at: 0) == nil)
        #expect(due(record("b", at: 3_000), at: 3_600) == ReloadAlarm.Alarm(isCritical: false, reason: "b", failing: 3_600))
        #expect(due(record(nil, at: 3_700), at: 9_999) == nil)
        #expect(due(record("c", at: 10_000), at: 10_001) == nil)
        #expect(due(record("c", at: 10_000), at: 13_600)?.failing == 3_600)
    }

    // A year after the epoch, and after the program was written.
    @Test func `A clock is called behind where nothing else explains it`() {
        let now = ClockJudgement.programWritten.adding(days: 500)
        #expect(!ClockJudgement.isBehind(now, notBefore: now.adding(days: -1)))
        #expect(!ClockJudgement.isBehind(now, notBefore: now.adding(days: 1)), "a certificate that is made ahead")
        #expect(ClockJudgement.isBehind(now, notBefore: now.adding(days: 400)))
        #expect(ClockJudgement.isBehind(Timestamp(secondsSince1970: 60), notBefore: Timestamp(secondsSince1970: 61)))
    }
}
