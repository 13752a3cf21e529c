/// What to do to a server.
struct LoadPlan: Sendable {
    /// What ends a run.
    enum Extent: Hashable, Sendable {
        /// In all, warm-up not counted.
        case requests(Int)
        /// From the end of the warm-up, in nanoseconds.
        case duration(UInt64)
    }

    var kind: BenchmarkCommand.Kind
    var isNative: Bool
    var connections: Int
    /// Requests in flight on each connection.
    var inFlight: Int
    var extent: Extent
    /// Before what is measured, in nanoseconds.
    var warmUp: UInt64
    /// Requests a second over all connections; nil sends as soon as there is room.
    var rate: Int?
    var keys: LoadKeys
    var valueBytes: Int
    var keysPerRequest: Int
    /// Of mixed requests, those that read: 0 to 1.
    var readShare: Double
    /// Entries that a scan asks for at a time.
    var scanEntries: Int
    /// Event loops, each on a thread of its own.
    var loops: Int
    /// After so long without any answer, in nanoseconds, the run has failed.
    var timeout: UInt64

    /// Bytes of the largest message that either side may send, with some for what is around its values.
    var maximumMessageBytes: Int {
        max(16 << 20, keysPerRequest * (valueBytes + Self.overheadBytes) + Self.overheadBytes, scanEntries * Self.overheadBytes)
    }

    /// Around a value: key, tags, lengths, revision.
    static let overheadBytes = 64

    /// How many of the requests one loop does; nil for as many as there is time for.
    func requests(ofLoop index: Int) -> Int? {
        guard case .requests(let requests) = extent else { return nil }
        return requests / loops + (index < requests % loops ? 1 : 0)
    }
}

extension Duration {
    /// Rounded down; nothing for a negative one.
    var nanoseconds: UInt64 {
        let (seconds, attoseconds) = components
        return UInt64(max(0, seconds)) * 1_000_000_000 + UInt64(max(0, attoseconds)) / 1_000_000_000
    }
}
