extension Storage {
    /// What an import brought.
    package struct ImportSummary: Hashable, Sendable {
        package var entryCount: UInt64 = 0
        package var byteCount: UInt64 = 0
        /// The first prefix that clients of the imported model have not had.
        package var nextPrefix: UInt32 = 0

        package init(entryCount: UInt64 = 0, byteCount: UInt64 = 0, nextPrefix: UInt32 = 0) {
            self.entryCount = entryCount
            self.byteCount = byteCount
            self.nextPrefix = nextPrefix
        }
    }

    /// Bytes of entries that an import commits at once: a sync is then nothing beside writing them.
    private static let importBatchBytes = 1 << 20

    /// Writes the store as it is now to `sink`, in the format of `ExportStream.swift`; clients go on meanwhile.
    ///
    /// - Returns: the number of entries.
    /// - Throws: what reading and `sink` throw; the stream is then truncated, which its reader notices.
    @discardableResult
    package func export(to sink: ([UInt8]) throws -> Void) throws -> UInt64 {
        let snapshot = try snapshot()
        var encoder = ExportEncoder(nextPrefix: try snapshot.nextPrefix())
        var rest = KeyRange.all
        var count: UInt64 = 0
        while true {
            let page = try snapshot.page(rest)
            for entry in page { encoder.append(key: entry.key, value: entry.value) }
            count += UInt64(page.count)
            guard let last = page.last else { break }
            rest = rest.following(last.key, .forward)
            try sink(encoder.takeOutput())
        }
        encoder.finish()
        try sink(encoder.takeOutput())
        return count
    }

    /// Puts every entry of an export stream, in batches, over what is there; `source` returns nil at its end.
    ///
    /// - Throws: what the decoder and `source` throw; entries before the fault have then been stored.
    package func importStream(named name: String, from source: () throws -> [UInt8]?) async throws -> ImportSummary {
        var decoder = ExportDecoder(source: name)
        var summary = ImportSummary()
        var pending: StorageSnapshot.Page = []
        var pendingBytes = 0
        while let bytes = try source() {
            decoder.bytesReceived(bytes)
            while let record = try decoder.next() {
                switch record {
                case .entry(let key, let value):
                    pending.append((key, value))
                    pendingBytes += key.count + value.count
                    summary.entryCount += 1
                    summary.byteCount += UInt64(key.count + value.count)
                    if pendingBytes >= Storage.importBatchBytes {
                        try await put(all: pending)
                        pending.removeAll(keepingCapacity: true)
                        pendingBytes = 0
                    }
                case .nextPrefix(let next):
                    summary.nextPrefix = next
                    try await reservePrefixes(below: next)
                case .end: break
                }
            }
        }
        try decoder.checkIsComplete()
        try await put(all: pending)
        return summary
    }

    /// Puts everything that a mwDB of 2016 left, and makes sure that its prefixes are not given again.
    package func importModel(_ model: LegacyModel) async throws(StorageError) -> ImportSummary {
        var summary = ImportSummary(nextPrefix: model.nextPrefix)
        try await reservePrefixes(below: model.nextPrefix)
        var rest = KeyRange.all
        while true {
            let page = try model.page(rest, bytes: Storage.importBatchBytes)
            guard let last = page.last else { return summary }
            rest = rest.following(last.key, .forward)
            let entries = page.filter { $0.key != LegacyModel.prefixKey }
            try await put(all: entries)
            summary.entryCount += UInt64(entries.count)
            summary.byteCount += entries.reduce(0) { $0 + UInt64($1.key.count + $1.value.count) }
        }
    }

    private func put(all entries: StorageSnapshot.Page) async throws(StorageError) {
        if entries.isEmpty { return }
        try await write { (batch) throws(StorageError) in
            for entry in entries { try batch.put(entry.key, entry.value) }
        }
    }
}
