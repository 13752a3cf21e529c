import ArgumentParser
import Glibc
import Logging
import MWLevelDB
import MWPKI
import MWPolicyFile
import MWPrometheus
import MWRocksDB
import MWServer
import MWStorage
import UnixSignals

/// `mwstorage serve`.
struct ServeCommand: AsyncParsableCommand, CommandWithOutput {
    static let configuration = CommandConfiguration(
        commandName: "serve", abstract: "Serve a store over WebSocket with mutual TLS.",
        discussion: """
            Says on standard output where it listens, one line for each address, once it does; its log goes to standard error. SIGTERM and \
            SIGINT drain: nothing new is accepted, what runs is answered, every connection is closed with 1001; the exit code is 0 then. A \
            second signal ends at once. SIGHUP opens the audit log anew, and loads certificates, keys, trust, revocation lists, refusals and \
            the access policy anew, all or nothing; open \
            connections that the new set refuses are closed with 1008. Changed files are loaded by themselves.

            With --acme the server gets and renews its certificate itself. Without one yet, it listens, answers the CA, and refuses clients \
            until there is one.
            """)

    @OptionGroup(title: "Server") var options: ServeOptions
    @OptionGroup(title: "Certificate from a CA (ACME)") var acme: ACMEOptions
    @OptionGroup(title: "Passphrase of the key or keystore") var passphrase: PassphraseOptions
    @OptionGroup(title: "Configuration") var configuration: ConfigurationOptions
    @OptionGroup var output: OutputOptions

    func run() async throws {
        let settings = try await configuration.settings(flags: options.flags(passphrase).merging(acme.flags) { $1 })
        let logger = try LogLines.logger(settings, label: "mwstorage", fallback: .info)
        // Before the first secret is read.
        ProcessHardening.apply(logger)
        let manager = ServiceManager()
        // Taken out of the environment now: no child is to hear of them.
        let inherited = try InheritedSockets.take()
        // Before anything counts.
        let registry =
            try settings.strings(.serveMetricsListen).isEmpty ? nil : MetricsSetup.bootstrap(engine: settings.required(.serveEngine))
        let certificate = try ACMESettings.isEnabled(settings) ? ServerCertificate(ACMESettings(settings), logger: logger) : nil
        var serverConfiguration = try StorageServerConfiguration(settings, passphrase: passphrase, obtaining: certificate)
        serverConfiguration.inheritedSockets = inherited.listeners
        try serverConfiguration.monitor(settings, registry)
        let server = StorageServer(configuration: serverConfiguration, logger: logger)
        if options.check {
            do { try server.check() } catch { throw CommandFailure(error).ofConfiguration }
            Output.note("good: configuration, addresses, certificates and access policy")
            return
        }
        do { try serverConfiguration.validate() } catch { throw CommandFailure(error).ofConfiguration }
        ProcessHardening.raiseDescriptorLimit(logger, for: serverConfiguration.limits.maximumConnections)
        // Before the start, so that no signal meets its default.
        let signals = await UnixSignalsSequence(trapping: .sigterm, .sigint, .sighup)
        try await server.start()
        for address in server.listeningAddresses {
            let line =
                output.format?.isJSON == true
                ? JSONValue.object([("listening", .string("wss://\(address)"))]).text : "listening on wss://\(address)"
            try Output.line(line)
        }
        manager.ready("serving at \(server.listeningAddresses.map(\.description).joined(separator: ", "))")
        try await serve(server, keeping: certificate, for: manager, until: signals)
    }

    /// Reloads and drains as the signals say; returns when the server has stopped.
    ///
    /// - Throws: what keeps a server without a certificate from ever getting one.
    private func serve(
        _ server: StorageServer, keeping certificate: ServerCertificate?, for manager: ServiceManager, until signals: UnixSignalsSequence
    ) async throws {
        let format = output.format ?? .text
        let (stopRequests, requestStop) = AsyncStream<Void>.makeStream()
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask {
                let kept = await Self.keep(certificate, for: server, until: stopRequests)
                manager.stopping()
                await server.stop()
                try kept.get()
            }
            group.addTask {
                // Beside the signals: one that ends us must not wait for a file.
                await withDiscardingTaskGroup { reloads in
                    var isDraining = false
                    for await signal in signals {
                        if signal == .sighup {
                            reloads.addTask { await Self.reload(server, telling: manager) }
                        } else if isDraining {
                            let failure = CommandFailure(
                                signal == .sigint ? .interrupted : .terminated, "ended before the drain was complete",
                                why: "a second signal came")
                            Output.failure(failure, format: format)
                            Glibc.exit(failure.status.rawValue)
                        } else {
                            isDraining = true
                            requestStop.yield()
                        }
                    }
                }
            }
            if let interval = manager.watchdogInterval {
                group.addTask {
                    // Twice as often as asked; a thread that does not answer is not covered up.
                    while (try? await Task.sleep(for: interval / 2)) != nil {
                        if await server.isAlive() { manager.watchdog() }
                    }
                }
            }
            defer { group.cancelAll() }
            try await group.next()
        }
    }

    private static func reload(_ server: StorageServer, telling manager: ServiceManager) async {
        manager.reloading()
        await server.reopenAuditLog()
        // The server has logged why, and goes on with what it has.
        let isDone = (try? await server.reload(.signal)) != nil
        manager.ready(isDone ? "serving" : "serving with the old certificates: the reload failed")
    }

    /// Ends with the first request to stop, and then only when nothing is asked of a CA any more; or with what makes the server useless.
    private static func keep(
        _ certificate: ServerCertificate?, for server: StorageServer, until stopRequests: AsyncStream<Void>
    ) async -> Result<Void, any Error> {
        await withTaskGroup(of: Result<Void, any Error>.self) { group in
            group.addTask {
                for await _ in stopRequests { break }
                return .success(())
            }
            if let certificate {
                group.addTask {
                    do { return .success(try await certificate.keep(for: server)) } catch { return .failure(error) }
                }
            }
            let first = await group.next() ?? .success(())
            group.cancelAll()
            await group.waitForAll()
            return first
        }
    }
}

/// What `mwstorage serve` can be told. No option has a default here: that would hide environment and files.
struct ServeOptions: ParsableArguments {
    @Option(help: ArgumentHelp("Data directory.", valueName: "directory"))
    var data: String?

    @Option(
        help: ArgumentHelp("Directory for the backups that administrators make (default: the server makes none).", valueName: "directory"))
    var backupDirectory: String?

    @Option(help: ArgumentHelp("Address to listen on; repeat for several (default: localhost:8443).", valueName: "host:port"))
    var listen: [HostAndPort] = []

    @Option(help: ArgumentHelp("rocksdb (default) or leveldb.", valueName: "name"))
    var engine: String?

    @Option(help: ArgumentHelp("sync: a write is on disk before it is answered (default); os: the system has it.", valueName: "sync|os"))
    var durability: String?

    @Option(help: ArgumentHelp("Threads that serve connections (default: one for each core).", valueName: "count"))
    var eventLoops: Int?

    @Option(help: ArgumentHelp("PEM file of the server's certificate chain, leaf first.", valueName: "file"))
    var certificate: String?

    @Option(help: ArgumentHelp("PEM file of the server's private key; readable by its owner only.", valueName: "file"))
    var key: String?

    @Option(help: ArgumentHelp("PKCS#12 or JKS file of the server's identity, in place of --certificate and --key.", valueName: "file"))
    var keystore: String?

    @Option(help: ArgumentHelp("Which entry of the keystore.", valueName: "alias"))
    var keystoreAlias: String?

    @Option(
        help: ArgumentHelp("PEM file, directory of PEM files, or keystore of the certificates clients may be signed by.", valueName: "file")
    )
    var trust: String?

    @Option(help: ArgumentHelp("File with the passphrase of a keystore given as --trust, if it is another one.", valueName: "file"))
    var trustPassphraseFile: String?

    @Option(
        help: ArgumentHelp(
            "File (PEM or DER) or directory of revocation lists of the clients' CAs; repeat for several. Each CA needs one then.",
            valueName: "file"))
    var crl: [String] = []

    @Option(
        help: ArgumentHelp(
            "How long a revocation list is believed after its successor was due (default: not at all). Who is revoked meanwhile gets in.",
            valueName: "span"))
    var crlGrace: TimeSpan?

    @Option(
        help: ArgumentHelp(
            "File of refused certificates and identities, one a line: sha256:HEX, serial HEX [issuer NAME] or identity NAME; repeat for several.",
            valueName: "file"))
    var refused: [String] = []

    @Option(
        help: ArgumentHelp(
            "YAML file of the access policy: who may do what (default: whom we trust has all rights); see: mwstorage policy check.",
            valueName: "file"))
    var policy: String?

    @Option(help: ArgumentHelp("Group that may read the key file too, which then may have mode 0640.", valueName: "name"))
    var keyGroup: String?

    @Option(help: ArgumentHelp("Audit log, a JSON object on each line; - is standard output.", valueName: "file"))
    var auditLog: String?

    @Flag(help: "Admit no connection that the audit log cannot take.")
    var auditRequired = false

    @Option(
        help: ArgumentHelp(
            "Address of /metrics, /livez and /readyz, as localhost:9464; mutual TLS beyond loopback; repeat for several.",
            valueName: "host:port"))
    var metricsListen: [HostAndPort] = []

    @Option(help: ArgumentHelp("How long SIGTERM waits for what runs (default: 10s).", valueName: "span"))
    var drainTimeout: TimeSpan?

    @Option(help: ArgumentHelp("Connections at a time (default: 10000).", valueName: "count"))
    var maximumConnections: Int?

    @Option(help: ArgumentHelp("Connections of one client certificate at a time (default: 1000).", valueName: "count"))
    var maximumConnectionsPerCertificate: Int?

    @Option(help: ArgumentHelp("Connections of one principal at a time (default: 2000).", valueName: "count"))
    var maximumConnectionsPerPrincipal: Int?

    @Option(
        help: ArgumentHelp(
            "Handshakes that may begin in a second, and twice as many after a quiet time (default: 1000). More are closed before TLS.",
            valueName: "count"))
    var handshakeRate: Int?

    @Option(
        help: ArgumentHelp(
            "The same for one IPv4 address or IPv6 /64, and ten times as many after a quiet time (default: 100).", valueName: "count"))
    var handshakeRatePerAddress: Int?

    @Option(
        help: ArgumentHelp(
            "Between two looks at whether certificates, trust, revocation lists, refusals or policy changed; 0s is never (default: 1s).",
            valueName: "span"))
    var watchInterval: TimeSpan?

    @Option(
        help: ArgumentHelp(
            "Between two loads of these files although nothing seems to have changed; 0s is never (default: 1h).", valueName: "span"))
    var reloadInterval: TimeSpan?

    @Option(help: ArgumentHelp("Largest message (default: 16MiB).", valueName: "size"))
    var maximumMessage: ByteSize?

    @Option(help: ArgumentHelp("trace, debug, info, notice, warning, error or critical (default: info).", valueName: "level"))
    var logLevel: String?

    @Option(help: ArgumentHelp("text (default) or json.", valueName: "form"))
    var logFormat: String?

    @Flag(help: "Only check configuration, addresses, certificates and access policy; the exit code is 78 if something is wrong.")
    var check = false

    func flags(_ passphrase: PassphraseOptions) -> [Setting: [String]] {
        var flags: [Setting: [String]] = [
            .serveListen: listen.map(\.description), .serveMetricsListen: metricsListen.map(\.description), .serveCRL: crl,
            .serveRefused: refused,
        ]
        let single: [(Setting, String?)] = [
            (.serveData, data), (.serveBackupDirectory, backupDirectory), (.serveEngine, engine), (.serveDurability, durability),
            (.serveEventLoops, eventLoops.map { "\($0)" }),
            (.serveCertificate, certificate), (.serveKey, key), (.serveKeystore, keystore), (.serveKeystoreAlias, keystoreAlias),
            (.serveTrust, trust), (.serveTrustPassphraseFile, trustPassphraseFile), (.servePassphraseFile, passphrase.passphraseFile),
            (.serveCRLGrace, crlGrace?.description), (.servePolicy, policy), (.serveDrainTimeout, drainTimeout?.description),
            (.serveMaximumConnections, maximumConnections.map { "\($0)" }),
            (.serveMaximumConnectionsPerCertificate, maximumConnectionsPerCertificate.map { "\($0)" }),
            (.serveMaximumConnectionsPerPrincipal, maximumConnectionsPerPrincipal.map { "\($0)" }),
            (.serveHandshakeRate, handshakeRate.map { "\($0)" }),
            (.serveHandshakeRatePerAddress, handshakeRatePerAddress.map { "\($0)" }),
            (.serveWatchInterval, watchInterval?.description), (.serveReloadInterval, reloadInterval?.description),
            (.serveMaximumMessage, maximumMessage?.description), (.logLevel, logLevel), (.logFormat, logFormat),
            (.serveKeyGroup, keyGroup), (.serveAuditLog, auditLog), (.serveAuditRequired, auditRequired ? "true" : nil),
        ]
        for (setting, value) in single { if let value { flags[setting] = [value] } }
        return flags.filter { !$0.value.isEmpty }
    }
}

extension StorageServerConfiguration {
    /// From all layers of settings.
    ///
    /// - Parameter certificate: That of a server that gets it itself; else it comes from files.
    init(_ settings: Settings, passphrase: PassphraseOptions, obtaining certificate: ServerCertificate? = nil) throws {
        let material = try CommandFailure.configuration {
            guard let certificate else { return try Material(settings, names: .server, passphrase: passphrase) }
            return try Material(settings, passphrase: passphrase) { try certificate.identity() }
        }
        let engine = try settings.value(.serveEngine, expected: "rocksdb or leveldb") { StorageEngineFactory(named: $0) }
        self.init(tls: material.source, engine: engine ?? .rocksDB, dataDirectory: try settings.required(.serveData))
        backupDirectory = try settings.string(.serveBackupDirectory)
        refusedFiles = try settings.strings(.serveRefused)
        accessPolicy = try settings.string(.servePolicy).map { .file($0) }
        addresses = try settings.values(.serveListen, expected: "HOST:PORT; an IPv6 address in brackets") { HostAndPort(argument: $0) }
            .map { ListenAddress(host: $0.host, port: $0.port) }
        if let value = try settings.value(.serveDurability, expected: "sync or os", { Durability(rawValue: $0) }) { durability = value }
        eventLoops = try settings.value(.serveEventLoops, expected: "a number, 1 or more") { Int($0) }
        if let value = try settings.value(.serveDrainTimeout, expected: "a span of time: 30s, 5m", { TimeSpan(argument: $0) }) {
            drainTimeout = value.duration
        }
        try setLimits(settings)
        try setReloading(settings)
    }

    private mutating func setLimits(_ settings: Settings) throws {
        func count(_ setting: Setting) throws -> Int? { try settings.value(setting, expected: "a number, 1 or more") { Int($0) } }
        if let value = try count(.serveMaximumConnections) { limits.maximumConnections = value }
        if let value = try count(.serveMaximumConnectionsPerCertificate) { limits.maximumConnectionsPerCertificate = value }
        if let value = try count(.serveMaximumConnectionsPerPrincipal) { limits.maximumConnectionsPerPrincipal = value }
        if let value = try count(.serveHandshakeRate) {
            limits.maximumHandshakesPerSecond = value
            limits.maximumHandshakeBurst = value.multipliedReportingOverflow(by: 2).partialValue
        }
        if let value = try count(.serveHandshakeRatePerAddress) {
            limits.maximumHandshakesPerSecondAndAddress = value
            limits.maximumHandshakeBurstOfAddress = value.multipliedReportingOverflow(by: 10).partialValue
        }
        if let value = try settings.value(.serveMaximumMessage, expected: "a size: 16MiB", { ByteSize(argument: $0) }) {
            limits.maximumMessageBytes = value.bytes
        }
    }

    private mutating func setReloading(_ settings: Settings) throws {
        func interval(_ setting: Setting, _ keyPath: WritableKeyPath<ReloadPolicy, Duration?>) throws {
            guard let value = try settings.value(setting, expected: "a span of time: 1s, 1h; 0s is never", { TimeSpan(argument: $0) })
            else {
                return
            }
            reloading[keyPath: keyPath] = value.duration > .zero ? value.duration : nil
        }
        try interval(.serveWatchInterval, \.watchInterval)
        try interval(.serveReloadInterval, \.interval)
    }
}

extension StorageServerConfiguration {
    /// Audit log and monitoring, as the settings say.
    mutating func monitor(_ settings: Settings, _ registry: PrometheusRegistry?) throws {
        let isRequired = try settings.value(.serveAuditRequired, expected: "true or false") { Bool($0) } ?? false
        if let path = try settings.string(.serveAuditLog) {
            var destination = path == "-" ? AuditDestination.standardOutput : .file(path)
            destination.isRequired = isRequired
            audit = destination
        } else if isRequired {
            throw CommandFailure(
                .configurationInvalid, "an audit log is required, and there is none", why: "expected: serve.audit-log",
                remedy: "give --audit-log, or leave --audit-required out")
        }
        let addresses = try settings.values(.serveMetricsListen, expected: "HOST:PORT; an IPv6 address in brackets") {
            HostAndPort(argument: $0)
        }
        guard let registry else { return }
        monitoring = MonitoringConfiguration(addresses: addresses.map { ListenAddress(host: $0.host, port: $0.port) }) { registry.text() }
    }
}

extension StorageEngineFactory {
    /// The engines that can be named on a command line.
    init?(named name: String) {
        switch name {
        case "rocksdb": self = .rocksDB
        case "leveldb": self = .levelDB
        default: return nil
        }
    }
}
