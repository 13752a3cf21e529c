import Glibc
import MWStorage
import Synchronization

/// Pending keys in order: a scan merges runs of entries, each of which is sorted.
extension PendingTable {
    /// Indices of entries in the order of their keys; of several versions of a key the newest.
    typealias Run = [UInt32]

    struct Runs: Sendable {
        /// Of consecutive entries, oldest first.
        var runs: [Run] = []
        /// How many entries are in them.
        var count = 0
    }

    /// Entries that a scan sorts itself; twice as many at most.
    static let unsortedEntries = 2048

    /// Sorts what has become visible, if it is so much: only the thread that adds calls it.
    func sortVisible(ofAtLeast limit: Int) {
        let count = visible.load(ordering: .relaxed)
        let (runs, sortedCount) = sorted.withLock { ($0.runs, $0.count) }
        guard count - sortedCount >= limit else { return }
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

    /// Some entries that one after another were added, in the order of their keys.
    fileprivate func sortedEntries(_ range: Range<Int>, where isWanted: (UnsafeRawBufferPointer) -> Bool) -> Run {
        guard !range.isEmpty else { return [] }
        var places: [SortedPlace] = []
        places.reserveCapacity(range.count)
        // Keys of a keyspace mostly begin alike. What follows tells them apart, and needs no look at their bytes, which lie all over memory.
        var common = [CommonBeginning](repeating: CommonBeginning(), count: 1 << UInt8.bitWidth)
        for index in range {
            let key = unsafe key(index)
            guard unsafe isWanted(key) else { continue }
            let keyspace = unsafe key.first ?? 0
            places.append(SortedPlace(index: UInt32(index), keyBytes: UInt32(key.count), keyspace: keyspace))
            unsafe common[Int(keyspace)].limit(to: key)
        }
        for place in places.indices {
            let key = unsafe key(Int(places[place].index))
            places[place].word = unsafe PendingTable.word(of: key, at: common[Int(places[place].keyspace)].byteCount)
        }
        func order(_ left: SortedPlace, _ right: SortedPlace) -> Int {
            if left.keyspace != right.keyspace { return left.keyspace < right.keyspace ? -1 : 1 }
            if left.word != right.word { return left.word < right.word ? -1 : 1 }
            // The same word says the same key where nothing comes behind it.
            let wholeBytes = common[Int(left.keyspace)].byteCount + MemoryLayout<UInt64>.size
            if left.keyBytes <= wholeBytes, right.keyBytes <= wholeBytes { return Int(left.keyBytes) - Int(right.keyBytes) }
            return unsafe compareKeys(key(Int(left.index)), key(Int(right.index)))
        }
        places.sort { left, right in
            let order = order(left, right)
            return order != 0 ? order < 0 : left.index > right.index
        }
        // Without those that a later one of the range takes the place of: they are not the newest, and the range ends with what is visible.
        var run: Run = []
        run.reserveCapacity(places.count)
        for (place, sorted) in places.enumerated() where place == 0 || order(places[place - 1], sorted) != 0 { run.append(sorted.index) }
        return run
    }

    private struct SortedPlace {
        var word: UInt64 = 0
        let index: UInt32
        let keyBytes: UInt32
        let keyspace: UInt8
    }

    /// How some keys begin, all of them.
    @safe
    private struct CommonBeginning {
        /// One of them.
        private var key: UnsafeRawBufferPointer?
        private(set) var byteCount = 0

        init() { unsafe key = nil }

        mutating func limit(to other: UnsafeRawBufferPointer) {
            guard let key = unsafe key else {
                unsafe key = other
                byteCount = other.count
                return
            }
            let count = min(byteCount, other.count)
            var common = 0
            while common < count, unsafe key[common] == other[common] { common += 1 }
            byteCount = common
        }
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

    // MARK: Views

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
