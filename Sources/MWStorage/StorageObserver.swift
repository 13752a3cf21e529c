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
    /// The submitter's ``Submitter/identifier``.
    package let submitter: UInt32
    /// What the submitter's owner called the request.
    package let token: UInt64
}

/// What one commit changed: the requests of all submitters that shared a sync.
package struct Commit: ~Copyable {
    /// Requests of one queue lie one after the other in its batch.
    let queues: [RequestQueue]

    /// Calls `body` with each request that changed what clients see, in the order in which they took effect.
    package func forEachRequest(_ body: (CommitOrigin, borrowing CommittedRequest) -> Void) {
        for queue in queues {
            var start = WriteBatch.start
            for request in queue.requests {
                if request.end.operationCount > start.operationCount {
                    let origin = CommitOrigin(submitter: queue.submitter, token: request.token)
                    body(origin, CommittedRequest(queue: queue, start: start, end: request.end))
                }
                start = request.end
            }
        }
    }
}

/// The changes of one request.
package struct CommittedRequest: ~Copyable {
    let queue: RequestQueue
    let start: WriteBatch.Mark
    let end: WriteBatch.Mark

    /// Calls `body` with each key, and its new value or nil if it was removed; both borrowed for that call.
    package func forEachChange(_ body: (_ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer?) -> Void) {
        unsafe queue.batch.forEach(from: start, to: end) { change in
            switch unsafe change {
            case .put(let key, let value) where unsafe key.first == Keyspace.data.prefix:
                unsafe body(UnsafeRawBufferPointer(rebasing: key.dropFirst()), value)
            case .remove(let key) where unsafe key.first == Keyspace.data.prefix:
                unsafe body(UnsafeRawBufferPointer(rebasing: key.dropFirst()), nil)
            default: break
            }
        }
    }
}

/// Keeps an observer informed until it is cancelled or let go.
package final class StorageObservation: Sendable {
    private let onCancel: @Sendable () -> Void

    init(onCancel: @escaping @Sendable () -> Void) { self.onCancel = onCancel }
    deinit { onCancel() }

    /// Ends the observation. A commit under way may still be reported.
    package func cancel() { onCancel() }
}
