import MWACME
import MWClient
import MWHTTPTransfer
import MWKeystore
import MWPKI
import MWProtocol
import MWServer
import MWStorage
import MWTLS
import MWWebSocket

extension CommandFailure {
    /// Any error a command throws, as exit code and message. An error that is not known here is an internal one.
    init(_ error: any Error) {
        switch error {
        case let failure as CommandFailure: self = failure
        case let error as PKIError: self.init(error)
        case let error as ClientError: self.init(error)
        case let error as ServerError: self.init(error)
        case let error as AccessPolicyError: self.init(error)
        case let error as KeystoreError: self.init(error)
        case let error as TLSError: self.init(error)
        case let error as ACMEError: self.init(error)
        case let error as HTTPTransferError: self.init(error)
        case let error as StorageError: self.init(error)
        case let error as ProtocolError: self.init(error)
        case let error as WebSocketError: self.init(error)
        case is CancellationError: self.init(.interrupted, "interrupted", code: "cancelled")
        default:
            self.init(
                .internalError, "something unexpected happened", why: "\(error)", remedy: "please report it with this message",
                code: "internal")
        }
    }

    /// The same failure where the file came from the configuration: 78 in place of 65.
    var ofConfiguration: CommandFailure {
        var failure = self
        if status == .badInput { failure.status = .configurationInvalid }
        return failure
    }

    /// Runs `body`; what it finds wrong in files is a fault of the configuration.
    static func configuration<Value>(_ body: () throws -> Value) throws -> Value {
        do { return try body() } catch { throw CommandFailure(error).ofConfiguration }
    }

    /// `seen: …; expected: …` and the reasons below, as far as they are known.
    private static func why(seen: String?, expected: String?, reasons: [String] = []) -> String? {
        var parts: [String] = []
        if let seen { parts.append("seen: \(seen)") }
        if let expected { parts.append("expected: \(expected)") }
        parts += reasons
        return parts.isEmpty ? nil : parts.joined(separator: "; ")
    }

    private init(_ error: PKIError) {
        let status: ExitStatus =
            switch error.code {
            case .fileUnreadable: LocalFile.exists(error.subject) ? .inputOutput : .inputMissing
            case .fileUnwritable: .cannotCreateOutput
            case .filePermissions: .configurationInvalid
            default: .badInput
            }
        self.init(
            status, "\(error.subject): \(error.what)",
            why: Self.why(seen: error.found, expected: error.expected, reasons: error.underlying),
            remedy: error.remedy, code: "pki.\(error.code)")
    }

    private init(_ error: ClientError) {
        let status: ExitStatus =
            switch error.code {
            case .notSent, .unreachable, .closed: .unreachable
            case .refused: Self.status(error.underlying as? NativeFailure)
            case .outcomeUnknown, .connectionLost, .queueFull: .outcomeUnknown
            case .unauthenticated: .certificateRefused
            case .forbidden: .forbidden
            case .serverNotTrusted: .serverRefused
            case .identityUnusable: .configurationInvalid
            case .protocolMismatch: .protocolMismatch
            case .deadlineExceeded: error.mayHaveTakenEffect ? .outcomeUnknown : .unreachable
            case .cancelled: error.mayHaveTakenEffect ? .outcomeUnknown : .interrupted
            case .invalidArgument: .badInput
            case .unsupported: .usage
            case .compacted, .wrongIncarnation, .watchOverflowed: .compacted
            case .snapshotLost, .leaseLost, .stale: .outcomeUnknown
            default: .internalError
            }
        self.init(
            status, "\(error.subject): \(error.what)",
            why: Self.why(seen: error.found, expected: error.expected, reasons: Self.reasons(error.underlying)),
            remedy: error.remedy, code: "client.\(error.code)")
    }

    /// What the server could not do: most of it later perhaps, some of it only once something is mended.
    private static func status(_ failure: NativeFailure?) -> ExitStatus {
        switch failure?.code {
        case .reloadFailed, .notConfigured: .configurationInvalid
        case .answerTooBig: .badInput
        default: .outcomeUnknown
        }
    }

    /// What the layer below adds to what the client has said already.
    private static func reasons(_ underlying: (any Error)?) -> [String] {
        switch underlying {
        case let error as TLSError: error.certificate.map { ["\($0)"] } ?? []
        case nil, is ProtocolError, is WebSocketError, is NativeFailure: []
        case let error?: ["\(error)"]
        }
    }

    /// A store or a certificate that cannot be used says more than the server that cannot start because of it.
    private init(_ error: ServerError) {
        if let underlying = error.underlying {
            let inner = CommandFailure(underlying)
            if inner.status != .internalError {
                self = error.code == .materialRejected ? inner.ofConfiguration : inner
                return
            }
        }
        let status: ExitStatus =
            switch error.code {
            case .addressUnavailable: .unreachable
            case .auditUnavailable: .cannotCreateOutput
            case .wrongState: .internalError
            case .storageUnavailable: .inputOutput
            default: .configurationInvalid
            }
        self.init(
            status, "\(error.subject): \(error.what)", why: error.underlying.map { "\($0)" }, remedy: error.remedy,
            code: "server.\(error.code)")
    }

    private init(_ error: AccessPolicyError) {
        let fault = error.faults.first
        let more = error.faults.count > 1 ? "; and \(error.faults.count - 1) more: mwstorage policy check \(error.source)" : ""
        self.init(
            .configurationInvalid, "the access policy \(error.source) cannot be used",
            why: fault.map { fault in
                (fault.line.map { "line \($0), column \(fault.column ?? 1): " } ?? "") + fault.what + more
            }, remedy: fault?.remedy, code: "policy.invalid")
    }

    private init(_ error: KeystoreError) {
        let status: ExitStatus =
            switch error.code {
            case .invalidRequest: .usage
            case .cryptographyFailed, .legacyProviderMissing: .internalError
            default: .badInput
            }
        self.init(
            status, error.subject.isEmpty ? error.what : "\(error.subject): \(error.what)",
            why: Self.why(seen: error.found, expected: error.expected, reasons: error.underlying.map { ["\($0)"] } ?? []),
            remedy: error.remedy, code: "\(error.code)")
    }

    private init(_ error: TLSError) {
        var reasons = error.certificate.map { ["\($0)"] } ?? []
        if error.certificate == nil { reasons += error.underlying }
        self.init(
            Self.status(error), "\(error.subject): \(error.what)",
            why: Self.why(seen: error.found, expected: error.expected, reasons: reasons),
            remedy: error.remedy, code: "tls.\(error.code)")
    }

    private static func status(_ error: TLSError) -> ExitStatus {
        switch error.code {
        case .materialRejected, .policyRejected: .configurationInvalid
        case .alertReceived:
            switch error.alert {
            case .protocolVersion, .handshakeFailure, .insufficientSecurity: .protocolMismatch
            case let alert?: alert.isPermanent ? .certificateRefused : .unreachable
            case nil: .unreachable
            }
        case .plaintextReceived, .versionRejected, .parametersNotShared: .protocolMismatch
        // The rest of what cannot pass with time is about the server's certificate.
        default: error.isPermanent ? .serverRefused : .unreachable
        }
    }

    private init(_ error: StorageError) {
        let status: ExitStatus =
            switch error.code {
            case .locked, .overloaded, .snapshotLost, .prefixesExhausted, .closed: .outcomeUnknown
            case .permissionDenied, .diskFull, .readOnly, .alreadyExists: .cannotCreateOutput
            case .ioError: .inputOutput
            case .formatTooNew: .protocolMismatch
            case .engineMismatch: .configurationInvalid
            default: .badInput
            }
        self.init(
            status, "\(error.subject): \(error.found)",
            why: Self.why(seen: nil, expected: error.expected, reasons: error.underlying.map { [$0] } ?? []),
            remedy: error.remedy, code: "storage.\(error.code)")
    }

    private init(_ error: ProtocolError) {
        let isOurs = error.code == .separatorInKey || error.code == .separatorInValue
        self.init(
            isOurs ? .badInput : .protocolMismatch, "\(error.subject): \(error.code)",
            why: Self.why(seen: error.found, expected: error.expected),
            remedy: error.remedy, code: "protocol.\(error.code)")
    }

    private init(_ error: WebSocketError) {
        let status: ExitStatus =
            switch (error.code, error.isPermanent) {
            case (.openingRefused, false): .unreachable
            case (.closingTimedOut, _), (.pongMissed, _): .outcomeUnknown
            default: .protocolMismatch
            }
        self.init(
            status, "\(error.subject): \(error.what)", why: Self.why(seen: error.found, expected: error.expected), remedy: error.remedy,
            code: "webSocket.\(error.code)")
    }
}
