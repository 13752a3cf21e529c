import Testing

@testable import MWClient

/// What a replica holds, as a value.
@Suite struct ReplicaStateMachineTests {
    private static let store = Incarnation([UInt8](repeating: 1, count: 16)) ?? .unknown
    private static let now = ContinuousClock.now
    private static let lost = ClientError(.connectionLost, subject: "test", what: "cut")

    private static func revision(_ number: UInt64) -> Revision { Revision(incarnation: Self.store, number: number) }
    private static func entry(_ key: UInt8, _ value: UInt8, _ number: UInt64) -> Entry {
        Entry(key: [key], value: [value], revision: Self.revision(number))
    }
    private static func put(_ key: UInt8, _ value: UInt8, after number: UInt64) -> Change {
        Change(key: [key], value: [value], previousRevision: Self.revision(number))
    }
    private static func remove(_ key: UInt8, after number: UInt64) -> Change {
        Change(key: [key], value: nil, isRemoval: true, previousRevision: Self.revision(number))
    }

    private static func loaded() -> ReplicaStateMachine {
        var machine = ReplicaStateMachine(maximumBytes: 100_000)
        _ = machine.received(.state(Self.revision(5), [Self.entry(1, 1, 3)]), now: Self.now)
        _ = machine.received(.state(Self.revision(5), [Self.entry(2, 2, 5)]), now: Self.now)
        _ = machine.received(.synced(Self.revision(5)), now: Self.now)
        return machine
    }

    private func refusal(_ machine: borrowing ReplicaStateMachine, _ policy: DisconnectedPolicy) -> ClientError? {
        do throws(ClientError) {
            try machine.check(policy)
            return nil
        } catch { return error }
    }

    private func content(_ machine: borrowing ReplicaStateMachine) -> [Entry] {
        var entries: [Entry] = []
        machine.entries.forEach(in: .all) {
            entries.append($0); return true
        }
        return entries
    }

    @Test func nothingIsReadBeforeTheStateIsWhole() throws {
        var machine = ReplicaStateMachine(maximumBytes: 100_000)
        equal(machine.received(.state(Self.revision(5), [Self.entry(1, 1, 3)]), now: Self.now), .none)
        equal(machine.status, .loading)
        equal(machine.revision, nil)
        equal(machine.entries.count, 0)
        equal(self.refusal(machine, .staleReads)?.code, .stale)
        let action = machine.received(.synced(Self.revision(5)), now: Self.now)
        #expect(action == .changed([ReplicaChange(before: nil, after: Self.entry(1, 1, 3))]))
        equal(machine.status, .current)
        equal(machine.revision, Self.revision(5))
    }

    @Test func aRevisionIsAppliedWhole() throws {
        var machine = Self.loaded()
        let action = machine.received(.changes(Self.revision(7), [Self.remove(1, after: 3), Self.put(3, 9, after: 0)]), now: Self.now)
        #expect(
            action
                == .changed([
                    ReplicaChange(before: Self.entry(1, 1, 3), after: nil), ReplicaChange(before: nil, after: Self.entry(3, 9, 7)),
                ]))
        equal(self.content(machine), [Self.entry(2, 2, 5), Self.entry(3, 9, 7)])
        equal(machine.revision, Self.revision(7))
    }

    /// Method: a change whose predecessor never came.
    @Test func aMissingChangeIsAnErrorNotASilence() throws {
        var machine = Self.loaded()
        equal(machine.received(.changes(Self.revision(7), [Self.put(1, 2, after: 6)]), now: Self.now), .failed)
        equal(machine.entries.count, 0)
        equal(machine.status, .failed(ClientError(.protocolMismatch, subject: "", what: "")))
    }

    @Test func theOldContentIsReadAsStaleUntilTheNewStateIsWhole() throws {
        var machine = Self.loaded()
        _ = machine.received(.disconnected(Self.lost), now: Self.now)
        equal(machine.status, .stale(since: Self.now, because: Self.lost))
        equal(self.refusal(machine, .staleReads), nil)
        equal(self.refusal(machine, .error)?.code, .stale)
        _ = machine.received(.resync(reason: "compacted"), now: Self.now + .seconds(1))
        _ = machine.received(.state(Self.revision(9), [Self.entry(2, 7, 8), Self.entry(4, 4, 9)]), now: Self.now)
        equal(self.content(machine), [Self.entry(1, 1, 3), Self.entry(2, 2, 5)])
        equal(machine.revision, Self.revision(5))
        // A state that was cut off counts for nothing.
        _ = machine.received(.resync(reason: "cut off"), now: Self.now)
        _ = machine.received(.state(Self.revision(10), [Self.entry(2, 7, 8)]), now: Self.now)
        let action = machine.received(.synced(Self.revision(10)), now: Self.now)
        #expect(
            action
                == .changed([
                    ReplicaChange(before: Self.entry(1, 1, 3), after: nil),
                    ReplicaChange(before: Self.entry(2, 2, 5), after: Self.entry(2, 7, 8)),
                ]))
        equal(self.content(machine), [Self.entry(2, 7, 8)])
        equal(machine.status, .current)
    }

    @Test func moreThanItMayHoldEndsIt() throws {
        var machine = ReplicaStateMachine(maximumBytes: 3 * SortedEntries.bytesPerEntry)
        _ = machine.received(.state(Self.revision(5), [Self.entry(1, 1, 3), Self.entry(2, 1, 3)]), now: Self.now)
        _ = machine.received(.synced(Self.revision(5)), now: Self.now)
        equal(machine.received(.changes(Self.revision(6), [Self.put(3, 3, after: 0)]), now: Self.now), .failed)
        equal(machine.status, .failed(ClientError(.limitExceeded, subject: "", what: "")))
    }

    @Test func waitsEndAtTheirRevisionWhereverItWasMade() throws {
        var machine = ReplicaStateMachine(maximumBytes: 100_000)
        equal(machine.waitUntilLoaded(1), .wait)
        equal(machine.wait(2, for: Self.revision(5)), .wait)
        equal(machine.wait(3, for: Self.revision(8)), .wait)
        equal(machine.takeProgressWanted(), false)
        _ = machine.received(.synced(Self.revision(5)), now: Self.now)
        equal(machine.endedWaits().map(\.id).sorted(), [1, 2])
        equal(machine.takeProgressWanted(), true)
        equal(machine.takeProgressWanted(), false)
        _ = machine.received(.progress(Self.revision(8)), now: Self.now)
        equal(machine.endedWaits().map(\.id), [3])
        equal(machine.wait(4, for: Self.revision(7)), .reached)
        let other = Revision(incarnation: Incarnation([UInt8](repeating: 2, count: 16)) ?? .unknown, number: 1)
        equal(machine.wait(5, for: other), .fail(ClientError(.wrongIncarnation, subject: "", what: "")))
    }

    /// Method: a thousand puts and removes beside a dictionary, with copies whose differences are compared.
    @Test(arguments: 0..<20) func sortedEntriesAreADictionaryInOrder(seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        var entries = SortedEntries()
        var model: [[UInt8]: Entry] = [:]
        var old = (entries, model)
        let keys = seed % 2 == 0 ? 300 : 3_000
        for step in 0..<3_000 {
            let number = Int.random(in: 0..<keys, using: &random)
            let key = [UInt8(number >> 8), UInt8(number & 255)]
            if random.oneIn(3) {
                #expect(entries.remove(key) == model.removeValue(forKey: key))
            } else {
                let entry = Entry(key: key, value: [UInt8](repeating: 0, count: number % 7), revision: Self.revision(UInt64(step)))
                #expect(entries.put(entry) == model.updateValue(entry, forKey: key))
            }
            #expect(entries[key] == model[key])
            if step % 500 == 499 {
                self.compare(entries, model, since: old.0, old.1, &random)
                old = (entries, model)
            }
        }
    }

    private func compare(
        _ entries: SortedEntries, _ model: [[UInt8]: Entry], since old: SortedEntries, _ oldModel: [[UInt8]: Entry],
        _ random: inout SeededRandom
    ) {
        let sorted = model.values.sorted { $0.key.lexicographicallyPrecedes($1.key) }
        #expect(entries.count == sorted.count)
        #expect(entries.byteCount == sorted.reduce(0) { $0 + SortedEntries.byteCount(of: $1) })
        let bounds = (0..<2).map { _ in [UInt8.random(in: 0...12, using: &random), UInt8.random(in: 0...255, using: &random)] }
        for range in [KeyRange.all, KeyRange(from: bounds[0], to: bounds[1]), KeyRange(from: bounds[0])] {
            let expected = sorted.filter { range.contains($0.key) }
            var found: [Entry] = []
            entries.forEach(in: range) {
                found.append($0); return true
            }
            #expect(found == expected)
            found = []
            entries.forEach(in: range, isBackward: true) {
                found.append($0); return true
            }
            #expect(found == expected.reversed())
        }
        var rebuilt = oldModel
        entries.forEachDifference(since: old) { before, after in
            let key = (after ?? before)?.key ?? []
            #expect(before != after && rebuilt[key] == before)
            rebuilt[key] = after
        }
        #expect(rebuilt == model)
    }
}
