import FakeCA
import MWACME
import MWCertificateManager
import MWPKI
import Synchronization
import TestCertificates
import Testing

/// Renewal information and clocks: the operations of the commands with real files, through libcurl to a scripted CA; only the time
/// is the test's.
@Suite("ACME renewals at a scripted CA")
struct FakeRenewalCases {
    /// The system's clock, with another date.
    final class ShiftedClock: ManagerClock {
        private let system = SystemClock()
        private let shift = Mutex(Int64(0))

        func advance(seconds: Int64) { shift.withLock { $0 += seconds } }

        func now() -> Moment {
            var moment = system.now()
            moment.date = moment.date.adding(seconds: shift.withLock { $0 })
            return moment
        }

        func sleep(for duration: Duration) async throws { try await system.sleep(for: duration) }
    }

    /// Puts answers into the fake CA's world.
    struct World: ChallengePresenter {
        let ca: FakeHTTPSCA
        func present(_ answer: ChallengeAnswer) async throws { ca.with { _ = $0.world.insert(answer) } }
        func remove(_ answer: ChallengeAnswer) async { ca.with { _ = $0.world.remove(answer) } }
    }

    struct Desk {
        let ca: FakeHTTPSCA
        let clock = ShiftedClock()
        let home: TemporaryDirectory
        var plan: IssuancePlan

        init(_ names: [String] = ["www.example.test"]) throws {
            ca = try FakeHTTPSCA()
            ca.with { $0.givesRenewalInfo = true }
            home = try TemporaryDirectory()
            plan = IssuancePlan(directoryURL: ca.directoryURL, identifiers: names.compactMap { Identifier($0) })
            plan.termsOfServiceAgreed = true
            plan.challengePreference = [.http01]
            plan.limits.firstBackoff = .milliseconds(2)
            plan.limits.maximumBackoff = .milliseconds(20)
        }

        var state: StateDirectory { StateDirectory(path: home.file("state")) }

        /// As a process that is started anew: nothing but the state directory is the same.
        func obtain(_ mode: ACMEOperations.Mode = .ifDue) async throws -> ACMEOperations.Outcome {
            let transfer = try PeerBench.transfer(trustFile: ca.trustFile)
            let driver = ACMEDriver(directory: state, transfer: transfer, presenter: World(ca: ca), clock: clock)
            return try await ACMEOperations(driver: driver).obtain(
                CertificateManagerConfiguration(plans: [plan], stateDirectory: state), mode)
        }

        /// What the CA says about renewals: a window from so many days from now on, in the time of the clock.
        func setWindow(from start: Int64, to end: Int64, headers: [(String, String)] = [], explanation: String? = nil) {
            let now = clock.now().date
            var members: [String: JSONValue] = [
                "suggestedWindow": .object([
                    "start": .string("\(now.adding(days: start))"), "end": .string("\(now.adding(days: end))"),
                ])
            ]
            if let explanation { members["explanationURL"] = .string(explanation) }
            let reply = HTTPResponse(status: 200, headers: headers.map { .init($0.0, $0.1) }, body: JSONValue.object(members).encoded)
            setRenewalInfo(reply)
        }

        func setRenewalInfo(_ reply: HTTPResponse) {
            ca.with { ca in ca.intercept = { route, _, _ in route == .renewalInfo ? .response(reply) : nil } }
        }

        var questions: Int { ca.with { $0.count(.renewalInfo) } }
        var orders: Int { ca.with { $0.orders.count } }

        func renewal() throws -> RenewalState { try #require(try state.load().current).generation.renewal }
    }

    // Method: a process for each look. The time is drawn once, is within the window, and is there after each restart; when it has
    // come, it is renewed.
    @Test("case 26 ari_window_random: drawn within the window, kept across restarts, and then it is renewed")
    func window() async throws {
        let desk = try Desk()
        desk.setWindow(from: 20, to: 30, headers: [("Retry-After", "21600")])
        _ = try await desk.obtain()
        _ = try await desk.obtain()
        let selected = try #require(try desk.renewal().selectedTime)
        let now = desk.clock.now().date
        #expect(selected > now.adding(days: 19) && selected < now.adding(days: 31))
        for _ in 0..<3 {
            guard case .notDue(_, let renewal, _) = try await desk.obtain() else {
                Issue.record("it is not due")
                return
            }
            #expect(renewal == selected)
        }
        desk.clock.advance(seconds: selected.seconds(since: now) + 5)
        guard case .issued = try await desk.obtain() else {
            Issue.record("it is due")
            return
        }
        #expect(desk.orders == 2)
        #expect(desk.ca.with { $0.orders.last?.replaces } != nil)
    }

    static let pauses: [(String?, Int, ClosedRange<Int64>)] = [
        ("1", 200, 58...62), ("4000", 200, 3990...4002), ("9999999", 200, 86_390...86_402), (nil, 200, 21_590...21_602),
        ("tomorrow", 200, 21_590...21_602), (nil, 404, 21_590...21_602), (nil, 503, 30...120),
    ]

    @Test(
        "case 27 ari_retry_after: the next question is between a minute and a day later; after an error as the RFC says", arguments: pauses)
    func retryAfter(_ value: String?, _ status: Int, _ expected: ClosedRange<Int64>) async throws {
        let desk = try Desk()
        if status == 200 {
            desk.setWindow(from: 20, to: 30, headers: value.map { [("Retry-After", $0)] } ?? [])
        } else {
            desk.setRenewalInfo(HTTPResponse(status: status))
        }
        let before = desk.clock.now().date
        _ = try await desk.obtain()
        _ = try await desk.obtain()
        let (checkAt, now) = (try #require(try desk.renewal().checkAt), desk.clock.now().date)
        // It was reckoned from some moment between these.
        let next = checkAt.seconds(since: now)
        #expect(next <= expected.upperBound && checkAt.seconds(since: before) >= expected.lowerBound, "\(next)")
        let asked = desk.questions
        _ = try await desk.obtain()
        #expect(desk.questions == asked, "not before")
        desk.clock.advance(seconds: next + 5)
        _ = try await desk.obtain()
        #expect(desk.questions > asked)
    }

    @Test(
        "case 28 ari_malformed: as no answer: the certificate's lifetime decides",
        arguments: [
            #"{"suggestedWindow":{"start":"2027-01-02T00:00:00Z","end":"2027-01-01T00:00:00Z"}}"#,
            #"{"suggestedWindow":{"start":"soon","end":"2027-01-01T00:00:00Z"}}"#, "<html>", "{}", "",
        ])
    func malformed(_ body: String) async throws {
        let desk = try Desk()
        desk.setRenewalInfo(HTTPResponse(status: 200, body: Array(body.utf8)))
        _ = try await desk.obtain()
        guard case .notDue(let current, let renewal, _) = try await desk.obtain() else {
            Issue.record("it is not due")
            return
        }
        #expect(try desk.renewal().window == nil)
        let lifetime = current.generation.leaf.notAfter.seconds(since: current.generation.leaf.notBefore)
        let share = Double(renewal.seconds(since: current.generation.leaf.notBefore)) / Double(lifetime)
        #expect((0.6...0.72).contains(share), "two thirds, and some jitter: \(share)")
    }

    static let conflicts: [(Int, String)] = [(409, "alreadyReplaced"), (403, "unauthorized"), (400, "malformed"), (500, "serverInternal")]

    @Test("case 29 ari_replaces_conflict: ordered at once without it, once, and never with it again", arguments: conflicts)
    func conflict(_ status: Int, _ type: String) async throws {
        let desk = try Desk()
        _ = try await desk.obtain()
        desk.ca.with { ca in
            ca.counts[.newOrder] = 0
            ca.intercept = { route, _, payload in
                route == .newOrder && payload?["replaces"] != nil
                    ? FakeCA.problemResponse(status, type, "about the replaces field, of a certificate that was replaced") : nil
            }
        }
        guard case .issued(_, let warnings) = try await desk.obtain(.always) else {
            Issue.record("not issued")
            return
        }
        #expect(!warnings.isEmpty)
        #expect(desk.ca.with { $0.count(.newOrder) } == 2)
        #expect(desk.orders == 2)
    }

    @Test("case 29 ari_replaces_conflict: not sent to a CA that gives no renewal information")
    func noReplaces() async throws {
        let desk = try Desk()
        desk.ca.with { $0.givesRenewalInfo = false }
        _ = try await desk.obtain()
        _ = try await desk.obtain(.always)
        #expect(desk.ca.with { $0.orders.map(\.replaces) } == [nil, nil])
    }

    // Method: a CA whose every window is over. Looked at every ten minutes for six hours.
    @Test("case 30 ari_new_cert_old_window: a CA that always says \u{201C}past\u{201D} gets one renewal an hour at most")
    func alwaysPast() async throws {
        let desk = try Desk()
        desk.setWindow(from: -9, to: -8, explanation: "https://ca.example/incident")
        for _ in 0..<36 {
            _ = try await desk.obtain()
            desk.clock.advance(seconds: 600)
            desk.ca.setSkew(seconds: desk.clock.now().date.seconds(since: .now()))
        }
        #expect((5...7).contains(desk.orders), "\(desk.orders)")
        let status = try CertificateManagerStatus(of: desk.state, plans: [desk.plan], at: desk.clock.now().date)
        #expect(status.explanationURL == "https://ca.example/incident" || status.window == nil)
    }

    @Test("case 31 ari_expired_cert: after the end no question is asked, and it is renewed")
    func expired() async throws {
        let desk = try Desk()
        desk.setWindow(from: 20, to: 30)
        _ = try await desk.obtain()
        let asked = desk.questions
        desk.clock.advance(seconds: 91 * 86_400)
        desk.ca.setSkew(seconds: 91 * 86_400)
        guard case .issued = try await desk.obtain() else {
            Issue.record("not renewed")
            return
        }
        #expect(desk.questions == asked)
    }

    // Method: the CA's clock is the real one; ours is wrong by a day to either side, and jumps between the looks.
    @Test("case 39 clock_skew: a clock that is a day off, or jumps, orders nothing more", arguments: [-86_400, 86_400] as [Int64])
    func skew(_ seconds: Int64) async throws {
        let desk = try Desk()
        desk.setWindow(from: 40, to: 50, headers: [("Retry-After", "21600")])
        _ = try await desk.obtain()
        for _ in 0..<4 {
            desk.clock.advance(seconds: seconds)
            _ = try await desk.obtain()
            desk.clock.advance(seconds: -seconds)
            _ = try await desk.obtain()
        }
        #expect(desk.orders == 1)
    }

    @Test("case 39 clock_skew: a certificate that begins within the hour is taken, one that begins later is not")
    func beginsLater() async throws {
        let desk = try Desk()
        desk.ca.with { ca in ca.change = { $0.notBefore = Timestamp.now().adding(seconds: 3500) } }
        _ = try await desk.obtain()
        #expect(desk.orders == 1)
        desk.ca.with { ca in ca.change = { $0.notBefore = Timestamp.now().adding(seconds: 7200) } }
        await #expect(throws: ACMEError(.certificateRejected, subject: "", "")) { try await desk.obtain(.always) }
    }
}
