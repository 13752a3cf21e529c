import MWPKI
import MWProtocol
import NIOCore

/// One open connection. It is of use once its server has said which store it serves.
final class Link {
    /// Unique in a client.
    let number: UInt64
    let session: SessionHandler
    let endpoint: Endpoint
    /// What our identity was read from.
    let files: FileSnapshot?
    /// Nil until the server has said it.
    var incarnation: Incarnation?
    /// Until when it must have.
    var greetingTimer: Scheduled<Void>?

    init(number: UInt64, session: SessionHandler, endpoint: Endpoint, files: FileSnapshot?) {
        self.number = number
        self.session = session
        self.endpoint = endpoint
        self.files = files
    }

    /// Calls can be sent.
    var isReady: Bool { self.incarnation != nil }

    /// The id of the first request of a connection; calls have none below 0.
    static let helloID = RequestID(-1)
}

extension NativeHello {
    /// What this client says.
    static let ours: NativeHello = {
        var hello = NativeHello()
        hello.name = "mwstorage \(softwareVersion)"
        return hello
    }()
}
