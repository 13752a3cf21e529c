import FakeCA
import MWACME
import MWPKI
import TestCertificates
import Testing

@Suite struct OrderCases {
    @Test("case 7 nonce_reject: every issuance succeeds, however many nonces are refused", arguments: [(30 as UInt64, 100), (50, 50)])
    func nonceRejected(_ percent: UInt64, _ issuances: Int) throws {
        for seed in 0..<UInt64(issuances) {
            var bench = try Workbench(seed: seed)
            bench.ca.badNoncePercent = percent
            let outcome = try bench.issue()
            #expect(outcome.certificate != nil, "seed \(seed): \(String(describing: outcome.error))")
            #expect(bench.ca.orders.count == 1)
        }
    }

    @Test("case 7 nonce_reject: a CA that takes none is left")
    func nonceNeverAccepted() throws {
        var bench = try Workbench()
        bench.ca.badNoncePercent = 100
        #expect(try bench.issue().error?.code == .nonceUnavailable)
        #expect(bench.ca.count(.newAccount) == bench.plan.limits.maximumRejectedNonces + 1)
    }

    @Test("case 8 nonce_missing_in_reply: falls back to HEAD newNonce")
    func nonceMissing() throws {
        var bench = try Workbench()
        bench.ca.noncesInReplies = false
        #expect(try bench.issue().certificate != nil)
        #expect(bench.ca.count(.newNonce) > 5)
        #expect(bench.ca.complaints.isEmpty)
    }

    @Test("one certificate takes the requests it must, and no more")
    func floor() throws {
        var bench = try Workbench()
        bench.ca.validationPolls = 0
        let issued = try #require(try bench.issue().certificate)
        #expect(
            bench.steps == [
                "save order", "GET /directory", "save account", "HEAD /newNonce", "POST /newAccount", "save account", "POST /newOrder",
                "save order", "POST /authz/1", "present www.example.test tls-alpn-01", "POST /chall/1/tls-alpn-01", "POST /authz/1",
                "clean up www.example.test", "POST /order/1", "POST /finalize/1", "POST /cert/1",
            ])
        #expect(bench.ca.complaints.isEmpty)
        #expect(issued.generation.leaf.subject.isEmpty)
        _ = try issued.generation.identity()
    }

    @Test("case 12: a name and its wildcard have two records at once, both removed at the end")
    func wildcard() throws {
        var bench = try Workbench(["*.example.test", "example.test", "other.test"])
        bench.plan.challengePreference = [.dns01]
        let outcome = try bench.issue()
        #expect(outcome.certificate != nil)
        let same = bench.presented.filter { $0.dnsRecordName == "_acme-challenge.example.test." }
        #expect(Set(same.map(\.dnsRecordValue)).count == 2)
        let lastPresent = try #require(bench.steps.lastIndex { $0.hasPrefix("present") })
        let firstAnswer = try #require(bench.steps.firstIndex { $0.contains("/chall/") })
        #expect(lastPresent < firstAnswer)
        #expect(bench.ca.world.isEmpty)
    }

    @Test("case 12: a hook that fails aborts, and cleans up what was done")
    func hookFails() throws {
        var bench = try Workbench(["*.example.test", "www.test"])
        bench.unpresentable = [.dns01]
        let error = try #require(try bench.issue().error)
        #expect(error.code == .challengeNotPresented)
        #expect(bench.steps.contains("clean up *.example.test"))
        #expect(bench.ca.world.isEmpty)
        #expect(!bench.steps.contains { $0.contains("/chall/") })
    }

    @Test("a challenge that cannot be presented gives way to the next preferred one")
    func nextChallenge() throws {
        var bench = try Workbench()
        bench.unpresentable = [.tlsALPN01]
        let issued = try #require(try bench.issue().certificate)
        #expect(bench.presented.map(\.type) == [.http01])
        #expect(issued.warnings.count == 1)
    }

    @Test("case 13 ip_identifier v4/v6: ordered as ip, proved without DNS", arguments: ["192.0.2.7", "2001:DB8::0:1"])
    func address(_ text: String) throws {
        var bench = try Workbench([text, "www.example.test"])
        let issued = try #require(try bench.issue().certificate)
        #expect(issued.generation.leaf.ipAddresses == [try #require(AddressText.canonical(text))])
    }

    @Test("case 14 unknown_challenge_types: passed over; a token that is no token is not used")
    func unknownChallenges() throws {
        var bench = try Workbench()
        bench.ca.challengeTypes = ["unheard-01"]
        let error = try #require(try bench.issue().error)
        #expect(error.code == .challengeUnavailable)
        #expect(error.description.contains("unheard-01"))
        bench = try Workbench()
        bench.ca.intercept = { route, _, _ in
            guard route == .authorization else { return nil }
            return .response(HTTPResponse(status: 200, body: Array(Self.hostileAuthorization.utf8)))
        }
        #expect(try bench.issue().error?.code == .challengeUnavailable)
        #expect(bench.presented.isEmpty)
    }

    static let hostileAuthorization = #"""
        {"status":"pending","identifier":{"type":"dns","value":"www.example.test"},"challenges":[
        {"type":"http-01","url":"https://ca.test/chall/1/http-01","token":"../../etc/passwd"},
        {"type":"tls-alpn-01","url":"https://ca.test/chall/1/tls-alpn-01","token":""},
        {"type":"dns-01","url":"http://ca.test/chall/1/dns-01","token":"good"},{"type":7},"text",{}]}
        """#

    @Test("case 15 authz_already_valid: no challenge is answered", arguments: [0, 1])
    func alreadyValid(_ readyPolls: Int) throws {
        var bench = try Workbench(["a.test", "b.test"])
        bench.ca.authorizationsAreValid = true
        bench.ca.readyPolls = readyPolls
        #expect(try bench.issue().certificate != nil)
        #expect(bench.presented.isEmpty)
        #expect(bench.ca.count(.challenge) == 0)
    }

    @Test("case 16 challenge_fails: type, detail and each identifier are told; everything is cleaned up")
    func challengeFails() throws {
        var bench = try Workbench(["a.test", "b.test", "c.test"])
        bench.plan.challengePreference = [.http01]
        bench.ca.refusedNames = [.dns("a.test"): "dns", .dns("c.test"): "connection"]
        let outcome = try bench.issue()
        guard case .failed(let error, let keepsOrder) = outcome else {
            Issue.record("it did not fail")
            return
        }
        #expect(error.code == .challengeFailed)
        #expect(error.disposition == .retry)
        #expect(!keepsOrder)
        let problem = try #require(error.problem)
        #expect(Set(problem.subproblems.compactMap(\.identifier?.description)) == ["a.test", "c.test"])
        #expect(Set(problem.subproblems.compactMap(\.kind)) == [.dns, .connection])
        #expect(error.description.contains("cannot validate a.test"))
        #expect(error.description.contains("cannot validate c.test"))
        #expect(bench.ca.world.isEmpty)
        #expect(bench.ca.count(.finalize) == 0)
    }

    @Test("case 17 subproblems_two_of_three: names the bad identifiers")
    func subproblems() throws {
        var bench = try Workbench(["a.test", "b.test", "c.test"])
        func sub(_ name: String, _ type: String) -> JSONValue {
            .object([
                "type": .string("urn:ietf:params:acme:error:\(type)"), "detail": .string("not \(name)"),
                "identifier": .object(["type": .string("dns"), "value": .string(name)]),
            ])
        }
        bench.ca.intercept = { route, _, _ in
            guard route == .newOrder else { return nil }
            return FakeCA.problemResponse(
                403, "rejectedIdentifier", "some",
                more: ["subproblems": .array([sub("a.test", "rejectedIdentifier"), sub("c.test", "caa")])])
        }
        let error = try #require(try bench.issue().error)
        #expect(error.problem?.subproblems.compactMap(\.identifier) == [.dns("a.test"), .dns("c.test")])
        #expect(error.description.contains("a.test: rejectedIdentifier: not a.test"))
        #expect(error.description.contains("c.test: caa: not c.test"))
        #expect(!error.description.contains("b.test:"))
    }

    @Test("case 18 order_ready_wait: finalize only when it is ready")
    func readyWait() throws {
        var bench = try Workbench()
        bench.ca.readyPolls = 5
        #expect(try bench.issue().certificate != nil)
        #expect(bench.ca.count(.finalize) == 1)
        #expect(bench.ca.count(.order) == 6)
    }

    @Test("case 18 order_ready_wait: orderNotReady is asked again")
    func notReady() throws {
        var bench = try Workbench()
        bench.ca.intercept = { route, count, _ in
            route == .finalize && count < 2 ? FakeCA.problemResponse(403, "orderNotReady") : nil
        }
        #expect(try bench.issue().certificate != nil)
        #expect(bench.ca.count(.finalize) == 3)
        #expect(bench.ca.orders.count == 1)
    }

    // Method: the date is written for the clock of the test, 90 seconds ahead of each reply.
    @Test("case 19 finalize_async: Retry-After is honoured, in seconds and as a date", arguments: [false, true])
    func processing(_ asDate: Bool) throws {
        var bench = try Workbench()
        bench.now.date = try #require(Timestamp(year: 2026, month: 12, day: 24, hour: 12))
        bench.ca.validationPolls = 0
        bench.ca.processingPolls = 1
        bench.ca.retryAfter = asDate ? "Thu, 24 Dec 2026 12:01:30 GMT" : "90"
        #expect(try bench.issue().certificate != nil)
        #expect(bench.waits == [.seconds(90)])
    }

    @Test("case 19 finalize_async: without Retry-After the pauses grow, up to a cap")
    func ownBackoff() throws {
        var bench = try Workbench()
        bench.ca.processingPolls = 14
        bench.ca.validationPolls = 0
        #expect(try bench.issue().certificate != nil)
        #expect(bench.waits.count == 14)
        #expect(bench.waits[0] < .milliseconds(100))
        #expect(bench.waits[13] > .seconds(7))
        #expect(bench.waits.allSatisfy { $0 <= .milliseconds(12_500) })
    }

    @Test("case 19 finalize_async: it ends, keeps the order, and goes on from there next time")
    func processingForever() throws {
        var bench = try Workbench()
        bench.ca.processingPolls = .max
        let outcome = try bench.issue()
        #expect(outcome.error?.code == .timedOut)
        #expect(bench.savedOrder?.orderURL == FakeCA.url("order", 1))
        #expect(bench.waits.reduce(.zero, +) <= bench.plan.limits.processingTimeout)
        bench.ca.processingPolls = 0
        #expect(try bench.issue().certificate != nil)
        #expect(bench.ca.orders.count == 1)
    }

    @Test("case 20 rate_limited: no request before Retry-After, which survives a restart")
    func rateLimited() throws {
        var bench = try Workbench()
        bench.ca.intercept = { route, count, _ in
            route == .newOrder && count == 0 ? FakeCA.problemResponse(429, "rateLimited", headers: [.init("Retry-After", "7200")]) : nil
        }
        let start = bench.now.date
        let error = try #require(try bench.issue().error)
        #expect(error.code == .rateLimited)
        #expect(error.retryAt == start.adding(seconds: 7200))
        #expect(error.disposition == .retryOrFallback)
        let requests = bench.ca.counts
        bench.now = bench.now.advanced(by: .seconds(7199))
        #expect(try bench.issue().error?.code == .rateLimited)
        #expect(bench.ca.counts == requests)
        bench.now = bench.now.advanced(by: .seconds(1))
        #expect(try bench.issue().certificate != nil)
        #expect(bench.account.retryAt == nil)
    }

    @Test("case 20 rate_limited: without Retry-After the schedule backs off with jitter")
    func rateLimitedWithoutDate() throws {
        var bench = try Workbench()
        bench.ca.intercept = { route, _, _ in route == .newOrder ? FakeCA.problemResponse(429, "rateLimited") : nil }
        let error = try #require(try bench.issue().error)
        #expect(error.retryAt == nil)
        #expect(bench.ca.count(.newOrder) == 1)
        var random = SplitMix64(seed: 3)
        let pauses = (1...20).map { attempt in
            RenewalSchedule.retryPause(attempts: attempt, disposition: error.disposition, remaining: nil, random: &random)
        }
        #expect(pauses[0] >= 108 && pauses[0] <= 132)
        #expect(pauses[3] > pauses[2] && pauses[2] > pauses[1])
        #expect(pauses[19] <= RenewalSchedule.maximumRetrySeconds * 11 / 10)
        #expect(Set(pauses.suffix(5)).count > 1)
    }

    @Test("case 22 directory_redirect_and_change: GET follows, POST does not, and the directory is read anew")
    func redirects() throws {
        var bench = try Workbench()
        bench.plan.directoryURL = "\(FakeCA.base)/old/directory"
        bench.account = AccountRecord(directoryURL: bench.plan.directoryURL, key: bench.account.key)
        bench.ca.intercept = { route, _, _ in
            route == .unknown ? .response(HTTPResponse(status: 301, headers: [.init("Location", "/directory")])) : nil
        }
        #expect(try bench.issue().certificate != nil)
        #expect(try bench.issue().certificate != nil)
        #expect(bench.ca.count(.directory) == 2)
        bench.ca.intercept = { route, _, _ in
            switch route {
            case .unknown: .response(HTTPResponse(status: 301, headers: [.init("Location", "/directory")]))
            case .newOrder: .response(HTTPResponse(status: 307, headers: [.init("Location", "https://elsewhere.test/newOrder")]))
            default: nil
            }
        }
        #expect(try bench.issue().error?.code == .redirectRefused)
        // Three directories by their old name; a followed POST would be a fourth request to a page the CA does not have.
        #expect(bench.ca.count(.unknown) == 3)
        #expect(bench.ca.count(.newOrder) == 3)
    }

    @Test(
        "case 22: a redirect to plain HTTP, or in a circle, is not followed", arguments: ["http://ca.test/directory", "/old/directory", ""])
    func badRedirects(_ location: String) throws {
        var bench = try Workbench()
        bench.plan.directoryURL = "\(FakeCA.base)/old/directory"
        bench.ca.intercept = { _, _, _ in .response(HTTPResponse(status: 302, headers: [.init("Location", location)])) }
        #expect(try bench.issue().error?.code == .redirectRefused)
        #expect(bench.ca.count(.unknown) <= bench.plan.limits.maximumRedirects + 1)
    }

    @Test("case 23 alternate_chain: chosen by the root's name, or by a key identifier")
    func alternateChain() throws {
        var bench = try Workbench()
        bench.plan.chainPreference = .rootCommonName("Other Root")
        let issued = try #require(try bench.issue().certificate)
        #expect(issued.generation.chain[1].issuerCommonName == "Other Root")
        #expect(issued.warnings.isEmpty)
        bench.plan.chainPreference = .keyIdentifier(try #require(bench.ca.otherRoot.certificate.subjectKeyIdentifier))
        #expect(try bench.issue().certificate?.generation.chain[1].issuerCommonName == "Other Root")
        bench.plan.chainPreference = .rootCommonName("Fake Root")
        let before = bench.ca.count(.certificate)
        #expect(try bench.issue().certificate?.generation.chain[1].issuerCommonName == "Fake Root")
        #expect(bench.ca.count(.certificate) == before + 1)
    }

    @Test("case 23 alternate_chain: absent, the default is used and it says so")
    func alternateChainAbsent() throws {
        var bench = try Workbench()
        bench.plan.chainPreference = .rootCommonName("No Such Root")
        let issued = try #require(try bench.issue().certificate)
        #expect(issued.generation.chain[1].issuerCommonName == "Fake Root")
        #expect(issued.warnings.count == 1)
    }

    enum Fault: CaseIterable { case otherKey, missingName, expired, notYetValid, leafOnly, wrongIssuer, garbage, empty }

    @Test("case 24 wrong_cert_returned: rejected", arguments: Fault.allCases)
    func wrongCertificate(_ fault: Fault) throws {
        var bench = try Workbench(["a.test", "b.test"])
        let stranger = try bench.ca.intermediate.issueServer(names: ["a.test", "b.test"])
        let root = bench.ca.root.certificate
        switch fault {
        case .otherKey: bench.ca.changeChain = { [stranger.leaf] + $0.dropFirst() }
        case .missingName: bench.ca.change = { $0.alternativeNames.removeLast() }
        case .expired: bench.ca.change = { $0.notAfter = $0.notBefore.adding(seconds: 60) }
        case .notYetValid: bench.ca.change = { $0.notBefore = $0.notAfter.adding(seconds: -86_400) }
        case .leafOnly: bench.ca.changeChain = { Array($0.prefix(1)) }
        case .wrongIssuer: bench.ca.changeChain = { [$0[0], root] }
        case .garbage:
            bench.ca.intercept = { route, _, _ in route == .certificate ? .response(HTTPResponse(status: 200, body: [1, 2, 3])) : nil }
        case .empty: bench.ca.intercept = { route, _, _ in route == .certificate ? .response(HTTPResponse(status: 200)) : nil }
        }
        let outcome = try bench.issue()
        #expect(outcome.error?.code == .certificateRejected)
        // What may be had later is not ordered again.
        let mayBeFine = [.notYetValid, .garbage, .empty].contains(fault)
        #expect((bench.savedOrder != nil) == mayBeFine)
        #expect(bench.ca.orders.count == 1)
    }

    @Test("case 39 clock_skew: a certificate that begins within the next hour is taken")
    func slowClock() throws {
        var bench = try Workbench()
        bench.ca.change = { $0.notBefore = $0.notBefore.adding(seconds: CertificateBuilder.backdatingSeconds + 3500) }
        #expect(try bench.issue().certificate != nil)
    }

    @Test("case 32 profile_ok, required_unknown, preferred_unknown")
    func profiles() throws {
        var bench = try Workbench()
        bench.ca.profiles = ["shortlived", "classic"]
        bench.plan.profile = .required("shortlived")
        #expect(try bench.issue().certificate?.generation.profile == "shortlived")
        #expect(bench.ca.orders.map(\.profile) == ["shortlived"])
        bench.plan.profile = .required("none")
        let error = try #require(try bench.issue().error)
        #expect(error.code == .profileUnknown)
        #expect(error.description.contains("classic, shortlived"))
        #expect(bench.ca.orders.count == 1)
        bench.plan.profile = .preferred("none")
        let issued = try #require(try bench.issue().certificate)
        #expect(issued.warnings.count == 1)
        #expect(bench.ca.orders.map(\.profile) == ["shortlived", nil])
    }

    @Test("case 35 disk_full: found before there is an order", arguments: 1...4)
    func diskFull(_ save: Int) throws {
        var bench = try Workbench()
        bench.failingSave = save
        let error = try #require(try bench.issue().error)
        #expect(error.code == .stateUnwritable)
        #expect(error.disposition == .retry)
        #expect(bench.ca.orders.count == (save == 4 ? 1 : 0))
        #expect(bench.ca.count(.newAccount) == (save < 3 ? 0 : 1))
    }

    @Test("plans that no CA could fulfil are refused before any request")
    func badPlans() throws {
        var bench = try Workbench([])
        #expect(try bench.issue().error?.code == .planInvalid)
        bench = try Workbench(["*.example.test"])
        bench.plan.challengePreference = [.http01]
        #expect(try bench.issue().error?.code == .planInvalid)
        bench = try Workbench(["192.0.2.1"])
        bench.plan.challengePreference = [.dns01]
        #expect(try bench.issue().error?.code == .planInvalid)
        bench = try Workbench()
        bench.plan.directoryURL = "http://ca.test/directory"
        #expect(try bench.issue().error?.code == .planInvalid)
        bench = try Workbench()
        bench.plan.keyAlgorithm = .ed25519
        #expect(try bench.issue().error?.code == .planInvalid)
        #expect(bench.ca.counts.isEmpty)
    }

    @Test("every kind of certificate key", arguments: [KeyAlgorithm.ec(.p256), .ec(.p384), .rsa(bits: 2048)])
    func keyKinds(_ kind: KeyAlgorithm) throws {
        var bench = try Workbench()
        bench.plan.keyAlgorithm = kind
        #expect(try bench.issue().certificate?.generation.leaf.keyAlgorithm == kind)
    }
}
