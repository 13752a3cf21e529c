import Glibc
import Logging
import MWPKI

/// Log lines on standard error: `time level message name=value…`, or one JSON object each.
///
/// What a peer sent may be in a value: control characters are escaped, so that nobody can write lines of their own.
struct LogLines: LogHandler {
    enum Format: String, Sendable, CaseIterable {
        case text, json
    }

    var format: Format
    var label: String
    var logLevel: Logger.Level
    var metadata: Logger.Metadata = [:]

    /// - Parameter fallback: The level where none is set.
    static func logger(_ settings: Settings, label: String, fallback: Logger.Level) throws -> Logger {
        let level = try settings.value(.logLevel, expected: "trace, debug, info, notice, warning, error or critical") {
            Logger.Level(rawValue: $0)
        }
        let format = try settings.value(.logFormat, expected: "text or json") { Format(rawValue: $0) } ?? .text
        return Logger(label: label) { LogLines(format: format, label: $0, logLevel: level ?? fallback) }
    }

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    func log(event: LogEvent) {
        let all = metadata.merging(event.metadata ?? [:]) { $1 }.sorted { $0.key < $1.key }
        let time = Timestamp.now().description
        switch format {
        case .text:
            let pairs = all.map { " \($0.key)=\(Self.quoted("\($0.value)"))" }.joined()
            Output.note("\(time) \(event.level) \(Self.escaped("\(event.message)"))\(pairs)")
        case .json:
            let members: [(String, JSONValue)] = [
                ("time", .string(time)), ("level", .string(event.level.rawValue)), ("logger", .string(label)),
                ("message", .string("\(event.message)")),
            ]
            Output.note(JSONValue.object(members + all.map { ($0.key, .string("\($0.value)")) }).text)
        }
    }

    /// In quotation marks where it would not be one word, with a backslash before those that it has.
    private static func quoted(_ text: String) -> String {
        guard text.isEmpty || text.utf8.contains(where: { " \"=\\".utf8.contains($0) }) else { return escaped(text) }
        return "\"" + escaped(text, marks: true) + "\""
    }

    /// - Parameter marks: Whether quotation marks and backslashes get a backslash, too.
    private static func escaped(_ text: String, marks: Bool = false) -> String {
        // Printable ASCII, as nearly all is.
        guard text.utf8.contains(where: { $0 < 0x20 || $0 >= 0x7F || marks && "\"\\".utf8.contains($0) }) else { return text }
        // Scalar by scalar: a mark that something combines with is a mark all the same.
        var escaped = ""
        for scalar in text.unicodeScalars {
            if scalar.value < 0x20 || (0x7F..<0xA0).contains(scalar.value) {
                escaped += "\\u{\(String(scalar.value, radix: 16))}"
            } else {
                if marks, scalar == "\"" || scalar == "\\" { escaped.unicodeScalars.append("\\") }
                escaped.unicodeScalars.append(scalar)
            }
        }
        return escaped
    }
}
