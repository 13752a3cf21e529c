// mwDB's numbers (not RFC 4648): alphabet A-Z a-z 0-9 + /, no padding.
//
//     text := group* last        1 to 9 characters, most significant first, no leading zero group ("A")
//
//     group  6 bits of |v| >> 5
//     last   ((|v| & 31) << 1) | (v < 0 ? 1 : 0)
//
//     0 = "A", 1 = "C", -1 = "D", 31 = "+", 32 = "BA", 2^53 - 1 = "////////+"

package import NIOCore

/// An integer that mwDB's number format can hold: magnitude at most 2^53 - 1.
package struct Base64Number: Hashable, Sendable {
    /// 2^53 - 1: nine characters carry eight groups of 6 bits and 5 bits more.
    package static let maximumMagnitude: Int64 = (1 << 53) - 1
    /// Characters of the longest number.
    package static let maximumCharacters = 9
    /// Characters of the longest 32 bit number, which is what a request id is.
    package static let maximumInt32Characters = 6

    package let value: Int64

    /// nil when the magnitude is over 2^53 - 1.
    package init?(exactly value: Int64) {
        guard value.magnitude <= UInt64(Self.maximumMagnitude) else { return nil }
        self.value = value
    }

    package init(_ value: Int32) { self.value = Int64(value) }

    package init(_ value: UInt32) { self.value = Int64(value) }

    /// Reads a whole text. Throws ``ProtocolError/Code/malformedNumber`` when it is empty, longer than nine characters, has a foreign
    /// character, or is not the shortest form of its value (a leading `A`, or minus zero), which no encoder writes.
    package init(text: some Collection<UInt8>) throws(ProtocolError) {
        guard let number = Self(canonical: text) else {
            throw ProtocolError(
                .malformedNumber, "number", expected: "1 to \(Self.maximumCharacters) characters of A-Z a-z 0-9 + / in shortest form")
        }
        self = number
    }

    package init(text: String) throws(ProtocolError) { try self.init(text: text.utf8) }

    private init?(canonical text: some Collection<UInt8>) {
        var magnitude: UInt64 = 0
        var last: UInt64 = 0
        var count = 0
        for character in text {
            guard let digit = Self.digit(character), count < Self.maximumCharacters else { return nil }
            // A leading zero group: "A" alone is zero, "A…" is not the shortest form.
            if count == 1 && last == 0 { return nil }
            if count > 0 { magnitude = magnitude << 6 | last }
            last = digit
            count += 1
        }
        guard count > 0 else { return nil }
        magnitude = magnitude << 5 | last >> 1
        let isNegative = last & 1 == 1
        guard !(isNegative && magnitude == 0) else { return nil }
        self.value = isNegative ? -Int64(magnitude) : Int64(magnitude)
    }

    /// Appends the text: 1 to 9 bytes.
    package func write(to buffer: inout ByteBuffer) {
        _ = unsafe buffer.writeWithUnsafeMutableBytes(minimumWritableBytes: Self.maximumCharacters) { unsafe self.write(into: $0) }
    }

    /// Writes the text at the start of `bytes`, which has room for it.
    ///
    /// - Returns: How many characters it has: ``characterCount``.
    @discardableResult
    func write(into bytes: UnsafeMutableRawBufferPointer) -> Int {
        let magnitude = self.value.magnitude
        let high = magnitude >> 5
        let count = self.characterCount
        var shift = UInt64(count - 1) * 6
        for index in 0..<count - 1 {
            shift -= 6
            unsafe bytes[index] = Self.character(UInt8(truncatingIfNeeded: high >> shift & 63))
        }
        let sign: UInt64 = self.value < 0 ? 1 : 0
        unsafe bytes[count - 1] = Self.character(UInt8(truncatingIfNeeded: (magnitude & 31) << 1 | sign))
        return count
    }

    /// Characters of the text.
    var characterCount: Int { (UInt64.bitWidth - (self.value.magnitude >> 5).leadingZeroBitCount + 5) / 6 + 1 }

    private static func digit(_ character: UInt8) -> UInt64? {
        switch character {
        case UInt8(ascii: "A")...UInt8(ascii: "Z"): return UInt64(character - UInt8(ascii: "A"))
        case UInt8(ascii: "a")...UInt8(ascii: "z"): return UInt64(character - UInt8(ascii: "a")) + 26
        case UInt8(ascii: "0")...UInt8(ascii: "9"): return UInt64(character - UInt8(ascii: "0")) + 52
        case UInt8(ascii: "+"): return 62
        case UInt8(ascii: "/"): return 63
        default: return nil
        }
    }

    private static func character(_ digit: UInt8) -> UInt8 {
        switch digit {
        case 0..<26: return UInt8(ascii: "A") + digit
        case 26..<52: return UInt8(ascii: "a") + (digit - 26)
        case 52..<62: return UInt8(ascii: "0") + (digit - 52)
        case 62: return UInt8(ascii: "+")
        default: return UInt8(ascii: "/")
        }
    }
}

extension Base64Number: CustomStringConvertible {
    package var description: String {
        var buffer = ByteBuffer()
        self.write(to: &buffer)
        return String(buffer: buffer)
    }
}
