internal import MWPKI
package import MWProtocol
internal import MWStorage
internal import MWTLS
internal import NIOCore
internal import NIOPosix

// What administrators ask over the native protocol. Everything about connections is gathered on their event loops, one question each; nothing
// here is called on one.

extension StorageServer: AdministrationService {
    // MARK: Connections

    package func perform(_ request: NativeSessionsRequest, by administrator: Principal) async throws -> NativeSessions {
        guard (1...NativeSessionsRequest.maximumPage).contains(request.limit), request.after >= 0 else {
            throw NativeFailure(
                .invalidArgument, "a page of \(request.limit) connections after number \(request.after)",
                remedy: "ask for 1 to \(NativeSessionsRequest.maximumPage), after 0 or more")
        }
        let limit = Int(request.limit)
        let after = UInt64(request.after)
        // One more than is asked for tells whether there are more.
        let entries = try await self.running().sessions.gather { loop in
            loop.sessions.filter { $0.info.connectionID > after }.sorted { $0.info.connectionID < $1.info.connectionID }.prefix(limit + 1)
                .map { NativeSessionEntry($0) }
        }
        let sorted = entries.flatMap { $0 }.sorted { $0.connection < $1.connection }
        var reply = NativeSessions()
        reply.sessions = Array(sorted.prefix(limit))
        reply.hasMore = sorted.count > limit
        return reply
    }

    package func perform(_ request: NativeAuthoritiesRequest, by administrator: Principal) async throws -> NativeAuthorities {
        let running = try self.running()
        let trustStore = running.security.current.set.context.trustStore
        let now = Timestamp.now()
        var uses: [CertificateFingerprint: AuthorityUse] = [:]
        for anchor in trustStore.anchors { uses[anchor.certificate.sha256] = AuthorityUse(anchor.certificate) }
        for part in await running.sessions.gather(AuthorityUse.count) {
            for (fingerprint, use) in part { uses[fingerprint, default: AuthorityUse(use.certificate)].add(use) }
        }
        var reply = NativeAuthorities()
        reply.authorities = uses.values.sorted {
            ($0.certificate.subject, $0.certificate.sha256.hex) < ($1.certificate.subject, $1.certificate.sha256.hex)
        }
        .map { use in
            let list = trustStore.revocationLists.filter { $0.isSigned(by: use.certificate) }.map(\.nextUpdate).max()
            return use.report(isTrusted: trustStore.contains(use.certificate), list: list, at: now)
        }
        return reply
    }

    // MARK: Refusals

    package func perform(_ request: NativeRejectionsRequest, by administrator: Principal) async throws -> NativeRejections {
        let rejections = try self.running().audit.rejections
        var reply = NativeRejections()
        reply.rejections = rejections.latest(Int(clamping: max(0, request.limit))).map { NativeRejection($0) }
        reply.total = Int64(clamping: rejections.total)
        return reply
    }

    package func perform(_ request: NativeRefusalsRequest, by administrator: Principal) async throws -> NativeRefusals {
        var reply = NativeRefusals()
        reply.refusals = try await self.readSecurityStatus().revoked.map { NativeRefusal($0) }
        return reply
    }

    package func perform(_ request: NativeRefuseRequest, by administrator: Principal) async throws -> NativeRefusalChange {
        let refusal = try Refusal(request.target)
        var reply = NativeRefusalChange()
        if request.isTrial == true {
            let set = RefusalSet([refusal])
            let counts = try await self.running().sessions.gather { loop in
                loop.sessions.count { set.refusal(of: $0.peer.chain, names: [$0.info.principal.name]) != nil }
            }
            reply.hasChanged = try await !self.readSecurityStatus().revoked.contains { $0.refusal == refusal }
            reply.connectionsClosed = Int64(counts.reduce(0, +))
            return reply
        }
        try self.requireNotRefused(administrator)
        let (isChanged, outcome) = try await self.revoke(refusal, by: administrator.name)
        reply.hasChanged = isChanged
        reply.connectionsClosed = Int64(outcome.closed)
        return reply
    }

    package func perform(_ request: NativeAcceptAgainRequest, by administrator: Principal) async throws -> NativeRefusalChange {
        let refusal = try Refusal(request.target)
        // Who is cut off may have this under way.
        guard RefusalSet([refusal]).refusal(of: [administrator.certificate], names: [administrator.name]) == nil else {
            throw NativeFailure(
                .permissionDenied, "\(refusal) refuses \(administrator.name), who asks", remedy: "have another administrator lift it")
        }
        try self.requireNotRefused(administrator)
        var reply = NativeRefusalChange()
        reply.hasChanged = try await self.liftRefusal(refusal, by: administrator.name)
        return reply
    }

    /// By the newest set: the request may have been taken before it.
    func requireNotRefused(_ administrator: Principal) throws {
        let refusals = try self.running().security.current.set.context.refusals
        guard refusals.refusal(of: [administrator.certificate], names: [administrator.name]) == nil else {
            throw NativeFailure(.permissionDenied, "\(administrator.name) is refused by now", remedy: "ask another administrator")
        }
    }

    // MARK: Reload

    package func perform(_ request: NativeReloadRequest, by administrator: Principal) async throws -> NativeReloadState {
        try self.requireNotRefused(administrator)
        let outcome: JudgingOutcome
        do {
            outcome = try await self.reload(.administrator(administrator.name))
        } catch let error as ServerError where error.code != .wrongState {
            throw NativeFailure(.reloadFailed, "the new set cannot be used, the old one stays: \(error)")
        }
        var state = NativeReloadState(try await self.readSecurityStatus())
        state.connectionsClosed = Int64(outcome.closed)
        return state
    }

    /// A system call for each file: off the loops.
    private func readSecurityStatus() async throws -> SecurityStatus {
        let status = try await NIOThreadPool.singleton.runIfActive { self.securityStatus }
        guard let status else { throw ServerError(.wrongState, "server", "it does not run") }
        return status
    }

    // MARK: Status

    package func perform(_ request: NativeStatusRequest, by administrator: Principal) async throws -> NativeStatus {
        let running = try self.running()
        let now = Timestamp.now()
        let security = try await self.readSecurityStatus()
        let census = await running.sessions.gather { ConnectionSurvey(of: $0, at: now) }.reduce(into: ConnectionSurvey()) { $0.add($1) }
        let context = security.set.context
        var status = NativeStatus()
        status.server = self.serverState(running, at: now)
        status.certificate = context.identity.map { NativeCertificate($0.leaf, at: now) }
        status.trustAnchors = context.trustStore.anchors.map { NativeCertificate($0.certificate, at: now) }
        status.revocationLists = context.trustStore.revocationLists.map { NativeRevocationList($0, at: now) }
        status.connections = census.report
        status.connections.isAcceptingPaused = running.sessions.isAcceptingPaused
        status.limits = self.limits(running, census)
        status.reload = NativeReloadState(security)
        if !security.changedPaths.isEmpty { await self.addWhatIsOnDisk(to: &status.reload) }
        status.storage = NativeStorageState(running.storage, self.configuration)
        let watches = self.hub.totals
        status.storage.watches = Int64(watches.watches)
        status.storage.greatestLag = Int64(clamping: watches.lag)
        status.storage.sessions = Int64(running.storage.usage.sessions)
        status.storage.leases = Int64(running.storage.usage.leases)
        status.tls = census.tls.report
        for part in self.addedStatus {
            status.services.append(NativeService(part.service, await part.report().map { NativeText($0.name, $0.text) }))
        }
        return status
    }

    private func serverState(_ running: Running, at now: Timestamp) -> NativeServerState {
        var state = NativeServerState()
        state.version = softwareVersion
        state.openSSL = OpenSSL.version
        state.startedAt = NativeTime(running.startedAt)
        state.now = NativeTime(now)
        state.addresses = running.addresses.map(\.hostAndPort)
        state.eventLoops = Int64(running.sessions.eventLoops.count)
        return state
    }

    /// What a reload would find now; whoever sees that it is not what is loaded knows that one is missing, or failed.
    private func addWhatIsOnDisk(to state: inout NativeReloadState) async {
        do {
            let source = self.configuration.tls
            let material = try await NIOThreadPool.singleton.runIfActive { try source.loadForServer() }
            state.onDisk = NativeText.list(material.identity?.leaf, material.trustStore)
        } catch {
            state.onDiskFailure = "\(error)"
        }
    }

    private func limits(_ running: Running, _ census: ConnectionSurvey) -> [NativeLimit] {
        let limits = self.configuration.limits
        let storage = running.storage
        func milliseconds(_ name: String, _ duration: Duration) -> NativeLimit {
            NativeLimit(name, Int64(clamping: TimeAmount(duration).nanoseconds / 1_000_000), "milliseconds")
        }
        var list = [
            NativeLimit("maximumConnections", Int64(limits.maximumConnections), "connections", used: Int64(running.sessions.census.total)),
            NativeLimit(
                "maximumConnectionsPerCertificate", Int64(limits.maximumConnectionsPerCertificate), "connections",
                used: Int64(census.mostOfOneCertificate)),
            NativeLimit(
                "maximumConnectionsPerPrincipal", Int64(limits.maximumConnectionsPerPrincipal), "connections",
                used: Int64(census.mostOfOnePrincipal)),
            NativeLimit(
                "maximumWaitingHandshakes", Int64(limits.maximumWaitingHandshakes), "handshake steps of one event loop"),
            NativeLimit(
                "maximumOpenings", Int64(limits.maximumOpenings), "connections of one event loop", used: Int64(census.mostOpenings)),
            NativeLimit(
                "maximumRequestsInFlight", Int64(limits.maximumRequestsInFlight), "requests of one connection",
                used: Int64(census.mostRequestsInFlight)),
            NativeLimit(
                "maximumUnsentBytes", Int64(limits.maximumUnsentBytes), "bytes of one connection", used: Int64(census.mostUnsentBytes)),
            NativeLimit(
                "maximumPendingRequests", Int64(storage.limits.maximumPendingRequests), "requests", used: Int64(storage.pending.requests)),
            NativeLimit("maximumPendingBytes", Int64(storage.limits.maximumPendingBytes), "bytes", used: Int64(storage.pending.bytes)),
            NativeLimit("maximumMessageBytes", Int64(limits.maximumMessageBytes), "bytes"),
            NativeLimit("maximumWatchesPerConnection", Int64(limits.maximumWatchesPerConnection), "watches of one connection"),
            NativeLimit("maximumRangesPerWatch", Int64(limits.maximumRangesPerWatch), "ranges of one watch"),
            NativeLimit(
                "maximumWatchBoundBytesPerConnection", Int64(limits.maximumWatchBoundBytesPerConnection), "bytes of one connection"),
            NativeLimit("maximumWatchBacklogBytes", Int64(limits.maximumWatchBacklogBytes), "bytes of one connection"),
            NativeLimit("maximumSnapshotsPerConnection", Int64(limits.maximumSnapshotsPerConnection), "snapshots of one connection"),
            NativeLimit("maximumTransactionOperations", Int64(limits.maximumTransactionOperations), "operations of one transaction"),
            NativeLimit("maximumScanEntries", Int64(limits.maximumScanEntries), "entries of one page"),
            NativeLimit("maximumScanBytes", Int64(limits.maximumScanBytes), "bytes of one page"),
            NativeLimit("maximumKeysPerRequest", Int64(limits.maximumKeysPerRequest), "keys"),
            NativeLimit("maximumHandshakesPerSecond", Int64(limits.maximumHandshakesPerSecond), "handshakes"),
            NativeLimit("maximumHandshakeBurst", Int64(limits.maximumHandshakeBurst), "handshakes"),
            NativeLimit("maximumHandshakesPerSecondAndAddress", Int64(limits.maximumHandshakesPerSecondAndAddress), "handshakes"),
            NativeLimit("maximumHandshakeBurstOfAddress", Int64(limits.maximumHandshakeBurstOfAddress), "handshakes"),
            NativeLimit("descriptorReserve", Int64(limits.descriptorReserve), "descriptors"),
            milliseconds("openingTimeout", limits.openingTimeout), milliseconds("pingInterval", limits.pingInterval),
            milliseconds("pongTimeout", limits.pongTimeout), milliseconds("closingTimeout", limits.closingTimeout),
            milliseconds("unsentTimeout", limits.unsentTimeout),
            milliseconds("watchProgressInterval", limits.watchProgressInterval),
            milliseconds("watchStateTimeout", limits.watchStateTimeout), milliseconds("snapshotLifetime", limits.snapshotLifetime),
        ]
        if let lifetime = limits.connectionLifetime { list.append(milliseconds("connectionLifetime", lifetime)) }
        return list + Self.limits(storage.limits, storage.usage)
    }

    /// What the store keeps for its clients.
    private static func limits(_ limits: StorageLimits, _ usage: StorageUsage) -> [NativeLimit] {
        [
            NativeLimit("maximumSessions", Int64(limits.maximumSessions), "sessions", used: Int64(usage.sessions)),
            NativeLimit("maximumSessionsPerPrincipal", Int64(limits.maximumSessionsPerPrincipal), "sessions of one principal"),
            NativeLimit("maximumOutcomesPerSession", Int64(limits.maximumOutcomesPerSession), "outcomes of one session"),
            NativeLimit("maximumLeases", Int64(limits.maximumLeases), "leases", used: Int64(usage.leases)),
            NativeLimit("maximumLeasesPerPrincipal", Int64(limits.maximumLeasesPerPrincipal), "leases of one principal"),
            NativeLimit("maximumKeysPerLease", Int64(limits.maximumKeysPerLease), "keys of one lease"),
            NativeLimit("maximumHistoryRevisions", Int64(limits.maximumHistoryRevisions), "revisions", used: Int64(usage.historyRevisions)),
            NativeLimit("maximumHistoryBytes", Int64(limits.maximumHistoryBytes), "bytes", used: Int64(usage.historyBytes)),
        ]
    }
}

/// A part of the status that somebody else has to say.
struct StatusPart: Sendable {
    let service: String
    let report: @Sendable () async -> [(name: String, text: String)]
}

/// The connections of one trust anchor.
private struct AuthorityUse: Sendable {
    let certificate: Certificate
    private var connections: Int64 = 0
    private var issuers = Tally()

    init(_ certificate: Certificate) { self.certificate = certificate }

    mutating func add(_ other: AuthorityUse) {
        self.connections += other.connections
        self.issuers.add(other.issuers)
    }

    static func count(_ loop: SessionLoop) -> [CertificateFingerprint: AuthorityUse] {
        var uses: [CertificateFingerprint: AuthorityUse] = [:]
        for session in loop.sessions {
            guard let anchor = session.peer.chain.last else { continue }
            uses[anchor.sha256, default: AuthorityUse(anchor)].connections += 1
            uses[anchor.sha256]?.issuers.count(session.peer.leaf.issuer)
        }
        return uses
    }

    func report(isTrusted: Bool, list: Timestamp?, at now: Timestamp) -> NativeAuthority {
        var authority = NativeAuthority()
        authority.certificate = NativeCertificate(self.certificate, at: now)
        authority.isTrusted = isTrusted
        authority.connections = self.connections
        authority.issuers = self.issuers.report
        authority.revocationListNextUpdate = list.map { NativeTime($0) }
        return authority
    }
}
