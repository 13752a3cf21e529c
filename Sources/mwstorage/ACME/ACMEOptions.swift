import ArgumentParser

/// Which certificate, from which CA, proved how: of `serve`; the `acme` commands have the same without `--acme-`. No option has a default
/// here: that would hide environment and files.
struct ACMEOptions: ParsableArguments {
    @Flag(help: "Get the server's certificate from a CA, and renew it, in place of --certificate and --key.")
    var acme = false

    @Option(
        help: ArgumentHelp(
            "Directory of the CA, https://…; repeat for those to try when it fails, in this order.", valueName: "url"))
    var acmeDirectory: [String] = []

    @Option(help: ArgumentHelp("DNS name, *.wildcard or IP address the certificate is for; repeat for several.", valueName: "name"))
    var acmeName: [String] = []

    @Option(help: ArgumentHelp("Mail address the CA may write to; repeat for several.", valueName: "address"))
    var acmeContact: [String] = []

    @Flag(help: "Agree to the CA's terms of service.")
    var acmeAgreeToTerms = false

    @Option(
        help: ArgumentHelp(
            "Directory of account, keys and certificates, mode 0700 (default: acme in the data directory).", valueName: "directory"))
    var acmeState: String?

    @Option(
        help: ArgumentHelp(
            "tls-alpn-01 (default: on the addresses that clients use), http-01 or dns-01; repeat, the best first.", valueName: "kind"))
    var acmeChallenge: [String] = []

    @Option(help: ArgumentHelp("Address that answers http-01 (default: [::]:80).", valueName: "host:port"))
    var acmeHTTPListen: HostAndPort?

    @Option(help: ArgumentHelp("Program that sets and removes the TXT records of dns-01.", valueName: "file"))
    var acmeDNSHook: String?

    @Option(
        help: ArgumentHelp("Kind of the certificate's keys: ec-p256 (default), ec-p384, rsa-2048, rsa-3072 or rsa-4096.", valueName: "kind")
    )
    var acmeKeyType: String?

    @Option(
        help: ArgumentHelp("The CA's profile for the certificate; left out, with a warning, where a CA has no such.", valueName: "name"))
    var acmeProfile: String?

    @Option(help: ArgumentHelp("Common name of the root to prefer, where the CA offers several chains.", valueName: "name"))
    var acmeChain: String?

    @Option(
        help: ArgumentHelp(
            "PEM file of the roots to trust for the CA's own address, in place of the system's; repeat for several, 'system' for those too.",
            valueName: "file"))
    var acmeCAFile: [String] = []

    @Option(
        help: ArgumentHelp(
            "Key identifier of the external account binding; repeat in the order of the directories, none for one without.",
            valueName: "id"))
    var acmeEABKid: [String] = []

    @Option(
        help: ArgumentHelp(
            "File of the binding's HMAC key in base64url, readable by its owner only; repeat as --acme-eab-kid.", valueName: "file"))
    var acmeEABKeyFile: [String] = []

    @Option(help: ArgumentHelp("Program to run after each new certificate.", valueName: "file"))
    var acmeAfterIssue: String?

    /// What was given on the command line.
    var flags: [Setting: [String]] {
        var flags: [Setting: [String]] = [
            .acmeDirectory: acmeDirectory, .acmeName: acmeName, .acmeContact: acmeContact, .acmeChallenge: acmeChallenge,
            .acmeCAFile: acmeCAFile, .acmeEABKid: acmeEABKid, .acmeEABKeyFile: acmeEABKeyFile,
        ]
        if acme { flags[.acmeEnabled] = ["yes"] }
        if acmeAgreeToTerms { flags[.acmeAgreeToTerms] = ["yes"] }
        let single: [(Setting, String?)] = [
            (.acmeState, acmeState), (.acmeHTTPListen, acmeHTTPListen?.description), (.acmeDNSHook, acmeDNSHook),
            (.acmeKeyType, acmeKeyType), (.acmeProfile, acmeProfile), (.acmeChain, acmeChain),
            (.acmeAfterIssue, acmeAfterIssue),
        ]
        for (setting, value) in single { if let value { flags[setting] = [value] } }
        return flags.filter { !$0.value.isEmpty }
    }
}

extension Setting {
    static let acmeEnabled = Setting(
        name: "serve.acme.enabled", summary: "yes: the server gets and renews its certificate itself; or no", fallback: "no")
    static let acmeDirectory = Setting(
        name: "serve.acme.directory", summary: "directories of the CAs, https://…; the first is used while it works", isList: true)
    static let acmeName = Setting(
        name: "serve.acme.name", summary: "DNS names, *.wildcards and IP addresses the certificate is for", isList: true)
    static let acmeContact = Setting(name: "serve.acme.contact", summary: "mail addresses the CA may write to", isList: true)
    static let acmeAgreeToTerms = Setting(
        name: "serve.acme.agree-to-terms", summary: "yes: we agree to the CA's terms of service; or no", fallback: "no")
    static let acmeState = Setting(
        name: "serve.acme.state", summary: "directory of account, keys and certificates (default: acme in the data directory)")
    static let acmeChallenge = Setting(
        name: "serve.acme.challenge", summary: "tls-alpn-01, http-01, dns-01: those we can answer, the best first",
        fallback: "tls-alpn-01", isList: true)
    static let acmeHTTPListen = Setting(name: "serve.acme.http-listen", summary: "address that answers http-01", fallback: "[::]:80")
    static let acmeDNSHook = Setting(name: "serve.acme.dns-hook", summary: "program that sets and removes the TXT records of dns-01")
    static let acmeKeyType = Setting(
        name: "serve.acme.key-type", summary: "ec-p256, ec-p384, rsa-2048, rsa-3072 or rsa-4096", fallback: "ec-p256")
    static let acmeTLSListen = Setting(
        name: "serve.acme.tls-listen", summary: "address where commands answer tls-alpn-01 while no server does", fallback: "[::]:443")
    static let acmeProfile = Setting(
        name: "serve.acme.profile", summary: "the CA's profile for the certificate; left out where a CA has no such")
    static let acmeRequiredProfile = Setting(
        name: "serve.acme.required-profile", summary: "the CA's profile for the certificate; without it at the CA, nothing is ordered")
    static let acmeChain = Setting(name: "serve.acme.chain", summary: "common name of the root to prefer among several chains")
    static let acmeCAFile = Setting(
        name: "serve.acme.ca-file",
        summary: "PEM files of the roots to trust for the CA's own address, in place of the system's; 'system' for those too", isList: true)
    static let acmeEABKid = Setting(
        name: "serve.acme.eab-kid", summary: "key identifiers of external account bindings, in the order of the directories", isList: true)
    static let acmeEABKeyFile = Setting(
        name: "serve.acme.eab-key-file", summary: "files of the HMAC keys of external account bindings, in that order", isList: true)

    static let acmeAccountKeyType = Setting(
        name: "serve.acme.account-key-type", summary: "kind of the account's key, as of the certificate's", fallback: "ec-p256")
    static let acmeAfterIssue = Setting(name: "serve.acme.after-issue", summary: "program to run after each new certificate")

    /// In the order `config show` prints them.
    static let ofACME: [Setting] = [
        acmeEnabled, acmeDirectory, acmeName, acmeContact, acmeAgreeToTerms, acmeState, acmeChallenge, acmeHTTPListen,
        acmeTLSListen, acmeDNSHook, acmeKeyType, acmeAccountKeyType, acmeProfile, acmeRequiredProfile, acmeChain, acmeCAFile, acmeEABKid,
        acmeEABKeyFile, acmeAfterIssue,
    ]
}
