/// Why a call, or the whole client, failed.
///
/// Equality compares the code only: the rest explains. ``mayHaveTakenEffect`` answers the one question that a caller must not get wrong:
/// whether the server can have done what was asked.
public struct ClientError: Error, Sendable, CustomStringConvertible {
    /// What kind of failure it is; the set may grow.
    public struct Code: Hashable, Sendable, CustomStringConvertible {
        /// The name as it is printed.
        public let description: String

        private init(_ name: String) { self.description = name }

        /// The request never left: nothing happened. Exit code 69.
        public static let notSent = Code("notSent")
        /// The request left, its answer did not come, and asking again could do it twice. Exit code 75.
        public static let outcomeUnknown = Code("outcomeUnknown")
        /// A read (or a prefix request) left, its answer did not come, and the retry budget is used up. Asking again is safe. Exit code 75.
        public static let connectionLost = Code("connectionLost")
        /// The server answered that it could not do it. Exit code 75.
        public static let refused = Code("refused")
        /// The queue of requests that wait for a connection is full; nothing was sent. Exit code 75.
        public static let queueFull = Code("queueFull")
        /// No endpoint could be reached: name, network, or a server that is not there. Exit code 69.
        public static let unreachable = Code("unreachable")
        /// The server refused our certificate; ``ClientError/alert`` names the alert. Exit code 80.
        public static let unauthenticated = Code("unauthenticated")
        /// The server knows us, and its policy says no (HTTP 401 or 403, close code 1008). Exit code 77.
        public static let forbidden = Code("forbidden")
        /// We refuse the server: its chain, its dates or its name. Exit code 81.
        public static let serverNotTrusted = Code("serverNotTrusted")
        /// Our own certificate, key or trust store cannot be loaded. Exit code 78.
        public static let identityUnusable = Code("identityUnusable")
        /// The other side does not speak what we speak. Exit code 76.
        public static let protocolMismatch = Code("protocolMismatch")
        /// The call's deadline passed. Exit code 75 if it may have taken effect, else 69.
        public static let deadlineExceeded = Code("deadlineExceeded")
        /// The calling task was cancelled. Exit code 75 if it may have taken effect, else 130.
        public static let cancelled = Code("cancelled")
        /// The client was closed, or is not running. Exit code 69.
        public static let closed = Code("closed")
        /// The server gave up on a watch that was not read as fast as things changed. Exit code 82.
        public static let watchOverflowed = Code("watchOverflowed")
        /// A local copy is not, or not any more, known to be as the store is. Exit code 75.
        public static let stale = Code("stale")
        /// A limit of this program's own would be broken; the error names it. Exit code 70.
        public static let limitExceeded = Code("limitExceeded")
        /// The call's or the configuration's arguments cannot be served; nothing was sent. Exit code 64 or 65.
        public static let invalidArgument = Code("invalidArgument")
        /// The subprotocol that the client is configured to speak has no such call; nothing was sent. Exit code 64.
        public static let unsupported = Code("unsupported")
        /// The history from there on has been forgotten: read afresh. Exit code 82.
        public static let compacted = Code("compacted")
        /// The revision is one of another store, or of this one before it was restored: read afresh. Exit code 82.
        public static let wrongIncarnation = Code("wrongIncarnation")
        /// The snapshot that was read from is gone, and the store has changed since: begin again. Exit code 75.
        public static let snapshotLost = Code("snapshotLost")
        /// The lease has ended, and the keys bound to it are gone. Exit code 75.
        public static let leaseLost = Code("leaseLost")
    }

    /// What kind of failure it is.
    public var code: Code
    /// The thing it happened to: an endpoint, a key, an option.
    public var subject: String
    /// What happened.
    public var what: String
    /// What was found, where that helps.
    public var found: String?
    /// What was expected, where that helps.
    public var expected: String?
    /// What to do now.
    public var remedy: String?
    /// The name of the TLS alert that the server sent, as in RFC 8446 §6: `certificate_expired`.
    public var alert: String?
    /// Whether the server may have done what was asked, although it did not say so.
    public var mayHaveTakenEffect: Bool
    /// The cause one layer below.
    public var underlying: (any Error)?

    package init(
        _ code: Code, subject: String, what: String, found: String? = nil, expected: String? = nil, remedy: String? = nil,
        alert: String? = nil, mayHaveTakenEffect: Bool = false, underlying: (any Error)? = nil
    ) {
        self.code = code
        self.subject = subject
        self.what = what
        self.found = found
        self.expected = expected
        self.remedy = remedy
        self.alert = alert
        self.mayHaveTakenEffect = mayHaveTakenEffect
        self.underlying = underlying
    }

    /// `code: subject: what happened; what to do`.
    public var description: String {
        var text = "\(self.code): \(self.subject): \(self.what)"
        if let expected = self.expected { text += ", expected \(expected)" }
        if let found = self.found { text += ", found \(found)" }
        if let remedy = self.remedy { text += "; \(remedy)" }
        return text
    }
}

extension ClientError: Equatable {
    /// Compares the codes only.
    public static func == (lhs: ClientError, rhs: ClientError) -> Bool { lhs.code == rhs.code }
}

extension ClientError {
    static func invalid(_ subject: String, _ what: String, remedy: String? = nil) -> ClientError {
        ClientError(.invalidArgument, subject: subject, what: what, remedy: remedy)
    }

    static func unsupported(_ what: String) -> ClientError {
        ClientError(
            .unsupported, subject: what, what: "is not in mwDB's protocol",
            remedy: "configure the native protocol: `subprotocol = .native`")
    }
}
