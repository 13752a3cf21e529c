public import MWPKI

/// Everything a ``StorageClient`` needs to know, with a default for all but where to connect and who we are.
public struct StorageClientConfiguration: Sendable {
    /// Where the servers are. They are tried in random order, all of them before the client waits.
    public var endpoints: [Endpoint]
    /// Our certificate, key and trust store; loaded anew for each connection, so that a rotation needs no restart.
    public var identity: TLSMaterialSource
    /// Between two looks at whether the files of ``identity`` were replaced; `nil` is never. Then a second connection is opened with what they
    /// are now, calls move over to it once those on the first are answered, and the first is closed: no call fails. Default 1 s.
    public var identityWatchInterval: Duration? = .seconds(1)
    /// How the server proves who it is. There is no way to turn this off.
    public var verification: Verification = .nameFromEndpoint
    /// What is spoken with the servers.
    public var subprotocol = Subprotocol.native
    /// The deadline of each step.
    public var timeouts = Timeouts()
    /// What one connection may hold.
    public var limits = Limits()
    /// What may wait for a connection.
    public var queue = Queue()
    /// When to try again.
    public var reconnection = Reconnection()

    /// A configuration with the defaults.
    ///
    /// - Parameters:
    ///   - endpoints: one or more servers that serve the same store.
    ///   - identity: our certificate, key and trust store.
    public init(endpoints: [Endpoint], identity: TLSMaterialSource) {
        self.endpoints = endpoints
        self.identity = identity
    }

    /// How the server proves who it is, beside a chain to our trust store.
    public enum Verification: Hashable, Sendable {
        /// Its certificate carries the host of the endpoint as a subject alternative name.
        case nameFromEndpoint
        /// Its certificate carries this DNS name or IP address, whatever the endpoint is called.
        case name(String)
        /// Its certificate is one of these: SHA-256 of the certificate, 64 hexadecimal digits, with or without colons or `sha256:`. For
        /// the certificates of the documented procedure, which carry no name.
        case pinned(sha256: [String])
    }

    /// What is spoken with the servers. All of them must speak it.
    public enum Subprotocol: Hashable, Sendable {
        /// `mwstorage.v1`: everything.
        case native
        /// mwDB's, which has no name in the opening handshake: get, put, remove and prefixes, and notices of other clients' writes.
        case mwdb
    }

    /// The deadline of each step, each on its own.
    public struct Timeouts: Hashable, Sendable {
        /// Name resolution and TCP.
        public var connect: Duration = .seconds(10)
        /// The TLS handshake.
        public var tls: Duration = .seconds(10)
        /// From TLS up to the 101.
        public var upgrade: Duration = .seconds(10)
        /// A call, from when it is made to its result, waiting for a connection included; each call may say its own.
        public var request: Duration = .seconds(30)
        /// How long ``StorageClient/close()`` lets calls finish.
        public var drain: Duration = .seconds(10)
        /// From our close frame to the server's, then TCP is cut (RFC 6455 §7.1.1).
        public var closingHandshake: Duration = .seconds(10)
        /// Silence after which a ping is sent.
        public var pingInterval: Duration = .seconds(20)
        /// Silence after a ping after which the connection is given up.
        public var pong: Duration = .seconds(20)

        /// The defaults.
        public init() {}
    }

    /// What one connection may hold.
    public struct Limits: Hashable, Sendable {
        /// Requests with the server at one time. The server stops reading above its own limit, 1,024.
        public var requestsInFlight = 1_024
        /// Bytes of one message, either way. A put or a get above it is refused before it is sent; the server refuses its own, 16 MiB.
        public var maximumMessageBytes = 16 * 1024 * 1024
        /// Bytes of the answer to the opening handshake.
        public var maximumOpeningHandshakeBytes = 16 * 1024
        /// Bytes that may wait in the socket before requests stay in the queue.
        public var unsentBytes = 1024 * 1024

        /// The defaults.
        public init() {}
    }

    /// What may wait for a connection; a call beyond it fails at once with `queueFull`.
    public struct Queue: Hashable, Sendable {
        /// Calls that wait.
        public var maximumCalls = 16_384
        /// Bytes of keys and values that wait. It bounds what one call may carry, too.
        public var maximumBytes = 64 * 1024 * 1024
        /// FORCE_RELOAD notices that a slow reader of ``StorageClient/reloads`` may be behind.
        public var maximumReloads = 256
        /// Bytes of the notices that a slow reader of ``StorageClient/reloads`` may be behind, their bookkeeping included; a notice beyond
        /// it counts as missed. 32 MiB hold the largest message twice.
        public var maximumReloadBytes = 32 * 1024 * 1024
        /// Connection events that a slow reader of ``StorageClient/events`` may be behind; the oldest are dropped.
        public var maximumEvents = 256

        /// The defaults.
        public init() {}
    }

    /// When to try again: after `random(0, min(cap, base · 2ⁿ))`.
    public struct Reconnection: Hashable, Sendable {
        /// The ceiling of the first wait.
        public var base: Duration = .milliseconds(100)
        /// The ceiling of every wait.
        public var cap: Duration = .seconds(30)
        /// A connection that lasted this long, or answered a request, starts the backoff over.
        public var stableAfter: Duration = .seconds(10)
        /// Give up after this many rounds over all endpoints in a row without a connection; `nil` is never.
        public var maximumFailedRounds: Int?
        /// Requests sent again after a lost connection, per hundred requests asked.
        public var retryPercent = 10
        /// Requests that may be sent again before enough were asked to earn it: as many as may be in flight by default, so that the first
        /// connection that is lost leaves no write of unknown outcome.
        public var retryReserve = 1_024

        /// The defaults.
        public init() {}
    }

    /// Throws `invalidArgument` for what cannot work.
    func validate() throws {
        func require(_ condition: Bool, _ subject: String, _ what: String) throws {
            guard condition else { throw ClientError.invalid(subject, what) }
        }
        try require(!self.endpoints.isEmpty, "endpoints", "none is given")
        if case .pinned(let pins) = self.verification { try require(!pins.isEmpty, "verification", "no certificate is pinned") }
        for endpoint in self.endpoints { _ = try self.verification.serverVerification(for: endpoint) }
        let durations: [(String, Duration)] = [
            ("timeouts.connect", self.timeouts.connect), ("timeouts.tls", self.timeouts.tls), ("timeouts.upgrade", self.timeouts.upgrade),
            ("timeouts.request", self.timeouts.request), ("timeouts.pingInterval", self.timeouts.pingInterval),
            ("timeouts.pong", self.timeouts.pong), ("timeouts.closingHandshake", self.timeouts.closingHandshake),
            ("reconnection.base", self.reconnection.base),
        ]
        for (name, value) in durations { try require(value > .zero, name, "must be above zero") }
        try require(self.timeouts.drain >= .zero, "timeouts.drain", "must not be negative")
        try require(self.reconnection.cap >= self.reconnection.base, "reconnection.cap", "is below reconnection.base")
        try require(self.reconnection.cap <= Self.longestBackoff, "reconnection.cap", "is above a day")
        try require((0...100).contains(self.reconnection.retryPercent), "reconnection.retryPercent", "is not within 0 to 100")
        try require(self.reconnection.retryReserve >= 0, "reconnection.retryReserve", "is negative")
        try require((1...100_000).contains(self.limits.requestsInFlight), "limits.requestsInFlight", "is not within 1 to 100,000")
        try require(self.limits.maximumMessageBytes >= 128, "limits.maximumMessageBytes", "is below 128")
        try require(self.limits.unsentBytes > 0, "limits.unsentBytes", "must be above zero")
        try require(self.queue.maximumReloadBytes > 0, "queue.maximumReloadBytes", "must be above zero")
        try require(self.queue.maximumCalls > 0 && self.queue.maximumBytes > 0, "queue", "must hold something")
    }

    /// No wait is longer than this, whatever is asked for.
    private static let longestBackoff: Duration = .seconds(86_400)
}
