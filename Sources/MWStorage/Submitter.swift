/// The way into the commit queue for one event loop (or one thread).
///
/// Call order: any number of ``submit(token:_:)`` and ``allocatePrefix(token:)``, then one ``flush()`` when the burst of
/// requests ends. Requests are committed in the order in which they were submitted; each is atomic. All of this from the
/// one thread that owns the submitter.
package final class Submitter: @unchecked Sendable {
    // Safety: `filling` is only touched by the owner's thread; `idle` is guarded by the commit queue's lock; the rest is
    // immutable.
    /// Tells this submitter's requests apart in ``CommitOrigin``. Never reused by a store.
    package let identifier: UInt32
    let deliver: @Sendable ([CommitOutcome]) -> Void
    private let committer: Committer
    private var filling: RequestQueue
    var idle: [RequestQueue] = []

    init(identifier: UInt32, committer: Committer, deliver: @escaping @Sendable ([CommitOutcome]) -> Void) {
        self.identifier = identifier
        self.committer = committer
        self.deliver = deliver
        self.filling = RequestQueue(submitter: identifier)
    }

    /// Adds the request that `body` writes into the batch; `token` comes back in its outcome.
    ///
    /// - Throws: `overloaded`, `closed`, what `body` throws; then nothing of the request remains and no outcome follows.
    package func submit(token: UInt64, _ body: (inout WriteBatch) throws(StorageError) -> Void) throws(StorageError) {
        try committer.admit(filling)
        let start = filling.batch.mark
        do {
            try body(&filling.batch)
        } catch {
            filling.batch.rollBack(to: start)
            throw error
        }
        filling.append(Request(token: token, kind: .write, end: filling.batch.mark))
    }

    /// Asks for a prefix that no client has had and none will have again; it comes in the outcome.
    package func allocatePrefix(token: UInt64) throws(StorageError) {
        try committer.admit(filling)
        filling.append(Request(token: token, kind: .allocatePrefix, end: filling.batch.mark))
    }

    /// Makes sure that prefixes below `next` are never given out: an import brings the old store's counter.
    package func reservePrefixes(below next: UInt32, token: UInt64) throws(StorageError) {
        try committer.admit(filling)
        filling.append(Request(token: token, kind: .reservePrefixes(below: next), end: filling.batch.mark))
    }

    /// Hands everything submitted so far to the commit thread. Cheap if there is nothing.
    package func flush() {
        guard !filling.requests.isEmpty else { return }
        filling = committer.accept(filling, from: self)
    }

    /// Whether half of what may wait for the disk is waiting: stop reading from the network until outcomes arrive.
    package var isCongested: Bool { committer.isCongested }
}

/// How one submitted request ended.
package struct CommitOutcome: Sendable {
    package enum Result: Sendable {
        /// Written, and as durable as the store's ``Durability`` says.
        case written
        case prefix(UInt32)
        /// Nothing of the request can be read now. After a failed write or sync the disk may still hold it, whole, and
        /// show it once the store has recovered.
        case failed(StorageError)
    }

    package let token: UInt64
    package let result: Result
}

/// One request in a queue; its operations end at `end` in the queue's batch.
struct Request {
    enum Kind {
        case write
        case allocatePrefix
        case reservePrefixes(below: UInt32)
    }

    let token: UInt64
    let kind: Kind
    let end: WriteBatch.Mark
    /// Set by the commit thread, if there was one left.
    var grantedPrefix: UInt32?

    init(token: UInt64, kind: Kind, end: WriteBatch.Mark) {
        self.token = token
        self.kind = kind
        self.end = end
    }
}

/// Requests of one submitter on their way: filled by its owner, then owned by the commit thread, then filled again.
final class RequestQueue: @unchecked Sendable {
    // Safety: it has one owner at a time, and changes hands under the commit queue's lock.
    let submitter: UInt32
    var batch = WriteBatch()
    var requests: [Request] = []
    var deliverTo: Submitter?

    init(submitter: UInt32) { self.submitter = submitter }

    /// Whether a commit must look after the prefix counter; kept apart so that writes need not be searched.
    var hasPrefixRequest = false

    func append(_ request: Request) {
        requests.append(request)
        if case .write = request.kind { return }
        hasPrefixRequest = true
    }

    func removeAll() {
        hasPrefixRequest = false
        batch.removeAll()
        requests.removeAll(keepingCapacity: requests.capacity <= 1024)
        deliverTo = nil
    }
}
