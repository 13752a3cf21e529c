extension StoreMachine {
    /// A session, as it is in memory.
    struct Session {
        let principal: String
        let timeToLive: Duration
        var deadline: Duration
        /// Outcomes up to this one are not asked for again.
        var acknowledged: UInt64
        /// The same, as it is stored: those behind it are stored too.
        var storedAcknowledged: UInt64
        /// The last sequence that has been seen: what is behind it is new.
        var highest: UInt64

        var record: SessionRecord {
            SessionRecord(principal: principal, timeToLiveMilliseconds: timeToLive.wholeMilliseconds, acknowledged: acknowledged)
        }
    }

    // MARK: Requests

    mutating func openSession(_ request: OpenSessionRequest) throws(StorageError) -> SessionGrant {
        let own = sessionCounts[request.principal, default: 0]
        guard sessions.count < limits.maximumSessions, own < limits.maximumSessionsPerPrincipal else {
            throw StorageError(
                .tooMany, subject: "session", found: "\(own) sessions of this principal",
                expected: "fewer than \(limits.maximumSessionsPerPrincipal) each, and fewer in all",
                remedy: "close sessions that are not needed, or wait until they are over")
        }
        var identifier = makeSessionID()
        while sessions[identifier] != nil { identifier = makeSessionID() }
        let asked = request.timeToLive > .zero ? request.timeToLive : limits.defaultSessionTimeToLive
        let timeToLive = min(max(asked, .milliseconds(1)), limits.maximumSessionTimeToLive)
        let session = Session(
            principal: request.principal, timeToLive: timeToLive, deadline: now + timeToLive, acknowledged: 0, storedAcknowledged: 0,
            highest: 0)
        add(session, identifier)
        changes.batch.putSession(identifier, session.record)
        return grant(identifier, session)
    }

    mutating func resumeSession(_ request: SessionRequest) throws(StorageError) -> SessionGrant {
        try touch(request.session, request.principal)
        guard let session = sessions[request.session] else { throw StoreMachine.sessionUnknown }
        return grant(request.session, session)
    }

    mutating func closeSession(_ request: SessionRequest) throws(StorageError) {
        try touch(request.session, request.principal)
        _ = try endSession(request.session)
    }

    private func grant(_ identifier: SessionID, _ session: Session) -> SessionGrant {
        SessionGrant(session: identifier, timeToLive: session.timeToLive, maximumOutcomes: limits.maximumOutcomesPerSession)
    }

    // MARK: Exactly once

    /// How the write ended when it came before; nil if it has not come yet, or is no session's.
    ///
    /// - Throws: `sessionUnknown`, `outcomeForgotten`, `tooMany`: then it is not done.
    mutating func firstOutcome(of terms: WriteTerms, _ engine: any StorageEngine) throws(StorageError) -> OutcomeRecord? {
        guard let write = terms.writeID else { return nil }
        try touch(write.session, terms.principal)
        guard var session = sessions[write.session] else { throw StoreMachine.sessionUnknown }
        session.acknowledged = max(session.acknowledged, write.acknowledged)
        sessions[write.session] = session
        guard write.sequence > session.acknowledged else {
            throw StorageError(
                .outcomeForgotten, subject: "write \(write.sequence)",
                found: "that outcomes up to \(session.acknowledged) have been acknowledged", remedy: "read what is there")
        }
        guard write.sequence - session.acknowledged <= UInt64(limits.maximumOutcomesPerSession) else {
            throw StorageError(
                .tooMany, subject: "write \(write.sequence)", found: "outcomes acknowledged up to \(session.acknowledged) only",
                expected: "at most \(limits.maximumOutcomesPerSession) without", remedy: "acknowledge outcomes that have arrived")
        }
        guard write.sequence <= session.highest else { return nil }
        let key = WriteKey(session: write.session, sequence: write.sequence)
        if let outcome = newOutcomes[key] ?? earlierOutcomes[key] { return outcome }
        return try StoreMachine.storedOutcome(of: write, engine)
    }

    private static func storedOutcome(of write: WriteIdentifier, _ engine: any StorageEngine) throws(StorageError) -> OutcomeRecord? {
        var bytes: [UInt8]?
        let key = [Keyspace.outcomes.prefix] + OutcomeRecord.key(of: write.session, write.sequence)
        try unsafe key.span.bytes.withUnsafeBytes { (key) throws(StorageError) in
            try unsafe engine.read(key) { unsafe bytes = $0.map { unsafe Array($0) } }
        }
        guard let bytes else { return nil }
        return try unsafe bytes.span.bytes.withUnsafeBytes { (bytes) throws(StorageError) in
            try unsafe OutcomeRecord(decoding: bytes)
        }
    }

    /// Stores how a write of a session has ended, with what it did.
    mutating func record(_ outcome: OutcomeRecord, of terms: WriteTerms) {
        guard let write = terms.writeID, var session = sessions[write.session] else { return }
        changes.batch.putOutcome(write.session, write.sequence, outcome)
        newOutcomes[WriteKey(session: write.session, sequence: write.sequence)] = outcome
        // Before this write counts: a client may acknowledge any number, and only what was stored is removed.
        if session.acknowledged - session.storedAcknowledged >= StorageLimits.acknowledgementSlack {
            removeOutcomes(of: write.session, session, upTo: session.acknowledged)
            session.storedAcknowledged = session.acknowledged
            changes.batch.putSession(write.session, session.record)
        }
        session.highest = max(session.highest, write.sequence)
        sessions[write.session] = session
    }

    enum OutcomeKind { case written, transaction, prefix, lease }

    /// What a repeated write is answered with.
    mutating func repeated(_ outcome: OutcomeRecord, as kind: OutcomeKind) throws(StorageError) -> CommitOutcome.Result {
        switch (outcome, kind) {
        case (.written(let revision, let changes), .written):
            return .written(Written(revision: revision, changes: Int(changes), isRepeated: true))
        case (.transaction(let revision, let hasSucceeded, let results), .transaction):
            resultBytes += results.reduce(0) { $0 + $1.key.count + $1.value.count }
            guard resultBytes <= StorageLimits.maximumResultBytesPerCommit else { throw StoreMachine.tooManyResults }
            return .transaction(
                TransactionOutcome(revision: revision, hasSucceeded: hasSucceeded, results: results, isRepeated: true))
        case (.prefix(let prefix, _), .prefix): return .prefix(prefix, isRepeated: true)
        case (.lease(let lease, let timeToLive, _), .lease):
            let timeToLive = Duration.milliseconds(Int64(clamping: timeToLive))
            let remaining = leases[lease].map { max(.zero, $0.deadline - now) } ?? .zero
            return .lease(LeaseGrant(lease: lease, timeToLive: timeToLive, remaining: remaining, isRepeated: true))
        default:
            throw StorageError(
                .invalidRequest, subject: "write", found: "the sequence of an earlier write of another kind",
                remedy: "give each write of a session a sequence of its own")
        }
    }

    // MARK: The end

    /// Keeps a session for its whole time again.
    mutating func touch(_ identifier: SessionID, _ principal: String) throws(StorageError) {
        // Another principal learns nothing about it.
        guard let session = sessions[identifier], session.principal == principal else { throw StoreMachine.sessionUnknown }
        sessions[identifier]?.deadline = now + session.timeToLive
    }

    /// - Returns: how much work it was.
    mutating func endSession(_ identifier: SessionID) throws(StorageError) -> Int {
        guard let session = sessions.removeValue(forKey: identifier) else { return 0 }
        sessionCounts.decrement(session.principal)
        try changes.batch.remove(in: .sessions, SessionRecord.key(of: identifier))
        return 1 + removeOutcomes(of: identifier, session, upTo: session.highest)
    }

    @discardableResult
    private func removeOutcomes(of identifier: SessionID, _ session: Session, upTo last: UInt64) -> Int {
        let last = min(last, session.highest)
        guard last > session.storedAcknowledged else { return 0 }
        for sequence in session.storedAcknowledged + 1...last {
            let key = OutcomeRecord.key(of: identifier, sequence)
            unsafe key.span.bytes.withUnsafeBytes { unsafe changes.batch.removeRecord(in: .outcomes, key: $0) }
        }
        return Int(last - session.storedAcknowledged)
    }

    private static let sessionUnknown = StorageError(
        .sessionUnknown, subject: "session", found: "no such session of this principal", remedy: "open another one")

    // MARK: Loading

    private mutating func add(_ session: Session, _ identifier: SessionID) {
        sessions[identifier] = session
        sessionCounts[session.principal, default: 0] += 1
        deadlines.insert(.session(identifier), at: session.deadline)
    }

    /// Their time counts anew.
    mutating func loadSessions(from snapshot: any EngineSnapshot) throws(StorageError) {
        var loaded: [(SessionID, SessionRecord)] = []
        try unsafe StoreMachine.scan(.sessions, of: snapshot) { (key, record) throws(StorageError) in
            loaded.append((try unsafe SessionRecord.session(ofKey: key), try unsafe SessionRecord(decoding: record)))
        }
        for (identifier, record) in loaded {
            var highest = record.acknowledged
            let range = KeyRange(prefix: SessionRecord.key(of: identifier))
            try unsafe StoreMachine.scan(.outcomes, range, .backward, of: snapshot, isFirstOnly: true) { (key, _) throws(StorageError) in
                highest = max(highest, try unsafe OutcomeRecord.write(ofKey: key).sequence)
            }
            let timeToLive = Duration.milliseconds(Int64(clamping: record.timeToLiveMilliseconds))
            let session = Session(
                principal: record.principal, timeToLive: timeToLive, deadline: now + timeToLive, acknowledged: record.acknowledged,
                storedAcknowledged: record.acknowledged, highest: highest)
            add(session, identifier)
        }
    }

    /// Calls `body` with each record of a keyspace (keys without its byte), or with the first only.
    static func scan(
        _ keyspace: Keyspace, _ range: KeyRange = .all, _ direction: ScanDirection = .forward, of snapshot: any EngineSnapshot,
        isFirstOnly: Bool = false, _ body: (UnsafeRawBufferPointer, UnsafeRawBufferPointer) throws(StorageError) -> Void
    ) throws(StorageError) {
        var failure: StorageError?
        try unsafe snapshot.scan(range.engineRange(in: keyspace), direction) { key, record in
            do throws(StorageError) {
                try unsafe body(key.behindKeyspace, record)
            } catch { failure = error }
            return failure == nil && !isFirstOnly
        }
        if let failure { throw failure }
    }
}

extension Duration {
    var wholeMilliseconds: UInt64 { UInt64(clamping: self / .milliseconds(1) < 0 ? 0 : Int64(self / .milliseconds(1))) }
}

extension [String: Int] {
    /// Counts one less; forgets what is at zero.
    mutating func decrement(_ key: String) {
        guard let count = self[key] else { return }
        self[key] = count > 1 ? count - 1 : nil
    }
}
