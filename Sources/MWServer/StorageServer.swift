public import Logging
package import MWPKI
package import MWStorage
internal import MWTLS
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
    private let configuration: StorageServerConfiguration
    private let logger: Logger
    private let metrics = ServerMetrics()
    private let challenges = PendingChallenges()
    private let state = Mutex(State.idle)

    private enum State {
        case idle
        case starting
        case running(Running)
        case stopping
        case stopped
    }

    private struct Running: Sendable {
        let storage: Storage
        let audit: AuditLog
        let sessions: SessionServer
        let observation: StorageObservation
        let addresses: [SocketAddress]
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
        var resolved: [SocketAddress] = []
        for address in self.configuration.addresses { resolved += try address.resolved() }
        _ = try self.loadContext(for: resolved)
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
            state = .stopping
            return running
        }
        guard let running else { return }
        self.logger.info("draining", metadata: ["connections": "\(running.sessions.census.total)"])
        let codes = self.configuration.closeCodes
        await running.sessions.stop(
            restarting ? .restart : .stop, code: restarting ? codes.restart : codes.stop,
            reason: restarting ? "the server restarts" : "the server stops", within: self.configuration.drainTimeout)
        await Self.close(running.sessions, running.storage, running.observation)
        running.audit.record(.serverStopped)
        await running.audit.close()
        self.state.withLock { $0 = .stopped }
        self.logger.info("stopped")
    }

    /// Loads certificates, keys, trust and revocation lists anew, for connections from now on. Those that are open stay.
    ///
    /// Throws ``ServerError`` when the new set cannot be used; then the one in use stays.
    public func reload() async throws {
        guard case .running(let running) = self.state.withLock({ $0 }) else {
            throw ServerError(.wrongState, "server", "it does not run")
        }
        do {
            let context = try self.loadContext(for: running.addresses)
            running.sessions.use(context)
            self.metrics.reloaded(isDone: true)
            self.logger.info("reloaded", metadata: Self.metadata(of: context))
            running.audit.record(.reloadDone(Self.audited(context)))
        } catch {
            self.metrics.reloaded(isDone: false)
            self.logger.error("reload failed, the old set stays in use", metadata: ["reason": "\(error)"])
            running.audit.record(.reloadFailed(AuditedReload(trigger: "signal", failure: "\(error)")))
            throw error
        }
    }

    // MARK: Its own certificate

    /// Whether it has a certificate to show; without one it runs, answers ACME challenges, and refuses every client.
    package var hasIdentity: Bool {
        guard case .running(let running) = self.state.withLock({ $0 }) else { return false }
        return running.sessions.currentContext.identity != nil
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

    /// The store, for whoever embeds the server. The public form of this belongs to the native protocol's issue.
    package var storage: Storage? {
        guard case .running(let running) = self.state.withLock({ $0 }) else { return nil }
        return running.storage
    }

    // MARK: Starting

    private func makeRunning() async throws -> Running {
        try self.configuration.validate()
        var resolved: [SocketAddress] = []
        for address in self.configuration.addresses { resolved += try address.resolved() }
        let context = try self.loadContext(for: resolved)
        let audit = try self.openAuditLog()
        do {
            return try await self.makeRunning(context, audit)
        } catch {
            await audit.close()
            throw error
        }
    }

    private func makeRunning(_ context: TLSContext, _ audit: AuditLog) async throws -> Running {
        let storage = try self.openStorage()
        do {
            let (sessions, observation) = try await self.makeSessions(context, storage, audit)
            do {
                let addresses = try await sessions.listen(on: self.configuration.addresses)
                self.logStarted(addresses, context, storage)
                if let leaf = context.identity?.leaf {
                    audit.record(.certificateInstalled(AuditedCertificate(leaf), source: "start"))
                }
                audit.record(.serverStarted(addresses: addresses.map(\.hostAndPort)))
                return Running(storage: storage, audit: audit, sessions: sessions, observation: observation, addresses: addresses)
            } catch {
                await Self.close(sessions, storage, observation)
                throw error
            }
        } catch {
            storage.close()
            throw error
        }
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

    /// The store first: its last outcomes need the event loops.
    private static func close(_ sessions: SessionServer, _ storage: Storage, _ observation: StorageObservation) async {
        observation.cancel()
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

    private func makeSessions(_ context: TLSContext, _ storage: Storage, _ audit: AuditLog) async throws -> (
        SessionServer, StorageObservation
    ) {
        var options = SessionServer.Options()
        options.limits = self.configuration.limits
        options.closeCodes = self.configuration.closeCodes
        let loops = StorageLoops()
        let reloads = ReloadBroadcaster { batch in loops.forEach { $0.reloadsCommitted(batch) } }
        let sessions = try await SessionServer(
            options, context: context, eventLoops: self.configuration.eventLoops ?? System.coreCount, audit: audit,
            logger: self.logger,
            publish: { [metrics = self.metrics] in metrics.publish($0) },
            makeFactory: { loop in loops.make(on: loop, storage: storage, reloads: reloads) })
        return (sessions, storage.observe(reloads))
    }

    // MARK: Certificates

    private func loadContext(for addresses: [SocketAddress]) throws(ServerError) -> TLSContext {
        let material: ServerMaterial
        let context: TLSContext
        do {
            material = try self.configuration.tls.loadForServer()
            context = try TLSContext(
                server: material, challenges: self.challenges, policy: SessionServer.tlsPolicy(self.configuration.limits))
        } catch {
            throw ServerError(.materialRejected, "certificates", "the identity or trust store cannot be used", underlying: error)
        }
        try Self.check(material, at: .now(), for: addresses)
        for warning in material.warnings(at: .now()) { self.logger.warning("\(warning)") }
        if let leaf = material.identity?.leaf { self.metrics.certificateLoaded(notAfter: leaf.notAfter.secondsSince1970) }
        return context
    }

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
        guard now >= leaf.notBefore else {
            throw ServerError(
                .certificateNotYetValid, leaf.subject, "our certificate begins at \(leaf.notBefore), the clock says \(now)",
                remedy: "set the clock, if it is behind; otherwise wait, or use another certificate")
        }
    }

    // MARK: Log

    private func logStarted(_ addresses: [SocketAddress], _ tls: TLSContext, _ storage: Storage) {
        var metadata = Self.metadata(of: tls)
        metadata["addresses"] = "\(addresses.map(\.hostAndPort).joined(separator: ", "))"
        metadata["engine"] = "\(storage.engineName)"
        metadata["data"] = "\(storage.directory)"
        metadata["durability"] = "\(self.configuration.durability.rawValue)"
        self.logger.info("listening", metadata: metadata)
        if tls.identity == nil {
            self.logger.warning(
                "there is no certificate yet: ACME challenges are answered, every other handshake is refused until it is issued")
        }
        // The access policy has its place in Principal.admit.
        self.logger.notice("no access policy: every member of the trust store has all rights")
    }

    private static func audited(_ tls: TLSContext) -> AuditedReload {
        AuditedReload(
            trigger: "signal", certificate: (tls.identity?.leaf).map { AuditedCertificate($0) }, trustAnchors: tls.trustStore.anchors.count,
            revocationLists: tls.trustStore.revocationLists.count)
    }

    private static func metadata(of tls: TLSContext) -> Logger.Metadata {
        var metadata: Logger.Metadata = [
            "trust_anchors": "\(tls.trustStore.anchors.count)", "revocation_lists": "\(tls.trustStore.revocationLists.count)",
        ]
        if let leaf = tls.identity?.leaf {
            metadata["subject"] = "\(leaf.subject)"
            metadata["fingerprint"] = "\(leaf.sha256)"
            metadata["not_after"] = "\(leaf.notAfter)"
        }
        return metadata
    }
}
