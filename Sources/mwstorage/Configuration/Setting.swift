/// One thing that can be set: by flag, environment, context, file, or default.
///
/// The name is the flag without its dashes; `serve` settings begin with `serve.`. In YAML a dot is a level. In the
/// environment the name is in capitals after `MWSTORAGE_`, with `_` for what is no letter or digit.
struct Setting: Sendable, Hashable {
    var name: String
    var summary: String
    /// As its user would write it; nil if there is none.
    var fallback: String?
    /// More than one value: a YAML list, or separated by commas.
    var isList = false

    var environmentName: String {
        "MWSTORAGE_" + String(name.uppercased().map { $0.isLetter || $0.isNumber ? $0 : "_" })
    }

    var flagName: String {
        let name = name.hasPrefix("serve.") ? name.dropFirst("serve.".count) : name[...]
        return "--" + String(name.map { $0 == "." ? "-" : $0 })
    }
}

extension Setting {
    static let endpoint = Setting(
        name: "endpoint", summary: "where the server listens, wss://HOST[:PORT][/PATH]", fallback: "wss://localhost:8443", isList: true)
    static let certificate = Setting(name: "certificate", summary: "PEM file of our certificate chain, leaf first")
    static let key = Setting(name: "key", summary: "PEM file of our private key")
    static let trust = Setting(name: "trust", summary: "PEM file (or keystore) of the certificates a server may be signed by")
    static let crl = Setting(name: "crl", summary: "PEM files of revocation lists of the servers' CAs", isList: true)
    static let keystore = Setting(name: "keystore", summary: "PKCS#12 or JKS file of our identity, in place of certificate and key")
    static let keystoreAlias = Setting(name: "keystore-alias", summary: "which entry of the keystore")
    static let passphraseFile = Setting(name: "passphrase-file", summary: "file with the passphrase of key or keystore")
    static let trustPassphraseFile = Setting(
        name: "trust-passphrase-file", summary: "file with the passphrase of a keystore given as trust, if it is another one")
    static let serverName = Setting(name: "server-name", summary: "the name the server's certificate must have, if not the endpoint's host")
    static let pinServer = Setting(
        name: "pin-server", summary: "SHA-256 of the server's certificate, sha256:…, in place of its name", isList: true)
    static let timeout = Setting(name: "timeout", summary: "how long one request may take, connecting included", fallback: "10s")
    static let logLevel = Setting(name: "log-level", summary: "trace, debug, info, notice, warning, error or critical")
    static let logFormat = Setting(name: "log-format", summary: "text or json", fallback: "text")

    static let serveListen = Setting(
        name: "serve.listen", summary: "addresses to listen on, HOST:PORT", fallback: "localhost:8443", isList: true)
    static let serveData = Setting(name: "serve.data", summary: "data directory")
    static let serveBackupDirectory = Setting(
        name: "serve.backup-directory", summary: "directory for the backups that administrators make; none without it")
    static let serveEngine = Setting(name: "serve.engine", summary: "rocksdb or leveldb", fallback: "rocksdb")
    static let serveDurability = Setting(
        name: "serve.durability", summary: "sync (on disk before the answer) or os (handed to the system)", fallback: "sync")
    static let serveEventLoops = Setting(name: "serve.event-loops", summary: "threads that serve connections (default: one for each core)")
    static let serveCertificate = Setting(name: "serve.certificate", summary: "PEM file of the server's certificate chain, leaf first")
    static let serveKey = Setting(name: "serve.key", summary: "PEM file of the server's private key")
    static let serveTrust = Setting(name: "serve.trust", summary: "PEM file (or keystore) of the certificates clients may be signed by")
    static let serveCRL = Setting(
        name: "serve.crl", summary: "files (PEM or DER) or directories of revocation lists of the clients' CAs", isList: true)
    static let serveCRLGrace = Setting(
        name: "serve.crl-grace", summary: "how long a revocation list is believed after its successor was due", fallback: "0s")
    static let serveRefused = Setting(
        name: "serve.refused", summary: "files of refused certificates and identities, one a line", isList: true)
    static let servePolicy = Setting(
        name: "serve.policy", summary: "YAML file of the access policy: who may do what (default: whom we trust has all rights)")
    static let serveKeystore = Setting(
        name: "serve.keystore", summary: "PKCS#12 or JKS file of the server's identity, in place of certificate and key")
    static let serveKeystoreAlias = Setting(name: "serve.keystore-alias", summary: "which entry of the server's keystore")
    static let servePassphraseFile = Setting(
        name: "serve.passphrase-file", summary: "file with the passphrase of the server's key or keystore")
    static let serveTrustPassphraseFile = Setting(
        name: "serve.trust-passphrase-file", summary: "file with the passphrase of a keystore given as trust, if it is another one")
    static let serveKeyGroup = Setting(name: "serve.key-group", summary: "group that may read the server's key file too (mode 0640)")
    static let serveAuditLog = Setting(name: "serve.audit-log", summary: "file of the audit log, JSON lines; - is standard output")
    static let serveAuditRequired = Setting(
        name: "serve.audit-required", summary: "true: no connection is admitted that the audit log cannot take", fallback: "false")
    static let serveMetricsListen = Setting(
        name: "serve.metrics-listen", summary: "addresses of /metrics, /livez and /readyz; mutual TLS beyond loopback", isList: true)
    static let serveDrainTimeout = Setting(name: "serve.drain-timeout", summary: "how long SIGTERM waits for what runs", fallback: "10s")
    static let serveMaximumConnections = Setting(
        name: "serve.maximum-connections", summary: "connections accepted at a time", fallback: "10000")
    static let serveMaximumConnectionsPerCertificate = Setting(
        name: "serve.maximum-connections-per-certificate", summary: "connections of one client certificate accepted at a time",
        fallback: "1000")
    static let serveMaximumConnectionsPerPrincipal = Setting(
        name: "serve.maximum-connections-per-principal", summary: "connections of one principal accepted at a time", fallback: "2000")
    static let serveHandshakeRate = Setting(
        name: "serve.handshake-rate", summary: "handshakes that may begin in a second; twice as many after a quiet time", fallback: "1000")
    static let serveHandshakeRatePerAddress = Setting(
        name: "serve.handshake-rate-per-address",
        summary: "the same for one IPv4 address or IPv6 /64; ten times as many after a quiet time", fallback: "100")
    static let serveWatchInterval = Setting(
        name: "serve.watch-interval", summary: "between two looks at whether the files that say who gets in changed; 0s is never",
        fallback: "1s")
    static let serveReloadInterval = Setting(
        name: "serve.reload-interval", summary: "between two loads of these files although nothing seems to have changed; 0s is never",
        fallback: "1h")
    static let serveMaximumMessage = Setting(
        name: "serve.maximum-message", summary: "largest message; larger ones close with 1009", fallback: "16MiB")

    /// In the order `config show` prints them.
    static let all: [Setting] =
        [
            endpoint, certificate, key, trust, crl, keystore, keystoreAlias, passphraseFile, trustPassphraseFile, serverName, pinServer,
            timeout, logLevel,
            logFormat,
            serveListen, serveData, serveBackupDirectory, serveEngine, serveDurability, serveEventLoops, serveCertificate, serveKey,
            serveTrust, serveCRL,
            serveCRLGrace, serveRefused, servePolicy, serveKeystore, serveKeystoreAlias, servePassphraseFile, serveTrustPassphraseFile,
            serveDrainTimeout,
            serveMaximumConnections,
            serveMaximumConnectionsPerCertificate, serveMaximumConnectionsPerPrincipal, serveHandshakeRate, serveHandshakeRatePerAddress,
            serveWatchInterval, serveReloadInterval, serveMaximumMessage, serveKeyGroup, serveAuditLog, serveAuditRequired,
            serveMetricsListen,
        ] + ofACME

    /// What a context holds: where to connect, as whom, and whom to trust.
    static let ofContext: [Setting] = [
        endpoint, certificate, key, trust, crl, keystore, keystoreAlias, passphraseFile, trustPassphraseFile, serverName, pinServer,
        timeout,
    ]
}
