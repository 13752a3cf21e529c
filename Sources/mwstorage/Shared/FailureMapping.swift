import ArgumentParser
import MWClient
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
        case is CancellationError: self.init(.interrupted, "interrupted", code: "cancelled")
        default:
            self.init(
                .internalError, "something unexpected happened", why: "\(error)", remedy: "please report it with this message",
                code: "internal")
        }
    }
}
