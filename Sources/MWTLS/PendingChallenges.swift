package import MWPKI
internal import Synchronization

/// The tls-alpn-01 challenges that wait for a CA's visit (RFC 8737): what to show to whom. Contexts that follow each other share one, so
/// that a reload forgets none.
///
/// Only handshakes that offer `acme-tls/1` alone look into it: the lock costs others nothing.
package final class PendingChallenges: Sendable {
    private let identities = Mutex<[String: Identity]>([:])

    package init() {}

    /// From now on a validation of `serverName` is shown `identity`, which replaces what it was shown before.
    ///
    /// - Parameter serverName: As it stands in the CA's ClientHello: a DNS name, or an address in its reverse form (RFC 8738 §6).
    /// - Parameter identity: Self-signed, with the critical acmeIdentifier extension (RFC 8737 §3). Only its leaf is sent.
    package func present(serverName: String, identity: Identity) {
        identities.withLock { $0[serverName.lowercased()] = identity }
    }

    /// Nobody is shown anything for `serverName` any more.
    package func remove(serverName: String) {
        identities.withLock { _ = $0.removeValue(forKey: serverName.lowercased()) }
    }

    func identity(for serverName: String) -> Identity? { identities.withLock { $0[serverName] } }
}
