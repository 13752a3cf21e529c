/// Keys that were asked for lately and were not in the cache, as marks of their hashes: one that is asked for again soon is worth the place of
/// another, one that is asked for once is not.
///
/// After the doorkeeper of TinyLFU (Einziger, Friedman, Manes, 2017), but each mark gives way to the next key of its place instead of all being
/// cleared now and then. Two keys may be taken for one: then one is kept that need not be.
@safe
struct RecentMisses: ~Copyable, @unchecked Sendable {
    // Safety: it owns its marks, and a non-copyable value is used by one thread at a time.
    private let marks: UnsafeMutablePointer<UInt16>
    private let count: Int

    static let bytesPerMark = MemoryLayout<UInt16>.size

    /// - Parameter count: How many keys it remembers at most, a power of two.
    init(count: Int) {
        self.count = count
        unsafe marks = .allocate(capacity: self.count)
        unsafe marks.initialize(repeating: 0, count: self.count)
    }

    deinit { unsafe marks.deallocate() }

    /// Notes a miss.
    ///
    /// - Parameter hash: Of the key; neither its lowest 20 bits nor its highest 6 matter, which say where in the cache the key belongs.
    /// - Returns: Whether it had missed lately.
    mutating func note(_ hash: Int) -> Bool {
        let place = (hash >> 20) & (count - 1)
        // Zero is the mark of none: then the key is taken for one that was here, at worst.
        let mark = UInt16(truncatingIfNeeded: hash >> 42)
        guard unsafe marks[place] != mark else { return true }
        unsafe marks[place] = mark
        return false
    }
}
