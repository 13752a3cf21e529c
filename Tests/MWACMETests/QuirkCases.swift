import FakeCA
import MWACME
import MWPKI
import Testing

// Method of all: the machine against the fake CA, which is told to do what some CA in use does.
@Suite struct QuirkCases {
    @Test(
        "a challenge that failed is told with the CA's words at once, whatever the authorization shows of it",
        arguments: FakeCA.FailedChallenge.allCases)
    func failedChallenge(_ form: FakeCA.FailedChallenge) throws {
        var bench = try Workbench(["a.test", "b.test"])
        bench.plan.challengePreference = [.http01]
        bench.ca.failedChallenge = form
        bench.ca.refusedNames = [.dns("a.test"): "connection"]
        let outcome = try bench.issue()
        guard case .failed(let error, let keepsOrder) = outcome else {
            Issue.record("it did not fail")
            return
        }
        #expect(error.code == .challengeFailed)
        #expect(error.problem?.kind == .connection)
        #expect(error.problem?.identifier == .dns("a.test"))
        #expect(error.description.contains("cannot validate a.test"))
        #expect(!keepsOrder)
        #expect(bench.ca.world.isEmpty)
        #expect(bench.waits.reduce(.zero, +) < .seconds(5))
        bench.ca.refusedNames = [:]
        #expect(try bench.issue().certificate != nil)
    }

    // Method: the challenge's error goes with `processing`, as that of a CA that looks again (RFC 8555 §8.2).
    @Test("a challenge that is tried again by the CA is waited for")
    func retriedByCA() throws {
        var bench = try Workbench()
        bench.plan.challengePreference = [.http01]
        bench.ca.intercept = { route, count, _ in
            guard route == .authorization, (1...3).contains(count) else { return nil }
            let challenge = #"{"type":"http-01","url":"\#(FakeCA.url("chall", 1))/http-01","token":"\#(FakeCA.token(1))","#
            let error = #""status":"processing","error":{"type":"urn:ietf:params:acme:error:connection"}}"#
            let body = #"{"status":"pending","identifier":{"type":"dns","value":"www.example.test"},"challenges":[\#(challenge)\#(error)]}"#
            return .response(HTTPResponse(status: 200, body: Array(body.utf8)))
        }
        #expect(try bench.issue().certificate != nil)
        #expect(bench.ca.count(.authorization) > 4)
    }

    @Test("relative URLs are resolved against where they were found")
    func relativeURLs() throws {
        var bench = try Workbench(["a.test", "b.test"])
        bench.ca.hasRelativeURLs = true
        bench.plan.chainPreference = .rootCommonName("Other Root")
        #expect(try bench.issue().certificate?.warnings == [])
        #expect(bench.account.url == FakeCA.url("account", 1))
        #expect(bench.ca.complaints.isEmpty)
        _ = try bench.operate(.rollover(to: try .generate())).get()
    }

    @Test("fields that are empty or null are absent")
    func emptyFields() throws {
        var bench = try Workbench()
        bench.ca.hasEmptyFields = true
        bench.ca.processingPolls = 1
        bench.plan.termsOfServiceAgreed = false
        let generation = try #require(try bench.issue().certificate).generation
        let refused = try bench.operate(.revoke(generation.leaf, reason: nil))
        #expect(refused.failure?.code == .planInvalid)
        #expect(refused.failure?.description.contains("offers no revocation") == true)
    }

    @Test("an order has `authorizations` only while it needs them, and `finalize` only when ready")
    func sparseOrders() throws {
        var bench = try Workbench()
        bench.ca.hasSparseOrders = true
        bench.ca.processingPolls = 1
        #expect(try bench.issue().certificate != nil)
    }

    @Test("an order that is ready and cannot be finalized, or pending with nothing to prove, is an error", arguments: ["ready", "pending"])
    func incompleteOrder(_ status: String) throws {
        var bench = try Workbench()
        bench.ca.intercept = { route, _, _ in
            guard route == .newOrder else { return nil }
            return .response(
                HTTPResponse(
                    status: 201, headers: [.init("Location", FakeCA.url("order", 1))], body: Array(#"{"status":"\#(status)"}"#.utf8)))
        }
        #expect(try bench.issue().error?.code == .replyMalformed)
        #expect(bench.ca.count(.order) == 0)
    }

    @Test("a URL of another scheme is no relative one", arguments: ["ftp://ca.test/newOrder", "javascript:x", "http://ca.test/newOrder"])
    func otherScheme(_ url: String) throws {
        var bench = try Workbench()
        let text = String(decoding: bench.ca.directory.encoded, as: UTF8.self)
            .split(separator: "\(FakeCA.base)/newOrder", omittingEmptySubsequences: false).joined(separator: url)
        bench.ca.intercept = { route, _, _ in route == .directory ? .response(HTTPResponse(status: 200, body: Array(text.utf8))) : nil }
        #expect(try bench.issue().error?.description.contains("\"newOrder\" is no https URL") == true)
    }

    // MARK: - Certificates that may have been issued

    @Test("what is issued and cannot be had is asked for again, not ordered again", arguments: [403, 404])
    func downloadRefused(_ status: Int) throws {
        var bench = try Workbench()
        bench.ca.intercept = { route, _, _ in route == .certificate ? FakeCA.problemResponse(status, "malformed") : nil }
        guard case .failed(_, keepsOrder: true) = try bench.issue() else {
            Issue.record("the order is given up")
            return
        }
        bench.ca.intercept = { _, _, _ in nil }
        #expect(try bench.issue().certificate != nil)
        #expect(bench.ca.orders.count == 1)
    }

    @Test("an order that is not found after finalize is looked at again")
    func orderGoneAfterFinalize() throws {
        var bench = try Workbench()
        bench.ca.processingPolls = 1
        bench.ca.intercept = { route, count, _ in route == .order && count == 1 ? FakeCA.problemResponse(404, "malformed") : nil }
        guard case .failed(_, keepsOrder: true) = try bench.issue() else {
            Issue.record("the order is given up")
            return
        }
        #expect(try bench.issue().certificate != nil)
        #expect(bench.ca.orders.count == 1)
    }

    // Method: the same reply a day later, and with a clock that was set back by more.
    @Test("what cannot be had for a day is ordered anew", arguments: [86_401, -86_401])
    func unclearForTooLong(_ seconds: Int64) throws {
        var bench = try Workbench()
        bench.ca.intercept = { route, _, _ in route == .certificate ? .response(HTTPResponse(status: 200, body: [1, 2, 3])) : nil }
        #expect(try bench.issue().error?.code == .certificateRejected)
        #expect(bench.savedOrder != nil)
        bench.now.date = bench.now.date.adding(seconds: seconds)
        #expect(try bench.issue().error?.code == .certificateRejected)
        #expect(bench.savedOrder == nil)
        #expect(bench.ca.orders.count == 1)
    }

    @Test("a clock that is slow burns no certificate: it is taken once the clock is right")
    func slowClockSetRight() throws {
        var bench = try Workbench()
        // Beyond the tolerated skew, whatever the builder takes off.
        let lead: Int64 = 4 * 3600
        bench.ca.change = { $0.notBefore = $0.notBefore.adding(seconds: lead) }
        #expect(try bench.issue().error?.code == .certificateRejected)
        bench.now = bench.now.advanced(by: .seconds(lead))
        #expect(try bench.issue().certificate != nil)
        #expect(bench.ca.orders.count == 1)
    }

    // MARK: - Finalize

    // Method: ten seconds more, as a request and its reply take time that the clock of the test does not have.
    @Test("a CA that asks to wait ten minutes for the certificate is waited for")
    func tenMinutes() throws {
        var bench = try Workbench()
        bench.ca.validationPolls = 0
        bench.ca.processingPolls = 1
        bench.ca.retryAfter = "610"
        #expect(try bench.issue().certificate != nil)
        #expect(bench.waits == [.seconds(610)])
    }

    // Method: finalize has its effect, answers 500, and the order processes for ever.
    @Test("what the CA said to finalize is told when the order is not done in time, and after an hour another is made")
    func finalizeFails() throws {
        var bench = try Workbench()
        bench.ca.intercept = { route, count, _ in
            switch route {
            case .finalize: return FakeCA.problemResponse(500, "serverInternal", "the backend is away")
            case .order where count > 0:
                return .response(HTTPResponse(status: 200, body: Array(#"{"status":"processing"}"#.utf8)))
            default: return nil
            }
        }
        let error = try #require(try bench.issue().error)
        #expect(error.code == .timedOut)
        #expect(error.description.contains("the backend is away"))
        #expect(bench.ca.count(.finalize) == 1)
        let before = bench.ca.count(.order)
        bench.now = bench.now.advanced(by: .seconds(3600))
        bench.ca.intercept = { route, count, _ in
            guard route == .order, count == before else { return nil }
            return .response(HTTPResponse(status: 200, body: Array(#"{"status":"processing"}"#.utf8)))
        }
        #expect(try bench.issue().certificate != nil)
        #expect(bench.ca.orders.count == 2)
    }

    // MARK: - Answers

    // Method: the CA validates and its reply is lost, each time.
    @Test("a reply to the answer that never comes is no failure: the authorization tells")
    func answerLost() throws {
        var bench = try Workbench()
        bench.ca.intercept = { route, _, _ in route == .challenge ? .lost : nil }
        #expect(try bench.issue().certificate != nil)
        #expect(bench.ca.orders.count == 1)
    }

    @Test("why an answer was refused is told when the authorization never becomes valid")
    func answerRefused() throws {
        var bench = try Workbench()
        bench.ca.intercept = { route, _, _ in route == .challenge ? FakeCA.problemResponse(400, "malformed", "no such token here") : nil }
        let error = try #require(try bench.issue().error)
        #expect(error.code == .timedOut)
        #expect(error.description.contains("no such token here"))
        #expect(bench.ca.world.isEmpty)
    }
}
