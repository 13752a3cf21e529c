import EngineContract
import MWProtocol
import MWStorage
import NIOCore
import NIOEmbedded
import Testing

@testable import MWServer

/// What becomes of watches whose clients, loops or disks are behind: nothing is missed, nothing comes twice, and nobody else waits.
@Suite struct SlowWatchTests {
    private static let all = NativeRange("")

    private static func limits() -> ServerLimits {
        var limits = ServerLimits()
        limits.maximumWatchBacklogBytes = 1000
        limits.maximumUnsentBytes = 10_000
        return limits
    }

    /// A connection that takes nothing until it is told to.
    private func stalled(_ harness: WatchHarness, _ watch: NativeWatch) throws -> (peer: WatchPeer, network: NarrowNetwork) {
        let peer = try harness.connect()
        try peer.send(watch)
        harness.run()
        let network = try peer.client.narrow(to: 1_000_000)
        network.isStuck = true
        return (peer, network)
    }

    private func release(_ peer: WatchPeer, _ network: NarrowNetwork, in harness: WatchHarness) throws {
        network.isStuck = false
        try peer.client.take(network)
        peer.client.channel.flush()
        harness.run()
    }

    private func value(_ number: Int) -> String { String(repeating: "\(number % 10)", count: 400) }

    @Test func `A client that takes too little is not told what happens, others are, and it reads the rest from history`() throws {
        let harness = try WatchHarness(limits: Self.limits())
        let other = try harness.connect()
        try other.send(NativeWatch(Self.all))
        let (slow, network) = try self.stalled(harness, NativeWatch(Self.all))
        let expected = try (1...20).map { number in
            let revision = try harness.put(("k", self.value(number)))
            return "1 @\(revision) k=\(self.value(number))" + (number > 1 ? " after \(revision - 1)" : "")
        }
        #expect(try other.said() == ["1 watching behind 0", "1 synced @0"] + expected)
        // What is kept for it is bounded.
        #expect(slow.client.session.unsentBytes < 2000)
        #expect(harness.sessions.loop.counters.watchesLagged == 1)
        let native = try #require(slow.client.session.delegate as? NativeSession)
        #expect(native.watches.lag > 15)
        try self.release(slow, network, in: harness)
        #expect(try slow.said() == ["1 watching behind 0", "1 synced @0"] + expected)
        #expect(native.watches.lag == 0)
        // It is live again.
        try harness.put(("k", "last"))
        #expect(try slow.said() == ["1 @21 k=last after 20"])
        #expect(harness.sessions.loop.counters.watchesLagged == 1)
    }

    @Test func `A connection that is drained does not wait for the progress of a slow watch`() throws {
        let harness = try WatchHarness(limits: Self.limits())
        let (slow, _) = try self.stalled(harness, NativeWatch(Self.all))
        for number in 1...10 { try harness.put(("k", self.value(number))) }
        try slow.send(NativeProgressRequest(of: 1))
        harness.run()
        let session = slow.client.session
        #expect(session.requestsInFlight == 1)
        session.drain(.stop, 1001, "the server stops")
        #expect(session.requestsInFlight == 0)
        #expect(!session.isOpen)
    }

    @Test func `When the history that it needs is forgotten, a slow watch ends as overflowed, or begins anew with its state`() throws {
        let harness = try WatchHarness(limits: Self.limits())
        let (plain, plainNetwork) = try self.stalled(harness, NativeWatch(Self.all))
        let (stateful, statefulNetwork) = try self.stalled(harness, NativeWatch(Self.all, isWithState: true))
        for number in 1...10 { try harness.put(("k", self.value(number)), ("l", "\(number)")) }
        try harness.compact()
        try self.release(plain, plainNetwork, in: harness)
        try self.release(stateful, statefulNetwork, in: harness)
        let (plainSaid, statefulSaid) = (try plain.said(), try stateful.said())
        #expect(plainSaid.last == "1 ended watchOverflowed")
        #expect(statefulSaid.suffix(3) == ["1 resync @10", "1 state @10 k=\(self.value(10))@10, l=10@10", "1 synced @10"])
        #expect(plainSaid.count < 10 && statefulSaid.count < 12)
        try harness.put(("l", "on"))
        #expect(try plain.said() == [])
        #expect(try stateful.said() == ["1 @11 l=on after 10"])
    }

    @Test func `A state that nobody takes lets go of its snapshot in time`() throws {
        var limits = Self.limits()
        limits.watchStateTimeout = .seconds(30)
        limits.pingInterval = .seconds(1000)
        limits.unsentTimeout = .seconds(1000)
        let harness = try WatchHarness(limits: limits)
        for number in 0..<500 { try harness.submit([("key \(number)", self.value(number))]) }
        harness.commit()
        let (peer, network) = try self.stalled(harness, NativeWatch(NativeRange("none", "nonf")))
        try peer.send(NativeWatch(Self.all, isWithState: true))
        harness.run()
        harness.tick(after: .seconds(20))
        #expect(harness.watches.count == 2)
        harness.tick(after: .seconds(20))
        #expect(harness.watches.count == 1)
        #expect(harness.sessions.loop.counters.watchesOverflowed == 1)
        try self.release(peer, network, in: harness)
        #expect(try peer.said().contains("2 ended watchOverflowed"))
    }

    // MARK: Much at once

    @Test(arguments: [(1, 4000), (WatchLoop.defaultBytesPerTurn, 1 << 20)])
    func `However much one look into the mailbox brings, each is told all of it in order, and never more at once than may be unsent`(
        bytesPerTurn: Int, maximumBytes: Int
    ) throws {
        var limits = ServerLimits()
        limits.maximumWatchBacklogBytes = maximumBytes
        let harness = try WatchHarness(limits: limits, bytesPerTurn: bytesPerTurn)
        let ranges = [NativeRange("k", "l"), NativeRange("k", "l"), NativeRange("o")]
        let peers = try ranges.map { range in
            let peer = try harness.connect()
            try peer.send(NativeWatch(range))
            #expect(try peer.said() == ["1 watching behind 0", "1 synced @0"])
            return (peer: peer, network: try peer.client.narrow(to: 1_000_000))
        }
        let numbers = 1...3000
        for number in numbers { try harness.submit([(number.isMultiple(of: 500) ? "o" : "k\(number)", "\(number)")]) }
        harness.commit()
        harness.run()
        let others = numbers.filter { $0.isMultiple(of: 500) }
        let expected = numbers.filter { !$0.isMultiple(of: 500) }.map { "1 @\($0) k\($0)=\($0)" }
        for (peer, _) in peers.prefix(2) { #expect(try peer.said() == expected) }
        #expect(try peers[2].peer.said() == others.map { "1 @\($0) o=\($0)" + ($0 > 500 ? " after \($0 - 500)" : "") })
        #expect(peers.allSatisfy { $0.network.writes.allSatisfy { $0 <= maximumBytes } })
        #expect(harness.sessions.loop.counters.watchesLagged == 0)
    }

    @Test func `A watch that reads history is not live before what was taken meanwhile, and passed it by`() throws {
        var limits = ServerLimits()
        limits.maximumRequestsInFlight = 1
        let harness = try WatchHarness(limits: limits, bytesPerTurn: 1)
        let large = String(repeating: "v", count: 2 * WatchLoop.pageBytes)
        try harness.put(("k", large))
        try harness.put(("k", "2"))
        let peer = try harness.connect()
        let session = peer.client.session
        // The second progress request is taken while the second page of the first watch is sent, which is the end of history no more.
        let network = try peer.client.narrow(to: 0)
        network.takesOnFlush = true
        try peer.client.sendWithoutRunning([
            WatchPeer.message(NativeWatch(Self.all, after: 0, of: harness.storage), id: 1),
            WatchPeer.message(NativeWatch(Self.all, after: 1, of: harness.storage), id: 2),
            WatchPeer.message(NativeProgressRequest(of: 2), id: 3), WatchPeer.message(NativeProgressRequest(of: 2), id: 4),
        ])
        #expect(session.requestsInFlight == 1)
        try harness.submit([("k", "3")])
        network.onFlush = { [unowned harness, unowned session] in if session.requestsInFlight == 0 { harness.commit() } }
        harness.run()
        let said = try peer.said()
        #expect(
            said.filter { $0.hasPrefix("1 ") } == [
                "1 watching behind 0", "1 @1 k=\(large)", "1 @2 k=2 after 1", "1 @3 k=3 after 2", "1 synced @3",
            ])
        #expect(said.filter { $0.hasPrefix("2 @") } == ["2 @2 k=2 after 1", "2 @3 k=3 after 2"])
        #expect(said.filter { $0.contains("progress") } == ["3 progress 2", "4 progress 3"])
    }

    // MARK: Gaps

    @Test func `Commits that were not brought are read from history before the next is told`() throws {
        let harness = try WatchHarness()
        let peer = try harness.connect()
        try peer.send(NativeWatch(NativeRange("k")))
        try harness.put(("k", "1"))
        harness.stopObserving()
        try harness.put(("k", "2"))
        try harness.put(("k", "3"))
        harness.observeAgain()
        #expect(try peer.said() == ["1 watching behind 0", "1 synced @0", "1 @1 k=1"])
        try harness.put(("k", "4"))
        harness.run()
        #expect(try peer.said() == ["1 @2 k=2 after 1", "1 @3 k=3 after 2", "1 @4 k=4 after 3"])
        // And without a next one, after two ticks.
        harness.stopObserving()
        try harness.put(("k", "5"))
        harness.observeAgain()
        harness.tick()
        harness.tick()
        #expect(try peer.said() == ["1 @5 k=5 after 4"])
        try harness.put(("k", "6"))
        #expect(try peer.said() == ["1 @6 k=6 after 5"])
    }

    @Test func `A loop that stands still for long is brought no more than its mailbox holds, and reads the rest`() throws {
        let harness = try WatchHarness()
        let peer = try harness.connect()
        try peer.send(NativeWatch(Self.all))
        let value = String(repeating: "v", count: WatchHub.maximumUndeliveredBytes / 3)
        for number in 1...5 {
            try harness.submit([("k", "\(number) \(value)")])
            harness.commit()
        }
        harness.run()
        let said = try peer.said().map { $0.prefix(10) }
        #expect(said == ["1 watching", "1 synced @", "1 @1 k=1 v", "1 @2 k=2 v", "1 @3 k=3 v", "1 @4 k=4 v", "1 @5 k=5 v"])
    }

    @Test(arguments: [false, true]) func `What a disk error took was not told; what it kept is, once the store recovers`(keeps: Bool) throws
    {
        let harness = try WatchHarness()
        let peer = try harness.connect()
        try peer.send(NativeWatch(Self.all))
        try harness.put(("k", "1"))
        var faults = MemoryDisk.Faults()
        faults.failSyncs = true
        faults.keepsUnsynced = keeps
        harness.disk.setFaults(faults)
        try harness.put(("k", "lost?"))
        #expect(harness.failures == 1)
        harness.tick()
        harness.tick()
        #expect(try peer.said() == ["1 watching behind 0", "1 synced @0", "1 @1 k=1"])
        harness.disk.liftFaults()
        harness.advanceClock(by: .seconds(60))
        harness.commit()
        harness.run()
        #expect(harness.storage.health == .writable)
        #expect(try peer.said() == (keeps ? ["1 @2 k=lost? after 1"] : []))
        try harness.put(("k", "3"))
        #expect(try peer.said() == (keeps ? ["1 @3 k=3 after 2"] : ["1 @2 k=3 after 1"]))
    }

    @Test func `A state that a disk error interrupts begins anew`() throws {
        let harness = try WatchHarness()
        for number in 0..<500 { try harness.submit([("key \(1000 + number)", self.value(number))]) }
        harness.commit()
        let peer = try harness.connect()
        try peer.send(NativeWatch(Self.all, isWithState: true))
        // One page is read at once in its turn; the engine is opened anew before the next.
        harness.sessions.eventLoop.run()
        var faults = MemoryDisk.Faults()
        faults.failSyncs = true
        harness.disk.setFaults(faults)
        try harness.submit([("k", "lost")])
        harness.commit()
        harness.disk.liftFaults()
        harness.advanceClock(by: .seconds(60))
        harness.commit()
        harness.run()
        var kinds: [NativeEventKind] = []
        var keys: [String] = []
        for frame in try peer.frames() where frame.role == .event {
            let kind = NativeEventKind(rawValue: frame.kind)
            if kinds.last != kind { kinds.append(kind) }
            if kind == .resync { keys = [] }
            if kind == .state { keys += try NativeState(frame.fields).entries.map { String(buffer: $0.key) } }
        }
        #expect(kinds == [.state, .synced] || kinds == [.state, .resync, .state, .synced])
        #expect(keys == (0..<500).map { "key \(1000 + $0)" })
    }

    // MARK: Everything at once

    /// Many watchers with random ranges, beginnings and stalls, against writers, compactions and lost commits: each is told the store's
    /// history, filtered, or says why not.
    @Test(arguments: 0..<40 as Range<UInt64>) func `Every stream is the history of its ranges`(seed: UInt64) throws {
        try WatchSimulation(seed: seed).run(steps: 150)
    }
}

/// Random watchers and writers, and what the store's history says that each must have been told.
private final class WatchSimulation {
    private var random: SeededRandom
    private let harness: WatchHarness
    private var watchers: [Subject] = []
    /// What each revision changed, and the state after it.
    private var history: [[(key: String, value: String?)]] = []
    private var states: [[String: String]] = [[:]]
    private var compacted = 0

    private final class Subject {
        let peer: WatchPeer
        let network: NarrowNetwork
        let ranges: [(String, String?)]
        let isWithState: Bool
        var after: Int
        /// What it has put together: as a replica does.
        var replica: [String: String] = [:]
        var position: Int
        var isSynced = false
        var hasEnded = false
        var isInState = false
        var parts = 0

        init(_ peer: WatchPeer, _ network: NarrowNetwork, _ ranges: [(String, String?)], after: Int, isWithState: Bool) {
            self.peer = peer
            self.network = network
            self.ranges = ranges
            self.after = after
            self.position = after
            self.isWithState = isWithState
        }

        func contains(_ key: String) -> Bool { self.ranges.contains { key >= $0.0 && ($0.1.map { key < $0 } ?? true) } }
    }

    init(seed: UInt64) throws {
        self.random = SeededRandom(seed: seed)
        var limits = ServerLimits()
        limits.maximumWatchBacklogBytes = 300
        limits.maximumUnsentBytes = 3000
        limits.maximumMessageBytes = 400
        limits.unsentTimeout = .seconds(100_000)
        limits.pingInterval = .seconds(100_000)
        limits.watchStateTimeout = .seconds(100_000)
        // A turn for each watcher in half of the runs.
        self.harness = try WatchHarness(limits: limits, bytesPerTurn: seed.isMultiple(of: 2) ? 1 : WatchLoop.defaultBytesPerTurn)
    }

    private static let keys = ["a", "b", "c", "d", "e", "f", "g", "h"]

    private func key() -> String { Self.keys.randomElement(using: &self.random) ?? "a" }
    private func chance(_ one: Int) -> Bool { Int.random(in: 0..<one, using: &self.random) == 0 }

    func run(steps: Int) throws {
        for _ in 0..<steps {
            switch Int.random(in: 0..<12, using: &self.random) {
            case 0..<5: try self.write()
            case 5: try self.beginWatch()
            case 6, 7: self.stallOrRelease()
            case 8: self.harness.run()
            case 9: self.harness.tick()
            case 10:
                guard self.chance(6) else { break }
                try self.harness.compact()
                self.compacted = self.history.count
            default:
                if self.chance(4) { self.harness.stopObserving() } else { self.harness.observeAgain() }
            }
            for watcher in self.watchers { try self.hear(watcher) }
        }
        self.harness.observeAgain()
        try self.write()
        for watcher in self.watchers { try self.release(watcher) }
        for _ in 0..<20 {
            self.harness.tick()
            for watcher in self.watchers { try self.hear(watcher) }
        }
        for watcher in self.watchers where !watcher.hasEnded {
            #expect(watcher.isSynced)
            #expect(watcher.replica == self.states[self.history.count].filter { watcher.contains($0.key) })
        }
        #expect(self.harness.watches.count == self.watchers.count { !$0.hasEnded })
    }

    private func write() throws {
        for _ in 0..<Int.random(in: 1...3, using: &self.random) {
            var changes: [String: String?] = [:]
            for _ in 0..<Int.random(in: 1...4, using: &self.random) {
                let value: String? = self.chance(4) ? nil : String(repeating: "v", count: Int.random(in: 0...60, using: &self.random))
                changes[self.key()] = .some(value)
            }
            let last = self.states[self.states.count - 1]
            let list = changes.sorted { $0.key < $1.key }.map { (key: $0.key, value: $0.value) }
            try self.harness.submit(list)
            // A remove of what is not there changes nothing; a put always does.
            let effective = list.filter { $0.value != nil || last[$0.key] != nil }
            guard !effective.isEmpty else { continue }
            self.history.append(effective)
            var state = last
            for (key, value) in effective { state[key] = value }
            self.states.append(state)
        }
        self.harness.commit()
        #expect(self.harness.storage.revision.number == self.history.count)
        if self.chance(2) { self.harness.run() }
    }

    private func beginWatch() throws {
        guard self.watchers.count < 12 else { return }
        let ranges = (0..<Int.random(in: 1...2, using: &self.random)).map { _ -> (String, String?) in
            let lower = self.key()
            return (lower, self.chance(3) ? nil : lower + "~")
        }
        let revision = self.history.count
        let after: Int? = self.chance(2) ? nil : Int.random(in: min(self.compacted, revision)...revision, using: &self.random)
        let isWithState = self.chance(2)
        let peer = try self.harness.connect()
        var watch = NativeWatch(after: after.map { UInt64($0) }, of: self.harness.storage, isWithState: isWithState)
        watch.ranges = ranges.map { NativeRange($0.0, $0.1) }
        let network = try peer.client.narrow(to: 1_000_000)
        try peer.send(watch)
        let subject = Subject(peer, network, ranges, after: after ?? revision, isWithState: isWithState)
        if !(isWithState && after == nil) { subject.replica = self.states[subject.after].filter { subject.contains($0.key) } }
        self.watchers.append(subject)
    }

    private func stallOrRelease() {
        guard let watcher = self.watchers.randomElement(using: &self.random) else { return }
        if watcher.network.isStuck { try? self.release(watcher) } else { watcher.network.isStuck = true }
    }

    private func release(_ watcher: Subject) throws {
        watcher.network.isStuck = false
        try watcher.peer.client.take(watcher.network)
        watcher.peer.client.channel.flush()
        self.harness.run()
    }

    /// Checks what came against the history.
    private func hear(_ watcher: Subject) throws {
        for frame in try watcher.peer.frames() where frame.role == .event {
            #expect(!watcher.hasEnded)
            switch NativeEventKind(rawValue: frame.kind) {
            case .changes: self.hear(try NativeChanges(frame.fields), watcher)
            case .state:
                let state = try NativeState(frame.fields)
                if !watcher.isInState { watcher.replica = [:] }
                watcher.isInState = true
                watcher.position = Int(state.revision)
                for entry in state.entries { watcher.replica[String(buffer: entry.key)] = String(buffer: entry.value) }
            case .synced:
                let synced = try NativeSynced(frame.fields)
                self.pass(watcher, to: Int(synced.revision))
                watcher.isInState = false
                watcher.isSynced = true
                watcher.position = max(watcher.position, Int(synced.revision))
                #expect(watcher.replica == self.states[watcher.position].filter { watcher.contains($0.key) })
            case .progress:
                let revision = Int(try NativeProgress(frame.fields).revision)
                self.pass(watcher, to: revision)
                watcher.position = max(watcher.position, revision)
            case .resync:
                #expect(watcher.isWithState)
                watcher.replica = [:]
                watcher.isSynced = false
                watcher.position = Int(try NativeResync(frame.fields).revision)
            case .watchEnded:
                watcher.hasEnded = true
                let code = try NativeWatchEnded(frame.fields).failure.code
                #expect(!watcher.isWithState && (code == .watchOverflowed || code == .compacted))
            case let kind: Issue.record("\(kind)")
            }
        }
    }

    /// Nothing that concerns it lies between where it is and `revision`.
    private func pass(_ watcher: Subject, to revision: Int) {
        guard revision > watcher.position else { return }
        for missed in watcher.position..<revision {
            #expect(!self.history[missed].contains { watcher.contains($0.key) }, "revision \(missed + 1) was not told")
        }
    }

    private func hear(_ changes: NativeChanges, _ watcher: Subject) {
        let revision = Int(changes.revision)
        #expect(revision > watcher.position)
        self.pass(watcher, to: revision - 1)
        let expected = self.history[revision - 1].filter { watcher.contains($0.key) }.dropFirst(watcher.parts)
        let told = changes.changes.map { (String(buffer: $0.key), $0.isRemoval ? nil : String(buffer: $0.value)) }
        #expect(told.elementsEqual(expected.prefix(told.count)) { $0.0 == $1.key && $0.1 == $1.value })
        #expect(changes.isContinued == (told.count < expected.count))
        for (key, value) in told { watcher.replica[key] = value }
        watcher.parts = changes.isContinued ? watcher.parts + told.count : 0
        watcher.position = changes.isContinued ? revision - 1 : revision
    }
}
