import Synchronization

/// A bounded cache of what was read from ranges of the store, which the server keeps from being old: it tells of each change, and what changed is
/// dropped.
///
/// ```swift
/// let cache = try client.nearCache(of: [.prefix(Array("users/".utf8))])
/// let user = try await cache.get(Array("users/ada".utf8))   // from the server
/// let again = try await cache.get(Array("users/ada".utf8))  // from memory
/// ```
///
/// What a read returns, exactly:
///
/// - Never what is older than the newest change of that key that this client has been told of, or has made through this cache: reads of one key
///   never go back.
/// - A read from memory may miss a change whose notice is still on its way: by one way through the network while the connection lives; by
///   `timeouts.pingInterval` and `timeouts.pong` where it died silently. It is not linearizable; `get(_:timeout:)` of ``StorageClient`` is.
/// - Without a connection, and until everything that was missed has been told, nothing is read from memory: every read asks the server, and
///   waits for it. What did not change meanwhile stays.
/// - Keys that are read together are each right for themselves, not all of one revision.
/// - Writes that are made past the cache, of this program's too, are changes like those of others. Write through ``put(_:lease:timeout:)`` and
///   ``remove(_:timeout:)`` to read what was written.
///
/// A reload notice of an administrator has it drop what it holds of the ranges that were named.
public final class NearCache: Sendable {
    private let client: StorageClient
    private let store: NearCacheStore
    private let handle: WatchHandle
    private let holder: ReloadHolderID
    private let ranges: [KeyRange]

    init(of ranges: [KeyRange], options: NearCacheOptions, client: StorageClient) throws {
        guard options.maximumEntries > 0, options.maximumBytes > 0 else {
            throw ClientError.invalid("options", "hold nothing", remedy: "limits are above zero")
        }
        var watch = WatchOptions()
        watch.includesValues = false
        watch.onGap = .restart
        let configuration = try WatchStateMachine.Configuration(checking: ranges, from: .now, watch)
        let store = NearCacheStore(.init(maximumEntries: options.maximumEntries, maximumBytes: options.maximumBytes))
        self.client = client
        self.store = store
        self.ranges = configuration.ranges
        self.handle = WatchHandle(configuration, sink: store, core: client.core)
        self.holder = client.core.holdReloads { notice, done in
            store.withMachine { $0.drop { notice.covers($0) } }
            done()
        }
    }

    deinit { self.close() }

    /// Drops everything, and asks the server for every read from then on.
    public func close() {
        self.handle.close()
        self.client.core.releaseReloads(self.holder)
        self.store.end(because: nil)
    }

    /// What is at `key`; `nil` where that is absent. Keys that are not in the ranges are read from the server each time.
    ///
    /// - Parameter timeout: of the question to the server, if there is one.
    /// - Throws: ``ClientError``, as ``StorageClient/read(_:keysOnly:timeout:)`` does.
    public func get(_ key: [UInt8], timeout: Duration? = nil) async throws -> Entry? { try await self.get([key], timeout: timeout)[0] }

    /// What is at `keys`, in their order; those that are not held are read in one question.
    ///
    /// - Throws: as ``get(_:timeout:)-([UInt8],_)``.
    public func get(_ keys: [[UInt8]], timeout: Duration? = nil) async throws -> [Entry?] {
        var entries: [Entry?] = Array(repeating: nil, count: keys.count)
        /// Where the answer goes, and as which fill.
        var missing: [(index: Int, fill: UInt64?)] = []
        self.store.withMachine { machine in
            for (index, key) in keys.enumerated() {
                guard self.ranges.contains(where: { $0.contains(key) }) else {
                    missing.append((index, nil))
                    continue
                }
                switch machine.lookup(key) {
                case .hit(let entry): entries[index] = entry
                case .miss(let fill): missing.append((index, fill))
                }
            }
        }
        guard !missing.isEmpty else { return entries }
        let asked = missing
        do {
            let result = try await self.client.read(asked.map { keys[$0.index] }, timeout: timeout)
            for ((index, _), entry) in zip(asked, result.entries) { entries[index] = entry }
            self.store.withMachine { machine in
                for ((index, fill), entry) in zip(asked, result.entries) {
                    if let fill { machine.filled(keys[index], entry, at: result.revision, fill: fill) }
                }
            }
            return entries
        } catch {
            self.store.withMachine { machine in
                for (index, fill) in asked where fill != nil { machine.fillFailed(keys[index]) }
            }
            throw error
        }
    }

    /// Stores `pairs` as ``StorageClient/put(_:lease:timeout:)`` does; reads through this cache that begin after it returned see them.
    @discardableResult
    public func put(
        _ pairs: [(key: [UInt8], value: [UInt8])], lease: LeaseID? = nil, timeout: Duration? = nil
    ) async throws -> Revision {
        try await self.writing(pairs.map(\.key)) { try await self.client.put(pairs, lease: lease, timeout: timeout) }
    }

    /// Makes `keys` absent as ``StorageClient/remove(_:timeout:)`` does; reads through this cache that begin after it returned see that.
    @discardableResult
    public func remove(_ keys: [[UInt8]], timeout: Duration? = nil) async throws -> Revision {
        try await self.writing(keys) { try await self.client.remove(keys, timeout: timeout) }
    }

    /// Drops what is held of `range`: the next reads ask the server.
    public func invalidate(_ range: KeyRange = .all) { self.store.withMachine { $0.drop { range.contains($0) } } }

    /// What it did so far.
    public var counters: NearCacheCounters { self.store.withMachine { $0.counters } }

    /// Entries that it holds, absent keys among them.
    public var count: Int { self.store.withMachine { $0.count } }

    /// Whether reads may come from memory: there is a connection, and everything that was missed has been told.
    public var isOpen: Bool { self.store.withMachine { $0.isOpen } }

    private func writing(_ keys: [[UInt8]], _ write: () async throws -> Revision) async throws -> Revision {
        self.store.withMachine { $0.writeBegan(keys) }
        defer { self.store.withMachine { $0.writeEnded(keys) } }
        return try await write()
    }
}

/// How a ``NearCache`` is bounded.
public struct NearCacheOptions: Hashable, Sendable {
    /// Entries at most; what was not read for longest makes room, about. Default 65,536.
    public var maximumEntries = 65_536
    /// Bytes of what is held, with what it takes to hold it. A larger entry is not held. Default 64 MiB.
    public var maximumBytes = 64 * 1024 * 1024

    /// The defaults.
    public init() {}
}

/// What a near cache, its readers and its watch share.
final class NearCacheStore: WatchSink {
    private let machine: Mutex<NearCacheStateMachine>

    init(_ limits: NearCacheStateMachine.Limits) { self.machine = Mutex(NearCacheStateMachine(limits)) }

    func withMachine<Result>(_ body: (inout NearCacheStateMachine) -> Result) -> Result { self.machine.withLock { body(&$0) } }

    func take(_ events: [WatchEvent]) -> Int {
        self.machine.withLock { machine in
            for event in events { machine.received(event) }
        }
        return 0
    }

    func pause() -> Bool { false }

    func end(because error: ClientError?) { self.machine.withLock { $0.ended() } }
}
