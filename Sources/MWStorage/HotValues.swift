import Glibc
import Synchronization

// Values that were put or read lately, in memory, in front of the engine. What makes it coherent, whoever runs when:
//
//   commit thread    writeBegan(key)      the entry goes; until the write has ended nobody fills any key of its shard
//                    engine.apply         readers ask the engine meanwhile: before it the old value, after it the new one
//                    writeEnded(key, …)   the new value is the entry; or there is none: it was removed, or the write failed
//
//   reader           hit                  the entry, borrowed under the shard's lock
//                    miss                 a ticket; the engine is asked; fill(ticket) is in vain if a write has begun or ended since
//
// So an entry is always what the engine would say, and a value read from the engine before a write never outlives that write.

/// A bounded cache of values by key, shared by all threads: sharded, each shard under a lock that is held for a copy at most.
///
/// A shard gives up what has not been read since its clock's hand last came by (CLOCK), so that a scan of cold keys does not cost the hot
/// ones their place.
@safe
final class HotValues: Sendable {
    /// A value larger than this is not kept, in bytes: a copy under a lock must stay short, and the engine's cost is small beside it.
    static let maximumValueBytes = 64 << 10
    /// So many that two event loops and the commit thread seldom meet in one.
    private static let shardCount = 64

    private let shards: [Shard]

    private final class Shard: Sendable {
        let table: Mutex<HotTable>

        init(capacityBytes: Int) { table = Mutex(HotTable(capacityBytes: capacityBytes)) }
    }

    /// - Parameter capacityBytes: Memory for keys, values and their bookkeeping, in all.
    init(capacityBytes: Int) {
        shards = (0..<HotValues.shardCount).map { _ in Shard(capacityBytes: capacityBytes / HotValues.shardCount) }
    }

    /// The right to bring a value that was read from the engine, as long as nothing of its shard was written.
    struct FillTicket {
        fileprivate let hash: Int
        /// nil: a write was under way.
        fileprivate let version: UInt64?
    }

    enum Lookup<Result> {
        case hit(Result)
        case miss(FillTicket)
    }

    /// Calls `body` with the value under `key`, borrowed for that call, if it is here. `body` must not call the store.
    @inline(__always)
    func lookUp<Result>(_ key: UnsafeRawBufferPointer, _ body: (UnsafeRawBufferPointer) -> Result) -> Lookup<Result> {
        let hash = unsafe HotValues.hash(key)
        var result: Result?
        let ticket = shard(of: hash).table.withLock { table -> FillTicket? in
            guard let entry = unsafe table.find(key, hash) else {
                return FillTicket(hash: hash, version: table.writesUnderWay.isEmpty ? table.version : nil)
            }
            unsafe entry.pointee.wasRead = true
            result = unsafe body(HotTable.value(of: entry))
            return nil
        }
        if let ticket { return .miss(ticket) }
        guard let result else { preconditionFailure("a hit has a result") }
        return .hit(result)
    }

    /// Keeps what the engine said of `key` after ``lookUp(_:_:)`` had missed it.
    func fill(_ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer, _ ticket: FillTicket) {
        guard let version = ticket.version, value.count <= HotValues.maximumValueBytes else { return }
        shard(of: ticket.hash).table.withLock { table in
            guard table.version == version, table.writesUnderWay.isEmpty else { return }
            unsafe table.set(key, value, ticket.hash)
        }
    }

    /// Before a write of `key` is handed to the engine. One ``writeEnded(_:_:)`` follows.
    func writeBegan(_ key: UnsafeRawBufferPointer) {
        let hash = unsafe HotValues.hash(key)
        shard(of: hash).table.withLock { table in
            table.writesUnderWay[hash, default: 0] += 1
            table.version &+= 1
            unsafe table.remove(key, hash)
        }
    }

    /// The engine has done the write, and every later read of it sees it; or it has failed.
    ///
    /// - Parameter value: What is under `key` now; nil if it was removed, if nobody can say, or if it is not worth its place.
    func writeEnded(_ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer?) {
        let hash = unsafe HotValues.hash(key)
        shard(of: hash).table.withLock { table in
            let others = (table.writesUnderWay[hash] ?? 1) - 1
            table.writesUnderWay[hash] = others > 0 ? others : nil
            table.version &+= 1
            guard let value = unsafe value, value.count <= HotValues.maximumValueBytes else { return }
            // Of two writes of one key in one batch the engine shows the last.
            if others == 0 { unsafe table.set(key, value, hash) }
        }
    }

    /// What it takes, as of some moment just past.
    var byteCount: Int { shards.reduce(0) { sum, shard in sum + shard.table.withLock { $0.byteCount } } }

    private static func hash(_ key: UnsafeRawBufferPointer) -> Int {
        // Seeded for this process: who chooses keys must not choose where they lie.
        var hasher = Hasher()
        unsafe hasher.combine(bytes: key)
        return hasher.finalize()
    }

    private func shard(of hash: Int) -> Shard { shards[Int(UInt(bitPattern: hash) >> 58)] }
}

/// One shard: an open-addressed table of entries, each one block of memory.
///
///     block   HotEntry, key, value
@safe
struct HotTable: ~Copyable, @unchecked Sendable {
    // Safety: it owns its blocks, and a non-copyable value under a lock is used by one thread at a time.
    /// Changes with every write of any of its keys.
    var version: UInt64 = 0
    /// How many, by the hash of their key.
    var writesUnderWay: [Int: Int32] = [:]
    private(set) var byteCount = 0

    private var slots: UnsafeMutablePointer<UnsafeMutablePointer<HotEntry>?>
    private var slotCount: Int
    private var entryCount = 0
    private var hand = 0
    private let capacityBytes: Int

    /// A power of two.
    private static let firstSlotCount = 64

    init(capacityBytes: Int) {
        self.capacityBytes = capacityBytes
        self.slotCount = HotTable.firstSlotCount
        unsafe self.slots = HotTable.makeSlots(slotCount)
    }

    deinit {
        for index in 0..<slotCount { unsafe HotTable.free(slots[index]) }
        unsafe slots.deallocate()
    }

    // MARK: Finding

    func find(_ key: UnsafeRawBufferPointer, _ hash: Int) -> UnsafeMutablePointer<HotEntry>? {
        unsafe slots[index(of: key, hash)]
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
        while let entry = unsafe slots[index] {
            if unsafe entry.pointee.hash == hash, unsafe HotTable.areEqual(HotTable.key(of: entry), key) { return index }
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

    mutating func set(_ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer, _ hash: Int) {
        unsafe remove(key, hash)
        let bytes = HotTable.blockBytes(key.count, value.count)
        // One entry must not empty a shard.
        guard bytes <= capacityBytes / 4 else { return }
        while byteCount + bytes > capacityBytes { evictOne() }
        if (entryCount + 1) * 2 > slotCount { grow() }
        let entry = unsafe HotTable.make(key, value, hash)
        unsafe slots[index(of: key, hash)] = entry
        entryCount += 1
        byteCount += bytes
    }

    mutating func remove(_ key: UnsafeRawBufferPointer, _ hash: Int) {
        let index = unsafe index(of: key, hash)
        if unsafe slots[index] != nil { removeEntry(at: index) }
    }

    /// The hand goes on to the first entry that nobody has read since it was there.
    private mutating func evictOne() {
        while entryCount > 0 {
            if let entry = unsafe slots[hand] {
                guard unsafe entry.pointee.wasRead else { return removeEntry(at: hand) }
                unsafe entry.pointee.wasRead = false
            }
            hand = next(hand)
        }
    }

    /// Without a tombstone: what lies behind moves up, as far as it may.
    private mutating func removeEntry(at removed: Int) {
        guard let entry = unsafe slots[removed] else { return }
        byteCount -= unsafe HotTable.blockBytes(Int(entry.pointee.keyBytes), Int(entry.pointee.valueBytes))
        entryCount -= 1
        unsafe HotTable.free(entry)
        unsafe slots[removed] = nil
        var (hole, index) = (removed, next(removed))
        while let follower = unsafe slots[index] {
            let distance = unsafe (index - home(of: follower.pointee.hash)) & (slotCount - 1)
            if distance >= (index - hole) & (slotCount - 1) {
                unsafe slots[hole] = follower
                unsafe slots[index] = nil
                hole = index
            }
            index = next(index)
        }
    }

    private mutating func grow() {
        let (old, oldCount) = unsafe (slots, slotCount)
        slotCount *= 2
        hand = 0
        unsafe slots = HotTable.makeSlots(slotCount)
        for index in 0..<oldCount {
            guard let entry = unsafe old[index] else { continue }
            var place = unsafe home(of: entry.pointee.hash)
            while unsafe slots[place] != nil { place = next(place) }
            unsafe slots[place] = entry
        }
        unsafe old.deallocate()
    }

    // MARK: Memory

    /// What an entry takes, its two slots included.
    private static func blockBytes(_ keyBytes: Int, _ valueBytes: Int) -> Int {
        MemoryLayout<HotEntry>.stride + keyBytes + valueBytes + 2 * MemoryLayout<Int>.size
    }

    private static func make(
        _ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer, _ hash: Int
    ) -> UnsafeMutablePointer<HotEntry> {
        let block = UnsafeMutableRawBufferPointer.allocate(
            byteCount: MemoryLayout<HotEntry>.stride + key.count + value.count, alignment: MemoryLayout<HotEntry>.alignment)
        let header = HotEntry(hash: hash, keyBytes: UInt32(key.count), valueBytes: UInt32(value.count), wasRead: false)
        unsafe block.storeBytes(of: header, as: HotEntry.self)
        unsafe UnsafeMutableRawBufferPointer(rebasing: block[MemoryLayout<HotEntry>.stride...]).copyMemory(from: key)
        unsafe UnsafeMutableRawBufferPointer(rebasing: block[(MemoryLayout<HotEntry>.stride + key.count)...]).copyMemory(from: value)
        guard let start = block.baseAddress else { preconditionFailure("a block has its header at least") }
        return unsafe start.bindMemory(to: HotEntry.self, capacity: 1)
    }

    private static func free(_ entry: UnsafeMutablePointer<HotEntry>?) {
        if let entry = unsafe entry { unsafe UnsafeMutableRawPointer(entry).deallocate() }
    }

    private static func makeSlots(_ count: Int) -> UnsafeMutablePointer<UnsafeMutablePointer<HotEntry>?> {
        let slots = UnsafeMutablePointer<UnsafeMutablePointer<HotEntry>?>.allocate(capacity: count)
        unsafe slots.initialize(repeating: nil, count: count)
        return unsafe slots
    }
}

/// What stands before an entry's key and value.
struct HotEntry {
    let hash: Int
    let keyBytes: UInt32
    let valueBytes: UInt32
    /// Since the hand was here.
    var wasRead: Bool
}
