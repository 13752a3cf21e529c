/// How much history there is, and how old: in spans of revisions, so that nobody has to read it for knowing what to forget.
struct HistoryLedger {
    private struct Span {
        var last: Revision
        var bytes: Int
        /// When its first revision was made.
        let began: Duration
        /// What is made later is another span's. Worked out once: a division of durations is dear.
        let end: Duration
    }

    /// Oldest first.
    private var spans: [Span] = []
    /// How many of them, in front, have been forgotten.
    private var forgotten = 0
    /// Revisions up to this one have been forgotten.
    private(set) var compacted: Revision
    private(set) var byteCount = 0

    /// Of each bound, the part that a span may take: what is kept is by so much less than what may be.
    private static let spansPerBound = 128

    init(compacted: Revision) { self.compacted = compacted }

    /// Of what is stored: bytes in all, and when a revision was made.
    init(
        compacted: Revision, last: Revision, bytes: Int, time: (Revision) throws(StorageError) -> Duration
    ) throws(StorageError) {
        self.compacted = compacted
        guard last > compacted else { return }
        byteCount = bytes
        let count = last.number - compacted.number
        let spanCount = min(UInt64(HistoryLedger.spansPerBound), count)
        var first = compacted.number + 1
        for index in 1...spanCount {
            let (high, low) = count.multipliedFullWidth(by: index)
            let end = compacted.number + spanCount.dividingFullWidth((high, low)).quotient
            let began = try time(Revision(first))
            spans.append(Span(last: Revision(end), bytes: bytes / Int(spanCount), began: began, end: began))
            first = end + 1
        }
        spans[0].bytes += bytes % Int(spanCount)
    }

    var last: Revision { spans.last?.last ?? compacted }
    var revisionCount: Int { Int(last.number - compacted.number) }

    mutating func append(_ revision: Revision, bytes: Int, at now: Duration, _ limits: StorageLimits) {
        byteCount += bytes
        if let last = spans.indices.last, last >= forgotten, fits(spans[last], bytes, now, limits) {
            spans[last].last = revision
            spans[last].bytes += bytes
        } else {
            let end = now + limits.maximumHistoryAge / HistoryLedger.spansPerBound
            spans.append(Span(last: revision, bytes: bytes, began: now, end: end))
        }
    }

    private func fits(_ span: Span, _ bytes: Int, _ now: Duration, _ limits: StorageLimits) -> Bool {
        let first = spans.count - forgotten > 1 ? spans[spans.count - 2].last : compacted
        let parts = HistoryLedger.spansPerBound
        return Int(span.last.number - first.number) < max(1, limits.maximumHistoryRevisions / parts)
            && span.bytes + bytes <= max(1, limits.maximumHistoryBytes / parts)
            && now <= span.end
    }

    /// Forgets whole spans until the bounds are kept.
    mutating func trim(to limits: StorageLimits, at now: Duration) {
        while forgotten < spans.count {
            let span = spans[forgotten]
            guard
                revisionCount > limits.maximumHistoryRevisions || byteCount > limits.maximumHistoryBytes
                    || span.began + limits.maximumHistoryAge <= now
            else { break }
            forget(span)
        }
        compactSpans()
    }

    /// Forgets up to and with `revision`.
    mutating func compact(to revision: Revision) {
        while forgotten < spans.count, spans[forgotten].last <= revision { forget(spans[forgotten]) }
        compactSpans()
        guard revision > compacted, forgotten < spans.count else { return }
        // A part of a span: take it that its revisions are alike.
        let part = Double(revision.number - compacted.number) / Double(spans[forgotten].last.number - compacted.number)
        let bytes = Int(Double(spans[forgotten].bytes) * part)
        spans[forgotten].bytes -= bytes
        byteCount -= bytes
        compacted = revision
    }

    /// When the oldest revision will be too old.
    func nextDeadline(_ limits: StorageLimits) -> Duration? {
        forgotten < spans.count ? spans[forgotten].began + limits.maximumHistoryAge : nil
    }

    private mutating func forget(_ span: Span) {
        compacted = span.last
        byteCount -= span.bytes
        forgotten += 1
    }

    private mutating func compactSpans() {
        guard forgotten == spans.count || forgotten > HistoryLedger.spansPerBound else { return }
        spans.removeFirst(forgotten)
        forgotten = 0
    }
}
