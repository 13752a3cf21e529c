import Synchronization

/// What the commit thread tells everybody about the store's state.
final class PublishedState: Sendable {
    private let currentRevision: Atomic<UInt64>
    private let currentCompacted: Atomic<UInt64>
    private let currentUsage: Mutex<StorageUsage>
    let incarnation: Incarnation

    init(incarnation: Incarnation, revision: Revision, compacted: Revision, usage: StorageUsage) {
        self.incarnation = incarnation
        self.currentRevision = Atomic(revision.number)
        self.currentCompacted = Atomic(compacted.number)
        self.currentUsage = Mutex(usage)
    }

    var revision: Revision { Revision(currentRevision.load(ordering: .acquiring)) }
    var compacted: Revision { Revision(currentCompacted.load(ordering: .acquiring)) }
    var usage: StorageUsage { currentUsage.withLock { $0 } }

    /// Commit thread only, once the engine shows it.
    func publish(revision: Revision, compacted: Revision, usage: StorageUsage) {
        currentRevision.store(revision.number, ordering: .releasing)
        currentCompacted.store(compacted.number, ordering: .releasing)
        currentUsage.withLock { $0 = usage }
    }
}

/// What the store holds beside the data.
package struct StorageUsage: Sendable, Hashable {
    package var sessions = 0
    package var leases = 0
    package var leaseKeys = 0
    package var historyRevisions = 0
    /// About.
    package var historyBytes = 0

    package init() {}
}
