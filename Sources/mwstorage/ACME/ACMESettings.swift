import MWACME
import MWPKI
import MWProtocol

/// What is asked of which CA, from all layers of settings; what it says is well formed.
struct ACMESettings: Sendable {
    /// One for each CA, in the order in which to try them.
    var plans: [IssuancePlan]
    /// Account, keys and certificates.
    var stateDirectory: String
    /// Where http-01 is answered, if it is one of the challenges.
    var httpAddress: HostAndPort?
    /// Where commands answer tls-alpn-01, if it is one of the challenges; a server does it on its own listener.
    var tlsAddress: HostAndPort?
    /// The program that sets the records of dns-01, if it is one of the challenges.
    var dnsHook: String?
    /// The roots that the CAs' own addresses are verified with; none: the system's.
    var caFiles: [String]
    var accountAlgorithm: KeyAlgorithm = .ec(.p256)
    /// The program to run after each new certificate.
    var afterIssue: String?

    /// What must be set.
    enum Needs {
        case nothing
        /// A CA.
        case account
        /// A CA, names, and a way to prove them.
        case certificate
    }

    /// In the data directory, unless `serve.acme.state` says another.
    private static let stateName = "acme"
    /// In a list of bindings, the place of a CA that has none.
    private static let noBinding = "none"

    /// Whether the server shall get its certificate itself.
    static func isEnabled(_ settings: Settings) throws -> Bool { try settings.yesOrNo(.acmeEnabled) }

    /// - Parameter current: The certificate there is, whose names, CA, profile and kind of key are meant where none are set.
    /// - Throws: `CommandFailure` with status 64 or 78 that names the setting.
    init(_ settings: Settings, needs: Needs = .certificate, for current: CertificateGeneration? = nil) throws {
        stateDirectory = try Self.stateDirectory(settings)
        caFiles = try settings.strings(.acmeCAFile)
        afterIssue = try settings.value(.acmeAfterIssue, expected: "the absolute path of a program") { $0.hasPrefix("/") ? $0 : nil }
        if let key = try Self.keyAlgorithm(.acmeAccountKeyType, settings) { accountAlgorithm = key }
        let challenges = try settings.values(.acmeChallenge, expected: "tls-alpn-01, http-01 or dns-01") { ChallengeType(rawValue: $0) }
        if challenges.contains(.http01) {
            httpAddress = try settings.value(.acmeHTTPListen, expected: "HOST:PORT") { HostAndPort(argument: $0) }
        }
        if challenges.contains(.tlsALPN01) {
            tlsAddress = try settings.value(.acmeTLSListen, expected: "HOST:PORT") { HostAndPort(argument: $0) }
        }
        if challenges.contains(.dns01), needs == .certificate { dnsHook = try settings.required(.acmeDNSHook) }
        var names = try settings.values(.acmeName, expected: "a DNS name, *.NAME or an IP address") { Identifier($0) }
        if names.isEmpty { names = current?.identifiers ?? [] }
        guard !names.isEmpty || needs != .certificate else { throw settings.missing(.acmeName) }
        var directories = try settings.strings(.acmeDirectory)
        if directories.isEmpty { directories = [current?.directoryURL].compactMap(\.self) }
        guard !directories.isEmpty || needs == .nothing else { throw settings.missing(.acmeDirectory) }
        let bindings = try Self.bindings(settings, count: directories.count)
        plans = try zip(directories, bindings).map { directory, binding in
            var plan = IssuancePlan(directoryURL: directory, identifiers: names)
            plan.challengePreference = challenges
            plan.externalAccountBinding = binding
            try Self.complete(&plan, settings, for: current)
            if needs == .certificate { do { try plan.validate() } catch { throw CommandFailure(error).ofConfiguration } }
            return plan
        }
    }

    /// What does not depend on the CA.
    private static func complete(_ plan: inout IssuancePlan, _ settings: Settings, for current: CertificateGeneration?) throws {
        plan.contacts = try settings.values(.acmeContact, expected: "a mail address") { Self.contact($0) }
        plan.termsOfServiceAgreed = try settings.yesOrNo(.acmeAgreeToTerms)
        let preferred = try (settings.string(.acmeProfile) ?? current?.profile).map { IssuancePlan.Profile.preferred($0) }
        plan.profile = try settings.string(.acmeRequiredProfile).map { .required($0) } ?? preferred
        plan.chainPreference = try settings.string(.acmeChain).map { .rootCommonName($0) }
        // The default is no wish of anybody: it changes nothing that is there.
        let isSet = try settings.found(.acmeKeyType)?.origin != .fallback
        if let current, !isSet {
            plan.keyAlgorithm = current.key.algorithm
        } else if let key = try keyAlgorithm(.acmeKeyType, settings) {
            plan.keyAlgorithm = key
        }
        plan.userAgent = "mwstorage/\(softwareVersion)"
    }

    private static func keyAlgorithm(_ setting: Setting, _ settings: Settings) throws -> KeyAlgorithm? {
        try settings.value(setting, expected: "ec-p256, ec-p384, rsa-2048, rsa-3072 or rsa-4096") { keyAlgorithms[$0] }
    }

    private static let keyAlgorithms: [String: KeyAlgorithm] = [
        "ec-p256": .ec(.p256), "ec-p384": .ec(.p384), "rsa-2048": .rsa(bits: 2048), "rsa-3072": .rsa(bits: 3072),
        "rsa-4096": .rsa(bits: 4096),
    ]

    /// RFC 8555 §7.3 wants URLs; people have mail addresses.
    private static func contact(_ text: String) -> String? {
        let address = text.hasPrefix("mailto:") ? String(text.dropFirst("mailto:".count)) : text
        // RFC 8555 §7.3: one address, no header fields.
        guard address.split(separator: "@", omittingEmptySubsequences: false).count == 2, !address.hasPrefix("@"), !address.hasSuffix("@"),
            address.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F && !",?".utf8.contains($0) })
        else { return nil }
        return "mailto:" + address
    }

    static func stateDirectory(_ settings: Settings) throws -> String {
        if let given = try settings.string(.acmeState) { return given }
        guard let data = try settings.string(.serveData) else { throw settings.missing(.acmeState) }
        return data + "/" + stateName
    }

    /// One for each CA; `nil` where it has none.
    private static func bindings(_ settings: Settings, count: Int) throws -> [IssuancePlan.ExternalAccountBinding?] {
        let (kids, files) = (try settings.strings(.acmeEABKid), try settings.strings(.acmeEABKeyFile))
        guard kids.count == files.count, kids.count <= count else {
            throw CommandFailure(
                .configurationInvalid, "external account bindings do not fit the directories",
                why: "\(kids.count) key identifiers, \(files.count) key files, \(count) directories",
                remedy: "give --acme-eab-kid and --acme-eab-key-file once for each --acme-directory, in its order; '\(noBinding)' for none",
                code: "configuration.invalid")
        }
        let given: [IssuancePlan.ExternalAccountBinding?] = try zip(kids, files).map { kid, file in
            if kid == noBinding, file == noBinding { return nil }
            let text = String(decoding: try CommandFailure.configuration { try PrivateFile.read(file).bytes }, as: UTF8.self)
            let line = text.split(whereSeparator: \.isNewline).first.map(String.init) ?? ""
            guard let binding = IssuancePlan.ExternalAccountBinding(keyIdentifier: kid, macKeyText: line) else {
                throw CommandFailure(
                    .configurationInvalid, "\(file) does not hold the HMAC key of an external account binding",
                    why: "expected: base64url, as the CA gives it out, on the first line", remedy: "write it there again",
                    code: "configuration.invalid")
            }
            return binding
        }
        return given + Array(repeating: nil, count: count - given.count)
    }
}
