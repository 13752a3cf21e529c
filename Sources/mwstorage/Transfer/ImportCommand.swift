import ArgumentParser
import Glibc
import Logging
import MWClient
import MWLevelDB
import MWRocksDB
import MWStorage

/// `mwstorage import`.
struct ImportCommand: AsyncParsableCommand, CommandWithOutput {
    static let configuration = CommandConfiguration(
        commandName: "import", abstract: "Store all keys and values of an export, or of the model that a mwDB of 2016 left.",
        discussion: """
            Over what is there: other keys stay. With --data the import goes into a data directory that no server has open; without it, to \
            the server, as puts. It can be repeated: the result is the same.
            """)

    @Argument(help: "An export; or mwDB's storage directory; '-' or none reads an export from standard input.")
    var source: String?

    @OptionGroup var store: OfflineStoreOptions

    @Flag(help: "Only read the source to its end, and say what is in it.")
    var dryRun = false

    @OptionGroup(title: "Connection (without --data)") var connection: ConnectionOptions
    @OptionGroup var output: OutputOptions

    func run() async throws {
        let settings = try await connection.configuration.settings(flags: connection.flags.merging(store.flags) { $1 })
        let reader = try ImportReader(source ?? "-")
        defer { reader.end() }
        var summary: ImportSummary
        if dryRun {
            summary = try await reader.source.forEachPart { reader.update($1) }
        } else if store.data != nil {
            let storage = try store.open(settings, mustExist: false)
            defer { storage.close() }
            summary = try await storage.importAll(from: reader.source) { reader.update($0) }
        } else {
            let configuration = try connection.clientConfiguration(settings)
            let logger = try LogLines.logger(settings, label: "mwstorage", fallback: .error)
            summary = try await withStorageClient(configuration, logger: logger) { client in
                let summary = try await reader.source.forEachPart { part, summary in
                    if case .page(let page) = part { try await client.put(page) }
                    reader.update(summary)
                }
                try await Self.reservePrefixes(below: summary.nextPrefix, client)
                return summary
            }
        }
        try say(summary)
    }

    private func say(_ summary: ImportSummary) throws {
        if output.format?.isJSON == true {
            let members: [(String, JSONValue)] = [
                ("entries", .integer(Int64(summary.entryCount))), ("bytes", .integer(Int64(summary.byteCount))),
                ("nextPrefix", .integer(Int64(summary.nextPrefix))), ("dryRun", .bool(dryRun)),
            ]
            try Output.line(JSONValue.object(members).text)
        } else {
            Output.note(
                "\(dryRun ? "would import" : "imported") \(summary.entryCount) entries, \(ProgressLine.size(summary.byteCount)); the next prefix is \(summary.nextPrefix) or later"
            )
        }
    }

    /// Over the wire prefixes can only be taken, so all that the imported model's clients may have had are taken once more.
    private static func reservePrefixes(below next: UInt32, _ client: StorageClient) async throws {
        /// A second or so of a server's time.
        let most: UInt32 = 100_000
        let atOnce = 256
        guard next > 0 else { return }
        var highest = try await client.allocatePrefix()
        guard next <= most || highest >= next - 1 else {
            throw CommandFailure(
                .badInput, "the prefixes below \(next) cannot be set aside over the network",
                why: "all entries are stored; expected: at most \(most)",
                remedy: "stop the server and import with --data, so that no client gets a prefix that was used")
        }
        while highest < next - 1 {
            let count = min(atOnce, Int(next - 1 - highest))
            highest = try await withThrowingTaskGroup(of: UInt32.self) { group in
                for _ in 0..<count { group.addTask { try await client.allocatePrefix() } }
                return try await group.reduce(highest) { max($0, $1) }
            }
        }
    }
}

/// What the command's argument names, and how far it is read.
private final class ImportReader {
    let source: ImportSource
    private var progress: ProgressLine
    /// Of a stream.
    private let position: Position?

    private final class Position {
        var bytes = 0
    }

    /// - Parameter path: An export, `-` for one on standard input, or mwDB's storage directory.
    init(_ path: String) throws {
        guard path != "-", let directory = unsafe opendir(path) else {
            // Opened before anything is made at the target.
            let file = try StreamFile(reading: path)
            let position = Position()
            self.position = position
            progress = ProgressLine("importing", totalBytes: file.size)
            source = .stream(name: file.name) {
                let piece = try file.read()
                position.bytes += piece?.count ?? 0
                return piece
            }
            return
        }
        unsafe closedir(directory)
        // Beside the model, so that its tables need not be copied; nothing in it is changed.
        let parent = path.split(separator: "/").dropLast().joined(separator: "/")
        let scratch = path.hasPrefix("/") ? "/" + parent : parent.isEmpty ? "." : parent
        source = .model(try LegacyModel(directory: path, engines: [.rocksDB, .levelDB], scratchParent: scratch))
        position = nil
        progress = ProgressLine("importing")
    }

    func update(_ summary: ImportSummary) {
        progress.update(bytes: position?.bytes ?? summary.byteCount, entries: summary.entryCount)
    }

    func end() { progress.end() }
}
