import ArgumentParser
import MWLevelDB
import MWRocksDB
import MWStorage

/// `mwstorage export`.
struct ExportCommand: AsyncParsableCommand, CommandWithOutput {
    static let configuration = CommandConfiguration(
        commandName: "export", abstract: "Write all keys and values of a data directory as one stream.",
        discussion: """
            No server may be running on the directory. The stream has a checksum for each block and an end, so that 'import' knows a \
            damaged or cut one.
            """)

    @OptionGroup var store: OfflineStoreOptions

    @Option(help: ArgumentHelp("File to write; it appears once it is complete (default: standard output).", valueName: "file"))
    var out: String?

    @OptionGroup(title: "Configuration") var configuration: ConfigurationOptions
    @OptionGroup var output: OutputOptions

    func run() async throws {
        if out == nil, Output.isTerminal {
            throw CommandFailure(.usage, "an export is no text for a terminal", remedy: "add --out FILE, or pipe it somewhere")
        }
        let storage = try store.open(try await configuration.settings(flags: store.flags), mustExist: true)
        defer { storage.close() }
        let file = try StreamFile(writing: out)
        var progress = ProgressLine("exporting")
        var bytes = 0
        let entries = try storage.export { piece in
            try file.write(piece)
            bytes += piece.count
            progress.update(bytes: bytes)
        }
        try file.finish()
        progress.end()
        if out != nil, output.format?.isJSON == true {
            try Output.line(JSONValue.object([("entries", .integer(Int64(entries))), ("bytes", .integer(Int64(bytes)))]).text)
        } else {
            Output.note("exported \(entries) entries, \(ProgressLine.size(bytes))")
        }
    }
}

/// `--data` and `--engine`: a data directory that no server has open.
struct OfflineStoreOptions: ParsableArguments {
    @Option(help: ArgumentHelp("Data directory.", valueName: "directory"))
    var data: String?

    @Option(help: ArgumentHelp("rocksdb or leveldb (default: what the directory was made with, else rocksdb).", valueName: "name"))
    var engine: String?

    var flags: [Setting: [String]] {
        var flags: [Setting: [String]] = [:]
        if let data { flags[.serveData] = [data] }
        if let engine { flags[.serveEngine] = [engine] }
        return flags
    }

    /// - Parameter mustExist: A directory without a store is an error, and is not made into one.
    func open(_ settings: Settings, mustExist: Bool) throws -> Storage {
        let directory = try settings.required(.serveData)
        if mustExist, try LocalFile.names(in: directory).isEmpty {
            throw CommandFailure(.inputMissing, "there is no store in \(directory)", remedy: "check --data", code: "storage.missing")
        }
        let named = try settings.value(.serveEngine, expected: "rocksdb or leveldb") { StorageEngineFactory(named: $0) } ?? .rocksDB
        do {
            return try Storage.open(directory: directory, engine: named)
        } catch {
            guard error.code == .engineMismatch, engine == nil else { throw error }
            // Nobody insisted on an engine: take the one that made it.
            return try Storage.open(directory: directory, engine: named.name == "rocksdb" ? .levelDB : .rocksDB)
        }
    }
}
