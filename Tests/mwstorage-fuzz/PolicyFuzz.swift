import MWPKI
import MWPolicyFile
import MWServer

/// Any file gives a policy or faults with their places; a policy keeps its promises.
enum PolicyFuzz {
    static func run(_ input: [UInt8]) {
        do {
            check(try PolicyFile.policy(input, source: "input"))
        } catch {
            precondition(!error.faults.isEmpty && error.faults.count <= AccessPolicyError.maximumFaults, "an error without a fault")
            for fault in error.faults {
                precondition(!fault.what.isEmpty && !fault.remedy.isEmpty && (fault.line ?? 1) > 0 && (fault.column ?? 1) > 0)
            }
        }
    }

    private static func check(_ policy: AccessPolicy) {
        precondition(!policy.rules.isEmpty && Set(policy.rules.map(\.name)).count == policy.rules.count)
        for rule in policy.rules {
            precondition(!rule.matchers.isEmpty && !rule.grants.somewhere.isEmpty, "a rule without a meaning")
            for grant in rule.grants.list {
                guard case .prefixes(let prefixes) = grant.keys else { continue }
                for prefix in prefixes {
                    precondition(!prefix.isEmpty)
                    for right in grant.rights.list { precondition(rule.grants.allows(right, prefix + [0]), "a granted key is denied") }
                }
            }
            for matcher in rule.matchers { checkMatcher(matcher, of: rule, in: policy) }
        }
    }

    /// Whoever has exactly what a rule names, and nothing else, is that rule's principal.
    private static func checkMatcher(_ matcher: IdentityMatcher, of rule: AccessRule, in policy: AccessPolicy) {
        let zero = [UInt8](repeating: 0, count: 32)
        guard let fingerprint = CertificateFingerprint(bytes: zero), let pin = PublicKeyPin(bytes: zero) else { return }
        var identity = PresentedIdentity(fingerprint: fingerprint, publicKeyPin: pin)
        switch matcher {
        case .fingerprint(let fingerprint): identity.fingerprint = fingerprint
        case .publicKey(let pin): identity.publicKeyPin = pin
        case .uri(let name): identity.uriNames = [name.text.replacing("*", with: "x")]
        case .dns(let name): identity.dnsNames = [name.text.replacing("*", with: "x")]
        case .commonName(let name): identity.commonName = name
        case .alias(let name): identity.alias = name
        }
        identity.hasAlternativeNames = !identity.uriNames.isEmpty || !identity.dnsNames.isEmpty
        switch policy.judge(identity) {
        case .matched(let matched, _): precondition(matched.name == rule.name, "another rule's principal")
        // Somebody may name thirty-two zero bytes.
        case .refused(let refusal): precondition(refusal.reason == .ambiguous, "a rule's own identity is nobody's")
        }
    }
}
