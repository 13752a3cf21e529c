/// Which keys a client's writes under way may concern: says "maybe" too often rather than "no" once too often (a Bloom filter with one hash).
///
/// Lets a read pass writes that it has nothing to do with, instead of waiting for their sync.
struct TouchedKeys {
    /// 1,024 bits: with 64 keys under way one read in sixteen waits in vain.
    private var words = SIMD16<UInt64>.zero

    private static let bitMask: UInt64 = 1023

    mutating func insert(_ key: UnsafeRawBufferPointer) {
        let bit = unsafe Self.bit(of: key)
        self.words[Int(bit >> 6)] |= 1 << (bit & 63)
    }

    func mayContain(_ key: UnsafeRawBufferPointer) -> Bool {
        let bit = unsafe Self.bit(of: key)
        return self.words[Int(bit >> 6)] & 1 << (bit & 63) != 0
    }

    mutating func removeAll() { self.words = .zero }

    /// Eight bytes a step; only the top bits of the product are well mixed.
    private static func bit(of key: UnsafeRawBufferPointer) -> UInt64 {
        let multiplier: UInt64 = 0x9E37_79B9_7F4A_7C15
        var hash = UInt64(truncatingIfNeeded: key.count)
        var offset = 0
        while key.count - offset >= 8 {
            hash = (hash ^ (unsafe key.loadUnaligned(fromByteOffset: offset, as: UInt64.self))) &* multiplier
            hash ^= hash >> 32
            offset += 8
        }
        while offset < key.count {
            hash = (hash ^ UInt64(unsafe key[offset])) &* multiplier
            hash ^= hash >> 32
            offset += 1
        }
        return (hash &* multiplier) >> 54 & self.bitMask
    }
}
