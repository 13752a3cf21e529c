import ArgumentParser
import Glibc
import MWLevelDB
import MWPKI
import MWRocksDB
import MWStorage

/// `mwstorage restore`.
struct RestoreCommand: AsyncParsableCommand, CommandWithOutput {
    static let configuration = CommandConfiguration(
        commandName: "restore", abstract: "Make a store of a backup, in a new or empty data directory.",
        discussion: """
            Every byte is compared with its checksum, and every value read, before there is a store. It has the keys, values, leases and \
            prefixes of the backup, and another incarnation: clients that hold revisions of the old one are told to read afresh. At a \
            terminal the command asks first; a script says --yes. A restore that was interrupted is no store, and can be repeated.
            """)

    @Argument(help: ArgumentHelp("What 'mwstorage backup' made.", valueName: "backup"))
    var backup: String

    @Option(help: ArgumentHelp("Data directory: new, or empty.", valueName: "directory"))
    var data: String?

    @Flag(help: "Do not ask.")
    var yes = false

    @Flag(help: "Only read the backup to its end, and say what is in it.")
    var dryRun = false

    @OptionGroup(title: "Configuration") var configuration: ConfigurationOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        if !dryRun, data == nil { throw ValidationError("Give the data directory with --data, or only look with --dry-run.") }
    }

    func run() async throws {
        guard LocalFile.exists(backup) else {
            throw CommandFailure(.inputMissing, "there is no backup \(backup)", remedy: "check the name", code: "file.missing")
        }
        let restore = try Restore(from: backup, engines: [.rocksDB, .levelDB])
        let manifest = restore.manifest
        if dryRun { return try say(manifest, try restore.verify(scratchParent: Self.scratchParent(of: backup))) }
        guard let data else { return }
        let time = Timestamp(secondsSince1970: manifest.secondsSince1970)
        try Confirmation.ask("make a store in \(data) of the backup of \(time), revision \(manifest.revision)?", yes: yes)
        try say(manifest, try restore.run(into: data))
    }

    private func say(_ manifest: BackupManifest, _ report: Restore.Report) throws {
        if dryRun { Output.note("the backup is whole and undamaged") }
        try Output.record(
            [
                ("revision", .string("\(RevisionText(incarnation: report.incarnation.bytes, number: manifest.revision.number))")),
                ("engine", .string(manifest.engineName)),
                ("time", .string("\(Timestamp(secondsSince1970: manifest.secondsSince1970))")),
                ("entries", .integer(Int64(report.entryCount))), ("bytes", .integer(Int64(report.byteCount))),
                ("dryRun", .bool(dryRun)),
            ], format: output.format ?? .text)
    }

    /// Beside the backup, where an engine can use links to it; elsewhere if that cannot be written.
    private static func scratchParent(of backup: String) -> String {
        let parent = FileDescriptor.parent(of: backup)
        return unsafe access(parent, W_OK) == 0 ? parent : "/tmp"
    }
}
