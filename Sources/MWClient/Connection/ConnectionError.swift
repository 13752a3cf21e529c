import MWPKI
import MWTLS
import MWWebSocket
import NIOCore
import NIOPosix

#if canImport(Glibc)
    import Glibc
#elseif canImport(Darwin)
    import Darwin
#endif

/// A failed attempt or an ended connection: for the machine that decides what to do, and for the user.
struct ConnectionError: Error {
    let kind: ConnectionFailure
    let error: ClientError
    var retryAfter: Duration?

    init(_ kind: ConnectionFailure, _ error: ClientError, retryAfter: Duration? = nil) {
        self.kind = kind
        self.error = error
        self.retryAfter = retryAfter
    }

    /// The connection ended without a word: close code 1006, RFC 6455 §7.1.5.
    static let cut = ConnectionError(
        .network, ClientError(.unreachable, subject: "server", what: "cut the connection", remedy: "see the server's log"))

    /// As many requests as fit in flight were not answered before their deadlines.
    static let unresponsive = ConnectionError(
        .network, ClientError(.unreachable, subject: "server", what: "answers no request in time", remedy: "see the server's log and load"))

    static func timedOut(_ step: ConnectionFailure.Step, after timeout: Duration, _ subject: String) -> ConnectionError {
        let what =
            switch step {
            case .connect: "did not answer on TCP within \(timeout)"
            case .tls: "did not finish the TLS handshake within \(timeout)"
            case .upgrade: "did not answer the opening handshake within \(timeout)"
            }
        return ConnectionError(
            .timedOut(step), ClientError(.unreachable, subject: subject, what: what, remedy: "check address, port and network"))
    }

    /// The server's close frame.
    init(closedBy code: CloseCode?, _ reason: String) {
        let said = "close code \(code.map { "\($0.rawValue)" } ?? "none")\(reason.isEmpty ? "" : ", \(reason)")"
        let kind = ConnectionFailure.closed(code)
        let errorCode: ClientError.Code =
            switch code?.rawValue {
            case 1008, 3000, 3003: .forbidden
            case 1002, 1003, 1007, 1009, 1010: .protocolMismatch
            default: .unreachable
            }
        let remedy = errorCode == .forbidden ? "ask the server's operator for the right; its access policy says who has which" : nil
        self.init(kind, ClientError(errorCode, subject: "server", what: "closed the connection", found: said, remedy: remedy))
    }

    /// Whatever the channel reported.
    ///
    /// - Parameter subject: the endpoint.
    init(_ error: any Error, subject: String = "server") {
        switch error {
        case let error as ConnectionError: self = error
        case let error as TLSError: self.init(tls: error, subject)
        case let error as WebSocketError: self.init(opening: error, subject)
        case let error as PKIError:
            self.init(
                .identity(reason: "\(error.code)"),
                ClientError(
                    .identityUnusable, subject: error.subject, what: error.what, found: error.found, expected: error.expected,
                    remedy: error.remedy, underlying: error))
        default:
            self.init(
                .network,
                ClientError(
                    .unreachable, subject: subject, what: "cannot be reached", found: Self.text(of: error),
                    remedy: "check that the server runs, and its address, port and network"))
        }
    }

    /// Our material could not be loaded, or no context be made of it.
    init(loading error: any Error) {
        switch error {
        case is PKIError, is TLSError: self.init(error)
        default:
            self.init(
                .identity(reason: "\(error)"),
                ClientError(.identityUnusable, subject: "identity", what: "cannot be loaded", found: "\(error)", underlying: error))
        }
    }

    private init(opening error: WebSocketError, _ subject: String) {
        let status = error.httpStatus
        let code: ClientError.Code =
            switch status {
            case 401: .unauthenticated
            case 403: .forbidden
            case 408, 425, 429: .unreachable
            case .some(500...599): .unreachable
            default: .protocolMismatch
            }
        self.init(
            status.map { .status($0) } ?? .openingHandshake,
            ClientError(
                code, subject: subject, what: error.what, found: error.found, expected: error.expected, remedy: error.remedy,
                underlying: error),
            retryAfter: error.retryAfter)
    }

    /// NIO's errors in the system's own words.
    static func text(of error: any Error) -> String {
        switch error {
        case let error as NIOConnectionError:
            var reasons = error.connectionErrors.map { "\(Self.address($0.target)): \(Self.text(of: $0.error))" }
            if reasons.isEmpty { reasons = [error.dnsAError, error.dnsAAAAError].compactMap { $0 }.map { Self.text(of: $0) } }
            return reasons.joined(separator: "; ")
        case let error as IOError:
            guard let text = unsafe strerror(error.errnoCode) else { return "error \(error.errnoCode)" }
            return unsafe String(cString: text)
        case let error as SocketAddressError.UnknownHost:
            return "the name \(error.host) is not known"
        default:
            return "\(error)"
        }
    }

    private static func address(_ address: SocketAddress) -> String { "\(address.ipAddress ?? "?") port \(address.port ?? 0)" }
}

// MARK: - TLS

extension ConnectionError {
    private init(tls error: TLSError, _ subject: String) {
        let (kind, code) = Self.classify(error)
        self.init(
            kind,
            ClientError(
                code, subject: subject, what: code == .unauthenticated ? "refused our certificate" : "\(error.subject) \(error.what)",
                found: error.alert.map { error.code == .alertReceived ? "alert \($0)" : nil } ?? error.found, expected: error.expected,
                remedy: error.remedy, alert: error.code == .alertReceived ? error.alert?.name : nil, underlying: error))
    }

    private static func classify(_ error: TLSError) -> (ConnectionFailure, ClientError.Code) {
        switch error.code {
        case .alertReceived: self.classify(error.alert)
        case .materialRejected, .policyRejected: (.identity(reason: "\(error.code)"), .identityUnusable)
        case .plaintextReceived, .versionRejected, .parametersNotShared: (.tlsParameters, .protocolMismatch)
        case .handshakeTimedOut: (.timedOut(.tls), .unreachable)
        case .handshakeFailed: (.authentication(reason: "\(error.code)"), .protocolMismatch)
        default: error.isPermanent ? (.certificate, .serverNotTrusted) : (.network, .unreachable)
        }
    }

    private static func classify(_ alert: TLSAlert?) -> (ConnectionFailure, ClientError.Code) {
        switch alert {
        case .badCertificate?, .unsupportedCertificate?, .certificateRevoked?, .certificateExpired?, .certificateUnknown?, .unknownCA?,
            .accessDenied?, .certificateRequired?:
            (.certificate, .unauthenticated)
        // In TLS 1.2 also what a server says to a client without a certificate (RFC 5246 §7.4.6), and a mismatched pair in rotation.
        case .handshakeFailure?, .decryptError?:
            (.authentication(reason: alert?.name ?? ""), .unauthenticated)
        case let alert?:
            alert.isPermanent ? (.tlsParameters, .protocolMismatch) : (.network, .unreachable)
        case nil: (.network, .unreachable)
        }
    }
}
