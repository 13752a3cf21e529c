import Testing

@testable import MWClient

/// What a near cache may serve, as a value, beside a model of a store.
@Suite struct NearCacheStateMachineTests {
    private static let limits = NearCacheStateMachine.Limits(maximumEntries: 4, maximumBytes: 10_000)
    private static let store = Incarnation([UInt8](repeating: 1, count: 16)) ?? .unknown
    private static let lost = ClientError(.connectionLost, subject: "test", what: "cut")

    private static func revision(_ number: UInt64) -> Revision { Revision(incarnation: Self.store, number: number) }
    private static func entry(_ key: UInt8, _ number: UInt64) -> Entry { Entry(key: [key], value: [key], revision: Self.revision(number)) }
    private static func change(_ key: UInt8) -> Change { Change(key: [key], value: nil, previousRevision: Self.revision(0)) }

    private static func open() -> NearCacheStateMachine {
        var cache = NearCacheStateMachine(Self.limits)
        cache.received(.synced(Self.revision(10)))
        return cache
    }

    @Test func whatWasReadIsServedUntilItChanges() throws {
        var cache = Self.open()
        equal(cache.lookup([1]).isMiss, true)
        equal(cache.filled([1], Self.entry(1, 5), at: Self.revision(10), fill: cache.lastFill), true)
        equal(cache.lookup([1]), .hit(Self.entry(1, 5)))
        cache.received(.changes(Self.revision(11), [Self.change(1)]))
        equal(cache.lookup([1]).isMiss, true)
        equal(cache.filled([1], nil, at: Self.revision(11), fill: cache.lastFill), true)
        equal(cache.lookup([1]), .hit(nil))
        equal(cache.counters, NearCacheCounters(hits: 2, misses: 2, invalidations: 1, evictions: 0))
    }

    /// Method: each way in which an answer can be older than what the client was told.
    @Test func anAnswerThatMayBeOldIsNotStored() throws {
        var cache = Self.open()
        _ = cache.lookup([1])
        equal(cache.filled([1], Self.entry(1, 5), at: Self.revision(9), fill: cache.lastFill), false, "read before the watch began")
        _ = cache.lookup([1])
        cache.received(.changes(Self.revision(12), [Self.change(1)]))
        equal(cache.filled([1], Self.entry(1, 5), at: Self.revision(11), fill: cache.lastFill), false, "a change came first")
        _ = cache.lookup([1])
        cache.received(.changes(Self.revision(13), [Self.change(1)]))
        equal(cache.filled([1], Self.entry(1, 13), at: Self.revision(13), fill: cache.lastFill), true, "the change is in the answer")
        _ = cache.lookup([2])
        cache.writeBegan([[2]])
        equal(cache.filled([2], nil, at: Self.revision(14), fill: cache.lastFill), false, "an own write is under way")
        _ = cache.lookup([2])
        cache.writeEnded([[2]])
        equal(cache.filled([2], nil, at: Self.revision(14), fill: cache.lastFill), false, "an own write was under way")
        _ = cache.lookup([3])
        cache.drop { $0 == [3] }
        equal(cache.filled([3], nil, at: Self.revision(15), fill: cache.lastFill), false, "it was to be reloaded")
        let other = Revision(incarnation: Incarnation([UInt8](repeating: 2, count: 16)) ?? .unknown, number: 99)
        _ = cache.lookup([4])
        equal(cache.filled([4], nil, at: other, fill: cache.lastFill), false, "it is of another store")
    }

    @Test func nothingIsServedWhileChangesAreNotKnown() throws {
        var cache = Self.open()
        _ = cache.lookup([1])
        cache.filled([1], Self.entry(1, 5), at: Self.revision(10), fill: cache.lastFill)
        _ = cache.lookup([2])
        cache.filled([2], Self.entry(2, 5), at: Self.revision(10), fill: cache.lastFill)
        cache.received(.disconnected(Self.lost))
        equal(cache.lookup([1]).isMiss, true)
        cache.received(.resumed(Self.revision(10)))
        equal(cache.lookup([1]).isMiss, true)
        cache.received(.changes(Self.revision(12), [Self.change(1)]))
        cache.received(.synced(Self.revision(14)))
        equal(cache.lookup([1]).isMiss, true)
        equal(cache.lookup([2]), .hit(Self.entry(2, 5)))
        cache.received(.resync(reason: "compacted"))
        cache.received(.synced(Self.revision(20)))
        equal(cache.lookup([2]).isMiss, true)
        equal(cache.count, 0)
        equal(cache.byteCount, 0)
    }

    @Test func whatWasNotReadForLongestGoesFirst() throws {
        var cache = Self.open()
        for key in UInt8(1)...4 {
            _ = cache.lookup([key])
            cache.filled([key], nil, at: Self.revision(10), fill: cache.lastFill)
        }
        for key in [UInt8(1), 3, 4] { equal(cache.lookup([key]), .hit(nil)) }
        _ = cache.lookup([5])
        cache.filled([5], nil, at: Self.revision(10), fill: cache.lastFill)
        equal(cache.count, 4)
        equal(cache.lookup([2]).isMiss, true)
        for key in [UInt8(1), 3, 4, 5] { equal(cache.lookup([key]), .hit(nil)) }
    }

    /// Method: gets, writes of others and our own, delivery of what the watch says, cuts and resyncs in any order. A hit must be the value of the
    /// newest revision of the key that this client has been told of, or a newer one; and the bounds hold.
    @Test(arguments: 0..<200) func aHitIsNeverOlderThanWhatWasTold(seed: UInt64) throws {
        var model = CacheModel(seed: seed, cache: NearCacheStateMachine(Self.limits))
        for _ in 0..<2_000 { model.step() }
        equal(model.cache.counters.hits > 0, true)
    }
}

extension NearCacheStateMachine.Lookup {
    fileprivate var isMiss: Bool { if case .miss = self { true } else { false } }
}

/// A store, the wire to a client (one queue: replies and events in order), and the cache at its end.
private struct CacheModel: ~Copyable {
    private enum Message {
        case answer(key: UInt8, Entry?, at: UInt64, fill: UInt64)
        case event(WatchEvent)
    }

    var cache: NearCacheStateMachine
    private var random: SeededRandom
    private var revision: UInt64 = 1
    private var history: [(revision: UInt64, key: UInt8, isThere: Bool)] = []
    private var wire: [Message] = []
    /// Answers that have arrived, and that the caller's task has not taken yet.
    private var arrived: [(key: UInt8, Entry?, at: UInt64, fill: UInt64)] = []
    private var asked: [(key: UInt8, fill: UInt64)] = []
    private var isConnected = false
    private var position: UInt64?
    /// Per key: the newest revision that this client has been told of.
    private var told: [UInt8: UInt64] = [:]
    private var ownWrites: [UInt8] = []

    init(seed: UInt64, cache: consuming NearCacheStateMachine) {
        self.random = SeededRandom(seed: seed)
        self.cache = cache
    }

    private func current(_ key: UInt8) -> Entry? {
        guard let last = self.history.last(where: { $0.key == key }), last.isThere else { return nil }
        return Entry(key: [key], value: [UInt8(truncatingIfNeeded: last.revision)], revision: CacheModel.revision(last.revision))
    }

    private static func revision(_ number: UInt64) -> Revision {
        Revision(incarnation: Incarnation([UInt8](repeating: 1, count: 16)) ?? .unknown, number: number)
    }

    private mutating func write(_ key: UInt8) {
        self.revision += 1
        self.history.append((self.revision, key, !self.random.oneIn(4)))
        if self.isConnected { self.wire.append(.event(Self.event(self.revision, key))) }
    }

    private static func event(_ revision: UInt64, _ key: UInt8) -> WatchEvent {
        .changes(Self.revision(revision), [Change(key: [key], value: nil, previousRevision: Self.revision(0))])
    }

    mutating func step() {
        let key = UInt8.random(in: 1...6, using: &self.random)
        switch Int.random(in: 0..<90, using: &self.random) {
        case 0..<12: self.get(key)
        case 12..<15: self.write(key)
        case 15:
            self.cache.writeBegan([[key]])
            self.write(key)
            self.ownWrites.append(key)
        case 16..<19:
            guard let written = self.ownWrites.popLast() else { return }
            self.told[written] = self.revision
            self.cache.writeEnded([[written]])
        case 19..<31: self.answer()
        case 31: self.cut()
        case 32..<36: self.connect()
        default: self.deliver()
        }
        equal(self.cache.count <= 4, true)
    }

    private mutating func get(_ key: UInt8) {
        switch self.cache.lookup([key]) {
        case .miss(let fill): self.asked.append((key, fill))
        case .hit(let entry):
            // The newest change of the key up to what was told.
            let told = self.told[key] ?? 0
            let least = self.history.last { $0.key == key && $0.revision <= told }
            let served = self.history.last { $0.key == key && $0.isThere && $0.revision == entry?.revision.number }
            if let entry {
                #expect(served != nil && entry.revision.number >= least?.revision ?? 0)
            } else {
                let isPossible =
                    (least?.isThere ?? false) == false || self.history.contains { $0.key == key && $0.revision > told && !$0.isThere }
                #expect(isPossible)
            }
        }
    }

    /// The server reads, and its answer goes on its way.
    private mutating func answer() {
        guard self.isConnected, !self.asked.isEmpty else { return }
        let (key, fill) = self.asked.removeFirst()
        self.wire.append(.answer(key: key, self.current(key), at: self.revision, fill: fill))
    }

    private mutating func deliver() {
        if !self.arrived.isEmpty, self.random.oneIn(3) {
            let (key, entry, at, fill) = self.arrived.remove(at: Int.random(in: 0..<self.arrived.count, using: &self.random))
            self.cache.filled([key], entry, at: Self.revision(at), fill: fill)
            return
        }
        guard !self.wire.isEmpty else { return }
        switch self.wire.removeFirst() {
        case .answer(let key, let entry, let at, let fill): self.arrived.append((key, entry, at, fill))
        case .event(let event):
            self.cache.received(event)
            switch event {
            case .changes(let revision, let changes):
                for change in changes { self.told[change.key[0]] = max(self.told[change.key[0]] ?? 0, revision.number) }
                self.position = revision.number
            case .synced(let revision): self.position = revision.number
            default: break
            }
        }
    }

    private mutating func cut() {
        guard self.isConnected else { return }
        self.isConnected = false
        // Reads that were sent and not answered are sent again.
        for case .answer(let key, _, _, let fill) in self.wire { self.asked.append((key, fill)) }
        self.wire = []
        self.cache.received(.disconnected(ClientError(.connectionLost, subject: "test", what: "cut")))
    }

    private mutating func connect() {
        guard !self.isConnected else { return }
        self.isConnected = true
        if self.random.oneIn(5) {
            self.position = nil
            self.cache.received(.resync(reason: "compacted"))
        }
        if let position = self.position {
            self.wire.append(.event(.resumed(Self.revision(position))))
            for (revision, key, _) in self.history where revision > position { self.wire.append(.event(Self.event(revision, key))) }
        }
        self.wire.append(.event(.synced(Self.revision(self.revision))))
    }
}
