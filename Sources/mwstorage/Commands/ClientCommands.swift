import ArgumentParser
import MWClient

/// `mwstorage get KEY…`.
struct GetCommand: AsyncParsableCommand, CommandWithOutput {
    static let configuration = CommandConfiguration(
        commandName: "get", abstract: "Print the value of a key.",
        discussion: """
            Standard output is exactly the value; a newline is added on a terminal only. Several keys make one line each, or one JSON \
            object each; all are read at one revision of the store. The exit code is 1 if a key is absent (with --protocol mwdb an empty \
            value looks the same).
            """)

    @Argument(help: "The key, or several.")
    var keys: [String]

    @OptionGroup var bytes: BytesOptions
    @OptionGroup var speaking: ProtocolOptions
    @OptionGroup(title: "Connection") var connection: ConnectionOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        if keys.isEmpty { throw ValidationError("Give a key.") }
    }

    func run() async throws {
        let keys = try self.keys.map { try bytes.bytes($0, name: "key") }
        let entries: [Read] = try await connection.withClient(speaking) { client in
            guard speaking.isNative else { return zip(keys, try await client.get(keys)).map { Read(key: $0, value: $1) } }
            return zip(keys, try await client.read(keys).entries).map { Read(key: $0, value: $1?.value, entry: $1) }
        }
        try print(entries)
        let missing = entries.filter { $0.value == nil }
        guard missing.isEmpty else {
            for entry in missing { Output.note("no value: \(Bytes.shown(entry.key))") }
            throw CommandFailure.silent(.no)
        }
    }

    private struct Read {
        var key: [UInt8]
        var value: [UInt8]?
        /// Where the protocol has more than the value.
        var entry: Entry?

        var json: JSONValue {
            var members = Bytes.members(key: key, value: value)
            if let entry { members.append(("revision", .string("\(RevisionText(entry.revision))"))) }
            if let lease = entry?.lease { members.append(("lease", .integer(lease.rawValue))) }
            return .object(members)
        }
    }

    private func print(_ entries: [Read]) throws {
        let format = output.format ?? .text
        let pairs = entries.map { ($0.key, $0.value) }
        switch format {
        case .json:
            let objects = entries.map(\.json)
            try Output.line(objects.count == 1 ? objects[0].text : JSONValue.array(objects).text)
        case .ndjson:
            for entry in entries { try Output.line(entry.json.text) }
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

    @Option(help: ArgumentHelp("The key goes when this lease ends; see 'mwstorage lease'.", valueName: "number"))
    var lease: Int64?

    @OptionGroup var bytes: BytesOptions
    @OptionGroup var speaking: ProtocolOptions
    @OptionGroup(title: "Connection") var connection: ConnectionOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        if lease != nil, !speaking.isNative { throw ValidationError("--lease needs the native protocol.") }
        if file != nil, value != nil { throw ValidationError("Give the value either as an argument or with --file.") }
    }

    func run() async throws {
        let key = try bytes.bytes(self.key, name: "key")
        let value = try input()
        let lease = lease.map { LeaseID(rawValue: $0) }
        let revision = try await connection.withClient(speaking) { client in
            try await client.put([(key: key, value: value)], lease: lease)
        }
        guard output.format?.isJSON == true else { return }
        try Output.line(JSONValue.object([("put", 1), ("bytes", .integer(Int64(value.count)))] + revision.members).text)
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
    @OptionGroup var speaking: ProtocolOptions
    @OptionGroup(title: "Connection") var connection: ConnectionOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        if keys.isEmpty { throw ValidationError("Give a key.") }
    }

    func run() async throws {
        let keys = try self.keys.map { try bytes.bytes($0, name: "key") }
        if dryRun {
            let values = try await connection.withClient(speaking) { client in try await client.get(keys) }
            for (key, value) in zip(keys, values) where value != nil { Output.note("would remove \(Bytes.shown(key))") }
            if values.allSatisfy({ $0 == nil }) { Output.note("nothing to do") }
            return
        }
        let isAsking = !yes && Output.isInputTerminal && Output.isErrorTerminal
        try Confirmation.ask("remove \(keys.map(Bytes.shown).joined(separator: ", "))?", yes: !isAsking)
        let revision = try await connection.withClient(speaking) { client in try await client.remove(keys) }
        guard output.format?.isJSON == true else { return }
        try Output.line(JSONValue.object([("removed", .integer(Int64(keys.count)))] + revision.members).text)
    }
}

/// `mwstorage prefix`.
struct PrefixCommand: AsyncParsableCommand, CommandWithOutput {
    static let configuration = CommandConfiguration(
        commandName: "prefix", abstract: "Take a number that no client of this store ever had or will have.")

    @OptionGroup var speaking: ProtocolOptions
    @OptionGroup(title: "Connection") var connection: ConnectionOptions
    @OptionGroup var output: OutputOptions

    func run() async throws {
        let prefix = try await connection.withClient(speaking) { client in try await client.allocatePrefix() }
        switch output.format ?? .text {
        case .json, .ndjson: try Output.line(JSONValue.object([("prefix", .integer(Int64(prefix)))]).text)
        case .raw: try Output.data(Array("\(prefix)".utf8))
        case .text, .table: try Output.line("\(prefix)")
        }
    }
}

/// `--protocol`: what is spoken with the server.
struct ProtocolOptions: ParsableArguments {
    enum Name: String, ExpressibleByArgument, CaseIterable {
        /// `mwstorage.v1`.
        case native
        /// mwDB's, for servers that know no other.
        case mwdb
    }

    @Option(name: .customLong("protocol"), help: "What to speak with the server (default: native).")
    var name: Name?

    var isNative: Bool { name != .mwdb }
}

extension ConnectionOptions {
    func withClient<Result: Sendable>(
        _ speaking: ProtocolOptions, _ body: (StorageClient) async throws -> Result
    ) async throws -> Result {
        try await withClient(speaking: speaking.isNative ? .native : .mwdb, body)
    }
}

extension Revision {
    /// For a JSON object; nothing where the protocol has no revisions.
    fileprivate var members: [(String, JSONValue)] { self == .unknown ? [] : [("revision", .string("\(RevisionText(self))"))] }
}
