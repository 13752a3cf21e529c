/// How one submitted request ended.
package struct CommitOutcome: Sendable {
    package enum Result: Sendable {
        /// Written, and as durable as the store's ``Durability`` says.
        case written(Written)
        case transaction(TransactionOutcome)
        case prefix(UInt32, isRepeated: Bool)
        case session(SessionGrant)
        /// There is nothing more to say: a session has been closed.
        case done
        case lease(LeaseGrant)
        /// History reaches back to behind this revision.
        case compacted(Revision)
        /// Nothing of the request can be read now. After a failed write or sync the disk may still hold it, whole, and
        /// show it once the store has recovered.
        case failed(StorageError)
    }

    package let token: UInt64
    package let result: Result
}

/// What a write did.
package struct Written: Hashable, Sendable {
    /// The revision it made; where it changed nothing, the store's.
    package var revision: Revision
    /// Keys that it changed: a remove of an absent key changes none.
    package var changes: Int
    /// This is the outcome of an earlier arrival of the same write.
    package var isRepeated = false

    package init(revision: Revision, changes: Int, isRepeated: Bool = false) {
        self.revision = revision
        self.changes = changes
        self.isRepeated = isRepeated
    }
}

/// What a transaction did.
package struct TransactionOutcome: Hashable, Sendable {
    /// As of ``Written``.
    package var revision: Revision
    /// The conditions held.
    package var hasSucceeded: Bool
    /// One for each operation that was done: what was at its key before it.
    package var results: [StoredEntry]
    package var isRepeated = false

    package init(revision: Revision, hasSucceeded: Bool, results: [StoredEntry], isRepeated: Bool = false) {
        self.revision = revision
        self.hasSucceeded = hasSucceeded
        self.results = results
        self.isRepeated = isRepeated
    }
}

/// A session, as it has been opened or resumed.
package struct SessionGrant: Hashable, Sendable {
    package var session: SessionID
    /// How long it stays from its last use.
    package var timeToLive: Duration
    /// Writes that may be without an acknowledged outcome at once.
    package var maximumOutcomes: Int

    package init(session: SessionID, timeToLive: Duration, maximumOutcomes: Int) {
        self.session = session
        self.timeToLive = timeToLive
        self.maximumOutcomes = maximumOutcomes
    }
}

/// A lease, as it has been granted or kept.
package struct LeaseGrant: Hashable, Sendable {
    package var lease: LeaseID
    /// As granted.
    package var timeToLive: Duration
    package var remaining: Duration
    package var isRepeated = false

    package init(lease: LeaseID, timeToLive: Duration, remaining: Duration, isRepeated: Bool = false) {
        self.lease = lease
        self.timeToLive = timeToLive
        self.remaining = remaining
        self.isRepeated = isRepeated
    }
}

/// Which write of a client's this is: a repetition of it does nothing, and gets the first one's outcome.
package struct WriteIdentifier: Hashable, Sendable {
    package var session: SessionID
    /// From 1; one for each write of the session, never used for another one.
    package var sequence: UInt64
    /// Every outcome up to this sequence has arrived: the store may forget them.
    package var acknowledged: UInt64

    package init(session: SessionID, sequence: UInt64, acknowledged: UInt64 = 0) {
        self.session = session
        self.sequence = sequence
        self.acknowledged = acknowledged
    }
}
