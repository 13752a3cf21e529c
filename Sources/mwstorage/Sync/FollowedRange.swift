import MWClient

/// A range with its state, and then what changes in it, for as long as one likes.
///
/// The state is read with a scan, a page at a time, as fast as whoever is told takes it: a range may be larger than what fits in memory, or in
/// what a server keeps for a watch. The watch then begins behind the scan's revision. Where that cannot be, as the history was forgotten
/// meanwhile, the state is read again.
struct FollowedRange {
    let client: StorageClient
    let range: KeyRange
    var includesValues = true

    /// - Parameter report: told the same as by a watch that begins with the state.
    /// - Throws: what `report` throws; `ClientError` where there is no use in going on.
    func run(from start: WatchStart, _ report: (WatchEvent) throws -> Void) async throws {
        var start = start
        while true {
            do {
                if start == .state {
                    let revision = try await load(report)
                    try await follow(from: .after(revision), isSynced: true, report)
                } else {
                    try await follow(from: start, isSynced: false, report)
                }
                return
            } catch let error as ClientError where Self.gaps.contains(error.code) {
                try report(.resync(reason: error.found ?? error.what))
                start = .state
            }
        }
    }

    /// Of failures after which the state is read again: what was read is not enough to go on from, or a part of it did not come in time.
    private static let gaps: Set<ClientError.Code> = [
        .compacted, .wrongIncarnation, .watchOverflowed, .snapshotLost, .connectionLost, .deadlineExceeded,
    ]

    private func load(_ report: (WatchEvent) throws -> Void) async throws -> Revision {
        var options = ScanOptions()
        options.isKeysOnly = !includesValues
        var revision = Revision.unknown
        for try await page in client.scan(range, options: options).pages {
            revision = page.revision
            if !page.entries.isEmpty { try report(.state(revision, page.entries)) }
        }
        try report(.synced(revision))
        return revision
    }

    /// - Parameter isSynced: that is said already; the watch says it again once it has begun.
    private func follow(from start: WatchStart, isSynced: Bool, _ report: (WatchEvent) throws -> Void) async throws {
        var options = WatchOptions()
        options.includesValues = includesValues
        var isSynced = isSynced
        for try await event in try client.watch([range], from: start, options: options) {
            if case .synced(let revision) = event, isSynced {
                isSynced = false
                try report(.progress(revision))
            } else {
                try report(event)
            }
        }
    }
}
