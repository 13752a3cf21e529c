import Synchronization

/// The one writer: takes every submitter's requests at once, applies them as one batch with one sync, tells everybody.
///
///   event loops          commit thread
///   submit, submit ─┐
///   flush ──────────┼──▶ take the whole queue ─▶ one engine batch, one sync ─▶ observers ─▶ deliver, once a submitter
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

    private var machine: StoreMachine
    private var recovery = Recovery()

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

    /// The oldest, as many as one commit takes. Only with the lock.
    private func takeQueue() -> [RequestQueue] {
        var bytes = 0
        var count = 0
        while count < queue.count, bytes < StorageLimits.maximumCommitBytes {
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
        engine.close(syncing: health == .writable)
        // Let go of outside of the lock: whoever waits for the next commit learns that there is none.
        _ = shared.withLock { state in
            defer { state.observers = [] }
            return state.observers
        }
    }

    // MARK: Commits

    private func commit(_ work: [RequestQueue]) {
        do throws(StorageError) {
            try store(work)
        } catch {
            degrade(error)
            finish(work, with: error)
            return
        }
        published.publish(revision: machine.revision, compacted: machine.history.compacted, usage: machine.usage)
        if !machine.changes.requests.isEmpty {
            let observers = shared.withLock { $0.observers }
            if !observers.isEmpty {
                let commit = Commit(
                    previousRevision: machine.previousRevision, lastRevision: machine.revision, changes: machine.changes)
                for entry in observers { entry.observer.committed(commit) }
            }
        }
        finish(work, with: nil)
    }

    /// Evaluates `work`, and applies what comes of it, if anything does.
    private func store(_ work: [RequestQueue]) throws(StorageError) {
        try engine.withEngine { (engine) throws(StorageError) in
            machine.commitBegan(now: options.clock(), wallTime: options.wallClock())
            for queue in work { machine.requestsReceived(queue, engine) }
            try machine.commitEnded(engine)
        }
        if !machine.changes.batch.isEmpty {
            try engine.apply(machine.changes.batch, sync: options.durability == .sync, revision: machine.revision)
        }
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
            if machine.isAhead { try store([]) }
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
