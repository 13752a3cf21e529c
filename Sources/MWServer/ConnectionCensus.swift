package import MWPKI
internal import Synchronization

/// How many connections are open, in all, for each certificate and for each principal. Shared by all event loops; asked only when a
/// connection opens or ends, or its principal changes.
package final class ConnectionCensus: Sendable {
    private struct Counts {
        var total = 0
        var byCertificate: [CertificateFingerprint: Int] = [:]
        var byPrincipal: [String: Int] = [:]
    }

    package enum Refusal: Sendable, Hashable {
        case total
        case certificate
        case principal
    }

    private let counts = Mutex(Counts())
    /// 0: never.
    private let servedAt = Atomic<UInt64>(0)
    private let maximum: Int
    private let maximumPerCertificate: Int
    private let maximumPerPrincipal: Int

    package init(_ limits: ServerLimits) {
        self.maximum = limits.maximumConnections
        self.maximumPerCertificate = limits.maximumConnectionsPerCertificate
        self.maximumPerPrincipal = limits.maximumConnectionsPerPrincipal
    }

    /// Counts a connection in, unless a limit is reached.
    package func enter(_ certificate: CertificateFingerprint, principal: String) -> Refusal? {
        self.counts.withLock { counts in
            guard counts.total < self.maximum else { return .total }
            guard counts.byCertificate[certificate, default: 0] < self.maximumPerCertificate else { return .certificate }
            guard counts.byPrincipal[principal, default: 0] < self.maximumPerPrincipal else { return .principal }
            counts.total += 1
            counts.byCertificate[certificate, default: 0] += 1
            counts.byPrincipal[principal, default: 0] += 1
            return nil
        }
    }

    /// Counts a connection out that ``enter(_:principal:)`` had counted in.
    package func leave(_ certificate: CertificateFingerprint, principal: String) {
        self.counts.withLock { counts in
            counts.total -= 1
            Self.decrement(&counts.byCertificate, certificate)
            Self.decrement(&counts.byPrincipal, principal)
        }
    }

    /// A connection belongs to another principal now. It is there, so no limit is asked.
    package func move(from principal: String, to other: String) {
        guard principal != other else { return }
        self.counts.withLock { counts in
            Self.decrement(&counts.byPrincipal, principal)
            counts.byPrincipal[other, default: 0] += 1
        }
    }

    private static func decrement<Key: Hashable>(_ counts: inout [Key: Int], _ key: Key) {
        guard let count = counts[key], count > 1 else {
            counts[key] = nil
            return
        }
        counts[key] = count - 1
    }

    // MARK: Who is served

    /// Somebody asked for something, or was told something, shortly before `now`: nanoseconds of the clock of the event loops.
    func served(at now: UInt64) { self.servedAt.store(now, ordering: .relaxed) }

    /// Whether nobody was served for so many nanoseconds. Loops share processors, so it is of all of them.
    func isQuiet(at now: UInt64, for nanoseconds: Int64) -> Bool {
        let servedAt = self.servedAt.load(ordering: .relaxed)
        return servedAt == 0 || now >= servedAt &+ UInt64(clamping: nanoseconds)
    }

    package var total: Int { self.counts.withLock { $0.total } }
}
