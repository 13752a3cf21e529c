import CLinux
import Glibc
import MWStorage
import Synchronization

/// What has been logged and is not yet in RocksDB's tables: a hash table of keys, with every version of each.
///
///     slots     hash ─▶ newest entry of its key            one thread adds, any number read, without a lock
///     entries   0 … │ visible │ …                          an entry, once it is visible, never changes
///     runs      visible entries but the last few, sorted: a scan merges them
///
/// A batch becomes visible as a whole, when ``publish()`` is called. What a reader sees is what was visible when it began, if it remembers
/// how many entries that were.
@safe
final class PendingTable: @unchecked Sendable {
    // Safety: one thread at a time adds and publishes. Entries below `visibleCount`, the bytes they point to, and the blocks they are in do
    // not change; slots are atomics, and a larger array of them takes the place of a smaller one, which stays; `runs` is a mutex.

    /// The segment of the log that has the same.
    let number: UInt64
    /// History up to this revision had been removed when it was closed.
    var forgotten: UInt64 = 0
    /// Set before the first of it can be in the tables.
    let isBeingDrained = Atomic<Bool>(false)

    let visible = Atomic<Int>(0)
    private let slots: Atomic<UnsafeMutableRawPointer>
    private var outgrownSlots: [UnsafeMutableRawPointer] = unsafe []
    private let blocks: UnsafeMutablePointer<UnsafeMutablePointer<Entry>>
    private var blockCount = 0
    private var count = 0
    private var keyCount = 0
    private var chunks: [UnsafeMutableRawPointer] = unsafe []
    private var chunkRest: UnsafeMutableRawBufferPointer
    /// `PendingTable+Sorting.swift`.
    let sorted = Mutex(Runs())
    /// Memory that its entries take, in bytes: their keys, values, and what is kept of each.
    private(set) var byteCount = 0

    @unsafe
    struct Entry {
        let key: UnsafeRawPointer
        /// Nil for a removal.
        let value: UnsafeRawPointer?
        let keyBytes: UInt32
        let valueBytes: UInt32
        fileprivate let hash: UInt32
        /// The key's entry before this one, plus one; zero if there is none.
        fileprivate let older: UInt32
    }

    /// Of an entry: itself, its slots, and its places in runs, about.
    private static let entryBytes = unsafe MemoryLayout<Entry>.stride + 24
    private static let chunkBytes = 1 << 20
    private static let blockEntries = 1 << 12
    private static let maximumBlocks = 1 << 13
    private static let initialSlots = 1 << 10
    private static let slotsOffset = 8
    /// Entries after which it counts as full: beyond, a lookup would miss the processor's caches more often than not.
    static let fullCount = 1 << 19

    init(number: UInt64) {
        self.number = number
        unsafe slots = Atomic(PendingTable.makeSlots(PendingTable.initialSlots))
        unsafe blocks = .allocate(capacity: PendingTable.maximumBlocks)
        unsafe chunkRest = UnsafeMutableRawBufferPointer(start: nil, count: 0)
    }

    deinit {
        unsafe slots.load(ordering: .relaxed).deallocate()
        unsafe outgrownSlots.forEach { unsafe $0.deallocate() }
        for index in 0..<blockCount { unsafe blocks[index].deallocate() }
        unsafe blocks.deallocate()
        unsafe chunks.forEach { unsafe $0.deallocate() }
    }

    var isEmpty: Bool { visible.load(ordering: .acquiring) == 0 }
    var isFull: Bool { count >= PendingTable.fullCount }

    // MARK: Adding

    /// Adds a version of a key; nobody sees it before ``publish()``.
    func add(_ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer?) {
        let valueBytes = unsafe value?.count ?? 0
        let hash = unsafe PendingTable.hash(key)
        // It comes from the memory while the value is copied.
        unsafe mws_prefetch(home(of: hash))
        let place = unsafe allocate(key.count + valueBytes)
        unsafe copy(key, to: place)
        if let value = unsafe value { unsafe copy(value, to: place + key.count) }
        unsafe link(place, keyBytes: key.count, hash, value: value == nil ? nil : place + key.count, valueBytes: valueBytes)
    }

    /// Adds what the changes of a history record, which was made at `revision`, did to data.
    func addData(of record: UnsafeRawBufferPointer, at revision: Revision) throws(StorageError) {
        try unsafe HistoryRecord.forEachChange(of: record) { change in
            let keyBytes = unsafe change.key.count + 1
            let valueBytes = unsafe change.value.map { StoredValue.byteCount(ofValueOf: $0.count, change.lease) } ?? 0
            let place = unsafe allocate(keyBytes + valueBytes)
            unsafe place.storeBytes(of: Keyspace.data.prefix, as: UInt8.self)
            unsafe copy(change.key, to: place + 1)
            var start: UnsafeMutableRawPointer?
            if let value = unsafe change.value {
                let stored = unsafe UnsafeMutableRawBufferPointer(start: place + keyBytes, count: valueBytes)
                unsafe StoredValue.encode(value, revision: revision, lease: change.lease, into: stored)
                unsafe start = stored.baseAddress
            }
            let hash = unsafe PendingTable.hash(UnsafeRawBufferPointer(start: place, count: keyBytes))
            unsafe link(place, keyBytes: keyBytes, hash, value: start, valueBytes: valueBytes)
            return true
        }
    }

    private func copy(_ bytes: UnsafeRawBufferPointer, to place: UnsafeMutableRawPointer) {
        guard let start = bytes.baseAddress else { return }
        // Here, so that what is small, as most is, costs no call into another module.
        guard bytes.count > PendingTable.chunkBytes / 4 else { return unsafe place.copyMemory(from: start, byteCount: bytes.count) }
        unsafe ProcessorTurns.copy(bytes, to: place)
    }

    private func allocate(_ bytes: Int) -> UnsafeMutableRawPointer {
        // A large value has its own, and what is left of the chunk before is not wasted.
        if bytes > PendingTable.chunkBytes / 4 { return unsafe addChunk(bytes) }
        if unsafe chunkRest.count < bytes || chunkRest.baseAddress == nil {
            unsafe chunkRest = UnsafeMutableRawBufferPointer(start: addChunk(PendingTable.chunkBytes), count: PendingTable.chunkBytes)
        }
        guard let place = unsafe chunkRest.baseAddress else { preconditionFailure("a chunk that was just made") }
        unsafe chunkRest = UnsafeMutableRawBufferPointer(rebasing: chunkRest[bytes...])
        return unsafe place
    }

    private func addChunk(_ bytes: Int) -> UnsafeMutableRawPointer {
        let chunk = UnsafeMutableRawPointer.allocate(byteCount: bytes, alignment: 8)
        unsafe chunks.append(chunk)
        return unsafe chunk
    }

    private func link(
        _ key: UnsafeMutableRawPointer, keyBytes: Int, _ hash: UInt32, value: UnsafeMutableRawPointer?, valueBytes: Int
    ) {
        if unsafe (keyCount + 1) * 2 > PendingTable.slotCount(slots.load(ordering: .relaxed)) { growSlots() }
        let slot = unsafe slot(of: UnsafeRawBufferPointer(start: key, count: keyBytes), hash, slots.load(ordering: .relaxed))
        let older = unsafe slot.pointee.load(ordering: .relaxed)
        if older == 0 { keyCount += 1 }
        if count == blockCount * PendingTable.blockEntries { addBlock() }
        unsafe entry(count).initialize(
            to: Entry(
                key: UnsafeRawPointer(key), value: value.map { UnsafeRawPointer($0) }, keyBytes: UInt32(keyBytes),
                valueBytes: UInt32(valueBytes), hash: hash, older: older))
        count += 1
        byteCount += keyBytes + valueBytes + PendingTable.entryBytes
        unsafe slot.pointee.store(UInt32(count), ordering: .releasing)
    }

    private func addBlock() {
        precondition(blockCount < PendingTable.maximumBlocks, "more operations than any batch has")
        unsafe blocks[blockCount] = .allocate(capacity: PendingTable.blockEntries)
        blockCount += 1
        unsafe byteCount += PendingTable.blockEntries * MemoryLayout<Entry>.stride
    }

    /// Lets everybody see what was added.
    func publish() { visible.store(count, ordering: .releasing) }

    // MARK: Reading

    /// The newest visible version of a key; nil if there is none.
    func find(_ key: UnsafeRawBufferPointer, _ hash: UInt32) -> UnsafePointer<Entry>? {
        let count = visible.load(ordering: .acquiring)
        return unsafe count == 0 ? nil : find(key, hash, among: count)
    }

    /// The newest version of a key among the first entries.
    func find(_ key: UnsafeRawBufferPointer, _ hash: UInt32, among count: Int) -> UnsafePointer<Entry>? {
        let slot = unsafe slot(of: key, hash, slots.load(ordering: .acquiring))
        var next = unsafe slot.pointee.load(ordering: .acquiring)
        while next != 0 {
            let found = unsafe entry(Int(next) - 1)
            if Int(next) <= count { return unsafe UnsafePointer(found) }
            next = unsafe found.pointee.older
        }
        return nil
    }

    func entry(_ index: Int) -> UnsafeMutablePointer<Entry> {
        unsafe blocks[index / PendingTable.blockEntries] + index % PendingTable.blockEntries
    }

    func key(_ index: Int) -> UnsafeRawBufferPointer { unsafe PendingTable.key(of: UnsafePointer(entry(index))) }

    static func key(of entry: UnsafePointer<Entry>) -> UnsafeRawBufferPointer {
        unsafe UnsafeRawBufferPointer(start: entry.pointee.key, count: Int(entry.pointee.keyBytes))
    }

    /// Nil for a removal.
    static func value(of entry: UnsafePointer<Entry>) -> UnsafeRawBufferPointer? {
        guard let value = unsafe entry.pointee.value else { return nil }
        return unsafe UnsafeRawBufferPointer(start: value, count: Int(entry.pointee.valueBytes))
    }

    // MARK: Slots

    /// Of this process alone: nobody can choose keys that collide.
    private static let keyHash = KeyHash()

    static func hash(_ key: UnsafeRawBufferPointer) -> UInt32 { UInt32(truncatingIfNeeded: unsafe keyHash(key)) }

    private static func makeSlots(_ count: Int) -> UnsafeMutableRawPointer {
        let slots = UnsafeMutableRawPointer.allocate(byteCount: slotsOffset + count * MemoryLayout<UInt32>.size, alignment: 8)
        unsafe slots.storeBytes(of: count, as: Int.self)
        unsafe memset(slots + slotsOffset, 0, count * MemoryLayout<UInt32>.size)
        return unsafe slots
    }

    private static func slotCount(_ slots: UnsafeMutableRawPointer) -> Int { unsafe slots.load(as: Int.self) }

    private static func places(_ slots: UnsafeMutableRawPointer) -> UnsafeMutablePointer<Atomic<UInt32>> {
        unsafe (slots + slotsOffset).assumingMemoryBound(to: Atomic<UInt32>.self)
    }

    /// Where the search for a key begins.
    private func home(of hash: UInt32) -> UnsafeMutablePointer<Atomic<UInt32>> {
        let slots = unsafe slots.load(ordering: .relaxed)
        return unsafe PendingTable.places(slots) + (Int(hash) & (PendingTable.slotCount(slots) - 1))
    }

    /// The slot of a key, or the free one where it would be.
    private func slot(
        of key: UnsafeRawBufferPointer, _ hash: UInt32, _ slots: UnsafeMutableRawPointer
    ) -> UnsafeMutablePointer<Atomic<UInt32>> {
        let mask = unsafe PendingTable.slotCount(slots) - 1
        let places = unsafe PendingTable.places(slots)
        var index = Int(hash) & mask
        while true {
            let place = unsafe places + index
            let next = unsafe place.pointee.load(ordering: .acquiring)
            if next == 0 { return unsafe place }
            let entry = unsafe entry(Int(next) - 1)
            if unsafe entry.pointee.hash == hash, unsafe compareKeys(PendingTable.key(of: UnsafePointer(entry)), key) == 0 {
                return unsafe place
            }
            index = (index + 1) & mask
        }
    }

    private func growSlots() {
        let old = unsafe slots.load(ordering: .relaxed)
        let oldCount = unsafe PendingTable.slotCount(old)
        let grown = unsafe PendingTable.makeSlots(oldCount * 2)
        let places = unsafe PendingTable.places(grown)
        for index in 0..<oldCount {
            let next = unsafe PendingTable.places(old)[index].load(ordering: .relaxed)
            guard next != 0 else { continue }
            var place = Int(unsafe entry(Int(next) - 1).pointee.hash) & (oldCount * 2 - 1)
            while unsafe places[place].load(ordering: .relaxed) != 0 { place = (place + 1) & (oldCount * 2 - 1) }
            unsafe places[place].store(next, ordering: .relaxed)
        }
        // Somebody may still be reading the old one.
        unsafe outgrownSlots.append(old)
        unsafe slots.store(grown, ordering: .releasing)
    }
}
