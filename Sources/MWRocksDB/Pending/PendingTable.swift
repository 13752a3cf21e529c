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

    private let visible = Atomic<Int>(0)
    private let slots: Atomic<UnsafeMutableRawPointer>
    private var outgrownSlots: [UnsafeMutableRawPointer] = unsafe []
    private let blocks: UnsafeMutablePointer<UnsafeMutablePointer<Entry>>
    private var blockCount = 0
    private var count = 0
    private var keyCount = 0
    private var chunks: [UnsafeMutableRawPointer] = unsafe []
    private var chunkRest: UnsafeMutableRawBufferPointer
    private let sorted = Mutex(Runs())
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

    /// Indices of entries in the order of their keys; of several versions of a key the newest.
    typealias Run = [UInt32]

    private struct Runs: Sendable {
        /// Of consecutive entries, oldest first.
        var runs: [Run] = []
        /// How many entries are in them.
        var count = 0
    }

    /// Of an entry: itself, its slots, and its places in runs, about.
    private static let entryBytes = unsafe MemoryLayout<Entry>.stride + 24
    private static let chunkBytes = 1 << 20
    private static let blockEntries = 1 << 12
    private static let maximumBlocks = 1 << 13
    private static let initialSlots = 1 << 10
    private static let slotsOffset = 8
    /// Entries that a scan sorts itself.
    private static let unsortedEntries = 4096
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
        let place = unsafe allocate(key.count + valueBytes)
        unsafe copy(key, to: place)
        if let value = unsafe value { unsafe copy(value, to: place + key.count) }
        unsafe link(place, keyBytes: key.count, value: value == nil ? nil : place + key.count, valueBytes: valueBytes)
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
            unsafe link(place, keyBytes: keyBytes, value: start, valueBytes: valueBytes)
            return true
        }
    }

    private func copy(_ bytes: UnsafeRawBufferPointer, to place: UnsafeMutableRawPointer) {
        if let start = bytes.baseAddress { unsafe place.copyMemory(from: start, byteCount: bytes.count) }
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

    private func link(_ key: UnsafeMutableRawPointer, keyBytes: Int, value: UnsafeMutableRawPointer?, valueBytes: Int) {
        if unsafe (keyCount + 1) * 2 > PendingTable.slotCount(slots.load(ordering: .relaxed)) { growSlots() }
        let hash = unsafe PendingTable.hash(UnsafeRawBufferPointer(start: key, count: keyBytes))
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

    /// Sorts what has become visible, once it is much: only the thread that adds calls it, and nobody waits for it.
    func sortVisible() {
        let count = visible.load(ordering: .relaxed)
        let (runs, sortedCount) = sorted.withLock { ($0.runs, $0.count) }
        guard count - sortedCount >= PendingTable.unsortedEntries else { return }
        var merged = runs
        unsafe merged.append(sortedEntries(sortedCount..<count) { _ in true })
        // Like a merge sort, whose work is spread: each entry moves a few times, and there are never many runs.
        while merged.count > 1, merged[merged.count - 2].count <= 2 * merged[merged.count - 1].count {
            let newer = merged.removeLast()
            merged.append(merge(merged.removeLast(), newer))
        }
        sorted.withLock { [merged] sorted in
            sorted.runs = merged
            sorted.count = count
        }
    }

    fileprivate func sortedEntries(_ range: Range<Int>, where isWanted: (UnsafeRawBufferPointer) -> Bool) -> Run {
        // Without those that a later one of the range takes the place of: they are not the newest, and the range ends with what is visible.
        var run: Run = []
        run.reserveCapacity(range.count)
        var common = Int.max
        for index in range where unsafe isWanted(key(index)) {
            run.append(UInt32(index))
            common = unsafe min(common, PendingTable.commonBytes(key(index), key(Int(run[0])), atMost: common))
        }
        guard !run.isEmpty else { return run }
        // What follows the keys' common beginning mostly tells them apart, and needs no look at their bytes, which lie all over memory.
        var places = run.map { (index) -> SortedPlace in
            let key = unsafe key(Int(index))
            return SortedPlace(word: unsafe PendingTable.word(of: key, at: common), index: index, keyBytes: UInt32(key.count))
        }
        // The same word says the same key where nothing comes behind it.
        let wholeBytes = UInt32(clamping: common + MemoryLayout<UInt64>.size)
        func order(_ left: SortedPlace, _ right: SortedPlace) -> Int {
            if left.word != right.word { return left.word < right.word ? -1 : 1 }
            if left.keyBytes <= wholeBytes, right.keyBytes <= wholeBytes { return Int(left.keyBytes) - Int(right.keyBytes) }
            return unsafe compareKeys(key(Int(left.index)), key(Int(right.index)))
        }
        places.sort { left, right in
            let order = order(left, right)
            return order != 0 ? order < 0 : left.index > right.index
        }
        run.removeAll(keepingCapacity: true)
        for (place, sorted) in places.enumerated() where place == 0 || order(places[place - 1], sorted) != 0 { run.append(sorted.index) }
        return run
    }

    private struct SortedPlace {
        let word: UInt64
        let index: UInt32
        let keyBytes: UInt32
    }

    private static func commonBytes(_ left: UnsafeRawBufferPointer, _ right: UnsafeRawBufferPointer, atMost limit: Int) -> Int {
        let count = min(left.count, right.count, limit)
        var common = 0
        while common < count, unsafe left[common] == right[common] { common += 1 }
        return common
    }

    /// Up to eight bytes from `offset` on as a number in whose order they are; zeros behind the end.
    private static func word(of key: UnsafeRawBufferPointer, at offset: Int) -> UInt64 {
        if key.count - offset >= 8 { return UInt64(bigEndian: unsafe key.loadUnaligned(fromByteOffset: offset, as: UInt64.self)) }
        var word: UInt64 = 0
        for place in 0..<8 { word = unsafe word << 8 | (offset + place < key.count ? UInt64(key[offset + place]) : 0) }
        return word
    }

    private func merge(_ older: Run, _ newer: Run) -> Run {
        var merged: Run = []
        merged.reserveCapacity(older.count + newer.count)
        var (left, right) = (0, 0)
        while left < older.count, right < newer.count {
            let order = unsafe compareKeys(key(Int(older[left])), key(Int(newer[right])))
            if order < 0 {
                merged.append(older[left])
                left += 1
                continue
            }
            merged.append(newer[right])
            right += 1
            if order == 0 { left += 1 }
        }
        merged.append(contentsOf: older[left...])
        merged.append(contentsOf: newer[right...])
        return merged
    }

    // MARK: Reading

    /// What was visible at some moment.
    struct View: Sendable {
        let table: PendingTable
        let count: Int
        fileprivate let runs: [Run]
        fileprivate let sortedCount: Int
    }

    var view: View {
        sorted.withLock { View(table: self, count: visible.load(ordering: .acquiring), runs: $0.runs, sortedCount: $0.count) }
    }

    /// The newest visible version of a key; nil if there is none.
    func find(_ key: UnsafeRawBufferPointer, _ hash: UInt32) -> UnsafePointer<Entry>? {
        let count = visible.load(ordering: .acquiring)
        return unsafe count == 0 ? nil : find(key, hash, among: count)
    }

    /// The newest version of a key among the first entries.
    fileprivate func find(_ key: UnsafeRawBufferPointer, _ hash: UInt32, among count: Int) -> UnsafePointer<Entry>? {
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

extension PendingTable.View {
    /// The newest version of a key at that moment.
    func find(_ key: UnsafeRawBufferPointer, _ hash: UInt32) -> UnsafePointer<PendingTable.Entry>? {
        unsafe count == 0 ? nil : table.find(key, hash, among: count)
    }

    /// Sorted lists of entries that are in `range`, the newest first, as places in runs.
    func runs(in range: KeyRange) -> [(run: PendingTable.Run, places: Range<Int>)] {
        var found: [(run: PendingTable.Run, places: Range<Int>)] = []
        let tail = unsafe table.sortedEntries(sortedCount..<max(count, sortedCount)) { unsafe range.contains($0) }
        if !tail.isEmpty { found.append((tail, 0..<tail.count)) }
        for run in runs.reversed() {
            let lower = run.partitioningIndex { unsafe !range.isBehind(table.key(Int($0))) }
            let upper = run.partitioningIndex { unsafe range.isInFront(of: table.key(Int($0))) }
            if lower < upper { found.append((run, lower..<upper)) }
        }
        return found
    }
}

extension KeyRange {
    /// Whether the range begins behind `key`.
    fileprivate func isBehind(_ key: UnsafeRawBufferPointer) -> Bool {
        unsafe lower.span.bytes.withUnsafeBytes { unsafe compareKeys(key, $0) < 0 }
    }

    /// Whether the range ends in front of `key`.
    fileprivate func isInFront(of key: UnsafeRawBufferPointer) -> Bool {
        guard let upper else { return false }
        return unsafe upper.span.bytes.withUnsafeBytes { unsafe compareKeys(key, $0) >= 0 }
    }
}

/// Less than, equal to, or greater than zero, as `left` comes before, is, or comes after `right`.
func compareKeys(_ left: UnsafeRawBufferPointer, _ right: UnsafeRawBufferPointer) -> Int {
    let common = min(left.count, right.count)
    if common > 0, let leftStart = left.baseAddress, let rightStart = right.baseAddress {
        let order = unsafe memcmp(leftStart, rightStart, common)
        if order != 0 { return Int(order) }
    }
    return left.count - right.count
}
