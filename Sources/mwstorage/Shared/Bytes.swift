import ArgumentParser
import MWPKI

/// Keys and values on the command line and in output: bytes that are shown as text where they are text.
///
/// In JSON: `{"key":…,"value":…,"encoding":"utf8"|"base64"}`; utf8 wherever all of the bytes are valid UTF-8.
enum Bytes {
    static func json(_ bytes: [UInt8]) -> JSONValue {
        let (value, encoding) = text(bytes)
        return .object([("value", .string(value)), ("encoding", .string(encoding))])
    }

    /// A key and its value, both in one encoding. A value that is absent is null.
    static func json(key: [UInt8], value: [UInt8]?) -> JSONValue { .object(members(key: key, value: value)) }

    /// The same, for an object that has more members.
    static func members(key: [UInt8], value: [UInt8]?) -> [(String, JSONValue)] {
        let isText = text(key).encoding == "utf8" && value.map { text($0).encoding == "utf8" } ?? true
        let written: ([UInt8]) -> JSONValue = { .string(isText ? text($0).value : base64($0)) }
        return [("key", written(key)), ("value", value.map(written) ?? .null), ("encoding", .string(isText ? "utf8" : "base64"))]
    }

    /// UTF-8 text if the bytes are valid, else Base64 (RFC 4648 §4), and which of the two.
    static func text(_ bytes: [UInt8]) -> (value: String, encoding: String) {
        if let string = String(validating: bytes, as: UTF8.self) { return (string, "utf8") }
        return (base64(bytes), "base64")
    }

    /// For a message: text with what is not printable as `\xNN`, cut after 64 bytes.
    static func shown(_ bytes: [UInt8]) -> String {
        let longest = 64
        var text = ""
        for byte in bytes.prefix(longest) {
            if byte >= 0x20, byte < 0x7F {
                text.unicodeScalars.append(Unicode.Scalar(byte))
            } else {
                text += "\\x" + Hex.encode([byte])
            }
        }
        return bytes.count > longest ? text + "… (\(bytes.count) bytes)" : text
    }

    static func hex(_ bytes: [UInt8]) -> String { Hex.encode(bytes) }

    /// Pairs of digits; colons, spaces and line feeds may be between them.
    static func bytes(hex text: String) -> [UInt8]? {
        Hex.decode(Substring(text.filter { $0 != ":" && $0 != " " && $0 != "\n" }))
    }

    private static let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)

    static func base64(_ bytes: [UInt8]) -> String {
        var text: [UInt8] = []
        text.reserveCapacity((bytes.count + 2) / 3 * 4)
        var index = 0
        while index < bytes.count {
            let group = bytes[index..<min(index + 3, bytes.count)]
            var bits: UInt32 = 0
            for offset in 0..<3 { bits = bits << 8 | (offset < group.count ? UInt32(group[index + offset]) : 0) }
            for offset in 0..<4 {
                text.append(offset <= group.count ? alphabet[Int(bits >> (18 - 6 * UInt32(offset)) & 63)] : UInt8(ascii: "="))
            }
            index += 3
        }
        return String(decoding: text, as: UTF8.self)
    }

    /// RFC 4648 §4, line feeds allowed, padding required.
    static func bytes(base64 text: String) -> [UInt8]? {
        let symbols = text.utf8.filter { $0 != 10 && $0 != 13 }
        guard symbols.count % 4 == 0 else { return nil }
        let padding = symbols.reversed().prefix { $0 == UInt8(ascii: "=") }.count
        guard padding <= 2 else { return nil }
        var bytes: [UInt8] = []
        bytes.reserveCapacity(symbols.count / 4 * 3)
        var bits: UInt32 = 0
        var count = 0
        for symbol in symbols.dropLast(padding) {
            guard let value = value(ofSymbol: symbol) else { return nil }
            bits = bits << 6 | value
            count += 1
            if count % 4 == 0 {
                bytes += [UInt8(truncatingIfNeeded: bits >> 16), UInt8(truncatingIfNeeded: bits >> 8), UInt8(truncatingIfNeeded: bits)]
            }
        }
        if padding == 1 {
            bytes += [UInt8(truncatingIfNeeded: bits >> 10), UInt8(truncatingIfNeeded: bits >> 2)]
        } else if padding == 2 {
            bytes.append(UInt8(truncatingIfNeeded: bits >> 4))
        }
        return bytes
    }

    private static func value(ofSymbol symbol: UInt8) -> UInt32? {
        switch symbol {
        case UInt8(ascii: "A")...UInt8(ascii: "Z"): UInt32(symbol - UInt8(ascii: "A"))
        case UInt8(ascii: "a")...UInt8(ascii: "z"): UInt32(symbol - UInt8(ascii: "a")) + 26
        case UInt8(ascii: "0")...UInt8(ascii: "9"): UInt32(symbol - UInt8(ascii: "0")) + 52
        case UInt8(ascii: "+"): 62
        case UInt8(ascii: "/"): 63
        default: nil
        }
    }
}

/// `--hex` and `--base64`: how the keys and values on this command line are written.
struct BytesOptions: ParsableArguments {
    @Flag(name: .customLong("hex"), help: "Keys and values are written in hexadecimal.")
    var isHex = false

    @Flag(name: .customLong("base64"), help: "Keys and values are written in Base64 (RFC 4648 §4).")
    var isBase64 = false

    func validate() throws {
        if isHex, isBase64 { throw ValidationError("--hex and --base64 exclude each other.") }
    }

    /// The bytes of a key or value given as an argument.
    /// - Throws: `CommandFailure` with status 65, if the text is not in the form that was asked for.
    func bytes(_ argument: String, name: String) throws -> [UInt8] {
        let form = isHex ? "hexadecimal" : "Base64"
        guard let bytes = isHex ? Bytes.bytes(hex: argument) : isBase64 ? Bytes.bytes(base64: argument) : Array(argument.utf8) else {
            throw CommandFailure(
                .badInput, "the \(name) is not valid \(form)", why: "seen: \(Bytes.shown(Array(argument.utf8)))",
                remedy: isHex ? "write two hexadecimal digits for each byte" : "write it with: printf … | base64 -w0")
        }
        return bytes
    }

    /// How a value goes to standard output: as it is, or in the form asked for.
    func output(_ bytes: [UInt8]) -> [UInt8] {
        isHex ? Array(Hex.encode(bytes).utf8) : isBase64 ? Array(Bytes.base64(bytes).utf8) : bytes
    }
}
