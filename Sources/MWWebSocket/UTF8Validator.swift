/// Tells the first byte that cannot belong to UTF-8, however the text is cut (RFC 3629; RFC 6455 §8.1).
///
///     bytes                       code points
///     00-7F                       U+0000   … U+007F
///     C2-DF 80-BF                 U+0080   … U+07FF
///     E0    A0-BF 80-BF           U+0800   … U+0FFF    (below: overlong)
///     E1-EC 80-BF 80-BF, EE-EF    U+1000   … U+FFFF
///     ED    80-9F 80-BF           U+D000   … U+D7FF    (above: surrogates)
///     F0    90-BF 80-BF 80-BF     U+10000  … U+3FFFF   (below: overlong)
///     F1-F3 80-BF 80-BF 80-BF     U+40000  … U+FFFFF
///     F4    80-8F 80-BF 80-BF     U+100000 … U+10FFFF  (above: too large)
package struct UTF8Validator: Sendable, Equatable {
    /// Continuation bytes that the code point under way still needs.
    private var needed: UInt8 = 0
    /// What the next continuation byte may be: narrower than 80-BF after E0, ED, F0 and F4.
    private var lowest: UInt8 = 0x80
    private var highest: UInt8 = 0xBF

    package init() {}

    /// Whether the text may end here.
    package var isComplete: Bool { needed == 0 }

    /// `false` at the first byte that no continuation could make valid; the value is of no use after that.
    package mutating func validate(_ bytes: UnsafeRawBufferPointer) -> Bool {
        var index = 0
        let count = bytes.count
        while index < count {
            if needed == 0 {
                index = unsafe Self.skipASCII(bytes, from: index)
                if index == count { break }
                guard start(unsafe bytes[index]) else { return false }
            } else {
                let byte = unsafe bytes[index]
                guard byte >= lowest, byte <= highest else { return false }
                needed -= 1
                lowest = 0x80
                highest = 0xBF
            }
            index += 1
        }
        return true
    }

    /// The index of the first byte that is not ASCII, or the end.
    @inline(__always)
    private static func skipASCII(_ bytes: UnsafeRawBufferPointer, from start: Int) -> Int {
        var index = start
        let count = bytes.count
        while count - index >= 32 {
            let block = unsafe bytes.loadUnaligned(fromByteOffset: index, as: SIMD4<UInt64>.self)
            guard ((block[0] | block[1]) | (block[2] | block[3])) & 0x8080_8080_8080_8080 == 0 else { break }
            index += 32
        }
        while count - index >= 8 {
            guard unsafe bytes.loadUnaligned(fromByteOffset: index, as: UInt64.self) & 0x8080_8080_8080_8080 == 0 else { break }
            index += 8
        }
        while index < count, unsafe bytes[index] < 0x80 { index += 1 }
        return index
    }

    /// Takes a lead byte above 7F.
    @inline(__always)
    private mutating func start(_ byte: UInt8) -> Bool {
        switch byte {
        case 0xC2...0xDF:
            needed = 1
        case 0xE0:
            needed = 2
            lowest = 0xA0
        case 0xED:
            needed = 2
            highest = 0x9F
        case 0xE1...0xEF:
            needed = 2
        case 0xF0:
            needed = 3
            lowest = 0x90
        case 0xF1...0xF3:
            needed = 3
        case 0xF4:
            needed = 3
            highest = 0x8F
        default:
            return false
        }
        return true
    }
}
