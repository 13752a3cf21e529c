import History
import MWStorage

/// A store's content in the words of the model.
enum SimulatedStore {
    static func entries(_ storage: Storage) throws -> [String: ModelEntry] {
        var entries: [String: ModelEntry] = [:]
        try unsafe storage.snapshot().scan(.all) { key, stored in
            unsafe entries[String(decoding: key, as: UTF8.self)] = ModelEntry(
                String(decoding: stored.bytes, as: UTF8.self), stored.revision.number, lease: stored.lease.map { Int64($0.number) })
            return true
        }
        return entries
    }
}

extension ModelChange {
    init(_ change: KeyChange) {
        self.init(
            unsafe String(decoding: change.key, as: UTF8.self), unsafe change.value.map { unsafe String(decoding: $0, as: UTF8.self) },
            previousRevision: change.previousRevision.number)
    }
}
