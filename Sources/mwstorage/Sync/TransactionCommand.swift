import ArgumentParser
import MWClient

/// `mwstorage transaction [FILE]`.
struct TransactionCommand: AsyncParsableCommand, CommandWithOutput {
    static let configuration = CommandConfiguration(
        commandName: "transaction", abstract: "If conditions hold, do one thing, otherwise another: all of it at once, or nothing.",
        discussion: """
            The text is a file, or standard input:

                if
                    revision config/main = 12     # = != < >; absent is 0
                    exists lock/main
                    absent "a key with blanks"
                    value mode = "open"           # byte by byte
                then
                    put mode "closed"             # a value is in quotes
                    put session/7 hex"00ff" lease 42
                    remove lock/main
                else
                    get mode

            Each part may be missing. Blanks and line feeds only separate; '#' begins a comment. A key is a word, or in quotes; in quotes \
            there are \\" \\\\ \\n \\r \\t \\0 and \\xNN. A revision may be written INCARNATION:NUMBER; one of another store is exit code 82 then.

            The result is which part was done, the revision it made, and what was at each key before. The exit code is 1 if it was 'else'.
            """)

    @Argument(help: ArgumentHelp("File with the transaction; '-' or none reads standard input.", valueName: "file"))
    var file: String?

    @OptionGroup(title: "Connection") var connection: ConnectionOptions
    @OptionGroup var output: OutputOptions

    func run() async throws {
        let source = file ?? "-"
        if source == "-", Output.isInputTerminal {
            Output.note("reading the transaction from the terminal; Control-D on an empty line ends it")
        }
        let text = try parse(LocalFile.contents(source), source: source == "-" ? "standard input" : source)
        let result = try await connection.withClient { client in
            try await client.transaction(Transaction(text, incarnation: try await incarnation(for: text, client)))
        }
        try print(result, of: text)
        guard result.hasSucceeded else { throw CommandFailure.silent(.no) }
    }
}

extension TransactionCommand {
    private func parse(_ text: [UInt8], source: String) throws -> TransactionText {
        do {
            return try TransactionText(parsing: text)
        } catch {
            throw CommandFailure(
                .badInput, "\(source), line \(error.line), column \(error.column): \(error.what)", why: "expected: \(error.expected)",
                remedy: "see: mwstorage help transaction", code: "transaction.syntax")
        }
    }

    /// Of which store bare numbers are revisions: the one that is there now.
    private func incarnation(for text: TransactionText, _ client: StorageClient) async throws -> Incarnation {
        let bare = text.conditions.compactMap { condition -> [UInt8]? in
            if case .revision(let key, _, _, of: nil) = condition { key } else { nil }
        }
        guard let key = bare.first else { return .unknown }
        return try await client.read([key]).revision.incarnation
    }

    private func print(_ result: TransactionResult, of text: TransactionText) throws {
        let done = result.hasSucceeded ? text.thenOperations : text.elseOperations
        let revision = RevisionText(result.revision)
        let steps = zip(done, result.entries)
        let format = output.format ?? .text
        switch format {
        case .json, .ndjson:
            let operations = steps.map { operation, entry in Self.json(operation, before: entry, revision) }
            try Output.line(
                JSONValue.object([
                    ("succeeded", .bool(result.hasSucceeded)), ("revision", .string("\(revision)")), ("operations", .array(operations)),
                ]).text)
        case .text, .table:
            try Output.line("\(result.hasSucceeded ? "then" : "else") \(revision)")
            for (operation, entry) in steps { try Output.line(Self.line(operation, before: entry)) }
        case .raw:
            for (operation, entry) in steps { if case .get = operation, let entry { try Output.data(entry.value) } }
        }
    }

    /// What was at the key before: for a get, what it read.
    private static func json(_ operation: TransactionText.Operation, before entry: Entry?, _ revision: RevisionText) -> JSONValue {
        let (name, key) = (operation.name, operation.key)
        var members: [(String, JSONValue)] = [("operation", .string(name))]
        members += Bytes.members(key: key, value: entry?.value)
        members.append(("revision", entry.map { .string("\(RevisionText($0.revision))") } ?? .null))
        return .object(members)
    }

    private static func line(_ operation: TransactionText.Operation, before entry: Entry?) -> String {
        "\(operation.name) \(ByteText.quoted(operation.key)) " + (entry.map { "was \(ByteText.quoted($0.value))" } ?? "was absent")
    }
}

extension TransactionText.Operation {
    fileprivate var name: String {
        switch self {
        case .get: "get"
        case .put: "put"
        case .remove: "remove"
        }
    }

    fileprivate var key: [UInt8] {
        switch self {
        case .get(let key), .put(let key, _, lease: _), .remove(let key): key
        }
    }
}

extension Transaction {
    /// - Parameter incarnation: Of which store bare numbers are revisions.
    init(_ text: TransactionText, incarnation: Incarnation) {
        self.init(
            if: text.conditions.map { condition in
                switch condition {
                case .exists(let key): .exists(key)
                case .absent(let key): .isAbsent(key)
                case .value(let key, let relation, let value): .value(key, .init(relation), value)
                case .revision(let key, let relation, let number, of: let bytes):
                    .revision(key, .init(relation), Revision(incarnation: bytes.flatMap { Incarnation($0) } ?? incarnation, number: number))
                }
            },
            then: text.thenOperations.map { .init($0) }, otherwise: text.elseOperations.map { .init($0) })
    }
}

extension Transaction.Condition.Relation {
    fileprivate init(_ relation: TransactionText.Relation) {
        self =
            switch relation {
            case .equal: .equal
            case .notEqual: .notEqual
            case .less: .less
            case .greater: .greater
            }
    }
}

extension Transaction.Operation {
    fileprivate init(_ operation: TransactionText.Operation) {
        self =
            switch operation {
            case .get(let key): .get(key)
            case .put(let key, let value, lease: let lease): .put(key, value, lease: lease.map { LeaseID(rawValue: $0) })
            case .remove(let key): .remove(key)
            }
    }
}
