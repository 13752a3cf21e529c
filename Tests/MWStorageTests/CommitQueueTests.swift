import EngineContract
import Glibc
import MWStorage
import Synchronization
import Testing

@Suite struct CommitQueueTests {
    // The first commit is held in the engine while two submitters queue 50 requests each.
    @Test("what waits while a commit runs shares the next commit, in order, one delivery a submitter")
    func grouping() async throws {
        try await withStore { storage, disk in
            let gate = Gate()
            disk.setFaults(.with { $0.duringWrite = { gate.pass() } })
            let first = TestSubmitter(storage)
            let second = TestSubmitter(storage)
            try gate.hold(first)
            for token in 1...50 as ClosedRange<UInt64> {
                try first.put([1, UInt8(token)], token: token)
                try second.put([2, UInt8(token)], token: token)
                if token % 10 == 0 {
                    first.submitter.flush()
                    second.submitter.flush()
                }
            }
            gate.open()
            #expect(await first.outcomes(51).map(\.token) == Array(0...50))
            #expect(await second.outcomes(50).map(\.token) == Array(1...50))
            #expect(disk.writeCount == 3, "one made the store")
            #expect(disk.syncCount == 3)
            #expect(try storage.get([2, 50]) == [2, 50])
        }
    }

    // The first commit is held in the engine while more than a commit takes is queued.
    @Test("a commit takes no more than its share of what waits; the rest follows, in order")
    func bounded() async throws {
        try await withStore { storage, disk in
            let gate = Gate()
            disk.setFaults(.with { $0.duringWrite = { gate.pass() } })
            let submitter = TestSubmitter(storage)
            try gate.hold(submitter)
            let value = [UInt8](repeating: 7, count: StorageLimits.maximumCommitBytes / 4)
            for token in 1...6 as ClosedRange<UInt64> {
                try submitter.submitter.submit(token: token) { (batch) throws(StorageError) in try batch.put([UInt8(token)], value) }
                submitter.submitter.flush()
            }
            gate.open()
            #expect(await submitter.outcomes(7).map(\.token) == Array(0...6))
            #expect(disk.writeCount == 4, "one made the store; then one, four, and two")
        }
    }

    // While the first commit is being synced, reads of the engine fail, and no longer when it is applied: what has read has read before.
    @Test("what is flushed while a commit is being synced is evaluated meanwhile, unless it asks for values")
    func overlap() async throws {
        var options = StorageOptions()
        options.limits.minimumOverlapBytes = 1
        for isTransaction in [false, true] {
            try await withStore(options) { storage, disk in
                let gate = Gate()
                disk.setFaults(.with { $0.duringSync = { gate.pass() } })
                let submitter = TestSubmitter(storage)
                try gate.hold(submitter)
                if isTransaction {
                    try submitter.submitter.submit(token: 1, transaction: Transaction(compares: [], then: [.put([1], [1])], else: []))
                } else {
                    try submitter.put([1], token: 1)
                }
                submitter.submitter.flush()
                disk.changeFaults { faults in
                    faults.corruptReads = true
                    faults.duringWrite = { disk.changeFaults { $0.corruptReads = false } }
                }
                gate.open()
                let outcomes = await submitter.outcomes(2)
                #expect(outcomes.map(\.token) == [0, 1])
                #expect(outcomes[0].failure == nil)
                #expect(outcomes[1].failure == (isTransaction ? nil : .corrupt))
            }
        }
    }

    // The disk takes longer than they last: one is granted meanwhile, the other one was used by what has waited.
    @Test("a lease and a session last from when the disk was waited for, not from when that began")
    func overlapTakesNoTime() async throws {
        let time = Mutex(Duration.seconds(1000))
        var options = StorageOptions()
        options.commits = .manual
        options.clock = { time.withLock { $0 } }
        options.limits.minimumOverlapBytes = 1
        try await withStore(options) { storage, disk in
            let outcomes = Mutex<[CommitOutcome]>([])
            let submitter = storage.makeSubmitter { delivered in outcomes.withLock { $0 += delivered } }
            try submitter.openSession(token: 0, principal: "ann", timeToLive: .seconds(1))
            submitter.flush()
            storage.runCommits()
            guard case .session(let session) = outcomes.withLock({ $0[0].result }) else { throw CancellationError() }
            let write = WriteIdentifier(session: session.session, sequence: 1)
            @Sendable func put(_ token: UInt64, _ write: WriteIdentifier? = nil) {
                do throws(StorageError) {
                    try submitter.submit(token: token, writeID: write, principal: "ann") { (batch) throws(StorageError) in
                        try batch.put([UInt8(token)], [])
                    }
                } catch { Issue.record(error) }
                submitter.flush()
            }
            disk.setFaults(
                .with {
                    $0.duringSync = {
                        disk.changeFaults { $0.duringSync = nil }
                        put(2, write)
                    }
                    $0.duringWrite = {
                        disk.changeFaults { $0.duringWrite = nil }
                        time.withLock { $0 += .milliseconds(1500) }
                        do throws(StorageError) {
                            try submitter.grantLease(token: 3, principal: "ann", timeToLive: .seconds(1))
                        } catch { Issue.record(error) }
                        submitter.flush()
                    }
                })
            put(1)
            storage.runCommits()
            #expect(outcomes.withLock { $0.map(\.token) } == [0, 1, 2, 3])
            #expect(outcomes.withLock { $0.allSatisfy { $0.failure == nil } })
            time.withLock { $0 += .milliseconds(900) }
            storage.runCommits()
            #expect(storage.usage.leases == 1 && storage.usage.sessions == 1)
            time.withLock { $0 += .milliseconds(200) }
            storage.runCommits()
            #expect(storage.usage.leases == 0 && storage.usage.sessions == 0)
        }
    }

    @Test("a failed commit fails all of its requests, reads go on, and the store recovers by itself", arguments: [false, true])
    func failedSync(keepsUnsynced: Bool) async throws {
        // Time stands still while the degraded store is looked at: the recovery that is tried each millisecond is not due.
        let time = Mutex(Duration.seconds(1))
        var options = StorageOptions.quickToRecover
        options.clock = { time.withLock { $0 } }
        try await withStore(options) { storage, disk in
            let watch = HealthWatch()
            let observation = storage.observe(watch)
            defer { observation.cancel() }
            try await storage.put([1], [1])
            disk.setFaults(
                .with {
                    $0.failSyncs = true; $0.keepsUnsynced = keepsUnsynced
                })
            let submitter = TestSubmitter(storage)
            try submitter.put([2], token: 7)
            try submitter.put([3], token: 8)
            submitter.submitter.flush()
            let outcomes = await submitter.outcomes(2)
            #expect(outcomes.map(\.token) == [7, 8])
            #expect(outcomes.allSatisfy { $0.failure == .ioError })
            #expect(try storage.get([1]) == [1])
            #expect(try storage.get([2]) == nil)
            disk.liftFaults()
            time.withLock { $0 += .seconds(1) }
            await watch.recovery()
            // What had failed is there whole or not at all.
            #expect(try storage.get([2]) == (keepsUnsynced ? [2] : nil))
            #expect(try storage.get([3]) == (keepsUnsynced ? [3] : nil))
            try await storage.put([4], [4])
            #expect(try storage.get([1]) == [1])
            #expect(disk.openCount == 2)
        }
    }

    @Test("a full disk is named, and no write reaches an engine that failed before it was opened anew")
    func diskFull() async throws {
        try await withStore { storage, disk in
            disk.setFaults(.with { $0.failWrites = (after: 2, with: .diskFull) })
            try await storage.put([1], [1])
            try await storage.put([2], [2])
            for key in 3...9 as ClosedRange<UInt8> {
                await #expect(throws: StorageError(.diskFull, subject: "", found: "")) { try await storage.put([key], [key]) }
            }
            #expect(try storage.get([2]) == [2])
            disk.liftFaults()
            try await eventually(.diskFull) { try await storage.put([3], [3]) }
            #expect(storage.health == .writable)
        }
    }

    @Test("while the engine cannot be opened again, reads and writes say so; afterwards both work")
    func failedReopening() async throws {
        try await withStore { storage, disk in
            let watch = HealthWatch()
            let observation = storage.observe(watch)
            defer { observation.cancel() }
            try await storage.put([1], [1])
            let snapshot = try storage.snapshot()
            disk.setFaults(
                .with {
                    $0.failSyncs = true; $0.failOpens = .readOnly
                })
            await #expect(throws: StorageError.self) { try await storage.put([2], [2]) }
            while disk.openCount < 3 { await Task.yield() }
            #expect(throws: StorageError(.readOnly, subject: "", found: "")) { try storage.get([1]) }
            disk.liftFaults()
            await watch.recovery()
            #expect(try storage.get([1]) == [1])
            #expect(throws: StorageError(.snapshotLost, subject: "", found: "")) { try snapshot.get([1]) }
        }
    }

    @Test("corruption is not tried again: the store stays readable and refuses writes")
    func corruption() async throws {
        try await withStore { storage, disk in
            try await storage.put([1], [1])
            disk.setFaults(.with { $0.failWrites = (after: 0, with: .corrupt) })
            await #expect(throws: StorageError(.corrupt, subject: "", found: "")) { try await storage.put([2], [2]) }
            disk.liftFaults()
            await #expect(throws: StorageError(.corrupt, subject: "", found: "")) { try await storage.put([2], [2]) }
            #expect(try storage.get([1]) == [1])
            #expect(disk.openCount == 1)
            disk.setFaults(.with { $0.corruptReads = true })
            // What is in memory is good; what must be read is not.
            #expect(try storage.get([1]) == [1])
            #expect(throws: StorageError(.corrupt, subject: "", found: "")) { try storage.get([2]) }
        }
    }

    @Test("what was put, or removed, lately is put again without a read")
    func knownKeys() async throws {
        var options = StorageOptions()
        options.engine.hotValueBytes = 0
        try await withStore(options) { storage, disk in
            try await storage.put([1], [1])
            try await storage.put([2], [2])
            try await storage.remove([2])
            // So that the commit before this one has told what it did.
            try await storage.put([3], [3])
            disk.setFaults(.with { $0.corruptReads = true })
            try await storage.put([1], [2])
            try await storage.put([2], [3])
            try await storage.remove([1])
            await #expect(throws: StorageError(.corrupt, subject: "", found: "")) { try await storage.put([4], [4]) }
            disk.liftFaults()
            #expect(try storage.get([1]) == nil)
            #expect(try storage.get([2]) == [3])
        }
    }

    @Test("over the limits a request is refused, nothing of it remains, and what was taken is still written")
    func overload() async throws {
        var options = StorageOptions()
        options.limits.maximumPendingRequests = 10
        try await withStore(options) { storage, disk in
            let gate = Gate()
            disk.setFaults(.with { $0.duringWrite = { gate.pass() } })
            let submitter = TestSubmitter(storage)
            for token in 0..<10 as Range<UInt64> { try submitter.put([UInt8(token)], token: token) }
            submitter.submitter.flush()
            #expect(submitter.submitter.isCongested)
            #expect(throws: StorageError(.overloaded, subject: "", found: "")) { try submitter.put([99], token: 99) }
            gate.open()
            #expect(await submitter.outcomes(10).count == 10)
            #expect(!submitter.submitter.isCongested)
            try await storage.put([10], [10])
            #expect(try storage.get([99]) == nil)
        }
    }

    @Test("a request whose body throws leaves nothing, and its neighbours are written")
    func throwingBody() async throws {
        try await withStore { storage, _ in
            let submitter = TestSubmitter(storage)
            try submitter.put([1], token: 1)
            #expect(throws: StorageError(.keyTooLarge, subject: "", found: "")) {
                try submitter.submitter.submit(token: 2) { (batch) throws(StorageError) in
                    try batch.put([2], [2])
                    try batch.put([UInt8](repeating: 0, count: StorageLimits.maximumKeyBytes + 1), [])
                }
            }
            try submitter.put([3], token: 3)
            submitter.submitter.flush()
            #expect(await submitter.outcomes(2).map(\.token) == [1, 3])
            #expect(try storage.get([2]) == nil)
        }
    }

    @Test("writes to the operating system only are read at once and may be lost with the power, synced ones never")
    func durability() async throws {
        for (durability, survives) in [(Durability.sync, true), (.os, false)] {
            try await withTemporaryDirectory { directory in
                let disk = MemoryDisk()
                let storage = try Storage.open(directory: directory, engine: .memory(disk), options: .init(durability: durability))
                try await storage.put([1], [1])
                #expect(try storage.get([1]) == [1])
                disk.cutPower()
                disk.setFaults(.with { $0.failSyncs = true })
                storage.close()
                disk.liftFaults()
                let again = try Storage.open(directory: directory, engine: .memory(disk))
                #expect(try again.get([1]) == (survives ? [1] : nil))
                again.close()
            }
        }
    }

    @Test("an observer sees each request's changes and origin, in commit order, before its outcome is delivered")
    func observers() async throws {
        try await withStore { storage, _ in
            try await storage.put([3], [3])
            let recorder = Recorder()
            let observation = storage.observe(recorder)
            let (deliveries, continuation) = AsyncStream.makeStream(of: Void.self)
            let submitter = storage.makeSubmitter { outcomes in
                for outcome in outcomes { recorder.add("done \(outcome.token)") }
                continuation.yield()
            }
            try submitter.submit(token: 5) { (batch) throws(StorageError) in
                try batch.put([1], [2])
                try batch.remove([3])
                try batch.remove([2])
            }
            try submitter.allocatePrefix(token: 6)
            try submitter.submit(token: 7) { (batch) throws(StorageError) in try batch.put([4], []) }
            submitter.flush()
            for await _ in deliveries { break }
            try await storage.put([9], [9])
            let own = storage.inProcessIdentifier
            #expect(
                recorder.lines == [
                    "\(submitter.identifier)/5: [1]=[2] [3]-", "\(submitter.identifier)/7: [4]=[]", "done 5", "done 6", "done 7",
                    "\(own)/2: [9]=[9]",
                ])
            observation.cancel()
            try await storage.put([9], [8])
            #expect(recorder.lines.count == 6)
        }
    }

    @Test("after closing, every call says closed, and what was flushed before is there")
    func closing() async throws {
        try await withTemporaryDirectory { directory in
            let disk = MemoryDisk()
            let storage = try Storage.open(directory: directory, engine: .memory(disk))
            let submitter = TestSubmitter(storage)
            for token in 0..<100 as Range<UInt64> { try submitter.put([UInt8(token)], token: token) }
            submitter.submitter.flush()
            storage.close()
            storage.close()
            #expect(await submitter.outcomes(100).allSatisfy { $0.failure == nil })
            let closed = StorageError(.closed, subject: "", found: "")
            #expect(throws: closed) { try submitter.put([1], token: 1) }
            #expect(throws: closed) { try storage.get([1]) }
            #expect(throws: closed) { try storage.snapshot() }
            await #expect(throws: closed) { try await storage.put([1], [1]) }
            let again = try Storage.open(directory: directory, engine: .memory(disk))
            #expect(try again.get([99]) == [99])
            again.close()
        }
    }
}

/// A store on an in-memory disk, closed in the end; recovery is tried at once.
func withStore(_ options: StorageOptions = .quickToRecover, _ body: (Storage, MemoryDisk) async throws -> Void) async throws {
    try await withTemporaryDirectory { directory in
        let disk = MemoryDisk()
        let storage = try Storage.open(directory: directory + "/store", engine: .memory(disk), options: options)
        defer { storage.close() }
        try await body(storage, disk)
    }
}

/// Tries until it succeeds; until then it may fail with `code` only.
func eventually(_ code: StorageError.Code, _ body: () async throws -> Void) async throws {
    while true {
        do { return try await body() } catch let error as StorageError where error.code == code { await Task.yield() }
    }
}

extension StorageOptions {
    static var quickToRecover: StorageOptions {
        var options = StorageOptions()
        options.limits.firstRecoveryDelay = .milliseconds(1)
        options.limits.maximumRecoveryDelay = .milliseconds(10)
        return options
    }
}

extension MemoryDisk.Faults {
    static func with(_ change: (inout Self) -> Void) -> Self {
        var faults = Self()
        change(&faults)
        return faults
    }
}

extension CommitOutcome {
    var failure: StorageError.Code? { if case .failed(let error) = result { error.code } else { nil } }
}

/// Holds the commit thread in the middle of a write until the test opens it.
private final class Gate: Sendable {
    private let state = Mutex((entered: false, open: false))

    func pass() {
        state.withLock { $0.entered = true }
        while !state.withLock({ $0.open }) { sched_yield() }
    }

    /// Flushes a put, of token 0, and returns when its commit is held.
    func hold(_ submitter: TestSubmitter) throws {
        try submitter.put([0], token: 0)
        submitter.submitter.flush()
        while !state.withLock({ $0.entered }) { sched_yield() }
    }

    func open() { state.withLock { $0.open = true } }
}

private final class Recorder: StorageObserver {
    private let recorded = Mutex<[String]>([])

    var lines: [String] { recorded.withLock { $0 } }
    func add(_ line: String) { recorded.withLock { $0.append(line) } }

    func committed(_ commit: borrowing Commit) {
        commit.forEachRequest { origin, request in
            var changes: [String] = []
            request.forEachChange { change in
                let key = unsafe Array(change.key)
                unsafe changes.append(change.value.map { unsafe "\(key)=\(Array($0))" } ?? "\(key)-")
            }
            add("\(origin.submitter)/\(origin.token): " + changes.joined(separator: " "))
        }
    }
}
