import ArgumentParser
import MWClient

/// `[PREFIX]` or `--range A..B`: which keys.
struct KeyRangeOptions: ParsableArguments {
    @Argument(help: "Keys that begin with this; none: all keys.")
    var prefix: String?

    @Option(
        help: ArgumentHelp(
            "Keys from A up to, and without, B, in byte order; either may be left out. Write keys that contain '..' with --hex.",
            valueName: "A..B"))
    var range: String?

    @OptionGroup var bytes: BytesOptions

    func validate() throws {
        if prefix != nil, range != nil { throw ValidationError("Give either a prefix or --range.") }
    }

    var isGiven: Bool { prefix != nil || range != nil }

    /// - Throws: `CommandFailure` with status 64 or 65.
    var keyRange: KeyRange {
        get throws {
            if let range { return try Self.keyRange(range) { try bytes.bytes($0, name: "range") } }
            guard let prefix, !prefix.isEmpty else { return .all }
            return .prefix(try bytes.bytes(prefix, name: "prefix"))
        }
    }

    /// - Parameter bytes: How a key is written.
    static func keyRange(_ text: String, _ bytes: (String) throws -> [UInt8]) throws -> KeyRange {
        let halves = text.split(separator: "..", omittingEmptySubsequences: false)
        guard halves.count == 2, !halves[0].hasSuffix("."), !halves[1].hasPrefix(".") else {
            throw CommandFailure(
                .usage, "'\(text)' is no range", why: "expected: A..B, A.. or ..B, with '..' once",
                remedy: "write keys that contain points in hexadecimal, with --hex")
        }
        let lower = try bytes(String(halves[0]))
        let upper = halves[1].isEmpty ? nil : try bytes(String(halves[1]))
        if let upper, !lower.lexicographicallyPrecedes(upper) {
            throw CommandFailure(
                .usage, "the range '\(text)' is empty", why: "its end is not behind its beginning, byte by byte",
                remedy: "swap them, or choose a later end")
        }
        return KeyRange(from: lower, to: upper)
    }
}

extension KeyRange {
    /// For people, and the same for the same range.
    var text: String {
        if self == .all { return "all keys" }
        return "\(ByteText.quoted(lower))..\(upper.map { ByteText.quoted($0) } ?? "")"
    }
}
