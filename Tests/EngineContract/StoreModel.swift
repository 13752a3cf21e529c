import MWStorage

/// A request to a store, as a value.
enum ModelRequest: CustomStringConvertible {
    case write([(key: [UInt8], value: [UInt8]?)], lease: LeaseID?, Caller)
    case transaction(Transaction, Caller)
    case allocatePrefix(Caller)
    case openSession(principal: String, timeToLive: Duration)
    case resumeSession(SessionID, principal: String)
    case closeSession(SessionID, principal: String)
    case grantLease(timeToLive: Duration, Caller)
    case keepLease(LeaseID, principal: String)
    case revokeLease(LeaseID, Caller)
    case compact(Revision)

    struct Caller {
        var principal: String
        var writeID: WriteIdentifier?
    }

    var description: String {
        switch self {
        case .write(let operations, let lease, let caller): "write \(operations) \(String(describing: lease)) \(caller)"
        case .transaction(let transaction, let caller): "transaction \(transaction) \(caller)"
        case .allocatePrefix(let caller): "allocatePrefix \(caller)"
        case .openSession(let principal, let timeToLive): "openSession \(principal) \(timeToLive)"
        case .resumeSession(let session, let principal): "resumeSession \(session.number) \(principal)"
        case .closeSession(let session, let principal): "closeSession \(session.number) \(principal)"
        case .grantLease(let timeToLive, let caller): "grantLease \(timeToLive) \(caller)"
        case .keepLease(let lease, let principal): "keepLease \(lease) \(principal)"
        case .revokeLease(let lease, let caller): "revokeLease \(lease) \(caller)"
        case .compact(let revision): "compact \(revision)"
        }
    }
}

/// How a request ended, so that two can be compared.
enum ModelResult: Hashable {
    case written(Written)
    case transaction(TransactionOutcome)
    case prefix(UInt32, isRepeated: Bool)
    case session(SessionGrant)
    case done
    case lease(LeaseGrant)
    case compacted(Revision)
    case failed(StorageError.Code)

    init(_ result: CommitOutcome.Result) {
        switch result {
        case .written(let written): self = .written(written)
        case .transaction(let outcome): self = .transaction(outcome)
        case .prefix(let prefix, let isRepeated): self = .prefix(prefix, isRepeated: isRepeated)
        case .session(let grant): self = .session(grant)
        case .done: self = .done
        case .lease(let grant): self = .lease(grant)
        case .compacted(let revision): self = .compacted(revision)
        case .failed(let error): self = .failed(error.code)
        }
    }

    enum Kind { case written, transaction, prefix, lease, other }

    var kind: Kind {
        switch self {
        case .written: .written
        case .transaction: .transaction
        case .prefix: .prefix
        case .lease: .lease
        case .session, .done, .compacted, .failed: .other
        }
    }

    /// The same, as the answer to a repetition.
    fileprivate var repeated: ModelResult {
        switch self {
        case .written(var written):
            written.isRepeated = true
            return .written(written)
        case .transaction(var outcome):
            outcome.isRepeated = true
            return .transaction(outcome)
        case .prefix(let prefix, _): return .prefix(prefix, isRepeated: true)
        case .lease(var grant):
            grant.isRepeated = true
            return .lease(grant)
        default: return self
        }
    }
}

/// What a store must do, said as simply as it can be: dictionaries, and copies of them. It shares no code with the store.
struct StoreModel {
    struct Value: Hashable {
        var bytes: [UInt8]
        var revision: Revision
        var lease: LeaseID?
    }

    struct Change: Hashable {
        var key: [UInt8]
        var value: [UInt8]?
        var previousRevision: Revision
        var lease: LeaseID?
    }

    struct Session {
        var principal: String
        var timeToLive: Duration
        var deadline: Duration
        var acknowledged: UInt64 = 0
        var outcomes: [UInt64: ModelResult] = [:]
    }

    struct Lease {
        var principal: String
        var timeToLive: Duration
        var deadline: Duration
    }

    let limits: StorageLimits
    var data: [[UInt8]: Value] = [:]
    var revision = Revision.zero
    /// Of every revision, its changes and when it was made.
    var log: [(changes: [Change], time: Duration)] = []
    var compacted = Revision.zero
    var sessions: [SessionID: Session] = [:]
    var leases: [LeaseID: Lease] = [:]
    var nextPrefix: UInt32 = 0
    var lastLease: UInt64 = 0
    var lastSession: UInt128 = 0
    /// The counters as they are on disk: what a failed commit gave out nobody got, and only a restart gives it out again.
    private var stored: (nextPrefix: UInt32, lastLease: UInt64) = (0, 0)

    init(limits: StorageLimits) { self.limits = limits }

    // MARK: Events

    mutating func perform(_ request: ModelRequest, at now: Duration) -> ModelResult {
        switch request {
        case .write(let operations, let lease, let caller):
            once(caller, .written, now) { model in
                if let lease, model.leases[lease]?.principal != caller.principal { return .failed(.leaseUnknown) }
                return model.change(now) { model in
                    for operation in operations { model.set(operation.key, operation.value, lease) }
                }.map { .written(Written(revision: model.revision, changes: $0)) } ?? .failed(.tooMany)
            }
        case .transaction(let transaction, let caller): once(caller, .transaction, now) { $0.perform(transaction, caller, now) }
        case .allocatePrefix(let caller):
            once(caller, .prefix, now) { model in
                model.nextPrefix += 1
                return .prefix(model.nextPrefix - 1, isRepeated: false)
            }
        case .openSession(let principal, let timeToLive): openSession(principal, timeToLive, now)
        case .resumeSession(let session, let principal):
            touch(session, principal, now)
                ? .session(grant(session)) : .failed(.sessionUnknown)
        case .closeSession(let session, let principal):
            touch(session, principal, now) && sessions.removeValue(forKey: session) != nil ? .done : .failed(.sessionUnknown)
        case .grantLease(let timeToLive, let caller): once(caller, .lease, now) { $0.grantLease(timeToLive, caller.principal, now) }
        case .keepLease(let lease, let principal): keepLease(lease, principal, now)
        case .revokeLease(let lease, let caller):
            once(caller, .written, now) { model in
                guard model.leases[lease]?.principal == caller.principal else { return .failed(.leaseUnknown) }
                let changes = model.endLease(lease, now)
                return .written(Written(revision: model.revision, changes: changes))
            }
        case .compact(let target):
            compact(to: min(target, revision))
        }
    }

    /// Sessions that are over are gone; leases are ended one by one, since their order is the store's to choose.
    mutating func endSessions(at now: Duration) { sessions = sessions.filter { $0.value.deadline > now } }

    func dueLeases(at now: Duration) -> Set<LeaseID> { Set(leases.filter { $0.value.deadline <= now }.keys) }

    /// Removes what goes with the lease; returns how many keys.
    mutating func endLease(_ lease: LeaseID, _ now: Duration) -> Int {
        let keys = data.filter { $0.value.lease == lease }.keys.sorted { $0.lexicographicallyPrecedes($1) }
        let count = change(now) { model in for key in keys { model.set(key, nil, nil) } }
        leases[lease] = nil
        return count ?? 0
    }

    /// A commit has reached the disk that began with `former`.
    mutating func committed(after former: StoreModel) {
        if nextPrefix != former.nextPrefix { stored.nextPrefix = nextPrefix }
        if lastLease != former.lastLease { stored.lastLease = lastLease }
    }

    mutating func restarted(at now: Duration) {
        (nextPrefix, lastLease) = stored
        reopened(at: now)
    }

    /// The store was opened again: all time counts anew.
    mutating func reopened(at now: Duration) {
        for (identifier, session) in sessions { sessions[identifier]?.deadline = now + session.timeToLive }
        for (identifier, lease) in leases { leases[identifier]?.deadline = now + lease.timeToLive }
    }

    // MARK: Parts

    private mutating func once(
        _ caller: ModelRequest.Caller, _ kind: ModelResult.Kind, _ now: Duration, _ body: (inout StoreModel) -> ModelResult
    ) -> ModelResult {
        guard let write = caller.writeID else { return body(&self) }
        guard touch(write.session, caller.principal, now) else { return .failed(.sessionUnknown) }
        sessions[write.session]?.acknowledged.raise(to: write.acknowledged)
        let acknowledged = sessions[write.session]?.acknowledged ?? 0
        if write.sequence <= acknowledged { return .failed(.outcomeForgotten) }
        if write.sequence - acknowledged > UInt64(limits.maximumOutcomesPerSession) { return .failed(.tooMany) }
        if let first = sessions[write.session]?.outcomes[write.sequence] {
            guard first.kind == kind else { return .failed(.invalidRequest) }
            guard case .lease(var grant) = first.repeated else { return first.repeated }
            grant.remaining = leases[grant.lease].map { max(.zero, $0.deadline - now) } ?? .zero
            return .lease(grant)
        }
        let result = body(&self)
        if case .failed = result { return result }
        sessions[write.session]?.outcomes[write.sequence] = result
        return result
    }

    /// Runs `body`, and gives what it changed a revision.
    ///
    /// - Returns: how many keys it changed; nil if there would be too many with a lease, and then nothing has changed.
    private mutating func change(_ now: Duration, _ body: (inout StoreModel) -> Void) -> Int? {
        let before = data
        touched = []
        body(&self)
        let changes = touched.filter { before[$0] != nil || data[$0] != nil }.map { key in
            Change(
                key: key, value: data[key]?.bytes, previousRevision: before[key]?.revision ?? .zero, lease: data[key]?.lease)
        }
        for lease in leases.keys {
            let count = data.values.count { $0.lease == lease }
            if count > limits.maximumKeysPerLease, count > before.values.count(where: { $0.lease == lease }) {
                data = before
                return nil
            }
        }
        guard !changes.isEmpty else {
            data = before
            return 0
        }
        revision = revision.next
        log.append((changes, now))
        return changes.count
    }

    /// Keys that the change under way has had to do with, in order.
    private var touched: [[UInt8]] = []

    private mutating func set(_ key: [UInt8], _ value: [UInt8]?, _ lease: LeaseID?) {
        guard value != nil || data[key] != nil else { return }
        if !touched.contains(key) { touched.append(key) }
        data[key] = value.map { Value(bytes: $0, revision: revision.next, lease: lease) }
    }

    private mutating func perform(_ transaction: Transaction, _ caller: ModelRequest.Caller, _ now: Duration) -> ModelResult {
        let holds = transaction.compares.allSatisfy { self.holds($0) }
        let operations = holds ? transaction.thenOperations : transaction.elseOperations
        for case .put(_, _, let lease?) in operations where leases[lease]?.principal != caller.principal {
            return .failed(.leaseUnknown)
        }
        var results: [StoredEntry] = []
        let changes = change(now) { model in
            for operation in operations {
                let value = model.data[operation.key]
                results.append(
                    StoredEntry(
                        key: operation.key, value: value?.bytes ?? [], revision: value?.revision ?? .zero, lease: value?.lease))
                switch operation {
                case .get: break
                case .put(let key, let value, let lease): model.set(key, value, lease)
                case .remove(let key): model.set(key, nil, nil)
                }
            }
        }
        guard changes != nil else { return .failed(.tooMany) }
        return .transaction(TransactionOutcome(revision: revision, hasSucceeded: holds, results: results))
    }

    private func holds(_ compare: Transaction.Compare) -> Bool {
        let value = data[compare.key]
        switch compare.condition {
        case .isPresent: return value != nil
        case .isAbsent: return value == nil
        case .revision(let relation, let revision):
            return relation.holds(value?.revision ?? .zero, revision) { $0 < $1 }
        case .value(let relation, let bytes):
            return relation.holds(value?.bytes ?? [], bytes) { $0.lexicographicallyPrecedes($1) }
        }
    }

    private mutating func openSession(_ principal: String, _ timeToLive: Duration, _ now: Duration) -> ModelResult {
        guard sessions.count < limits.maximumSessions,
            sessions.values.count(where: { $0.principal == principal }) < limits.maximumSessionsPerPrincipal
        else { return .failed(.tooMany) }
        lastSession += 1
        let asked = timeToLive == .zero ? limits.defaultSessionTimeToLive : timeToLive
        let timeToLive = min(asked, limits.maximumSessionTimeToLive)
        sessions[SessionID(lastSession)] = Session(principal: principal, timeToLive: timeToLive, deadline: now + timeToLive)
        return .session(grant(SessionID(lastSession)))
    }

    private func grant(_ session: SessionID) -> SessionGrant {
        SessionGrant(
            session: session, timeToLive: sessions[session]?.timeToLive ?? .zero, maximumOutcomes: limits.maximumOutcomesPerSession)
    }

    private mutating func touch(_ session: SessionID, _ principal: String, _ now: Duration) -> Bool {
        guard let found = sessions[session], found.principal == principal else { return false }
        sessions[session]?.deadline = now + found.timeToLive
        return true
    }

    private mutating func grantLease(_ timeToLive: Duration, _ principal: String, _ now: Duration) -> ModelResult {
        guard leases.count < limits.maximumLeases,
            leases.values.count(where: { $0.principal == principal }) < limits.maximumLeasesPerPrincipal
        else { return .failed(.tooMany) }
        lastLease += 1
        let granted = min(max(timeToLive, limits.minimumLeaseTimeToLive), limits.maximumLeaseTimeToLive)
        leases[LeaseID(lastLease)] = Lease(principal: principal, timeToLive: granted, deadline: now + granted)
        return .lease(LeaseGrant(lease: LeaseID(lastLease), timeToLive: granted, remaining: granted))
    }

    private mutating func keepLease(_ lease: LeaseID, _ principal: String, _ now: Duration) -> ModelResult {
        guard let found = leases[lease], found.principal == principal else { return .failed(.leaseUnknown) }
        leases[lease]?.deadline = now + found.timeToLive
        return .lease(LeaseGrant(lease: lease, timeToLive: found.timeToLive, remaining: found.timeToLive))
    }

    private mutating func compact(to revision: Revision) -> ModelResult {
        compacted = max(compacted, revision)
        return .compacted(compacted)
    }
}

extension Transaction.Relation {
    fileprivate func holds<V: Equatable>(_ left: V, _ right: V, _ precedes: (V, V) -> Bool) -> Bool {
        switch self {
        case .equal: left == right
        case .notEqual: left != right
        case .less: precedes(left, right)
        case .greater: precedes(right, left)
        }
    }
}

extension UInt64 {
    fileprivate mutating func raise(to other: UInt64) { self = Swift.max(self, other) }
}
