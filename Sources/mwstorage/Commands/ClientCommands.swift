import ArgumentParser
import MWClient

/// `mwstorage get KEY…`.
struct GetCommand: AsyncParsableCommand, CommandWithOutput {
    static let configuration = CommandConfiguration(
        commandName: "get", abstract: "Print the value of a key.",
        discussion: """
            Standard output is exactly the value; a newline is added on a terminal only. Several keys make one line each, or one JSON \
            object each. The exit code is 1 if a key has no value (an empty value looks the same in this protocol).
            """)

    @Argument(help: "The key, or several.")
    var keys: [String]

    @OptionGroup var bytes: BytesOptions
    @OptionGroup(title: "Connection") var connection: ConnectionOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        if keys.isEmpty { throw ValidationError("Give a key.") }
    }

    func run() async throws {
        let keys = try self.keys.map { try bytes.bytes($0, name: "key") }
        let values = try await connection.withClient { client in try await client.get(keys) }
        try print(Array(zip(keys, values)))
        let missing = zip(keys, values).filter { $1 == nil }.map(\.0)
        guard missing.isEmpty else {
            for key in missing { Output.note("no value: \(Bytes.shown(key))") }
            throw CommandFailure.silent(.no)
        }
    }

    private func print(_ pairs: [([UInt8], [UInt8]?)]) throws {
        let format = output.format ?? .text
        switch format {
        case .json:
            let objects = pairs.map { Bytes.json(key: $0, value: $1) }
            try Output.line(objects.count == 1 ? objects[0].text : JSONValue.array(objects).text)
        case .ndjson:
            for (key, value) in pairs { try Output.line(Bytes.json(key: key, value: value).text) }
        case .table:
            let rows: [[JSONValue]] = pairs.map { key, value in
                [.string(Bytes.text(key).value), .optional(value.map { Bytes.text(bytes.output($0)).value })]
            }
            try Output.rows(["key", "value"], rows, format: format)
        case .raw:
            for (_, value) in pairs { try Output.data(value.map(bytes.output) ?? []) }
        case .text:
            let isLine = Output.isTerminal || pairs.count > 1
            for (_, value) in pairs where value != nil || isLine && pairs.count > 1 {
                try Output.data((value.map(bytes.output) ?? []) + (isLine ? [UInt8(ascii: "\n")] : []))
            }
        }
    }
}

/// `mwstorage put KEY [VALUE]`.
struct PutCommand: AsyncParsableCommand, CommandWithOutput {
    static let configuration = CommandConfiguration(
        commandName: "put", abstract: "Store a value under a key.",
        discussion: """
            The value is the second argument, or the contents of --file, or standard input. It is on the server's disk when the command \
            returns (unless the server runs with --durability os).
            """)

    @Argument(help: "The key.")
    var key: String

    @Argument(help: "The value; '-' or none reads standard input, byte for byte.")
    var value: String?

    @Option(help: ArgumentHelp("File to take the value from, byte for byte.", valueName: "path"))
    var file: String?

    @OptionGroup var bytes: BytesOptions
    @OptionGroup(title: "Connection") var connection: ConnectionOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        if file != nil, value != nil { throw ValidationError("Give the value either as an argument or with --file.") }
    }

    func run() async throws {
        let key = try bytes.bytes(self.key, name: "key")
        let value = try input()
        _ = try await connection.withClient { client in try await client.put([(key: key, value: value)]) }
        if output.format?.isJSON == true { try Output.line(JSONValue.object([("put", 1), ("bytes", .integer(Int64(value.count)))]).text) }
    }

    private func input() throws -> [UInt8] {
        if let file { return try LocalFile.contents(file) }
        if let value, value != "-" { return try bytes.bytes(value, name: "value") }
        if Output.isInputTerminal { Output.note("reading the value from the terminal; Control-D on an empty line ends it") }
        return try LocalFile.contents("-")
    }
}

/// `mwstorage remove KEY…`.
struct RemoveCommand: AsyncParsableCommand, CommandWithOutput {
    static let configuration = CommandConfiguration(
        commandName: "remove", abstract: "Remove keys and their values.",
        discussion: """
            All of them or none. A key that is not there is no error. At a terminal the command asks first, unless --yes is given; a script \
            that names keys is not asked.
            """)

    @Argument(help: "The key, or several.")
    var keys: [String]

    @Flag(help: "Do not ask.")
    var yes = false

    @Flag(help: "Only say which of the keys have a value.")
    var dryRun = false

    @OptionGroup var bytes: BytesOptions
    @OptionGroup(title: "Connection") var connection: ConnectionOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        if keys.isEmpty { throw ValidationError("Give a key.") }
    }

    func run() async throws {
        let keys = try self.keys.map { try bytes.bytes($0, name: "key") }
        if dryRun {
            let values = try await connection.withClient { client in try await client.get(keys) }
            for (key, value) in zip(keys, values) where value != nil { Output.note("would remove \(Bytes.shown(key))") }
            if values.allSatisfy({ $0 == nil }) { Output.note("nothing to do") }
            return
        }
        let isAsking = !yes && Output.isInputTerminal && Output.isErrorTerminal
        try Confirmation.ask("remove \(keys.map(Bytes.shown).joined(separator: ", "))?", yes: !isAsking)
        _ = try await connection.withClient { client in try await client.remove(keys) }
        if output.format?.isJSON == true { try Output.line(JSONValue.object([("removed", .integer(Int64(keys.count)))]).text) }
    }
}

/// `mwstorage prefix`.
struct PrefixCommand: AsyncParsableCommand, CommandWithOutput {
    static let configuration = CommandConfiguration(
        commandName: "prefix", abstract: "Take a number that no client of this store ever had or will have.")

    @OptionGroup(title: "Connection") var connection: ConnectionOptions
    @OptionGroup var output: OutputOptions

    func run() async throws {
        let prefix = try await connection.withClient { client in try await client.allocatePrefix() }
        switch output.format ?? .text {
        case .json, .ndjson: try Output.line(JSONValue.object([("prefix", .integer(Int64(prefix)))]).text)
        case .raw: try Output.data(Array("\(prefix)".utf8))
        case .text, .table: try Output.line("\(prefix)")
        }
    }
}
