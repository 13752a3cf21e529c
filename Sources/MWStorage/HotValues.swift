import CLinux
import Glibc
import Synchronization

// Values that were put or read lately, in memory, in front of the engine. What makes it coherent, whoever runs when:
//
//   commit thread    writeBegan(key)      the entry is hidden; until the write has ended nobody fills any key of its shard
//                    engine.apply         readers ask the engine meanwhile: before it the old value, after it the new one
//                    writeEnded(key, …)   the new value is the entry; or there is none: it was removed, or the write failed
//
//   reader           hit                  the entry, borrowed under the shard's lock
//                    miss                 a ticket; the engine is asked; fill(ticket) is in vain if a write has begun or ended since
//
// So an entry is always what the engine would say, and a value read from the engine before a write never outlives that write.

/// A bounded cache of values by key, shared by all threads: sharded, each shard under a lock that is held for a copy at most.
///
/// A shard gives up what has not been read since its clock's hand last came by (CLOCK). For what was only read nothing is given up before it
/// has missed twice: many keys that are read once cost neither the hot ones their place, nor the reader a copy.
@safe
final class HotValues: @unchecked Sendable {
    // Safety: the shards are allocated once and freed in deinit; each is under its lock.
    /// A value larger than this is not kept, in bytes: a copy under a lock must stay short, and the engine's cost is small beside it.
    static let maximumValueBytes = 64 << 10
    /// So many that two event loops and the commit thread seldom meet in one.
    private static let shardCount = 64

    private let shards: UnsafeMutablePointer<Mutex<HotTable>>
    /// Of this cache alone: who chooses keys must not choose where they lie.
    private let hash = KeyHash()

    /// - Parameter capacityBytes: Memory for keys, values and their bookkeeping, in all.
    init(capacityBytes: Int) {
        unsafe shards = .allocate(capacity: HotValues.shardCount)
        for index in 0..<HotValues.shardCount {
            unsafe (shards + index).initialize(to: Mutex(HotTable(capacityBytes: capacityBytes / HotValues.shardCount)))
        }
    }

    deinit {
        unsafe shards.deinitialize(count: HotValues.shardCount)
        unsafe shards.deallocate()
    }

    /// The right to bring a value that was read from the engine, as long as nothing of its shard was written.
    struct FillTicket {
        fileprivate let hash: Int
        /// nil: a write was under way.
        fileprivate let version: UInt64?
    }

    /// Calls `body` with the value under `key`, borrowed for that call, if it is here. `body` must not call the store.
    ///
    /// - Returns: After a miss, what ``fill(_:_:_:)`` needs; nil after a hit.
    @inline(__always)
    func lookUp(_ key: UnsafeRawBufferPointer, _ body: (UnsafeRawBufferPointer) -> Void) -> FillTicket? {
        let hash = unsafe hash(key)
        return unsafe shards[HotValues.shard(of: hash)].withLock { table -> FillTicket? in
            guard let entry = unsafe table.find(key, hash), unsafe entry.pointee.writers == 0 else {
                return FillTicket(hash: hash, version: table.writesUnderWay == 0 ? table.version : nil)
            }
            // Not written where it is so already: another processor may have the line.
            if unsafe !entry.pointee.wasRead { unsafe entry.pointee.wasRead = true }
            unsafe body(HotTable.value(of: entry))
            return nil
        }
    }

    /// Keeps what the engine said of `key` after ``lookUp(_:_:)`` had missed it.
    func fill(_ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer, _ ticket: FillTicket) {
        guard let version = ticket.version, value.count <= HotValues.maximumValueBytes else { return }
        unsafe shards[HotValues.shard(of: ticket.hash)].withLock { table in
            guard table.version == version, table.writesUnderWay == 0, table.admits(key.count, value.count, ticket.hash) else { return }
            unsafe table.set(key, value, ticket.hash)
        }
    }

    /// A write that is under way, and where its key is meanwhile.
    @safe
    struct Write: @unchecked Sendable {
        // Safety: what it points to is touched under the shard's lock only; `prefetch()` needs its address.
        fileprivate let hash: Int
        // It stays where it is until its last write has ended.
        fileprivate let entry: UnsafeMutablePointer<HotEntry>

        /// Has the place of its value come from the memory.
        func prefetch() {
            unsafe mws_prefetch(entry)
            unsafe mws_prefetch(UnsafeRawPointer(entry) + 64)
        }
    }

    /// What ``writeBegan(_:_:valueBytes:)`` takes.
    @inline(__always)
    func hash(of key: UnsafeRawBufferPointer) -> Int { unsafe hash(key) }

    /// Has what a write of the key will touch come from the memory, while others are begun.
    @inline(__always)
    func prefetch(_ hash: Int) { unsafe shards[HotValues.shard(of: hash)].withLock { $0.prefetch(hash) } }

    /// Before a write of `key` is handed to the engine. One ``writeEnded(_:_:_:)`` follows.
    ///
    /// - Parameter valueBytes: Of the value that it will have, to make room for it; 0 if it is removed.
    @inline(__always)
    func writeBegan(_ key: UnsafeRawBufferPointer, _ hash: Int, valueBytes: Int) -> Write {
        let room = valueBytes <= HotValues.maximumValueBytes ? valueBytes : 0
        return unsafe shards[HotValues.shard(of: hash)].withLock { table in
            unsafe Write(hash: hash, entry: table.writeBegan(key, room: room, hash))
        }
    }

    /// The engine has done the write of `key`, and every later read of it sees it; or it has failed.
    ///
    /// - Parameter value: What is under `key` now; nil if it was removed, if nobody can say, or if it is not worth its place.
    func writeEnded(_ write: Write, _ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer?) {
        let kept = unsafe (value?.count ?? 0) <= HotValues.maximumValueBytes ? value : nil
        unsafe shards[HotValues.shard(of: write.hash)].withLock { table in unsafe table.writeEnded(write.entry, key, kept, write.hash) }
    }

    /// Forgets everything: what comes next is read from the engine, and what was read from it before is not kept.
    func removeAll() {
        for index in 0..<HotValues.shardCount {
            unsafe shards[index].withLock { table in
                table.removeAll()
            }
        }
    }

    /// What it takes, as of some moment just past.
    var byteCount: Int {
        var byteCount = 0
        for index in 0..<HotValues.shardCount { unsafe byteCount += shards[index].withLock { $0.byteCount } }
        return byteCount
    }

    private static func shard(of hash: Int) -> Int { Int(UInt(bitPattern: hash) >> 58) }
}

/// One shard: an open-addressed table of entries, each one block of memory.
///
///     slot    the key's hash, where the block is: a key that is not here is told by its slot, without a look at another's block
///     block   HotEntry, key, value; while a write is under way, what was there or room for what comes
@safe
struct HotTable: ~Copyable, @unchecked Sendable {
    // Safety: it owns its blocks, and a non-copyable value under a lock is used by one thread at a time.
    /// Changes with every write of any of its keys.
    private(set) var version: UInt64 = 0
    private(set) var writesUnderWay = 0
    private(set) var byteCount = 0

    @unsafe private struct Slot {
        var hash: Int
        /// nil in an empty slot.
        var entry: UnsafeMutablePointer<HotEntry>?
    }

    private var slots: UnsafeMutablePointer<Slot>
    private var slotCount: Int
    private var entryCount = 0
    private var entriesBeingWritten = 0
    private var hand = 0
    private let capacityBytes: Int
    /// As many as there are slots, two to four times as many as there are entries.
    private var misses: RecentMisses

    /// A power of two.
    private static let firstSlotCount = 64

    init(capacityBytes: Int) {
        self.capacityBytes = capacityBytes
        self.misses = RecentMisses(count: HotTable.firstSlotCount)
        self.slotCount = HotTable.firstSlotCount
        unsafe self.slots = HotTable.makeSlots(slotCount)
    }

    deinit {
        for index in 0..<slotCount { unsafe HotTable.free(slots[index].entry) }
        unsafe slots.deallocate()
    }

    // MARK: Finding

    func find(_ key: UnsafeRawBufferPointer, _ hash: Int) -> UnsafeMutablePointer<HotEntry>? {
        unsafe slots[index(of: key, hash)].entry
    }

    func prefetch(_ hash: Int) {
        if let entry = unsafe slots[home(of: hash)].entry { unsafe mws_prefetch(entry) }
    }

    static func value(of entry: UnsafeMutablePointer<HotEntry>) -> UnsafeRawBufferPointer {
        let start = unsafe UnsafeRawPointer(entry) + MemoryLayout<HotEntry>.stride + Int(entry.pointee.keyBytes)
        return unsafe UnsafeRawBufferPointer(start: start, count: Int(entry.pointee.valueBytes))
    }

    private static func key(of entry: UnsafeMutablePointer<HotEntry>) -> UnsafeRawBufferPointer {
        let start = unsafe UnsafeRawPointer(entry) + MemoryLayout<HotEntry>.stride
        return unsafe UnsafeRawBufferPointer(start: start, count: Int(entry.pointee.keyBytes))
    }

    /// Where `key` is, or where it would be: an empty slot.
    private func index(of key: UnsafeRawBufferPointer, _ hash: Int) -> Int {
        var index = home(of: hash)
        while let entry = unsafe slots[index].entry {
            if unsafe slots[index].hash == hash, unsafe HotTable.areEqual(HotTable.key(of: entry), key) { return index }
            index = next(index)
        }
        return index
    }

    private func home(of hash: Int) -> Int { hash & (slotCount - 1) }

    private func next(_ index: Int) -> Int { (index + 1) & (slotCount - 1) }

    private static func areEqual(_ left: UnsafeRawBufferPointer, _ right: UnsafeRawBufferPointer) -> Bool {
        guard left.count == right.count else { return false }
        guard let leftStart = left.baseAddress, let rightStart = right.baseAddress else { return true }
        return unsafe memcmp(leftStart, rightStart, left.count) == 0
    }

    // MARK: Changing

    /// Whether a value that was read is to be kept: if there is room, or at its second miss.
    mutating func admits(_ keyBytes: Int, _ valueBytes: Int, _ hash: Int) -> Bool {
        byteCount + HotTable.blockBytes(keyBytes, valueBytes) <= capacityBytes || misses.note(hash)
    }

    mutating func set(_ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer, _ hash: Int) {
        if let entry = unsafe find(key, hash) {
            if unsafe Int(entry.pointee.valueBytes) == value.count { return unsafe HotTable.fill(entry, value) }
            unsafe remove(key, hash)
        }
        if let entry = unsafe insert(key, room: value.count, hash) { unsafe HotTable.fill(entry, value) }
    }

    mutating func writeBegan(_ key: UnsafeRawBufferPointer, room: Int, _ hash: Int) -> UnsafeMutablePointer<HotEntry> {
        version &+= 1
        writesUnderWay += 1
        // Whatever room there is, the key has its place: a reader must find that a write is under way.
        var place = unsafe find(key, hash)
        if unsafe place == nil { unsafe place = insert(key, room: room, hash) }
        if unsafe place == nil { unsafe place = insert(key, room: 0, hash, isNeeded: true) }
        guard let entry = unsafe place else { preconditionFailure("what is needed has a place") }
        if unsafe entry.pointee.writers == 0 { entriesBeingWritten += 1 }
        unsafe entry.pointee.writers += 1
        return unsafe entry
    }

    /// - Parameter key: Not the one in the entry, which may go.
    mutating func writeEnded(
        _ entry: UnsafeMutablePointer<HotEntry>, _ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer?, _ hash: Int
    ) {
        version &+= 1
        writesUnderWay -= 1
        precondition(unsafe entry.pointee.writers > 0, "a write begins before it ends")
        unsafe entry.pointee.writers -= 1
        // Of several writes of one key in one batch the engine shows the last.
        guard unsafe entry.pointee.writers == 0 else { return }
        entriesBeingWritten -= 1
        guard let value = unsafe value else { return unsafe remove(key, hash) }
        // The usual put has a value as long as the one before.
        if unsafe Int(entry.pointee.valueBytes) == value.count { unsafe HotTable.fill(entry, value) } else { unsafe set(key, value, hash) }
    }

    /// A new entry, without its value.
    ///
    /// - Returns: nil if it has no place.
    private mutating func insert(
        _ key: UnsafeRawBufferPointer, room: Int, _ hash: Int, isNeeded: Bool = false
    ) -> UnsafeMutablePointer<HotEntry>? {
        let bytes = HotTable.blockBytes(key.count, room)
        // One entry must not empty a shard.
        guard isNeeded || bytes <= capacityBytes / 4 else { return nil }
        while byteCount + bytes > capacityBytes, evictOne() {}
        guard isNeeded || byteCount + bytes <= capacityBytes else { return nil }
        if (entryCount + 1) * 2 > slotCount { grow() }
        let entry = unsafe HotTable.make(key, room: room)
        unsafe slots[index(of: key, hash)] = Slot(hash: hash, entry: entry)
        entryCount += 1
        byteCount += bytes
        return unsafe entry
    }

    mutating func remove(_ key: UnsafeRawBufferPointer, _ hash: Int) {
        let index = unsafe index(of: key, hash)
        if unsafe slots[index].entry != nil { removeEntry(at: index) }
    }

    /// No write may be under way.
    mutating func removeAll() {
        precondition(writesUnderWay == 0, "a write that has begun ends first")
        version &+= 1
        for index in 0..<slotCount {
            unsafe HotTable.free(slots[index].entry)
            unsafe slots[index].entry = nil
        }
        entryCount = 0
        byteCount = 0
    }

    /// The hand goes on to the first entry that nobody has read since it was there, twice round at most.
    ///
    /// - Returns: false if every entry is one that is being written.
    private mutating func evictOne() -> Bool {
        guard entryCount > entriesBeingWritten else { return false }
        for _ in 0..<2 * slotCount {
            if let entry = unsafe slots[hand].entry, unsafe entry.pointee.writers == 0 {
                if unsafe !entry.pointee.wasRead {
                    removeEntry(at: hand)
                    return true
                }
                unsafe entry.pointee.wasRead = false
            }
            hand = next(hand)
        }
        return false
    }

    /// Without a tombstone: what lies behind moves up, as far as it may.
    private mutating func removeEntry(at removed: Int) {
        guard let entry = unsafe slots[removed].entry else { return }
        byteCount -= unsafe HotTable.blockBytes(Int(entry.pointee.keyBytes), Int(entry.pointee.valueBytes))
        entryCount -= 1
        unsafe HotTable.free(entry)
        unsafe slots[removed].entry = nil
        var (hole, index) = (removed, next(removed))
        while unsafe slots[index].entry != nil {
            let distance = unsafe (index - home(of: slots[index].hash)) & (slotCount - 1)
            if distance >= (index - hole) & (slotCount - 1) {
                unsafe slots[hole] = slots[index]
                unsafe slots[index].entry = nil
                hole = index
            }
            index = next(index)
        }
    }

    private mutating func grow() {
        let (old, oldCount) = unsafe (slots, slotCount)
        slotCount *= 2
        misses = RecentMisses(count: slotCount)
        hand = 0
        unsafe slots = HotTable.makeSlots(slotCount)
        for index in 0..<oldCount where unsafe old[index].entry != nil {
            var place = unsafe home(of: old[index].hash)
            while unsafe slots[place].entry != nil { place = next(place) }
            unsafe slots[place] = old[index]
        }
        unsafe old.deallocate()
    }

    // MARK: Memory

    /// What an entry takes, with the slots and marks that there are for each.
    private static func blockBytes(_ keyBytes: Int, _ valueBytes: Int) -> Int {
        unsafe MemoryLayout<HotEntry>.stride + keyBytes + valueBytes + 2 * (MemoryLayout<Slot>.stride + RecentMisses.bytesPerMark)
    }

    private static func make(_ key: UnsafeRawBufferPointer, room: Int) -> UnsafeMutablePointer<HotEntry> {
        let block = UnsafeMutableRawBufferPointer.allocate(
            byteCount: MemoryLayout<HotEntry>.stride + key.count + room, alignment: MemoryLayout<HotEntry>.alignment)
        let header = HotEntry(keyBytes: UInt32(key.count), valueBytes: UInt32(room), writers: 0, wasRead: false)
        unsafe block.storeBytes(of: header, as: HotEntry.self)
        unsafe UnsafeMutableRawBufferPointer(rebasing: block[MemoryLayout<HotEntry>.stride...]).copyMemory(from: key)
        guard let start = block.baseAddress else { preconditionFailure("a block has its header at least") }
        return unsafe start.bindMemory(to: HotEntry.self, capacity: 1)
    }

    /// Writes the value, for which there is exactly the room.
    private static func fill(_ entry: UnsafeMutablePointer<HotEntry>, _ value: UnsafeRawBufferPointer) {
        unsafe UnsafeMutableRawBufferPointer(mutating: HotTable.value(of: entry)).copyMemory(from: value)
    }

    private static func free(_ entry: UnsafeMutablePointer<HotEntry>?) {
        if let entry = unsafe entry { unsafe UnsafeMutableRawPointer(entry).deallocate() }
    }

    private static func makeSlots(_ count: Int) -> UnsafeMutablePointer<Slot> {
        let slots = UnsafeMutablePointer<Slot>.allocate(capacity: count)
        unsafe slots.initialize(repeating: Slot(hash: 0, entry: nil), count: count)
        return unsafe slots
    }
}

/// What stands before an entry's key and value.
struct HotEntry {
    let keyBytes: UInt32
    let valueBytes: UInt32
    /// Writes of it that are under way: until they have ended its value is nobody's.
    var writers: Int32
    /// Since the hand was here.
    var wasRead: Bool
}
