import MWPKI

/// Bytes as text that people can type and read: quoted, with escapes for whatever is not printable, so that any bytes survive.
///
///     "text"        UTF-8; \" \\ \n \r \t \0 and \xNN (a byte, two hexadecimal digits)
///     hex"00ff"     pairs of hexadecimal digits
///     world/12      without quotes, if every byte is one of a word's, and it is no word with a meaning
package enum ByteText {
    /// A byte of a word without quotes: no blank, no quotation mark, nothing that is an operator or begins a comment.
    package static func isWordByte(_ byte: UInt8) -> Bool {
        switch byte {
        case 0...0x20, 0x7F: false
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "#"), UInt8(ascii: "="), UInt8(ascii: "<"), UInt8(ascii: ">"),
            UInt8(ascii: "!"):
            false
        default: true
        }
    }

    /// The bytes in quotes.
    package static func quoted(_ bytes: some Sequence<UInt8>) -> String { "\"\(escaped(bytes))\"" }

    /// The same without the quotes: on one line, and nothing in it that moves a cursor.
    package static func escaped(_ bytes: some Sequence<UInt8>) -> String {
        var text = ""
        var rest = Array(bytes)[...]
        while let first = rest.first {
            if first < 0x80 {
                rest = rest.dropFirst()
                text += escape(first)
                continue
            }
            // What is valid UTF-8 stays as it is, unless a terminal would act on it.
            let length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2
            let group = rest.prefix(length)
            if let character = String(validating: group, as: UTF8.self), let scalar = character.unicodeScalars.first,
                character.unicodeScalars.count == 1, isPrintable(scalar)
            {
                text += character
                rest = rest.dropFirst(length)
            } else {
                text += "\\x" + Hex.encode([first])
                rest = rest.dropFirst()
            }
        }
        return text
    }

    private static func escape(_ byte: UInt8) -> String {
        switch byte {
        case UInt8(ascii: "\""): "\\\""
        case UInt8(ascii: "\\"): "\\\\"
        case UInt8(ascii: "\n"): "\\n"
        case UInt8(ascii: "\r"): "\\r"
        case UInt8(ascii: "\t"): "\\t"
        case 0: "\\0"
        case 0x20..<0x7F: String(Unicode.Scalar(byte))
        default: "\\x" + Hex.encode([byte])
        }
    }

    /// Neither a control, nor something invisible that changes how its neighbours are shown.
    private static func isPrintable(_ scalar: Unicode.Scalar) -> Bool {
        switch scalar.properties.generalCategory {
        case .control, .format, .lineSeparator, .paragraphSeparator, .surrogate, .privateUse, .unassigned: false
        default: true
        }
    }
}
