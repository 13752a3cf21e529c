/// Which store it is, and how far it has come, as it says itself.
package struct StoreIdentity: Hashable, Sendable {
    package var incarnation: Incarnation
    package var revision: Revision
    /// History reaches back to behind this revision.
    package var compacted: Revision

    package init(incarnation: Incarnation, revision: Revision = .zero, compacted: Revision = .zero) {
        self.incarnation = incarnation
        self.revision = revision
        self.compacted = compacted
    }

    /// Nil if the engine holds no store yet.
    package init?(readingFrom engine: any EngineReading) throws(StorageError) {
        guard let number = try MetaRecord.read(MetaRecord.incarnationKey, as: UInt128.self, from: engine) else { return nil }
        incarnation = Incarnation(number)
        revision = Revision(try MetaRecord.read(MetaRecord.revisionKey, from: engine) ?? 0)
        compacted = Revision(try MetaRecord.read(MetaRecord.compactedKey, from: engine) ?? 0)
    }

    package func store(in batch: inout WriteBatch) {
        batch.putMeta(MetaRecord.incarnationKey, incarnation.number)
        batch.putMeta(MetaRecord.revisionKey, revision.number)
        batch.putMeta(MetaRecord.compactedKey, compacted.number)
    }

    /// That of the store in `engine`, which is migrated, or made if there is none.
    ///
    /// - Throws: `corrupt` if there are values, and nothing says of which store.
    static func establish(in engine: any StorageEngine, of directory: DataDirectory) throws(StorageError) -> StoreIdentity {
        if directory.isMigrating {
            try StoreMigration.run(on: engine, incarnation: .random())
            try directory.endMigration()
        }
        if let identity = try StoreIdentity(readingFrom: engine) { return identity }
        var isEmpty = true
        try unsafe engine.snapshot().scan(KeyRange.all.engineRange(in: .data), .forward) { _, _ in
            isEmpty = false
            return false
        }
        guard isEmpty else {
            throw StorageError(
                .corrupt, subject: directory.path, found: "values, and no incarnation", remedy: "restore a backup")
        }
        let identity = StoreIdentity(incarnation: .random())
        var batch = WriteBatch()
        identity.store(in: &batch)
        try engine.apply(batch, sync: true)
        return identity
    }
}
