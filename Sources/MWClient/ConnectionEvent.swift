/// What happens to the connection of a ``StorageClient``.
public enum ConnectionEvent: Sendable, Equatable {
    /// The server welcomed us (its 101 was read) for the first time.
    case connected(Endpoint)
    /// The connection ended, or an attempt failed; why.
    case disconnected(ClientError)
    /// The n-th wait in a row, this long, then the next attempt.
    case reconnecting(attempt: Int, after: Duration)
    /// The server welcomed us again. What changed meanwhile was not announced on ``StorageClient/reloads``.
    case resumed(Endpoint)
    /// Our identity's files were replaced, and calls go over a new connection that was made with them. Nothing was missed.
    case moved(Endpoint)
    /// No endpoint is worth another attempt; why. The client has ended.
    case gaveUp(ClientError)
}

/// The server asks to load keys again, because another client wrote them.
public struct Reload: Sendable, Equatable {
    /// A key and its new value; `nil` where the value is empty or was removed.
    public struct Change: Sendable, Equatable {
        /// The key.
        public let key: [UInt8]
        /// The new value.
        public let value: [UInt8]?
    }
    /// What the other client wrote, in its order.
    public let changes: [Change]
    /// How many notices were dropped right before this one, because nobody read them in time.
    public let missedBefore: Int
}

/// What a ``StorageClient`` did since it was made.
public struct ClientCounters: Sendable, Equatable {
    /// Calls made.
    public internal(set) var calls = 0
    /// Calls that returned a result.
    public internal(set) var succeeded = 0
    /// Calls that failed, for whatever reason.
    public internal(set) var failed = 0
    /// Calls that failed with ``ClientError/mayHaveTakenEffect``.
    public internal(set) var outcomeUnknown = 0
    /// Requests that were sent again on a new connection.
    public internal(set) var resent = 0
    /// Connections that reached the 101.
    public internal(set) var connections = 0
    /// Attempts that did not.
    public internal(set) var failedAttempts = 0
    /// FORCE_RELOAD notices received.
    public internal(set) var reloads = 0
    /// FORCE_RELOAD notices dropped because nobody read them.
    public internal(set) var reloadsDropped = 0
}
