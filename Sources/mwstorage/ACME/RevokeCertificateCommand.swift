import ArgumentParser
import MWACME
import MWCertificateManager
import MWPKI

/// `mwstorage acme revoke`.
struct RevokeCertificateCommand: AsyncParsableCommand, CommandWithOutput {
    static let configuration = CommandConfiguration(
        commandName: "revoke", abstract: "Have the CA revoke a certificate: the one there is, or one in a file.",
        discussion: """
            By the account that ordered it, or with --by-key (or --key) by the certificate's own key, for which no account is needed. A server \
            that keeps the certificate with ACME orders another one at once. Asks first, or needs --yes. One that is revoked already is success.
            """)

    @OptionGroup(title: "CA and state") var authority: ACMEAuthorityOptions
    @Option(help: ArgumentHelp("PEM file of the certificate, in place of the one in the state directory.", valueName: "file"))
    var certificate: String?
    @Option(help: ArgumentHelp("PEM file of that certificate's key, to revoke by it; readable by its owner only.", valueName: "file"))
    var key: String?
    @Flag(help: "By the key of the certificate in the state directory, not by the account.")
    var byKey = false
    @Option(
        help: ArgumentHelp(
            "unspecified, keyCompromise, affiliationChanged, superseded or cessationOfOperation.", valueName: "reason"))
    var reason: RevocationReason?
    @Flag(help: "Do not ask.")
    var yes = false
    @OptionGroup(title: "Configuration") var configuration: ConfigurationOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        if key != nil, certificate == nil { throw ValidationError("--key goes with --certificate.") }
        if byKey, certificate != nil {
            throw ValidationError("--by-key is for the certificate in the state directory; give --key with a file.")
        }
    }

    func run() async throws {
        let place = try await ACMEWorkplace(authority, configuration: configuration, needs: .account, isForCurrent: true, output: output)
        let (leaf, ownKey) = try material(place)
        let plan = try place.onlyPlan("a certificate is revoked by the CA that issued it")
        try Confirmation.ask(
            "revoke the certificate of \(Self.names(leaf)), serial number \(leaf.serialNumber), for ever? Clients will refuse it.", yes: yes
        )
        let operations = try place.operations()
        let reason = reason
        try await Interruption.stopping { try await operations.revoke(leaf, reason: reason, key: ownKey, plan) }
        try place.tell([
            ("outcome", "revoked"), ("names", .array((leaf.dnsNames + leaf.ipAddresses).map { .string($0) })),
            ("serial_number", .string(leaf.serialNumber)), ("sha256", .string(leaf.sha256.hex)),
            ("reason", .optional(reason.map { "\($0)" })), ("by", .string(ownKey == nil ? "account" : "key")),
            ("directory", .string(plan.directoryURL)),
        ])
    }

    /// The certificate, and its key where it is to be revoked by that.
    private func material(_ place: ACMEWorkplace) throws -> (leaf: Certificate, key: PrivateKey?) {
        if let certificate {
            let list = try Certificate.list(pem: try LocalFile.contents(certificate), source: certificate)
            guard let leaf = list.first else { throw CommandFailure(.badInput, "\(certificate): no certificate in it") }
            guard let key else { return (leaf, nil) }
            let own = try CommandFailure.configuration { try PrivateKey(pem: PrivateFile.read(key).bytes, source: key) }
            guard own.matches(leaf) else {
                throw CommandFailure(.badInput, "\(key): it is not the key of \(certificate)", remedy: "name the right file")
            }
            return (leaf, own)
        }
        guard let current = place.current else {
            throw CommandFailure(
                .no, "there is no certificate to revoke", why: "state directory: \(place.state.path)",
                remedy: "name one with --certificate", code: "acme.certificateAbsent")
        }
        return (current.leaf, byKey ? current.key : nil)
    }

    private static func names(_ leaf: Certificate) -> String {
        let names = leaf.dnsNames + leaf.ipAddresses
        return names.isEmpty ? leaf.subject : names.joined(separator: ", ")
    }
}

extension RevocationReason: ExpressibleByArgument {
    /// As RFC 5280 §5.3.1 names them, whatever their case and hyphens; or their number.
    init?(argument: String) {
        let wanted = argument.lowercased().filter { $0 != "-" }
        guard let reason = RevocationReason.allCases.first(where: { "\($0)".lowercased() == wanted || String($0.rawValue) == wanted })
        else { return nil }
        self = reason
    }
}
