import ArgumentParser
import MWACME
import MWCertificateManager
import MWPKI

/// `mwstorage acme register`.
struct RegisterAccountCommand: AsyncParsableCommand, CommandWithOutput {
    static let configuration = CommandConfiguration(
        commandName: "register", abstract: "Make the account at the CA, or find it; with --contact, set whom the CA writes to.",
        discussion: "Not needed before issue, which does it by itself. Where several CAs are set, at each of them.")

    @OptionGroup(title: "CA and state") var authority: ACMEAuthorityOptions
    @Flag(help: "Only find the account that the key belongs to; make none.")
    var onlyExisting = false
    @OptionGroup(title: "Configuration") var configuration: ConfigurationOptions
    @OptionGroup var output: OutputOptions

    func run() async throws {
        let place = try await ACMEWorkplace(authority, configuration: configuration, needs: .account, output: output)
        let operations = try place.operations()
        for plan in place.settings.plans {
            let (record, account) = try await Interruption.stopping { try await register(plan, operations) }
            try place.tell(
                [
                    ("directory", .string(record.directoryURL)), ("account", .optional(record.url)),
                    ("status", .optional(account.map { "\($0.status)" })),
                    ("contacts", .array(record.contacts.map { .string($0) })), ("key", .string("\(record.key.algorithm)")),
                ])
        }
    }

    private func register(
        _ plan: IssuancePlan, _ operations: ACMEOperations
    ) async throws -> (record: AccountRecord, account: ACMEAccount?) {
        let found = try await onlyExisting ? operations.find(plan) : operations.register(plan)
        // An account that was there keeps its contacts unless it is told (RFC 8555 §7.3).
        guard !plan.contacts.isEmpty, let account = found.account, Set(account.contacts) != Set(plan.contacts) else { return found }
        return try await operations.update(contacts: plan.contacts, plan)
    }
}

/// `mwstorage acme rollover`.
struct RollAccountKeyCommand: AsyncParsableCommand, CommandWithOutput {
    static let configuration = CommandConfiguration(
        commandName: "rollover", abstract: "Give the account a new key; the CA takes the old one no more.",
        discussion: "The kind of the new key is that of --account-key-type. A rollover that was cut off is found out by the next command.")

    @OptionGroup(title: "CA and state") var authority: ACMEAuthorityOptions
    @OptionGroup(title: "Configuration") var configuration: ConfigurationOptions
    @OptionGroup var output: OutputOptions

    func run() async throws {
        let place = try await ACMEWorkplace(authority, configuration: configuration, needs: .account, isForCurrent: true, output: output)
        let plan = try place.onlyPlan("a rollover changes one account's key")
        let operations = try place.operations()
        let algorithm = place.settings.accountAlgorithm
        let record = try await Interruption.stopping { try await operations.rollover(plan, to: algorithm) }
        try place.tell([
            ("directory", .string(record.directoryURL)), ("account", .optional(record.url)), ("key", .string("\(record.key.algorithm)")),
            ("key_sha256", .string(record.key.publicKeyPin.hex)),
        ])
    }
}

/// `mwstorage acme deactivate`.
struct DeactivateAccountCommand: AsyncParsableCommand, CommandWithOutput {
    static let configuration = CommandConfiguration(
        commandName: "deactivate", abstract: "Close the account at the CA, for ever; its certificates stay valid.",
        discussion: """
            Without it no certificate is renewed. Asks first, or needs --yes. To start over with another account, remove the files it names \
            from the state directory, which hold the key of the closed one, and run 'mwstorage acme register'.
            """)

    @OptionGroup(title: "CA and state") var authority: ACMEAuthorityOptions
    @Flag(help: "Do not ask.")
    var yes = false
    @OptionGroup(title: "Configuration") var configuration: ConfigurationOptions
    @OptionGroup var output: OutputOptions

    func run() async throws {
        let place = try await ACMEWorkplace(authority, configuration: configuration, needs: .account, isForCurrent: true, output: output)
        let plan = try place.onlyPlan("a deactivation closes one account")
        try Confirmation.ask("close the account at \(plan.directoryURL) for ever? It can order nothing any more.", yes: yes)
        let operations = try place.operations()
        let record = try await Interruption.stopping { try await operations.deactivate(plan) }
        let files = place.state.accountFiles(at: record.directoryURL).joined(separator: " and ")
        Output.note("the CA takes the key of this account no more; to start over, remove \(files), then run: mwstorage acme register")
        try place.tell([
            ("directory", .string(record.directoryURL)), ("account", .optional(record.url)), ("status", "deactivated"),
        ])
    }
}
