// Java's modified UTF-8 (java.io.DataOutput): one code unit of UTF-16 at a time.
//
//   U+0001…U+007F   0xxxxxxx
//   U+0000, …U+07FF 110xxxxx 10xxxxxx                     (so NUL is C0 80)
//   others          1110xxxx 10xxxxxx 10xxxxxx            (a character outside the BMP is two surrogates: six bytes)

/// Strings as `DataOutput.writeUTF` writes them, without the length.
enum JavaText {
    static func encode(_ text: String) -> [UInt8] {
        var bytes: [UInt8] = []
        for unit in text.utf16 {
            switch unit {
            case 0x01...0x7f:
                bytes.append(UInt8(unit))
            case 0, 0x80...0x7ff:
                bytes.append(0xc0 | UInt8(unit >> 6))
                bytes.append(0x80 | UInt8(unit & 0x3f))
            default:
                bytes.append(0xe0 | UInt8(unit >> 12))
                bytes.append(0x80 | UInt8(unit >> 6 & 0x3f))
                bytes.append(0x80 | UInt8(unit & 0x3f))
            }
        }
        return bytes
    }

    /// Nil for what `encode` does not make: other lengths, other forms, a lone surrogate.
    static func decode(_ bytes: ArraySlice<UInt8>) -> String? {
        var units: [UInt16] = []
        var rest = bytes
        while let first = rest.popFirst() {
            switch first {
            case 0x01...0x7f:
                units.append(UInt16(first))
            case 0xc0...0xdf:
                guard let second = continuation(&rest) else { return nil }
                units.append(UInt16(first & 0x1f) << 6 | second)
            case 0xe0...0xef:
                guard let second = continuation(&rest), let third = continuation(&rest) else { return nil }
                units.append(UInt16(first & 0x0f) << 12 | second << 6 | third)
            default:
                return nil
            }
        }
        guard let text = String(validating: units, as: UTF16.self), encode(text).elementsEqual(bytes) else { return nil }
        return text
    }

    private static func continuation(_ rest: inout ArraySlice<UInt8>) -> UInt16? {
        guard let byte = rest.popFirst(), byte & 0xc0 == 0x80 else { return nil }
        return UInt16(byte & 0x3f)
    }
}
