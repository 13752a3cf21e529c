import MWProtocol
import NIOCore
import Testing

@testable import MWClient

/// One watch as a value: a simulated store says what a server would, a test decides where it is cut.
@Suite struct WatchStateMachineTests {
    private static let ranges = [KeyRange(from: [UInt8(ascii: "c")], to: [UInt8(ascii: "k")])]

    private static func machine(_ start: WatchStart, _ onGap: GapPolicy, ranges: [KeyRange] = Self.ranges) -> WatchStateMachine {
        var options = WatchOptions()
        options.onGap = onGap
        options.maximumBufferedBytes = 4_000
        return WatchStateMachine(.init(ranges: ranges, start: start, options: options))
    }

    /// What several functions of a test change.
    private final class Box {
        var machine: WatchStateMachine
        init(_ machine: consuming WatchStateMachine) { self.machine = machine }
    }

    /// Who reads a watch, and believes it.
    private struct Reader {
        var content: [[UInt8]: Entry] = [:]
        var next: [[UInt8]: Entry]?
        var revision: UInt64 = 0
        var revisions: [UInt64] = []
        var isOutdated = false

        mutating func read(_ event: WatchEvent) {
            switch event {
            case .state(_, let entries):
                for entry in entries { self.next?[entry.key] = entry }
            case .changes(let revision, let changes):
                #expect(revision.number > self.revision && self.next == nil)
                self.revision = revision.number
                self.revisions.append(revision.number)
                for change in changes {
                    #expect(self.content[change.key]?.revision.number ?? 0 == change.previousRevision.number)
                    self.content[change.key] = change.value.map { Entry(key: change.key, value: $0, revision: revision) }
                }
            case .synced(let revision):
                if let next = self.next { self.content = next } else { #expect(revision.number >= self.revision) }
                self.next = nil
                self.revision = revision.number
            case .progress(let revision):
                #expect(revision.number >= self.revision)
                self.revision = revision.number
            case .resync:
                self.next = [:]
                self.revision = 0
            case .disconnected, .resumed: break
            }
        }
    }

    /// Method: writes, cuts, pauses, compactions, restores, refusals and ends in any order, a thousand times; then quiet.
    @Test(arguments: 0..<300) func whatIsReportedAlwaysMakesTheStore(seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        var store = SimulatedStore()
        for _ in 0..<5 { store.write(random.writes()) }
        let box = Box(Self.machine(.state, .resync))
        var reader = Reader(next: [:])
        var waiting: [WatchEvent] = []
        var isPaused = false

        func handle(_ action: WatchStateMachine.Action) {
            switch action {
            case .report(let events): waiting += events
            case .rearm(let events, _): waiting += events
            case .fail(let error): Issue.record("\(error)")
            }
            let bytes = waiting.reduce(0) { $0 + $1.byteCount }
            guard case .success(let mustPause) = box.machine.buffered(bytes) else { Issue.record("the state did not fit"); return }
            if mustPause {
                isPaused = true
                store.disconnect()
            }
        }
        func drain() {
            for event in waiting { reader.read(event) }
            waiting = []
            if isPaused { equal(box.machine.drained(), true) }
            isPaused = false
        }
        func step() {
            if !store.isWatched, store.sent.isEmpty, let request = box.machine.request() {
                store.received(request, pages: Int.random(in: 1...4, using: &random))
            }
            if !store.sent.isEmpty { handle(box.machine.received(store.sent.removeFirst(), using: &random)) }
        }

        for _ in 0..<1_000 {
            switch Int.random(in: 0..<60, using: &random) {
            case 0..<14: store.write(random.writes(), parts: Int.random(in: 1...4, using: &random))
            case 14..<20: drain()
            case 20:
                store.disconnect()
                handle(box.machine.disconnected(ClientError(.connectionLost, subject: "test", what: "cut")))
            case 21: store.compact()
            case 22:
                store.restore(random.writes())
                handle(box.machine.disconnected(ClientError(.connectionLost, subject: "test", what: "restored")))
            case 23: store.end(NativeFailure(.watchOverflowed, "too slow"))
            case 24: store.progress()
            case 25: store.resync()
            default: step()
            }
        }
        while !isPaused, !store.sent.isEmpty || !store.isWatched { step() }
        drain()
        while !store.sent.isEmpty || !store.isWatched { step() }
        drain()
        #expect(reader.next == nil)
        #expect(reader.content.values.sorted { $0.key.lexicographicallyPrecedes($1.key) } == store.content(Self.ranges))
    }

    /// Method: the same without gaps, from a revision on; each revision in the ranges must come exactly once.
    @Test(arguments: 0..<50) func acrossCutsEachRevisionIsReportedOnce(seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        var store = SimulatedStore()
        for _ in 0..<3 { store.write(random.writes()) }
        let first = Revision(store.typedIncarnation, store.revision)
        var machine = Self.machine(.after(first), .fail, ranges: [.all])
        var reported: [UInt64] = []
        for _ in 0..<400 {
            switch Int.random(in: 0..<12, using: &random) {
            case 0..<3: store.write(random.writes(), parts: 3)
            case 3:
                store.disconnect()
                _ = machine.disconnected(ClientError(.connectionLost, subject: "test", what: "cut"))
            default:
                if !store.isWatched, let request = machine.request() { store.received(request, pages: 3) }
                guard !store.sent.isEmpty else { continue }
                guard case .report(let events) = machine.received(store.sent.removeFirst(), using: &random) else {
                    Issue.record("it failed")
                    return
                }
                for case .changes(let revision, _) in events { reported.append(revision.number) }
            }
        }
        if !store.isWatched, let request = machine.request() { store.received(request) }
        while !store.sent.isEmpty {
            if case .report(let events) = machine.received(store.sent.removeFirst(), using: &random) {
                for case .changes(let revision, _) in events { reported.append(revision.number) }
            }
        }
        #expect(reported == Array(first.number + 1..<UInt64(store.revision) + 1))
    }

    /// Method: one step of a right conversation is done twice, left out in the middle of a revision, or moved.
    @Test func whatIsRepeatedTornOrReorderedIsNeverReported() throws {
        var random = SeededRandom(seed: 1)
        func conversation(_ machine: inout WatchStateMachine) -> [SimulatedStore.Said] {
            var store = SimulatedStore()
            store.write([([1], [1]), ([2], [2])])
            store.received(machine.request() ?? NativeWatch(), pages: 2)
            store.write([([1], [3]), ([2], nil), ([3], [4])], parts: 3)
            store.write([([1], [5])])
            store.progress()
            return store.sent
        }
        // began, state, state, synced, 3 parts, changes, progress
        func play(_ change: (inout [SimulatedStore.Said]) -> Void) -> [WatchEvent]? {
            var machine = Self.machine(.state, .resync, ranges: [.all])
            var said = conversation(&machine)
            change(&said)
            var events: [WatchEvent] = []
            for said in said {
                switch machine.received(said, using: &random) {
                case .report(let more): events += more
                case .rearm: return nil
                case .fail(let error):
                    #expect(error.code == .protocolMismatch)
                    return nil
                }
            }
            return events
        }
        #expect(play { _ in }?.count == 6)
        for repeated in [1, 2, 6, 7] { #expect(play { $0.insert($0[repeated], at: repeated + 1) } == nil, "\(repeated) twice") }
        #expect(play { _ = $0.remove(at: 6) } == nil)
        for (from, to) in [(7, 4), (8, 5), (2, 1), (4, 3), (3, 2), (7, 5)] {
            #expect(play { $0.insert($0.remove(at: from), at: to) } == nil, "\(from) at \(to)")
        }
        #expect(play { $0.insert($0[0], at: 4) } == nil)
    }

    /// Method: a watch that may not have gaps meets each kind of them.
    @Test func aGapIsATypedErrorUnlessItMayBe() throws {
        var random = SeededRandom(seed: 1)
        var store = SimulatedStore()
        store.write([([1], [1])])
        let first = Revision(store.typedIncarnation, store.revision)
        store.write([([1], [2])])
        store.compact()
        func answer(to onGap: GapPolicy, in store: SimulatedStore) -> [WatchStateMachine.Action] {
            var store = store
            var machine = Self.machine(.after(first), onGap, ranges: [.all])
            var actions: [WatchStateMachine.Action] = []
            for _ in 0..<2 {
                guard let request = machine.request() else { break }
                store.received(request)
                for said in store.sent { actions.append(machine.received(said, using: &random)) }
                store.disconnect()
            }
            return actions
        }
        let now = Revision(store.typedIncarnation, store.revision)
        #expect(answer(to: .fail, in: store) == [.fail(ClientError(.compacted, subject: "", what: ""))])
        #expect(
            answer(to: .restart, in: store) == [
                .rearm([.resync(reason: "forgotten")], after: .zero), .report([]), .report([.synced(now)]),
            ])
        #expect(
            answer(to: .resync, in: store) == [
                .report([]), .report([.resync(reason: "test")]), .report([.state(now, store.content([.all]))]), .report([.synced(now)]),
            ])
        store.restore([([9], [9])])
        let restored = Revision(store.typedIncarnation, store.revision)
        #expect(answer(to: .fail, in: store) == [.fail(ClientError(.wrongIncarnation, subject: "", what: ""))])
        #expect(
            answer(to: .resync, in: store) == [
                .rearm([.resync(reason: "revision 1 is of another store")], after: .zero), .report([]),
                .report([.state(restored, store.content([.all]))]), .report([.synced(restored)]),
            ])
    }

    /// Method: the server says no in ways that pass, and in ways that do not.
    @Test func onlyRefusalsThatPassAreTriedAgain() throws {
        var random = HighestRandom()
        var machine = Self.machine(.now, .fail)
        for wait in [Duration.milliseconds(100), .milliseconds(200), .milliseconds(400)] {
            _ = machine.request()
            let action = machine.refused(NativeFailure(.overloaded, "busy", isRetryable: true), using: &random)
            guard case .rearm(_, let after) = action else { Issue.record("\(action)"); return }
            #expect(after == wait)
        }
        _ = machine.request()
        guard case .fail(let error) = machine.refused(NativeFailure(.permissionDenied, "no"), using: &random) else {
            Issue.record("it is tried again")
            return
        }
        #expect(error.code == .forbidden)
        equal(machine.request(), nil)
    }

    /// Method: a slow reader; what is asked for again is what it has not been given.
    @Test func aSlowReaderIsPausedAndGoesOnBehindWhatItRead() throws {
        var random = SeededRandom(seed: 1)
        var store = SimulatedStore()
        var machine = Self.machine(.now, .fail, ranges: [.all])
        store.received(machine.request() ?? NativeWatch())
        store.write([([1], Array(repeating: 7, count: 5_000))])
        store.write([([1], [1]), ([2], [2])], parts: 2)
        for _ in 0..<3 { _ = machine.received(store.sent.removeFirst(), using: &random) }
        equal(machine.buffered(3_999), .success(false))
        equal(machine.buffered(5_000), .success(true))
        equal(machine.request(), nil)
        equal(machine.drained(), true)
        equal(machine.request()?.after, 1)
    }

    /// Method: marks alone are over the limit that was asked for. Asked for again, they would come again, for ever.
    @Test func aWatchDoesNotPauseForItsOwnMarks() {
        var random = SeededRandom(seed: 1)
        var store = SimulatedStore()
        var options = WatchOptions()
        options.maximumBufferedBytes = 1
        var machine = WatchStateMachine(.init(ranges: [.all], start: .now, options: options))
        store.received(machine.request() ?? NativeWatch())
        _ = machine.received(store.sent.removeFirst(), using: &random)
        equal(machine.buffered(4 * WatchEvent.bytesPerElement), .success(false))
        equal(machine.buffered(WatchOptions.leastBufferedBytes + 1), .success(true))
    }

    @Test func rangesAreMergedAndEmptyOnesRefused() throws {
        func range(_ lower: UInt8, _ upper: UInt8?) -> KeyRange { KeyRange(from: [lower], to: upper.map { [$0] }) }
        #expect(KeyRange.merged([range(5, 7), range(1, 3), range(3, 4), range(6, 9), range(2, 2)]) == [range(1, 4), range(5, 9)])
        #expect(KeyRange.merged([range(1, nil), range(3, 4), .all]) == [.all])
        #expect(range(1, 3).intersects(range(2, nil)) && !range(1, 3).intersects(range(3, 4)) && KeyRange.all.intersects(range(9, nil)))
        #expect(throws: ClientError.self) {
            try WatchStateMachine.Configuration(checking: [range(2, 2)], from: .now, WatchOptions())
        }
    }
}
