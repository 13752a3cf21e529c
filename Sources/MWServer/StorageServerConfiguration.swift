public import MWPKI
public import MWStorage
internal import MWWebSocket

/// Where the audit log goes: one JSON object on each line, for every connection, refusal, denied request, reload and act of administration.
public struct AuditDestination: Sendable, Hashable {
    enum Place: Sendable, Hashable {
        case file(String)
        case standardOutput
    }

    let place: Place
    /// Whether a connection is refused (503) while its admission cannot be written. Otherwise lines are kept until the log can be written
    /// again, 16,384 at the most, and what is lost is counted.
    public var isRequired = false

    /// A file that is appended to, and made (mode 0600) if it is not there. Opened anew by ``StorageServer/reopenAuditLog()``.
    public static func file(_ path: String) -> AuditDestination { AuditDestination(place: .file(path)) }

    /// Standard output.
    public static let standardOutput = AuditDestination(place: .standardOutput)
}

/// Everything a ``StorageServer`` needs to know.
public struct StorageServerConfiguration: Sendable {
    /// When a write is acknowledged.
    public enum Durability: String, Sendable, Hashable, CaseIterable {
        /// When it is on stable storage: it survives a power cut.
        case sync
        /// When the operating system has it: it survives the death of the process, not that of the machine.
        case os
    }

    /// Where to listen. Default: loopback, port 8443.
    public var addresses: [ListenAddress] = [.localhost]
    /// Our identity and whom we trust; loaded at the start and by ``StorageServer/reload()``.
    public var tls: TLSMaterialSource
    /// Files of refused certificates and identities, one a line: `sha256:HEX`, `serial HEX [issuer NAME]` or `identity NAME`. Loaded with
    /// ``tls``.
    public var refusedFiles: [String] = []
    /// Who may do what; loaded with ``tls``. `nil`: everybody whom the trust store accepts has all rights, and the log says so.
    public var accessPolicy: AccessPolicySource?
    /// When the set of certificates, trust, revocation lists, refusals and policy is loaded again.
    public var reloading = ReloadPolicy()
    /// What keeps the data, such as `.rocksDB` of MWRocksDB.
    public var engine: StorageEngineFactory
    /// Where the data is. Made if it is not there; one server at a time may use it.
    public var dataDirectory: String
    /// Where administrators' backups go, each in a directory of its own; made (mode 0700) with the first. `nil`: the server makes none.
    public var backupDirectory: String?
    /// When a write is acknowledged. Default: when it is on stable storage.
    public var durability: Durability = .sync
    /// What peers may use up.
    public var limits = ServerLimits()
    /// Which close code says what.
    public var closeCodes = ServerCloseCodes()
    /// Threads that serve connections; `nil` is one for each processor.
    public var eventLoops: Int?
    /// From the order to stop until the last connection is closed, if need be without a goodbye. 10 s: what service managers grant, and
    /// some.
    public var drainTimeout: Duration = .seconds(10)

    /// How long, of ``drainTimeout``, native clients are given to connect elsewhere and to leave by themselves once they are told that the
    /// server is about to end; at most half of it. 1 s: two handshakes over any link.
    public var drainNoticePeriod: Duration = .seconds(1)

    /// Listening TCP sockets that were inherited, as from a service manager; where there are any, ``addresses`` is not used. The server owns
    /// them from its start on.
    public var inheritedSockets: [CInt] = []
    /// Where the server says how it is, and what it measures; `nil` is nowhere.
    public var monitoring: MonitoringConfiguration?
    /// Where the audit log goes; `nil` is nowhere.
    public var audit: AuditDestination?

    /// What has no default; everything else can be changed afterwards.
    public init(tls: TLSMaterialSource, engine: StorageEngineFactory, dataDirectory: String) {
        self.tls = tls
        self.engine = engine
        self.dataDirectory = dataDirectory
    }
}

extension StorageServerConfiguration {
    /// Throws ``ServerError/Code/configurationInvalid`` for what cannot work, and names the setting.
    package func validate() throws(ServerError) {
        func require(_ condition: Bool, _ setting: String, _ what: String) throws(ServerError) {
            if !condition { throw ServerError(.configurationInvalid, setting, what) }
        }
        try require(!self.addresses.isEmpty || !self.inheritedSockets.isEmpty, "addresses", "there is no address to listen on")
        try require(self.monitoring.map { !$0.addresses.isEmpty } ?? true, "monitoring", "there is no address to listen on")
        try require(self.eventLoops.map { $0 > 0 } ?? true, "eventLoops", "at least one is needed")
        let limits = self.limits
        let counts = [
            ("maximumHeaderBytes", limits.maximumHeaderBytes), ("maximumMessageBytes", limits.maximumMessageBytes),
            ("maximumFrameBytes", limits.maximumFrameBytes ?? 1), ("maximumFragments", limits.maximumFragments),
            ("maximumRequestsInFlight", limits.maximumRequestsInFlight), ("maximumUnsentBytes", limits.maximumUnsentBytes),
            ("maximumConnections", limits.maximumConnections),
            ("maximumConnectionsPerCertificate", limits.maximumConnectionsPerCertificate),
            ("maximumConnectionsPerPrincipal", limits.maximumConnectionsPerPrincipal),
            ("maximumHandshakesPerSecond", limits.maximumHandshakesPerSecond), ("maximumHandshakeBurst", limits.maximumHandshakeBurst),
            ("maximumHandshakesPerSecondAndAddress", limits.maximumHandshakesPerSecondAndAddress),
            ("maximumHandshakeBurstOfAddress", limits.maximumHandshakeBurstOfAddress),
            ("maximumHandshakeStepsPerTurn", limits.maximumHandshakeStepsPerTurn),
            ("maximumWaitingHandshakes", limits.maximumWaitingHandshakes), ("refusalLinesPerSecond", limits.refusalLinesPerSecond),
            ("refusalLinesAtOnce", limits.refusalLinesAtOnce), ("maximumWatchesPerConnection", limits.maximumWatchesPerConnection),
            ("maximumRangesPerWatch", limits.maximumRangesPerWatch), ("maximumWatchBacklogBytes", limits.maximumWatchBacklogBytes),
        ]
        for (name, count) in counts { try require(count > 0, name, "must be at least 1, is \(count)") }
        try require(limits.maximumMessageBytes <= Int(UInt32.max) / 2, "maximumMessageBytes", "must be below 2 GiB")
        let durations = [
            ("openingTimeout", limits.openingTimeout), ("pingInterval", limits.pingInterval), ("pongTimeout", limits.pongTimeout),
            ("closingTimeout", limits.closingTimeout), ("refusedClosingTimeout", limits.refusedClosingTimeout),
            ("unsentTimeout", limits.unsentTimeout), ("watchProgressInterval", limits.watchProgressInterval),
            ("watchStateTimeout", limits.watchStateTimeout),
            ("connectionLifetime", limits.connectionLifetime ?? .seconds(1)), ("drainTimeout", self.drainTimeout),
            ("reloading.watchInterval", self.reloading.watchInterval ?? .seconds(1)),
            ("reloading.interval", self.reloading.interval ?? .seconds(1)), ("reloading.settleInterval", self.reloading.settleInterval),
        ]
        for (name, duration) in durations { try require(duration > .zero, name, "must be longer than nothing, is \(duration)") }
        for code in self.closeCodes.all {
            try require(CloseCode(rawValue: code) != nil, "closeCodes", "\(code) must not appear in a close frame")
        }
    }
}
