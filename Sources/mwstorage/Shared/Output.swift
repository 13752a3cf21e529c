import ArgumentParser
import Glibc

/// `-o`: the form of what goes to standard output. Text on a terminal and elsewhere unless asked for.
enum OutputFormat: String, ExpressibleByArgument, CaseIterable, Sendable {
    /// For people.
    case text
    /// For people, in columns.
    case table
    /// One JSON document.
    case json
    /// One JSON object a line: for streams.
    case ndjson
    /// The bytes themselves, nothing added.
    case raw

    var isJSON: Bool { self == .json || self == .ndjson }
}

/// `-o text|table|json|ndjson|raw`. Every command has it, so that its errors are JSON where its output is.
struct OutputOptions: ParsableArguments {
    @Option(name: [.customShort("o"), .customLong("output")], help: "Form of the output (default: text).")
    var form: OutputFormat?

    @Flag(help: "The same as -o json.")
    var json = false

    var format: OutputFormat? { json ? .json : form }

    func validate() throws {
        if json, let form, form != .json { throw ValidationError("Give one of --json and --output.") }
    }
}

/// A command that says how it wants its output, errors included.
protocol CommandWithOutput: ParsableCommand {
    var output: OutputOptions { get }
}

/// Standard output is data, standard error is talk.
enum Output {
    static var isTerminal: Bool { isatty(STDOUT_FILENO) == 1 }
    static var isInputTerminal: Bool { isatty(STDIN_FILENO) == 1 }
    static var isErrorTerminal: Bool { isatty(STDERR_FILENO) == 1 }

    /// Writes exactly these bytes to standard output.
    /// - Throws: `CommandFailure` with status 74; without words if the reader went away (a closed pipe).
    static func data(_ bytes: [UInt8]) throws {
        guard let errorNumber = write(bytes, to: STDOUT_FILENO) else { return }
        if errorNumber == EPIPE { throw CommandFailure.silent(.inputOutput) }
        throw CommandFailure(
            .inputOutput, "cannot write to standard output", why: "\(systemMessage(errorNumber))", remedy: "check where the output goes")
    }

    static func line(_ text: String) throws { try data(Array((text + "\n").utf8)) }

    /// Something a person should know. It goes to standard error, where it may get lost without harm.
    static func note(_ text: String, terminator: String = "\n") { _ = write(Array((text + terminator).utf8), to: STDERR_FILENO) }

    static func failure(_ failure: CommandFailure, format: OutputFormat) {
        let text = format.isJSON && !failure.what.isEmpty ? failure.json.text + "\n" : failure.text
        _ = write(Array(text.utf8), to: STDERR_FILENO)
    }

    /// A list: in columns, as one JSON array, or as one JSON object a line. `text` is one line for each row.
    ///
    /// The names of the JSON members are `columns`, in lower case and with `_` for spaces.
    static func rows(_ columns: [String], _ rows: [[JSONValue]], format: OutputFormat) throws {
        let names = columns.map { String($0.lowercased().map { $0 == " " ? "_" : $0 }) }
        switch format {
        case .json:
            try line(JSONValue.array(rows.map { .object(Array(zip(names, $0))) }).text)
        case .ndjson:
            for row in rows { try line(JSONValue.object(Array(zip(names, row))).text) }
        case .raw:
            for row in rows { try line(row.map(plain).joined(separator: "\t")) }
        case .text, .table:
            let cells = [columns.map { $0.uppercased() }] + rows.map { $0.map(plain) }
            let widths = columns.indices.map { column in cells.map { $0[column].count }.max() ?? 0 }
            for row in cells {
                let padded = row.enumerated().map { index, cell in
                    index == row.count - 1 ? cell : cell + String(repeating: " ", count: widths[index] - cell.count)
                }
                try line(padded.joined(separator: "  "))
            }
        }
    }

    /// One thing with named parts: `name: value` lines, or one JSON object.
    static func record(_ members: [(String, JSONValue)], format: OutputFormat) throws {
        if format.isJSON { return try line(JSONValue.object(members).text) }
        let width = members.map(\.0.count).max() ?? 0
        for (name, value) in members {
            try line("\(name):" + String(repeating: " ", count: width - name.count + 1) + plain(value))
        }
    }

    private static func plain(_ value: JSONValue) -> String {
        switch value {
        case .string(let text): text
        case .null: "-"
        case .bool(let value): value ? "yes" : "no"
        case .array(let values): values.map(plain).joined(separator: ", ")
        default: value.text
        }
    }

    /// - Returns: nil, or the error number of the write that failed.
    private static func write(_ bytes: [UInt8], to descriptor: CInt) -> CInt? {
        unsafe bytes.withUnsafeBytes { buffer in
            var sent = 0
            while sent < buffer.count {
                let count = unsafe Glibc.write(descriptor, buffer.baseAddress?.advanced(by: sent), buffer.count - sent)
                if count >= 0 {
                    sent += count
                } else if errno != EINTR && errno != EAGAIN {
                    return errno
                }
            }
            return nil
        }
    }
}

/// What the system says of an error number.
func systemMessage(_ errorNumber: CInt) -> String {
    guard let text = unsafe strerror(errorNumber) else { return "error \(errorNumber)" }
    return unsafe String(cString: text)
}
