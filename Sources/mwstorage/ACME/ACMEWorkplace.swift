import MWACME
import MWCertificateManager
import MWPKI

/// What an `acme` command works with, from its options and all other settings.
struct ACMEWorkplace {
    let settings: ACMESettings
    let state: StateDirectory
    let isDryRun: Bool
    let format: OutputFormat
    /// What the state directory holds, as it was when the command began.
    let current: CertificateGeneration?
    private let observer: Progress.Observer

    /// Below the state directory, for `--dry-run`.
    static let stagingName = "staging"

    /// - Parameters:
    ///   - certificate: nil for a command that is about accounts only.
    ///   - needs: what must be set.
    ///   - isForCurrent: names, CA and kind of key come from the certificate there is, where they are not set.
    init(
        _ authority: ACMEAuthorityOptions, certificate: ACMECertificateOptions? = nil, configuration: ConfigurationOptions,
        needs: ACMESettings.Needs, isForCurrent: Bool = false, output: OutputOptions
    ) async throws {
        let flags = authority.flags.merging(certificate?.flags ?? [:]) { $1 }
        let layers = try await configuration.settings(flags: flags)
        isDryRun = authority.dryRun
        format = output.format ?? .text
        var path = try ACMESettings.stateDirectory(layers)
        if authority.dryRun { path += "/" + Self.stagingName }
        state = StateDirectory(path: path)
        current = try state.load().current?.generation
        var settings = try ACMESettings(layers, needs: needs, for: isForCurrent ? current : nil)
        if authority.dryRun, needs != .nothing { try settings.rehearse(at: authority.stagingDirectory, after: current) }
        self.settings = settings
        observer = ACMEProgress.observer(authority.quiet ? nil : format)
    }

    /// Ready to work, with presenters for the challenges that are allowed.
    ///
    /// - Throws: `CommandFailure` for a CA file, or an address, that cannot be used.
    func operations() throws -> ACMEOperations {
        let presenters = try settings.presenters { Output.note("mwstorage: \($0)") }
        var driver = ACMEDriver(
            directory: state, transfer: try CurlTransfer(caFiles: settings.caFiles), presenter: presenters, observer: observer)
        driver.directory = state
        var operations = ACMEOperations(driver: driver)
        operations.accountAlgorithm = settings.accountAlgorithm
        return operations
    }

    /// What there is to order.
    var configuration: CertificateManagerConfiguration {
        var configuration = settings.managerConfiguration(state)
        // What it does with a certificate, it would do with one that nobody trusts.
        if isDryRun { configuration.afterIssue = nil }
        return configuration
    }

    /// The only CA that is set.
    /// - Throws: `CommandFailure` with status 64 when there are several: what is done to an account is done to one that was named.
    func onlyPlan(_ what: String) throws -> IssuancePlan {
        guard let plan = settings.plans.first, settings.plans.count == 1 else {
            throw CommandFailure(
                .usage, "at which CA? \(what)", why: "set: \(settings.plans.map(\.directoryURL).joined(separator: ", "))",
                remedy: "name it with --directory", code: "usage")
        }
        return plan
    }

    /// What a command has to say: data on standard output, warnings on standard error.
    func tell(_ members: [(String, JSONValue)], warnings: [String] = []) throws {
        for warning in warnings { Output.note("mwstorage: warning: \(warning)") }
        let shown = isDryRun ? [("dry_run", JSONValue.bool(true))] + members : members
        try Output.record(shown, format: format)
    }
}

extension ACMESettings {
    /// What a `CertificateManager` keeps in `state`.
    func managerConfiguration(_ state: StateDirectory) -> CertificateManagerConfiguration {
        var configuration = CertificateManagerConfiguration(plans: plans, stateDirectory: state)
        configuration.accountAlgorithm = accountAlgorithm
        configuration.afterIssue = afterIssue.map { HookProgram(path: $0) }
        return configuration
    }

    /// The staging directories of public CAs, by those that issue for real.
    private static let stagingDirectories = [
        "https://acme-v02.api.letsencrypt.org/directory": "https://acme-staging-v02.api.letsencrypt.org/directory",
        "https://dv.acme-v02.api.pki.goog/directory": "https://dv.acme-v02.test-api.pki.goog/directory",
    ]

    /// Turns everything to the staging directory of the first CA.
    ///
    /// - Parameter current: What an earlier dry run got, and so knows where.
    fileprivate mutating func rehearse(at given: String?, after current: CertificateGeneration?) throws {
        guard var plan = plans.first else { return }
        let known = Self.stagingDirectories[plan.directoryURL] ?? (plan.directoryURL == current?.directoryURL ? plan.directoryURL : nil)
        guard let staging = given ?? known else {
            throw CommandFailure(
                .usage, "no staging directory is known for \(plan.directoryURL)", remedy: "give it with --staging-directory", code: "usage")
        }
        plan.directoryURL = staging
        plans = [plan]
    }
}
