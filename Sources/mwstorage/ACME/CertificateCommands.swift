import ArgumentParser
import MWACME
import MWCertificateManager
import MWPKI

/// `mwstorage acme issue`.
struct IssueCertificateCommand: AsyncParsableCommand, CommandWithOutput {
    static let configuration = CommandConfiguration(
        commandName: "issue", abstract: "Get the certificate, if there is none as it is wanted, or it is due.",
        discussion: """
            An account is made where there is none. An order that was cut off is finished, not made again. Nothing to do is success.
            """)

    @OptionGroup(title: "Certificate") var certificate: ACMECertificateOptions
    @OptionGroup(title: "CA and state") var authority: ACMEAuthorityOptions
    @Flag(help: "Order another one, whatever is there.")
    var force = false
    @OptionGroup(title: "Configuration") var configuration: ConfigurationOptions
    @OptionGroup var output: OutputOptions

    func run() async throws {
        let place = try await ACMEWorkplace(
            authority, certificate: certificate, configuration: configuration, needs: .certificate, output: output)
        try await place.obtain(force || authority.dryRun ? .always : .ifDue)
    }
}

/// `mwstorage acme renew`.
struct RenewCertificateCommand: AsyncParsableCommand, CommandWithOutput {
    static let configuration = CommandConfiguration(
        commandName: "renew", abstract: "Renew the certificate if it is time to; asks the CA when that is, where it says (RFC 9773).",
        discussion: """
            Names, CA and kind of key are those of the certificate there is, where they are not set. Nothing to do is success; a \
            certificate that is absent is exit code 1.
            """)

    @OptionGroup(title: "Certificate") var certificate: ACMECertificateOptions
    @OptionGroup(title: "CA and state") var authority: ACMEAuthorityOptions
    @Flag(help: "Renew now, whether it is time or not.")
    var force = false
    @OptionGroup(title: "Configuration") var configuration: ConfigurationOptions
    @OptionGroup var output: OutputOptions

    func run() async throws {
        let place = try await ACMEWorkplace(
            authority, certificate: certificate, configuration: configuration, needs: .certificate, isForCurrent: true, output: output)
        guard place.current != nil || authority.dryRun else {
            throw CommandFailure(
                .no, "there is no certificate to renew", why: "state directory: \(place.state.path)",
                remedy: "get one: mwstorage acme issue",
                code: "acme.certificateAbsent")
        }
        try await place.obtain(force || authority.dryRun ? .always : .ifDue)
    }
}

extension ACMEWorkplace {
    /// Gets the certificate, and says what came of it.
    fileprivate func obtain(_ mode: ACMEOperations.Mode) async throws {
        let operations = try operations()
        let configuration = configuration
        let outcome = try await Interruption.stopping { try await operations.obtain(configuration, mode) }
        switch outcome {
        case .issued(let current, let warnings):
            try tell([("outcome", "issued")] + describe(current), warnings: warnings)
        case .obtainedByAnother(let current):
            try tell([("outcome", "obtained by another process")] + describe(current))
        case .notDue(let current, let renewal, let reason):
            try tell(
                [("outcome", "nothing to do")] + describe(current) + [
                    ("next_renewal", .string("\(renewal)")), ("reason", .string(reason)),
                ])
        }
    }

    private func describe(_ current: StateDirectory.Numbered) -> [(String, JSONValue)] {
        let generation = current.generation
        return [
            ("names", .array(generation.identifiers.map { .string($0.value) })),
            ("not_after", .string("\(generation.leaf.notAfter)")), ("issuer", .string(generation.leaf.issuer)),
            ("serial_number", .string(generation.leaf.serialNumber)), ("sha256", .string(generation.leaf.sha256.hex)),
            ("key", .string("\(generation.key.algorithm)")), ("profile", .optional(generation.profile)),
            ("directory", .string(generation.directoryURL)), ("account", .string(generation.accountURL)),
            ("generation", .integer(Int64(clamping: current.number))), ("state", .string(state.path)),
        ]
    }
}
