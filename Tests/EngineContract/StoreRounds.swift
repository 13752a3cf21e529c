package import MWStorage
import Synchronization
import Testing

/// Does random things to a store, and to a ``StoreModel``, and compares all that can be seen of them. The same seed does the same.
///
/// A round is a commit of requests of two submitters, and at times another one that begins while the first is being written; in between, time
/// passes, the store is closed and opened, or its disk fails. The store has no thread of its own and no clock but this one's.
package final class StoreRounds {
    private let factory: StorageEngineFactory
    private let disk: MemoryDisk?
    private let directory: String
    private var random: SeededRandom
    private var storage: Storage
    private var lanes: [Lane] = []
    private var observation: StorageObservation?
    private var model: StoreModel
    private let world = World()
    private let options: StorageOptions
    /// Where the description of a failure is found: what happened up to it.
    private var steps: [String] = []
    private var recentWrites: [ModelRequest] = []
    /// Of what has been told since requests were submitted, how much has been compared: outcomes of each lane, and commits.
    private var compared = (outcomes: [0, 0], commits: 0)

    package struct Mismatch: Error, CustomStringConvertible {
        package let description: String
    }

    /// Runs `count` rounds on a store in `directory`, which must be empty, or a closed store's if `disk` is new.
    package static func run(
        _ factory: StorageEngineFactory, disk: MemoryDisk? = nil, in directory: String, seed: UInt64, count: Int
    ) throws {
        let rounds = try StoreRounds(factory, disk, directory, seed)
        defer { rounds.storage.close() }
        do {
            for round in 0..<count { try rounds.run(round) }
            try rounds.compareEverything()
        } catch {
            throw Mismatch(description: "seed \(seed): \(error)\n" + rounds.steps.suffix(20).joined(separator: "\n"))
        }
    }

    /// What store and observer share with the test, which is on one thread.
    private final class World: Sendable {
        let time = Mutex(Duration.seconds(1000))
        let lastSession = Mutex(UInt128(0))
        let commits = Mutex<[(origin: CommitOrigin, revision: Revision, changes: [StoreModel.Change])]>([])
        let lastCommitted = Mutex(Revision.zero)

        var now: Duration { time.withLock { $0 } }
    }

    private final class Lane: Sendable {
        let submitter: Submitter
        let delivered: Delivered

        final class Delivered: Sendable {
            let outcomes = Mutex<[CommitOutcome]>([])
        }

        init(_ storage: Storage) {
            let delivered = Delivered()
            self.delivered = delivered
            submitter = storage.makeSubmitter { outcomes in delivered.outcomes.withLock { $0 += outcomes } }
        }
    }

    private final class Observer: StorageObserver {
        let world: World
        init(_ world: World) { self.world = world }

        func committed(_ commit: borrowing Commit) {
            var previous = commit.previousRevision
            world.lastCommitted.withLock { #expect($0 <= previous) }
            commit.forEachRequest { origin, request in
                #expect(request.revision == previous.next)
                previous = request.revision
                var changes: [StoreModel.Change] = []
                request.forEachChange { changes.append(StoreModel.Change($0)) }
                world.commits.withLock { [changes] in $0.append((origin, request.revision, changes)) }
            }
            #expect(previous == commit.lastRevision)
            world.lastCommitted.withLock { $0 = previous }
        }
    }

    private init(_ factory: StorageEngineFactory, _ disk: MemoryDisk?, _ directory: String, _ seed: UInt64) throws {
        self.factory = factory
        self.disk = disk
        self.directory = directory
        self.random = SeededRandom(seed: seed)
        var options = StorageOptions()
        options.commits = .manual
        options.limits.minimumOverlapBytes = 1
        options.limits.maximumHistoryRevisions = 60
        options.limits.maximumHistoryAge = .seconds(500)
        options.limits.maximumOutcomesPerSession = 6
        options.limits.maximumSessions = 5
        options.limits.maximumSessionsPerPrincipal = 3
        options.limits.defaultSessionTimeToLive = .seconds(40)
        options.limits.maximumSessionTimeToLive = .seconds(60)
        options.limits.maximumLeases = 4
        options.limits.maximumLeasesPerPrincipal = 3
        options.limits.maximumKeysPerLease = 3
        options.limits.maximumLeaseTimeToLive = .seconds(60)
        options.clock = { [world] in world.now }
        options.wallClock = { [world] in UInt64(world.now / .milliseconds(1)) }
        options.makeSessionID = { [world] in
            SessionID(
                world.lastSession.withLock { last in
                    last += 1
                    return last
                })
        }
        self.options = options
        self.model = StoreModel(limits: options.limits)
        self.storage = try Storage.open(directory: directory, engine: factory, options: options)
        attach()
    }

    private func attach() {
        lanes = [Lane(storage), Lane(storage)]
        observation = storage.observe(Observer(world))
    }

    // MARK: Rounds

    private func run(_ round: Int) throws {
        switch Int.random(in: 0..<100, using: &random) {
        case 0..<45: pass(.zero)
        case 45..<80: pass(.milliseconds(Int.random(in: 1...3000, using: &random)))
        case 80..<95: pass(.seconds(Int.random(in: 1...30, using: &random)))
        default: pass(.seconds(Int.random(in: 30...300, using: &random)))
        }
        switch Int.random(in: 0..<20, using: &random) {
        case 0: try reopen()
        case 1 where disk != nil: try failCommit()
        default: try commit()
        }
        if Int.random(in: 0..<8, using: &random) == 0 { try compareEverything() }
    }

    private func pass(_ duration: Duration) {
        world.time.withLock { $0 += duration }
        if duration > .zero { steps.append("time passes: \(duration), now \(world.now)") }
    }

    private func reopen() throws {
        // What is due when it is closed may have ended or not: end it before.
        try commit([[], []])
        steps.append("reopen")
        observation?.cancel()
        storage.close()
        storage = try Storage.open(directory: directory, engine: factory, options: options)
        attach()
        model.restarted(at: world.now)
        try compareEverything()
    }

    private func commit() throws {
        let requests = lanes.map { _ in (0..<Int.random(in: 0...5, using: &random)).map { _ in request() } }
        guard disk != nil, Bool.random(using: &random) else { return try commit(requests) }
        try commit(requests, then: laterWrites())
    }

    /// Submits requests of each lane, commits, and compares how they ended.
    ///
    /// - Parameter later: What is flushed while the others are being written.
    private func commit(_ requests: [[ModelRequest]], then later: [[ModelRequest]]? = nil) throws {
        try submit(requests)
        let isFlushed = later.map { flushWhileSyncing($0, after: requests) }
        storage.runCommits()
        disk?.liftFaults()
        try require(storage.health == .writable, "the store is writable")
        model = try modelAfterwards(requests, isLast: later == nil)
        guard let later, let isFlushed else { return }
        if !isFlushed.value.load(ordering: .relaxed) {
            StoreRounds.submit(later, to: lanes, after: requests)
            storage.runCommits()
        }
        model = try modelAfterwards(later)
    }

    private func laterWrites() -> [[ModelRequest]] {
        lanes.map { _ in
            (0..<Int.random(in: 0...4, using: &random)).map { _ in request() }.filter { if case .write = $0 { true } else { false } }
        }
    }

    private final class Flag: Sendable {
        let value = Atomic<Bool>(false)
    }

    private func flushWhileSyncing(_ later: [[ModelRequest]], after requests: [[ModelRequest]]) -> Flag {
        steps.append("while they are being written: \(later)")
        let flag = Flag()
        disk?.changeFaults { faults in
            faults.duringSync = { [lanes] in
                guard !flag.value.exchange(true, ordering: .relaxed) else { return }
                StoreRounds.submit(later, to: lanes, after: requests)
            }
        }
        return flag
    }

    /// Goes on behind `requests`.
    private static func submit(_ later: [[ModelRequest]], to lanes: [Lane], after requests: [[ModelRequest]]) {
        for (lane, (requests, later)) in zip(lanes, zip(requests, later)) {
            for (index, request) in later.enumerated() {
                do throws(StorageError) { try submit(request, UInt64(requests.count + index), lane.submitter) } catch {
                    Issue.record("\(request): \(error)")
                }
            }
            lane.submitter.flush()
        }
    }

    private func submit(_ requests: [[ModelRequest]]) throws {
        world.commits.withLock { $0 = [] }
        compared = ([0, 0], 0)
        for (lane, requests) in zip(lanes, requests) {
            lane.delivered.outcomes.withLock { $0 = [] }
            for (token, request) in requests.enumerated() {
                steps.append("submit \(request)")
                try StoreRounds.submit(request, UInt64(token), lane.submitter)
            }
            lane.submitter.flush()
        }
    }

    /// What the model becomes by `requests` of one commit, with the outcomes and changes compared with it.
    ///
    /// - Parameter isLast: There was none after it.
    private func modelAfterwards(_ requests: [[ModelRequest]], isLast: Bool = true) throws -> StoreModel {
        var model = model
        let now = world.now
        let before = model.revision
        for (lane, requests) in requests.enumerated() {
            let first = compared.outcomes[lane]
            compared.outcomes[lane] += requests.count
            let all = lanes[lane].delivered.outcomes.withLock { $0 }
            let outcomes = isLast ? all[first...] : all.dropFirst(first).prefix(requests.count)
            try require(
                outcomes.map(\.token) == requests.indices.map { UInt64(first + $0) }, "each request has one outcome, in order")
            for (request, outcome) in zip(requests, outcomes) {
                let expected = model.perform(request, at: now)
                try require(
                    ModelResult(outcome.result) == expected, "\(request)\n  ended with \(outcome.result)\n  expected   \(expected)")
            }
        }
        let told = world.commits.withLock { $0 }.dropFirst(compared.commits)
        let own = told.prefix { $0.revision.number <= model.revision.number || $0.origin.isLeaseExpiry }
        let commits = isLast ? told : own
        compared.commits += commits.count
        // What the requests kept alive is not over.
        model.endSessions(at: now)
        var due = model.dueLeases(at: now)
        for commit in commits where commit.origin.isLeaseExpiry {
            let lease = LeaseID(commit.origin.token)
            try require(due.remove(lease) != nil, "lease \(lease) is due")
            try require(model.endLease(lease, now) > 0, "lease \(lease) has keys")
        }
        for lease in due { try require(model.endLease(lease, now) == 0, "lease \(lease) has no keys, or its end is told") }
        if isLast { try require(storage.revision == model.revision, "revision \(storage.revision) is \(model.revision)") }
        try require(commits.map(\.revision.number) == Array(before.number + 1..<model.revision.number + 1), "commits have every revision")
        for commit in commits {
            try require(
                commit.changes == model.log[Int(commit.revision.number) - 1].changes,
                "revision \(commit.revision)\n  told \(commit.changes)\n  expected \(model.log[Int(commit.revision.number) - 1].changes)")
        }
        if isLast { try checkRetention(&model) }
        model.committed(after: self.model)
        return model
    }

    /// The store may forget by itself what is over its bounds, and must.
    private func checkRetention(_ model: inout StoreModel) throws {
        let compacted = storage.compactedRevision
        let kept = Int(model.revision.number - compacted.number)
        try require(compacted >= model.compacted, "history stays compacted")
        try require(kept <= options.limits.maximumHistoryRevisions, "history is bounded: \(kept)")
        if compacted < model.revision {
            let oldest = model.log[Int(compacted.number)].time
            try require(world.now - oldest <= options.limits.maximumHistoryAge, "history is not too old")
        }
        if compacted > model.compacted {
            let isOver = Int(model.revision.number - model.compacted.number) > options.limits.maximumHistoryRevisions
            let oldest = model.log[Int(model.compacted.number)].time
            try require(isOver || world.now - oldest >= options.limits.maximumHistoryAge / 2, "nothing is forgotten too early")
        }
        model.compacted = compacted
    }

    /// The disk fails under a commit, which may be there afterwards or not, whole.
    private func failCommit() throws {
        guard let disk else { return }
        let keeps = Bool.random(using: &random)
        steps.append("the disk fails, \(keeps ? "keeping" : "losing") what was not synced")
        var faults = MemoryDisk.Faults()
        faults.failSyncs = true
        faults.keepsUnsynced = keeps
        disk.setFaults(faults)
        let requests = lanes.map { _ in (0..<Int.random(in: 0...4, using: &random)).map { _ in request() } }
        let writesBefore = disk.writeCount
        try submit(requests)
        let laterRequests = laterWrites()
        let later = flushWhileSyncing(laterRequests, after: requests)
        storage.runCommits()
        disk.liftFaults()
        guard storage.health != .writable else {
            try require(disk.writeCount == writesBefore, "a failed write degrades the store")
            try require(!later.value.load(ordering: .relaxed), "nothing was written")
            model = try modelAfterwards(requests)
            return
        }
        for lane in lanes {
            let outcomes = lane.delivered.outcomes.withLock { $0 }
            try require(outcomes.allSatisfy { ModelResult($0.result) == .failed(.ioError) }, "all fail together")
            try require(outcomes.map(\.token) == outcomes.indices.map { UInt64($0) }, "each has one outcome, in order")
        }
        let submitted = (requests + (later.value.load(ordering: .relaxed) ? laterRequests : [])).reduce(0) { $0 + $1.count }
        let told = lanes.reduce(0) { count, lane in count + lane.delivered.outcomes.withLock { $0.count } }
        try require(told == submitted, "each has an outcome")
        try require(world.commits.withLock(\.isEmpty), "nobody is told of what failed")
        var attempted = model
        for request in requests.joined() { _ = attempted.perform(request, at: world.now) }
        attempted.endSessions(at: world.now)
        // Leases end in an order that nobody has seen: let it be the only one there is.
        let due = attempted.dueLeases(at: world.now)
        for lease in due.sorted() { _ = attempted.endLease(lease, world.now) }
        pass(.seconds(1))
        storage.runCommits()
        try require(storage.health == .writable, "the store recovers")
        if keeps { attempted.committed(after: model) }
        if due.count > 1, keeps { return try adopt(attempted) }
        let (prefix, lastLease) = (attempted.nextPrefix, attempted.lastLease)
        if keeps { model = attempted }
        model.nextPrefix = prefix
        model.lastLease = lastLease
        model.lastSession = world.lastSession.withLock { $0 }
        model.reopened(at: world.now)
        model.compacted = max(model.compacted, storage.compactedRevision)
        try compareEverything()
    }

    /// Takes the order of what nobody was told from history.
    private func adopt(_ attempted: StoreModel) throws {
        var model = attempted
        model.lastSession = world.lastSession.withLock { $0 }
        try require(storage.revision == model.revision, "as many revisions")
        let after = max(self.model.revision, storage.compactedRevision)
        for (revision, changes) in try history(after: after) {
            model.log[Int(revision.number) - 1].changes = changes
            for change in changes where change.value != nil { model.data[change.key]?.revision = revision }
        }
        model.reopened(at: world.now)
        model.compacted = max(model.compacted, storage.compactedRevision)
        self.model = model
        try compareEverything()
    }

    // MARK: Comparing

    private func compareEverything() throws {
        var found: [[UInt8]: StoreModel.Value] = [:]
        let snapshot = try storage.snapshot()
        for entry in try snapshot.scan(.all).entries {
            found[entry.key] = StoreModel.Value(bytes: entry.value, revision: entry.revision, lease: entry.lease)
        }
        try require(found == model.data, "data\n  \(found)\n  expected\n  \(model.data)")
        try require(storage.revision == model.revision, "revision \(storage.revision) is \(model.revision)")
        let after = Revision(.random(in: model.compacted.number...model.revision.number, using: &random))
        let history = try history(after: after)
        try require(history.map(\.0.number) == Array(after.number + 1..<model.revision.number + 1), "history has every revision")
        for (revision, changes) in history {
            try require(changes == model.log[Int(revision.number) - 1].changes, "history of revision \(revision)")
        }
        if model.compacted > .zero {
            let older = Revision(.random(in: 0..<model.compacted.number, using: &random))
            #expect(throws: StorageError(.compacted, subject: "", found: "")) { try storage.history(after: older) }
        }
        let usage = storage.usage
        try require(usage.sessions == model.sessions.count && usage.leases == model.leases.count, "sessions and leases: \(usage)")
        try require(usage.leaseKeys == model.data.values.count { $0.lease != nil }, "keys of leases")
    }

    private func history(after revision: Revision) throws -> [(Revision, [StoreModel.Change])] {
        var all: [(Revision, [StoreModel.Change])] = []
        var after = revision
        while after < storage.revision {
            let page = try storage.history(after: after, limitBytes: .random(in: 1...400, using: &random))
            try require(page.previousRevision == after && page.lastRevision > after, "a page goes on")
            try page.forEachRevision { revision, record in
                var changes: [StoreModel.Change] = []
                try record.forEachChange { changes.append(StoreModel.Change($0)) }
                all.append((revision, changes))
            }
            after = page.lastRevision
        }
        return all
    }

    private func require(_ condition: Bool, _ claim: @autoclosure () -> String) throws {
        if !condition { throw Mismatch(description: "not so: " + claim()) }
    }

    // MARK: Requests

    private static func submit(_ request: ModelRequest, _ token: UInt64, _ submitter: Submitter) throws(StorageError) {
        switch request {
        case .write(let operations, let lease, let caller):
            try submitter.submit(token: token, writeID: caller.writeID, principal: caller.principal, lease: lease) {
                (batch) throws(StorageError) in
                for (key, value) in operations { if let value { try batch.put(key, value) } else { try batch.remove(key) } }
            }
        case .transaction(let transaction, let caller):
            try submitter.submit(token: token, transaction: transaction, writeID: caller.writeID, principal: caller.principal)
        case .allocatePrefix(let caller):
            try submitter.allocatePrefix(token: token, writeID: caller.writeID, principal: caller.principal)
        case .openSession(let principal, let timeToLive):
            try submitter.openSession(token: token, principal: principal, timeToLive: timeToLive)
        case .resumeSession(let session, let principal): try submitter.resumeSession(session, token: token, principal: principal)
        case .closeSession(let session, let principal): try submitter.closeSession(session, token: token, principal: principal)
        case .grantLease(let timeToLive, let caller):
            try submitter.grantLease(token: token, principal: caller.principal, timeToLive: timeToLive, writeID: caller.writeID)
        case .keepLease(let lease, let principal): try submitter.keepLease(lease, token: token, principal: principal)
        case .revokeLease(let lease, let caller):
            try submitter.revokeLease(lease, token: token, principal: caller.principal, writeID: caller.writeID)
        case .compact(let revision): try submitter.compact(to: revision, token: token)
        }
    }

    private func request() -> ModelRequest {
        if let again = recentWrites.randomElement(using: &random), Int.random(in: 0..<6, using: &random) == 0 {
            return acknowledging(again)
        }
        let request = newRequest()
        switch request {
        case .write(_, _, let caller), .transaction(_, let caller), .allocatePrefix(let caller), .grantLease(_, let caller),
            .revokeLease(_, let caller):
            guard caller.writeID != nil else { return request }
            recentWrites.append(request)
            if recentWrites.count > 12 { recentWrites.removeFirst() }
        default: break
        }
        return request
    }

    /// The same write, sent again later: what the client has acknowledged by then it acknowledges for ever.
    private func acknowledging(_ request: ModelRequest) -> ModelRequest {
        func now(_ caller: ModelRequest.Caller) -> ModelRequest.Caller {
            var caller = caller
            guard let write = caller.writeID, let session = model.sessions[write.session] else { return caller }
            caller.writeID?.acknowledged = max(write.acknowledged, session.acknowledged)
            return caller
        }
        switch request {
        case .write(let operations, let lease, let caller): return .write(operations, lease: lease, now(caller))
        case .transaction(let transaction, let caller): return .transaction(transaction, now(caller))
        case .allocatePrefix(let caller): return .allocatePrefix(now(caller))
        case .grantLease(let timeToLive, let caller): return .grantLease(timeToLive: timeToLive, now(caller))
        case .revokeLease(let lease, let caller): return .revokeLease(lease, now(caller))
        default: return request
        }
    }

    private func newRequest() -> ModelRequest {
        switch Int.random(in: 0..<100, using: &random) {
        case 0..<40:
            let operations = (0..<Int.random(in: 1...4, using: &random)).map { _ in
                (key: key(), value: Int.random(in: 0..<3, using: &random) == 0 ? nil : value())
            }
            return .write(operations, lease: lease(), caller())
        case 40..<65: return .transaction(transaction(), caller())
        case 65..<70: return .allocatePrefix(caller())
        case 70..<78: return .openSession(principal: principal(), timeToLive: .seconds(Int.random(in: 0...80, using: &random)))
        case 78..<80: return .resumeSession(session(), principal: principal())
        case 80..<82: return .closeSession(session(), principal: principal())
        case 82..<89: return .grantLease(timeToLive: .milliseconds(Int.random(in: 0...70_000, using: &random)), caller())
        case 89..<94: return .keepLease(lease() ?? LeaseID(99), principal: principal())
        case 94..<98: return .revokeLease(lease() ?? LeaseID(99), caller())
        default: return .compact(Revision(.random(in: 0...model.revision.number + 1, using: &random)))
        }
    }

    private func transaction() -> Transaction {
        func operations() -> [Transaction.Operation] {
            (0..<Int.random(in: 0...4, using: &random)).map { _ in
                switch Int.random(in: 0..<3, using: &random) {
                case 0: .get(key())
                case 1: .put(key(), value(), lease: lease())
                default: .remove(key())
                }
            }
        }
        let compares = (0..<Int.random(in: 0...2, using: &random)).map { _ in
            let relation = Transaction.Relation.allCases.randomElement(using: &random) ?? .equal
            let condition: Transaction.Condition =
                switch Int.random(in: 0..<4, using: &random) {
                case 0: .isPresent
                case 1: .isAbsent
                case 2: .revision(relation, Revision(.random(in: 0...model.revision.number, using: &random)))
                default: .value(relation, value())
                }
            return Transaction.Compare(key(), condition)
        }
        return Transaction(compares: compares, then: operations(), else: operations())
    }

    private func caller() -> ModelRequest.Caller {
        let sessions = model.sessions.sorted { $0.key.number < $1.key.number }
        guard Bool.random(using: &random), let (identifier, session) = sessions.randomElement(using: &random) else {
            return .init(principal: principal())
        }
        let highest = session.outcomes.keys.max() ?? session.acknowledged
        let sequence = UInt64.random(in: max(1, highest)...highest + 3, using: &random)
        // As a client does: what it has acknowledged once it acknowledges for ever.
        let acknowledged = Int.random(in: 0..<3, using: &random) == 0 ? max(session.acknowledged, highest) : session.acknowledged
        let owner = Int.random(in: 0..<10, using: &random) == 0 ? principal() : session.principal
        return .init(principal: owner, writeID: WriteIdentifier(session: identifier, sequence: sequence, acknowledged: acknowledged))
    }

    private func principal() -> String { Bool.random(using: &random) ? "ann" : "bob" }

    private func lease() -> LeaseID? {
        guard Int.random(in: 0..<3, using: &random) == 0 else { return nil }
        return LeaseID(.random(in: max(1, model.lastLease &- min(model.lastLease, 3))...model.lastLease + 1, using: &random))
    }

    private func session() -> SessionID { SessionID(.random(in: max(1, model.lastSession)...model.lastSession + 1, using: &random)) }

    private func key() -> [UInt8] { [UInt8.random(in: 97...104, using: &random)] }

    private func value() -> [UInt8] { Array(repeating: .random(in: 0...3, using: &random), count: .random(in: 0...6, using: &random)) }
}

extension StoreModel.Change {
    init(_ change: KeyChange) {
        self.init(
            key: unsafe Array(change.key), value: unsafe change.value.map { unsafe Array($0) },
            previousRevision: change.previousRevision, lease: change.lease)
    }
}
