/// An engine behind a cache of what clients' keys hold: a put fills it, a remove empties it, a read that misses it brings what it found.
///
/// When the engine is opened anew this goes with it: what a failed disk holds must be read.
final class HotEngine: StorageEngine {
    private let engine: any StorageEngine
    private let values: HotValues

    init(_ engine: any StorageEngine, capacityBytes: Int) {
        self.engine = engine
        self.values = HotValues(capacityBytes: capacityBytes)
    }

    func read(_ key: UnsafeRawBufferPointer, _ body: (UnsafeRawBufferPointer?) -> Void) throws(StorageError) {
        guard unsafe key.first == Keyspace.data.prefix else { return try unsafe engine.read(key, body) }
        switch unsafe values.lookUp(key, { unsafe body($0) }) {
        case .hit: break
        case .miss(let ticket):
            try unsafe engine.read(key) { value in
                unsafe body(value)
                if let value = unsafe value { unsafe values.fill(key, value, ticket) }
            }
        }
    }

    func apply(_ batch: borrowing WriteBatch, sync: Bool) throws(StorageError) {
        unsafe batch.forEach { change in
            if let key = unsafe HotEngine.dataKey(of: change) { unsafe values.writeBegan(key) }
        }
        var failure: StorageError?
        do throws(StorageError) { try engine.apply(batch, sync: sync) } catch { failure = error }
        unsafe batch.forEach { change in
            guard let key = unsafe HotEngine.dataKey(of: change) else { return }
            if failure == nil, case .put(_, let value) = unsafe change {
                unsafe values.writeEnded(key, value)
            } else {
                unsafe values.writeEnded(key, nil)
            }
        }
        if let failure { throw failure }
    }

    private static func dataKey(of change: EngineChange) -> UnsafeRawBufferPointer? {
        let key =
            switch unsafe change {
            case .put(let key, _), .remove(let key): unsafe key
            }
        return unsafe key.first == Keyspace.data.prefix ? key : nil
    }

    func sync() throws(StorageError) { try engine.sync() }

    func snapshot() throws(StorageError) -> any EngineSnapshot { try engine.snapshot() }

    func checkpoint(to directory: String) throws(StorageError) -> Bool { try engine.checkpoint(to: directory) }

    var bytesNeededToReopen: Int { engine.bytesNeededToReopen }

    func close() { engine.close() }
}
