internal import MWPKI
internal import MWProtocol
internal import MWStorage
internal import MWTLS
internal import NIOCore

// What the server knows, as the native protocol says it.

extension NativeTime {
    init(_ time: Timestamp) { self.init(time.secondsSince1970) }
}

/// Whole days from `now` until `end`, negative after it.
func daysLeft(until end: Timestamp, at now: Timestamp) -> Int64 {
    let (seconds, overflow) = end.secondsSince1970.subtractingReportingOverflow(now.secondsSince1970)
    let secondsPerDay: Int64 = 86_400
    guard !overflow else { return end > now ? .max / secondsPerDay : .min / secondsPerDay }
    return seconds >= 0 ? seconds / secondsPerDay : (seconds - secondsPerDay + 1) / secondsPerDay
}

extension NativeCertificate {
    init(_ certificate: Certificate, at now: Timestamp) {
        self.init()
        self.subject = certificate.subject
        self.issuer = certificate.issuer
        self.fingerprint = "\(certificate.sha256)"
        self.serial = certificate.serialNumber
        self.uris = certificate.uriNames
        self.dnsNames = certificate.dnsNames
        self.emailAddresses = certificate.emailAddresses
        self.ipAddresses = certificate.ipAddresses
        self.notBefore = NativeTime(certificate.notBefore)
        self.notAfter = NativeTime(certificate.notAfter)
        self.daysLeft = MWServer.daysLeft(until: certificate.notAfter, at: now)
    }
}

extension NativeIdentity {
    /// What is known of the client of `session`.
    init(of session: SessionHandler, at now: Timestamp) {
        self.init()
        let info = session.info
        self.principal = info.principal.name
        self.certificate = NativeCertificate(info.principal.certificate, at: now)
        if let matcher = info.principal.matcher {
            let place = info.principal.place.map { ", line \($0.line) of the policy" } ?? ""
            self.rules = ["\(info.principal.name), by \(matcher)\(place)"]
        }
        for grant in info.principal.grants.list {
            let prefixes: [[UInt8]] = if case .prefixes(let prefixes) = grant.keys { prefixes } else { [[]] }
            for right in grant.rights.list { self.rights += prefixes.map { NativeRight(right.rawValue, prefix: ByteBuffer(bytes: $0)) } }
        }
        self.isAdministrator = info.principal.isAdministrator
        self.address = info.address
        self.tls = info.tls
        self.connection = Int64(clamping: info.connectionID)
    }
}

extension NativeSessionEntry {
    init(_ session: SessionHandler) {
        self.init()
        let info = session.info
        self.connection = Int64(clamping: info.connectionID)
        self.principal = info.principal.name
        self.address = info.address
        self.fingerprint = "\(info.principal.fingerprint)"
        self.issuer = info.principal.certificate.issuer
        self.notAfter = NativeTime(info.principal.certificate.notAfter)
        self.since = NativeTime(info.openedAt)
        self.subprotocol = info.subprotocol ?? ""
        self.tls = info.tls
        self.receivedBytes = Int64(clamping: session.receivedBytes)
        self.sentBytes = Int64(session.writtenBytes)
        self.requests = Int64(clamping: session.requestCount)
        self.requestsInFlight = Int64(session.requestsInFlight)
        guard let watches = (session.delegate as? NativeSession)?.watches else { return }
        self.watches = Int64(watches.count)
        self.lag = Int64(clamping: watches.lag)
    }
}

extension NativeRejection {
    init(_ entry: RejectionLog.Entry) {
        self.init()
        let rejection = entry.rejection
        self.first = NativeTime(entry.first)
        self.latest = NativeTime(entry.latest)
        self.count = Int64(clamping: entry.count)
        self.stage = rejection.stage.rawValue
        self.address = rejection.address
        self.principal = rejection.principal
        self.check = rejection.check
        self.reason = rejection.reason
        self.expected = rejection.expected
        self.found = rejection.found
        self.remedy = rejection.remedy
        self.told = rejection.told
        guard let certificate = rejection.certificate else { return }
        self.subject = certificate.subject
        self.issuer = certificate.issuer
        self.serial = certificate.serialNumber
        self.fingerprint = "\(certificate.fingerprint)"
        self.names = certificate.names
        self.notAfter = NativeTime(certificate.notAfter)
    }
}

extension NativeRevocationList {
    init(_ list: CertificateRevocationList, at now: Timestamp) {
        self.init()
        self.issuer = list.issuer
        self.thisUpdate = NativeTime(list.thisUpdate)
        self.nextUpdate = NativeTime(list.nextUpdate)
        self.daysLeft = MWServer.daysLeft(until: list.nextUpdate, at: now)
        self.revoked = Int64(list.revokedSerialNumbers.count)
    }
}

extension NativeText {
    /// What tells one set of certificates from another.
    static func list(_ leaf: Certificate?, _ trustStore: TrustStore) -> [NativeText] {
        [
            NativeText("certificate", leaf.map { "\($0.sha256)" } ?? "none"),
            NativeText("certificate_not_after", leaf.map { "\($0.notAfter)" } ?? "none"),
            NativeText("trust_anchors", trustStore.anchors.map(\.certificate.sha256.hex).sorted().joined(separator: " ")),
            NativeText(
                "revocation_lists", trustStore.revocationLists.map { "\($0.issuer): \($0.thisUpdate)" }.sorted().joined(separator: "; ")),
        ]
    }
}

extension NativeStorageState {
    init(_ storage: Storage, _ configuration: StorageServerConfiguration) {
        self.init()
        self.engine = storage.engineName
        self.directory = storage.directory
        self.durability = configuration.durability.rawValue
        self.pendingRequests = Int64(storage.pending.requests)
        self.pendingBytes = Int64(storage.pending.bytes)
        self.isCongested = storage.pending.isCongested
        self.health = "\(storage.health)"
        self.incarnation = ByteBuffer(integer: storage.incarnation.number)
        self.revision = Int64(clamping: storage.revision.number)
        self.compactedRevision = Int64(clamping: storage.compactedRevision.number)
        let usage = storage.usage
        self.sessions = Int64(usage.sessions)
        self.leases = Int64(usage.leases)
    }
}

extension NativeReloadClientsRequest {
    /// For the audit log: whom it is about.
    var subject: String {
        let whom = self.principal.map { "principal \($0)" } ?? "all"
        return self.ranges.isEmpty ? whom : "\(whom), \(self.ranges.count) ranges"
    }
}

extension NativeFailure {
    static func answerTooBig(_ maximumBytes: Int) -> NativeFailure {
        NativeFailure(.answerTooBig, "the answer is over the message limit of \(maximumBytes) bytes", remedy: "ask for less")
    }

    static func permissionDenied(_ principal: Principal, _ kind: NativeRequestKind) -> NativeFailure {
        NativeFailure(
            .permissionDenied, "\(principal.name) may not administer this server, which \(kind) needs",
            remedy: "ask an administrator; or let the access policy grant the right administer over all keys")
    }

    /// What an administrator is told of an error: all of it, as whoever reads the log is.
    init(reporting error: any Error) {
        switch error {
        case let failure as NativeFailure: self = failure
        case let error as ServerError where error.code == .wrongState:
            self.init(.unavailable, "\(error)", isRetryable: true)
        case let error as PKIError:
            self.init(.invalidArgument, "\(error.subject): \(error.what)", remedy: error.remedy)
        default: self.init(.internalError, "\(error)", remedy: "see the server's log")
        }
    }
}
