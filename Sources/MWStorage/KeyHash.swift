/// SipHash-1-3 of keys, with a secret of its own: who chooses keys cannot choose where they lie, nor learn it.
///
/// The standard library's `Hasher` is the same function; this one takes a short key at once, where that one buffers: a third of the
/// instructions for 16 bytes. (Aumasson, Bernstein, "SipHash: a fast short-input PRF", 2012)
package struct KeyHash: Sendable {
    private let key: (UInt64, UInt64)

    /// With a new secret.
    package init() {
        var random = SystemRandomNumberGenerator()
        self.init(key: (random.next(), random.next()))
    }

    init(key: (UInt64, UInt64)) { self.key = key }

    @inline(__always)
    package func callAsFunction(_ bytes: UnsafeRawBufferPointer) -> Int {
        var state = SipState(key)
        let count = bytes.count
        var offset = 0
        while count - offset >= 8 {
            state.compress(UInt64(littleEndian: unsafe bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self)))
            offset += 8
        }
        // The last word: what is left, and the length in the top byte.
        var last = UInt64(truncatingIfNeeded: count) << 56
        var shift: UInt64 = 0
        if count - offset >= 4 {
            last |= UInt64(UInt32(littleEndian: unsafe bytes.loadUnaligned(fromByteOffset: offset, as: UInt32.self)))
            offset += 4
            shift = 32
        }
        while offset < count {
            last |= UInt64(unsafe bytes[offset]) << shift
            offset += 1
            shift += 8
        }
        state.compress(last)
        return Int(truncatingIfNeeded: state.finish())
    }
}

private struct SipState {
    private var v0: UInt64
    private var v1: UInt64
    private var v2: UInt64
    private var v3: UInt64

    @inline(__always)
    init(_ key: (UInt64, UInt64)) {
        v0 = key.0 ^ 0x736f_6d65_7073_6575
        v1 = key.1 ^ 0x646f_7261_6e64_6f6d
        v2 = key.0 ^ 0x6c79_6765_6e65_7261
        v3 = key.1 ^ 0x7465_6462_7974_6573
    }

    @inline(__always)
    mutating func compress(_ word: UInt64) {
        v3 ^= word
        round()
        v0 ^= word
    }

    @inline(__always)
    mutating func finish() -> UInt64 {
        v2 ^= 0xff
        for _ in 0..<3 { round() }
        return v0 ^ v1 ^ v2 ^ v3
    }

    @inline(__always)
    private mutating func round() {
        v0 &+= v1
        v1 = SipState.rotate(v1, 13) ^ v0
        v0 = SipState.rotate(v0, 32)
        v2 &+= v3
        v3 = SipState.rotate(v3, 16) ^ v2
        v0 &+= v3
        v3 = SipState.rotate(v3, 21) ^ v0
        v2 &+= v1
        v1 = SipState.rotate(v1, 17) ^ v2
        v2 = SipState.rotate(v2, 32)
    }

    @inline(__always)
    private static func rotate(_ word: UInt64, _ bits: UInt64) -> UInt64 { word &<< bits | word &>> (64 &- bits) }
}
