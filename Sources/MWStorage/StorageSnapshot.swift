/// The store at one moment, for long scans: later writes do not show.
///
/// If the engine has to be opened again after a disk error the snapshot is lost, and its calls throw `snapshotLost`.
package final class StorageSnapshot: Sendable {
    private let engine: ReopenableEngine
    private let snapshot: any EngineSnapshot
    private let generation: Int
    /// Everything up to it is in the snapshot, and nothing after it.
    package let revision: Revision
    package let incarnation: Incarnation

    /// Keys and values of one page, in the order of the scan.
    package typealias Page = [(key: [UInt8], value: [UInt8])]

    /// Bytes of keys and values after which a page ends. Between pages a disk error can be recovered from.
    package static let defaultPageBytes = 256 << 10

    init(of engine: ReopenableEngine) throws(StorageError) {
        (self.snapshot, self.revision, self.generation) = try engine.withEngine { (open) throws(StorageError) in
            let snapshot = try open.snapshot()
            let revision = Revision(try MetaRecord.read(MetaRecord.revisionKey, from: snapshot) ?? 0)
            return (snapshot, revision, engine.generation)
        }
        self.incarnation = engine.identity.incarnation
        self.engine = engine
    }

    /// Calls `body` once with what is stored under `key`, borrowed for that call, or with nil. `body` must not call the store.
    package func read<R>(_ key: UnsafeRawBufferPointer, _ body: (StoredValue?) -> R) throws(StorageError) -> R {
        var result: R?
        try withSnapshot { (snapshot) throws(StorageError) in
            try unsafe withEngineKey(key, in: .data) { (engineKey) throws(StorageError) in
                try unsafe snapshot.read(engineKey) { bytes in
                    guard let bytes = unsafe bytes else { return result = body(nil) }
                    guard let stored = unsafe StoredValue(decoding: bytes) else { return }
                    result = body(stored)
                }
            }
        }
        guard let result else { throw StoredValue.damaged }
        return result
    }

    package func get(_ key: [UInt8]) throws(StorageError) -> [UInt8]? {
        try unsafe key.span.bytes.withUnsafeBytes { (key) throws(StorageError) in
            try unsafe read(key) { $0.map { unsafe Array($0.bytes) } }
        }
    }

    /// The first prefix that nobody has had.
    func nextPrefix() throws(StorageError) -> UInt32 {
        var next: UInt32 = 0
        try withSnapshot { (snapshot) throws(StorageError) in next = try PrefixCounter(readingFrom: snapshot).next }
        return next
    }

    /// Calls `body` with the keys of `range` in order, and what is stored there, borrowed for that call, until it returns
    /// false. `body` must not call the store.
    package func scan(
        _ range: KeyRange, _ direction: ScanDirection = .forward, _ body: (UnsafeRawBufferPointer, StoredValue) -> Bool
    ) throws(StorageError) {
        var isDamaged = false
        try withSnapshot { (snapshot) throws(StorageError) in
            try unsafe snapshot.scan(range.engineRange(in: .data), direction) { key, bytes in
                guard let stored = unsafe StoredValue(decoding: bytes) else {
                    isDamaged = true
                    return false
                }
                return unsafe body(key.behindKeyspace, stored)
            }
        }
        if isDamaged { throw StoredValue.damaged }
    }

    /// The first entries of `range` in the given direction, up to `limits`; one at least, if there is any.
    ///
    /// Go on with ``KeyRange/following(_:_:)`` of the last key.
    package func scan(
        _ range: KeyRange, _ direction: ScanDirection = .forward, limits: ScanLimits = ScanLimits(), isKeysOnly: Bool = false
    ) throws(StorageError) -> ScanPage {
        var page = ScanPage()
        var bytes = 0
        try unsafe scan(range, direction) { key, stored in
            if bytes >= limits.bytes || page.entries.count >= limits.count {
                page.hasMore = true
                return false
            }
            page.entries.append(unsafe StoredEntry(key: Array(key), stored, isWithoutValue: isKeysOnly))
            bytes += unsafe key.count + (isKeysOnly ? 0 : stored.bytes.count)
            return true
        }
        return page
    }

    /// The first keys of `range` in the given direction, until a page is full; an empty page is the end.
    ///
    /// Go on with ``KeyRange/following(_:_:)`` of the last key.
    package func page(
        _ range: KeyRange, _ direction: ScanDirection = .forward, bytes limit: Int = StorageSnapshot.defaultPageBytes
    ) throws(StorageError) -> Page {
        var page: Page = []
        var bytes = 0
        try unsafe scan(range, direction) { key, stored in
            unsafe page.append((Array(key), Array(stored.bytes)))
            bytes += unsafe key.count + stored.bytes.count
            return bytes < limit
        }
        return page
    }

    /// Calls `body` with every key and value of `range` in order, page by page.
    package func forEach(
        in range: KeyRange = .all, _ direction: ScanDirection = .forward,
        _ body: (_ key: [UInt8], _ value: [UInt8]) throws(StorageError) -> Void
    ) throws(StorageError) {
        var rest = range
        while true {
            let page = try page(rest, direction)
            guard let last = page.last else { return }
            for entry in page { try body(entry.key, entry.value) }
            rest = rest.following(last.key, direction)
        }
    }

    /// Appends everything from the engine's key `lower` on, of all keyspaces, to `batch`, until that is full.
    ///
    /// - Returns: where to go on; nil at the end.
    func fill(_ batch: inout WriteBatch, from lower: [UInt8]) throws(StorageError) -> [UInt8]? {
        var next: [UInt8]?
        try withSnapshot { (snapshot) throws(StorageError) in
            try unsafe snapshot.scan(KeyRange(lower: lower), .forward) { key, value in
                guard let prefix = unsafe key.first else { return true }
                guard batch.byteCount < StorageSnapshot.defaultPageBytes else {
                    next = unsafe Array(key)
                    return false
                }
                let open = unsafe batch.beginPut(in: Keyspace(rawPrefix: prefix), key: key.behindKeyspace)
                unsafe batch.appendValue(value)
                batch.endPut(open)
                return true
            }
        }
        return next
    }

    private func withSnapshot(_ body: (any EngineSnapshot) throws(StorageError) -> Void) throws(StorageError) {
        try engine.withEngine { (_) throws(StorageError) in
            guard engine.generation == generation else {
                throw StorageError(
                    .snapshotLost, subject: "snapshot", found: "the store was opened again after a disk error",
                    remedy: "start over with a new snapshot")
            }
            try body(snapshot)
        }
    }
}

/// Where a page of a scan ends.
package struct ScanLimits: Hashable, Sendable {
    /// Bytes of keys and values after which it does.
    package var bytes: Int
    /// Entries at most.
    package var count: Int

    package init(bytes: Int = StorageSnapshot.defaultPageBytes, count: Int = .max) {
        self.bytes = bytes
        self.count = count
    }
}

/// A page of a scan.
package struct ScanPage: Hashable, Sendable {
    package var entries: [StoredEntry] = []
    /// There is more of the range behind the last entry.
    package var hasMore = false
}

extension KeyRange {
    /// What is left of the range once a scan has seen `key`.
    package func following(_ key: [UInt8], _ direction: ScanDirection) -> KeyRange {
        switch direction {
        // The least key after `key` is `key` with a zero byte behind it.
        case .forward: KeyRange(lower: key + [0], upper: upper)
        case .backward: KeyRange(lower: lower, upper: key)
        }
    }
}
