import ArgumentParser
import MWPKI
import MWPolicyFile
import MWServer

/// `mwstorage policy explain --certificate FILE --key K`.
struct ExplainPolicyCommand: AsyncParsableCommand, CommandWithOutput {
    static let configuration = CommandConfiguration(
        commandName: "explain", abstract: "Say what a policy would do with a certificate, and why.",
        discussion: """
            Which rule matches the certificate, which do not and why not; and for each right whether it would have it over the key. With \
            --right only that one counts, and the exit code is 1 if it would be denied. Whether the server's TLS accepts the certificate at \
            all is another question, which 'mwstorage doctor' answers.
            """)

    @Option(help: ArgumentHelp("The client's certificate, PEM (the first one in it) or DER.", valueName: "file"))
    var certificate: String

    @Option(help: ArgumentHelp("A key; without it, each right is shown with the keys it is for.", valueName: "key"))
    var key: String?

    @Option(help: ArgumentHelp("Only this right: read, write, watch or administer.", valueName: "right"))
    var right: AccessRight?

    @Option(help: ArgumentHelp("The policy (default: the server's setting serve.policy).", valueName: "file"))
    var policy: String?

    @Option(help: ArgumentHelp("The server's truststore, for rules that name an alias (default: serve.trust).", valueName: "file"))
    var trust: String?

    @OptionGroup(title: "Passphrase of the truststore") var passphrase: PassphraseOptions
    @OptionGroup(title: "Form of the key") var form: BytesOptions
    @OptionGroup(title: "Configuration") var configuration: ConfigurationOptions
    @OptionGroup var output: OutputOptions

    func run() async throws {
        var flags: [Setting: [String]] = [:]
        for (setting, value) in [(Setting.servePolicy, policy), (.serveTrust, trust), (.servePassphraseFile, passphrase.passphraseFile)] {
            if let value { flags[setting] = [value] }
        }
        let settings = try await configuration.settings(flags: flags)
        let source = try settings.string(.servePolicy)
        let bytes = try LocalFile.contents(certificate)
        let leaf =
            PEM.isPEM(bytes) ? try Certificate.list(pem: bytes, source: certificate)[0] : try Certificate(der: bytes, source: certificate)
        let explanation = PolicyExplanation(
            policy: try source.map { try PolicyFile.read($0) } ?? .none, leaf: leaf, alias: try alias(of: leaf, settings),
            key: try key.map { try form.bytes($0, name: "key") }, rights: right.map { [$0] } ?? AccessRight.allCases)
        if output.format?.isJSON == true {
            try Output.line(explanation.json.text)
        } else {
            try Output.line(explanation.lines.joined(separator: "\n"))
        }
        if right != nil, !explanation.isAllowed { throw CommandFailure.silent(.no) }
    }

    private func alias(of leaf: Certificate, _ settings: Settings) throws -> String? {
        guard let path = try settings.string(.serveTrust) else { return nil }
        let file = try settings.string(.serveTrustPassphraseFile) ?? settings.string(.servePassphraseFile)
        return try Material.alias(of: leaf, inTrustStore: path) { try passphrase.reader(file: file)() }
    }
}

extension AccessRight: ExpressibleByArgument {}

/// What a policy makes of one certificate.
struct PolicyExplanation {
    private struct Answer {
        let right: AccessRight
        let isAllowed: Bool
        let why: String
    }

    private let policy: AccessPolicy
    private let leaf: Certificate
    private let identity: PresentedIdentity
    private let key: [UInt8]?
    private let rights: [AccessRight]
    /// Nil without a policy.
    private let verdict: AccessPolicy.Verdict?

    init(policy: AccessPolicy, leaf: Certificate, alias: String?, key: [UInt8]?, rights: [AccessRight]) {
        self.policy = policy
        self.leaf = leaf
        self.identity = PresentedIdentity(leaf, alias: alias)
        self.key = key
        self.rights = rights
        self.verdict = policy.isNone ? nil : policy.judge(identity)
    }

    /// Every right that was asked for.
    var isAllowed: Bool { answers.allSatisfy(\.isAllowed) }

    private var answers: [Answer] { rights.map(answer) }

    private func answer(_ right: AccessRight) -> Answer {
        guard let verdict else { return Answer(right: right, isAllowed: true, why: "there is no policy") }
        guard case .matched(let rule, _) = verdict else {
            return Answer(right: right, isAllowed: false, why: "the connection is refused with 403")
        }
        let granted = rule.grants.list.filter { $0.rights.contains(right) }
        let over = granted.map { PolicyText.keys($0.keys) }.joined(separator: "; ")
        guard !granted.isEmpty else { return Answer(right: right, isAllowed: false, why: "the rule does not grant it") }
        guard let key else { return Answer(right: right, isAllowed: true, why: "granted over \(over)") }
        let reasons = rule.grants.grants(of: right, over: key).map { PolicyText.keys($0.keys) }
        guard rule.grants.allows(right, key) else { return Answer(right: right, isAllowed: false, why: "granted over \(over) only") }
        return Answer(right: right, isAllowed: true, why: "granted over \(reasons.joined(separator: "; "))")
    }

    // MARK: Text

    var lines: [String] {
        var lines = ["certificate  \(leaf)"]
        if let alias = identity.alias { lines.append("alias        \(alias)") }
        switch verdict {
        case nil: lines.append("admitted     there is no policy: whom the trust store accepts has all rights")
        case .matched(let rule, let matcher)?: lines.append("admitted     as \(rule.name), by \(matcher)")
        case .refused(let refusal)?: lines += ["refused      \(refusal.what)", "to mend it   \(refusal.remedy)"]
        }
        if let key { lines.append("key          \(PolicyText.escaped(key))") }
        for answer in answers {
            lines.append("\(padded(answer.right.rawValue))\(answer.isAllowed ? "allowed" : "denied"): \(answer.why)")
        }
        for rule in policy.rules {
            lines.append("rule \(rule.name)")
            for matcher in rule.matchers {
                lines.append("    \(matcher): " + (matcher.mismatch(identity).map { "does not match: \($0)" } ?? "matches"))
            }
        }
        return lines
    }

    private func padded(_ text: String) -> String { text + String(repeating: " ", count: max(1, 13 - text.count)) }

    // MARK: JSON

    var json: JSONValue {
        var members: [(String, JSONValue)] = [
            ("subject", .string(leaf.subject)), ("sha256", .string(leaf.sha256.hex)), ("alias", .optional(identity.alias)),
        ]
        switch verdict {
        case nil: members += [("policy", false), ("admitted", true), ("rule", .null), ("matched_by", .null), ("refusal", .null)]
        case .matched(let rule, let matcher)?:
            members += [
                ("policy", true), ("admitted", true), ("rule", .string(rule.name)), ("matched_by", .string("\(matcher)")),
                ("refusal", .null),
            ]
        case .refused(let refusal)?:
            let reason = JSONValue.object([
                ("reason", .string(refusal.reason.rawValue)), ("what", .string(refusal.what)), ("remedy", .string(refusal.remedy)),
            ])
            members += [("policy", true), ("admitted", false), ("rule", .null), ("matched_by", .null), ("refusal", reason)]
        }
        let (text, encoding) = key.map { Bytes.text($0) } ?? ("", "utf8")
        members += [("key", key == nil ? .null : .string(text)), ("encoding", key == nil ? .null : .string(encoding))]
        members.append(
            (
                "rights",
                .array(
                    answers.map {
                        .object([("right", .string($0.right.rawValue)), ("allowed", .bool($0.isAllowed)), ("why", .string($0.why))])
                    })
            ))
        members.append(("rules", .array(policy.rules.map(json))))
        return .object(members)
    }

    private func json(_ rule: AccessRule) -> JSONValue {
        let matchers = rule.matchers.map { matcher in
            let mismatch = matcher.mismatch(identity)
            return JSONValue.object([
                ("identity", .string("\(matcher)")), ("matches", .bool(mismatch == nil)), ("why_not", .optional(mismatch)),
            ])
        }
        return .object([("name", .string(rule.name)), ("match", .array(matchers))])
    }
}
