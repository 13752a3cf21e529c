import Synchronization

/// The one writer: takes every submitter's requests at once, applies them as one batch with one sync, tells everybody.
///
///   event loops          commit thread
///   submit, submit ─┐
///   flush ──────────┼──▶ take the whole queue ─▶ one engine batch, one sync ─▶ observers ─▶ deliver, once a submitter
///   submit, flush ──┘
///
/// While it writes, the next queue fills: the busier the store, the larger the batches. Where much has been queued, another
/// thread waits for the disk, and the next commit is evaluated meanwhile; it is written once this one has been applied:
///
///     commit   evaluate 1 │ write 1 │ evaluate 2 … │ apply 1, deliver │ write 2 │ evaluate 3 …
///     sync                          │ sync 1       │                            │ sync 2
///
/// Two rules hold throughout: nothing is acknowledged, or can be read, before its sync has returned, and after a failed write
/// nothing more is written until the engine has been opened anew (``ReopenableEngine``).
final class Committer: @unchecked Sendable {
    // Safety: the first group is guarded by `lock`, the second is touched by the commit thread only.
    private let lock = ConditionLock()
    private var queue: [RequestQueue] = []
    private var isSleeping = false
    private var hasEnded = false

    private var machine: StoreMachine
    private var recovery = Recovery()
    /// Where somebody else waits for the disk.
    private var syncThread: SyncThread?

    private let isStopping = Atomic<Bool>(false)
    private let pendingBytes = Atomic<Int>(0)
    private let pendingRequests = Atomic<Int>(0)
    private let shared = Mutex(Shared())
    private let engine: ReopenableEngine
    let options: StorageOptions
    let published: PublishedState

    private struct Shared {
        var health = StorageHealth.writable
        var observers: [(identifier: UInt64, observer: any StorageObserver)] = []
        var nextObserver: UInt64 = 0
        var nextSubmitter: UInt32 = 0
        var thread: WorkerThread?
    }

    private struct Recovery {
        /// By the clock of the options.
        var deadline: Duration?
        var delay = Duration.zero
    }

    init(engine: ReopenableEngine, options: StorageOptions) throws(StorageError) {
        self.engine = engine
        self.options = options
        self.machine = try Committer.machine(of: engine, options)
        self.published = PublishedState(
            incarnation: engine.identity.incarnation, revision: machine.revision, compacted: machine.history.compacted, usage: machine.usage
        )
    }

    private static func machine(of engine: ReopenableEngine, _ options: StorageOptions) throws(StorageError) -> StoreMachine {
        let opened = OpenedMachine()
        try engine.withEngine { (engine) throws(StorageError) in
            opened.machine = try StoreMachine.reading(engine, options)
        }
        return opened.take()
    }

    func start() throws(StorageError) {
        guard options.commits == .thread else { return }
        if options.durability == .sync { syncThread = try SyncThread() }
        let thread: WorkerThread
        do throws(StorageError) { thread = try WorkerThread(name: "mw-commit") { self.run() } } catch {
            syncThread?.stop()
            throw error
        }
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
        if options.commits == .manual { end() }
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
            // There would be nothing to tell it, nor anybody to let go of it.
            guard !isStopping.load(ordering: .sequentiallyConsistent) else { return state.nextObserver }
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
        while let work = takeWork() { process(work) }
        closeEngine()
    }

    /// What has been flushed by now, as far as a commit goes; nothing when something else is due; nil at the end.
    private func takeWork() -> [RequestQueue]? {
        lock.withLock {
            while queue.isEmpty {
                if isStopping.load(ordering: .sequentiallyConsistent) {
                    hasEnded = true
                    return nil
                }
                let timeout = dueTime.map { max(.zero, $0 - options.clock()) }
                if timeout == .zero { return [] }
                isSleeping = true
                lock.wait(atMost: timeout)
                isSleeping = false
            }
            return takeQueue()
        }
    }

    /// The oldest, as many as one commit takes beside what it has. Only with the lock.
    private func takeQueue(
        besides begun: [RequestQueue] = [], while isWanted: (RequestQueue) -> Bool = { _ in true }
    ) -> [RequestQueue] {
        var bytes = begun.reduce(0) { $0 + $1.byteCount }
        var count = 0
        while count < queue.count, bytes < StorageLimits.maximumCommitBytes, isWanted(queue[count]) {
            bytes += queue[count].byteCount
            count += 1
        }
        var work: [RequestQueue] = []
        swap(&work, &queue)
        if count < work.count {
            queue.append(contentsOf: work[count...])
            work.removeSubrange(count...)
        }
        return work
    }

    /// When, by the clock, there is something to do though nobody asks for anything.
    private var dueTime: Duration? { health == .writable ? machine.nextDeadline : recovery.deadline }

    private var isDue: Bool { dueTime.map { $0 <= options.clock() } ?? false }

    private func process(_ work: [RequestQueue]) {
        switch health {
        case .writable: if !work.isEmpty || isDue { commit(work) }
        case .degraded(let error): finish(work, with: error)
        }
        recoverIfDue()
    }

    // MARK: Without a thread

    func runCommits() {
        precondition(options.commits == .manual, "a store with a commit thread")
        while true {
            let work = lock.withLock { takeQueue() }
            guard !work.isEmpty || isDue else { return }
            process(work)
        }
    }

    var nextDeadline: Duration? {
        precondition(options.commits == .manual, "a store with a commit thread")
        return dueTime
    }

    /// What was flushed is committed; then the engine is closed.
    private func end() {
        let isFirst = lock.withLock {
            defer { hasEnded = true }
            return !hasEnded
        }
        guard isFirst else { return }
        var work = lock.withLock { takeQueue() }
        repeat {
            process(work)
            work = lock.withLock { takeQueue() }
        } while !work.isEmpty
        closeEngine()
    }

    private func closeEngine() {
        syncThread?.stop()
        engine.close(syncing: health == .writable)
        // Let go of outside of the lock: whoever waits for the next commit learns that there is none.
        _ = shared.withLock { state in
            defer { state.observers = [] }
            return state.observers
        }
    }

    // MARK: Commits

    /// Commits `work`, and what has been flushed meanwhile for as long as the disk leaves time to evaluate it.
    private func commit(_ work: [RequestQueue]) {
        var work = work
        var evaluated = 0
        beginCommit()
        while true {
            var following: [RequestQueue] = []
            do throws(StorageError) {
                try evaluate(work[evaluated...])
                let commit = try endCommit()
                try store(commit) { following = beginFollowing() }
                published.publish(revision: commit.revision, compacted: commit.compacted, usage: commit.usage)
                report(commit)
                machine.commitApplied(commit)
            } catch {
                degrade(error)
                finish(work, with: error)
                finish(following, with: error)
                return
            }
            finish(work, with: nil)
            guard !following.isEmpty else { return }
            // Who waited for the disk meanwhile has not used up any of its time.
            machine.timePassed(to: options.clock(), wallTime: options.wallClock(), for: following)
            evaluated = following.count
            work = following + lock.withLock { takeQueue(besides: following) }
        }
    }

    private func beginCommit() { machine.commitBegan(now: options.clock(), wallTime: options.wallClock()) }

    private func evaluate(_ work: ArraySlice<RequestQueue>) throws(StorageError) {
        guard !work.isEmpty else { return }
        try engine.withEngine { (engine) throws(StorageError) in
            for queue in work { machine.requestsReceived(queue, engine) }
        }
    }

    private func endCommit() throws(StorageError) -> EndedCommit {
        var commit: EndedCommit?
        try engine.withEngine { (engine) throws(StorageError) in commit = try machine.commitEnded(engine) }
        guard let commit else { preconditionFailure("an engine that is open runs the closure") }
        return commit
    }

    /// Applies what has been evaluated, if that is anything.
    ///
    /// - Parameter whileSyncing: Called where there is something to do until the disk is done.
    private func store(_ commit: EndedCommit, whileSyncing: () -> Void = {}) throws(StorageError) {
        guard !commit.changes.batch.isEmpty else { return }
        let sync = options.durability == .sync
        var isOverlapping = false
        try engine.prepare(commit.changes.batch, sync: sync) { sync in
            isOverlapping = isOverlappingWorthwhile
            if isOverlapping { syncThread?.start(sync) }
        }
        if isOverlapping { whileSyncing() }
        try engine.apply(commit.changes.batch, sync: sync, revision: commit.revision)
    }

    /// Whether so much has been flushed that evaluating it takes longer than having another thread wait.
    private var isOverlappingWorthwhile: Bool {
        lock.withLock {
            var bytes = 0
            for queue in queue {
                guard queue.readsOnlyState, bytes < options.limits.minimumOverlapBytes else { break }
                bytes += queue.byteCount
            }
            return bytes >= options.limits.minimumOverlapBytes
        }
    }

    /// Begins the next commit while the one before is not applied.
    private func beginFollowing() -> [RequestQueue] {
        let following = lock.withLock { takeQueue { $0.readsOnlyState } }
        guard !following.isEmpty else { return [] }
        beginCommit()
        do throws(StorageError) { try evaluate(following[...]) } catch { preconditionFailure("the engine has just written: \(error)") }
        return following
    }

    private func report(_ commit: EndedCommit) {
        guard !commit.changes.requests.isEmpty else { return }
        let observers = shared.withLock { $0.observers }
        guard !observers.isEmpty else { return }
        let report = Commit(previousRevision: commit.previousRevision, lastRevision: commit.revision, changes: commit.changes)
        for entry in observers { entry.observer.committed(report) }
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
            recovery.deadline = options.clock() + recovery.delay
        }
        change(to: .degraded(error))
    }

    private func recoverIfDue() {
        guard let deadline = recovery.deadline, deadline <= options.clock() else { return }
        do throws(StorageError) {
            try engine.reopen()
            // What had failed may be there, or not.
            let opened = try Committer.machine(of: engine, options)
            machine.replace(with: opened)
            // Before anybody reads: revisions that were lost are not there, and never will be.
            if machine.isAhead {
                beginCommit()
                let commit = try endCommit()
                try store(commit)
                machine.commitApplied(commit)
            }
            published.publish(revision: machine.revision, compacted: machine.history.compacted, usage: machine.usage)
            recovery = Recovery()
            change(to: .writable)
        } catch {
            recovery.delay = min(recovery.delay * 2, options.limits.maximumRecoveryDelay)
            recovery.deadline = options.clock() + recovery.delay
            change(to: .degraded(error))
        }
    }

    /// Brings a machine out of a closure.
    private final class OpenedMachine {
        var machine: StoreMachine?

        func take() -> StoreMachine {
            guard let machine = machine.take() else { preconditionFailure("an engine that is open runs the closure") }
            return machine
        }
    }

    private static let closed = StorageError(.closed, subject: "store", found: "already closed")
}
