import Synchronization

/// A local copy of ranges of the store, which is loaded once and kept current by a watch: reads cost no round trip, and no lock beyond a moment.
///
/// ```swift
/// let replica = try client.replica(of: [.prefix(Array("users/".utf8))])
/// try await replica.waitUntilLoaded()
/// let user = try replica.get(Array("users/ada".utf8))
/// print(user.value?.value ?? [], user.revision, user.isStale)
/// ```
///
/// - Whole revisions: a reader never sees a part of what one transaction did, and a ``snapshot()`` stays as it is.
/// - It may be behind the store by as long as a change takes to arrive; ``waitUntil(_:timeout:)`` waits for what was just written.
/// - A lost connection makes it stale, by choice readable all the same; afterwards it goes on where it was. It notices a connection that is
///   silently dead after `timeouts.pingInterval` and `timeouts.pong`. Where the server cannot tell what was missed, or is another store since a
///   backup was restored, everything is loaded again: what is held stays readable, as stale, until the new state is whole, and what is different
///   then is reported as one change.
/// - A reload notice of an administrator has it load everything again.
///
/// It ends with ``close()``, when it is let go, with the client, or for a reason that ``status`` names: then every read throws it.
public final class Replica: Sendable {
    private let store: ReplicaStore
    private let handle: WatchHandle
    private let core: ClientCore
    private let holder: Mutex<ReloadHolderID?>
    private let ranges: [KeyRange]

    init(of ranges: [KeyRange], options: ReplicaOptions, core: ClientCore) throws {
        guard options.maximumBytes > 0, options.maximumBufferedBytes > 0 else {
            throw ClientError.invalid("options", "hold nothing", remedy: "limits are above zero")
        }
        var watch = WatchOptions()
        watch.onGap = .resync
        let configuration = try WatchStateMachine.Configuration(checking: ranges, from: .state, watch)
        self.ranges = configuration.ranges
        self.core = core
        self.store = ReplicaStore(options)
        self.handle = WatchHandle(configuration, sink: self.store, core: core)
        self.holder = Mutex(nil)
        self.store.attach(self.handle)
        let (store, ranges) = (self.store, configuration.ranges)
        let holder = core.holdReloads { notice, done in
            guard notice.touches(ranges) else { return done() }
            store.reload(reason: "reload notice: \(notice.reason)", done: done)
        }
        self.holder.withLock { $0 = holder }
    }

    deinit { self.close() }

    /// Ends it: reads throw `closed` from then on, and readers of changes come to their end.
    public func close() {
        self.handle.close()
        if let holder = self.holder.withLock({ $0.take() }) { self.core.releaseReloads(holder) }
        self.store.end(because: nil)
    }

    // MARK: What it is

    /// How far it may be trusted.
    public var status: ReplicaStatus { self.store.status }

    /// The revision it stands at: everything up to it, and nothing behind it, is in what is read. `nil` while it is loading.
    public var revision: Revision? { self.store.revision }

    /// Returns once there is something to read.
    ///
    /// - Throws: ``ClientError``: why there never will be, or `cancelled`.
    public func waitUntilLoaded() async throws { try await self.store.waitUntilLoaded() }

    /// Returns once everything up to `revision` is in what is read: with what a write returned, one reads what one wrote.
    ///
    /// The revision may be one of keys that are not in the ranges.
    ///
    /// - Parameter timeout: how long to wait at most.
    /// - Throws: ``ClientError`` with `deadlineExceeded`; `wrongIncarnation` where the revision is one of another store; `cancelled`; or why the
    ///   replica has ended.
    public func waitUntil(_ revision: Revision, timeout: Duration = .seconds(30)) async throws {
        let store = self.store
        try await withThrowingTaskGroup(of: Bool.self) { group in
            group.addTask {
                try await store.wait(for: revision)
                return true
            }
            group.addTask {
                try await Task.sleep(for: timeout)
                return false
            }
            defer { group.cancelAll() }
            guard try await group.next() ?? false else {
                throw ClientError(
                    .deadlineExceeded, subject: "replica", what: "has not reached revision \(revision.number) in time",
                    found: store.revision.map { "\($0.number)" } ?? "nothing loaded", expected: "\(revision.number)")
            }
        }
    }

    // MARK: Reading

    /// What is at `key`; the value is `nil` where that is absent, or not in the ranges.
    ///
    /// - Throws: ``ClientError`` with `stale` while it is loading, or without a connection where ``DisconnectedPolicy/error`` was chosen; why the
    ///   replica has ended.
    public func get(_ key: [UInt8]) throws -> Reading<Entry?> {
        let snapshot = try self.store.snapshot()
        return Reading(value: snapshot[key], revision: snapshot.revision, isStale: snapshot.isStale)
    }

    /// What is in `range`, in the order of keys.
    ///
    /// - Parameters:
    ///   - isBackward: from the last key on.
    ///   - limit: entries at most.
    /// - Throws: as ``get(_:)``.
    public func scan(_ range: KeyRange = .all, isBackward: Bool = false, limit: Int = .max) throws -> Reading<[Entry]> {
        let snapshot = try self.store.snapshot()
        return Reading(
            value: snapshot.scan(range, isBackward: isBackward, limit: limit), revision: snapshot.revision, isStale: snapshot.isStale)
    }

    /// Everything as it is now, for several reads of one revision. It costs nothing to take, and memory for as long as it is kept while the replica
    /// moves on.
    ///
    /// - Throws: as ``get(_:)``.
    public func snapshot() throws -> ReplicaSnapshot { try self.store.snapshot() }

    /// What changes from now on, for one reader. See ``ReplicaChanges``.
    public func changes() -> ReplicaChanges { ReplicaChanges(self.store) }
}

/// A replica at one revision; a value that never changes.
public struct ReplicaSnapshot: Sendable {
    fileprivate let entries: SortedEntries
    /// As of this revision.
    public let revision: Revision
    /// What happened behind that revision was not known when it was taken.
    public let isStale: Bool

    init(entries: SortedEntries, revision: Revision, isStale: Bool) {
        self.entries = entries
        self.revision = revision
        self.isStale = isStale
    }

    /// Entries in it.
    public var count: Int { self.entries.count }

    /// What is at `key`.
    public subscript(key: [UInt8]) -> Entry? { self.entries[key] }

    /// What is in `range`, in the order of keys, from the last one on if `isBackward`; `limit` at most.
    public func scan(_ range: KeyRange = .all, isBackward: Bool = false, limit: Int = .max) -> [Entry] {
        guard limit > 0 else { return [] }
        var found: [Entry] = []
        self.forEach(in: range, isBackward: isBackward) { entry in
            found.append(entry)
            return found.count < limit
        }
        return found
    }

    /// Calls `body` for what is in `range`, in order, until it returns false.
    public func forEach(in range: KeyRange = .all, isBackward: Bool = false, _ body: (Entry) -> Bool) {
        self.entries.forEach(in: range, isBackward: isBackward, body)
    }
}

/// The changes of a ``Replica`` behind ``start``: whole revisions, in order, each once.
///
/// A reader who is slower than the changes is told ``ReplicaEvent/missed`` and then, in one ``ReplicaEvent/changes(_:_:)``, how what is held differs
/// from what it was told of. Applied in order, the changes always make what the replica holds. One task may read, once.
///
/// It ends with the replica, throwing the reason unless that was closed, and when its task is cancelled.
public struct ReplicaChanges: AsyncSequence, Sendable {
    /// An event.
    public typealias Element = ReplicaEvent
    /// `ClientError`.
    public typealias Failure = any Error

    fileprivate final class Feed: Sendable {
        let store: ReplicaStore
        let id: UInt64

        init(_ store: ReplicaStore, _ id: UInt64) {
            self.store = store
            self.id = id
        }

        deinit { self.store.closeFeed(self.id) }
    }

    private let feed: Feed
    /// What was held when the changes were asked for; `nil` while the replica was loading: everything it loads is a change then.
    public let start: ReplicaSnapshot?
    /// How far the replica could be trusted then.
    public let status: ReplicaStatus

    init(_ store: ReplicaStore) {
        let (id, entries, revision, status) = store.openFeed()
        self.feed = Feed(store, id)
        self.start = revision.map { ReplicaSnapshot(entries: entries, revision: $0, isStale: status != .current) }
        self.status = status
    }

    /// The one reader.
    public func makeAsyncIterator() -> Iterator { Iterator(feed: self.feed) }

    /// Reads the events, from one task at a time.
    public struct Iterator: AsyncIteratorProtocol {
        private let feed: Feed
        private var waiting: [ReplicaEvent] = []

        fileprivate init(feed: Feed) { self.feed = feed }

        /// The next event; `nil` at the end.
        ///
        /// - Throws: ``ClientError``: why the replica has ended.
        public mutating func next() async throws -> ReplicaEvent? {
            if self.waiting.isEmpty {
                self.waiting = try await self.feed.store.nextEvents(of: self.feed.id)
                self.waiting.reverse()
            }
            return self.waiting.popLast()
        }
    }
}
