import ArgumentParser

/// Which state, and which CA: for every `acme` command. `serve` has the same with `--acme-` in front, and these take that too. No option has
/// a default here: that would hide environment and files.
struct ACMEAuthorityOptions: ParsableArguments {
    @Option(
        name: [.customLong("directory"), .customLong("acme-directory")],
        help: ArgumentHelp("Directory of the CA, https://…; repeat for those to try when it fails, in this order.", valueName: "url"))
    var directory: [String] = []

    @Option(
        name: [.customLong("state"), .customLong("acme-state")],
        help: ArgumentHelp(
            "Directory of account, keys and certificates (default: acme in the server's data directory).", valueName: "directory"))
    var state: String?

    @Option(
        name: [.customLong("ca-file"), .customLong("acme-ca-file")],
        help: ArgumentHelp(
            "PEM file of the roots to trust for the CA's own address, in place of the system's; repeat for several, 'system' for those too.",
            valueName: "file"))
    var caFile: [String] = []

    @Option(
        name: [.customLong("eab-kid"), .customLong("acme-eab-kid")],
        help: ArgumentHelp("Key identifier of the external account binding, for CAs that want one.", valueName: "id"))
    var eabKid: [String] = []

    @Option(
        name: [.customLong("eab-key-file"), .customLong("acme-eab-key-file")],
        help: ArgumentHelp("File of the binding's HMAC key in base64url, readable by its owner only.", valueName: "file"))
    var eabKeyFile: [String] = []

    @Option(
        name: [.customLong("contact"), .customLong("acme-contact")],
        help: ArgumentHelp("Mail address the CA may write to; repeat for several.", valueName: "address"))
    var contact: [String] = []

    @Flag(name: [.customLong("agree-to-terms"), .customLong("acme-agree-to-terms")], help: "Agree to the CA's terms of service.")
    var agreeToTerms = false

    @Option(
        help: ArgumentHelp("Kind of the account's key: ec-p256 (default), ec-p384, rsa-2048, rsa-3072 or rsa-4096.", valueName: "kind"))
    var accountKeyType: String?

    @Flag(help: "Do it all against the CA's staging directory, in a state of its own; nothing in use is touched.")
    var dryRun = false

    @Option(help: ArgumentHelp("Staging directory for --dry-run (known for Let's Encrypt and Google).", valueName: "url"))
    var stagingDirectory: String?

    @Flag(name: [.customShort("q"), .customLong("quiet")], help: "Do not show the steps on standard error.")
    var quiet = false

    func validate() throws {
        if stagingDirectory != nil, !dryRun { throw ValidationError("--staging-directory goes with --dry-run.") }
    }

    /// What was given on the command line.
    var flags: [Setting: [String]] {
        var flags: [Setting: [String]] = [
            .acmeDirectory: directory, .acmeCAFile: caFile, .acmeEABKid: eabKid, .acmeEABKeyFile: eabKeyFile, .acmeContact: contact,
        ]
        if let state { flags[.acmeState] = [state] }
        if let accountKeyType { flags[.acmeAccountKeyType] = [accountKeyType] }
        if agreeToTerms { flags[.acmeAgreeToTerms] = ["yes"] }
        return flags.filter { !$0.value.isEmpty }
    }
}

/// Which certificate, and how its names are proved.
struct ACMECertificateOptions: ParsableArguments {
    @Option(
        name: [.customLong("name"), .customLong("acme-name")],
        help: ArgumentHelp("DNS name, *.wildcard or IP address the certificate is for; repeat for several.", valueName: "name"))
    var name: [String] = []

    @Option(
        name: [.customLong("challenge"), .customLong("acme-challenge")],
        help: ArgumentHelp("tls-alpn-01, http-01 or dns-01; repeat, the best first (default: tls-alpn-01).", valueName: "kind"))
    var challenge: [String] = []

    @Option(
        name: [.customLong("http-listen"), .customLong("acme-http-listen")],
        help: ArgumentHelp("Address that answers http-01 (default: [::]:80).", valueName: "host:port"))
    var httpListen: HostAndPort?

    @Option(help: ArgumentHelp("Address that answers tls-alpn-01 while no server does (default: [::]:443).", valueName: "host:port"))
    var tlsListen: HostAndPort?

    @Option(
        name: [.customLong("dns-hook"), .customLong("acme-dns-hook")],
        help: ArgumentHelp("Program that sets and removes the TXT records of dns-01.", valueName: "file"))
    var dnsHook: String?

    @Option(
        name: [.customLong("key-type"), .customLong("acme-key-type")],
        help: ArgumentHelp("Kind of the certificate's keys: ec-p256 (default), ec-p384, rsa-2048, rsa-3072 or rsa-4096.", valueName: "kind")
    )
    var keyType: String?

    @Option(
        help: ArgumentHelp("The CA's profile for the certificate; without it at the CA, nothing is ordered.", valueName: "name"))
    var profile: String?

    @Option(
        name: [.customLong("preferred-profile"), .customLong("acme-profile")],
        help: ArgumentHelp("The CA's profile for the certificate; left out, with a warning, where a CA has no such.", valueName: "name"))
    var preferredProfile: String?

    @Option(
        name: [.customLong("chain"), .customLong("acme-chain")],
        help: ArgumentHelp("Common name of the root to prefer, where the CA offers several chains.", valueName: "name"))
    var chain: String?

    @Option(
        name: [.customLong("after-issue"), .customLong("acme-after-issue")],
        help: ArgumentHelp("Program to run after each new certificate; not in a dry run.", valueName: "file"))
    var afterIssue: String?

    func validate() throws {
        if profile != nil, preferredProfile != nil { throw ValidationError("Give one of --profile and --preferred-profile.") }
    }

    /// What was given on the command line.
    var flags: [Setting: [String]] {
        var flags: [Setting: [String]] = [.acmeName: name, .acmeChallenge: challenge]
        let single: [(Setting, String?)] = [
            (.acmeHTTPListen, httpListen?.description), (.acmeTLSListen, tlsListen?.description), (.acmeDNSHook, dnsHook),
            (.acmeKeyType, keyType), (.acmeRequiredProfile, profile), (.acmeProfile, preferredProfile), (.acmeChain, chain),
            (.acmeAfterIssue, afterIssue),
        ]
        for (setting, value) in single { if let value { flags[setting] = [value] } }
        return flags.filter { !$0.value.isEmpty }
    }
}
