import MWClient

/// Keys and values of a scan on standard output, written as they come; a table when all are known.
final class EntryLines {
    private static let bufferBytes = 64 * 1024

    private let format: OutputFormat
    private let keysOnly: Bool
    private var buffer: [UInt8] = []
    private var count = 0
    private var rows: [[JSONValue]] = []

    init(_ format: OutputFormat, keysOnly: Bool) {
        self.format = format
        self.keysOnly = keysOnly
    }

    func entry(_ entry: ChangeLines.Entry, at state: RevisionText) throws {
        switch format {
        case .ndjson: append(ChangeLines.json(entry, in: state).text + "\n")
        case .json: append((count == 0 ? "[" : ",") + ChangeLines.json(entry, in: state).text)
        case .raw: buffer += keysOnly ? entry.key : entry.value ?? []
        case .text: append(ByteText.escaped(entry.key) + (keysOnly ? "" : "\t" + ByteText.escaped(entry.value ?? [])) + "\n")
        case .table:
            let value: [JSONValue] = keysOnly ? [] : [.string(ByteText.escaped(entry.value ?? []))]
            rows.append([.string(ByteText.escaped(entry.key)), .string("\(entry.revision)")] + value)
        }
        count += 1
        if buffer.count >= Self.bufferBytes { try flush() }
    }

    /// The end of it.
    func finish() throws {
        if format == .json { append((count == 0 ? "[" : "") + "]\n") }
        if format == .table { try Output.rows(["key", "revision"] + (keysOnly ? [] : ["value"]), rows, format: .table) }
        try flush()
    }

    private func append(_ text: String) { buffer += Array(text.utf8) }

    private func flush() throws {
        guard !buffer.isEmpty else { return }
        try Output.data(buffer)
        buffer.removeAll(keepingCapacity: true)
    }
}
