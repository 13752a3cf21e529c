// What a near cache holds, and when that may be read.
//
//                 began, synced                disconnected
//   closed ──────────────────────────▶ open ──────────────────▶ closed
//     ▲                                  │
//     └───────── resync (all is dropped) ┘
//
// Responsibilities: that a read never returns what is older than the newest that this client has been told of; the bounds. It opens nothing
// and knows no clock.
//
// Why a fill is right. The watch reports each change of a key behind its position P. A get reads at the store's revision R; its answer may
// be stored if R ≥ P at the time the watch was begun (else a change between would never be reported), and no change of that key above R was
// reported, or made by ourselves, since the request was sent (that of the answer's own revision, or below, is in it already). A change above R
// that has not been reported yet will be, and drops the entry then. Where an own write is under way, its revision is not known: no fill.

struct NearCacheStateMachine: ~Copyable, Sendable {
    struct Limits: Equatable, Sendable {
        var maximumEntries: Int
        var maximumBytes: Int
    }

    enum Lookup: Equatable {
        case hit(Entry?)
        /// Ask the server, then call ``filled(_:_:at:fill:)`` or ``fillFailed(_:)`` with this number.
        case miss(UInt64)
    }

    private struct Slot: Sendable {
        let key: [UInt8]
        /// Nil: the key is known to be absent.
        let entry: Entry?
        /// The store's revision when it was read: every change up to it is in.
        let readAt: UInt64
        let bytes: Int
        /// Read since the hand was here.
        var isUsed: Bool
    }

    /// Answers for a key that are under way.
    private struct Fill: Sendable {
        var count: Int
        /// The newest change that was reported since the first of them was sent.
        var invalidatedAt: UInt64 = 0
        /// Those up to this number may have been read before a change whose revision is not known.
        var blocked: UInt64 = 0
    }

    private let limits: Limits
    /// A clock: new entries take the place of what the hand finds unused.
    private var slots: [Slot?] = []
    private var free: [Int] = []
    private var hand = 0
    private var places: [[UInt8]: Int] = [:]
    private(set) var byteCount = 0
    private(set) var counters = NearCacheCounters()

    private(set) var isOpen = false
    private var incarnation = Incarnation.unknown
    /// Changes behind it are reported: what was read before it may not be stored.
    private var reportedFrom: UInt64?
    private var fills: [[UInt8]: Fill] = [:]
    private(set) var lastFill: UInt64 = 0
    /// Own writes that are under way: nothing of these keys is stored.
    private var writes: [[UInt8]: Int] = [:]

    init(_ limits: Limits) { self.limits = limits }

    var count: Int { self.places.count }

    // MARK: Reading

    /// Looks for a key. A miss counts as a fill that is under way.
    mutating func lookup(_ key: [UInt8]) -> Lookup {
        if self.isOpen, let place = self.places[key], let slot = self.slots[place] {
            self.slots[place]?.isUsed = true
            self.counters.hits += 1
            return .hit(slot.entry)
        }
        self.counters.misses += 1
        self.lastFill += 1
        self.fills[key, default: Fill(count: 0)].count += 1
        return .miss(self.lastFill)
    }

    /// The server answered, as of `revision`.
    ///
    /// - Returns: whether it was stored.
    @discardableResult
    mutating func filled(_ key: [UInt8], _ entry: Entry?, at revision: Revision, fill number: UInt64) -> Bool {
        guard let fill = self.endFill(key), number > fill.blocked else { return false }
        guard let from = self.reportedFrom, revision.incarnation == self.incarnation, revision.number >= from,
            fill.invalidatedAt <= revision.number, self.writes[key] == nil
        else { return false }
        if let place = self.places[key], let held = self.slots[place] {
            // Another fill was faster; an answer of an older revision is no news.
            guard held.readAt < revision.number else { return false }
            self.drop(place)
        }
        return self.store(key, entry, readAt: revision.number)
    }

    /// There was no answer.
    mutating func fillFailed(_ key: [UInt8]) { _ = self.endFill(key) }

    private mutating func endFill(_ key: [UInt8]) -> Fill? {
        guard var fill = self.fills[key] else { return nil }
        fill.count -= 1
        self.fills[key] = fill.count == 0 ? nil : fill
        return fill
    }

    // MARK: What the watch reports

    mutating func received(_ event: WatchEvent) {
        switch event {
        case .changes(let revision, let changes):
            for change in changes { self.invalidate(change.key, at: revision.number) }
        case .synced(let revision):
            self.incarnation = revision.incarnation
            self.reportedFrom = self.reportedFrom ?? revision.number
            self.isOpen = true
        case .resumed(let revision):
            guard revision.incarnation != self.incarnation else { return }
            self.dropAll()
        case .resync: self.dropAll()
        case .disconnected: self.isOpen = false
        case .progress, .state: break
        }
    }

    /// The watch has ended: nothing is stored or read from here on.
    mutating func ended() { self.dropAll() }

    /// Everything of these keys is to be read from the server again.
    mutating func drop(where isMeant: ([UInt8]) -> Bool) {
        for (key, place) in self.places where isMeant(key) { self.drop(place) }
        for key in self.fills.keys where isMeant(key) { self.fills[key]?.blocked = self.lastFill }
    }

    private mutating func dropAll() {
        self.isOpen = false
        self.incarnation = .unknown
        self.reportedFrom = nil
        self.drop { _ in true }
    }

    private mutating func invalidate(_ key: [UInt8], at revision: UInt64) {
        // What was read behind the change, or with it, stays.
        if let place = self.places[key], let slot = self.slots[place], slot.readAt < revision {
            self.drop(place)
            self.counters.invalidations += 1
        }
        if let fill = self.fills[key] { self.fills[key]?.invalidatedAt = max(fill.invalidatedAt, revision) }
    }

    // MARK: Own writes

    /// A write of these keys is about to be sent.
    mutating func writeBegan(_ keys: [[UInt8]]) {
        for key in keys {
            self.writes[key, default: 0] += 1
            if let place = self.places[key] { self.drop(place) }
            // An answer may have been read before the write.
            self.fills[key]?.blocked = self.lastFill
        }
    }

    /// It was answered, or nobody knows what became of it.
    mutating func writeEnded(_ keys: [[UInt8]]) {
        for key in keys {
            let left = (self.writes[key] ?? 1) - 1
            self.writes[key] = left == 0 ? nil : left
            // So may one that was asked for while the write was under way.
            self.fills[key]?.blocked = self.lastFill
        }
    }

    // MARK: Places

    private mutating func store(_ key: [UInt8], _ entry: Entry?, readAt: UInt64) -> Bool {
        let bytes = key.count + (entry.map { SortedEntries.byteCount(of: $0) } ?? SortedEntries.bytesPerEntry)
        guard bytes <= self.limits.maximumBytes, self.limits.maximumEntries > 0 else { return false }
        while self.places.count >= self.limits.maximumEntries || self.byteCount + bytes > self.limits.maximumBytes { self.evict() }
        let slot = Slot(key: key, entry: entry, readAt: readAt, bytes: bytes, isUsed: false)
        if let place = self.free.popLast() {
            self.slots[place] = slot
            self.places[key] = place
        } else {
            self.places[key] = self.slots.count
            self.slots.append(slot)
        }
        self.byteCount += bytes
        return true
    }

    private mutating func evict() {
        while true {
            self.hand = self.hand + 1 < self.slots.count ? self.hand + 1 : 0
            guard let slot = self.slots[self.hand] else { continue }
            if slot.isUsed {
                self.slots[self.hand]?.isUsed = false
            } else {
                self.counters.evictions += 1
                return self.drop(self.hand)
            }
        }
    }

    private mutating func drop(_ place: Int) {
        guard let slot = self.slots[place] else { return }
        self.slots[place] = nil
        self.free.append(place)
        self.places[slot.key] = nil
        self.byteCount -= slot.bytes
    }
}

/// What a ``NearCache`` did since it was made.
public struct NearCacheCounters: Sendable, Equatable {
    /// Keys that were read from it.
    public internal(set) var hits = 0
    /// Keys that were read from the server.
    public internal(set) var misses = 0
    /// Entries that were dropped because they had changed.
    public internal(set) var invalidations = 0
    /// Entries that were dropped to make room.
    public internal(set) var evictions = 0
}
