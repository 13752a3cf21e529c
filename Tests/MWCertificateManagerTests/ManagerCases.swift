import FakeCA
import MWACME
import MWCertificateManager
import MWPKI
import Synchronization
import TestCertificates
import Testing

@Suite struct ManagerCases {
    // Method: ten managers, one after the other, on one directory.
    @Test("case 1 account_create_and_reuse: ten starts make one account with one key, and one certificate")
    func restarts() async throws {
        let bench = try ManagerBench()
        var keys: Set<String> = []
        for _ in 0..<10 {
            try await bench.run(for: 600)
            keys.insert("\(try #require(try bench.directory.account(at: ManagerBench.first).record).key.publicKeyPin)")
        }
        #expect(keys.count == 1)
        #expect(bench.transfer.with { $0.accounts.count } == 1)
        #expect(bench.orders() == 1)
        #expect(bench.transfer.with { $0.complaints } == [])
    }

    // Method: the account is removed from the CA between two renewals; the clock runs over several.
    @Test("case 9 ca_forgot_account: registered once again, then ordered; no loop")
    func forgotten() async throws {
        let bench = try ManagerBench()
        try await bench.run(for: hour)
        bench.transfer.with { $0.accounts = [] }
        try await bench.run(for: 70 * day)
        #expect(bench.orders() == 2)
        #expect(bench.transfer.with { $0.accounts.count } == 1)
        #expect(bench.transfer.with { $0.count(.newAccount) } == 2)
        #expect(bench.logs.count("registered again") == 1)
    }

    @Test("case 20 rate_limited: with Retry-After of two hours, no order before then, also after restarts")
    func rateLimited() async throws {
        let bench = try ManagerBench {
            $0.intercept = { route, count, _ in
                route == .newOrder && count == 0 ? FakeCA.problemResponse(429, "rateLimited", headers: [.init("Retry-After", "7200")]) : nil
            }
        }
        for _ in 0..<10 { try await bench.run(for: 700) }
        #expect(bench.transfer.with { $0.count(.newOrder) } == 1)
        let status = try bench.status()
        #expect(status.accounts.first?.rateLimitedUntil == ManagerBench.begin.adding(seconds: 7200))
        #expect(status.lastProblem?.kind == .rateLimited)
        #expect(status.attempts == 1)
        try await bench.run(for: hour)
        #expect(bench.transfer.with { $0.count(.newOrder) } == 2)
        #expect(try bench.current() != nil)
        #expect(try bench.status().attempts == 0)
    }

    @Test("case 20 rate_limited: without Retry-After, attempts back off")
    func rateLimitedSilently() async throws {
        let bench = try ManagerBench {
            $0.intercept = { route, _, _ in route == .newOrder ? FakeCA.problemResponse(429, "rateLimited") : nil }
        }
        try await bench.run(for: 7 * day)
        // 120 s, doubled up to six hours: eight in the first day, four in each after it.
        let attempts = bench.transfer.with { $0.count(.newOrder) }
        #expect((28...42).contains(attempts), "\(attempts)")
    }

    @Test("case 26 ari_window_random: renewed at the time drawn from the window, which a restart keeps")
    func window() async throws {
        let bench = try ManagerBench { ca in
            ca.givesRenewalInfo = true
            ca.intercept = Self.window(from: 20, to: 30)
        }
        try await bench.run(for: hour)
        let chosen = try #require(try bench.status().nextRenewal)
        #expect(chosen >= ManagerBench.begin.adding(days: 20) && chosen <= ManagerBench.begin.adding(days: 30))
        for _ in 0..<5 { try await bench.run(for: day) }
        #expect(try bench.status().nextRenewal == chosen)
        try await bench.run(for: chosen.seconds(since: bench.clock.date) - 1)
        #expect(bench.orders() == 1)
        try await bench.run(for: 2)
        #expect(bench.orders() == 2)
        let replaced = bench.transfer.with { $0.orders[1].replaces }
        #expect(replaced == (try bench.directory.load().previous?.generation.certificateID?.description))
    }

    /// Days after the beginning.
    static func window(from: Int64, to: Int64, retryAfter: String? = nil) -> (FakeCA.Route, Int, JSONValue?) -> FakeCA.Reply? {
        { route, _, _ in
            guard route == .renewalInfo else { return nil }
            let window = JSONValue.object([
                "start": .string("\(ManagerBench.begin.adding(days: from))"), "end": .string("\(ManagerBench.begin.adding(days: to))"),
            ])
            let page = JSONValue.object(["suggestedWindow": window, "explanationURL": .string("https://ca.test/why")])
            return .response(
                HTTPResponse(status: 200, headers: retryAfter.map { [.init("Retry-After", $0)] } ?? [], body: page.encoded))
        }
    }

    // Method: the questions are counted while a simulated day passes.
    @Test(
        "case 27 ari_retry_after: asked as often as the CA says, between a minute and a day; without a word every six hours",
        arguments: [("1", 1380...1441), ("7200", 12...14), ("9999999", 1...2), (nil, 4...5)] as [(String?, ClosedRange<Int>)])
    func questions(_ retryAfter: String?, _ expected: ClosedRange<Int>) async throws {
        let bench = try ManagerBench { ca in
            ca.givesRenewalInfo = true
            ca.intercept = Self.window(from: 50, to: 60, retryAfter: retryAfter)
        }
        try await bench.run(for: day)
        let questions = bench.transfer.with { $0.count(.renewalInfo) }
        #expect(expected.contains(questions), "\(questions)")
        #expect(bench.orders() == 1)
    }

    @Test("case 28 ari_malformed: as no answer; renewed by its lifetime")
    func malformed() async throws {
        let bench = try ManagerBench { ca in
            ca.givesRenewalInfo = true
            ca.intercept = { route, _, _ in route == .renewalInfo ? .response(HTTPResponse(status: 200, body: Array("<html>".utf8))) : nil }
        }
        try await bench.run(for: 57 * day)
        #expect(bench.orders() == 1)
        #expect(try bench.status().lastCheckError?.contains("replyMalformed") == true)
        try await bench.run(for: 6 * day)
        #expect(bench.orders() == 2)
    }

    @Test("case 29 ari_replaces_conflict: ordered at once without it, and never again with it for that certificate")
    func replacesConflict() async throws {
        let bench = try ManagerBench { $0.givesRenewalInfo = true }
        try await bench.run(for: hour)
        let refusals = Mutex(0)
        bench.transfer.with { ca in
            // The orders without it fail for another reason, so that there are more attempts.
            ca.intercept = { route, _, payload in
                if route == .newOrder, payload?["replaces"] != nil { refusals.withLock { $0 += 1 } }
                if route == .newOrder, payload?["replaces"] != nil { return FakeCA.problemResponse(409, "alreadyReplaced") }
                return route == .finalize ? FakeCA.problemResponse(400, "badCSR") : nil
            }
        }
        try await bench.run(for: 62 * day)
        #expect(try bench.current()?.generation.renewal.replacesRefused == true)
        #expect(refusals.withLock { $0 } == 1)
        #expect(bench.orders() > 2)
        bench.transfer.with { $0.intercept = { _, _, _ in nil } }
        try await bench.run(for: day)
        #expect(try bench.current()?.number == 2)
        #expect(refusals.withLock { $0 } == 1)
        #expect(bench.transfer.with { $0.orders.allSatisfy { $0.replaces == nil } })
    }

    @Test("case 30 ari_new_cert_old_window: a CA that always answers \"past\" gets one renewal an hour at most, and an alarm")
    func alwaysPast() async throws {
        let bench = try ManagerBench { ca in
            ca.givesRenewalInfo = true
            ca.intercept = Self.window(from: -9, to: -8)
        }
        try await bench.run(for: day)
        #expect((20...25).contains(bench.orders()), "\(bench.orders())")
        #expect(bench.logs.count("critical the CA's renewal window had passed") >= 20)
        #expect(bench.logs.count("explanation=https://ca.test/why") >= 20)
        let keys = try bench.directory.load()
        #expect(keys.current?.generation.key.publicKeyPin != keys.previous?.generation.key.publicKeyPin)
    }

    @Test("case 31 ari_expired_cert: after the end only renewals, no questions; each end is announced, and never given up")
    func expired() async throws {
        let bench = try ManagerBench { $0.givesRenewalInfo = true }
        try await bench.run(for: hour)
        bench.transfer.with { $0.intercept = { route, _, _ in route == .newOrder ? FakeCA.problemResponse(500, "serverInternal") : nil } }
        try await bench.run(for: 91 * day)
        let (questions, attempts) = bench.transfer.with { ($0.count(.renewalInfo), $0.count(.newOrder)) }
        try await bench.run(for: 5 * day)
        #expect(bench.transfer.with { $0.count(.renewalInfo) } == questions)
        #expect(bench.transfer.with { $0.count(.newOrder) } > attempts)
        for (word, level) in [
            ("warning the certificate ends and", 1), ("error the certificate ends soon", 1), ("critical the certificate is about", 1),
            ("critical the certificate has ended", 2),
        ] {
            // The manager was started twice in that time: what is over is said again.
            #expect((1...level).contains(bench.logs.count(word)), "\(word): \(bench.logs.count(word))")
        }
        bench.transfer.with { $0.intercept = { _, _, _ in nil } }
        try await bench.run(for: day)
        #expect(try bench.current()?.number == 2)
    }

    @Test(
        "case 39 clock_skew: a clock set a day forth and back, or years, brings no storm and loses no renewal",
        arguments: [day, -day, 400 * day])
    func clock(_ jump: Int64) async throws {
        let bench = try ManagerBench { ca in
            ca.givesRenewalInfo = true
            ca.intercept = Self.window(from: 800, to: 810)
        }
        try await bench.run(for: hour)
        bench.clock.set(by: jump)
        try await bench.run(for: hour)
        bench.clock.set(by: -jump)
        let asked = bench.transfer.requests.count
        try await bench.run(for: 5 * day)
        #expect(bench.orders() <= 2)
        #expect(bench.transfer.requests.count - asked < 100)
        try await bench.run(for: 90 * day)
        #expect((2...4).contains(bench.orders()))
        #expect(try #require(try bench.current()).generation.leaf.notAfter > bench.clock.date)
    }

    @Test("case 39 clock_skew: attempts that failed under a clock that was a year ahead do not hold up the next one")
    func clockAhead() async throws {
        let bench = try ManagerBench()
        bench.transfer.setDown(true)
        bench.clock.set(by: 365 * day)
        try await bench.run(for: 2 * hour)
        bench.clock.set(by: -365 * day)
        bench.transfer.setDown(false)
        try await bench.run(for: 60)
        #expect(try bench.current() != nil)
    }

    // Method: the time left is looked at whenever the manager sleeps.
    @Test("case 33 lifetimes: certificates of two minutes and of six days are renewed in time, again and again", arguments: [120, 6 * day])
    func shortLifetimes(_ seconds: Int64) async throws {
        let bench = try ManagerBench { ca in ca.change = { $0.notAfter = $0.notBefore.adding(seconds: 3600 + seconds) } }
        let least = Mutex(Int64.max)
        bench.clock.onSleep { [directory = bench.directory] now in
            guard let leaf = try? directory.load().current?.generation.leaf else { return }
            least.withLock { $0 = min($0, leaf.notAfter.seconds(since: now)) }
        }
        try await bench.run(for: 10 * seconds)
        #expect((11...41).contains(bench.orders()), "\(bench.orders())")
        #expect(least.withLock { $0 } > seconds / 10)
        #expect(bench.installed.withLock { $0.count } == bench.orders())
    }

    // Method: validation takes the CA half a minute, and no start lasts longer than two seconds.
    @Test("case 40 first_start_no_cert: fifty starts that are stopped in the middle make one order, and leave no answer behind")
    func restartLoop() async throws {
        let bench = try ManagerBench { $0.validationPolls = 12 }
        for _ in 0..<50 { try await bench.run(for: 2) }
        #expect(bench.orders() == 1)
        #expect(bench.transfer.with { $0.accounts.count } == 1)
        #expect(bench.transfer.with { $0.world.isEmpty })
        #expect(try bench.current()?.number == 1)
    }

    @Test("certificates that are old when they are new are not renewed without end")
    func backdated() async throws {
        let bench = try ManagerBench { ca in
            ca.change = { $0.notBefore = $0.notBefore.adding(seconds: -3600 * 24 * 89) }
        }
        try await bench.run(for: hour)
        #expect(bench.orders() <= 2)
    }

    @Test("case 41 fallback_ca: after failures the second, with an account of its own; the first again at the next cycle")
    func fallback() async throws {
        let bench = try ManagerBench()
        bench.transfer.add(try FakeCA(), host: ManagerBench.secondHost)
        bench.transfer.setDown(true)
        let configuration = bench.configuration([bench.plan(), bench.plan(at: ManagerBench.second)])
        try await bench.run(for: 2 * hour, configuration)
        #expect(try bench.current()?.generation.directoryURL == ManagerBench.second)
        #expect(try bench.current()?.generation.accountURL.hasPrefix("https://second.test/") == true)
        let tried = bench.transfer.requests.count { $0 == "GET \(ManagerBench.first)" }
        // Three attempts, each with the repetitions of a transfer that fails.
        #expect(tried == 3 * (ACMELimits().maximumFailures + 1))
        bench.transfer.setDown(false)
        try await bench.run(for: 70 * day, configuration)
        #expect(try bench.current()?.generation.directoryURL == ManagerBench.first)
        #expect(bench.orders(ManagerBench.secondHost) == 1)
        let keys = Set(try bench.directory.accounts().map { "\($0.key.publicKeyPin)" })
        #expect(keys.count == 2)
    }

    @Test("case 41 fallback_ca: a rate limit of the first sends to the second at once, and is remembered")
    func fallbackAtRateLimit() async throws {
        let bench = try ManagerBench {
            $0.intercept = { route, _, _ in
                route == .newOrder ? FakeCA.problemResponse(429, "rateLimited", headers: [.init("Retry-After", "86400")]) : nil
            }
        }
        bench.transfer.add(try FakeCA(), host: ManagerBench.secondHost)
        try await bench.run(for: 10, bench.configuration([bench.plan(), bench.plan(at: ManagerBench.second)]))
        #expect(try bench.current()?.generation.directoryURL == ManagerBench.second)
        #expect(try bench.status().accounts.contains { $0.directoryURL == ManagerBench.first && $0.rateLimitedUntil != nil })
    }

    @Test("case 42 config_change: other names, another key or CA order again; the order of names does not")
    func configChange() async throws {
        let bench = try ManagerBench()
        bench.transfer.add(try FakeCA(), host: ManagerBench.secondHost)
        func orders(_ change: (inout IssuancePlan) -> Void) async throws -> Int {
            var plan = bench.plan(["a.test", "b.test"])
            change(&plan)
            try await bench.run(for: 600, bench.configuration([plan]))
            return bench.orders() + bench.orders(ManagerBench.secondHost)
        }
        #expect(try await orders { _ in } == 1)
        #expect(try await orders { $0.identifiers.reverse() } == 1)
        #expect(try await orders { $0.identifiers.append(.dns("c.test")) } == 2)
        #expect(try await orders { $0.identifiers = [.dns("a.test")] } == 3)
        #expect(try await orders { $0.keyAlgorithm = .ec(.p384) } == 4)
        #expect(try await orders { $0.directoryURL = ManagerBench.second } == 5)
        #expect(try bench.current()?.number == 5)
    }

    @Test("case 42 config_change: an operator who mends the configuration does not wait for the old backoff")
    func mended() async throws {
        let bench = try ManagerBench { $0.refusedNames = [.dns("wrong.test"): "dns"] }
        try await bench.run(for: 2 * hour, bench.configuration([bench.plan(["wrong.test"])]))
        #expect(try bench.status().attempts > 3)
        #expect(try bench.status().lastProblem?.kind == .dns)
        try await bench.run(for: 5)
        #expect(try bench.current() != nil)
    }

    // Method: everything that is logged, said as progress, or told as status, with failures among it, is searched for keys.
    @Test("case 43 perms_and_secrets: no key, signature or MAC key in what is said")
    func secrets() async throws {
        let bench = try ManagerBench { $0.externalAccounts = ["kid": Array("secret-secret-secret".utf8)] }
        var plan = bench.plan()
        plan.externalAccountBinding = .init(keyIdentifier: "kid", macKeyText: "c2VjcmV0LXNlY3JldC1zZWNyZXQ")
        let words = Mutex<[String]>([])
        bench.transfer.with { $0.intercept = { route, count, _ in route == .finalize && count == 0 ? .failure(.other("reset")) : nil } }
        var driver = bench.driver
        driver.observer = { progress in words.withLock { $0.append("\(progress) \(progress.step)") } }
        _ = try await ACMEOperations(driver: driver).obtain(bench.configuration([plan]), .ifDue)
        try await bench.run(for: 70 * day, bench.configuration([plan]))
        let said = (bench.logs.all + words.withLock { $0 } + ["\(try bench.status())"]).joined(separator: "\n")
        let account = try #require(try bench.directory.account(at: ManagerBench.first).record)
        for key in [account.key, try #require(try bench.current()).generation.key] {
            for line in String(decoding: try key.pem().bytes, as: UTF8.self).split(separator: "\n").dropFirst().dropLast() {
                #expect(!said.contains(line))
            }
        }
        #expect(!said.contains("c2VjcmV0") && !said.contains("PRIVATE") && !said.contains("eyJ"))
        #expect(said.contains("a new certificate is in use"))
    }

    @Test("a certificate that the server refuses is tried again, and the old one stays")
    func refusedInstall() async throws {
        let bench = try ManagerBench()
        let refusals = Mutex(0)
        try await bench.run(for: 4 * hour) { _ in
            let count = refusals.withLock { count in
                count += 1
                return count
            }
            if count < 3 { throw PresentingError("not now") }
        }
        #expect(bench.installed.withLock { $0 } == [1])
        #expect(bench.orders() == 1)
        #expect(bench.logs.count("the old one stays") == 2)
    }

    // Method: the task is cancelled in the step that brings the reply to newOrder.
    @Test("case 34 crash_matrix: an order that is made while somebody stops us is remembered, and resumed")
    func stoppedAtTheReply() async throws {
        let bench = try ManagerBench()
        var driver = bench.driver
        driver.observer = { progress in
            guard progress.isDone, case .send(_, url: let url) = progress.step, url.hasSuffix("/newOrder") else { return }
            unsafe withUnsafeCurrentTask { unsafe $0?.cancel() }
        }
        let operations = ACMEOperations(driver: driver)
        await #expect(throws: ACMEError(.cancelled, subject: "", "")) {
            try await Task { try await operations.obtain(bench.configuration(), .ifDue) }.value
        }
        #expect(bench.orders() == 1)
        #expect(try bench.directory.orders().first?.orderURL != nil)
        _ = try await bench.operations.obtain(bench.configuration(), .ifDue)
        #expect(try bench.current() != nil)
        #expect(bench.orders() == 1)
    }

    // Method: after a first certificate the CA's leaf has another name, is over, or its chain has a stranger on top.
    @Test("case 24 wrong_cert_returned: the certificate in place stays on disk and in use, and a right one replaces it", arguments: 0...2)
    func wrongCertificate(_ kind: Int) async throws {
        let bench = try ManagerBench()
        try await bench.run(for: hour)
        let first = try #require(try bench.current())
        let stranger = try TestAuthority(name: "Stranger").root
        bench.transfer.with { ca in
            switch kind {
            case 0: ca.change = { $0.alternativeNames = [.dns("other.example.test")] }
            case 1: ca.change = { $0.notAfter = $0.notBefore.adding(seconds: 60) }
            default: ca.changeChain = { $0 + [stranger] }
            }
        }
        try await bench.run(for: 63 * day)
        #expect(bench.logs.count("acme.certificateRejected") > 0)
        let kept = try bench.directory.load()
        #expect(kept.current?.number == 1 && kept.previous == nil && kept.warnings.isEmpty)
        #expect(kept.current?.generation.leaf == first.generation.leaf)
        #expect(kept.current?.generation.key.publicKeyPin == first.generation.key.publicKeyPin)
        #expect(Set(bench.installed.withLock { $0 }) == [1])
        bench.transfer.with { ca in
            ca.change = { _ in }
            ca.changeChain = { $0 }
        }
        try await bench.run(for: day)
        #expect(try bench.current()?.number == 2)
        #expect(bench.installed.withLock { $0.last } == 2)
    }

    @Test("a certificate that begins in a while is used from then on, and not before")
    func beginsLater() async throws {
        let bench = try ManagerBench { ca in ca.change = { $0.notBefore = $0.notBefore.adding(seconds: 3600 + 90) } }
        let moments = Mutex<[Int64]>([])
        try await bench.run(for: hour) { [clock = bench.clock] numbered in
            let begin = numbered.generation.leaf.notBefore
            moments.withLock { $0.append(clock.date.seconds(since: begin)) }
        }
        #expect(moments.withLock { $0 } == [0])
        #expect(bench.orders() == 1)
        #expect(bench.logs.count("it begins later") == 1)
    }

    // Method: while the CA is asked when to renew, another process revokes the certificate.
    @Test("what another process writes while the CA is asked is kept: a revoked certificate is replaced at once")
    func revokedMeanwhile() async throws {
        let bench = try ManagerBench { $0.givesRenewalInfo = true }
        let directory = bench.directory
        let isDone = Mutex(false)
        bench.transfer.with { ca in
            ca.intercept = { route, _, _ in
                guard route == .renewalInfo, !isDone.withLock({ $0 }), var current = try? directory.load().current else { return nil }
                isDone.withLock { $0 = true }
                current.generation.renewal.revoked = ManagerBench.begin
                try? directory.update(current)
                return nil
            }
        }
        try await bench.run(for: hour)
        #expect(try bench.current()?.number == 2)
        #expect(bench.orders() == 2)
    }

    @Test("a revoked certificate is replaced at once, with a new key")
    func revoked() async throws {
        let bench = try ManagerBench()
        try await bench.run(for: 600)
        let old = try #require(try bench.current()).generation
        try await bench.operations.revoke(old.leaf, reason: .keyCompromise, bench.plan())
        #expect(bench.transfer.with { $0.revoked.map(\.reason) } == [1])
        #expect(try bench.status().reason == "it was revoked")
        try await bench.run(for: 10)
        let new = try #require(try bench.current())
        #expect(new.number == 2 && new.generation.key.publicKeyPin != old.key.publicKeyPin)
        // Again is fine, and by the certificate's own key too.
        try await bench.operations.revoke(old.leaf, reason: nil, key: old.key, bench.plan())
    }
}
