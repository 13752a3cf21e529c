import FakeCA
import MWACME
import MWPKI
import Testing

// Method: the reply to one kind of request is replaced, once, sometimes or always.
@Suite struct FaultCases {
    enum Fault: CaseIterable {
        case error500, error503, html, truncated, empty, tooLarge, timeout, reset, tls, lost

        func reply() -> FakeCA.Reply {
            switch self {
            case .error500: FakeCA.problemResponse(500, "serverInternal")
            case .error503: .response(HTTPResponse(status: 503, headers: [.init("Retry-After", "2")], body: Array("<html>".utf8)))
            case .html: .response(HTTPResponse(status: 200, body: Array("<html><body>Hello</body></html>".utf8)))
            case .truncated: .response(HTTPResponse(status: 200, body: Array(#"{"status":"pending","identi"#.utf8)))
            case .empty: .response(HTTPResponse(status: 200))
            case .tooLarge: .failure(.tooLarge)
            case .timeout: .failure(.timeout)
            case .reset: .failure(.connect("reset by peer"))
            case .tls: .failure(.tls("unknown authority"))
            case .lost: .lost
            }
        }

        /// Not repeated within one attempt.
        var isFinal: Bool { self == .tooLarge || self == .tls }
        var code: ACMEError.Code {
            switch self {
            case .error500, .error503: .serverFailed
            case .html, .truncated, .empty: .replyMalformed
            case .tooLarge: .replyTooLarge
            case .timeout, .reset, .lost: .transferFailed
            case .tls: .tlsFailed
            }
        }
    }

    static let routes: [FakeCA.Route] = [.directory, .newAccount, .newOrder, .order, .authorization]

    @Test("case 21 server_errors: once is repeated", arguments: Fault.allCases, routes)
    func once(_ fault: Fault, _ route: FakeCA.Route) throws {
        var bench = try Workbench(["a.test", "b.test"])
        bench.ca.intercept = { asked, count, _ in asked == route && count == 1 ? fault.reply() : nil }
        let outcome = try bench.issue()
        // The second request of these routes does not always come.
        guard bench.ca.count(route) > 1 else {
            #expect(outcome.certificate != nil)
            return
        }
        if fault.isFinal {
            #expect(outcome.error?.code == fault.code)
            bench.ca.intercept = { _, _, _ in nil }
            #expect(try bench.issue().certificate != nil)
        } else {
            #expect(outcome.certificate != nil, "\(String(describing: outcome.error))")
        }
        #expect(bench.ca.world.isEmpty)
        #expect(bench.ca.complaints.isEmpty)
    }

    @Test("case 21 server_errors: always is given up, with a typed error", arguments: Fault.allCases, routes)
    func always(_ fault: Fault, _ route: FakeCA.Route) throws {
        var bench = try Workbench()
        bench.ca.intercept = { asked, _, _ in asked == route ? fault.reply() : nil }
        let error = try #require(try bench.issue().error)
        #expect(error.code == fault.code)
        #expect(error.disposition == .retryOrFallback)
        #expect(bench.ca.count(route) <= bench.plan.limits.maximumFailures + 1)
        #expect(bench.waits.reduce(.zero, +) < .seconds(60))
        #expect(bench.ca.world.isEmpty)
    }

    @Test("case 21 server_errors: a lost reply to finalize burns no certificate", arguments: [Fault.lost, .error500, .truncated, .timeout])
    func finalizeLost(_ fault: Fault) throws {
        var bench = try Workbench()
        bench.ca.intercept = { route, count, _ in route == .finalize && count == 0 ? fault.reply() : nil }
        #expect(try bench.issue().certificate != nil)
        #expect(bench.ca.orders.count == 1)
        #expect(bench.ca.count(.finalize) == (fault == .lost ? 1 : 2))
    }

    @Test("case 21 server_errors: a long Retry-After of a 503 ends the attempt and is remembered")
    func unavailable() throws {
        var bench = try Workbench()
        bench.ca.intercept = { route, _, _ in
            route == .newOrder ? .response(HTTPResponse(status: 503, headers: [.init("Retry-After", "3600")])) : nil
        }
        let start = bench.now.date
        #expect(try bench.issue().error?.retryAt == start.adding(seconds: 3600))
        #expect(bench.account.retryAt == start.adding(seconds: 3600))
        #expect(bench.ca.count(.newOrder) == 1)
    }

    @Test("random faults at random places: it ends, cleans up, and succeeds once the CA does", arguments: 0..<60 as Range<UInt64>)
    func randomFaults(_ seed: UInt64) throws {
        var bench = try Workbench(["a.test", "*.b.test", "192.0.2.1"], seed: seed)
        bench.ca.badNoncePercent = seed % 50
        bench.ca.validationPolls = Int(seed % 4)
        bench.ca.processingPolls = Int(seed % 3)
        // A fault for each (route, count), drawn from the seed alone.
        bench.ca.intercept = { route, count, _ in
            var random = SplitMix64(seed: seed &* 1000 &+ UInt64(count) &* 31 &+ UInt64(FaultCases.number(route)))
            _ = random.next()
            guard random.next() % 100 < 25 else { return nil }
            return Fault.allCases[Int(random.next() % UInt64(Fault.allCases.count))].reply()
        }
        var outcome = Workbench.Outcome.crashed
        for _ in 0..<3 {
            outcome = try bench.issue()
            #expect(bench.ca.world.isEmpty)
            if outcome.certificate != nil { break }
        }
        if outcome.certificate == nil {
            bench.ca.intercept = { _, _, _ in nil }
            bench.now = bench.now.advanced(by: .seconds(86_400))
            outcome = try bench.issue()
        }
        let issued = try #require(outcome.certificate, "seed \(seed): \(String(describing: outcome.error))")
        _ = try issued.generation.identity()
    }

    private static func number(_ route: FakeCA.Route) -> Int {
        let all: [FakeCA.Route] = [
            .directory, .newNonce, .newAccount, .account, .newOrder, .order, .authorization, .challenge, .finalize, .certificate,
        ]
        return all.firstIndex(of: route) ?? all.count
    }

    @Test("objects cut off at any byte, or with any byte changed, are errors and never traps")
    func damagedObjects() throws {
        var bench = try Workbench()
        let directory = bench.ca.directory.encoded
        for offset in directory.indices {
            var damaged = directory
            damaged[offset] = damaged[offset] ^ 0x25
            for body in [Array(directory.prefix(offset)), damaged] {
                bench.ca.intercept = { route, _, _ in route == .directory ? .response(HTTPResponse(status: 200, body: body)) : nil }
                bench.plan.limits.maximumFailures = 0
                bench.savedOrder = nil
                // Whatever comes of it: some changes are harmless.
                let outcome = try bench.issue()
                #expect(outcome.certificate != nil || outcome.error != nil)
                if body.count < directory.count { #expect(outcome.error?.code == .replyMalformed) }
            }
        }
    }
}
