/// The way into the commit queue for one event loop (or one thread).
///
/// Call order: any number of requests, then one ``flush()`` when the burst of requests ends. Requests are committed in the
/// order in which they were submitted; each is atomic, and answered with one outcome that carries its token. All of this
/// from the one thread that owns the submitter. Each request throws `overloaded`, `closed`, and what is wrong with it;
/// then nothing of it remains and no outcome follows.
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

    // MARK: Writes

    /// Adds the puts and removes that `body` writes into the batch; answered with `written`.
    ///
    /// - Parameters:
    ///   - writeID: Which write of a session it is: a repetition does nothing, and is answered as the first one was.
    ///   - principal: Whose session and lease they are.
    ///   - lease: What is put goes when it ends. Without, a put takes a key out of its lease.
    package func submit(
        token: UInt64, writeID: WriteIdentifier? = nil, principal: String = "", lease: LeaseID? = nil,
        _ body: (inout WriteBatch) throws(StorageError) -> Void
    ) throws(StorageError) {
        if filling.batch.byteCount >= StorageLimits.maximumQueueBytes { flush() }
        try committer.admit(filling)
        let start = filling.batch.mark
        do {
            try body(&filling.batch)
        } catch {
            filling.batch.rollBack(to: start)
            throw error
        }
        guard writeID != nil || lease != nil else { return filling.append(.write, token: token) }
        filling.append(.guardedWrite(WriteTerms(writeID: writeID, principal: principal, lease: lease)), token: token)
    }

    /// Adds a transaction; answered with `transaction`.
    package func submit(
        token: UInt64, transaction: Transaction, writeID: WriteIdentifier? = nil, principal: String = ""
    ) throws(StorageError) {
        try committer.admit(filling)
        let bytes = try transaction.checkedByteCount()
        let terms = WriteTerms(writeID: writeID, principal: principal)
        filling.append(.transaction(TransactionRequest(transaction: transaction, terms: terms)), token: token, payloadBytes: bytes)
    }

    // MARK: Prefixes

    /// Asks for a prefix that no client has had and none will have again; answered with `prefix`.
    package func allocatePrefix(token: UInt64, writeID: WriteIdentifier? = nil, principal: String = "") throws(StorageError) {
        try committer.admit(filling)
        filling.append(.allocatePrefix(writeID.map { WriteTerms(writeID: $0, principal: principal) }), token: token)
    }

    /// Makes sure that prefixes below `next` are never given out: an import brings the old store's counter. Answered with `done`.
    package func reservePrefixes(below next: UInt32, token: UInt64) throws(StorageError) {
        try committer.admit(filling)
        filling.append(.reservePrefixes(below: next), token: token)
    }

    // MARK: Sessions

    /// Opens a session of `principal`; answered with `session`.
    ///
    /// - Parameter timeToLive: Since its last use; zero is the default. The store may give less.
    package func openSession(token: UInt64, principal: String, timeToLive: Duration = .zero) throws(StorageError) {
        try committer.admit(filling)
        filling.append(.openSession(OpenSessionRequest(principal: principal, timeToLive: timeToLive)), token: token)
    }

    /// Keeps a session for its whole time again; answered with `session`, or with `sessionUnknown`.
    package func resumeSession(_ session: SessionID, token: UInt64, principal: String) throws(StorageError) {
        try committer.admit(filling)
        filling.append(.resumeSession(SessionRequest(session: session, principal: principal)), token: token)
    }

    /// Forgets a session and its outcomes; answered with `done`, or with `sessionUnknown`.
    package func closeSession(_ session: SessionID, token: UInt64, principal: String) throws(StorageError) {
        try committer.admit(filling)
        filling.append(.closeSession(SessionRequest(session: session, principal: principal)), token: token)
    }

    // MARK: Leases

    /// Grants a lease to `principal`; answered with `lease`.
    package func grantLease(
        token: UInt64, principal: String, timeToLive: Duration, writeID: WriteIdentifier? = nil
    ) throws(StorageError) {
        try committer.admit(filling)
        let terms = WriteTerms(writeID: writeID, principal: principal)
        filling.append(.grantLease(GrantLeaseRequest(timeToLive: timeToLive, terms: terms)), token: token)
    }

    /// Keeps a lease for its whole time again; answered with `lease`, or with `leaseUnknown`.
    package func keepLease(_ lease: LeaseID, token: UInt64, principal: String) throws(StorageError) {
        try committer.admit(filling)
        filling.append(.keepLease(WriteTerms(principal: principal, lease: lease)), token: token)
    }

    /// Ends a lease, and removes the keys that go with it, all at one revision; answered with `written`, or with `leaseUnknown`.
    package func revokeLease(
        _ lease: LeaseID, token: UInt64, principal: String, writeID: WriteIdentifier? = nil
    ) throws(StorageError) {
        try committer.admit(filling)
        filling.append(.revokeLease(WriteTerms(writeID: writeID, principal: principal, lease: lease)), token: token)
    }

    // MARK: History

    /// Forgets the history up to and with `revision`; answered with `compacted`.
    package func compact(to revision: Revision, token: UInt64) throws(StorageError) {
        try committer.admit(filling)
        filling.append(.compact(revision), token: token)
    }

    // MARK: The queue

    /// Hands everything submitted so far to the commit thread. Cheap if there is nothing.
    package func flush() {
        guard !filling.requests.isEmpty else { return }
        filling = committer.accept(filling, from: self)
    }

    /// Whether half of what may wait for the disk is waiting: stop reading from the network until outcomes arrive.
    package var isCongested: Bool { committer.isCongested }
}
