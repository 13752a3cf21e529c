import MWStorage

/// A batch as frames of the log.
extension FrameBuffer {
    /// What a batch has of history: its frames that have some, and up to where it is removed.
    struct Records {
        var frames: [(first: UInt64, last: UInt64, offset: Int)] = []
        var removed: UInt64?
    }

    /// Makes frames of `batch`, which must not change before ``removeAll()``.
    mutating func append(_ batch: borrowing WriteBatch, mark: UInt64, synced: Int) -> Records {
        let isDataInHistory = batch.isDataInHistory
        let flags = isDataInHistory ? FrameHeader.dataInHistoryFlag : 0
        var records = Records()
        var (first, last): (UInt64, UInt64) = (0, 0)
        beginFrame()
        func end(_ kind: FrameHeader.Kind) {
            if first != 0 { records.frames.append((first, last, openFrameOffset)) }
            (first, last) = (0, 0)
            endFrame(kind, flags: flags, mark: mark, synced: synced)
        }
        unsafe batch.forEachOperation { change, operation in
            if openPayloadBytes >= LogFormat.partBytes {
                end(.part)
                beginFrame()
            }
            switch unsafe change {
            case .put(let key, _):
                if isDataInHistory, unsafe key.first == Keyspace.data.prefix { return }
                unsafe append(borrowing: operation)
                if let revision = unsafe HistoryKey.revision(key) {
                    if first == 0 { first = revision }
                    last = revision
                }
            case .remove(let key):
                if isDataInHistory, unsafe key.first == Keyspace.data.prefix { return }
                // All up to the last one is one operation.
                if let revision = unsafe HistoryKey.revision(key) { return records.removed = max(revision, records.removed ?? 0) }
                unsafe append(borrowing: operation)
            }
        }
        if let removed = records.removed { unsafe HistoryKey.withKey(of: removed) { unsafe append(removalOf: $0) } }
        end(.last)
        return records
    }
}
