internal import Glibc

// ITU-T X.690: tag (1 byte: class, constructed bit, number) | length (1 byte below 128, else 0x80 + count, big-endian) | contents

/// Writes DER, inside out.
package enum DER {
    package static func value(tag: UInt8, _ contents: [UInt8]) -> [UInt8] {
        let count = contents.count
        guard count > 127 else { return [tag, UInt8(count)] + contents }
        var length: [UInt8] = []
        var rest = count
        while rest > 0 {
            length.insert(UInt8(truncatingIfNeeded: rest), at: 0)
            rest >>= 8
        }
        return [tag, 0x80 | UInt8(length.count)] + length + contents
    }

    package static func sequence(_ parts: [[UInt8]]) -> [UInt8] { value(tag: 0x30, Array(parts.joined())) }
    package static func set(_ parts: [[UInt8]]) -> [UInt8] { value(tag: 0x31, Array(parts.joined())) }
    package static func octetString(_ bytes: [UInt8]) -> [UInt8] { value(tag: 0x04, bytes) }
    package static func bitString(_ bytes: [UInt8], unusedBits: UInt8 = 0) -> [UInt8] { value(tag: 0x03, [unusedBits] + bytes) }
    package static func utf8String(_ text: String) -> [UInt8] { value(tag: 0x0C, Array(text.utf8)) }
    package static func printableString(_ text: String) -> [UInt8] { value(tag: 0x13, Array(text.utf8)) }
    package static func boolean(_ value: Bool) -> [UInt8] { [0x01, 0x01, value ? 0xFF : 0x00] }
    package static let null: [UInt8] = [0x05, 0x00]

    /// `[number]` of a constructed value: EXPLICIT around a whole value, IMPLICIT around the contents of one.
    package static func context(_ number: UInt8, constructed contents: [UInt8]) -> [UInt8] { value(tag: 0xA0 | number, contents) }
    /// `[number]` IMPLICIT of a primitive value.
    package static func context(_ number: UInt8, primitive contents: [UInt8]) -> [UInt8] { value(tag: 0x80 | number, contents) }

    /// A number that is not negative, from its big-endian bytes.
    package static func integer(unsigned bytes: [UInt8]) -> [UInt8] {
        var digits = Array(bytes.drop { $0 == 0 })
        if digits.first.map({ $0 >= 0x80 }) ?? true { digits.insert(0, at: 0) }
        return value(tag: 0x02, digits)
    }

    package static func integer(_ number: UInt64) -> [UInt8] {
        integer(unsigned: stride(from: 56, through: 0, by: -8).map { UInt8(truncatingIfNeeded: number >> UInt64($0)) })
    }

    package static func enumerated(_ number: UInt8) -> [UInt8] { [0x0A, 0x01, number] }

    /// From dotted numbers.
    package static func objectIdentifier(_ text: String) throws -> [UInt8] {
        let parts = text.split(separator: ".", omittingEmptySubsequences: false).map { UInt64($0) }
        let numbers = parts.compactMap { $0 }
        guard numbers.count == parts.count, numbers.count >= 2, numbers[0] <= 2,
            numbers[1] < 40 || (numbers[0] == 2 && numbers[1] < 1 << 32)
        else { throw PKIError(.buildFailed, subject: text, "not an object identifier", expected: "dotted numbers") }
        var contents = base128(numbers[0] * 40 + numbers[1])
        for number in numbers.dropFirst(2) { contents += base128(number) }
        return value(tag: 0x06, contents)
    }

    private static func base128(_ number: UInt64) -> [UInt8] {
        var out = [UInt8(number & 0x7F)]
        var rest = number >> 7
        while rest > 0 {
            out.insert(UInt8(rest & 0x7F) | 0x80, at: 0)
            rest >>= 7
        }
        return out
    }

    /// RFC 5280 §4.1.2.5: UTCTime through 2049, GeneralizedTime from 2050 (and before 1950).
    package static func time(_ time: Timestamp) throws -> [UInt8] {
        let parts = time.components
        guard (0...9999).contains(parts.year) else {
            throw PKIError(.buildFailed, subject: "\(time)", "a date that certificates cannot hold", expected: "a year up to 9999")
        }
        func pad(_ value: Int64, _ width: Int) -> String {
            let digits = String(value)
            return String(repeating: "0", count: max(0, width - digits.count)) + digits
        }
        let rest = [parts.month, parts.day, parts.hour, parts.minute, parts.second].map { pad($0, 2) }.joined() + "Z"
        return (1950...2049).contains(parts.year)
            ? value(tag: 0x17, Array((pad(parts.year % 100, 2) + rest).utf8))
            : value(tag: 0x18, Array((pad(parts.year, 4) + rest).utf8))
    }

    /// 4 or 16 bytes of an address as text; nil when it is none.
    package static func addressBytes(_ text: String) -> [UInt8]? {
        for (family, count) in [(AF_INET, 4), (AF_INET6, 16)] {
            var bytes = [UInt8](repeating: 0, count: count)
            if unsafe inet_pton(family, text, &bytes) == 1 { return bytes }
        }
        return nil
    }
}
