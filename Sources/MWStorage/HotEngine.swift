/// An engine behind a cache of what clients' keys hold: a put fills it, a remove empties it, a read that misses it brings what it found.
///
/// The cache has the keys as clients call them, and is asked first by who can do without the engine: a hit needs none.
final class HotEngine: StorageEngine, @unchecked Sendable {
    // Safety: `writes` is used by who applies batches, one at a time; the rest is immutable.
    private let engine: any StorageEngine
    private let values: HotValues
    /// Reused from batch to batch.
    private var writes: [Write] = []

    /// Of clients' keys in the batch that is being applied: they lie in it.
    @safe
    private struct Write {
        let key: UnsafeRawBufferPointer
        let hash: Int
        let value: UnsafeRawBufferPointer?
        var begun: HotValues.Write?
    }

    /// As many writes ahead their places in the cache are asked for: one waits for the memory as long as some others take.
    private static let prefetchDistance = 4

    init(_ engine: any StorageEngine, _ values: HotValues) {
        self.engine = engine
        self.values = values
    }

    func read(_ key: UnsafeRawBufferPointer, _ body: (UnsafeRawBufferPointer?) -> Void) throws(StorageError) {
        guard let dataKey = unsafe HotEngine.dataKey(key) else { return try unsafe engine.read(key, body) }
        guard let ticket = unsafe values.lookUp(dataKey, { unsafe body($0) }) else { return }
        try unsafe read(key, afterMiss: ticket, body)
    }

    /// As ``read(_:_:)`` of a data key, for who has asked the cache.
    func read(
        _ key: UnsafeRawBufferPointer, afterMiss ticket: HotValues.FillTicket, _ body: (UnsafeRawBufferPointer?) -> Void
    ) throws(StorageError) {
        try unsafe engine.read(key) { value in
            unsafe body(value)
            guard let value = unsafe value, let dataKey = unsafe HotEngine.dataKey(key) else { return }
            unsafe values.fill(dataKey, value, ticket)
        }
    }

    func prepare(_ batch: borrowing WriteBatch, sync: Bool, _ written: (DiskSync) -> Void) throws(StorageError) {
        try engine.prepare(batch, sync: sync, written)
    }

    func apply(_ batch: borrowing WriteBatch, sync: Bool) throws(StorageError) {
        var writes: [Write] = []
        swap(&writes, &self.writes)
        unsafe batch.forEach { change in
            switch unsafe change {
            case .put(let key, let value):
                guard let key = unsafe HotEngine.dataKey(key) else { return }
                writes.append(unsafe Write(key: key, hash: values.hash(of: key), value: value))
            case .remove(let key):
                guard let key = unsafe HotEngine.dataKey(key) else { return }
                writes.append(unsafe Write(key: key, hash: values.hash(of: key), value: nil))
            }
        }
        for index in writes.indices {
            if index + HotEngine.prefetchDistance < writes.count { values.prefetch(writes[index + HotEngine.prefetchDistance].hash) }
            let write = writes[index]
            unsafe writes[index].begun = values.writeBegan(write.key, write.hash, valueBytes: write.value?.count ?? 0)
        }
        var failure: StorageError?
        do throws(StorageError) { try engine.apply(batch, sync: sync) } catch { failure = error }
        for index in writes.indices {
            if index + HotEngine.prefetchDistance < writes.count { writes[index + HotEngine.prefetchDistance].begun?.prefetch() }
            let write = writes[index]
            if let begun = write.begun { unsafe values.writeEnded(begun, write.key, failure == nil ? write.value : nil) }
        }
        writes.removeAll(keepingCapacity: writes.capacity <= StorageLimits.maximumIdleCommitRequests)
        swap(&writes, &self.writes)
        if let failure { throw failure }
    }

    /// What clients call an engine's key; nil if it is none of theirs.
    private static func dataKey(_ key: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer? {
        guard unsafe key.first == Keyspace.data.prefix else { return nil }
        return unsafe key.behindKeyspace
    }

    func sync() throws(StorageError) { try engine.sync() }

    func snapshot() throws(StorageError) -> any EngineSnapshot { try engine.snapshot() }

    func checkpoint(to directory: String) throws(StorageError) -> Bool { try engine.checkpoint(to: directory) }

    var bytesNeededToReopen: Int { engine.bytesNeededToReopen }

    func close() { engine.close() }
}
