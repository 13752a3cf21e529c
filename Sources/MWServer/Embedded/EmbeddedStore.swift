public import MWStorage

/// The store of a running server, for the program that it is part of: what that program puts its clients see at once, and what they put the
/// program sees at once, before they are told of it.
///
///     let store = server.store
///     let revision = try await store?.put([(key: key, value: value)])
///     for try await changes in store.changes(in: [.init(prefix: prefix)]) { … }
///
/// There are no rights here: the program is the server. Every call throws `StorageError`, `closed` once the server has stopped.
public struct EmbeddedStore: Sendable {
    let storage: Storage

    init(_ storage: Storage) { self.storage = storage }

    /// A point in a store's life. Two can be compared within one incarnation only.
    public struct Revision: Hashable, Sendable, CustomStringConvertible {
        /// Which store, as 32 hexadecimal digits; another one after a restore.
        public let incarnation: String
        /// How many changes there had been.
        public let number: UInt64

        /// One that was kept.
        public init(incarnation: String, number: UInt64) {
            self.incarnation = incarnation
            self.number = number
        }

        /// `number@incarnation`.
        public var description: String { "\(self.number)@\(self.incarnation)" }
    }

    /// What is stored under a key.
    public struct Entry: Hashable, Sendable {
        /// Any bytes.
        public let key: [UInt8]
        /// Any bytes; empty where values were not asked for.
        public let value: [UInt8]
        /// That of its last change.
        public let revision: Revision
    }

    /// Keys from ``lower`` up to, and without, ``upper``, in byte order.
    public struct Range: Hashable, Sendable {
        /// The first key.
        public let lower: [UInt8]
        /// The key behind the last; `nil` is no bound.
        public let upper: [UInt8]?

        /// A range.
        public init(from lower: [UInt8] = [], to upper: [UInt8]? = nil) {
            self.lower = lower
            self.upper = upper
        }

        /// Every key that begins with `prefix`.
        public init(prefix: [UInt8]) {
            let range = KeyRange(prefix: prefix)
            self.init(from: range.lower, to: range.upper)
        }

        var stored: KeyRange { KeyRange(lower: self.lower, upper: self.upper) }
    }

    /// A part of a range.
    public struct Page: Sendable, Hashable {
        /// In the order of the scan.
        public let entries: [Entry]
        /// There is more, behind the last of these.
        public let hasMore: Bool
        /// Of which all of it is.
        public let revision: Revision
    }

    /// A condition of a transaction. An absent key has revision 0.
    public enum Condition: Hashable, Sendable {
        /// There is something.
        case exists([UInt8])
        /// There is nothing.
        case isAbsent([UInt8])
        /// It was changed last at this revision of the store.
        case isAtRevision([UInt8], UInt64)
        /// The value is this one.
        case hasValue([UInt8], [UInt8])
    }

    /// A step of a transaction; it sees what those before it did.
    public enum Operation: Hashable, Sendable {
        /// Reads a key.
        case get([UInt8])
        /// Stores a value.
        case put([UInt8], [UInt8])
        /// Makes a key absent.
        case remove([UInt8])
    }

    /// What a transaction did.
    public struct Outcome: Hashable, Sendable {
        /// The conditions held.
        public let hasSucceeded: Bool
        /// One for each operation that was done: what was at its key before it; `nil`: nothing.
        public let entries: [Entry?]
        /// The revision that it made; where it changed nothing, the store's.
        public let revision: Revision
    }

    // MARK: Reads

    /// The store's, now.
    public var revision: Revision { self.revision(self.storage.revision) }

    /// What is stored under `key`; `nil`: nothing.
    public func get(_ key: [UInt8]) throws(StorageError) -> Entry? { try self.get([key])[0] }

    /// What is stored under each of `keys`, all at one moment.
    public func get(_ keys: [[UInt8]]) throws(StorageError) -> [Entry?] {
        try self.storage.entries(keys).entries.map { self.entry($0) }
    }

    /// The first entries of `range`, or the last, with the greatest key first.
    ///
    /// - Parameters:
    ///   - limit: Entries at most.
    ///   - limitBytes: Bytes of keys and values after which the page ends.
    public func scan(
        _ range: Range = Range(), isBackward: Bool = false, isKeysOnly: Bool = false, limit: Int = .max, limitBytes: Int = 256 << 10
    ) throws(StorageError) -> Page {
        let snapshot = try self.storage.snapshot()
        guard !range.stored.isEmpty else { return Page(entries: [], hasMore: false, revision: self.revision(snapshot.revision)) }
        let page = try snapshot.scan(
            range.stored, isBackward ? .backward : .forward, limits: ScanLimits(bytes: limitBytes, count: limit), isKeysOnly: isKeysOnly)
        return Page(
            entries: page.entries.compactMap { self.entry($0) }, hasMore: page.hasMore, revision: self.revision(snapshot.revision))
    }

    // MARK: Writes

    /// Stores values, all or none; returns when they are durable, with the revision that they made.
    @discardableResult
    public func put(_ pairs: [(key: [UInt8], value: [UInt8])]) async throws(StorageError) -> Revision {
        let written = try await self.storage.write { (batch) throws(StorageError) in
            for pair in pairs { try batch.put(pair.key, pair.value) }
        }
        return self.revision(written.revision)
    }

    /// Stores a value.
    @discardableResult
    public func put(_ key: [UInt8], _ value: [UInt8]) async throws(StorageError) -> Revision { try await self.put([(key, value)]) }

    /// Makes keys absent, all or none; returns when that is durable.
    @discardableResult
    public func remove(_ keys: [[UInt8]]) async throws(StorageError) -> Revision {
        let written = try await self.storage.write { (batch) throws(StorageError) in
            for key in keys { try batch.remove(key) }
        }
        return self.revision(written.revision)
    }

    /// If all conditions hold, the `then` operations, otherwise the `otherwise` operations: all at one revision.
    public func transaction(
        if conditions: [Condition] = [], then: [Operation], otherwise: [Operation] = []
    ) async throws(StorageError) -> Outcome {
        let transaction = Transaction(compares: conditions.map(\.stored), then: then.map(\.stored), else: otherwise.map(\.stored))
        let outcome = try await self.storage.transaction(transaction)
        return Outcome(
            hasSucceeded: outcome.hasSucceeded, entries: outcome.results.map { self.entry($0) }, revision: self.revision(outcome.revision))
    }

    // MARK: Conversions

    func revision(_ revision: MWStorage.Revision) -> Revision {
        Revision(incarnation: "\(self.storage.incarnation)", number: revision.number)
    }

    private func entry(_ entry: StoredEntry) -> Entry? {
        guard entry.revision > .zero else { return nil }
        return Entry(key: entry.key, value: entry.value, revision: self.revision(entry.revision))
    }
}

extension EmbeddedStore.Condition {
    fileprivate var stored: Transaction.Compare {
        switch self {
        case .exists(let key): Transaction.Compare(key, .isPresent)
        case .isAbsent(let key): Transaction.Compare(key, .isAbsent)
        case .isAtRevision(let key, let revision): Transaction.Compare(key, .revision(.equal, Revision(revision)))
        case .hasValue(let key, let value): Transaction.Compare(key, .value(.equal, value))
        }
    }
}

extension EmbeddedStore.Operation {
    fileprivate var stored: Transaction.Operation {
        switch self {
        case .get(let key): .get(key)
        case .put(let key, let value): .put(key, value)
        case .remove(let key): .remove(key)
        }
    }
}
