/// What an import brought.
package struct ImportSummary: Hashable, Sendable {
    package var entryCount: UInt64 = 0
    /// Of keys and values.
    package var byteCount = 0
    /// The first prefix that clients of the imported store have not had.
    package var nextPrefix: UInt32 = 0

    package init(entryCount: UInt64 = 0, byteCount: Int = 0, nextPrefix: UInt32 = 0) {
        self.entryCount = entryCount
        self.byteCount = byteCount
        self.nextPrefix = nextPrefix
    }
}

/// Where an import comes from. Where it goes is the business of whoever reads it: a store, or a server.
package enum ImportSource {
    /// An export, in the format of `ExportStream.swift`; `read` returns its next bytes, and nil at its end.
    case stream(name: String, read: () throws -> [UInt8]?)
    /// What a mwDB of 2016 left.
    case model(LegacyModel)

    package enum Part {
        /// Prefixes below this one have been given; before all pages.
        case nextPrefix(UInt32)
        /// Some entries, in key order; never empty.
        case page(StorageSnapshot.Page)
    }

    /// Bytes of entries in a page: to sync them is then nothing beside writing them, and a message of them is far from its limit.
    private static let pageBytes = 1 << 20

    /// Calls `body` with each part, and with what has been read up to and with it.
    ///
    /// - Throws: what `body`, the decoder and the engine throw; `streamTruncated` for a stream that was cut.
    package func forEachPart(_ body: (Part, ImportSummary) async throws -> Void) async throws -> ImportSummary {
        switch self {
        case .stream(let name, let read): try await Self.forEachPart(ofStream: name, read, body)
        case .model(let model): try await Self.forEachPart(of: model, body)
        }
    }

    private static func forEachPart(
        ofStream name: String, _ read: () throws -> [UInt8]?, _ body: (Part, ImportSummary) async throws -> Void
    ) async throws -> ImportSummary {
        var decoder = ExportDecoder(source: name)
        var summary = ImportSummary()
        var page: StorageSnapshot.Page = []
        var pageBytes = 0
        while let piece = try read() {
            decoder.bytesReceived(piece)
            while let record = try decoder.next() {
                switch record {
                case .entry(let key, let value):
                    page.append((key, value))
                    pageBytes += key.count + value.count
                    guard pageBytes >= Self.pageBytes else { continue }
                    summary.add(page, bytes: pageBytes)
                    try await body(.page(page), summary)
                    page.removeAll(keepingCapacity: true)
                    pageBytes = 0
                case .nextPrefix(let next):
                    summary.nextPrefix = next
                    try await body(.nextPrefix(next), summary)
                case .end: break
                }
            }
        }
        try decoder.checkIsComplete()
        guard !page.isEmpty else { return summary }
        summary.add(page, bytes: pageBytes)
        try await body(.page(page), summary)
        return summary
    }

    private static func forEachPart(
        of model: LegacyModel, _ body: (Part, ImportSummary) async throws -> Void
    ) async throws -> ImportSummary {
        var summary = ImportSummary(nextPrefix: model.nextPrefix)
        try await body(.nextPrefix(model.nextPrefix), summary)
        var rest = KeyRange.all
        while true {
            let page = try model.page(rest, bytes: Self.pageBytes)
            guard let last = page.last else { return summary }
            rest = rest.following(last.key, .forward)
            let entries = page.filter { $0.key != LegacyModel.prefixKey }
            guard !entries.isEmpty else { continue }
            summary.add(entries, bytes: entries.reduce(0) { $0 + $1.key.count + $1.value.count })
            try await body(.page(entries), summary)
        }
    }
}

extension ImportSummary {
    fileprivate mutating func add(_ page: StorageSnapshot.Page, bytes: Int) {
        entryCount += UInt64(page.count)
        byteCount += bytes
    }
}
