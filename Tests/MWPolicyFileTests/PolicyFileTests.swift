import MWPKI
import MWServer
import Testing

@testable import MWPolicyFile

/// What a policy file may say, and what is said about one that is wrong.
@Suite struct PolicyFileTests {
    static let digest = String(repeating: "0f", count: 32)

    static let whole = """
        # Who may do what.
        version: 1
        principals:
          - name: editor
            match:
              - uri: spiffe://example.org/ns/*/sa/editor
              - dns: "*.Editors.example.org"
              - cn: alice
              - sha256: \(digest)
              - spki: sha256:\(String(repeating: "a1", count: 32))
              - alias: wstestkeyclt
            allow:
              - rights: [read, watch]
                keys: all
              - rights: [write]
                prefixes: ["world/", {base64: "AQI="}]
          - name: "the operator"
            match: [{dns: ops.example.org}]
            allow: [{rights: [administer], keys: all}]

        """

    private func policy(_ text: String) throws(AccessPolicyError) -> AccessPolicy {
        try PolicyFile.policy(Array(text.utf8), source: "policy.yaml")
    }

    private func faults(_ text: String) -> [String] {
        do {
            _ = try self.policy(text)
            return []
        } catch {
            return error.faults.map { "\($0)" }
        }
    }

    /// One rule, with `match` and `allow` as given.
    private func rule(match: String = "[{cn: alice}]", allow: String = "[{rights: [read], keys: all}]") -> String {
        "version: 1\nprincipals:\n- name: alice\n  match: \(match)\n  allow: \(allow)\n"
    }

    @Test func `The whole form is read: every kind of identity, rights over all keys and over prefixes of any bytes`() throws {
        let policy = try self.policy(Self.whole)
        #expect(policy.rules.map(\.name) == ["editor", "the operator"])
        #expect(
            policy.rules[0].matchers.map(\.description) == [
                "uri spiffe://example.org/ns/*/sa/editor", "dns *.editors.example.org", "cn alice", "sha256 \(Self.digest)",
                "spki \(String(repeating: "a1", count: 32))", "alias wstestkeyclt",
            ])
        let grants = policy.rules[0].grants
        #expect(
            grants.list == [
                AccessGrant([.read, .watch], over: .all), AccessGrant(.write, over: .prefixes([Array("world/".utf8), [1, 2]])),
            ])
        #expect(
            grants.allows(.read, [9]) && grants.allows(.write, [1, 2, 3]) && !grants.allows(.write, [1])
                && !grants.allows(.administer, [1, 2]))
        #expect(policy.warnings == [])
    }

    @Test func `JSON is YAML too`() throws {
        let json = #"{"version":1,"principals":[{"name":"a","match":[{"cn":"alice"}],"allow":[{"rights":["read"],"prefixes":["w\/"]}]}]}"#
        #expect(try self.policy(json).rules.first?.grants.allows(.read, Array("w/x".utf8)) == true)
    }

    @Test(arguments: [
        ("match: [{cn: al*}]", ":4:16: cn 'al*': a '*' has no meaning here; write the whole name; '*' is for uri and dns"),
        ("match: [{dns: \"*\"}]", ":4:17: dns '*': a '*' in place of the last label would match names of anybody; write *.example.org"),
        (
            "match: [{dns: \"ed*.example.org\"}]",
            ":4:17: dns 'ed*.example.org': 'ed*' has a '*' beside other characters; let '*' stand for one whole segment, as *.example.org, "
                + "or write the name out"
        ),
        (
            "match: [{dns: example.org.}]",
            ":4:17: dns 'example.org.': not a DNS name; write labels of letters, digits and '-' with dots between them, as editor.example.org"
        ),
        (
            "match: [{uri: \"spiffe://*/editor\"}]",
            ":4:17: uri 'spiffe://*/editor': a '*' in place of scheme or authority would match names of anybody; "
                + "write the trust domain, and '*' in the path only: spiffe://example.org/ns/*/editor"
        ),
        (
            "match: [{sha256: 0f0f}]",
            ":4:20: sha256 '0f0f': not the SHA-256 of a certificate; write its 64 hexadecimal digits; see: mwstorage certificate inspect FILE"
        ),
        (
            "match: [{email: a@example.org}]",
            ":4:12: an entry of match has no field 'email'; correct or remove it; known are sha256, spki, uri, dns, cn, alias"
        ),
        (
            "match: [{cn: a, dns: b.example.org}]",
            ":4:11: an entry of match names one thing, this one names cn, dns; write an entry for each, beginning with '-': any of them suffices"
        ),
        ("match: [{cn: alice}, {cn: alice}]", ":3:9: cn alice is named twice by rule alice; name each identity once"),
        (
            "match: []",
            ":4:10: match is empty; write a list with uri, dns, cn, sha256, spki or alias, as: match: [{dns: editor.example.org}]"
        ),
        (
            "match: alice",
            ":4:10: match is a list, this is text; write a list with uri, dns, cn, sha256, spki or alias, as: match: [{dns: editor.example.org}]"
        ),
        ("match: [{cn: no}]", ":4:16: cn must be text, this is 'no', which is no text without quotes; write it in quotes"),
        ("match: [{cn: 12:30}]", ":4:16: cn must be text, this is '12:30', which is no text without quotes; write it in quotes"),
        ("match: [{cn: }]", ":4:16: cn must be text, this is '', which is no text without quotes; write it in quotes"),
        (
            "match: [{cn: &a alice}]",
            ":4:16: anchors ('&') and aliases ('*') are not used here; write the value out; text with '*' or '&' in it goes in quotes"
        ),
        ("match: [{cn: !!binary YQ==}]", ":4:16: the tag 'tag:yaml.org,2002:binary' has no meaning here; remove what begins with '!'"),
        ("match: [{dns: *.example.org}]", ":4:18: a '*' without quotes begins an alias; write the name in quotes: \"*.example.org\""),
    ]) func `What is wrong with an identity is said with its place and what to do`(match: String, fault: String) {
        #expect(self.faults(self.rule(match: String(match.dropFirst("match: ".count)))) == [fault])
    }

    @Test(arguments: [
        ("[]", ":5:10: allow is empty; <example>"),
        ("[{rights: [], keys: all}]", ":5:20: rights is empty; write a list of read, write, watch, administer, as: rights: [read, watch]"),
        ("[{rights: [reed], keys: all}]", ":5:21: the right 'reed' is not known; write one of read, write, watch, administer"),
        ("[{rights: [read, read], keys: all}]", ":5:27: the right read is there twice; remove one"),
        ("[{rights: [read]}]", ":5:11: the entry does not say which keys; write either keys: all, or prefixes: […]"),
        (
            "[{rights: [read], keys: all, prefixes: [a]}]",
            ":5:11: the entry has both keys and prefixes; write either keys: all, or prefixes: […]"
        ),
        ("[{rights: [read], keys: [a]}]", ":5:34: keys can be 'all' only; write keys: all, or the beginnings of keys under prefixes"),
        (
            "[{rights: [read], prefixes: [\"\"]}]",
            ":5:39: an empty prefix is every key; if that is meant, write keys: all in place of prefixes"
        ),
        ("[{rights: [read], prefixes: [a, a]}]", ":5:42: the prefix 'a' is there twice; remove one"),
        (
            "[{rights: [read], prefixes: [12]}]",
            ":5:39: a prefix must be text, this is '12', which is no text without quotes; write it in quotes"
        ),
        ("[{rights: [read], prefixes: [{base64: \"!\"}]}]", ":5:48: '!' is not base64; write it with: printf … | base64 -w0"),
        ("[{rights: [read], prefixes: [{hex: aa}]}]", ":5:40: a prefix has no field 'hex'; correct or remove it; known are base64"),
        ("[{keys: all}]", ":5:11: the entry has no rights; <example>"),
    ]) func `What is wrong with a grant is said with its place and what to do`(allow: String, fault: String) {
        let fault = fault.replacing("<example>", with: Self.exampleOfAllow)
        #expect(self.faults(self.rule(allow: allow)) == [fault])
    }

    private static let exampleOfAllow =
        "write rights, and keys: all or prefixes: […], as: allow: [{rights: [read], prefixes: [\"world/\"]}]"

    @Test func `All faults of a file are told at once, in its order`() {
        let text = """
            version: 2
            principals:
            - name: ""
              match: [{cn: a*}]
              allow: [{rights: [read], keys: some}]
            - name: bob
              match: [{cn: bob}]
            - nmae: eve
              match: [{cn: eve}]
              allow: [{rights: [read], keys: all}]
            colour: blue
            """
        let faults = self.faults(text)
        #expect(
            faults.map { String($0.split(separator: ":").prefix(2).joined(separator: ":")) } == [
                "1:10", "3:9", "4:16", "5:34", "6:3", "8:3", "8:3", "11:1",
            ], "\(faults)")
    }

    @Test(arguments: [
        (
            "two rules of one name", "a", "{cn: a}", "a", "{cn: b}",
            ":6:9: two rules are named a, the other at line 3; join them, or rename one"
        ),
        ("one identity", "a", "{cn: x}", "b", "{cn: x}", ":6:9: cn x is named by rule b and by rule a; name each identity once"),
        (
            "DNS names in two cases", "a", "{dns: A.org}", "b", "{dns: a.ORG}",
            ":6:9: dns a.org is named by rule b and by rule a; name each identity once"
        ),
        (
            "a name and a pattern", "a", "{dns: \"*.example.org\"}", "b", "{dns: bob.example.org}",
            ":3:9: dns *.example.org of rule a and dns bob.example.org of rule b match the same names; narrow one of them: a certificate must be named by one rule"
        ),
        (
            "two patterns", "a", "{uri: \"spiffe://d/*/x\"}", "b", "{uri: \"spiffe://d/y/*\"}",
            ":6:9: uri spiffe://d/y/* of rule b and uri spiffe://d/*/x of rule a match the same names; narrow one of them: a certificate must be named by one rule"
        ),
    ]) func `Two rules for one identity are an error of the policy, not a matter of their order`(
        _: String, firstName: String, first: String, secondName: String, second: String, fault: String
    ) {
        let allow = "allow: [{rights: [read], keys: all}]"
        let text = """
            version: 1
            principals:
            - name: \(firstName)
              match: [\(first)]
              \(allow)
            - name: \(secondName)
              match: [\(second)]
              \(allow)
            """
        #expect(self.faults(text) == [fault])
    }

    @Test(arguments: [
        ("", ": it is empty; begin with version: 1, and put rules under principals:"),
        ("version: 1\nprincipals: []\n", ":2:13: principals is empty; write rules, each beginning with '- name: …'"),
        ("- a\n", ":1:1: the policy is a map, this is a list; begin with version: 1, and put rules under principals:"),
        ("version: 1\nversion: 1\n", ":1:1: the field 'version' is there twice; remove one"),
        ("version: 1\n---\nversion: 1\n", ":2:1: but found another document; write one document, without anchors and aliases"),
        ("a: [\n", ":2:1: while parsing a flow node, did not find expected node content; correct it: it is not YAML"),
    ]) func `A file that is no policy at all is told from one`(text: String, fault: String) {
        #expect(self.faults(text).contains(fault), "\(self.faults(text))")
    }

    @Test func `Bytes that are no text, and more than 1 MiB, are refused`() {
        #expect(throws: AccessPolicyError.self) { try PolicyFile.policy([0xFF, 0xFE], source: "policy.yaml") }
        let large = Array("version: 1\n".utf8) + [UInt8](repeating: UInt8(ascii: "#"), count: PolicyFile.maximumBytes)
        #expect(throws: AccessPolicyError.self) { try PolicyFile.policy(large, source: "policy.yaml") }
    }

    /// Aliases of lists of aliases, also where the parser itself would compare what they stand for; and nesting, which it would follow.
    @Test func `Exponential aliases and deep nesting are refused at once`() {
        let started = ContinuousClock.now
        var bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
        for level in 1...60 { bomb += "a\(level): &a\(level) [\((0..<10).map { _ in "*a\(level - 1)" }.joined(separator: ", "))]\n" }
        #expect(self.faults(bomb).count == 1)
        #expect(self.faults(bomb + "? *a60\n: 1\n").count == 1)
        #expect(self.faults("k: {*a : &a [1]}\n").count == 1)
        #expect(self.faults(String(repeating: "[", count: 500_000)).count == 1)
        #expect(self.faults(String(repeating: "[", count: 900) + String(repeating: "]", count: 900)).count == 1)
        #expect(self.faults(String(repeating: "- ", count: 500_000)).count == 1)
        #expect(ContinuousClock.now - started < .seconds(300))
    }

    @Test func `Administering some keys only is worth a warning: the server's own administration needs all`() throws {
        let policy = try self.policy(self.rule(allow: "[{rights: [administer], prefixes: [a]}]"))
        #expect(
            policy.warnings == ["line 3: rule alice: administer over some keys only: the server's own administration needs 'keys: all'"])
    }

    /// Everything that a rule can say, drawn at random, written as YAML and read back.
    @Test func `2,000 random policies mean what was written`() throws {
        var random = SystemRandomNumberGenerator()
        for _ in 0..<2_000 {
            let names = [
                "cn: alice", "cn: \"no\"", "dns: a.example.org", "dns: \"*.b.example.org\"", "uri: spiffe://d/a", "uri: \"spiffe://d/x/*\"",
                "alias: a",
            ]
            let chosen = names.filter { _ in Bool.random(using: &random) }
            let prefixes = ["a", "b/", "\u{e9}"].filter { _ in Bool.random(using: &random) }
            let rights = AccessRight.allCases.filter { _ in Bool.random(using: &random) }
            guard !chosen.isEmpty, !rights.isEmpty else { continue }
            let isFlow = Bool.random(using: &random)
            let match = isFlow ? " [\(chosen.map { "{\($0)}" }.joined(separator: ", "))]" : chosen.map { "\n  - \($0)" }.joined()
            let keys = prefixes.isEmpty ? "keys: all" : "prefixes: [\(prefixes.map { "'\($0)'" }.joined(separator: ", "))]"
            let text = """
                version: 1
                principals:
                - name: it's me
                  match:\(match)
                  allow:
                  - rights: [\(rights.map(\.rawValue).joined(separator: ", "))]
                    \(keys)
                """
            let rule = try #require(try self.policy(text).rules.first)
            #expect(rule.matchers.map { "\($0.kind.rawValue): \($0.value)" } == chosen.map { $0.replacing("\"", with: "") })
            let expected = AccessGrant(AccessRights(rights), over: prefixes.isEmpty ? .all : .prefixes(prefixes.map { Array($0.utf8) }))
            #expect(rule.grants.list == [expected])
        }
    }
}
