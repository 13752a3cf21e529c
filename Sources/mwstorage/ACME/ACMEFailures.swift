import MWACME
import MWHTTPTransfer

extension CommandFailure {
    /// An ACME operation that failed: what the CA said comes whole, with each name it speaks of, in the order it spoke.
    init(_ error: ACMEError) {
        self.init(
            Self.status(error), "\(error.subject): \(error.what)", why: Self.why(error), remedy: Self.remedy(error),
            code: "acme.\(error.code)")
        problem = error.problem
        retryAt = error.retryAt
    }

    /// The transfer itself cannot be used; what happens to a request comes as an `ACMEError`.
    init(_ error: HTTPTransferError) {
        self.init(
            error.code == .configurationInvalid ? .configurationInvalid : .internalError, "\(error.subject): \(error.what)",
            why: error.underlying.isEmpty ? nil : error.underlying.joined(separator: "; "), remedy: error.remedy,
            code: "transfer.\(error.code)")
    }

    private static func status(_ error: ACMEError) -> ExitStatus {
        switch error.code {
        case .planInvalid, .externalAccountRequired, .termsNotAccepted, .profileUnknown, .challengeUnavailable: .configurationInvalid
        case .accountMissing, .accountRefused: .forbidden
        case .transferFailed: .unreachable
        case .tlsFailed: .serverRefused
        case .replyMalformed, .replyTooLarge, .redirectRefused, .certificateRejected: .protocolMismatch
        case .stateUnwritable, .diskFull, .diskReadOnly: .cannotCreateOutput
        case .stateExposed: .configurationInvalid
        case .stateLocked: .outcomeUnknown
        case .stateMalformed: .badInput
        case .ownFailure, .keyUnsupported: .internalError
        case .cancelled: .interrupted
        default: error.disposition == .permanent ? .no : .outcomeUnknown
        }
    }

    private static func why(_ error: ACMEError) -> String? {
        var lines: [String] = []
        if let problem = error.problem { lines.append("the CA says: \(problem)") }
        lines += error.underlying
        return lines.isEmpty ? nil : lines.joined(separator: "; ")
    }

    private static func remedy(_ error: ACMEError) -> String? {
        let later = error.retryAt.map { "not before \($0)" }
        let parts = [error.remedy, later].compactMap { $0 }
        return parts.isEmpty ? nil : parts.joined(separator: "; ")
    }
}

extension ACMEProblem {
    /// As the CA gave it, with each subproblem and the name it is about.
    var document: JSONValue {
        .object([
            ("type", .optional(type)), ("detail", .optional(detail)), ("status", status.map { .integer(Int64($0)) } ?? .null),
            ("identifier", .optional(identifier?.value)), ("instance", .optional(instance)),
            ("subproblems", .array(subproblems.map(\.document))),
        ])
    }
}
