/// Base 64 (RFC 4648 §4), padded, as the opening handshake uses it. Not the numbers of mwDB.
enum Base64 {
    private static let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)

    static func encode(_ bytes: [UInt8]) -> String {
        var text: [UInt8] = []
        text.reserveCapacity((bytes.count + 2) / 3 * 4)
        for start in stride(from: 0, to: bytes.count, by: 3) {
            let group = bytes[start..<min(start + 3, bytes.count)]
            let bits = group.reduce(0) { $0 &<< 8 | UInt32($1) } &<< UInt32(8 * (3 - group.count))
            for position in 0..<4 {
                let shift = UInt32(18 - 6 * position)
                text.append(position <= group.count ? alphabet[Int(bits &>> shift & 63)] : UInt8(ascii: "="))
            }
        }
        return String(decoding: text, as: UTF8.self)
    }

    /// `nil` unless it is what ``encode(_:)`` would give: right length, padding, and no stray bits.
    static func decode(_ text: String) -> [UInt8]? {
        let characters = Array(text.utf8)
        guard characters.count % 4 == 0 else { return nil }
        var bytes: [UInt8] = []
        var bits: UInt32 = 0
        let unpadded = characters.reversed().drop { $0 == UInt8(ascii: "=") }.count
        guard characters.count - unpadded <= 2 else { return nil }
        for (index, character) in characters[..<unpadded].enumerated() {
            guard let value = alphabet.firstIndex(of: character) else { return nil }
            bits = bits &<< 6 | UInt32(value)
            switch index % 4 {
            case 1: bytes.append(UInt8(truncatingIfNeeded: bits &>> 4))
            case 2: bytes.append(UInt8(truncatingIfNeeded: bits &>> 2))
            case 3: bytes.append(UInt8(truncatingIfNeeded: bits))
            default: break
            }
        }
        return encode(bytes) == text ? bytes : nil
    }
}
