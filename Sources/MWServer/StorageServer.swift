public import Logging
package import MWPKI
internal import MWProtocol
package import MWStorage
internal import MWTLS
internal import MWWebSocket
package import NIOCore
public import ServiceLifecycle
internal import Synchronization

/// A key-value storage server: mwDB's protocol over WebSocket, with mutual TLS.
///
///     let server = StorageServer(configuration: configuration, logger: logger)
///     try await server.run()          // until graceful shutdown, or the task is cancelled
///
/// ``run()`` is all that is needed, in a `ServiceGroup` or without. Programs that want the addresses first call ``start()``, then
/// ``stop(restarting:)``. A server starts once.
public final class StorageServer: Service, Sendable {
    let configuration: StorageServerConfiguration
    let logger: Logger
    private let metrics = ServerMetrics()
    private let challenges = PendingChallenges()
    let hub = WatchHub()
    let lastReload = Atomic<Int64>(0)
    private let statusParts = Mutex<[StatusPart]>([])
    private let state = Mutex(State.idle)

    private enum State {
        case idle
        case starting
        case running(Running)
        case stopping(Running)
        case stopped
    }

    struct Running: Sendable {
        let storage: Storage
        let audit: AuditLog
        let sessions: SessionServer
        let security: SecurityDesk
        // Safety: made by start(), cancelled and awaited by stop(); it shares nothing but what is Sendable.
        let watching: Task<Void, Never>
        let observations: [StorageObservation]
        let addresses: [SocketAddress]
        let startedAt = Timestamp.now()
        let expiry: ExpiryWatch
        let monitoring: MonitoringListener?
        let monitoringAddresses: [SocketAddress]
    }

    /// Reads nothing and opens nothing yet.
    public init(configuration: StorageServerConfiguration, logger: Logger) {
        self.configuration = configuration
        self.logger = logger
    }

    // MARK: Life

    /// Serves until graceful shutdown begins or the task is cancelled; then drains, and returns when all is closed.
    ///
    /// Throws ``ServerError`` when it cannot start, with what to do about it.
    public func run() async throws {
        try await self.start()
        // Ends at graceful shutdown as well as at cancellation.
        let (shutdown, end) = AsyncStream<Never>.makeStream()
        await withTaskCancellationOrGracefulShutdownHandler {
            for await _ in shutdown {}
        } onCancelOrGracefulShutdown: {
            end.finish()
        }
        await self.stop()
    }

    /// Opens the store, loads the certificates, and listens.
    ///
    /// Throws ``ServerError``; then nothing is left open.
    public func start() async throws {
        try self.state.withLock { state throws(ServerError) in
            guard case .idle = state else { throw ServerError(.wrongState, "server", "it has been started before") }
            state = .starting
        }
        do {
            let running = try await self.makeRunning()
            self.state.withLock { $0 = .running(running) }
        } catch {
            self.state.withLock { $0 = .stopped }
            throw error
        }
    }

    /// Looks for what would keep the server from starting: configuration, addresses, certificates. Opens nothing and changes nothing.
    ///
    /// Throws ``ServerError``.
    public func check() throws {
        try self.configuration.validate()
        let source = try SecuritySource(self.configuration, challenges: self.challenges, addresses: self.resolvedAddresses())
        _ = try source.makeSet(source.load(), refusing: self.openJournal().refusals, generation: 1)
    }

    /// Where it listens, with the ports that the system chose; empty unless it runs.
    public var listeningAddresses: [ListenAddress] {
        guard case .running(let running) = self.state.withLock({ $0 }) else { return [] }
        return running.addresses.map { ListenAddress(host: $0.ipAddress ?? "", port: $0.port ?? 0) }
    }

    /// Goes on in the file that has the audit log's name now: a log rotation has moved the old one away. What is wrong with it is logged, and
    /// the old one stays in use then.
    public func reopenAuditLog() async {
        guard case .running(let running) = self.state.withLock({ $0 }) else { return }
        await running.audit.reopen()
    }

    /// The audit log while the server runs: administration is told to it, and it has the latest rejections.
    package var audit: AuditLog? {
        guard case .running(let running) = self.state.withLock({ $0 }) else { return nil }
        return running.audit
    }

    /// Connections that are open now.
    package var openConnections: Int {
        guard case .running(let running) = self.state.withLock({ $0 }) else { return 0 }
        return running.sessions.census.total
    }

    /// Accepts nothing more, answers the requests it has, closes every connection (1001, or 1012 if it comes back at once), and closes the
    /// store. Returns within ``StorageServerConfiguration/drainTimeout``, plus what the store needs for its last sync.
    public func stop(restarting: Bool = false) async {
        let running = self.state.withLock { state -> Running? in
            guard case .running(let running) = state else { return nil }
            state = .stopping(running)
            return running
        }
        guard let running else { return }
        running.watching.cancel()
        await running.watching.value
        await running.security.finish()
        self.logger.info("draining", metadata: ["connections": "\(running.sessions.census.total)"])
        running.expiry.stop()
        let codes = self.configuration.closeCodes
        let deadline = ContinuousClock.now + self.configuration.drainTimeout
        await running.sessions.closeListeners()
        await self.tellOfDrain(running.sessions)
        await running.sessions.stop(
            restarting ? .restart : .stop, code: restarting ? codes.restart : codes.stop,
            reason: restarting ? "the server restarts" : "the server stops", within: max(.zero, ContinuousClock.now.duration(to: deadline)))
        // Before the event loops end: nobody is to ask them then whether they live.
        self.state.withLock { $0 = .stopped }
        await Self.close(running.sessions, running.storage, running.observations)
        await running.monitoring?.stop()
        running.audit.record(.serverStopped)
        await running.audit.close()
        self.logger.info("stopped")
    }

    // MARK: Who gets in

    /// Loads certificates, keys, trust, revocation lists and refusals anew: all of it or nothing. What is new holds for every handshake from
    /// then on, and every open connection is judged by it; those that it refuses are closed with 1008. Returns when none of them is served
    /// any more.
    ///
    /// Throws ``ServerError`` when the new set cannot be used; then the one in use stays.
    public func reload() async throws { try await self.reload(.program) }

    /// The same, and remembers what asked for it. Returns what became of the open connections.
    @discardableResult
    package func reload(_ trigger: ReloadTrigger) async throws -> JudgingOutcome {
        let running = try self.running()
        return try await running.security.reload(trigger) { await running.sessions.judgeSessions(by: $0) }
    }

    /// Refuses a certificate, a serial number or an identity from now on, over restarts too, and closes its open connections.
    ///
    /// It is on disk, and nobody refused is served any more, when this returns. Throws ``ServerError`` when the disk did not keep it; it is in
    /// force then until the server ends.
    ///
    /// - Parameter principal: Who asks for it.
    /// - Returns: whether it was not refused before, and what became of the open connections.
    @discardableResult
    package func revoke(_ refusal: Refusal, by principal: String) async throws -> (isChanged: Bool, outcome: JudgingOutcome) {
        try await self.change(refusal, isLifted: false, by: principal)
    }

    /// Takes back what ``revoke(_:by:)`` refused; what a file or a revocation list refuses stays refused.
    @discardableResult
    package func liftRefusal(_ refusal: Refusal, by principal: String) async throws -> Bool {
        try await self.change(refusal, isLifted: true, by: principal).isChanged
    }

    private func change(
        _ refusal: Refusal, isLifted: Bool, by principal: String
    ) async throws -> (isChanged: Bool, outcome: JudgingOutcome) {
        let running = try self.running()
        return try await running.security.change(refusal, isLifted: isLifted, by: principal) {
            await running.sessions.judgeSessions(by: $0)
        }
    }

    /// What is in use, how it came to be, and what differs on disk; nil unless it runs. A system call for each file: not on an event loop.
    package var securityStatus: SecurityStatus? {
        guard case .running(let running) = self.state.withLock({ $0 }) else { return nil }
        return running.security.status()
    }

    /// Shows more under `mwstorage status`: what `report` says then, under the name of `service`. Called on any task, before or after
    /// ``start()``.
    package func addStatus(of service: String, _ report: @escaping @Sendable () async -> [(name: String, text: String)]) {
        self.statusParts.withLock { $0.append(StatusPart(service: service, report: report)) }
    }

    var addedStatus: [StatusPart] { self.statusParts.withLock { $0 } }

    /// Throws ``ServerError/Code/wrongState`` unless it runs.
    func running() throws(ServerError) -> Running {
        guard case .running(let running) = self.state.withLock({ $0 }) else {
            throw ServerError(.wrongState, "server", "it does not run")
        }
        return running
    }

    // MARK: Its own certificate

    /// Whether it has a certificate to show; without one it runs, answers ACME challenges, and refuses every client.
    package var hasIdentity: Bool {
        guard case .running(let running) = self.state.withLock({ $0 }) else { return false }
        return running.security.current.set.context.identity != nil
    }

    /// From now on a CA that validates `serverName` with tls-alpn-01 (RFC 8737) is shown `identity` on the addresses that clients use; in
    /// any state, also before the start. Clients do not notice.
    ///
    /// - Parameter serverName: A DNS name, or an address in its reverse form (RFC 8738 §6).
    package func presentChallenge(serverName: String, identity: Identity) {
        self.challenges.present(serverName: serverName, identity: identity)
    }

    /// The end of ``presentChallenge(serverName:identity:)``.
    package func removeChallenge(serverName: String) { self.challenges.remove(serverName: serverName) }

    // MARK: How it is

    /// Where monitoring listens, with the ports that the system chose; empty unless it runs.
    public var monitoringAddresses: [ListenAddress] {
        guard case .running(let running) = self.state.withLock({ $0 }) else { return [] }
        return running.monitoringAddresses.map { ListenAddress(host: $0.ipAddress ?? "", port: $0.port ?? 0) }
    }

    /// Why it cannot serve everything that it should now; empty if it can.
    package var reasonsNotReady: [String] {
        switch self.state.withLock({ $0 }) {
        case .idle, .starting: return ["it starts"]
        case .stopping, .stopped: return ["it drains"]
        case .running(let running):
            var reasons: [String] = []
            if case .degraded(let error) = running.storage.health { reasons.append("storage takes no writes: \(error.code)") }
            if running.sessions.security.set.context.identity == nil { reasons.append("there is no certificate yet") }
            if !running.audit.allowsAdministration { reasons.append("the audit log cannot be written, and is required") }
            return reasons
        }
    }

    /// Whether every thread that serves clients answers within five seconds.
    public func isAlive() async -> Bool {
        switch self.state.withLock({ $0 }) {
        case .running(let running), .stopping(let running):
            guard let loop = running.sessions.eventLoops.first else { return false }
            return (try? await running.sessions.answers(within: Self.livenessTimeout, on: loop).get()) ?? false
        case .idle, .starting, .stopped: return false
        }
    }

    /// Longer than anything a loop is meant to do in one go, the largest request included.
    static let livenessTimeout: Duration = .seconds(5)

    private func startMonitoring(_ sessions: SessionServer, _ audit: AuditLog) async throws -> (MonitoringListener?, [SocketAddress]) {
        guard let configuration = self.configuration.monitoring else { return (nil, []) }
        let answers = MonitoringAnswers(
            metrics: configuration.metrics, reasonsNotReady: { [weak self] in self?.reasonsNotReady ?? ["it is gone"] },
            isAlive: { sessions.answers(within: Self.livenessTimeout, on: $0) },
            refusal: { peer, address in
                guard let refusal = sessions.security.set.refusalToMonitor(peer) else { return nil }
                let certificate = AuditedCertificate(peer.leaf)
                audit.record(
                    .openingRefused(
                        Rejection(
                            .opening, address: address, certificate: certificate, check: refusal.check, reason: refusal.detail,
                            remedy: refusal.remedy, told: "403")))
                return refusal.toldPeer
            },
            handshakeRefused: { error, address in audit.record(.handshakeRefused(Rejection(error, address: address))) })
        let listener = MonitoringListener(answers) { sessions.security.set.context }
        let addresses = try await listener.listen(on: configuration.addresses)
        self.logger.info("monitoring listens", metadata: ["addresses": "\(addresses.map(\.hostAndPort).joined(separator: ", "))"])
        return (listener, addresses)
    }

    /// The store, for the program that the server is part of; `nil` unless it runs.
    public var store: EmbeddedStore? { self.storage.map { EmbeddedStore($0) } }

    /// See ``store``.
    package var storage: Storage? {
        guard case .running(let running) = self.state.withLock({ $0 }) else { return nil }
        return running.storage
    }

    // MARK: Starting

    private func makeRunning() async throws -> Running {
        try self.configuration.validate()
        let source = try SecuritySource(self.configuration, challenges: self.challenges, addresses: self.resolvedAddresses())
        // Before the store is opened, which makes a directory.
        _ = try source.load()
        let audit = try self.openAuditLog()
        do {
            return try await self.makeRunning(source, audit)
        } catch {
            await audit.close()
            throw error
        }
    }

    private func makeRunning(_ source: SecuritySource, _ audit: AuditLog) async throws -> Running {
        let storage = try self.openStorage()
        do {
            // Now that nobody else writes to the directory.
            let security = try SecurityDesk(
                source, journal: self.openJournal(), policy: self.configuration.reloading, audit: audit, logger: self.logger,
                metrics: self.metrics)
            let (sessions, observations) = try await self.makeSessions(security.current, storage, audit)
            do {
                let inherited = self.configuration.inheritedSockets
                let addresses =
                    try await inherited.isEmpty
                    ? sessions.listen(on: self.configuration.addresses) : sessions.listen(onDescriptors: inherited)
                let (monitoring, monitoringAddresses) = try await self.startMonitoring(sessions, audit)
                let expiry = ExpiryWatch(sessions, lastReload: { security.lastReload }, logger: self.logger)
                expiry.start()
                self.logStarted(addresses, security, storage)
                if let leaf = security.current.set.context.identity?.leaf {
                    audit.record(.certificateInstalled(AuditedCertificate(leaf), source: "start"))
                }
                audit.record(.serverStarted(addresses: addresses.map(\.hostAndPort)))
                // Safety: see Running.watching.
                let watching = Task { await security.watch { await sessions.judgeSessions(by: $0) } }
                return Running(
                    storage: storage, audit: audit, sessions: sessions, security: security, watching: watching, observations: observations,
                    addresses: addresses, expiry: expiry, monitoring: monitoring, monitoringAddresses: monitoringAddresses)
            } catch {
                await Self.close(sessions, storage, observations)
                throw error
            }
        } catch {
            storage.close()
            throw error
        }
    }

    private func resolvedAddresses() throws -> [SocketAddress] {
        let inherited = self.configuration.inheritedSockets
        guard inherited.isEmpty else { return try inherited.map { try SocketAddress(ofSocket: $0) } }
        return try self.configuration.addresses.flatMap { try $0.resolved() }
    }

    private func openAuditLog() throws(ServerError) -> AuditLog {
        guard let destination = self.configuration.audit else { return AuditLog(logger: self.logger) }
        let sink =
            switch destination.place {
            case .file(let path): try AuditFile(path: path)
            case .standardOutput: AuditFile(standardOutput: ())
            }
        return AuditLog(sink: sink, isRequired: destination.isRequired, logger: self.logger)
    }

    private func openJournal() throws(ServerError) -> RefusalJournal {
        do {
            return try RefusalJournal(directory: self.configuration.dataDirectory)
        } catch {
            throw ServerError(
                .materialRejected, "refusals", "the list of what was revoked cannot be used, so nobody is let in", underlying: error)
        }
    }

    /// The store first: its last outcomes need the event loops.
    private static func close(_ sessions: SessionServer, _ storage: Storage, _ observations: [StorageObservation]) async {
        for observation in observations { observation.cancel() }
        storage.close()
        await sessions.shutdown()
    }

    private func openStorage() throws(ServerError) -> Storage {
        let options = StorageOptions(durability: self.configuration.durability == .sync ? .sync : .os)
        do throws(StorageError) {
            return try Storage.open(directory: self.configuration.dataDirectory, engine: self.configuration.engine, options: options)
        } catch {
            throw ServerError(.storageUnavailable, self.configuration.dataDirectory, "the store cannot be opened", underlying: error)
        }
    }

    private func makeSessions(_ security: CurrentSecurity, _ storage: Storage, _ audit: AuditLog) async throws -> (
        SessionServer, [StorageObservation]
    ) {
        var options = SessionServer.Options()
        options.limits = self.configuration.limits
        options.closeCodes = self.configuration.closeCodes
        options.opening.subprotocols = .supported([nativeSubprotocol])
        let loops = StorageLoops()
        let reloads = ReloadBroadcaster { batch in loops.forEach { $0.reloadsCommitted(batch) } }
        let sessions = try await SessionServer(
            options, security: security, eventLoops: self.configuration.eventLoops ?? System.coreCount, audit: audit,
            logger: self.logger,
            publish: { [metrics = self.metrics] in metrics.publish($0) },
            makeFactory: { [self] loop in loops.make(on: loop, storage: storage, reloads: reloads, hub: hub, administration: self) })
        return (sessions, [storage.observe(self.hub), storage.observe(reloads)])
    }

    // MARK: Certificates

    /// What no server should start with.
    package static func check(
        _ material: ServerMaterial, at now: Timestamp, for addresses: [SocketAddress],
        bundled: Set<PublicKeyPin> = BundledTestKeys.publicKeyPins
    ) throws(ServerError) {
        if let leaf = material.identity?.leaf { try Self.checkDates(leaf, at: now) }
        guard let exposed = addresses.first(where: { !$0.isLoopback }) else { return }
        if let anchor = material.trustStore.anchors.first(where: { bundled.contains($0.certificate.publicKeyPin) }) {
            throw ServerError(
                .bundledTestKey, exposed.hostAndPort,
                "the trust store has a bundled test certificate (sha256 \(anchor.certificate.sha256)), whose key everybody has",
                remedy: "make your own with scripts/make-certs, or listen on localhost")
        }
        if let leaf = material.identity?.leaf, bundled.contains(leaf.publicKeyPin) {
            throw ServerError(
                .bundledTestKey, exposed.hostAndPort,
                "the server's key is a bundled test key, which everybody has: it serves on loopback addresses only",
                remedy: "make your own with scripts/make-certs, or listen on localhost")
        }
    }

    private static func checkDates(_ leaf: Certificate, at now: Timestamp) throws(ServerError) {
        guard now <= leaf.notAfter else {
            throw ServerError(
                .certificateExpired, leaf.subject, "our certificate ended at \(leaf.notAfter), it is \(now): every client would refuse us",
                remedy: "renew it")
        }
        guard !ClockJudgement.isBehind(now, notBefore: leaf.notBefore) else {
            throw ServerError(
                .clockBehind, "this machine's clock",
                "it says \(now), and our certificate begins at \(leaf.notBefore): the clock is behind",
                remedy: "set the clock (NTP), then start again")
        }
        guard now >= leaf.notBefore else {
            throw ServerError(
                .certificateNotYetValid, leaf.subject, "our certificate begins at \(leaf.notBefore), the clock says \(now)",
                remedy: "set the clock, if it is behind; otherwise wait, or use another certificate")
        }
    }

    // MARK: Log

    private func logStarted(_ addresses: [SocketAddress], _ security: SecurityDesk, _ storage: Storage) {
        var metadata = security.loadedMetadata
        let hasIdentity = security.current.set.context.identity != nil
        metadata["addresses"] = "\(addresses.map(\.hostAndPort).joined(separator: ", "))"
        metadata["engine"] = "\(storage.engineName)"
        metadata["data"] = "\(storage.directory)"
        metadata["durability"] = "\(self.configuration.durability.rawValue)"
        self.logger.info("listening", metadata: metadata)
        if !hasIdentity {
            self.logger.warning(
                "there is no certificate yet: ACME challenges are answered, every other handshake is refused until it is issued")
        }
    }
}
