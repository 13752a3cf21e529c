package import MWPKI

/// The limits and versions of a `TLSContext`. The rest of the policy (cipher suites, groups, signature algorithms, no resumption, no
/// renegotiation, client certificates always required) is fixed: see `ContextPolicy`.
package struct TLSPolicy: Sendable {
    /// A protocol version that MWStorage speaks. Older ones have no value here, so they cannot be asked for.
    package enum Version: String, Sendable, Hashable, Comparable, CaseIterable, CustomStringConvertible {
        case tls12 = "TLSv1.2"
        case tls13 = "TLSv1.3"

        package var description: String { rawValue }
        package static func < (left: Version, right: Version) -> Bool { left == .tls12 && right == .tls13 }
    }

    /// The oldest version accepted. Default TLS 1.2: the original clients' platforms speak it.
    package var minimumVersion: Version
    /// The newest version offered.
    package var maximumVersion: Version
    /// How many certificates may lie between a leaf and its trust anchor. Default 3: root, policy and issuing CA, and one spare.
    package var verificationDepth: Int
    /// The longest Certificate message of a peer, in bytes. Default 16 KiB: ten times an ordinary chain; bounds memory before authentication.
    package var maximumPeerChainBytes: Int
    /// From the connection's start to the end of the handshake, an absolute deadline. Default 10 s: a handshake is 2 round trips and 2 ms of CPU.
    package var handshakeTimeout: Duration
    /// How long a closing connection waits for the peer to read the last record (an alert, a close_notify) and close too. Default 1 s.
    package var lingerTimeout: Duration
    /// How much plaintext may be written before the handshake is over. Default 256 KiB.
    package var maximumEarlyPlaintextBytes: Int
    /// How many KeyUpdate messages a peer may send per MiB of data, and how many ahead. Default 32: honest peers send one in many GiB,
    /// each costs us a key derivation and an answer.
    package var maximumKeyUpdatesPerMebibyte: Int
    /// For tests only: the moment at which certificates are judged instead of now.
    package var verificationTime: Timestamp?

    package init(
        minimumVersion: Version = .tls12,
        maximumVersion: Version = .tls13,
        verificationDepth: Int = 3,
        maximumPeerChainBytes: Int = 16 * 1024,
        handshakeTimeout: Duration = .seconds(10),
        lingerTimeout: Duration = .seconds(1),
        maximumEarlyPlaintextBytes: Int = 256 * 1024,
        maximumKeyUpdatesPerMebibyte: Int = 32,
        verificationTime: Timestamp? = nil
    ) {
        self.minimumVersion = minimumVersion
        self.maximumVersion = maximumVersion
        self.verificationDepth = verificationDepth
        self.maximumPeerChainBytes = maximumPeerChainBytes
        self.handshakeTimeout = handshakeTimeout
        self.lingerTimeout = lingerTimeout
        self.maximumEarlyPlaintextBytes = maximumEarlyPlaintextBytes
        self.maximumKeyUpdatesPerMebibyte = maximumKeyUpdatesPerMebibyte
        self.verificationTime = verificationTime
    }
}
