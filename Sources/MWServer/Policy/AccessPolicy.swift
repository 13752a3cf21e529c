// Who may do what. Peer verification (MWTLS/PeerVerification.swift) says that a certificate is valid; this file says whose it is:
//
// 1. a policy has rules; each names one principal, the identities it is known by (any of them suffices), and what it may do;
// 2. a certificate that no rule names is refused, and so is one that two rules name: which of them was meant is for a person to say;
// 3. what no rule grants is denied;
// 4. a server without a policy file admits every verified peer with all rights, and says so when it starts.
//
// Only `AccessPolicy.admit` makes a `Principal`, and only out of a `VerifiedPeer`.

package import MWPKI
package import MWTLS

/// Who a peer is, and what it may do.
package struct Principal: Sendable, Hashable {
    /// The rule's. Without a policy, for people only: the trust store's alias; else the first URI, then DNS name of the certificate; else,
    /// only without such names, its CN.
    package let name: String
    package let certificate: Certificate
    /// What of the certificate the rule knows it by; nil without a policy.
    package let matcher: IdentityMatcher?
    /// Where the rule is in the policy file.
    package let place: PolicyPlace?
    package let grants: AccessGrants

    package var fingerprint: CertificateFingerprint { self.certificate.sha256 }

    /// Whether it may do what concerns the server as a whole: sessions, status, reload, revocation.
    package var isAdministrator: Bool { self.grants.everywhere.contains(.administer) }

    fileprivate init(
        name: String, certificate: Certificate, matcher: IdentityMatcher? = nil, place: PolicyPlace? = nil, grants: AccessGrants
    ) {
        self.name = name
        self.certificate = certificate
        self.matcher = matcher
        self.place = place
        self.grants = grants
    }

    /// Whether it has `right` over `key`. One branch for a principal with that right over all keys; allocates nothing.
    @inline(__always)
    package func allows(_ right: AccessRight, _ key: UnsafeRawBufferPointer) -> Bool { unsafe self.grants.allows(right, key) }

    /// Whether it has `right` over `key`.
    package func allows(_ right: AccessRight, _ key: [UInt8]) -> Bool { self.grants.allows(right, key) }
}

/// One principal of a policy: how it is known, and what it may do.
package struct AccessRule: Sendable, Hashable {
    package let name: String
    /// Any of them suffices.
    package let matchers: [IdentityMatcher]
    package let grants: AccessGrants
    /// Where its name stands in the policy file.
    package let place: PolicyPlace?

    /// Call ``AccessPolicy/init(rules:source:)`` with it, which checks it.
    package init(name: String, matchers: [IdentityMatcher], grants: AccessGrants, place: PolicyPlace? = nil) {
        self.name = name
        self.matchers = matchers
        self.grants = grants
        self.place = place
    }
}

/// Why a valid certificate is nobody's, and what would have been needed.
package struct AccessRefusal: Error, Sendable, Hashable {
    package enum Reason: String, Sendable, Hashable, CaseIterable {
        /// No rule names it.
        case noRule
        /// Several rules name it.
        case ambiguous
    }

    package let reason: Reason
    /// What happened.
    package let what: String
    /// What an operator could do about it.
    package let remedy: String
}

/// The rules by which verified peers become principals. One that exists has no two rules of one name, or for one identity.
package final class AccessPolicy: Sendable {
    /// A certificate, judged.
    package enum Verdict: Sendable, Hashable {
        case matched(AccessRule, by: IdentityMatcher)
        case refused(AccessRefusal)
    }

    /// Empty without a policy.
    package let rules: [AccessRule]
    /// The file; nil without a policy.
    package let source: String?
    /// What an operator should know.
    package let warnings: [String]
    /// Rules by everything they name, and once more by names with `*`.
    private let exact: [IdentityMatcher: Int]
    private let patterns: [(matcher: IdentityMatcher, rule: Int)]
    private let admitsEveryone: Bool

    /// Without a policy: every verified peer has all rights.
    package static let none = AccessPolicy()

    private init() {
        self.rules = []
        self.source = nil
        self.warnings = []
        self.exact = [:]
        self.patterns = []
        self.admitsEveryone = true
    }

    /// Throws ``AccessPolicyError`` with everything that is wrong with `rules`.
    package init(rules: [AccessRule], source: String) throws(AccessPolicyError) {
        let checked = AccessRuleCheck(rules)
        guard checked.faults.isEmpty else { throw AccessPolicyError(source: source, faults: checked.faults) }
        self.rules = rules
        self.source = source
        self.warnings = checked.warnings
        self.exact = checked.exact
        self.patterns = checked.patterns
        self.admitsEveryone = false
    }

    /// Whether there is no policy.
    package var isNone: Bool { self.admitsEveryone }

    // MARK: Judging

    /// The principal of a verified peer, at the opening handshake and again for a live connection after each reload.
    package func admit(_ peer: VerifiedPeer) -> Result<Principal, AccessRefusal> {
        let identity = PresentedIdentity(peer.leaf, alias: peer.alias)
        guard !self.admitsEveryone else {
            return .success(
                Principal(name: Self.name(of: identity, peer.leaf), certificate: peer.leaf, grants: .everything))
        }
        switch self.judge(identity) {
        case .matched(let rule, let matcher):
            return .success(Principal(name: rule.name, certificate: peer.leaf, matcher: matcher, place: rule.place, grants: rule.grants))
        case .refused(let refusal):
            return .failure(refusal)
        }
    }

    /// What would become of a certificate, were it valid. Not for a server without a policy, where every valid one is somebody's.
    package func judge(_ identity: PresentedIdentity) -> Verdict {
        var matches: [(rule: Int, matcher: IdentityMatcher)] = []
        for matcher in identity.matchers {
            if let rule = self.exact[matcher] { matches.append((rule, matcher)) }
        }
        for pattern in self.patterns where pattern.matcher.mismatch(identity) == nil { matches.append((pattern.rule, pattern.matcher)) }
        guard let first = matches.first else {
            let remedy =
                "let a rule of the policy match it, for example by \(identity.matchers.map(\.description).joined(separator: ", or "))"
            return .refused(AccessRefusal(reason: .noRule, what: "no rule names this certificate", remedy: remedy))
        }
        guard matches.allSatisfy({ $0.rule == first.rule }) else {
            let found = matches.map { "\(self.rules[$0.rule].name) (\($0.matcher))" }.joined(separator: ", ")
            return .refused(
                AccessRefusal(
                    reason: .ambiguous, what: "several rules name this certificate: \(found)",
                    remedy: "let one rule only match it; which one was meant is not guessed"))
        }
        return .matched(self.rules[first.rule], by: first.matcher)
    }

    private static func name(of identity: PresentedIdentity, _ leaf: Certificate) -> String {
        if let name = identity.alias ?? leaf.uriNames.first ?? leaf.dnsNames.first ?? leaf.emailAddresses.first { return name }
        // Two names for one certificate would be two identities: the CN counts only where there is no subject alternative name.
        if !leaf.hasSubjectAlternativeName, let name = leaf.commonName { return name }
        return leaf.subject
    }

    // MARK: Beside a trust store

    /// What rules cannot do together with `trustStore`: name an alias that is not there.
    package func warnings(beside trustStore: TrustStore) -> [String] {
        let aliases = Set(trustStore.anchors.compactMap(\.alias))
        return self.rules.flatMap { rule in
            rule.matchers.compactMap { matcher in
                guard case .alias(let alias) = matcher, !aliases.contains(alias) else { return nil }
                return "access policy: rule \(rule.name): the trust store has no certificate under the alias \(alias), so nobody matches it"
            }
        }
    }
}

/// Reads rules once, and finds all that is wrong with them.
private struct AccessRuleCheck {
    /// Every matcher; a name in a certificate is looked up as it is, and one with `*` is nobody's.
    private(set) var exact: [IdentityMatcher: Int] = [:]
    private(set) var patterns: [(matcher: IdentityMatcher, rule: Int)] = []
    private(set) var faults: [AccessPolicyError.Fault] = []
    private(set) var warnings: [String] = []

    /// Each is tried for each connection that opens, and against each name when a policy is loaded.
    private static let maximumPatterns = 1_000

    init(_ rules: [AccessRule]) {
        var names: [String: Int] = [:]
        if rules.isEmpty {
            self.faults.append(.init(nil, "the policy has no rule, so nobody could connect", remedy: "add one to 'principals'"))
        }
        for (index, rule) in rules.enumerated() {
            self.check(rule, index, rules)
            if let other = names.updateValue(index, forKey: rule.name) {
                self.fault(rule, "two rules are named \(rule.name), the other at \(Self.place(rules[other]))", "join them, or rename one")
            }
        }
        self.checkOverlaps(rules)
    }

    private mutating func check(_ rule: AccessRule, _ index: Int, _ rules: [AccessRule]) {
        if rule.matchers.isEmpty {
            self.fault(rule, "rule \(rule.name) matches nobody", "give it one identity or more under 'match'")
        }
        if rule.grants.somewhere.isEmpty {
            self.fault(
                rule, "rule \(rule.name) grants nothing", "give it rights under 'allow', or remove the rule: who is not named is refused")
        }
        for matcher in rule.matchers {
            if let other = self.exact.updateValue(index, forKey: matcher) {
                let whose = other == index ? "twice by rule \(rule.name)" : "by rule \(rule.name) and by rule \(rules[other].name)"
                self.fault(rule, "\(matcher) is named \(whose)", "name each identity once")
            } else if matcher.pattern != nil {
                self.patterns.append((matcher, index))
            }
        }
        let isLimited = rule.grants.somewhere.contains(.administer) && !rule.grants.everywhere.contains(.administer)
        if isLimited {
            self.warnings.append(
                "\(Self.place(rule)): rule \(rule.name): administer over some keys only: the server's own administration needs 'keys: all'")
        }
    }

    /// Names that two rules would match. Over different kinds of identity, as a fingerprint and a DNS name, that shows only in a certificate.
    private mutating func checkOverlaps(_ rules: [AccessRule]) {
        guard self.patterns.count <= Self.maximumPatterns else {
            self.faults.append(
                .init(
                    nil, "the policy has \(self.patterns.count) names with '*', and \(Self.maximumPatterns) are the limit",
                    remedy: "let fewer patterns cover them, or write the names out"))
            return
        }
        for (number, pattern) in self.patterns.enumerated() {
            for other in self.patterns[..<number] where other.rule != pattern.rule { self.compare(pattern, other, rules) }
            for (matcher, rule) in self.exact where rule != pattern.rule && matcher.pattern == nil {
                self.compare(pattern, (matcher, rule), rules)
            }
        }
    }

    private mutating func compare(
        _ left: (matcher: IdentityMatcher, rule: Int), _ right: (matcher: IdentityMatcher, rule: Int), _ rules: [AccessRule]
    ) {
        let isShared =
            switch (left.matcher, right.matcher) {
            case (.uri(let left), .uri(let right)), (.dns(let left), .dns(let right)): left.overlaps(right)
            default: false
            }
        guard isShared else { return }
        self.fault(
            rules[left.rule],
            "\(left.matcher) of rule \(rules[left.rule].name) and \(right.matcher) of rule \(rules[right.rule].name) match the same names",
            "narrow one of them: a certificate must be named by one rule")
    }

    private mutating func fault(_ rule: AccessRule, _ what: String, _ remedy: String) {
        self.faults.append(.init(rule.place, what, remedy: remedy))
    }

    private static func place(_ rule: AccessRule) -> String { rule.place.map { "line \($0.line)" } ?? "rule \(rule.name)" }
}
