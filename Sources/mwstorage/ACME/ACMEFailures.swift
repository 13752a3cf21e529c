import MWACME

extension CommandFailure {
    /// An ACME operation that failed: what the CA said comes whole, with each name it speaks of, in the order it spoke.
    init(_ error: ACMEError) {
        self.init(
            Self.status(error), "\(error.subject): \(error.what)", why: Self.why(error), remedy: Self.remedy(error),
            code: "acme.\(error.code)")
    }

    private static func status(_ error: ACMEError) -> ExitStatus {
        switch error.code {
        case .planInvalid, .externalAccountRequired, .termsNotAccepted, .profileUnknown, .challengeUnavailable: .configurationInvalid
        case .accountMissing, .accountRefused: .forbidden
        case .transferFailed: .unreachable
        case .tlsFailed: .serverRefused
        case .replyMalformed, .replyTooLarge, .redirectRefused, .certificateRejected: .protocolMismatch
        case .stateUnwritable: .cannotCreateOutput
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
