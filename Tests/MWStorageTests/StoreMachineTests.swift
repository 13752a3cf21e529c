import EngineContract
import MWStorage
import Synchronization
import Testing

@Suite struct StoreMachineTests {
    @Test("a put sees what was put in process, at the revision that it was answered with")
    func inProcess() async throws {
        try await withStore { storage, _ in
            let first = try await storage.put([1], [2])
            #expect(first == Written(revision: Revision(1), changes: 1))
            #expect(try await storage.remove([9]) == Written(revision: Revision(1), changes: 0))
            let outcome = try await storage.transaction(
                Transaction(
                    compares: [.init([1], .revision(.equal, first.revision))], then: [.get([1]), .put([1], [3]), .get([1])],
                    else: [.remove([1])]))
            #expect(outcome.hasSucceeded)
            #expect(outcome.results.map(\.value) == [[2], [2], [3]])
            #expect(outcome.results.map(\.revision.number) == [1, 1, 2])
            #expect(storage.revision == Revision(2))
            #expect(try storage.entries([[1]]).entries == [StoredEntry(key: [1], value: [3], revision: Revision(2))])
        }
    }

    @Test("one request of very many keys is one revision, whose history is whole")
    func largeRequest() async throws {
        try await withStore { storage, disk in
            let count: UInt16 = 20_000
            func key(_ number: UInt16) -> [UInt8] { [UInt8(number >> 8), UInt8(number & 0xFF)] }
            try await storage.write { (batch) throws(StorageError) in
                for number in 0..<count { try batch.put(key(number), [1]) }
            }
            let written = try await storage.write { (batch) throws(StorageError) in
                for number in 0..<count { try batch.remove(key(number)) }
                for number in stride(from: 0, to: count, by: 2) { try batch.put(key(number), [2]) }
                try batch.put([7, 7, 7], [])
                try batch.remove([7, 7, 7])
            }
            #expect(written == Written(revision: Revision(2), changes: Int(count)))
            var changes: [[UInt8]: Bool] = [:]
            try storage.history(after: Revision(1)).forEachRevision { revision, record in
                #expect(revision == Revision(2))
                try record.forEachChange { change in
                    #expect(change.previousRevision == Revision(1))
                    unsafe changes[Array(change.key)] = change.isRemoval
                }
            }
            #expect(changes.count == Int(count))
            for number in 0..<count { #expect(changes[key(number)] == !number.isMultiple(of: 2)) }
            #expect(try storage.get(key(2)) == [2])
            #expect(try storage.get(key(3)) == nil)
        }
    }

    // A client may say any numbers: what they cost is what was stored, not what they count.
    @Test("a session whose sequences leap is served, and ends, as fast as any other", .timeLimit(.minutes(10)))
    func leaps() async throws {
        try await withStore { storage, _ in
            let session = try await storage.openSession().session
            for (round, sequence) in ([1, 1 << 62, UInt64(Int64.max)] as [UInt64]).enumerated() {
                let identifier = WriteIdentifier(session: session, sequence: sequence, acknowledged: sequence - 1)
                for isRepeated in [false, true] {
                    let written = try await storage.write(writeID: identifier) { (batch) throws(StorageError) in
                        try batch.put([1], [UInt8(round)])
                    }
                    #expect(written.isRepeated == isRepeated && written.revision == Revision(UInt64(round) + 1))
                }
            }
            try await storage.closeSession(session)
        }
    }

    @Test("one request may put one key 200,000 times: the last one counts", .timeLimit(.minutes(10)))
    func oneKey() async throws {
        try await withStore { storage, _ in
            let written = try await storage.write { (batch) throws(StorageError) in
                for number in 0..<200_000 { try batch.put([1], [UInt8(truncatingIfNeeded: number)]) }
            }
            #expect(written == Written(revision: Revision(1), changes: 1))
            #expect(try storage.get([1]) == [UInt8(truncatingIfNeeded: 199_999)])
        }
    }

    @Test("what a commit without changes asks is answered without a write")
    func noChanges() async throws {
        try await withStore { storage, disk in
            // Longer than any machine sleeps.
            let lease = try await storage.grantLease(timeToLive: StorageLimits().maximumLeaseTimeToLive)
            let writes = disk.writeCount
            try await storage.remove([1])
            try await storage.keepLease(lease.lease)
            _ = try await storage.transaction(Transaction(compares: [.init([1], .isAbsent)], then: [.get([1])]))
            #expect(disk.writeCount == writes)
            #expect(storage.revision == .zero)
        }
    }

    @Test("a transaction whose results are too large does nothing")
    func largeResults() async throws {
        try await withStore { storage, _ in
            try await storage.put([1], [UInt8](repeating: 1, count: StorageLimits.maximumOutcomeBytes / 2))
            await #expect(throws: StorageError(.tooMany, subject: "", found: "")) {
                try await storage.transaction(Transaction(then: [.put([2], [2]), .get([1]), .get([1])]))
            }
            #expect(try storage.get([2]) == nil)
            #expect(storage.revision == Revision(1))
        }
    }

    @Test("of transactions that ask for too much together some are told to come again, and the others are answered")
    func resultsOfACommit() async throws {
        var options = StorageOptions()
        options.commits = .manual
        try await withStore(options) { storage, _ in
            let outcomes = Mutex<[CommitOutcome]>([])
            let submitter = storage.makeSubmitter { delivered in outcomes.withLock { $0 += delivered } }
            let value = [UInt8](repeating: 1, count: StorageLimits.maximumOutcomeBytes / 2)
            try submitter.submit(token: 0) { (batch) throws(StorageError) in try batch.put([1], value) }
            let fitting = StorageLimits.maximumResultBytesPerCommit / (value.count + 1)
            for token in 1...UInt64(fitting + 3) { try submitter.submit(token: token, transaction: Transaction(then: [.get([1])])) }
            submitter.flush()
            storage.runCommits()
            #expect(outcomes.withLock { $0.map { $0.failure == .overloaded } } == (0..<fitting + 4).map { $0 > fitting })
            outcomes.withLock { $0 = [] }
            try submitter.submit(token: 0, transaction: Transaction(then: [.get([1])]))
            submitter.flush()
            storage.runCommits()
            #expect(outcomes.withLock { $0.map(\.failure) } == [nil])
        }
    }

    // The clock is the machine's own here: the commit thread has to wake by itself.
    @Test("a lease ends by itself, with its keys, at one revision that observers are told of")
    func expiry() async throws {
        var options = StorageOptions.quickToRecover
        options.limits.minimumLeaseTimeToLive = .milliseconds(1)
        try await withStore(options) { storage, _ in
            let ends = ExpiryWatch()
            let observation = storage.observe(ends)
            defer { observation.cancel() }
            let lease = try await storage.grantLease(timeToLive: options.limits.maximumLeaseTimeToLive, principal: "ann")
            let short = try await storage.grantLease(timeToLive: .milliseconds(20), principal: "ann")
            try await storage.write(principal: "ann", lease: lease.lease) { (batch) throws(StorageError) in try batch.put([1], [1]) }
            do throws(StorageError) {
                try await storage.write(principal: "ann", lease: short.lease) { (batch) throws(StorageError) in
                    try batch.put([2], [2])
                    try batch.put([3], [3])
                }
            } catch {
                // This machine was asleep for so long.
                #expect(error.code == .leaseUnknown)
                return
            }
            #expect(await ends.first() == [[2], [3]])
            #expect(try storage.get([2]) == nil)
            #expect(try storage.get([1]) == [1])
            await #expect(throws: StorageError(.leaseUnknown, subject: "", found: "")) {
                try await storage.keepLease(short.lease, principal: "ann")
            }
            await #expect(throws: StorageError(.leaseUnknown, subject: "", found: "")) { try await storage.revokeLease(lease.lease) }
            try await storage.revokeLease(lease.lease, principal: "ann")
            #expect(try storage.get([1]) == nil)
        }
    }

    @Test("history takes no more bytes than it may")
    func historyBytes() async throws {
        var options = StorageOptions.quickToRecover
        options.limits.maximumHistoryBytes = 100_000
        try await withStore(options) { storage, _ in
            for number in 0..<300 as Range<UInt16> {
                try await storage.put([UInt8(number & 7)], [UInt8](repeating: 1, count: 1000))
            }
            #expect(storage.usage.historyBytes <= 100_000)
            #expect(storage.usage.historyRevisions >= 90)
            #expect(throws: StorageError(.compacted, subject: "", found: "")) { try storage.history(after: Revision(1)) }
            let page = try storage.history(after: storage.compactedRevision, limitBytes: .max)
            #expect(page.lastRevision == Revision(300))
            #expect(page.revisionCount == storage.usage.historyRevisions)
        }
    }

    @Test("a store that lost what it had not synced gives the lost revisions to nothing else")
    func lostRevisions() async throws {
        var options = StorageOptions.quickToRecover
        options.durability = .os
        try await withStore(options) { storage, disk in
            let watch = HealthWatch()
            let observation = storage.observe(watch)
            defer { observation.cancel() }
            for number in 1...3 as ClosedRange<UInt8> { try await storage.put([number], [number]) }
            disk.cutPower()
            disk.setFaults(.with { $0.failWrites = (after: 0, with: .ioError) })
            await #expect(throws: StorageError.self) { try await storage.put([4], [4]) }
            disk.liftFaults()
            await watch.recovery()
            // The loss is one.
            #expect(storage.revision == Revision(4))
            #expect(try storage.snapshot().revision == Revision(4))
            // By itself it forgets the history of what is lost: before the faults were lifted that may have failed, too.
            try await eventually(.ioError) {
                let written = try await storage.put([5], [5])
                #expect(written.revision == Revision(5))
            }
            // Also who had seen the last one that was lost must read afresh.
            #expect(throws: StorageError(.compacted, subject: "", found: "")) { try storage.history(after: Revision(3)) }
            #expect(try storage.history(after: Revision(4)).revisionCount == 1)
        }
    }
}

/// Awaits the end of a lease.
private final class ExpiryWatch: StorageObserver {
    private let ends: AsyncStream<[[UInt8]]>
    private let continuation: AsyncStream<[[UInt8]]>.Continuation

    init() { (ends, continuation) = AsyncStream.makeStream() }

    func committed(_ commit: borrowing Commit) {
        commit.forEachRequest { origin, request in
            guard origin.isLeaseExpiry else { return }
            var keys: [[UInt8]] = []
            request.forEachChange { change in
                #expect(change.isRemoval)
                unsafe keys.append(Array(change.key))
            }
            continuation.yield(keys)
        }
    }

    /// The keys that went first.
    func first() async -> [[UInt8]] {
        for await keys in ends { return keys }
        return []
    }
}
