// From format 1, whose data values have no envelope:
//
//   1. `format` says the present version and "migrating from 1": from here on older programs refuse the store.
//   2. Batch by batch, in key order, values get their envelope. With each batch, in one engine batch, goes where it ended:
//        meta "migrated"   the last data key that has been done
//   3. The last batch has the store's revision and incarnation, and removes "migrated".
//   4. `format` says the present version and nothing else.
//
// Whoever opens the store after a crash goes on from "migrated"; or, if there is an incarnation, with step 4.

/// Gives the values of a version 1 store their envelopes.
///
/// All of them are of revision 1, as if one request had put them; there is no history before it.
package enum StoreMigration {
    /// Bytes of keys and values after which a batch ends: a sync is then nothing beside writing it, and memory stays bounded.
    package static let defaultBatchBytes = 1 << 20

    static let migratedKey = Array("migrated".utf8)
    /// What the values of the old store are of.
    package static let revision = Revision(1)

    /// Does what is left to do, steps 2 and 3 of the drawing above. After an error, or a crash, call it again.
    package static func run(
        on engine: any StorageEngine, incarnation: Incarnation, batchBytes: Int = defaultBatchBytes
    ) throws(StorageError) {
        if try MetaRecord.read(MetaRecord.incarnationKey, as: UInt128.self, from: engine) != nil { return }
        var rest = KeyRange.all
        if let last = try migratedKey(in: engine) { rest = rest.following(last, .forward) }
        var batch = WriteBatch()
        while let last = try fill(&batch, from: engine, rest, bytes: batchBytes) {
            try batch.put(in: .meta, migratedKey, last)
            // Synced each: an engine may keep a later log file and lose an earlier one that nobody synced.
            try engine.apply(batch, sync: true)
            batch.removeAll()
            rest = rest.following(last, .forward)
        }
        let isEmpty = rest == .all
        batch.removeAll()
        try batch.remove(in: .meta, migratedKey)
        StoreIdentity(incarnation: incarnation, revision: isEmpty ? .zero : revision, compacted: isEmpty ? .zero : revision)
            .store(in: &batch)
        try engine.apply(batch, sync: true)
    }

    /// Puts the first values of `range`, in envelopes, into `batch`.
    ///
    /// - Returns: the last key; nil if there are none.
    private static func fill(
        _ batch: inout WriteBatch, from engine: any StorageEngine, _ range: KeyRange, bytes limit: Int
    ) throws(StorageError) -> [UInt8]? {
        var last: [UInt8]?
        var failure: StorageError?
        try unsafe engine.snapshot().scan(range.engineRange(in: .data), .forward) { engineKey, value in
            let key = unsafe engineKey.behindKeyspace
            do throws(StorageError) {
                try unsafe batch.putData(key: key, value: value, revision: revision)
            } catch {
                failure = error
                return false
            }
            unsafe last = Array(key)
            return batch.byteCount < limit
        }
        if let failure { throw failure }
        return last
    }

    private static func migratedKey(in engine: any EngineReading) throws(StorageError) -> [UInt8]? {
        var last: [UInt8]?
        let engineKey = [Keyspace.meta.prefix] + migratedKey
        try unsafe engineKey.span.bytes.withUnsafeBytes { (key) throws(StorageError) in
            try unsafe engine.read(key) { unsafe last = $0.map { unsafe Array($0) } }
        }
        return last
    }
}
