/// Sees every commit, in commit order, before anybody is told of its success: what a client put is what the server's own
/// readers and watchers see next.
///
/// Called on the commit thread: take notes and hand over; the whole server's writes wait meanwhile.
package protocol StorageObserver: AnyObject, Sendable {
    /// A commit that can be read by now.
    func committed(_ commit: borrowing Commit)
    /// The store stopped taking writes, or takes them again.
    func healthChanged(_ health: StorageHealth)
}

extension StorageObserver {
    package func healthChanged(_ health: StorageHealth) {}
}

/// Whether the store takes writes.
package enum StorageHealth: Sendable, Equatable {
    case writable
    /// Writes are refused with this error and reads go on; the store tries by itself to become writable again.
    ///
    /// When it does, writes that had failed may be there or not, each request whole: what caches them must read afresh.
    case degraded(StorageError)
}

/// Where a request came from.
package struct CommitOrigin: Hashable, Sendable {
    /// The submitter's ``Submitter/identifier``; zero for the store itself.
    package let submitter: UInt32
    /// What the submitter's owner called the request.
    package let token: UInt64

    package init(submitter: UInt32, token: UInt64) {
        self.submitter = submitter
        self.token = token
    }

    /// The store removed what went with a lease whose time is over.
    package static func expiry(of lease: LeaseID) -> CommitOrigin { CommitOrigin(submitter: 0, token: lease.number) }

    /// Whether nobody asked for it: a lease's time is over.
    package var isLeaseExpiry: Bool { submitter == 0 }
}

/// What one commit changed: the requests of all submitters that shared a sync.
package struct Commit: ~Copyable {
    /// The store's before it.
    package let previousRevision: Revision
    /// The store's now.
    package let lastRevision: Revision
    let changes: CommittedChanges

    /// Calls `body` with each request that changed what clients see, in the order in which they took effect.
    package func forEachRequest(_ body: (CommitOrigin, borrowing CommittedRequest) -> Void) {
        for index in changes.requests.indices {
            body(changes.requests[index].origin, CommittedRequest(changes: changes, index: index))
        }
    }
}

/// The changes of one request, which are those of one revision.
package struct CommittedRequest: ~Copyable {
    let changes: CommittedChanges
    let index: Int

    package var revision: Revision { changes.requests[index].revision }

    /// Calls `body` with each key that it changed, once, in the order in which it first did; borrowed for that call.
    package func forEachChange(_ body: (KeyChange) -> Void) { changes.forEachChange(ofRequestAt: index, body) }
}

/// Keeps an observer informed until it is cancelled or let go.
package final class StorageObservation: Sendable {
    private let onCancel: @Sendable () -> Void

    init(onCancel: @escaping @Sendable () -> Void) { self.onCancel = onCancel }
    deinit { onCancel() }

    /// Ends the observation. A commit under way may still be reported.
    package func cancel() { onCancel() }
}
