import MWPKI
import MWProtocol
import NIOCore

/// One open connection. It is of use once its server has said which store it serves.
final class Link {
    /// Unique in a client.
    let number: UInt64
    let session: SessionHandler
    let endpoint: Endpoint
    /// Its place in the configuration.
    let endpointIndex: Int
    /// What our identity was read from.
    let files: FileSnapshot?
    /// Nil until the server has said it.
    var welcome: Welcome?
    /// Until when it must have.
    var greetingTimer: Scheduled<Void>?
    /// Its server has said that it ends by then.
    var drainsBy: NIODeadline?

    init(number: UInt64, session: SessionHandler, endpoint: Endpoint, endpointIndex: Int, files: FileSnapshot?) {
        self.number = number
        self.session = session
        self.endpoint = endpoint
        self.endpointIndex = endpointIndex
        self.files = files
    }

    /// Calls can be sent.
    var isReady: Bool { self.welcome != nil }

    /// What the server says of itself; mwDB's protocol has no way to.
    struct Welcome {
        var incarnation = Incarnation.unknown
        var maximumInFlight: Int?
        var maximumMessageBytes: Int?

        init() {}

        init(_ welcome: NativeWelcome) {
            self.incarnation = Incarnation(welcome.incarnation) ?? .unknown
            if welcome.maximumRequestsInFlight > 0 { self.maximumInFlight = Int(clamping: welcome.maximumRequestsInFlight) }
            if welcome.maximumMessageBytes > 0 { self.maximumMessageBytes = Int(clamping: welcome.maximumMessageBytes) }
        }
    }

    // Ids of requests that are not calls, which have none below 0.

    /// The first request of a connection.
    static let helloID = RequestID(-1)
    /// Whatever is asked and whose answer nobody heeds.
    static let unheededID = RequestID(-2)
    /// The session of the writes is opened or kept alive: one question at a time.
    static let sessionID = RequestID(-3)
}

extension NativeHello {
    /// What this client says.
    static let ours: NativeHello = {
        var hello = NativeHello()
        hello.name = "mwstorage \(softwareVersion)"
        return hello
    }()
}
