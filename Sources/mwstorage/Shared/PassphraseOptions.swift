import ArgumentParser

/// `--passphrase-file`, `--passphrase-fd`, `--passphrase-env`: where a passphrase comes from. Never the command line itself,
/// which every user of the machine can read.
struct PassphraseOptions: ParsableArguments {
    @Option(help: ArgumentHelp("File with the passphrase on its first line; readable by its owner only.", valueName: "file"))
    var passphraseFile: String?

    @Option(help: ArgumentHelp("Open file descriptor to read the passphrase from.", valueName: "number"))
    var passphraseFd: Int32?

    @Option(help: ArgumentHelp("Name of the environment variable that holds the passphrase.", valueName: "name"))
    var passphraseEnv: String?

    func validate() throws {
        if [passphraseFile != nil, passphraseFd != nil, passphraseEnv != nil].count(where: { $0 }) > 1 {
            throw ValidationError("Give one of --passphrase-file, --passphrase-fd and --passphrase-env.")
        }
    }
}
