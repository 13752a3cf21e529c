import FakeCA
import MWACME
import MWPKI
import Testing

@Suite struct CrashCases {
    // Method: the machine stops at each step, before or after its effect, and starts again from what was saved.
    @Test("case 34 crash_matrix: killed at any step, the restart finishes with at most one extra order", arguments: 1...30, [false, true])
    func crash(_ step: Int, _ afterEffect: Bool) throws {
        var bench = try Workbench(["a.test", "b.test"])
        bench.ca.processingPolls = 1
        bench.crash = (step, afterEffect)
        let first = try bench.issue()
        bench.crash = nil
        guard case .crashed = first else {
            #expect(first.certificate != nil)
            return
        }
        let savedKey = bench.savedOrder?.key.publicKeyPin
        let hadSavedOrder = bench.savedOrder?.orderURL != nil
        let issued = try #require(try bench.issue().certificate)
        #expect(bench.ca.orders.count <= 2)
        if hadSavedOrder { #expect(bench.ca.orders.count == 1) }
        if let savedKey { #expect(issued.generation.key.publicKeyPin == savedKey) }
        #expect(bench.ca.accounts.count == 1)
    }

    @Test("case 34 crash_matrix: an order that is valid already is only downloaded, with the saved key")
    func resumeValid() throws {
        var bench = try Workbench()
        bench.ca.intercept = { route, _, _ in route == .certificate ? .failure(.timeout) : nil }
        #expect(try bench.issue().error?.code == .transferFailed)
        let key = try #require(bench.savedOrder).key
        bench.ca.intercept = { _, _, _ in nil }
        bench.steps = []
        let issued = try #require(try bench.issue().certificate)
        #expect(issued.generation.key.publicKeyPin == key.publicKeyPin)
        #expect(bench.steps == ["save order", "GET /directory", "HEAD /newNonce", "POST /order/1", "POST /cert/1"])
    }

    @Test(
        "a saved order that the CA no longer has, or that is dead, is replaced once", arguments: ["gone", "invalid", "deadAuthorization"])
    func resumeDead(_ how: String) throws {
        var bench = try Workbench()
        bench.ca.processingPolls = .max
        #expect(try bench.issue().error?.code == .timedOut)
        bench.ca.processingPolls = 0
        switch how {
        case "gone": bench.ca.orders[0].account = 99
        case "invalid": bench.ca.orders[0].status = "invalid"
        default:
            bench.ca.orders[0].status = "pending"
            bench.ca.authorizations[0].status = "deactivated"
        }
        #expect(try bench.issue().certificate != nil)
        #expect(bench.ca.orders.count == 2)
    }

    @Test("a saved order for other names, another key, CA or profile is passed over")
    func resumeOther() throws {
        var bench = try Workbench()
        bench.ca.processingPolls = .max
        _ = try bench.issue()
        let saved = try #require(bench.savedOrder)
        #expect(saved.serves(bench.plan))
        var other = bench.plan
        other.identifiers.append(.dns("b.test"))
        #expect(!saved.serves(other))
        other = bench.plan
        other.keyAlgorithm = .ec(.p384)
        #expect(!saved.serves(other))
        other = bench.plan
        other.profile = .preferred("x")
        #expect(!saved.serves(other))
        other = bench.plan
        other.directoryURL = "https://other.test/directory"
        #expect(!saved.serves(other))
    }

    // Method: the bytes of each kind of file, cut at every offset, zeroed from there, and with one byte changed there.
    @Test("case 36 torn_store: damage anywhere is a typed error")
    func torn() throws {
        var bench = try Workbench(["a.test", "192.0.2.1"])
        var generation = try #require(try bench.issue().certificate).generation
        generation.renewal.lastError = "a \"quoted\" \\ line\n"
        let order = OrderInFlight(plan: bench.plan, key: generation.key, at: bench.now.date)
        try tear(generation)
        try tear(order)
        try tear(bench.account)
        #expect(throws: ACMEError(.stateMalformed, subject: "", "")) {
            try AccountRecord(decoding: try order.encoded(), source: "account")
        }
    }

    private func tear<Record: ACMERecord>(_ record: Record) throws {
        let bytes = try record.encoded()
        #expect(try Record(decoding: bytes, source: "whole").encoded() == bytes)
        for offset in bytes.indices {
            var zeroed = bytes
            for index in offset..<bytes.count { zeroed[index] = 0 }
            var changed = bytes
            changed[offset] ^= 0x01
            for damaged in [Array(bytes.prefix(offset)), zeroed, changed] {
                do throws(ACMEError) {
                    _ = try Record(decoding: damaged, source: "torn")
                    Issue.record("damage at \(offset) of \(Record.kind) went unseen")
                } catch {
                    #expect(error.code == .stateMalformed)
                }
            }
        }
        #expect(throws: ACMEError.self) { try Record(decoding: bytes + [0], source: "longer") }
    }

    @Test("records that are whole and make no sense are errors too")
    func senseless() throws {
        for body in ["{}", "[]", "null", #"{"directory":1}"#, #"{"directory":"x","key":"y","identifiers":[1],"created":"z"}"#] {
            let bytes = Array(body.utf8)
            let digest = OpenSSL.sha256(bytes).map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
            for kind in ["account", "order", "certificate"] {
                let file = Array("mwstorage-acme \(kind) 1 \(digest) \(bytes.count)\n".utf8) + bytes
                #expect(throws: ACMEError.self) { try AccountRecord(decoding: file, source: "x") }
                #expect(throws: ACMEError.self) { try OrderInFlight(decoding: file, source: "x") }
                #expect(throws: ACMEError.self) { try CertificateGeneration(decoding: file, source: "x") }
            }
        }
    }

    @Test("case 42 config_change: names, key, CA and profile order again; the order of names does not")
    func configChange() throws {
        var bench = try Workbench(["a.test", "b.test"])
        let generation = try #require(try bench.issue().certificate).generation
        var plan = bench.plan
        #expect(generation.reasonToReplace(for: plan) == nil)
        plan.identifiers.reverse()
        #expect(generation.reasonToReplace(for: plan) == nil)
        plan.identifiers = [.dns("a.test"), .dns("c.test")]
        #expect(generation.reasonToReplace(for: plan) == "the names changed: +c.test -b.test")
        plan = bench.plan
        plan.keyAlgorithm = .ec(.p384)
        #expect(generation.reasonToReplace(for: plan) != nil)
        plan = bench.plan
        plan.directoryURL = "https://other.test/directory"
        #expect(generation.reasonToReplace(for: plan) != nil)
        #expect(generation.reasonToReplace(for: plan, acceptingAuthorities: [generation.directoryURL]) == nil)
        plan = bench.plan
        plan.profile = .required("shortlived")
        #expect(generation.reasonToReplace(for: plan) == "the profile changed: none to shortlived")
    }

    @Test("case 43: no key, signature or MAC key in what is printed")
    func secrets() throws {
        var bench = try Workbench()
        let generation = try #require(try bench.issue().certificate).generation
        let secret = try String(decoding: generation.key.pem().bytes, as: UTF8.self).split(separator: "\n")[1]
        let binding = try #require(IssuancePlan.ExternalAccountBinding(keyIdentifier: "k", macKeyText: "c2VjcmV0LXNlY3JldA"))
        #expect(!"\(generation)".contains(secret))
        #expect(!"\(bench.account)".contains("PRIVATE"))
        #expect(!"\(binding)".contains("c2VjcmV0"))
        #expect("\(binding)".contains("secret bytes"))
    }
}
