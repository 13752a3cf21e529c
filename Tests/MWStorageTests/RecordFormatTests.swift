import EngineContract
import MWStorage
import Testing

@Suite struct RecordFormatTests {
    @Test("a value in its envelope is what was put", arguments: [nil, LeaseID(7)], [0, 1, 3000])
    func envelope(lease: LeaseID?, count: Int) throws {
        let value = [UInt8](repeating: 9, count: count)
        var batch = WriteBatch()
        try put(value, lease: lease, revision: Revision(0x0102_0304_0506_0708), in: &batch)
        let stored = try #require(records(batch).first)
        #expect(stored.key == [1, 5])
        #expect(stored.value.starts(with: [1, 2, 3, 4, 5, 6, 7, 8, lease == nil ? 0 : 1]))
        let decoded = with(stored.value) { bytes in
            unsafe StoredValue(decoding: bytes).map { stored in
                unsafe StoredEntry(key: [], value: Array(stored.bytes), revision: stored.revision, lease: stored.lease)
            }
        }
        #expect(decoded == StoredEntry(key: [], value: value, revision: Revision(0x0102_0304_0506_0708), lease: lease))
    }

    @Test("data that was put before its revision was known gets it later, and nothing else changes")
    func stamp() throws {
        var batch = WriteBatch()
        try put([1], lease: nil, revision: .zero, in: &batch)
        let start = batch.mark
        try put([2], lease: LeaseID(3), revision: .zero, in: &batch)
        try batch.put(in: .history, [0], [0])
        let end = batch.mark
        try put([4], lease: nil, revision: .zero, in: &batch)
        batch.stampData(Revision(0x2A), from: start, to: end)
        #expect(
            records(batch).map(\.value) == [
                [0, 0, 0, 0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0, 0x2A, 1, 0, 0, 0, 0, 0, 0, 0, 3, 2], [0],
                [0, 0, 0, 0, 0, 0, 0, 0, 0, 4],
            ])
    }

    @Test("history gives back the changes of a revision in their order")
    func history() throws {
        #expect(changes(of: try record()) == RecordFormatTests.changes)
        #expect(try with(try record()) { try unsafe HistoryRecord.time(of: $0) } == 77)
        let key = HistoryRecord.key(of: Revision(258))
        #expect(key == [0, 0, 0, 0, 0, 0, 1, 2])
        #expect(try with(key) { try unsafe HistoryRecord.revision(ofKey: $0) } == Revision(258))
    }

    @Test("sessions, outcomes and leases come back as they were", arguments: RecordFormatTests.outcomes)
    func roundTrip(outcome: OutcomeRecord) throws {
        let session = SessionRecord(principal: "Björn", timeToLiveMilliseconds: 60_000, acknowledged: 5)
        let lease = LeaseRecord(principal: "", timeToLiveMilliseconds: .max)
        var batch = WriteBatch()
        batch.putSession(SessionID(3), session)
        batch.putOutcome(SessionID(3), 9, outcome)
        batch.putLease(LeaseID(4), lease)
        batch.putMeta(MetaRecord.incarnationKey, UInt128(8))
        let all = records(batch)
        #expect(try with(all[0].value) { try unsafe SessionRecord(decoding: $0) } == session)
        #expect(try with(all[1].value) { try unsafe OutcomeRecord(decoding: $0) } == outcome)
        #expect(try with(all[2].value) { try unsafe LeaseRecord(decoding: $0) } == lease)
        #expect(try with(Array(all[0].key.dropFirst())) { try unsafe SessionRecord.session(ofKey: $0) } == SessionID(3))
        #expect(try with(Array(all[1].key.dropFirst())) { try unsafe OutcomeRecord.write(ofKey: $0) } == (SessionID(3), 9))
        #expect(try with(Array(all[2].key.dropFirst())) { try unsafe LeaseRecord.lease(ofKey: $0) } == LeaseID(4))
    }

    @Test("a store reads back what it wrote down of itself, and refuses what is too short")
    func meta() throws {
        let engine = try StorageEngineFactory.memory().open("", EngineOptions())
        var batch = WriteBatch()
        batch.putMeta(MetaRecord.revisionKey, UInt64(7))
        try batch.put(in: .meta, MetaRecord.compactedKey, [1])
        try engine.apply(batch, sync: true)
        #expect(try MetaRecord.read(MetaRecord.revisionKey, as: UInt64.self, from: engine) == 7)
        #expect(try MetaRecord.read(MetaRecord.incarnationKey, as: UInt128.self, from: engine) == nil)
        #expect(throws: StorageError(.corrupt, subject: "", found: "")) {
            try MetaRecord.read(MetaRecord.compactedKey, as: UInt64.self, from: engine)
        }
        engine.close()
    }

    @Test("a record cut off anywhere is corrupt or a shorter record, and never more than was there")
    func truncation() throws {
        let history = try record()
        for count in history.indices {
            let seen = changes(of: Array(history[..<count]))
            #expect(RecordFormatTests.changes.starts(with: seen ?? []))
        }
        for outcome in RecordFormatTests.outcomes {
            var batch = WriteBatch()
            batch.putOutcome(SessionID(1), 1, outcome)
            let whole = try #require(records(batch).first?.value)
            for count in whole.indices {
                #expect((try? with(Array(whole[..<count])) { try unsafe OutcomeRecord(decoding: $0) }) != outcome)
            }
        }
    }

    @Test(
        "random damage gives an error or some other record, which is written as it was read, and never a trap",
        arguments: 0..<4 as Range<UInt64>)
    func damage(seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        var batch = WriteBatch()
        batch.putSession(SessionID(3), SessionRecord(principal: "someone", timeToLiveMilliseconds: 1))
        for outcome in RecordFormatTests.outcomes { batch.putOutcome(SessionID(1), 1, outcome) }
        let whole = records(batch).map(\.value) + [try record(), []]
        for _ in 0..<3000 {
            var bytes = whole.randomElement(using: &random) ?? []
            for _ in 0..<Int.random(in: 0...6, using: &random) where !bytes.isEmpty {
                bytes[Int.random(in: bytes.indices, using: &random)] = UInt8.random(in: 0...255, using: &random)
            }
            bytes.removeLast(Int.random(in: 0...bytes.count, using: &random))
            _ = changes(of: bytes)
            unsafe bytes.withUnsafeBytes { bytes in
                var batch = WriteBatch()
                _ = unsafe StoredValue(decoding: bytes)
                if let session = try? unsafe SessionRecord(decoding: bytes) { batch.putSession(SessionID(1), session) }
                if let outcome = try? unsafe OutcomeRecord(decoding: bytes) { batch.putOutcome(SessionID(1), 1, outcome) }
                if let lease = try? unsafe LeaseRecord(decoding: bytes) { batch.putLease(LeaseID(1), lease) }
                for written in records(batch) { #expect(unsafe written.value.elementsEqual(bytes)) }
                _ = try? unsafe HistoryRecord.revision(ofKey: bytes)
                _ = try? unsafe OutcomeRecord.write(ofKey: bytes)
                _ = try? unsafe LeaseRecord.binding(ofKey: bytes)
            }
        }
    }

    @Test("an engine takes records whose length was filled in later", arguments: [0, 1, 127, 128, 40_000])
    func openPut(count: Int) throws {
        let engine = try StorageEngineFactory.memory().open("", EngineOptions())
        var batch = WriteBatch()
        try put([UInt8](repeating: 1, count: count), lease: nil, revision: Revision(1), in: &batch)
        try batch.put([6], [6])
        #expect(batch.operationCount == 2)
        try engine.apply(batch, sync: true)
        #expect(records(batch).map(\.value.count) == [count + 9, 1])
        engine.close()
    }

    // MARK: What is encoded

    struct Change: Hashable {
        var key: [UInt8]
        var value: [UInt8]?
        var previous: UInt64
        var lease: UInt64?
    }

    static let changes = [
        Change(key: [1, 2], value: [3], previous: 0, lease: nil), Change(key: [], value: [], previous: 5, lease: 6),
        Change(key: [255], value: nil, previous: 7, lease: nil), Change(key: [8], value: nil, previous: 9, lease: 10),
    ]

    static let outcomes: [OutcomeRecord] = [
        .written(Revision(1), changes: 2), .prefix(32_767, Revision(3)), .lease(LeaseID(4), timeToLiveMilliseconds: 5, Revision(6)),
        .transaction(Revision(7), hasSucceeded: false, results: []),
        .transaction(
            Revision(8), hasSucceeded: true,
            results: [
                StoredEntry(key: [1]), StoredEntry(key: [2], value: [3], revision: Revision(4), lease: LeaseID(5)),
                StoredEntry(key: [], value: [], revision: Revision(6)),
            ]),
    ]

    @safe
    private func with<R>(_ bytes: [UInt8], _ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R {
        try unsafe bytes.withUnsafeBytes { try unsafe body($0) }
    }

    private func put(_ value: [UInt8], lease: LeaseID?, revision: Revision, in batch: inout WriteBatch) throws(StorageError) {
        try unsafe [UInt8(5)].span.bytes.withUnsafeBytes { (key) throws(StorageError) in
            try unsafe value.span.bytes.withUnsafeBytes { (value) throws(StorageError) in
                try unsafe batch.putData(key: key, value: value, revision: revision, lease: lease)
            }
        }
    }

    private func record() throws -> [UInt8] {
        var batch = WriteBatch()
        let open = batch.beginHistory(of: Revision(258), at: 77)
        for change in RecordFormatTests.changes {
            unsafe change.key.withUnsafeBytes { key in
                func append(_ value: UnsafeRawBufferPointer?) {
                    let lease = change.lease.map { LeaseID($0) }
                    unsafe batch.appendChange(
                        KeyChange(key: key, value: value, previousRevision: Revision(change.previous), lease: lease))
                }
                guard let value = change.value else { return append(nil) }
                unsafe value.withUnsafeBytes { unsafe append($0) }
            }
        }
        batch.endPut(open)
        return try #require(records(batch).first?.value)
    }

    /// Nil if the record is damaged.
    private func changes(of record: [UInt8]) -> [Change]? {
        var seen: [Change] = []
        do {
            try unsafe record.withUnsafeBytes { bytes in
                try unsafe HistoryRecord.forEachChange(of: bytes) { change in
                    let value = unsafe change.value.map { unsafe Array($0) }
                    let key = unsafe Array(change.key)
                    seen.append(
                        Change(key: key, value: value, previous: change.previousRevision.number, lease: change.lease?.number))
                    return true
                }
            }
            return seen
        } catch {
            #expect((error as? StorageError)?.code == .corrupt)
            return nil
        }
    }

    private func records(_ batch: borrowing WriteBatch) -> [Entry] {
        var all: [Entry] = []
        unsafe batch.forEach { change in
            if case .put(let key, let value) = unsafe change { unsafe all.append(Entry(Array(key), Array(value))) }
        }
        return all
    }
}
