/// What became of one key.
public struct ReplicaChange: Hashable, Sendable {
    /// What was there; `nil` when the key was absent.
    public let before: Entry?
    /// What is there; `nil` when the key is absent.
    public let after: Entry?

    /// The key.
    public var key: [UInt8] { (self.after ?? self.before)?.key ?? [] }

    /// A change, for tests.
    public init(before: Entry?, after: Entry?) {
        self.before = before
        self.after = after
    }

    /// About what it takes in memory.
    var byteCount: Int {
        [self.before, self.after].reduce(0) { $0 + ($1.map { SortedEntries.byteCount(of: $0) } ?? 0) }
    }
}

/// How far what a ``Replica`` holds may be trusted.
public enum ReplicaStatus: Sendable, Equatable {
    /// Nothing can be read yet.
    case loading
    /// It is as the store was at the replica's revision, and changes arrive as they happen.
    case current
    /// It is whole, and as the store was at the replica's revision; what happened since then is not known.
    case stale(since: ContinuousClock.Instant, because: ClientError)
    /// It is over.
    case failed(ClientError)
}

/// What a ``Replica`` answers while it does not know what happens in the store.
public enum DisconnectedPolicy: Hashable, Sendable {
    /// What it holds, marked with ``Reading/isStale``.
    case staleReads
    /// `stale`.
    case error
}

/// What was read from a local copy.
public struct Reading<Value: Sendable>: Sendable {
    /// What was read.
    public let value: Value
    /// As of this revision.
    public let revision: Revision
    /// What happened behind that revision was not known at that time: the connection is lost, or the copy is loaded again.
    public let isStale: Bool
}

extension Reading: Equatable where Value: Equatable {}

/// How a ``Replica`` is kept.
public struct ReplicaOptions: Hashable, Sendable {
    /// What is answered without a connection.
    public var whenDisconnected = DisconnectedPolicy.staleReads
    /// Bytes of what is held, with what it takes to hold it: above it the replica fails with `limitExceeded`. When it is loaded again, the old
    /// content and the new one count together. Default 256 MiB.
    public var maximumBytes = 256 * 1024 * 1024
    /// Bytes of changes that wait for one reader of ``Replica/changes()``; behind it they are put together. Default 8 MiB.
    public var maximumBufferedBytes = 8 * 1024 * 1024

    /// The defaults.
    public init() {}
}

/// What is told to a reader of ``Replica/changes()``.
public enum ReplicaEvent: Sendable, Equatable {
    /// Everything that one revision changed; or, after a time that was not reported, everything that is different since.
    case changes(Revision, [ReplicaChange])
    /// The reader was too slow to be told of each revision: the next ``changes(_:_:)`` is the difference over several.
    case missed
    /// The replica may be trusted more, or less.
    case status(ReplicaStatus)

    /// What an event takes beside its changes.
    private static let bytesPerEvent = 128

    var byteCount: Int {
        switch self {
        case .changes(_, let changes): changes.reduce(Self.bytesPerEvent) { $0 + $1.byteCount }
        case .missed, .status: Self.bytesPerEvent
        }
    }
}
