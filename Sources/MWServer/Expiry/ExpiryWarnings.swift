package import MWPKI

/// Something of which the last day is known.
package struct Expiring: Sendable, Hashable {
    package enum Kind: String, Sendable, Hashable {
        case serverCertificate = "server certificate"
        case intermediate = "intermediate of the server certificate"
        case trustAnchor = "trust anchor"
        case revocationList = "revocation list"
        case clientCertificate = "client certificate"

        /// What to do before it is too late.
        var remedy: String {
            switch self {
            case .serverCertificate, .intermediate: "renew it, then reload"
            case .trustAnchor: "add its successor to the trust store, issue certificates from that, then take the old one out"
            case .revocationList: "fetch the authority's next list and reload: when it is over, nobody of that authority is admitted"
            case .clientCertificate: "renew it at the client"
            }
        }
    }

    package let kind: Kind
    /// Tells it from all others: a fingerprint, or the issuer and date of a list.
    package let id: String
    package let name: String
    package let from: Timestamp
    package let until: Timestamp

    package init(_ kind: Kind, id: String, name: String, from: Timestamp, until: Timestamp) {
        self.kind = kind
        self.id = id
        self.name = name
        self.from = from
        self.until = until
    }

    package init(_ kind: Kind, _ certificate: Certificate, name: String? = nil) {
        self.init(
            kind, id: "\(kind.rawValue) \(certificate.sha256)", name: name ?? certificate.subject, from: certificate.notBefore,
            until: certificate.notAfter)
    }

    package init(_ list: CertificateRevocationList) {
        self.init(
            .revocationList, id: "\(list.issuer) \(list.thisUpdate) \(list.nextUpdate)", name: list.issuer, from: list.thisUpdate,
            until: list.nextUpdate)
    }

    /// Seconds before its end at which to warn, the longest first; the last is the end itself.
    ///
    /// A certificate: 30, 7 and 1 days. One of under 90 days is warned of in the same parts of its life, so that one of a week is not called
    /// due on the day it is made. A list: when 80 % and 95 % of its life are over.
    package var thresholds: [Int64] {
        let day: Int64 = 86_400
        let whole = max(0, self.until.seconds(since: self.from))
        if self.kind == .revocationList { return [whole / 5, whole / 20, 0] }
        return [min(30 * day, whole / 3), min(7 * day, whole / 90 * 7), min(day, whole / 90), 0]
    }
}

/// One warning: it is the first of its threshold.
package struct ExpiryWarning: Sendable, Hashable {
    package let subject: Expiring
    /// Until the end; negative after it.
    package let remainingSeconds: Int64
    /// The last threshold before the end, or the end: somebody has to act today.
    package let isUrgent: Bool
}

/// Says once per threshold that something will expire. Takes the time as an argument; whoever calls it, calls it often.
package struct ExpiryWarnings: Sendable {
    /// Thresholds told, by the id of what they are of.
    private var told: [String: Int] = [:]

    package init() {}

    /// What to warn of at `now`. Forgets what is no longer among `all`: a certificate that was replaced and comes back is warned of again.
    package mutating func due(_ all: some Sequence<Expiring>, at now: Timestamp) -> [ExpiryWarning] {
        var next: [String: Int] = [:]
        var warnings: [ExpiryWarning] = []
        for subject in all where next[subject.id] == nil {
            let remaining = subject.until.seconds(since: now)
            let thresholds = subject.thresholds
            let passed = thresholds.count { remaining <= $0 }
            let before = self.told[subject.id] ?? 0
            if passed > before {
                warnings.append(
                    ExpiryWarning(subject: subject, remainingSeconds: remaining, isUrgent: passed >= thresholds.count - 1))
            }
            // A clock that is set back does not bring a warning twice.
            next[subject.id] = max(passed, before)
        }
        self.told = next
        return warnings
    }
}

extension Timestamp {
    /// Stays at the ends of the range.
    fileprivate func seconds(since other: Timestamp) -> Int64 {
        let (difference, overflow) = self.secondsSince1970.subtractingReportingOverflow(other.secondsSince1970)
        return overflow ? (self < other ? .min : .max) : difference
    }
}

extension ExpiryWarning: CustomStringConvertible {
    /// As `server certificate CN=a expires in 6d 23h, at 2026-12-01T00:00:00Z; renew it, then reload`.
    package var description: String {
        let when = self.remainingSeconds > 0 ? "expires in \(Self.span(self.remainingSeconds))" : "has expired"
        return "\(self.subject.kind.rawValue) \(self.subject.name) \(when), at \(self.subject.until); \(self.subject.kind.remedy)"
    }

    /// The two largest units.
    private static func span(_ seconds: Int64) -> String {
        let units = [("d", seconds / 86_400), ("h", seconds / 3_600 % 24), ("m", seconds / 60 % 60), ("s", seconds % 60)]
        let first = units.firstIndex { $0.1 > 0 } ?? units.count - 1
        return units[first..<min(first + 2, units.count)].map { "\($0.1)\($0.0)" }.joined(separator: " ")
    }
}
