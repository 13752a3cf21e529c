// The next prefix, under the key "prefix" of the meta keyspace:
//
//   offset  size  meaning
//   0       4     next prefix, little endian

/// Counts the prefixes given to clients, each of which makes the ids of its new nodes its own.
struct PrefixCounter {
    /// The first prefix that nobody has had.
    private(set) var next: UInt32 = 0

    /// mwDB clients hold the prefix in a Java `short`; a negative one would make another prefix's ids.
    static let maximum: UInt32 = 32_767
    private static let key = Array("prefix".utf8)

    init(readingFrom engine: any EngineReading) throws(StorageError) {
        var bytes: [UInt8]?
        let engineKey = [Keyspace.meta.prefix] + PrefixCounter.key
        try unsafe engineKey.span.bytes.withUnsafeBytes { (key) throws(StorageError) in
            try unsafe engine.read(key) { bytes = unsafe $0.map { unsafe Array($0) } }
        }
        guard let bytes else { return }
        guard bytes.count == MemoryLayout<UInt32>.size else {
            throw StorageError(
                .corrupt, subject: "prefix counter", found: "\(bytes.count) bytes", expected: "4", remedy: "restore a backup")
        }
        self.next = bytes.reversed().reduce(0) { $0 << 8 | UInt32($1) }
    }

    /// Gives one out; nil if there is none left.
    mutating func grant() -> UInt32? {
        guard next <= PrefixCounter.maximum else { return nil }
        defer { next += 1 }
        return next
    }

    /// Prefixes below `below` are never given out.
    ///
    /// - Returns: whether some of them could have been.
    mutating func reserve(below: UInt32) -> Bool {
        let reserved = max(next, min(below, PrefixCounter.maximum + 1))
        defer { next = reserved }
        return reserved != next
    }

    func store(in batch: inout WriteBatch) throws(StorageError) {
        try batch.put(in: .meta, PrefixCounter.key, (0..<4).map { UInt8(truncatingIfNeeded: next >> ($0 * 8)) })
    }
}

extension StorageError {
    static var prefixesExhausted: StorageError {
        StorageError(
            .prefixesExhausted, subject: "prefix counter", found: "all \(PrefixCounter.maximum + 1) prefixes are given out",
            remedy: "clients that hold a prefix go on; a given one is never given again, since the data may hold its ids")
    }
}
