import FakeCA
import MWACME
import MWPKI
import Testing

@Suite struct RenewalCases {
    static let begin = Timestamp(secondsSince1970: 1_800_000_000)
    static let id = CertificateID(authorityKeyIdentifier: [1, 2], serialNumber: [3])

    static func schedule(days: Int64 = 90, id: CertificateID? = Self.id) -> RenewalSchedule {
        RenewalSchedule(notBefore: begin, notAfter: begin.adding(days: days), created: begin, certificateID: id)
    }

    @Test("the certificate identifier of RFC 9773 §4.1")
    func certificateID() throws {
        let key: [UInt8] = [
            0x69, 0x88, 0x5B, 0x6B, 0x87, 0x46, 0x40, 0x41, 0xE1, 0xB3, 0x7B, 0x84, 0x7B, 0xA0, 0xAE, 0x2C, 0xDE, 0x01, 0xC8, 0xD4,
        ]
        let id = CertificateID(authorityKeyIdentifier: key, serialNumber: [0x00, 0x87, 0x65, 0x43, 0x21])
        #expect(id?.description == "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE")
    }

    @Test("the identifier of a real certificate has the leading zero of a high serial number")
    func certificateIDOfCertificate() throws {
        var bench = try Workbench()
        bench.ca.change = { $0.serialNumber = [0x87, 0x65, 0x43, 0x21] }
        let generation = try #require(try bench.issue().certificate).generation
        #expect(generation.certificateID?.description.hasSuffix(".AIdlQyE") == true)
        bench.ca.change = { $0.includesKeyIdentifiers = false }
        #expect(try bench.issue().certificate?.generation.certificateID == nil)
    }

    @Test("case 26 ari_window_random: uniform in the window, kept until the window changes, past is now")
    func windowRandom() throws {
        let schedule = Self.schedule()
        let window = RenewalWindow(start: Self.begin.adding(days: 50), end: Self.begin.adding(days: 60))
        var random = SplitMix64(seed: 7)
        var buckets = [Int](repeating: 0, count: 10)
        for _ in 0..<1000 {
            var state = RenewalState()
            schedule.renewalInfoReceived(.window(window, checkAt: nil), &state, now: Self.begin, random: &random)
            let selected = try #require(state.selectedTime)
            #expect(selected >= window.start && selected <= window.end)
            buckets[min(9, Int(selected.seconds(since: window.start) / 86_400))] += 1
        }
        // 100 expected in each; five standard deviations.
        #expect(buckets.allSatisfy { (53...147).contains($0) })

        var state = RenewalState()
        schedule.renewalInfoReceived(.window(window, checkAt: nil), &state, now: Self.begin, random: &random)
        let chosen = try #require(state.selectedTime)
        for _ in 0..<20 { schedule.renewalInfoReceived(.window(window, checkAt: nil), &state, now: Self.begin, random: &random) }
        #expect(state.selectedTime == chosen)
        #expect(schedule.update(&state, now: chosen.adding(seconds: -1), random: &random) != .renewNow(.window(explanationURL: nil)))
        #expect(schedule.update(&state, now: chosen, random: &random) == .renewNow(.window(explanationURL: nil)))

        let past = RenewalWindow(
            start: Self.begin.adding(days: 1), end: Self.begin.adding(days: 2), explanationURL: "https://ca.test/incident")
        schedule.renewalInfoReceived(.window(past, checkAt: nil), &state, now: Self.begin.adding(days: 3), random: &random)
        #expect(
            schedule.update(&state, now: Self.begin.adding(days: 3), random: &random)
                == .renewNow(.window(explanationURL: "https://ca.test/incident")))
    }

    @Test(
        "case 27 ari_retry_after: clamped to a minute and a day; six hours without one",
        arguments: [(nil, 21_600), (1, 60), (-5, 60), (60, 60), (4000, 4000), (1_000_000, 86_400)] as [(Int64?, Int64)])
    func retryAfter(_ given: Int64?, _ expected: Int64) throws {
        let schedule = Self.schedule()
        var state = RenewalState()
        var random = SplitMix64(seed: 1)
        let window = RenewalWindow(start: Self.begin.adding(days: 50), end: Self.begin.adding(days: 60))
        let checkAt = given.map { Self.begin.adding(seconds: $0) }
        schedule.renewalInfoReceived(.window(window, checkAt: checkAt), &state, now: Self.begin, random: &random)
        #expect(state.checkAt == Self.begin.adding(seconds: expected))
        #expect(schedule.update(&state, now: Self.begin, random: &random) == .wait(until: Self.begin.adding(seconds: expected)))
    }

    @Test("case 27 ari_retry_after: temporary failures back off up to six hours, long-term ones wait six hours")
    func failures() throws {
        let schedule = Self.schedule()
        var state = RenewalState()
        var random = SplitMix64(seed: 1)
        var pauses: [Int64] = []
        for _ in 0..<12 {
            schedule.renewalInfoReceived(.temporaryFailure("503"), &state, now: Self.begin, random: &random)
            pauses.append(try #require(state.checkAt).seconds(since: Self.begin))
        }
        #expect(Array(pauses.prefix(4)) == [60, 120, 240, 480])
        #expect(pauses.last == 21_600)
        schedule.renewalInfoReceived(.longTermFailure("404"), &state, now: Self.begin, random: &random)
        #expect(state.checkAt == Self.begin.adding(seconds: 21_600))
    }

    static let malformed: [String] = [
        #"{"suggestedWindow":{"start":"2027-01-02T00:00:00Z","end":"2027-01-01T00:00:00Z"}}"#,
        #"{"suggestedWindow":{"start":"2027-01-01T00:00:00Z","end":"2027-01-01T00:00:00Z"}}"#,
        #"{"suggestedWindow":{"start":"soon","end":"2027-01-01T00:00:00Z"}}"#,
        #"{"suggestedWindow":{"start":"2027-13-01T00:00:00Z","end":"2028-01-01T00:00:00Z"}}"#,
        #"{"suggestedWindow":{"end":"2028-01-01T00:00:00Z"}}"#, #"{"suggestedWindow":[]}"#, "{}", "[]", "<html>", "",
    ]

    @Test("case 28 ari_malformed: as no answer", arguments: malformed)
    func malformedWindow(_ body: String) throws {
        let outcome = try Self.ask { _ in HTTPResponse(status: 200, body: Array(body.utf8)) }
        guard case .longTermFailure = outcome else {
            Issue.record("\(outcome)")
            return
        }
        let schedule = Self.schedule()
        var state = RenewalState()
        var random = SplitMix64(seed: 1)
        schedule.renewalInfoReceived(outcome, &state, now: Self.begin, random: &random)
        #expect(state.window == nil)
        #expect(schedule.nextRenewal(state).reason == .lifetime)
    }

    /// The query against a CA that gives renewal information this way.
    static func ask(_ reply: (HTTPRequest) -> HTTPResponse?) throws -> RenewalInfoOutcome {
        var ca = try FakeCA()
        ca.givesRenewalInfo = true
        let plan = IssuancePlan(directoryURL: "\(FakeCA.base)/directory", identifiers: [.dns("a.test")])
        let id = try #require(Self.id)
        var machine = RenewalInfoStateMachine(plan: plan, directoryURL: plan.directoryURL, certificateID: id, seed: 1)
        let now = Moment(date: begin, uptime: .zero)
        var action = machine.start(at: now)
        while true {
            switch action {
            case .finished(let outcome): return outcome
            case .wait: action = machine.timerFired(at: now)
            case .send(let request, _):
                #expect(request.method == .get && request.body.isEmpty)
                if request.url == "\(FakeCA.base)/renewalInfo/\(id)" {
                    action = reply(request).map { machine.responseReceived($0, at: now) } ?? machine.transferFailed(.timeout, at: now)
                } else if case .success(let response) = try ca.answer(request, at: now.date) {
                    action = machine.responseReceived(response, at: now)
                }
            }
        }
    }

    @Test("the window is asked for without a signature, and read with its explanation")
    func asking() throws {
        let outcome = try Self.ask { _ in
            HTTPResponse(
                status: 200, headers: [.init("retry-after", "600")],
                body: Array(
                    #"{"suggestedWindow":{"start":"2027-01-01T00:00:00.5Z","end":"2027-01-02T01:00:00+01:00"},"explanationURL":"https://e.test"}"#
                        .utf8))
        }
        let window = RenewalWindow(
            start: try #require(Timestamp(year: 2027, month: 1, day: 1)), end: try #require(Timestamp(year: 2027, month: 1, day: 2)),
            explanationURL: "https://e.test")
        #expect(outcome == .window(window, checkAt: Self.begin.adding(seconds: 600)))
        guard case .temporaryFailure = try Self.ask({ _ in HTTPResponse(status: 503) }),
            case .temporaryFailure = try Self.ask({ _ in nil }),
            case .longTermFailure = try Self.ask({ _ in HTTPResponse(status: 404) })
        else {
            Issue.record("a failure of the wrong kind")
            return
        }
    }

    static let conflicts: [(Int, String, String)] = [
        (409, "alreadyReplaced", "x"), (403, "unauthorized", "x"), (400, "malformed", "bad replaces field"),
        (500, "serverInternal", "cannot look up the replaced certificate"), (409, "malformed", "conflict"),
    ]

    @Test("case 29 ari_replaces_conflict: one retry without it, at once; never again for that certificate", arguments: conflicts)
    func replacesConflict(_ status: Int, _ type: String, _ detail: String) throws {
        var bench = try Workbench(["a.test", "b.test"])
        bench.ca.givesRenewalInfo = true
        var old = try #require(try bench.issue().certificate).generation
        bench.plan.replaces = .init(old)
        bench.ca.intercept = { route, _, payload in
            route == .newOrder && payload?["replaces"] != nil ? FakeCA.problemResponse(status, type, detail) : nil
        }
        bench.waits = []
        let before = bench.ca.count(.newOrder)
        let issued = try #require(try bench.issue().certificate)
        #expect(issued.warnings.count == 1)
        #expect(bench.ca.count(.newOrder) == before + 2)
        #expect(bench.waits.allSatisfy { $0 < .seconds(1) })
        old.renewal.replacesRefused = true
        bench.plan.replaces = .init(old)
        #expect(try bench.issue().certificate != nil)
        #expect(bench.ca.count(.newOrder) == before + 3)
    }

    @Test("case 29 ari_replaces_conflict: sent only to the CA and account that issued it, for a name of it")
    func replacesSent() throws {
        var bench = try Workbench(["a.test", "b.test"])
        bench.ca.givesRenewalInfo = true
        let old = try #require(try bench.issue().certificate).generation
        func sent(_ change: (inout Workbench) -> Void) throws -> String? {
            var copy = bench
            copy.plan.replaces = .init(old)
            change(&copy)
            #expect(try copy.issue().certificate != nil)
            return try #require(copy.ca.orders.last).replaces
        }
        #expect(try sent { _ in } == old.certificateID?.description)
        #expect(try sent { $0.plan.identifiers = [.dns("b.test"), .dns("c.test")] } == old.certificateID?.description)
        #expect(try sent { $0.plan.identifiers = [.dns("c.test")] } == nil)
        #expect(try sent { $0.ca.givesRenewalInfo = false } == nil)
        #expect(try sent { $0.plan.replaces?.accountURL = "https://ca.test/account/77" } == nil)
        #expect(try sent { $0.plan.replaces?.directoryURL = "https://other.test/directory" } == nil)
    }

    @Test("case 30 ari_new_cert_old_window: the window of another certificate is forgotten")
    func otherWindow() throws {
        var state = RenewalState()
        var random = SplitMix64(seed: 1)
        let now = Self.begin.adding(days: 10)
        Self.schedule().renewalInfoReceived(
            .window(RenewalWindow(start: Self.begin, end: Self.begin.adding(days: 1)), checkAt: nil), &state, now: now, random: &random)
        guard case .renewNow = Self.schedule().update(&state, now: now, random: &random) else {
            Issue.record("not due")
            return
        }
        let next = try #require(CertificateID(authorityKeyIdentifier: [1, 2], serialNumber: [4]))
        let new = RenewalSchedule(notBefore: now, notAfter: now.adding(days: 90), created: now, certificateID: next)
        #expect(new.update(&state, now: now, random: &random) == .askForRenewalInfo(next))
        #expect(state.window == nil && state.selectedTime == nil)
    }

    @Test("case 30: a CA that always answers \"past\" gets one renewal an hour, and is suspected")
    func alwaysPast() throws {
        var random = SplitMix64(seed: 5)
        var now = Self.begin
        var renewals = 0
        var created = now
        var state = RenewalState()
        let end = Self.begin.adding(seconds: 24 * 3600)
        // Without a limit it would renew for ever at one time.
        while now < end, renewals < 100 {
            let schedule = RenewalSchedule(
                notBefore: created, notAfter: created.adding(days: 90), created: created,
                certificateID: CertificateID(authorityKeyIdentifier: [1], serialNumber: [UInt8(renewals + 1)]))
            switch schedule.update(&state, now: now, random: &random) {
            case .renewNow:
                renewals += 1
                #expect(schedule.isWindowSuspicious(state))
                created = now
                state = RenewalState()
            case .askForRenewalInfo:
                let past = RenewalWindow(start: Self.begin.adding(days: -9), end: Self.begin.adding(days: -8))
                schedule.renewalInfoReceived(.window(past, checkAt: nil), &state, now: now, random: &random)
            case .wait(let until):
                #expect(until > now)
                now = until
            }
        }
        #expect((22...24).contains(renewals))
    }

    @Test("case 31 ari_expired_cert: no question after expiry, only the renewal")
    func expired() throws {
        var state = RenewalState()
        var random = SplitMix64(seed: 1)
        let schedule = Self.schedule()
        let late = schedule.notAfter.adding(seconds: 5)
        #expect(schedule.update(&state, now: late, random: &random) == .renewNow(.expired))
        schedule.renewalFailed(
            ACMEError(.serverFailed, subject: "x", "y", disposition: .retryOrFallback), &state, now: late, random: &random)
        guard case .wait(let until) = schedule.update(&state, now: late, random: &random) else {
            Issue.record("no backoff")
            return
        }
        #expect(until > late)
    }

    @Test(
        "case 33 lifetimes: two thirds, half where short, two percent of jitter, never past the last twentieth",
        arguments: [(90 * 86_400, 2.0 / 3), (45 * 86_400, 2.0 / 3), (160 * 3600, 0.5), (10 * 86_400, 0.5), (120, 0.5), (1, 0)]
            as [(Int64, Double)])
    func lifetimes(_ seconds: Int64, _ share: Double) throws {
        let schedule = RenewalSchedule(
            notBefore: Self.begin, notAfter: Self.begin.adding(seconds: seconds), created: Self.begin, certificateID: nil)
        var random = SplitMix64(seed: 1)
        var times: Set<Timestamp> = []
        for _ in 0..<200 {
            var state = RenewalState()
            guard case .wait(let until) = schedule.update(&state, now: Self.begin, random: &random) else {
                #expect(seconds == 1)
                return
            }
            #expect(abs(Double(until.seconds(since: Self.begin)) - Double(seconds) * share) <= Double(seconds) * 0.02 + 1)
            #expect(schedule.update(&state, now: until, random: &random) == .renewNow(.lifetime))
            // It is drawn once.
            #expect(schedule.update(&state, now: Self.begin, random: &random) == .wait(until: until))
            times.insert(until)
        }
        #expect(times.count > 3)
    }

    @Test("a window late in the lifetime is not waited for beyond the last twentieth")
    func safety() throws {
        let schedule = Self.schedule(days: 100)
        var state = RenewalState()
        var random = SplitMix64(seed: 1)
        let window = RenewalWindow(start: Self.begin.adding(days: 99), end: Self.begin.adding(days: 100))
        schedule.renewalInfoReceived(
            .window(window, checkAt: Self.begin.adding(days: 300)), &state, now: Self.begin.adding(days: 94), random: &random)
        #expect(schedule.update(&state, now: Self.begin.adding(days: 94), random: &random) == .wait(until: Self.begin.adding(days: 95)))
        #expect(schedule.update(&state, now: Self.begin.adding(days: 95), random: &random) == .renewNow(.almostExpired))
    }

    @Test("case 39 clock_skew: a clock that jumps back or forth brings no storm")
    func clockJumps() throws {
        let schedule = Self.schedule()
        var state = RenewalState()
        var random = SplitMix64(seed: 1)
        let window = RenewalWindow(start: Self.begin.adding(days: 50), end: Self.begin.adding(days: 60))
        let now = Self.begin.adding(days: 10)
        schedule.renewalInfoReceived(.window(window, checkAt: now.adding(days: 1)), &state, now: now, random: &random)
        // Back by a month: the next look is at most a day away.
        guard case .wait(let until) = schedule.update(&state, now: now.adding(days: -30), random: &random) else {
            Issue.record("a renewal or question because of a clock")
            return
        }
        #expect(until <= now.adding(days: -29))
        // Ahead by a day: one question, no renewal.
        let ahead = now.adding(days: 1)
        let id = try #require(Self.id)
        #expect(schedule.update(&state, now: ahead, random: &random) == .askForRenewalInfo(id))
        schedule.renewalInfoReceived(.window(window, checkAt: nil), &state, now: ahead, random: &random)
        guard case .wait = schedule.update(&state, now: ahead, random: &random) else {
            Issue.record("a second question")
            return
        }
    }

    @Test("a failed renewal backs off, sooner again the less time is left, and never before Retry-After")
    func backoff() throws {
        let schedule = Self.schedule()
        var random = SplitMix64(seed: 1)
        let failure = ACMEError(.serverFailed, subject: "x", "y", disposition: .retryOrFallback)
        var state = RenewalState()
        var now = Self.begin.adding(days: 61)
        var attempts = 0
        let hour = now.adding(seconds: 3600)
        while now <= hour {
            if case .renewNow = schedule.update(&state, now: now, random: &random) {
                attempts += 1
                schedule.renewalFailed(failure, &state, now: now, random: &random)
            } else {
                now = try #require(state.retryAt)
            }
        }
        #expect((4...5).contains(attempts))
        #expect(state.lastError?.contains("acme.serverFailed") == true)
        // An hour before expiry: minutes, not hours.
        state.attempts = 30
        now = schedule.notAfter.adding(seconds: -3600)
        schedule.renewalFailed(failure, &state, now: now, random: &random)
        #expect(try #require(state.retryAt).seconds(since: now) <= 200)
        var limited = failure
        limited.retryAt = now.adding(seconds: 3000)
        schedule.renewalFailed(limited, &state, now: now, random: &random)
        #expect(state.retryAt == now.adding(seconds: 3000))
        #expect(schedule.update(&state, now: now.adding(seconds: 2999), random: &random) == .askForRenewalInfo(try #require(Self.id)))
    }

    @Test("case 41 fallback_ca: the next CA after n failures or a rate limit, the first again in the next cycle")
    func fallback() throws {
        var sequence = AuthoritySequence(directories: ["one", "two"], failuresBeforeFallback: 2)
        let now = Self.begin
        let down = ACMEError(.transferFailed, subject: "one", "down", disposition: .retryOrFallback)
        #expect(sequence.choice(at: now) == "one")
        sequence.failed(down, at: "one")
        #expect(sequence.choice(at: now) == "one")
        sequence.failed(ACMEError(.challengeFailed, subject: "x", "y", disposition: .retry), at: "one")
        #expect(sequence.choice(at: now) == "one")
        sequence.failed(down, at: "one")
        #expect(sequence.choice(at: now) == "two")
        sequence.cycleBegan()
        #expect(sequence.choice(at: now) == "one")
        sequence.failed(
            ACMEError(.rateLimited, subject: "one", "wait", retryAt: now.adding(seconds: 7200), disposition: .retryOrFallback), at: "one")
        #expect(sequence.choice(at: now) == "two")
        sequence.cycleBegan()
        #expect(sequence.choice(at: now) == "two")
        #expect(sequence.choice(at: now.adding(seconds: 7200)) == "one")
        sequence.failed(down, at: "two")
        sequence.failed(down, at: "two")
        #expect(sequence.choice(at: now) == nil)
    }

    @Test("a CA that says no sends to the next one at once; a failed validation does not, unless CAA forbids the CA")
    func refusalAndFallback() throws {
        let now = Timestamp.now()
        func choice(after kind: String) throws -> String? {
            var bench = try Workbench()
            bench.ca.intercept = { route, _, _ in route == .newOrder ? FakeCA.problemResponse(403, kind) : nil }
            var sequence = AuthoritySequence(directories: ["one", "two"])
            sequence.failed(try #require(try bench.issue().error), at: "one")
            return sequence.choice(at: now)
        }
        #expect(try choice(after: "unauthorized") == "two")
        #expect(try choice(after: "caa") == "two")
        #expect(try choice(after: "dns") == "one")
        var sequence = AuthoritySequence(directories: ["one", "two"])
        sequence.failed(ACMEError(.planInvalid, subject: "order", "no names"), at: "one")
        #expect(sequence.choice(at: now) == "one")
    }

    @Test("what is remembered survives the file")
    func remembered() throws {
        var bench = try Workbench()
        var generation = try #require(try bench.issue().certificate).generation
        var random = SplitMix64(seed: 9)
        let schedule = RenewalSchedule(generation)
        _ = schedule.update(&generation.renewal, now: bench.now.date, random: &random)
        schedule.renewalInfoReceived(
            .window(
                RenewalWindow(
                    start: bench.now.date.adding(days: 50), end: bench.now.date.adding(days: 60), explanationURL: "https://e.test/ä"),
                checkAt: nil), &generation.renewal, now: bench.now.date, random: &random)
        schedule.renewalFailed(
            ACMEError(.timedOut, subject: "x", "y", retryAt: bench.now.date.adding(days: 1)), &generation.renewal, now: bench.now.date,
            random: &random)
        let read = try CertificateGeneration(decoding: try generation.encoded(), source: "file")
        #expect(read.renewal == generation.renewal)
        #expect(read.chain == generation.chain)
        #expect(read.created == generation.created)
    }
}
