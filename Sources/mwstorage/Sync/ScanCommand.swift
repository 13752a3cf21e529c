import ArgumentParser
import MWClient

/// `mwstorage scan [PREFIX]`.
struct ScanCommand: AsyncParsableCommand, CommandWithOutput {
    static let configuration = CommandConfiguration(
        commandName: "scan", abstract: "Print the keys and values of a range, in byte order, as they are at one revision.",
        discussion: """
            However long it takes, what is printed is the store at one moment. As text it is a line for each key: the key, a tab, and the \
            value, with escapes for what is not printable (\\n, \\t, \\\\, \\xNN); -o ndjson is a JSON object a line, with revisions; -o raw \
            is the values, one after the other. With --replica it reads a copy that 'replicate --to' has made, without a server.
            """)

    @OptionGroup var keys: KeyRangeOptions

    @Flag(help: "From the last key to the first.")
    var reverse = false

    @Flag(help: "Only the keys.")
    var keysOnly = false

    @Option(help: ArgumentHelp("So many keys at most.", valueName: "number"))
    var limit: Int?

    @Option(help: ArgumentHelp("Directory of a copy, in place of a server.", valueName: "directory"))
    var replica: String?

    @OptionGroup(title: "Connection") var connection: ConnectionOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        if let limit, limit < 1 { throw ValidationError("--limit is 1 or more.") }
    }

    func run() async throws {
        let range = try keys.keyRange
        let lines = EntryLines(output.format ?? .text, keysOnly: keysOnly)
        if let replica {
            try scan(replica, range, lines)
        } else {
            try await connection.withClient { client in try await scan(client, range, lines) }
        }
        try lines.finish()
    }

    private func scan(_ client: StorageClient, _ range: KeyRange, _ lines: EntryLines) async throws {
        var options = ScanOptions()
        options.direction = reverse ? .backward : .forward
        options.isKeysOnly = keysOnly
        options.pageEntries = limit ?? 0
        var left = limit ?? .max
        for try await page in client.scan(range, options: options).pages {
            for entry in page.entries.prefix(left) {
                try lines.entry(ChangeLines.Entry(entry, keysOnly: keysOnly), at: RevisionText(page.revision))
            }
            left -= page.entries.count
            if left <= 0 { break }
        }
    }

    private func scan(_ path: String, _ range: KeyRange, _ lines: EntryLines) throws {
        let copy = try ReplicaDirectory(path: path, range: nil)
        defer { copy.close() }
        guard let position = copy.position else {
            throw CommandFailure(
                .outcomeUnknown, "the copy in \(path) is not whole yet", remedy: "let 'mwstorage replicate --to' finish loading it")
        }
        let revision = RevisionText(incarnation: position.incarnation, number: position.revision)
        var left = limit ?? .max
        var failure: (any Error)?
        try copy.scan(from: range.lower, to: range.upper, backward: reverse) { entry in
            do {
                try lines.entry(.init(key: entry.key, value: keysOnly ? nil : entry.value, revision: entry.revision), at: revision)
            } catch {
                failure = error
                return false
            }
            left -= 1
            return left > 0
        }
        if let failure { throw failure }
    }
}

extension ChangeLines.Entry {
    init(_ entry: MWClient.Entry, keysOnly: Bool = false) {
        self.init(
            key: entry.key, value: keysOnly ? nil : entry.value, revision: entry.revision.number, lease: entry.lease?.rawValue)
    }
}
