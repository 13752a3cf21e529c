import ACMEPeers
import FakeCA
import Foundation
import MWACME
import MWPKI
import TestCertificates
import Testing

/// Cases that no real CA can be made to do: a scripted CA behind real HTTPS. Through libcurl, and against the clock of the wall.
@Suite("ACME orders at a CA that does wrong")
struct FakeOrderCases {
    @Test("case 4 tos_changed_userActionRequired: told with the page to open, and not repeated")
    func termsChanged() async throws {
        let ca = try FakeHTTPSCA()
        ca.with { ca in
            ca.intercept = { route, _, _ in
                guard route == .newOrder else { return nil }
                return FakeCA.problemResponse(
                    403, "userActionRequired", "terms of service have changed",
                    headers: [.init("Link", "<https://ca.example/terms/v2>;rel=\"terms-of-service\"")],
                    more: ["instance": .string("https://ca.example/agree/7")])
            }
        }
        var bench = try PeerBench(ca)
        let error = try #require(try await bench.issue().error)
        #expect(error.code == .termsNotAccepted)
        #expect(error.disposition == .permanent)
        #expect(error.description.contains("https://ca.example/agree/7") || error.description.contains("https://ca.example/terms/v2"))
        #expect(ca.with { $0.count(.newOrder) } == 1)
    }

    @Test("case 8 nonce_missing_in_reply: HEAD newNonce is asked instead")
    func nonceMissing() async throws {
        let ca = try FakeHTTPSCA()
        ca.with { $0.noncesInReplies = false }
        var bench = try PeerBench(ca)
        #expect(try await bench.issue().certificate != nil)
        #expect(ca.with { $0.count(.newNonce) } > 5)
        #expect(ca.with { $0.complaints.isEmpty })
    }

    static let hostileAuthorization = #"""
        {"status":"pending","identifier":{"type":"dns","value":"www.example.test"},"challenges":[
        {"type":"quantum-01"},{"type":"http-01","url":"https://ca.test/chall/1/http-01","token":"../x"},
        {"type":"http-01","url":"https://ca.test/chall/1/http-01","token":"a b"},{"type":7},"text",{}]}
        """#

    // Method: first unknown types beside known ones, one of them without a token; then nothing but unknown ones and bad tokens.
    @Test("case 14 unknown_challenge_types: passed over; a token that is a path is presented nowhere")
    func unknownTypes() async throws {
        let ca = try FakeHTTPSCA()
        ca.with { $0.challengeTypes = ["unheard-01", "http-01"] }
        var bench = try PeerBench(ca)
        #expect(try await bench.issue().certificate != nil)
        ca.with { ca in
            ca.intercept = { route, _, _ in
                route == .authorization ? .response(HTTPResponse(status: 200, body: Array(Self.hostileAuthorization.utf8))) : nil
            }
        }
        let before = bench.presented.count
        let error = try #require(try await bench.issue().error)
        #expect(error.code == .challengeUnavailable)
        #expect(error.description.contains("quantum-01"))
        #expect(bench.presented.count == before)
    }

    @Test("case 17 subproblems_two_of_three: the CA's subproblems name the bad names, and so do we")
    func subproblems() async throws {
        let ca = try FakeHTTPSCA()
        ca.with { ca in
            ca.intercept = { route, _, _ in
                guard route == .newOrder else { return nil }
                return FakeCA.problemResponse(
                    403, "rejectedIdentifier", "some",
                    more: ["subproblems": .array([Self.subproblem("a.test", "rejectedIdentifier"), Self.subproblem("c.test", "caa")])])
            }
        }
        var bench = try PeerBench(ca, ["a.test", "b.test", "c.test"])
        let error = try #require(try await bench.issue().error)
        #expect(error.problem?.subproblems.compactMap(\.identifier) == [.dns("a.test"), .dns("c.test")])
        #expect(error.description.contains("a.test: rejectedIdentifier: not a.test"))
        #expect(error.description.contains("c.test: caa: not c.test"))
        #expect(!error.description.contains("b.test:"))
    }

    private static func subproblem(_ name: String, _ type: String) -> JSONValue {
        .object([
            "type": .string("urn:ietf:params:acme:error:\(type)"), "detail": .string("not \(name)"),
            "identifier": .object(["type": .string("dns"), "value": .string(name)]),
        ])
    }

    @Test("case 18 order_ready_wait: finalize is sent when it is ready, and again after orderNotReady")
    func readyWait() async throws {
        let ca = try FakeHTTPSCA()
        ca.with { $0.readyPolls = 2 }
        var bench = try PeerBench(ca)
        #expect(try await bench.issue().certificate != nil)
        #expect(ca.with { $0.count(.finalize) } == 1)
        ca.with { ca in
            ca.readyPolls = 0
            ca.counts[.finalize] = 0
            ca.intercept = { route, count, _ in route == .finalize && count < 2 ? FakeCA.problemResponse(403, "orderNotReady") : nil }
        }
        #expect(try await bench.issue().certificate != nil)
        #expect(ca.with { $0.count(.finalize) } == 3)
        #expect(ca.with { $0.orders.count } == 2)
    }

    // Method: the CA says once to come back after a second or two, which is waited for; the date is of its clock, rounded to seconds. On a
    // busy machine it may be over when the reply is there: then a later one is given.
    @Test("case 19 finalize_async: Retry-After in seconds and as a date is waited for", arguments: [false, true])
    func retryAfter(_ asDate: Bool) async throws {
        var (seconds, waits) = (Int64(3), [Duration]())
        while !waits.contains(where: { $0 > .milliseconds(500) }), seconds < 100 {
            let ca = try FakeHTTPSCA()
            ca.with { ca in
                ca.validationPolls = 0
                ca.processingPolls = 1
                ca.retryAfter = asDate ? HTTPDate.text(.now().adding(seconds: seconds)) : "1"
            }
            var bench = try PeerBench(ca)
            #expect(try await bench.issue().certificate != nil)
            #expect(bench.waits.allSatisfy { $0 <= .seconds(seconds) }, "\(bench.waits)")
            waits = bench.waits
            seconds *= 2
        }
        #expect(waits.contains { $0 > .milliseconds(500) }, "\(waits)")
    }

    @Test("case 19 finalize_async: `processing` without end is given up, and the order kept")
    func processingForever() async throws {
        let ca = try FakeHTTPSCA()
        ca.with { $0.processingPolls = .max }
        var bench = try PeerBench(ca)
        let patience = bench.plan.limits.processingTimeout
        bench.plan.limits.processingTimeout = .milliseconds(400)
        #expect(try await bench.issue().error?.code == .timedOut)
        ca.with { $0.processingPolls = 0 }
        bench.plan.limits.processingTimeout = patience
        #expect(try await bench.issue().certificate != nil)
        #expect(ca.with { $0.orders.count } == 1)
    }

    // Method: the account's record is written and read as a restart does; the CA counts what arrives.
    @Test("case 20 rate_limited: Retry-After of two hours is kept across a restart, and nothing is asked before")
    func rateLimited() async throws {
        let ca = try FakeHTTPSCA()
        ca.with { ca in
            ca.intercept = { route, _, _ in
                route == .newOrder ? FakeCA.problemResponse(429, "rateLimited", headers: [.init("Retry-After", "7200")]) : nil
            }
        }
        var bench = try PeerBench(ca)
        let error = try #require(try await bench.issue().error)
        #expect(error.code == .rateLimited)
        let wait = try #require(error.retryAt).seconds(since: .now())
        #expect((7000...7200).contains(wait))
        let requests = ca.requestCount
        bench.account = try AccountRecord(decoding: try bench.account.encoded(), source: "account")
        #expect(try await bench.issue().error?.code == .rateLimited)
        #expect(ca.requestCount == requests)
    }

    static let faults: [(FakeHTTPSCA.WireFault, ACMEError.Code)] = [
        (.reset, .transferFailed), (.hangUp, .transferFailed), (.truncated, .transferFailed), (.garbage, .transferFailed),
        (.slowLoris, .transferFailed), (.oversized, .replyTooLarge), (.html, .replyMalformed), (.error500, .serverFailed),
        (.error503, .serverFailed),
    ]
    static let routes: [FakeCA.Route] = [.directory, .newAccount, .newOrder, .certificate]

    // Method: the fault for every request of that kind; afterwards the CA is well, and the next attempt succeeds.
    @Test("case 21 server_errors: bounded repetitions and a typed error; then it goes on", arguments: faults, routes)
    func serverErrors(_ fault: (FakeHTTPSCA.WireFault, ACMEError.Code), _ route: FakeCA.Route) async throws {
        let ca = try FakeHTTPSCA()
        ca.setFault { asked, _ in asked == route ? fault.0 : nil }
        var bench = try PeerBench(ca)
        bench.plan.limits.maximumFailures = 2
        bench.plan.limits.requestTimeout = fault.0 == .slowLoris ? .milliseconds(300) : .seconds(20)
        bench.plan.limits.maximumInlineWait = .milliseconds(1500)
        // Nothing but the fault is late, however busy the machine is.
        let base = ca.with { $0.base }
        bench.hasTime = { FakeCA.route($0.url, base: base).0 != route }
        let error = try #require(try await bench.issue().error)
        // A chain that is no chain, however it comes.
        if !(route == .certificate && fault.0 == .html) { #expect(error.code == fault.1, "\(error)") }
        // libcurl itself repeats what a kept connection lost before a byte of the reply; the nonce makes that harmless.
        #expect(ca.with { $0.count(route) } <= 2 * (bench.plan.limits.maximumFailures + 1))
        #expect(ca.with { $0.world.isEmpty })
        ca.setFault { _, _ in nil }
        bench.account.retryAt = nil
        bench.hasTime = { _ in true }
        #expect(try await bench.issue().certificate != nil)
        // A certificate that was issued is not burned.
        if route == .certificate { #expect(ca.with { $0.orders.count } == 1) }
    }

    @Test("case 21 server_errors: a CA whose TLS nobody vouches for is not spoken to")
    func wrongAuthority() async throws {
        let ca = try FakeHTTPSCA()
        let directory = try TemporaryDirectory()
        let other = try directory.write("other.pem", TestAuthority(name: "Somebody else").root.pem)
        var bench = try PeerBench(
            directoryURL: ca.directoryURL, trustFile: other,
            PeerBench.Presenter(type: .http01) { _ in
            } remove: { _ in
            }, ["www.example.test"])
        let error = try #require(try await bench.issue().error)
        #expect(error.code == .tlsFailed)
        #expect(ca.requestCount == 0)
    }

    // Method: the directory is at an old address, which redirects; then newOrder redirects elsewhere.
    @Test("case 22 directory_redirect_and_change: a GET follows, a POST never does, and the directory is read in each cycle")
    func redirects() async throws {
        let ca = try FakeHTTPSCA()
        ca.with { ca in
            ca.intercept = { route, _, _ in
                route == .unknown ? .response(HTTPResponse(status: 301, headers: [.init("Location", "/directory")])) : nil
            }
        }
        var bench = try PeerBench(ca)
        bench.plan.directoryURL = ca.url("old-directory")
        bench.account = AccountRecord(directoryURL: bench.plan.directoryURL, key: bench.account.key)
        #expect(try await bench.issue().certificate != nil)
        #expect(try await bench.issue().certificate != nil)
        #expect(ca.with { $0.count(.directory) } == 2)
        let elsewhere = try FakeHTTPSCA()
        let target = elsewhere.url("newOrder")
        ca.with { ca in
            ca.intercept = { route, _, _ in
                switch route {
                case .unknown: .response(HTTPResponse(status: 301, headers: [.init("Location", "/directory")]))
                case .newOrder: .response(HTTPResponse(status: 307, headers: [.init("Location", target)]))
                default: nil
                }
            }
        }
        #expect(try await bench.issue().error?.code == .redirectRefused)
        #expect(elsewhere.connectionCount == 0)
    }

    enum WrongCertificate: CaseIterable { case otherKey, missingName, expired, notYetValid, leafOnly, wrongIssuer }

    @Test("case 24 wrong_cert_returned: refused, and what is there stays", arguments: WrongCertificate.allCases)
    func wrongCertificate(_ fault: WrongCertificate) async throws {
        let ca = try FakeHTTPSCA()
        try ca.with { ca in
            let stranger = try ca.intermediate.issueServer(names: ["a.test", "b.test"]).leaf
            let root = ca.root.certificate
            switch fault {
            case .otherKey: ca.changeChain = { [stranger] + $0.dropFirst() }
            case .missingName: ca.change = { $0.alternativeNames.removeLast() }
            case .expired: ca.change = { $0.notAfter = $0.notBefore.adding(seconds: 60) }
            case .notYetValid: ca.change = { $0.notBefore = $0.notAfter.adding(seconds: -86_400) }
            case .leafOnly: ca.changeChain = { Array($0.prefix(1)) }
            case .wrongIssuer: ca.changeChain = { [$0[0], root] }
            }
        }
        var bench = try PeerBench(ca, ["a.test", "b.test"])
        #expect(try await bench.issue().error?.code == .certificateRejected)
        // What only begins later is not ordered again.
        #expect((bench.savedOrder != nil) == (fault == .notYetValid))
    }

    @Test("case 32 profile_ok, required_unknown, preferred_unknown: sent; refused before the order; left out with a warning")
    func profiles() async throws {
        let ca = try FakeHTTPSCA()
        ca.with { $0.profiles = ["shortlived", "classic"] }
        var bench = try PeerBench(ca)
        bench.plan.profile = .required("shortlived")
        let generation = try #require(try await bench.issue().certificate).generation
        #expect(generation.profile == "shortlived")
        bench.plan.profile = .required("none")
        let error = try #require(try await bench.issue().error)
        #expect(error.code == .profileUnknown)
        #expect(error.description.contains("classic, shortlived"))
        bench.plan.profile = .preferred("none")
        #expect(try await bench.issue().certificate?.warnings.count == 1)
        #expect(ca.with { $0.orders.map(\.profile) } == ["shortlived", nil])
        bench.plan.profile = .required("classic")
        #expect(generation.reasonToReplace(for: bench.plan) == "the profile changed: shortlived to classic")
    }
}

/// RFC 9110 §5.6.7, as `Thu, 24 Dec 2026 12:01:30 GMT`.
enum HTTPDate {
    static func text(_ date: Timestamp) -> String {
        let formatter = DateFormatter()
        formatter.locale = Locale(identifier: "en_US_POSIX")
        formatter.timeZone = TimeZone(identifier: "GMT")
        formatter.dateFormat = "EEE, dd MMM yyyy HH:mm:ss 'GMT'"
        return formatter.string(from: Date(timeIntervalSince1970: Double(date.secondsSince1970)))
    }
}
