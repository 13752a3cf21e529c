/// An engine behind a cache of what clients' keys hold: a put fills it, a remove empties it, a read that misses it brings what it found.
///
/// The cache has the keys as clients call them, and is asked first by who can do without the engine: a hit needs none.
final class HotEngine: StorageEngine {
    private let engine: any StorageEngine
    private let values: HotValues

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

    func apply(_ batch: borrowing WriteBatch, sync: Bool) throws(StorageError) {
        var hashes: [Int] = []
        unsafe batch.forEach { change in
            guard let key = unsafe HotEngine.dataKey(of: change) else { return }
            let hash = unsafe values.hash(of: key)
            hashes.append(hash)
            let valueBytes = if case .put(_, let value) = unsafe change { value.count } else { 0 }
            unsafe values.writeBegan(key, valueBytes: valueBytes, hash: hash)
        }
        var failure: StorageError?
        do throws(StorageError) { try engine.apply(batch, sync: sync) } catch { failure = error }
        var position = 0
        unsafe batch.forEach { change in
            guard let key = unsafe HotEngine.dataKey(of: change) else { return }
            let hash = hashes[position]
            position += 1
            if failure == nil, case .put(_, let value) = unsafe change {
                unsafe values.writeEnded(key, value, hash: hash)
            } else {
                unsafe values.writeEnded(key, nil, hash: hash)
            }
        }
        if let failure { throw failure }
    }

    private static func dataKey(of change: EngineChange) -> UnsafeRawBufferPointer? {
        switch unsafe change {
        case .put(let key, _), .remove(let key): unsafe dataKey(key)
        }
    }

    /// What clients call an engine's key; nil if it is none of theirs.
    private static func dataKey(_ key: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer? {
        guard unsafe key.first == Keyspace.data.prefix else { return nil }
        return unsafe UnsafeRawBufferPointer(rebasing: key.dropFirst())
    }

    func sync() throws(StorageError) { try engine.sync() }

    func snapshot() throws(StorageError) -> any EngineSnapshot { try engine.snapshot() }

    func checkpoint(to directory: String) throws(StorageError) -> Bool { try engine.checkpoint(to: directory) }

    var bytesNeededToReopen: Int { engine.bytesNeededToReopen }

    func close() { engine.close() }
}
