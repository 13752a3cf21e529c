import ACMEPeers
import MWACME
import MWPKI
import Testing

/// Cases of orders, against pebble.
@Suite("ACME orders at pebble")
struct PebbleOrderCases {
    // Method: a pebble that refuses so many nonces at random; every issuance is a new account. The last nonce of each refusal is
    // what the repetition is signed with: no HEAD but the first of each issuance is asked for.
    @Test("case 7 nonce_reject: 100 of 100 with 30 %, 50 of 50 with 50 %", arguments: [(30, 100), (50, 50)])
    func nonceRejected(_ percent: Int, _ issuances: Int) async throws {
        let pebble = try await Pebble.start { $0.nonceRejectPercent = percent }
        let lanes = 5
        let (issued, heads, posts, rejected) = try await withThrowingTaskGroup(of: (Int, Int, Int, Int).self) { group in
            for lane in 0..<lanes {
                group.addTask { try await Self.issue(issuances / lanes, lane, percent, pebble) }
            }
            return try await group.reduce(into: (0, 0, 0, 0)) { $0 = ($0.0 + $1.0, $0.1 + $1.1, $0.2 + $1.2, $0.3 + $1.3) }
        }
        #expect(issued == issuances)
        #expect(heads == issuances, "a refusal brings the next nonce with it")
        // Of a thousand and more posts: ten points are more than six standard deviations.
        #expect(posts > 500)
        #expect((percent - 10...percent + 10).contains(rejected * 100 / max(1, posts)), "\(rejected) of \(posts)")
        #expect(pebble.orderCount == issuances)
    }

    private static func issue(_ count: Int, _ lane: Int, _ percent: Int, _ pebble: Pebble) async throws -> (Int, Int, Int, Int) {
        var (issued, heads, posts, rejected) = (0, 0, 0, 0)
        for number in 0..<count {
            var bench = try PeerBench(pebble, ["nonce-\(percent)-\(lane)-\(number).test"])
            bench.seed = UInt64(lane * 1000 + number)
            let outcome = try await bench.issue()
            if outcome.certificate != nil { issued += 1 } else { Issue.record("\(String(describing: outcome.error))") }
            heads += bench.requests.count { $0.method == .head }
            posts += bench.requests.count { $0.method == .post }
            rejected += bench.rejectedNonces
        }
        return (issued, heads, posts, rejected)
    }

    @Test("case 15 authz_already_valid: no challenge is answered")
    func alreadyValid() async throws {
        let pebble = try await Pebble.start { $0.authorizationReusePercent = 100 }
        var bench = try PeerBench(pebble, ["a.fifteen.test", "b.fifteen.test"])
        #expect(try await bench.issue().certificate != nil)
        #expect(bench.presented.count == 2)
        #expect(try await bench.issue().certificate != nil)
        #expect(bench.presented.count == 2)
    }

    // Method: two of three names have no DNS, so that the CA cannot look. Afterwards each record that was set has been taken out of the CA's DNS.
    @Test("case 16 challenge_fails: type, detail and each bad name are told, and the records are gone")
    func challengeFails() async throws {
        let pebble = try await Pebble.shared()
        var bench = try PeerBench(pebble, ["good.sixteen.test", "bad.sixteen.test", "worse.sixteen.test"])
        let bad = ["bad.sixteen.test", "worse.sixteen.test"]
        for name in bad { try pebble.dns.setServerFailure("_acme-challenge.\(name)") }
        let outcome = try await bench.issue()
        let error = try #require(outcome.error)
        #expect(error.code == .challengeFailed)
        let problem = try #require(error.problem)
        #expect(Set(problem.subproblems.compactMap(\.identifier?.description)) == Set(bad))
        for name in bad { #expect(error.description.contains(name), "\(error)") }
        #expect(bench.savedOrder == nil)
        #expect(!bench.presented.isEmpty && Set(bench.removed) == Set(bench.presented))
        for name in bad { try pebble.dns.clearServerFailure("_acme-challenge.\(name)") }
        #expect(try await bench.issue().certificate != nil)
    }

    // Method: pebble speaks of the first that it blocks only; two in one answer is what the fake CA does.
    @Test("case 17 subproblems_two_of_three: the blocked name that pebble speaks of is told, the good one is not")
    func blocked() async throws {
        let pebble = try await Pebble.start { $0.blockedNames = ["a.blocked.test", "c.blocked.test"] }
        var bench = try PeerBench(pebble, ["a.blocked.test", "b.blocked.test", "c.blocked.test"])
        let error = try #require(try await bench.issue().error)
        #expect(error.problem?.kind == .rejectedIdentifier)
        let said = error.problem.map { "\($0)" } ?? ""
        let told = bench.plan.identifiers.map(\.value).filter { said.contains($0) }
        #expect(told == ["a.blocked.test"] || told == ["c.blocked.test"], "\(error)")
        #expect(pebble.orderCount == 0)
    }

    // Method: pebble signs in the background: its reply to finalize says `processing`, so at least one look follows.
    @Test("case 19 finalize_async: pebble's `processing` is looked at until it is valid")
    func processing() async throws {
        let pebble = try await Pebble.shared()
        var bench = try PeerBench(pebble, ["nineteen.test"])
        #expect(try await bench.issue().certificate != nil)
        let finalize = try #require(bench.requests.lastIndex { $0.url.contains("/finalize-order/") })
        #expect(bench.requests[finalize...].dropFirst().contains { $0.url.contains("/my-order/") })
        #expect(bench.requests.count { $0.url.contains("/finalize-order/") } == 1)
    }

    // Method: three roots, each with an intermediate of its own; the management pages say which is which.
    @Test("case 23 alternate_chain: by the root's name or a key identifier; absent, the default and a warning")
    func alternateChain() async throws {
        let pebble = try await Pebble.start { $0.alternateRoots = 2 }
        for number in 0...2 {
            let root = try await pebble.root(number)
            var bench = try PeerBench(pebble, ["chain-\(number).test"])
            bench.plan.chainPreference = .rootCommonName(try #require(root.commonName))
            let issued = try #require(try await bench.issue().certificate)
            let top = try #require(issued.generation.chain.last)
            #expect(top.issuer == root.subject)
            #expect(top.isSigned(by: root))
            #expect(issued.generation.leaf.isSigned(by: issued.generation.chain[1]))
            #expect(issued.warnings.isEmpty)
            _ = try issued.generation.identity()
        }
        var bench = try PeerBench(pebble, ["chain-by-key.test"])
        let last = try await pebble.root(2)
        bench.plan.chainPreference = .keyIdentifier(try #require(last.subjectKeyIdentifier))
        #expect(try await bench.issue().certificate?.generation.chain.last?.isSigned(by: last) == true)
        bench.plan.chainPreference = .rootCommonName("No Such Root")
        let issued = try #require(try await bench.issue().certificate)
        #expect(issued.generation.chain.last?.isSigned(by: try await pebble.root()) == true)
        #expect(issued.warnings.count == 1)
    }

    // Method: each reason in turn, by the account's and by the certificate's key; the management page has what the CA took down.
    @Test(
        "case 25 revoke_account_key, revoke_cert_key, reasons: revoked with that reason; a second time is no error",
        arguments: [nil, .unspecified, .keyCompromise, .affiliationChanged, .superseded, .cessationOfOperation] as [RevocationReason?])
    func revoke(_ reason: RevocationReason?) async throws {
        let pebble = try await Pebble.shared()
        var bench = try PeerBench(pebble, ["revoke-\(reason?.rawValue ?? -1).test"])
        for byKey in [false, true] {
            let generation = try #require(try await bench.issue().certificate).generation
            #expect(try await pebble.status(of: generation.leaf).status == "Valid")
            let operation: AccountStateMachine.Operation =
                byKey ? .revokeByKey(generation.leaf, key: generation.key, reason: reason) : .revoke(generation.leaf, reason: reason)
            _ = try await bench.operate(operation).get()
            let status = try await pebble.status(of: generation.leaf)
            #expect(status.status == "Revoked")
            #expect((status.reason ?? 0) == (reason?.rawValue ?? 0))
            _ = try await bench.operate(operation).get()
        }
    }

    @Test(
        "certificates of every kind of key and account, from a strict pebble with a longer chain",
        arguments: [KeyAlgorithm.ec(.p256), .ec(.p384), .rsa(bits: 2048)])
    func kinds(_ kind: KeyAlgorithm) async throws {
        let pebble = try await Pebble.start {
            $0.isStrict = true
            $0.chainLength = 2
        }
        var bench = try PeerBench(pebble, ["kinds.test", "*.kinds.test", "also.kinds.test"])
        bench.plan.keyAlgorithm = kind
        bench.account = AccountRecord(directoryURL: pebble.directoryURL, key: try .generate(kind))
        let generation = try #require(try await bench.issue().certificate).generation
        #expect(generation.leaf.keyAlgorithm == kind)
        #expect(Set(generation.leaf.dnsNames) == ["kinds.test", "*.kinds.test", "also.kinds.test"])
        #expect(generation.chain.count == 3)
    }
}
