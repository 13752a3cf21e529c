import ArgumentParser

/// `mwstorage acme …`.
struct ACMECommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "acme", abstract: "Get, renew and revoke the server's certificate from a CA that speaks ACME (RFC 8555).",
        discussion: """
            'mwstorage serve --acme' does all of this by itself; these commands are for where no server runs, and for what only a person \
            decides. All of them work on the same state directory, and wait for each other.

            --dry-run does the same against the CA's staging directory, with an account and certificates of its own below the state \
            directory: nothing that is in use is touched.

            The server need not be stopped: it takes up within a minute what a command got. What it serves is never replaced by \
            anything that was not checked: key, names, dates and chain.
            """,
        subcommands: [
            RegisterAccountCommand.self, IssueCertificateCommand.self, RenewCertificateCommand.self, CertificateStatusCommand.self,
            RevokeCertificateCommand.self, RollAccountKeyCommand.self, DeactivateAccountCommand.self,
        ])
}
