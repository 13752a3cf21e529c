package import MWACME

/// What an operation is doing, told before and after each step: for people who watch, and for tests that end the process there.
package struct Progress: Sendable, Hashable, CustomStringConvertible {
    package enum Step: Sendable, Hashable, CustomStringConvertible {
        /// Is there room for what is about to be earned?
        case proveWritable
        case send(HTTPRequest.Method, url: String)
        case wait(Duration)
        case present(Identifier, ChallengeType)
        case remove(Identifier, ChallengeType)
        case saveAccount
        case saveOrder
        /// The generation with the new certificate.
        case saveCertificate
        case removeOrder

        package var description: String {
            switch self {
            case .proveWritable: "check that the state can be saved"
            case .send(let method, let url): "\(method.rawValue) \(url)"
            case .wait(let duration): "wait \(duration)"
            case .present(let name, let type): "answer \(type.rawValue) for \(name)"
            case .remove(let name, let type): "remove the answer to \(type.rawValue) for \(name)"
            case .saveAccount: "save the account"
            case .saveOrder: "save the order"
            case .saveCertificate: "save the certificate"
            case .removeOrder: "forget the order in flight"
            }
        }
    }

    /// From 1; the same before and after.
    package let number: Int
    package let step: Step
    /// False before the step, true after it.
    package let isDone: Bool
    /// Of an issuance; nil for other operations.
    package let phase: IssuanceStateMachine.Phase?

    package var description: String { "\(step)" }

    package typealias Observer = @Sendable (Progress) -> Void
}
