import ArgumentParser
import MWClient
import MWPKI
import MWProtocol
import MWRocksDB
import MWStorage
import NIOCore

/// `mwstorage backup`.
struct BackupCommand: AsyncParsableCommand, CommandWithOutput {
    static let configuration = CommandConfiguration(
        commandName: "backup", abstract: "Copy the whole store, as it is at one revision, while the server goes on.",
        discussion: """
            The server writes it on its own machine, into the directory it was started with (--backup-directory), which needs the right to \
            administer. With --data and --to the store of a stopped server is copied. A backup is a directory; it has its name once it is \
            whole, and never replaces anything. 'mwstorage restore' makes a store of it.
            """)

    @Argument(help: "Name of the backup (default: made from time and revision).")
    var name: String?

    @OptionGroup var store: OfflineStoreOptions

    @Option(help: ArgumentHelp("With --data: where the backup goes; nothing may be there.", valueName: "directory"))
    var to: String?

    @OptionGroup(title: "Connection (without --data)") var connection: ConnectionOptions
    @OptionGroup var output: OutputOptions

    /// Copying takes as long as it takes, unless somebody says otherwise.
    private static let timeout = Duration.seconds(24 * 3600)

    func validate() throws {
        guard (store.data == nil) == (to == nil) else { throw ValidationError("--data and --to belong together.") }
        if to != nil, name != nil { throw ValidationError("With --to the backup has its name there.") }
    }

    func run() async throws {
        if let to { return try await copy(to: to) }
        var request = NativeBackupRequest()
        request.name = name ?? ""
        let isTimed = connection.flags[.timeout] != nil
        let reply = try await connection.withAdministration { [request] in
            try await $0.ask(request, timeout: isTimed ? nil : Self.timeout)
        }
        try say(path: reply.path, revision: UInt64(max(0, reply.revision)), Array(reply.incarnation.readableBytesView), reply.bytes)
    }

    private func copy(to directory: String) async throws {
        let storage = try store.open(try await connection.configuration.settings(flags: store.flags), mustExist: true)
        defer { storage.close() }
        let manifest = try storage.backup(to: directory, at: Timestamp.now().secondsSince1970)
        try say(
            path: directory, revision: manifest.revision.number, manifest.incarnation.bytes, Int64(manifest.byteCount))
    }

    private func say(path: String, revision: UInt64, _ incarnation: [UInt8], _ bytes: Int64) throws {
        try Output.record(
            [
                ("path", ShownRecord.value(path)), ("revision", .string("\(RevisionText(incarnation: incarnation, number: revision))")),
                ("bytes", .integer(bytes)),
            ], format: output.format ?? .text)
    }
}
