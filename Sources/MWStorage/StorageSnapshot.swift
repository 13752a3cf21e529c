/// The store at one moment, for long scans: later writes do not show.
///
/// If the engine has to be opened again after a disk error the snapshot is lost, and its calls throw `snapshotLost`.
package final class StorageSnapshot: Sendable {
    private let engine: ReopenableEngine
    private let snapshot: any EngineSnapshot
    private let generation: Int

    /// Keys and values of one page, in the order of the scan.
    package typealias Page = [(key: [UInt8], value: [UInt8])]

    /// Bytes of keys and values after which a page ends. Between pages a disk error can be recovered from.
    package static let defaultPageBytes = 256 << 10

    init(of engine: ReopenableEngine) throws(StorageError) {
        var generation = 0
        self.snapshot = try engine.withEngine { (open) throws(StorageError) in
            generation = engine.generation
            return try open.snapshot()
        }
        self.generation = generation
        self.engine = engine
    }

    package func get(_ key: [UInt8]) throws(StorageError) -> [UInt8]? {
        var value: [UInt8]?
        try withSnapshot { (snapshot) throws(StorageError) in
            let engineKey = [Keyspace.data.prefix] + key
            try unsafe engineKey.span.bytes.withUnsafeBytes { (key) throws(StorageError) in
                try unsafe snapshot.read(key) { value = unsafe $0.map { unsafe Array($0) } }
            }
        }
        return value
    }

    /// The first prefix that nobody has had.
    func nextPrefix() throws(StorageError) -> UInt32 {
        var next: UInt32 = 0
        try withSnapshot { (snapshot) throws(StorageError) in next = try PrefixCounter(readingFrom: snapshot).next }
        return next
    }

    /// The first keys of `range` in the given direction, until a page is full; an empty page is the end.
    ///
    /// Go on with ``KeyRange/following(_:_:)`` of the last key.
    package func page(
        _ range: KeyRange, _ direction: ScanDirection = .forward, bytes limit: Int = StorageSnapshot.defaultPageBytes
    ) throws(StorageError) -> Page {
        var page: Page = []
        var bytes = 0
        try withSnapshot { (snapshot) throws(StorageError) in
            try unsafe snapshot.scan(range.engineRange(in: .data), direction) { key, value in
                unsafe page.append((Array(key.dropFirst()), Array(value)))
                bytes += key.count + value.count
                return bytes < limit
            }
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
