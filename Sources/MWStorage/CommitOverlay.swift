/// What the requests of the commit that is being made have done to keys, in front of what the engine holds.
///
/// An open-addressing table from the hash of a key to an entry; keys and values lie in the commit's batch. It is reused from
/// commit to commit, so that a key costs no allocation. Within a request it remembers what was before, for undoing the
/// request, and for telling what it changed as a whole.
struct CommitOverlay {
    /// What there is at a key.
    struct State: Equatable {
        /// Zero: the key is absent.
        var revision: Revision
        var lease: LeaseID?
        /// Where the stored value is in the batch; nil if it is the engine's.
        var value: Range<Int>?

        static let absent = State(revision: .zero)
        var isPresent: Bool { revision != .zero }
    }

    struct Entry {
        /// Where the key is in the batch.
        let key: Range<Int>
        var state: State
        /// What it was when the request that last touched it began.
        var before: State
        let hash: Int
        fileprivate let slot: Int
        fileprivate var request: Int
    }

    private(set) var entries: [Entry] = []
    /// The entries that the request under way has touched, in order.
    private(set) var touched: [Int] = []
    // Index of an entry plus one; zero is free.
    private var slots: [Int32]
    private var request = 0
    private var countBefore = 0

    private static let initialSlots = 1024

    init() { slots = Array(repeating: 0, count: CommitOverlay.initialSlots) }

    /// Of this process alone: nobody can choose keys that collide.
    private static let keyHash = KeyHash()

    static func hash(_ key: UnsafeRawBufferPointer) -> Int { unsafe keyHash(key) }

    func find(_ key: UnsafeRawBufferPointer, _ hash: Int, in batch: borrowing WriteBatch) -> Int? {
        let mask = slots.count - 1
        var slot = hash & mask
        while slots[slot] != 0 {
            let index = Int(slots[slot]) - 1
            if entries[index].hash == hash, unsafe batch.holds(key, at: entries[index].key) { return index }
            slot = (slot + 1) & mask
        }
        return nil
    }

    /// Adds a key that was not there, and that the request under way is about to change.
    mutating func insert(_ key: Range<Int>, hash: Int, before: State, state: State) {
        if entries.count * 2 >= slots.count { grow() }
        let slot = freeSlot(for: hash)
        slots[slot] = Int32(entries.count + 1)
        touched.append(entries.count)
        entries.append(Entry(key: key, state: state, before: before, hash: hash, slot: slot, request: request))
    }

    mutating func update(_ index: Int, to state: State) {
        if entries[index].request != request {
            entries[index].request = request
            entries[index].before = entries[index].state
            touched.append(index)
        }
        entries[index].state = state
    }

    mutating func requestBegan() {
        request += 1
        countBefore = entries.count
        touched.removeAll(keepingCapacity: true)
    }

    /// The request under way has done nothing.
    mutating func undoRequest() {
        for index in touched.reversed() {
            guard index >= countBefore else {
                entries[index].state = entries[index].before
                continue
            }
            // Entries go in the reverse of the order in which they came, so no later one was put behind this slot.
            slots[entries[index].slot] = 0
            entries.removeLast()
        }
        touched.removeAll(keepingCapacity: true)
    }

    mutating func removeAll() {
        if slots.count > StorageLimits.maximumIdleOverlaySlots {
            self = CommitOverlay()
            return
        }
        for entry in entries { slots[entry.slot] = 0 }
        entries.removeAll(keepingCapacity: true)
        touched.removeAll(keepingCapacity: true)
    }

    private func freeSlot(for hash: Int) -> Int {
        let mask = slots.count - 1
        var slot = hash & mask
        while slots[slot] != 0 { slot = (slot + 1) & mask }
        return slot
    }

    private mutating func grow() {
        slots = Array(repeating: 0, count: slots.count * 2)
        for index in entries.indices {
            let entry = entries[index]
            let slot = freeSlot(for: entry.hash)
            slots[slot] = Int32(index + 1)
            entries[index] = Entry(
                key: entry.key, state: entry.state, before: entry.before, hash: entry.hash, slot: slot, request: entry.request)
        }
    }
}
