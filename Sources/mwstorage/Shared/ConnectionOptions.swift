import ArgumentParser
import MWClient
import MWPKI
import MWTLS

/// `--context` and `--config`: which of the configuration files to use.
struct ConfigurationOptions: ParsableArguments {
    @Option(help: ArgumentHelp("Named context to use (default: the one chosen with 'context use').", valueName: "name"))
    var context: String?

    @Option(help: ArgumentHelp("Configuration file in place of the user's.", valueName: "file"))
    var config: String?

    /// - Parameter flags: What this command line sets itself.
    func settings(flags: [Setting: [String]]) async throws -> Settings {
        try await ConfigurationFiles.standard().settings(flags: flags, context: context, configurationFile: config)
    }
}

/// Where to connect, as whom, and whom to trust. No option has a default here: that would hide environment and files.
///
/// There is no option that turns verification off; `mwstorage doctor` says what is wrong without it.
struct ConnectionOptions: ParsableArguments {
    @Option(help: ArgumentHelp("Server, wss://HOST[:PORT][/PATH]; repeat for several.", valueName: "url"))
    var endpoint: [String] = []

    @Option(help: ArgumentHelp("PEM file of our certificate chain, leaf first.", valueName: "file"))
    var certificate: String?

    @Option(help: ArgumentHelp("PEM file of our private key.", valueName: "file"))
    var key: String?

    @Option(help: ArgumentHelp("PKCS#12 or JKS file of our identity, in place of --certificate and --key.", valueName: "file"))
    var keystore: String?

    @Option(help: ArgumentHelp("Which entry of the keystore.", valueName: "alias"))
    var keystoreAlias: String?

    @Option(help: ArgumentHelp("PEM file (or keystore) of the certificates a server may be signed by.", valueName: "file"))
    var trust: String?

    @Option(help: ArgumentHelp("File with the passphrase of a keystore given as --trust, if it is another one.", valueName: "file"))
    var trustPassphraseFile: String?

    @Option(help: ArgumentHelp("PEM file of a revocation list of the server's CA; repeat for several.", valueName: "file"))
    var crl: [String] = []

    @Option(help: ArgumentHelp("Name the server's certificate must have, if not the endpoint's host.", valueName: "name"))
    var serverName: String?

    @Option(help: ArgumentHelp("Fingerprint the server's certificate must have, in place of its name.", valueName: "sha256:…"))
    var pinServer: [String] = []

    @Option(help: ArgumentHelp("How long one request may take, connecting included (default: 10s).", valueName: "span"))
    var timeout: String?

    @Option(help: ArgumentHelp("trace, debug, info, notice, warning, error or critical (default: warning).", valueName: "level"))
    var logLevel: String?

    @OptionGroup(title: "Passphrase of key or keystore")
    var passphrase: PassphraseOptions

    @OptionGroup(title: "Configuration")
    var configuration: ConfigurationOptions

    /// What was given on the command line.
    var flags: [Setting: [String]] {
        var flags: [Setting: [String]] = [.endpoint: endpoint, .crl: crl, .pinServer: pinServer]
        for (setting, value) in [
            (Setting.certificate, certificate), (.key, key), (.keystore, keystore), (.keystoreAlias, keystoreAlias), (.trust, trust),
            (.serverName, serverName), (.timeout, timeout), (.logLevel, logLevel), (.passphraseFile, passphrase.passphraseFile),
            (.trustPassphraseFile, trustPassphraseFile),
        ] {
            if let value { flags[setting] = [value] }
        }
        return flags.filter { !$0.value.isEmpty }
    }

    /// All layers: these options first.
    func settings() async throws -> Settings { try await configuration.settings(flags: flags) }
}

extension ConnectionOptions {
    /// Our identity and whom we trust, read now. What is wrong with the files is a fault of the configuration.
    func material(_ settings: Settings) throws -> TLSMaterialSource {
        try CommandFailure.configuration { try Material(settings, names: .client, passphrase: passphrase).source }
    }

    /// How the server is verified: by the endpoint's name, by another one, or by its certificate.
    func verification(_ settings: Settings) throws -> StorageClientConfiguration.Verification {
        let pins = try settings.values(.pinServer, expected: "sha256: and 64 hexadecimal digits") {
            CertificateFingerprint($0)?.description
        }
        if !pins.isEmpty { return .pinned(sha256: pins) }
        let name = try settings.value(.serverName, expected: "a host name or an address") { ServerName($0)?.description }
        return name.map { .name($0) } ?? .nameFromEndpoint
    }
}
