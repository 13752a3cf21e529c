import Synchronization

/// The one writer: takes every submitter's requests at once, applies them as one batch with one sync, tells everybody.
///
///   event loops          commit thread
///   submit, submit ─┐
///   flush ──────────┼──▶ swap the whole queue ─▶ one engine batch, one sync ─▶ observers ─▶ deliver, once a submitter
///   submit, flush ──┘
///
/// While it writes, the next queue fills: the busier the store, the larger the batches. Two rules hold throughout:
/// nothing is acknowledged before its sync has returned, and after a failed write nothing more is written until the engine
/// has been opened anew (``ReopenableEngine``).
final class Committer: @unchecked Sendable {
    // Safety: the first group is guarded by `lock`, the second is touched by the commit thread only.
    private let lock = ConditionLock()
    private var queue: [RequestQueue] = []
    private var isSleeping = false
    private var hasEnded = false

    private var merged = WriteBatch()
    private var prefixes: PrefixCounter
    private var recovery = Recovery()

    private let isStopping = Atomic<Bool>(false)
    private let pendingBytes = Atomic<Int>(0)
    private let pendingRequests = Atomic<Int>(0)
    private let shared = Mutex(Shared())
    private let engine: ReopenableEngine
    let options: StorageOptions
    let published: PublishedState
    var nextDeadline: Duration? { nil }
    func runCommits() {}

    private struct Shared {
        var health = StorageHealth.writable
        var observers: [(identifier: UInt64, observer: any StorageObserver)] = []
        var nextObserver: UInt64 = 0
        var nextSubmitter: UInt32 = 0
        var thread: WorkerThread?
    }

    private struct Recovery {
        var deadline: ContinuousClock.Instant?
        var delay = Duration.zero
    }

    init(engine: ReopenableEngine, options: StorageOptions) throws(StorageError) {
        self.engine = engine
        self.options = options
        let identity = engine.identity
        self.published = PublishedState(
            incarnation: identity.incarnation, revision: identity.revision, compacted: identity.compacted, usage: StorageUsage())
        self.prefixes = try engine.withEngine { (engine) throws(StorageError) in try PrefixCounter(readingFrom: engine) }
    }

    func start() throws(StorageError) {
        let thread = try WorkerThread(name: "mw-commit") { self.run() }
        shared.withLock { $0.thread = thread }
    }

    /// Commits what has been flushed, closes the engine, and returns when that is done (at once on the commit thread).
    func stop() {
        isStopping.store(true, ordering: .sequentiallyConsistent)
        lock.withLock {}
        lock.signal()
        let thread = shared.withLock { state in
            defer { state.thread = nil }
            return state.thread
        }
        thread?.join()
    }

    // MARK: The submitters' side

    func makeSubmitter(deliver: @escaping @Sendable ([CommitOutcome]) -> Void) -> Submitter {
        let identifier = shared.withLock { state in
            state.nextSubmitter += 1
            return state.nextSubmitter
        }
        return Submitter(identifier: identifier, committer: self, deliver: deliver)
    }

    func admit(_ filling: RequestQueue) throws(StorageError) {
        if isStopping.load(ordering: .relaxed) { throw Committer.closed }
        let requests = pendingRequests.load(ordering: .relaxed) + filling.requests.count
        let bytes = pendingBytes.load(ordering: .relaxed) + filling.byteCount
        guard requests < options.limits.maximumPendingRequests, bytes < options.limits.maximumPendingBytes else {
            throw StorageError(
                .overloaded, subject: "commit queue", found: "\(requests) requests of \(bytes) bytes waiting for the disk",
                remedy: "try again later")
        }
    }

    var isCongested: Bool {
        pendingRequests.load(ordering: .relaxed) > options.limits.maximumPendingRequests / 2
            || pendingBytes.load(ordering: .relaxed) > options.limits.maximumPendingBytes / 2
    }

    var pending: PendingWrites {
        PendingWrites(
            requests: pendingRequests.load(ordering: .relaxed), bytes: pendingBytes.load(ordering: .relaxed), isCongested: isCongested)
    }

    /// Takes a filled queue and gives an empty one in return.
    func accept(_ filled: RequestQueue, from submitter: Submitter) -> RequestQueue {
        pendingBytes.add(filled.byteCount, ordering: .relaxed)
        pendingRequests.add(filled.requests.count, ordering: .relaxed)
        filled.deliverTo = submitter
        let (wakes, isLate, empty) = lock.withLock { () -> (Bool, Bool, RequestQueue?) in
            if hasEnded { return (false, true, nil) }
            queue.append(filled)
            defer { isSleeping = false }
            return (isSleeping, false, submitter.idle.popLast())
        }
        if wakes { lock.signal() }
        if isLate { finish([filled], with: Committer.closed) }
        return empty ?? RequestQueue(submitter: submitter.identifier)
    }

    // MARK: Observers and health

    var health: StorageHealth { shared.withLock { $0.health } }

    func observe(_ observer: any StorageObserver) -> StorageObservation {
        let identifier = shared.withLock { state in
            state.nextObserver += 1
            state.observers.append((state.nextObserver, observer))
            return state.nextObserver
        }
        return StorageObservation { [weak self] in
            self?.shared.withLock { state in state.observers.removeAll { $0.identifier == identifier } }
        }
    }

    private func change(to health: StorageHealth) {
        let observers = shared.withLock { state in
            state.health = health
            return state.observers
        }
        for entry in observers { entry.observer.healthChanged(health) }
    }

    // MARK: The commit thread

    private func run() {
        while let work = takeWork() {
            if !work.isEmpty {
                switch health {
                case .writable: commit(work)
                case .degraded(let error): finish(work, with: error)
                }
            }
            recoverIfDue()
        }
        engine.close(syncing: health == .writable)
    }

    /// Everything flushed by now; nothing when it is time to try a recovery; nil at the end.
    private func takeWork() -> [RequestQueue]? {
        lock.withLock {
            while queue.isEmpty {
                if isStopping.load(ordering: .sequentiallyConsistent) {
                    hasEnded = true
                    return nil
                }
                let timeout = recovery.deadline.map { max(.zero, ContinuousClock.now.duration(to: $0)) }
                if timeout == .zero { return [] }
                isSleeping = true
                lock.wait(atMost: timeout)
                isSleeping = false
            }
            var work: [RequestQueue] = []
            swap(&work, &queue)
            return work
        }
    }

    private func commit(_ work: [RequestQueue]) {
        let before = published.revision
        var revision = before
        do throws(StorageError) {
            defer { merged.removeAll() }
            for queue in work {
                var start = WriteBatch.start
                for request in queue.requests {
                    var result = CommitOutcome.Result.failed(
                        StorageError(.invalidRequest, subject: "store", found: "a request that it does not know yet"))
                    switch request.kind {
                    case .write:
                        if request.end.operationCount > start.operationCount { revision = revision.next }
                        let count = try merge(queue, from: start, to: request.end, revision)
                        result = .written(Written(revision: revision, changes: count))
                    case .allocatePrefix:
                        result = prefixes.grant().map { .prefix($0, isRepeated: false) } ?? .failed(.prefixesExhausted)
                    case .reservePrefixes(let below):
                        prefixes.reserve(below: below)
                        result = .done
                    default: break
                    }
                    queue.outcomes.append(CommitOutcome(token: request.token, result: result))
                    start = request.end
                }
            }
            merged.putMeta(MetaRecord.revisionKey, revision.number)
            try prefixes.store(in: &merged)
            try engine.apply(merged, sync: options.durability == .sync, revision: revision)
        } catch {
            degrade(error)
            finish(work, with: error)
            return
        }
        published.publish(revision: revision, compacted: .zero, usage: StorageUsage())
        finish(work, with: nil)
    }

    /// Adds the changes of a request to the commit.
    ///
    /// - Returns: how many they are.
    private func merge(
        _ queue: RequestQueue, from start: WriteBatch.Mark, to end: WriteBatch.Mark, _ revision: Revision
    ) throws(StorageError) -> Int {
        var count = 0
        var failure: StorageError?
        unsafe queue.batch.forEach(from: start, to: end) { change in
            count += 1
            do throws(StorageError) {
                switch unsafe change {
                case .put(let key, let value):
                    let dataKey = unsafe UnsafeRawBufferPointer(rebasing: key.dropFirst())
                    try unsafe merged.putData(key: dataKey, value: value, revision: revision)
                case .remove(let key):
                    try unsafe merged.remove(key: UnsafeRawBufferPointer(rebasing: key.dropFirst()))
                }
            } catch { failure = error }
        }
        if let failure { throw failure }
        return count
    }

    /// Tells every submitter once, then lets its queues be filled again.
    private func finish(_ work: [RequestQueue], with error: StorageError?) {
        var outcomes: [(submitter: Submitter, outcomes: [CommitOutcome])] = []
        for queue in work {
            guard let submitter = queue.deliverTo else { continue }
            pendingBytes.subtract(queue.byteCount, ordering: .relaxed)
            pendingRequests.subtract(queue.requests.count, ordering: .relaxed)
            let ended =
                error.map { error in queue.requests.map { CommitOutcome(token: $0.token, result: .failed(error)) } } ?? queue.outcomes
            if let index = outcomes.firstIndex(where: { $0.submitter === submitter }) {
                outcomes[index].outcomes.append(contentsOf: ended)
            } else {
                outcomes.append((submitter, ended))
            }
            queue.removeAll()
        }
        lock.withLock {
            for queue in work {
                guard let entry = outcomes.first(where: { $0.submitter.identifier == queue.submitter }) else { continue }
                if entry.submitter.idle.count < StorageLimits.maximumIdleQueues { entry.submitter.idle.append(queue) }
            }
        }
        for entry in outcomes { entry.submitter.deliver(entry.outcomes) }
    }

    // MARK: Recovery

    private func degrade(_ error: StorageError) {
        // What is corrupt stays so: opening it again could only cost the readers what they still have.
        if error.code != .corrupt {
            recovery.delay = options.limits.firstRecoveryDelay
            recovery.deadline = .now + recovery.delay
        }
        change(to: .degraded(error))
    }

    private func recoverIfDue() {
        guard let deadline = recovery.deadline, deadline <= .now else { return }
        do throws(StorageError) {
            try engine.reopen()
            recovery = Recovery()
            change(to: .writable)
        } catch {
            recovery.delay = min(recovery.delay * 2, options.limits.maximumRecoveryDelay)
            recovery.deadline = .now + recovery.delay
            change(to: .degraded(error))
        }
    }

    private static let closed = StorageError(.closed, subject: "store", found: "already closed")
}
