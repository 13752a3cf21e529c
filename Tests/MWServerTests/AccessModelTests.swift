import MWPKI
import MWServer
import Testing

/// The access policy against a model of it that is written another way: names are compared character by character, whether two patterns meet is
/// found by trying every name there is, and rights are looked up grant by grant.
@Suite struct AccessModelTests {
    /// Four times this many in all.
    static let roundsPerSeed = 25_000

    @Test(arguments: [1, 2, 3, 4] as [UInt64])
    func `100,000 random rule sets and requests get the same verdict from an independent model`(seed: UInt64) throws {
        var random = SplitMix(state: seed)
        var (accepted, matched, ambiguous, allowed) = (0, 0, 0, 0)
        for round in 0..<Self.roundsPerSeed {
            let model = ModelPolicy(using: &random)
            guard let policy = try? AccessPolicy(rules: model.accessRules, source: "model") else {
                if model.isValid { Issue.record("seed \(seed), round \(round): refused, though nothing is wrong: \(model)") }
                continue
            }
            if !model.isValid { Issue.record("seed \(seed), round \(round): accepted, though two rules meet: \(model)") }
            accepted += 1
            let identity = ModelIdentity(using: &random)
            let owners = model.owners(of: identity)
            switch policy.judge(identity.presented) {
            case .matched(let rule, let matcher):
                matched += 1
                guard owners == [rule.name], matcher.mismatch(identity.presented) == nil else {
                    Issue.record("seed \(seed), round \(round): \(rule.name) in place of \(owners) for \(identity): \(model)")
                    continue
                }
                for _ in 0..<3 {
                    let (right, key) = (random.pick(AccessRight.allCases), random.key())
                    let isAllowed = model.allows(rule.name, right, key)
                    if isAllowed { allowed += 1 }
                    if rule.grants.allows(right, key) != isAllowed || rule.grants.grants(of: right, over: key).isEmpty == isAllowed {
                        Issue.record("seed \(seed), round \(round): \(rule.name), \(right) over \(key) is \(!isAllowed): \(model)")
                    }
                }
            case .refused(let refusal):
                if refusal.reason == .ambiguous { ambiguous += 1 }
                if refusal.reason == .noRule ? !owners.isEmpty : owners.count < 2 {
                    Issue.record("seed \(seed), round \(round): \(refusal) in place of \(owners) for \(identity): \(model)")
                }
            }
        }
        // Otherwise it would have proved nothing.
        let few = Self.roundsPerSeed / 100
        #expect(accepted > few && matched > few && ambiguous > few / 10 && allowed > few && accepted < Self.roundsPerSeed - few)
    }
}

// MARK: - The model

private struct ModelPolicy: CustomStringConvertible {
    typealias Name = (kind: String, value: String)
    typealias Grant = (rights: Set<String>, prefixes: [[UInt8]]?)
    typealias Rule = (name: String, names: [Name], grants: [Grant])

    var rules: [Rule] = []

    init(using random: inout SplitMix) {
        for number in 0..<random.number(1...3) {
            let names = (0..<random.number(1...3)).map { _ in random.pick(Universe.rulesNames) }
            let grants = (0..<random.number(1...2)).map { _ in
                let rights = Set((0..<random.number(1...3)).map { _ in random.pick(AccessRight.allCases).rawValue })
                return (rights, random.number(0...3) == 0 ? nil : (0..<random.number(1...4)).map { _ in random.key(atLeast: 1) })
            }
            self.rules.append((random.number(0...9) == 0 ? "r0" : "r\(number)", names, grants))
        }
    }

    var description: String { "\(self.rules)" }

    var isValid: Bool {
        if Set(self.rules.map(\.name)).count < self.rules.count { return false }
        for (number, rule) in self.rules.enumerated() {
            for (index, name) in rule.names.enumerated() {
                if rule.names[..<index].contains(where: { $0.kind == name.kind && $0.value == name.value }) { return false }
                for other in self.rules[..<number] where other.names.contains(where: { Universe.meet($0, name) }) { return false }
            }
        }
        return true
    }

    func owners(of identity: ModelIdentity) -> [String] {
        self.rules.filter { rule in rule.names.contains { identity.has($0) } }.map(\.name)
    }

    func allows(_ name: String, _ right: AccessRight, _ key: [UInt8]) -> Bool {
        for rule in self.rules where rule.name == name {
            for grant in rule.grants where grant.rights.contains(right.rawValue) {
                guard let prefixes = grant.prefixes else { return true }
                for prefix in prefixes where prefix.count <= key.count && Array(key[..<prefix.count]) == prefix { return true }
            }
        }
        return false
    }

    /// The same as what is tested takes it.
    var accessRules: [AccessRule] {
        self.rules.map { rule in
            AccessRule(
                name: rule.name, matchers: rule.names.map { Universe.matcher($0) },
                grants: AccessGrants(
                    rule.grants.map { grant in
                        AccessGrant(
                            AccessRights(AccessRight.allCases.filter { grant.rights.contains($0.rawValue) }),
                            over: grant.prefixes.map { .prefixes($0) } ?? .all)
                    }))
        }
    }
}

private struct ModelIdentity: CustomStringConvertible {
    var fingerprint, pin: String
    var uris: [String] = []
    var dns: [String] = []
    var commonName: String?
    var alias: String?
    var hasOtherNames: Bool

    init(using random: inout SplitMix) {
        self.fingerprint = random.pick(Universe.digests)
        self.pin = random.pick(Universe.digests)
        if random.number(0...1) == 0 { self.uris = (0..<random.number(1...2)).map { _ in random.pick(Universe.uris) } }
        if random.number(0...1) == 0 { self.dns = (0..<random.number(1...2)).map { _ in random.pick(Universe.dns) } }
        if random.number(0...2) > 0 { self.commonName = random.pick(Universe.words) }
        if random.number(0...3) == 0 { self.alias = random.pick(Universe.words) }
        self.hasOtherNames = random.number(0...9) == 0
    }

    var description: String {
        "\(self.fingerprint.prefix(2)) \(self.pin.prefix(2)) \(self.uris) \(self.dns) \(self.commonName ?? "-") \(self.alias ?? "-")"
    }

    func has(_ name: ModelPolicy.Name) -> Bool {
        switch name.kind {
        case "sha256": return name.value == self.fingerprint
        case "spki": return name.value == self.pin
        case "uri": return self.uris.count == 1 && Universe.isMatch(name.value, self.uris[0])
        case "dns": return self.dns.contains { Universe.isMatch(name.value, $0.lowercased()) }
        case "cn": return self.uris.isEmpty && self.dns.isEmpty && !self.hasOtherNames && self.commonName == name.value
        default: return self.alias == name.value
        }
    }

    var presented: PresentedIdentity {
        var identity = PresentedIdentity(fingerprint: Universe.fingerprints[self.fingerprint]!, publicKeyPin: Universe.pins[self.pin]!)
        identity.uriNames = self.uris
        identity.dnsNames = self.dns
        identity.commonName = self.commonName
        identity.hasAlternativeNames = !self.uris.isEmpty || !self.dns.isEmpty || self.hasOtherNames
        identity.alias = self.alias
        return identity
    }
}

/// So small that things meet.
private enum Universe {
    static let words = ["a", "b", "*", "alice"]
    static let digests = ["11", "22", "33"].map { String(repeating: $0, count: 32) }
    static let fingerprints = Dictionary(uniqueKeysWithValues: digests.map { ($0, CertificateFingerprint($0)!) })
    static let pins = Dictionary(uniqueKeysWithValues: digests.map { ($0, PublicKeyPin($0)!) })
    /// In certificates, which may say anything.
    static let uris = [
        "spiffe://d/a", "spiffe://d/b", "spiffe://d/a/b", "spiffe://d/b/b", "spiffe://e/a", "spiffe://d/*", "spiffe://d/a/",
        "spiffe://d/%61",
        "spiffe://d/..", "https://d/a", "urn:a", "SPIFFE://d/a",
    ]
    static let dns = ["a.x", "b.x", "A.X", "a.b.x", "b.b.x", "*.x", "x", "a..x", "a.x.", "a-b.x"]
    private static let uriPatterns = [
        "spiffe://d/a", "spiffe://d/*", "spiffe://d/a/b", "spiffe://d/*/b", "spiffe://d/a/*", "spiffe://d/*/*", "spiffe://e/a",
        "https://d/a",
        "urn:a",
    ]
    private static let dnsPatterns = ["a.x", "b.x", "*.x", "*.b.x", "a.*.x", "*.*.x", "x"]

    static let rulesNames: [ModelPolicy.Name] = {
        var names: [ModelPolicy.Name] = []
        for digest in digests { names += [("sha256", digest), ("spki", digest)] }
        for pattern in uriPatterns { names.append(("uri", pattern)) }
        for pattern in dnsPatterns { names.append(("dns", pattern)) }
        for word in ["a", "b", "alice"] { names += [("cn", word), ("alias", word)] }
        return names
    }()

    private static let matchers = Dictionary(
        uniqueKeysWithValues: rulesNames.map { name -> (String, IdentityMatcher) in
            let matcher: IdentityMatcher =
                switch name.kind {
                case "sha256": .fingerprint(fingerprints[name.value]!)
                case "spki": .publicKey(pins[name.value]!)
                case "uri": .uri(try! NamePattern(uri: name.value))
                case "dns": .dns(try! NamePattern(dns: name.value))
                case "cn": .commonName(name.value)
                default: .alias(name.value)
                }
            return (name.kind + name.value, matcher)
        })

    static func matcher(_ name: ModelPolicy.Name) -> IdentityMatcher { matchers[name.kind + name.value]! }

    /// Every name that patterns of these can match, and more.
    private static let everyName: [String] = {
        let segments = ["a", "b", "zz"]
        let pairs = segments.flatMap { first in segments.map { (first, $0) } }
        return uriPatterns + dnsPatterns + segments.flatMap { ["spiffe://d/\($0)", "\($0).x"] }
            + pairs.flatMap { ["spiffe://d/\($0)/\($1)", "\($0).\($1).x"] }
    }()

    private static let meetings: Set<String> = {
        var meetings: Set<String> = []
        for left in rulesNames {
            for right in rulesNames where left.kind == right.kind {
                let isName = left.kind == "uri" || left.kind == "dns"
                let meet =
                    isName ? everyName.contains { isMatch(left.value, $0) && isMatch(right.value, $0) } : left.value == right.value
                if meet { meetings.insert("\(left.kind) \(left.value) \(right.value)") }
            }
        }
        return meetings
    }()

    static func meet(_ left: ModelPolicy.Name, _ right: ModelPolicy.Name) -> Bool {
        left.kind == right.kind && self.meetings.contains("\(left.kind) \(left.value) \(right.value)")
    }

    /// One character after the other.
    static func isMatch(_ pattern: String, _ name: String) -> Bool {
        if name.contains("*") { return false }
        let (pattern, name) = (Array(pattern), Array(name))
        let end: Character = pattern.contains("/") ? "/" : "."
        var (at, here) = (0, 0)
        while at < pattern.count {
            if pattern[at] == "*" {
                let start = here
                while here < name.count, name[here] != end, name[here].isLetter || name[here].isNumber || "-_.~".contains(name[here]) {
                    here += 1
                }
                let segment = String(name[start..<here])
                if segment.isEmpty || segment == "." || segment == ".." { return false }
                if here < name.count, name[here] != end { return false }
            } else {
                guard here < name.count, name[here] == pattern[at] else { return false }
                here += 1
            }
            at += 1
        }
        return here == name.count
    }
}

struct SplitMix: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        self.state &+= 0x9E37_79B9_7F4A_7C15
        var bits = self.state
        bits = (bits ^ (bits >> 30)) &* 0xBF58_476D_1CE4_E5B9
        bits = (bits ^ (bits >> 27)) &* 0x94D0_49BB_1331_11EB
        return bits ^ (bits >> 31)
    }

    mutating func number(_ range: ClosedRange<Int>) -> Int { range.lowerBound + Int(self.next() % UInt64(range.count)) }

    mutating func pick<Element>(_ elements: [Element]) -> Element { elements[Int(self.next() % UInt64(elements.count))] }

    mutating func key(atLeast count: Int = 0) -> [UInt8] { (0..<self.number(count...5)).map { _ in self.pick([0, 97, 255]) } }
}
