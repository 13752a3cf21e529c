extension Storage {
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

    /// Puts every entry of `source` over what is there, and makes sure that the prefixes its clients had are not given again.
    ///
    /// - Parameter progress: Called with what is stored so far.
    /// - Throws: what `source` and the store throw; what came before has then been stored.
    package func importAll(
        from source: ImportSource, progress: (ImportSummary) -> Void = { _ in }
    ) async throws -> ImportSummary {
        try await source.forEachPart { part, summary in
            switch part {
            case .nextPrefix(let next): try await reservePrefixes(below: next)
            case .page(let page):
                try await write { (batch) throws(StorageError) in
                    for entry in page { try batch.put(entry.key, entry.value) }
                }
            }
            progress(summary)
        }
    }
}
