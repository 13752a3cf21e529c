package import MWWebSocket

/// Why an attempt failed or a connection ended, in the terms that decide whether to try again.
package enum ConnectionFailure: Hashable, Sendable {
    /// Name resolution, TCP, or a cut connection: close code 1006, RFC 6455 §7.1.5.
    case network
    /// A deadline of one step passed.
    case timedOut(Step)
    /// The server did not answer a ping in time.
    case keepAlive
    /// We refuse the server's certificate, or it refuses ours, beyond doubt.
    case certificate
    /// TLS cannot be spoken with this server: no version, suite or group in common, or no TLS at all.
    case tlsParameters
    /// A TLS failure that a rotation in progress, or nothing permanent at all, could explain; `reason` tells two of them apart.
    case authentication(reason: String)
    /// Our identity or trust store could not be loaded.
    case identity(reason: String)
    /// The opening handshake was answered with this status instead of 101.
    case status(Int)
    /// The opening handshake's answer breaks RFC 6455 §4.2.2.
    case openingHandshake
    /// The server sent a close frame with this code, or with none.
    case closed(CloseCode?)
    /// The server broke the protocol, and we closed.
    case violation

    package enum Step: String, Hashable, Sendable {
        case connect, tls, upgrade
    }

    package enum Verdict: Hashable, Sendable {
        /// Worth another attempt.
        case retry
        /// Worth so many more attempts; the same failure once more is final.
        case retryLimited(times: Int)
        /// Not worth another attempt at this endpoint.
        case never
    }

    /// The classification of the reference's "Reconnection" 3.
    package var verdict: Verdict {
        switch self {
        case .network, .timedOut, .keepAlive: .retry
        case .certificate, .tlsParameters, .openingHandshake, .violation: .never
        case .authentication: .retryLimited(times: 1)
        // Files that do not fit together are what a rotation looks like from the middle: with the waits in between, some seconds.
        case .identity: .retryLimited(times: 6)
        case .status(let status): Self.verdict(status: status)
        case .closed(let code): Self.verdict(code: code)
        }
    }

    private static func verdict(status: Int) -> Verdict {
        switch status {
        case 408, 425, 429: .retry  // timeout, too early, too many requests: about now, not about us
        case 500...599: .retry
        default: .never
        }
    }

    private static func verdict(code: CloseCode?) -> Verdict {
        guard let code else { return .retry }
        switch code.rawValue {
        case 1002, 1003, 1007...1010: return .never
        case 3000, 3003: return .never  // IANA registry: unauthorized, forbidden
        default: return .retry
        }
    }
}
