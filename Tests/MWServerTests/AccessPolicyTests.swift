import MWPKI
import MWServer
import TestCertificates
import Testing

/// Rules and rights as values.
@Suite struct AccessPolicyTests {
    private func policy(_ rules: (String, [IdentityMatcher])...) throws -> AccessPolicy {
        try AccessPolicy(rules: rules.map { AccessRule(name: $0.0, matchers: $0.1, grants: .everything) }, source: "test")
    }

    @Test(arguments: [
        ("spiffe://d/ns/*/sa/x", "spiffe://d/ns/prod/sa/x", true), ("spiffe://d/ns/*/sa/x", "spiffe://d/ns/a/b/sa/x", false),
        ("spiffe://d/ns/*/sa/x", "spiffe://d/ns//sa/x", false), ("spiffe://d/ns/*/sa/x", "spiffe://d/ns/../sa/x", false),
        ("spiffe://d/ns/*/sa/x", "spiffe://d/ns/a%2fb/sa/x", false), ("spiffe://d/*", "spiffe://d/a", true),
        ("spiffe://d/*", "spiffe://d/a/b", false), ("spiffe://d/*", "spiffe://d/", false), ("spiffe://d/*", "spiffe://d/*", false),
        ("spiffe://d/*", "spiffe://d.evil/a", false), ("spiffe://d/a", "spiffe://D/a", false), ("spiffe://d/a", "spiffe://d/a/", false),
        ("https://d/*", "https://d/a?x", false), ("urn:example:a", "urn:example:a", true), ("urn:example:a", "urn:example:ab", false),
    ]) func `A URI matches as a whole, and a star one plain segment of its path`(pattern: String, name: String, isMatch: Bool) throws {
        #expect(try NamePattern(uri: pattern).matches(name) == isMatch)
    }

    @Test(arguments: [
        ("*.example.org", "a.example.org", true), ("*.example.org", "A.Example.ORG", true), ("*.example.org", "a.b.example.org", false),
        ("*.example.org", "example.org", false), ("*.example.org", ".example.org", false), ("*.example.org", "*.example.org", false),
        ("*.example.org", "a.example.org.", false), ("a.*.org", "a.x.org", true), ("a.*.org", "a.x.y.org", false),
        ("a.org", "ba.org", false),
    ]) func `A DNS name matches as a whole whatever its case, and a star one label`(pattern: String, name: String, isMatch: Bool) throws {
        #expect(try NamePattern(dns: pattern).matches(name) == isMatch)
    }

    @Test(arguments: [
        "spiffe://*/a", "spiffe:*", "*", "spiffe://d/a*", "spiffe://d", "spiffe://d/", "spiffe://D/a", "spiffe://d/a/../b",
        "spiffe://d/a?b",
        "spiffe://d:1/a", "no-scheme", "://x", "1a:x", "a:", "urn:a b", "urn:\u{e9}", "urn:a*",
    ]) func `What is no URI, no workload's SPIFFE ID, or has a star in a wrong place is no rule`(text: String) {
        #expect(throws: NamePattern.Malformed.self) { try NamePattern(uri: text) }
    }

    @Test(arguments: [
        "", "*", "a.*", "a*.org", ".org", "org.", "a..org", "a b.org", "\u{e9}.org", String(repeating: "a", count: 64) + ".org",
    ])
    func `What is no DNS name, or has a star in a wrong place, is no rule`(text: String) {
        #expect(throws: NamePattern.Malformed.self) { try NamePattern(dns: text) }
    }

    @Test func `A certificate is known by its own digest, its key's, or its alias, and by none of another's`() throws {
        let authority = try TestAuthority()
        let (alice, bob) = (try authority.issueClient(name: "alice"), try authority.issueClient(name: "bob"))
        let renewed = try authority.issueClient(name: "alice", key: alice.key)
        let policy = try self.policy(
            ("cert", [.fingerprint(alice.leaf.sha256)]), ("key", [.publicKey(bob.leaf.publicKeyPin)]), ("name", [.alias("c")]))
        func rule(_ certificate: Certificate, _ alias: String? = nil) -> String? {
            guard case .matched(let rule, _) = policy.judge(PresentedIdentity(certificate, alias: alias)) else { return nil }
            return rule.name
        }
        #expect(rule(alice.leaf) == "cert")
        #expect(rule(renewed.leaf) == nil)
        #expect(rule(bob.leaf) == "key")
        #expect(rule(renewed.leaf, "c") == "name")
        #expect(rule(renewed.leaf, "C") == nil)
        #expect(rule(renewed.leaf, "alice") == nil)
    }

    @Test func `A certificate that two rules name by different things is refused, with both of them`() throws {
        let alice = try TestAuthority().issueClient(name: "alice").leaf
        let policy = try self.policy(("a", [.commonName("alice")]), ("b", [.fingerprint(alice.sha256)]))
        guard case .refused(let refusal) = policy.judge(PresentedIdentity(alice, alias: nil)) else {
            Issue.record("admitted")
            return
        }
        #expect(refusal.reason == .ambiguous)
        #expect(refusal.what == "several rules name this certificate: b (sha256 \(alice.sha256.hex)), a (cn alice)")
    }

    @Test func `A refusal says by what a rule could name the certificate, and by nothing that would not count`() throws {
        let leaf = try TestAuthority().issueClient(name: "alice") {
            $0.alternativeNames = [.dns("bob.example.org"), .dns("*.example.org")]
        }.leaf
        guard case .refused(let refusal) = try self.policy(("a", [.commonName("alice")])).judge(PresentedIdentity(leaf, alias: nil)) else {
            Issue.record("admitted")
            return
        }
        #expect(refusal.reason == .noRule)
        #expect(
            refusal.remedy
                == "let a rule of the policy match it, for example by sha256 \(leaf.sha256.hex), or spki \(leaf.publicKeyPin.hex), or dns bob.example.org"
        )
    }

    @Test func `Prefixes are bytes: one that another begins with, a key that is the prefix, and keys around it`() {
        let grants = AccessGrants([
            AccessGrant(.read, over: .prefixes([[97, 98], [97, 98, 99], [0], [255, 255]])), AccessGrant(.write, over: .prefixes([[97]])),
            AccessGrant(.watch, over: .all),
        ])
        let expected: [([UInt8], Bool)] = [
            ([], false), ([0], true), ([0, 7], true), ([1], false), ([97], false), ([97, 98], true), ([97, 98, 0], true),
            ([97, 98, 99], true),
            ([97, 98, 100], true), ([97, 99], false), ([255], false), ([255, 254], false), ([255, 255], true), ([255, 255, 1], true),
        ]
        for (key, isAllowed) in expected { #expect(grants.allows(.read, key) == isAllowed, "\(key)") }
        #expect(grants.allows(.write, [97, 99]) && !grants.allows(.write, [98]))
        #expect(grants.allows(.watch, []) && !grants.allows(.administer, []))
        #expect(grants.everywhere == .watch && grants.somewhere == [.read, .write, .watch])
    }

    @Test func `Only administering all keys makes an administrator`() throws {
        #expect(try VerifiedPeers.principal("a", [AccessGrant(.administer, over: .all)]).isAdministrator)
        #expect(try !VerifiedPeers.principal("a", [AccessGrant(.administer, over: .prefixes([[1]]))]).isAdministrator)
        #expect(try VerifiedPeers.principal("a").isAdministrator)
    }

    @Test func `More patterns than can be tried for each connection are refused`() throws {
        let matchers = try (0...1_000).map { IdentityMatcher.dns(try NamePattern(dns: "*.n\($0).org")) }
        #expect(throws: AccessPolicyError.self) { try self.policy(("a", matchers)) }
        #expect(throws: Never.self) { try self.policy(("a", Array(matchers.dropLast()))) }
    }

    // The same letter as one scalar and as two: equal to Swift, other bytes in the certificate.
    @Test func `case 26: a common name or alias is known by its bytes, not by what it looks like`() throws {
        let authority = try TestAuthority()
        let (composed, decomposed) = ("caf\u{e9}", "cafe\u{301}")
        let policy = try self.policy(("cn", [.commonName(composed)]), ("alias", [.alias(composed)]))
        func rule(_ name: String, _ alias: String? = nil) throws -> String? {
            let presented = PresentedIdentity(try authority.issueClient(name: name).leaf, alias: alias)
            guard case .matched(let rule, _) = policy.judge(presented) else { return nil }
            return rule.name
        }
        #expect(try rule(composed) == "cn" && rule("x", composed) == "alias")
        #expect(try rule(decomposed) == nil && rule("x", decomposed) == nil)
        let presented = PresentedIdentity(try authority.issueClient(name: decomposed).leaf, alias: decomposed)
        #expect(IdentityMatcher.commonName(composed).mismatch(presented) != nil)
        #expect(IdentityMatcher.alias(composed).mismatch(presented) != nil)
        #expect(IdentityMatcher.commonName(decomposed).mismatch(presented) == nil)
    }
}
