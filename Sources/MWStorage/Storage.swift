/// The store that a server serves: keys and values on an engine, with durable, ordered, grouped writes.
///
/// Reads run at once on the calling thread. Writes go through a ``Submitter`` (event loops) or the async methods (everyone
/// else) to one commit thread, which syncs many requests at once. After a disk error writes fail with the reason, reads go
/// on, and the store becomes writable again by itself when the disk does.
package final class Storage: Sendable {
    /// Which engine it runs on.
    package let engineName: String
    package let directory: String

    let engine: ReopenableEngine
    private let committer: Committer
    let inProcess: InProcessWrites

    /// Opens the store in `directory`, making the directory and the store if there are none.
    ///
    /// - Throws: `locked` (with the holder's process id), `engineMismatch`, `formatTooNew`, `notAStore`, `corrupt`, and what
    ///   the file system says.
    package static func open(
        directory: String, engine factory: StorageEngineFactory, options: StorageOptions = StorageOptions()
    ) throws(StorageError) -> Storage {
        let dataDirectory = try DataDirectory(path: directory, engineName: factory.name)
        let engine: ReopenableEngine
        do throws(StorageError) {
            engine = try ReopenableEngine(factory: factory, directory: dataDirectory, options: options.engine)
        } catch {
            dataDirectory.release()
            throw error
        }
        do throws(StorageError) {
            let committer = try Committer(engine: engine, options: options)
            try committer.start()
            return Storage(engineName: factory.name, directory: directory, engine: engine, committer: committer)
        } catch {
            engine.close(syncing: false)
            throw error
        }
    }

    private init(engineName: String, directory: String, engine: ReopenableEngine, committer: Committer) {
        self.engineName = engineName
        self.directory = directory
        self.engine = engine
        self.committer = committer
        self.inProcess = InProcessWrites(committer: committer)
    }

    deinit { committer.stop() }

    /// Commits what has been flushed, closes the engine and unlocks the directory. Later calls throw `closed`.
    package func close() { committer.stop() }

    // MARK: Reads

    /// The store as it is now, for long scans and exports.
    package func snapshot() throws(StorageError) -> StorageSnapshot {
        try StorageSnapshot(of: engine)
    }

    // MARK: Revisions

    /// The last revision that can be read. It may be the store's former one while a commit is being made visible.
    package var revision: Revision { committer.published.revision }

    /// Which life of the store its revisions belong to.
    package var incarnation: Incarnation { committer.published.incarnation }

    /// History reaches back to behind this revision.
    package var compactedRevision: Revision { committer.published.compacted }

    /// The changes behind `revision`, as many revisions as fit into about `limit` bytes, and at least one if there is one.
    ///
    /// - Throws: `compacted` if changes behind `revision` have been forgotten.
    package func history(
        after revision: Revision, limitBytes limit: Int = StorageSnapshot.defaultPageBytes
    ) throws(StorageError) -> HistoryPage {
        try HistoryPage(of: engine, after: revision, limitBytes: limit)
    }

    // MARK: What happens to it

    /// What waits for its commit, as of some moment just past.
    package var pending: PendingWrites { committer.pending }

    /// As it was opened with.
    package var limits: StorageLimits { committer.options.limits }

    /// Whether it takes writes.
    package var health: StorageHealth { committer.health }

    /// Sessions, leases and history, as of the last commit.
    package var usage: StorageUsage { committer.published.usage }

    /// With ``CommitMode/manual``: commits all that has been flushed, and what is due by the clock; returns when that is done.
    ///
    /// One call at a time.
    package func runCommits() { committer.runCommits() }

    /// With ``CommitMode/manual``: when, by the clock, the store next has something to do by itself.
    package var nextDeadline: Duration? { committer.nextDeadline }

    /// A way into the commit queue for one event loop; `deliver` gets the outcomes on the commit thread, once a commit,
    /// in the order of submission.
    package func makeSubmitter(deliver: @escaping @Sendable ([CommitOutcome]) -> Void) -> Submitter {
        committer.makeSubmitter(deliver: deliver)
    }

    /// Reports every commit to `observer`, in order, until the returned observation is cancelled or let go.
    package func observe(_ observer: any StorageObserver) -> StorageObservation { committer.observe(observer) }

    /// The ``CommitOrigin/submitter`` of the async methods above.
    package var inProcessIdentifier: UInt32 { inProcess.identifier }
}

/// Writes that wait for their commit.
package struct PendingWrites: Sendable, Hashable {
    package let requests: Int
    package let bytes: Int
    /// So many that whoever writes should wait.
    package let isCongested: Bool
}

/// Puts the keyspace in front of `key`: on the stack, unless it is over 1 KiB.
@inline(__always)
func withEngineKey(
    _ key: UnsafeRawBufferPointer, in keyspace: Keyspace, _ body: (UnsafeRawBufferPointer) throws(StorageError) -> Void
) throws(StorageError) {
    var failure: StorageError?
    unsafe withUnsafeTemporaryAllocation(byteCount: key.count + 1, alignment: 1) { buffer in
        unsafe buffer.storeBytes(of: keyspace.prefix, as: UInt8.self)
        unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[1...]).copyMemory(from: key)
        do throws(StorageError) { try unsafe body(UnsafeRawBufferPointer(buffer)) } catch { failure = error }
    }
    if let failure { throw failure }
}
