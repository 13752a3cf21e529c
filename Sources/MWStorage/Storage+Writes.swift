/// Writes of whoever is not on an event loop; each returns when it is durable. They do not heed cancellation.
extension Storage {
    /// Stores `value` under `key`.
    @discardableResult
    package func put(_ key: [UInt8], _ value: [UInt8], lease: LeaseID? = nil) async throws(StorageError) -> Written {
        try await write(lease: lease) { (batch) throws(StorageError) in try batch.put(key, value) }
    }

    /// Makes `key` absent.
    @discardableResult
    package func remove(_ key: [UInt8]) async throws(StorageError) -> Written {
        try await write { (batch) throws(StorageError) in try batch.remove(key) }
    }

    /// Applies all that `body` writes, or nothing.
    @discardableResult
    package func write(
        writeID: WriteIdentifier? = nil, principal: String = "", lease: LeaseID? = nil,
        _ body: (inout WriteBatch) throws(StorageError) -> Void
    ) async throws(StorageError) -> Written {
        let result = try await inProcess.submit { (submitter, token) throws(StorageError) in
            try submitter.submit(token: token, writeID: writeID, principal: principal, lease: lease, body)
        }
        guard case .written(let written) = result else { throw Storage.otherOutcome }
        return written
    }

    /// Does what `transaction` says.
    package func transaction(
        _ transaction: Transaction, writeID: WriteIdentifier? = nil, principal: String = ""
    ) async throws(StorageError) -> TransactionOutcome {
        let result = try await inProcess.submit { (submitter, token) throws(StorageError) in
            try submitter.submit(token: token, transaction: transaction, writeID: writeID, principal: principal)
        }
        guard case .transaction(let outcome) = result else { throw Storage.otherOutcome }
        return outcome
    }

    /// A prefix that no client has had and none will have again.
    package func allocatePrefix() async throws(StorageError) -> UInt32 {
        let result = try await inProcess.submit { (submitter, token) throws(StorageError) in
            try submitter.allocatePrefix(token: token)
        }
        guard case .prefix(let prefix, _) = result else { throw Storage.otherOutcome }
        return prefix
    }

    /// Makes sure that prefixes below `next` are never given out.
    package func reservePrefixes(below next: UInt32) async throws(StorageError) {
        _ = try await inProcess.submit { (submitter, token) throws(StorageError) in
            try submitter.reservePrefixes(below: next, token: token)
        }
    }

    /// See ``Submitter/openSession(token:principal:timeToLive:)``.
    package func openSession(principal: String = "", timeToLive: Duration = .zero) async throws(StorageError) -> SessionGrant {
        let result = try await inProcess.submit { (submitter, token) throws(StorageError) in
            try submitter.openSession(token: token, principal: principal, timeToLive: timeToLive)
        }
        guard case .session(let grant) = result else { throw Storage.otherOutcome }
        return grant
    }

    /// Forgets a session and its outcomes.
    package func closeSession(_ session: SessionID, principal: String = "") async throws(StorageError) {
        _ = try await inProcess.submit { (submitter, token) throws(StorageError) in
            try submitter.closeSession(session, token: token, principal: principal)
        }
    }

    /// See ``Submitter/grantLease(token:principal:timeToLive:writeID:)``.
    package func grantLease(timeToLive: Duration, principal: String = "") async throws(StorageError) -> LeaseGrant {
        let result = try await inProcess.submit { (submitter, token) throws(StorageError) in
            try submitter.grantLease(token: token, principal: principal, timeToLive: timeToLive)
        }
        guard case .lease(let grant) = result else { throw Storage.otherOutcome }
        return grant
    }

    /// Keeps a lease for its whole time again.
    @discardableResult
    package func keepLease(_ lease: LeaseID, principal: String = "") async throws(StorageError) -> LeaseGrant {
        let result = try await inProcess.submit { (submitter, token) throws(StorageError) in
            try submitter.keepLease(lease, token: token, principal: principal)
        }
        guard case .lease(let grant) = result else { throw Storage.otherOutcome }
        return grant
    }

    /// Ends a lease, and removes the keys that go with it, all at one revision.
    @discardableResult
    package func revokeLease(_ lease: LeaseID, principal: String = "") async throws(StorageError) -> Written {
        let result = try await inProcess.submit { (submitter, token) throws(StorageError) in
            try submitter.revokeLease(lease, token: token, principal: principal)
        }
        guard case .written(let written) = result else { throw Storage.otherOutcome }
        return written
    }

    /// Forgets the history up to and with `revision`; returns the revision behind which there is some.
    @discardableResult
    package func compact(to revision: Revision) async throws(StorageError) -> Revision {
        let result = try await inProcess.submit { (submitter, token) throws(StorageError) in
            try submitter.compact(to: revision, token: token)
        }
        guard case .compacted(let compacted) = result else { throw Storage.otherOutcome }
        return compacted
    }

    /// A repeated write whose first arrival was of another kind.
    private static var otherOutcome: StorageError {
        StorageError(
            .invalidRequest, subject: "write", found: "the identifier of an earlier write of another kind",
            remedy: "give each write of a session a sequence of its own")
    }
}
