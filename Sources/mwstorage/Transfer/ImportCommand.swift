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
        let entries = try ImportSource(source ?? "-")
        var summary: ImportSummary
        if dryRun {
            summary = try await entries.forEachPage { _ in }
        } else if store.data != nil {
            let storage = try store.open(settings, mustExist: false)
            defer { storage.close() }
            summary = try await entries.forEachPage { page in
                try await storage.write { (batch) throws(StorageError) in
                    for entry in page { try batch.put(entry.key, entry.value) }
                }
            }
            try await storage.reservePrefixes(below: summary.nextPrefix)
        } else {
            let configuration = try connection.clientConfiguration(settings)
            let logger = try LogLines.logger(settings, label: "mwstorage", fallback: .error)
            summary = try await withStorageClient(configuration, logger: logger) { client in
                let summary = try await entries.forEachPage { page in try await client.put(page) }
                try await Self.reservePrefixes(below: summary.nextPrefix, client)
                return summary
            }
        }
        try say(summary)
    }

    private func say(_ summary: ImportSummary) throws {
        if output.format?.isJSON == true {
            let members: [(String, JSONValue)] = [
                ("entries", .integer(Int64(summary.entries))), ("bytes", .integer(Int64(summary.bytes))),
                ("nextPrefix", .integer(Int64(summary.nextPrefix))), ("dryRun", .bool(dryRun)),
            ]
            try Output.line(JSONValue.object(members).text)
        } else {
            Output.note(
                "\(dryRun ? "would import" : "imported") \(summary.entries) entries, \(ProgressLine.size(summary.bytes)); the next prefix is \(summary.nextPrefix) or later"
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

/// What an import brought.
struct ImportSummary: Sendable {
    var entries: UInt64 = 0
    var bytes = 0
    var nextPrefix: UInt32 = 0
}

/// Where an import comes from, page by page.
enum ImportSource {
    case stream(String)
    case model(LegacyModel)

    typealias Page = [(key: [UInt8], value: [UInt8])]

    /// Bytes that are stored at once: a sync is then nothing beside writing them, and a message far from its limit.
    private static let pageBytes = 1 << 20

    init(_ path: String) throws {
        guard path != "-", let directory = unsafe opendir(path) else {
            // Before anything is made at the target.
            if path != "-" { _ = try StreamFile(reading: path) }
            self = .stream(path)
            return
        }
        unsafe closedir(directory)
        // Beside the model, so that its tables need not be copied; nothing in it is changed.
        let parent = path.split(separator: "/").dropLast().joined(separator: "/")
        let scratch = path.hasPrefix("/") ? "/" + parent : parent.isEmpty ? "." : parent
        self = .model(try LegacyModel(directory: path, engines: [.rocksDB, .levelDB], scratchParent: scratch))
    }

    /// Calls `body` with each page, in order; what it stored before an error stays stored.
    func forEachPage(_ body: (Page) async throws -> Void) async throws -> ImportSummary {
        switch self {
        case .stream(let path): try await forEachPage(ofStream: path, body)
        case .model(let model): try await forEachPage(of: model, body)
        }
    }

    private func forEachPage(ofStream path: String, _ body: (Page) async throws -> Void) async throws -> ImportSummary {
        let file = try StreamFile(reading: path)
        var progress = ProgressLine("importing", totalBytes: file.size)
        defer { progress.end() }
        var decoder = ExportDecoder(source: file.name)
        var summary = ImportSummary()
        var page: Page = []
        var pageBytes = 0
        var readBytes = 0
        while let piece = try file.read() {
            readBytes += piece.count
            decoder.bytesReceived(piece)
            while let record = try decoder.next() {
                switch record {
                case .entry(let key, let value):
                    page.append((key, value))
                    pageBytes += key.count + value.count
                    summary.entries += 1
                    guard pageBytes >= Self.pageBytes else { continue }
                    try await body(page)
                    summary.bytes += pageBytes
                    page.removeAll(keepingCapacity: true)
                    pageBytes = 0
                case .nextPrefix(let next): summary.nextPrefix = next
                case .end: break
                }
            }
            progress.update(bytes: readBytes, entries: summary.entries)
        }
        try decoder.checkIsComplete()
        if !page.isEmpty { try await body(page) }
        summary.bytes += pageBytes
        return summary
    }

    private func forEachPage(of model: LegacyModel, _ body: (Page) async throws -> Void) async throws -> ImportSummary {
        var progress = ProgressLine("importing")
        defer { progress.end() }
        var summary = ImportSummary(nextPrefix: model.nextPrefix)
        var rest = KeyRange.all
        while true {
            let page = try model.page(rest, bytes: Self.pageBytes)
            guard let last = page.last else { return summary }
            rest = rest.following(last.key, .forward)
            let entries = page.filter { $0.key != LegacyModel.prefixKey }
            if !entries.isEmpty { try await body(entries) }
            summary.entries += UInt64(entries.count)
            summary.bytes += entries.reduce(0) { $0 + $1.key.count + $1.value.count }
            progress.update(bytes: summary.bytes, entries: summary.entries)
        }
    }
}
