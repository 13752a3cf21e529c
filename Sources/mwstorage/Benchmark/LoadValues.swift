import Glibc

/// The values of a benchmark: made from the key's number and the seed, so that whoever reads one knows what it has to be.
///
/// A value is eight bytes that belong to its key, and then a piece of one endless row of random bytes, from where the key says. To make it
/// and to compare it cost a copy and a comparison. The bytes do not compress, and none is `#`, which mwDB's protocol cannot carry.
struct LoadValues: Sendable {
    /// After so many bytes the row begins again.
    static let period = 1 << 16
    private static let headBytes = 8

    /// Of each value, in bytes.
    let length: Int
    private let seed: UInt64
    /// Two periods: from any start a whole one lies in one piece.
    private let row: [UInt8]

    init(length: Int, seed: UInt64) {
        self.length = length
        self.seed = LoadKeys.mixed(seed)
        var row: [UInt8] = []
        row.reserveCapacity(2 * Self.period)
        for index in 0..<Self.period / Self.headBytes {
            let word = Self.printable(LoadKeys.mixed(self.seed ^ UInt64(index)))
            unsafe withUnsafeBytes(of: word) { unsafe row.append(contentsOf: $0) }
        }
        row.append(contentsOf: row)
        self.row = row
    }

    /// Eight characters from `<` to `{`.
    @inline(__always)
    private static func printable(_ bits: UInt64) -> UInt64 { (bits & 0x3F3F_3F3F_3F3F_3F3F) &+ 0x3C3C_3C3C_3C3C_3C3C }

    @inline(__always)
    private func bits(of key: UInt64) -> UInt64 { LoadKeys.mixed(seed &+ LoadKeys.mixed(key)) }

    @inline(__always)
    private static func start(_ bits: UInt64) -> Int { Int(truncatingIfNeeded: bits &>> 48) }

    /// Writes the value of a key where there is room for ``length``.
    @inline(__always)
    func write(_ key: UInt64, to writer: inout LoadWriter) {
        let bits = bits(of: key)
        unsafe withUnsafeBytes(of: Self.printable(bits)) { unsafe writer.write($0, min(Self.headBytes, length)) }
        unsafe row.withUnsafeBytes { row in
            let piece = unsafe UnsafeRawBufferPointer(rebasing: row[Self.start(bits)...])
            var rest = length - Self.headBytes
            while rest > 0 {
                unsafe writer.write(piece, min(rest, Self.period))
                rest -= Self.period
            }
        }
    }

    /// Whether these bytes are the value of a key: all of them.
    @inline(__always)
    func isValue(_ bytes: UnsafeRawBufferPointer, of key: UInt64) -> Bool {
        guard bytes.count == length else { return false }
        let bits = bits(of: key)
        let hasHead = unsafe withUnsafeBytes(of: Self.printable(bits)) { head in
            unsafe Self.isEqual(head, bytes, from: 0, min(Self.headBytes, length))
        }
        guard hasHead else { return false }
        return unsafe row.withUnsafeBytes { row in
            let piece = unsafe UnsafeRawBufferPointer(rebasing: row[Self.start(bits)...])
            var offset = Self.headBytes
            while offset < length {
                let count = min(length - offset, Self.period)
                guard unsafe Self.isEqual(piece, bytes, from: offset, count) else { return false }
                offset += count
            }
            return true
        }
    }

    /// Whether `bytes` goes on with the first `count` of `piece` at an offset.
    @inline(__always)
    private static func isEqual(
        _ piece: UnsafeRawBufferPointer, _ bytes: UnsafeRawBufferPointer, from offset: Int, _ count: Int
    ) -> Bool {
        guard let left = piece.baseAddress, let right = bytes.baseAddress else { return count == 0 }
        return unsafe memcmp(left, right + offset, count) == 0
    }
}
