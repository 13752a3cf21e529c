extension StoreMachine {
    /// A lease, as it is in memory.
    struct Lease {
        let principal: String
        let timeToLive: Duration
        var deadline: Duration
        /// What goes when it ends.
        var keys: Set<[UInt8]> = []
    }

    // MARK: Requests

    mutating func grantLease(_ request: GrantLeaseRequest) throws(StorageError) -> LeaseGrant {
        let principal = request.terms.principal
        let own = leaseCounts[principal, default: 0]
        guard leases.count < limits.maximumLeases, own < limits.maximumLeasesPerPrincipal else {
            throw StorageError(
                .tooMany, subject: "lease", found: "\(own) leases of this principal",
                expected: "fewer than \(limits.maximumLeasesPerPrincipal) each, and fewer in all",
                remedy: "revoke leases that are not needed, or wait until they are over")
        }
        let timeToLive = min(max(request.timeToLive, limits.minimumLeaseTimeToLive), limits.maximumLeaseTimeToLive)
        lastLease += 1
        isLeaseCounterChanged = true
        let identifier = LeaseID(lastLease)
        add(Lease(principal: principal, timeToLive: timeToLive, deadline: now + timeToLive), identifier)
        changes.batch.putLease(
            identifier, LeaseRecord(principal: principal, timeToLiveMilliseconds: timeToLive.wholeMilliseconds))
        record(.lease(identifier, timeToLiveMilliseconds: timeToLive.wholeMilliseconds, revision), of: request.terms)
        return LeaseGrant(lease: identifier, timeToLive: timeToLive, remaining: timeToLive)
    }

    mutating func keepLease(_ terms: WriteTerms) throws(StorageError) -> LeaseGrant {
        let (identifier, lease) = try ownLease(terms)
        leases[identifier]?.deadline = now + lease.timeToLive
        return LeaseGrant(lease: identifier, timeToLive: lease.timeToLive, remaining: lease.timeToLive)
    }

    mutating func revokeLease(
        _ terms: WriteTerms, _ origin: CommitOrigin, _ engine: any StorageEngine
    ) throws(StorageError) -> Written {
        let (identifier, _) = try ownLease(terms)
        let count = try endLease(identifier, origin, engine)
        record(.written(revision, changes: UInt32(count)), of: terms)
        return Written(revision: revision, changes: count)
    }

    /// Before something is put with it.
    func requireLease(_ lease: LeaseID, of principal: String) throws(StorageError) {
        _ = try ownLease(WriteTerms(principal: principal, lease: lease))
    }

    private func ownLease(_ terms: WriteTerms) throws(StorageError) -> (LeaseID, Lease) {
        // Another principal learns nothing about it.
        guard let identifier = terms.lease, let lease = leases[identifier], lease.principal == terms.principal else {
            throw StorageError(
                .leaseUnknown, subject: "lease", found: "no such lease of this principal", remedy: "ask for another one")
        }
        return (identifier, lease)
    }

    // MARK: Keys

    /// Writes down which keys the request under way has brought under which lease, and which it has taken out.
    ///
    /// - Throws: `tooMany`; then nothing has changed.
    mutating func moveLeaseKeys() throws(StorageError) {
        var isAnyMoved = false
        for index in overlay.touched {
            let entry = overlay.entries[index]
            if entry.before.lease != entry.state.lease { isAnyMoved = true }
        }
        guard isAnyMoved else { return }
        try checkLeaseBounds()
        for index in overlay.touched {
            let entry = overlay.entries[index]
            guard entry.before.lease != entry.state.lease else { continue }
            let key = changes.batch.bytes(at: entry.key)
            if let lease = entry.before.lease {
                unsafe key.span.bytes.withUnsafeBytes { unsafe changes.batch.removeLeaseKey(lease, $0) }
                if leases[lease]?.keys.remove(key) != nil {
                    leaseKeyCount -= 1
                    leaseKeyBytes -= key.count
                }
            }
            if let lease = entry.state.lease {
                unsafe key.span.bytes.withUnsafeBytes { unsafe changes.batch.putLeaseKey(lease, $0) }
                leases[lease]?.keys.insert(key)
                leaseKeyCount += 1
                leaseKeyBytes += key.count
            }
        }
    }

    private func checkLeaseBounds() throws(StorageError) {
        var counts: [LeaseID: Int] = [:]
        var bytes = leaseKeyBytes
        for index in overlay.touched {
            let entry = overlay.entries[index]
            guard entry.before.lease != entry.state.lease else { continue }
            if let lease = entry.before.lease {
                counts[lease] = (counts[lease] ?? leases[lease]?.keys.count ?? 0) - 1
                bytes -= entry.key.count
            }
            if let lease = entry.state.lease {
                counts[lease] = (counts[lease] ?? leases[lease]?.keys.count ?? 0) + 1
                bytes += entry.key.count
            }
        }
        // What is over its bound already, because that was lowered, may stay as it is.
        var isWithin = bytes <= max(limits.maximumLeaseKeyBytes, leaseKeyBytes)
        for (lease, count) in counts where count > max(limits.maximumKeysPerLease, leases[lease]?.keys.count ?? 0) { isWithin = false }
        guard isWithin else {
            throw StorageError(
                .tooMany, subject: "lease", found: "too many keys that would go with a lease",
                expected: "at most \(limits.maximumKeysPerLease), and \(limits.maximumLeaseKeyBytes) bytes with all leases",
                remedy: "use several leases")
        }
    }

    // MARK: The end

    /// Removes a lease and all that goes with it, at one revision.
    ///
    /// - Returns: how many keys.
    mutating func endLease(
        _ identifier: LeaseID, _ origin: CommitOrigin, _ engine: any StorageEngine
    ) throws(StorageError) -> Int {
        guard let lease = leases[identifier] else { return 0 }
        let mark = requestBegan()
        do throws(StorageError) {
            for key in lease.keys.sorted(by: { $0.lexicographicallyPrecedes($1) }) {
                try unsafe key.span.bytes.withUnsafeBytes { (key) throws(StorageError) in try unsafe remove(key, engine) }
            }
        } catch {
            undoRequest(to: mark)
            throw error
        }
        let count = try requestEnded(from: mark, origin)
        try changes.batch.remove(in: .leases, LeaseRecord.key(of: identifier))
        leases[identifier] = nil
        leaseCounts.decrement(lease.principal)
        return count
    }

    /// Ends the sessions and leases whose time is over: as many as one commit may, the next one goes on.
    mutating func expire(_ engine: any StorageEngine) {
        forgetIdleDeadlines()
        var work = 0
        while work < StorageLimits.maximumExpiredPerCommit, let subject = deadlines.popDue(now) {
            do throws(StorageError) {
                switch subject {
                case .session(let identifier):
                    guard let session = sessions[identifier] else { continue }
                    if session.deadline > now {
                        deadlines.insert(subject, at: session.deadline)
                    } else {
                        work += try endSession(identifier)
                    }
                case .lease(let identifier):
                    guard let lease = leases[identifier] else { continue }
                    if lease.deadline > now {
                        deadlines.insert(subject, at: lease.deadline)
                    } else {
                        work += 1 + (try endLease(identifier, .expiry(of: identifier), engine))
                    }
                }
            } catch {
                // Its keys cannot be read at the moment.
                deadlines.insert(subject, at: now + StorageLimits.expiryRetryDelay)
            }
        }
    }

    /// What was closed or revoked leaves its deadline behind: not more of them than there are others.
    private mutating func forgetIdleDeadlines() {
        guard deadlines.count > 2 * (sessions.count + leases.count) + StorageLimits.maximumIdleDeadlines else { return }
        deadlines = DeadlineQueue()
        for (identifier, session) in sessions { deadlines.insert(.session(identifier), at: session.deadline) }
        for (identifier, lease) in leases { deadlines.insert(.lease(identifier), at: lease.deadline) }
    }

    // MARK: Loading

    private mutating func add(_ lease: Lease, _ identifier: LeaseID) {
        leases[identifier] = lease
        leaseCounts[lease.principal, default: 0] += 1
        deadlines.insert(.lease(identifier), at: lease.deadline)
    }

    /// Their time counts anew.
    mutating func loadLeases(from snapshot: any EngineSnapshot) throws(StorageError) {
        var loaded: [LeaseID: Lease] = [:]
        try unsafe StoreMachine.scan(.leases, of: snapshot) { (key, record) throws(StorageError) in
            let record = try unsafe LeaseRecord(decoding: record)
            let timeToLive = Duration.milliseconds(Int64(clamping: record.timeToLiveMilliseconds))
            loaded[try unsafe LeaseRecord.lease(ofKey: key)] = Lease(
                principal: record.principal, timeToLive: timeToLive, deadline: now + timeToLive)
        }
        var (count, bytes) = (0, 0)
        try unsafe StoreMachine.scan(.leaseKeys, of: snapshot) { (key, _) throws(StorageError) in
            let (lease, bound) = try unsafe LeaseRecord.binding(ofKey: key)
            loaded[lease]?.keys.insert(unsafe Array(bound))
            count += 1
            bytes += bound.count
        }
        leaseKeyCount = count
        leaseKeyBytes = bytes
        for (identifier, lease) in loaded { add(lease, identifier) }
    }
}
