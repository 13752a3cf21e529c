package import MWPKI
internal import Synchronization

/// How many connections are open, in all and for each certificate. Shared by all event loops; asked only when a connection opens or ends.
package final class ConnectionCensus: Sendable {
    private struct Counts {
        var total = 0
        var byCertificate: [CertificateFingerprint: Int] = [:]
    }

    package enum Refusal: Sendable, Hashable {
        case total
        case certificate
    }

    private let counts = Mutex(Counts())
    private let maximum: Int
    private let maximumPerCertificate: Int

    package init(_ limits: ServerLimits) {
        self.maximum = limits.maximumConnections
        self.maximumPerCertificate = limits.maximumConnectionsPerCertificate
    }

    /// Counts a connection in, unless a limit is reached.
    package func enter(_ certificate: CertificateFingerprint) -> Refusal? {
        self.counts.withLock { counts in
            let same = counts.byCertificate[certificate, default: 0]
            guard counts.total < self.maximum else { return .total }
            guard same < self.maximumPerCertificate else { return .certificate }
            counts.total += 1
            counts.byCertificate[certificate] = same + 1
            return nil
        }
    }

    /// Counts a connection out that ``enter(_:)`` had counted in.
    package func leave(_ certificate: CertificateFingerprint) {
        self.counts.withLock { counts in
            counts.total -= 1
            guard let same = counts.byCertificate[certificate], same > 1 else {
                counts.byCertificate[certificate] = nil
                return
            }
            counts.byCertificate[certificate] = same - 1
        }
    }

    package var total: Int { self.counts.withLock { $0.total } }
}
