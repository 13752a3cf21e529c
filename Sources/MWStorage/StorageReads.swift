extension Storage {
    /// Calls `body` once with what is stored under `key`, borrowed for that call, or with nil.
    ///
    /// For the hot path: no copy, no allocation here, and for a hot value neither the engine nor its gate, but the lock of a shard. Waits
    /// only while the engine is being opened again after a disk error. `body` must not call the store.
    package func read(_ key: UnsafeRawBufferPointer, _ body: (StoredValue?) -> Void) throws(StorageError) {
        guard let hotValues = engine.hotValues else { return try unsafe readEngine(key, afterMiss: nil, body) }
        var isDamaged = false
        let ticket = unsafe hotValues.lookUp(key) { bytes in
            if let stored = unsafe StoredValue(decoding: bytes) { body(stored) } else { isDamaged = true }
        }
        if let ticket { return try unsafe readEngine(key, afterMiss: ticket, body) }
        if isDamaged { throw StoredValue.damaged }
    }

    private func readEngine(
        _ key: UnsafeRawBufferPointer, afterMiss ticket: HotValues.FillTicket?, _ body: (StoredValue?) -> Void
    ) throws(StorageError) {
        var found = Found()
        try engine.withEngine { (engine) throws(StorageError) in
            try unsafe engine.readData(key, afterMiss: ticket) { unsafe found.take($0, body) }
        }
        if found.isDamaged { throw StoredValue.damaged }
    }

    /// The value under `key`, or nil.
    package func get(_ key: [UInt8]) throws(StorageError) -> [UInt8]? {
        var value: [UInt8]?
        try unsafe key.span.bytes.withUnsafeBytes { (key) throws(StorageError) in
            try unsafe read(key) { value = $0.map { unsafe Array($0.bytes) } }
        }
        return value
    }

    /// Runs `body`, whose reads are all of one revision, and returns that revision with its result.
    ///
    /// `body` runs again, once, if a commit came between its reads; what it did the first time does not count then. It
    /// must not call the store.
    package func withConsistentReads<R>(
        _ body: (inout ConsistentReader) throws(StorageError) -> R
    ) throws(StorageError) -> (result: R, revision: Revision) {
        try engine.withEngine { (open) throws(StorageError) in
            let position = engine.position
            var reader = ConsistentReader(open, hotValues: engine.hotValues)
            let result = try body(&reader)
            // What is there, and was put by then, was there then. What is absent may have been there: nothing may have moved.
            if reader.newest <= position.revision, !reader.hasSeenAbsence || position.isQuiet && engine.position == position {
                return (result, position.revision)
            }
            let snapshot = try open.snapshot()
            let revision = Revision(try MetaRecord.read(MetaRecord.revisionKey, from: snapshot) ?? 0)
            var second = ConsistentReader(snapshot, hotValues: nil)
            return (try body(&second), revision)
        }
    }

    /// What is stored under each of `keys`, all at one revision; entries of absent keys are of revision zero.
    package func entries(_ keys: [[UInt8]]) throws(StorageError) -> (entries: [StoredEntry], revision: Revision) {
        let read = try withConsistentReads { (reader) throws(StorageError) in
            var entries: [StoredEntry] = []
            entries.reserveCapacity(keys.count)
            for key in keys {
                try unsafe key.span.bytes.withUnsafeBytes { (bytes) throws(StorageError) in
                    try unsafe reader.read(bytes) { entries.append(StoredEntry(key: key, $0)) }
                }
            }
            return entries
        }
        return (read.result, read.revision)
    }
}

/// Reads of one revision, within ``Storage/withConsistentReads(_:)``.
package struct ConsistentReader: ~Copyable {
    private let engine: any EngineReading
    /// In front of the engine; nil for a snapshot.
    private let hotValues: HotValues?
    fileprivate var newest = Revision.zero
    fileprivate var hasSeenAbsence = false

    fileprivate init(_ engine: any EngineReading, hotValues: HotValues?) { (self.engine, self.hotValues) = (engine, hotValues) }

    /// Calls `body` once with what is stored under `key`, borrowed for that call, or with nil.
    package mutating func read(_ key: UnsafeRawBufferPointer, _ body: (StoredValue?) -> Void) throws(StorageError) {
        var found = Found()
        if let hotValues {
            if let ticket = unsafe hotValues.lookUp(key, { unsafe found.take($0, body) }) {
                try unsafe engine.readData(key, afterMiss: ticket) { unsafe found.take($0, body) }
            }
        } else {
            try unsafe engine.readData(key, afterMiss: nil) { unsafe found.take($0, body) }
        }
        if found.isDamaged { throw StoredValue.damaged }
        if let revision = found.revision { newest = max(newest, revision) } else { hasSeenAbsence = true }
    }
}

/// What an engine said of a key.
private struct Found {
    /// Nil where there is nothing.
    var revision: Revision?
    var isDamaged = false

    @inline(__always)
    mutating func take(_ bytes: UnsafeRawBufferPointer?, _ body: (StoredValue?) -> Void) {
        guard let bytes = unsafe bytes else { return body(nil) }
        guard let stored = unsafe StoredValue(decoding: bytes) else { return isDamaged = true }
        revision = stored.revision
        body(stored)
    }
}

extension EngineReading {
    /// Reads what clients call `key`.
    ///
    /// - Parameter ticket: Of the cache in front of the engine, for who has asked it.
    fileprivate func readData(
        _ key: UnsafeRawBufferPointer, afterMiss ticket: HotValues.FillTicket?, _ body: (UnsafeRawBufferPointer?) -> Void
    ) throws(StorageError) {
        try unsafe withEngineKey(key, in: .data) { (engineKey) throws(StorageError) in
            if let ticket, let hot = self as? HotEngine {
                try unsafe hot.read(engineKey, afterMiss: ticket, body)
            } else {
                try unsafe read(engineKey, body)
            }
        }
    }
}

extension StoredEntry {
    /// A copy of what was found under `key`.
    package init(key: [UInt8], _ stored: StoredValue?, isWithoutValue: Bool = false) {
        self.init(
            key: key, value: isWithoutValue ? [] : stored.map { unsafe Array($0.bytes) } ?? [],
            revision: stored?.revision ?? .zero, lease: stored?.lease)
    }
}
