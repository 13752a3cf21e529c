internal import MWPKI
internal import MWProtocol

/// How often each name came.
struct Tally: Sendable {
    private var counts: [String: Int64] = [:]

    mutating func count(_ name: String) { self.counts[name, default: 0] += 1 }

    mutating func add(_ other: Tally) { self.counts.merge(other.counts, uniquingKeysWith: +) }

    /// The most frequent first.
    var report: [NativeCount] {
        self.counts.sorted { ($1.value, $0.key) < ($0.value, $1.key) }.map { NativeCount($0.key, $0.value) }
    }
}

/// The open connections, counted on one event loop, or summed up over all.
struct ConnectionSurvey: Sendable {
    /// Upper ends of the classes of days that certificates have left; what is above the last is `over`.
    static let dayClasses: [Int64] = [0, 1, 7, 30, 90, 365]

    private(set) var tls = Tally()
    private var certificates: [CertificateFingerprint: Int] = [:]
    private var principals: [String: Int] = [:]
    private(set) var mostOpenings = 0
    private(set) var mostRequestsInFlight = 0
    private(set) var mostUnsentBytes = 0
    private var open = 0
    private var opening = 0
    private var requestsInFlight = 0
    private var subprotocols = Tally()
    private var daysLeft = [Int64](repeating: 0, count: Self.dayClasses.count + 1)

    init() {}

    /// - Parameter loop: Whose event loop this runs on.
    init(of loop: SessionLoop, at now: Timestamp) {
        self.open = loop.sessions.count
        self.opening = loop.openingCount
        self.mostOpenings = loop.openingCount
        for session in loop.sessions {
            self.tls.count(session.info.tls)
            self.subprotocols.count(session.info.subprotocol ?? "mwdb")
            self.certificates[session.info.principal.fingerprint, default: 0] += 1
            self.principals[session.info.principal.name, default: 0] += 1
            self.requestsInFlight += session.requestsInFlight
            self.mostRequestsInFlight = max(self.mostRequestsInFlight, session.requestsInFlight)
            self.mostUnsentBytes = max(self.mostUnsentBytes, session.unsentBytes)
            let days = MWServer.daysLeft(until: session.info.principal.certificate.notAfter, at: now)
            self.daysLeft[Self.dayClasses.firstIndex { days <= $0 } ?? Self.dayClasses.count] += 1
        }
    }

    mutating func add(_ other: ConnectionSurvey) {
        self.open += other.open
        self.opening += other.opening
        self.requestsInFlight += other.requestsInFlight
        self.mostOpenings = max(self.mostOpenings, other.mostOpenings)
        self.mostRequestsInFlight = max(self.mostRequestsInFlight, other.mostRequestsInFlight)
        self.mostUnsentBytes = max(self.mostUnsentBytes, other.mostUnsentBytes)
        self.tls.add(other.tls)
        self.subprotocols.add(other.subprotocols)
        self.certificates.merge(other.certificates, uniquingKeysWith: +)
        self.principals.merge(other.principals, uniquingKeysWith: +)
        for index in self.daysLeft.indices { self.daysLeft[index] += other.daysLeft[index] }
    }

    var mostOfOneCertificate: Int { self.certificates.values.max() ?? 0 }
    var mostOfOnePrincipal: Int { self.principals.values.max() ?? 0 }

    var report: NativeConnectionState {
        var state = NativeConnectionState()
        state.open = Int64(self.open)
        state.opening = Int64(self.opening)
        state.requestsInFlight = Int64(self.requestsInFlight)
        state.subprotocols = self.subprotocols.report
        state.certificates = Int64(self.certificates.count)
        let names = Self.dayClasses.map { "up to \($0)" } + ["over \(Self.dayClasses.last ?? 0)"]
        state.daysLeft = zip(names, self.daysLeft).map { NativeCount($0, $1) }
        return state
    }
}
