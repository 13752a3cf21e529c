import Glibc
import MWStorage

/// An engine in memory that costs next to nothing, and the same each time: a sorted index over one block of bytes, with no allocation once
/// its keys are there.
///
/// A snapshot is the engine itself: whoever holds one while something is written sees it.
// Safety: used on one thread.
@safe final class ArenaEngine: StorageEngine, EngineSnapshot, @unchecked Sendable {
    private struct Entry {
        var keyStart: Int
        var keyCount: Int
        var valueStart: Int
        var valueCount: Int
        /// What was there first may have been longer.
        var valueCapacity: Int
    }

    private let bytes: UnsafeMutableRawBufferPointer
    private var usedBytes = 0
    private var entries: [Entry] = []

    /// What one run writes at most; memory is taken as it is written.
    private static let capacityBytes = 512 << 20
    private static let expectedEntries = 1 << 18

    init() {
        unsafe self.bytes = .allocate(byteCount: Self.capacityBytes, alignment: 16)
        self.entries.reserveCapacity(Self.expectedEntries)
    }

    deinit { unsafe self.bytes.deallocate() }

    static let factory = StorageEngineFactory(
        name: "arena", open: { (_, _) throws(StorageError) in ArenaEngine() },
        openReadOnly: { (_, _) throws(StorageError) in ArenaEngine() })

    var bytesNeededToReopen: Int { 0 }

    func read(_ key: UnsafeRawBufferPointer, _ body: (UnsafeRawBufferPointer?) -> Void) throws(StorageError) {
        let place = unsafe self.place(of: key)
        guard place.isTaken else { return body(nil) }
        let entry = self.entries[place.index]
        unsafe body(self.slice(entry.valueStart, entry.valueCount))
    }

    func scan(
        _ range: KeyRange, _ direction: ScanDirection, _ body: (UnsafeRawBufferPointer, UnsafeRawBufferPointer) -> Bool
    ) throws(StorageError) {
        let first = unsafe range.lower.span.bytes.withUnsafeBytes { unsafe self.place(of: $0).index }
        let end = range.upper.map { upper in unsafe upper.span.bytes.withUnsafeBytes { unsafe self.place(of: $0).index } }
        let count = max(0, (end ?? self.entries.count) - first)
        for offset in 0..<count {
            let entry = self.entries[direction == .forward ? first + offset : first + count - 1 - offset]
            let goesOn = unsafe body(self.slice(entry.keyStart, entry.keyCount), self.slice(entry.valueStart, entry.valueCount))
            if !goesOn { return }
        }
    }

    func apply(_ batch: borrowing WriteBatch, sync: Bool) throws(StorageError) {
        unsafe batch.forEach { change in
            switch unsafe change {
            case .put(let key, let value): unsafe self.put(key, value)
            case .remove(let key):
                let place = unsafe self.place(of: key)
                if place.isTaken { self.entries.remove(at: place.index) }
            }
        }
    }

    func sync() throws(StorageError) {}
    func snapshot() throws(StorageError) -> any EngineSnapshot { self }
    func checkpoint(to directory: String) throws(StorageError) -> Bool { false }
    func close() {}

    private func put(_ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) {
        let place = unsafe self.place(of: key)
        guard place.isTaken, value.count <= self.entries[place.index].valueCapacity else {
            let entry = unsafe Entry(
                keyStart: self.append(key), keyCount: key.count, valueStart: self.append(value), valueCount: value.count,
                valueCapacity: value.count)
            if place.isTaken { self.entries[place.index] = entry } else { self.entries.insert(entry, at: place.index) }
            return
        }
        unsafe self.copy(value, to: self.entries[place.index].valueStart)
        self.entries[place.index].valueCount = value.count
    }

    private func append(_ added: UnsafeRawBufferPointer) -> Int {
        let start = self.usedBytes
        precondition(start + added.count <= Self.capacityBytes, "more is written than one run may: ask for fewer requests")
        unsafe self.copy(added, to: start)
        self.usedBytes += added.count
        return start
    }

    private func copy(_ source: UnsafeRawBufferPointer, to start: Int) {
        unsafe UnsafeMutableRawBufferPointer(rebasing: self.bytes[start..<start + source.count]).copyMemory(from: source)
    }

    private func slice(_ start: Int, _ count: Int) -> UnsafeRawBufferPointer {
        unsafe UnsafeRawBufferPointer(rebasing: self.bytes[start..<start + count])
    }

    /// Where `key` is, or belongs.
    private func place(of key: UnsafeRawBufferPointer) -> (index: Int, isTaken: Bool) {
        var (low, high) = (0, self.entries.count)
        while low < high {
            let middle = (low + high) / 2
            let entry = self.entries[middle]
            let order = unsafe Self.order(self.slice(entry.keyStart, entry.keyCount), key)
            if order == 0 { return (middle, true) }
            if order < 0 { low = middle + 1 } else { high = middle }
        }
        return (low, false)
    }

    private static func order(_ left: UnsafeRawBufferPointer, _ right: UnsafeRawBufferPointer) -> Int {
        let common = min(left.count, right.count)
        if common > 0, let leftStart = left.baseAddress, let rightStart = right.baseAddress {
            let order = unsafe memcmp(leftStart, rightStart, common)
            if order != 0 { return Int(order) }
        }
        return left.count - right.count
    }
}
