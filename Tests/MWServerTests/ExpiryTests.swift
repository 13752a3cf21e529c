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

    // A year after the epoch, and after the program was written.
    @Test func `A clock is called behind where nothing else explains it`() {
        let now = ClockJudgement.programWritten.adding(days: 500)
        #expect(!ClockJudgement.isBehind(now, notBefore: now.adding(days: -1)))
        #expect(!ClockJudgement.isBehind(now, notBefore: now.adding(days: 1)), "a certificate that is made ahead")
        #expect(ClockJudgement.isBehind(now, notBefore: now.adding(days: 400)))
        #expect(ClockJudgement.isBehind(Timestamp(secondsSince1970: 60), notBefore: Timestamp(secondsSince1970: 61)))
    }
}
