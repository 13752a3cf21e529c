import ArgumentParser
import MWClient
import MWProtocol
import NIOCore

/// `mwstorage compact`.
struct CompactCommand: AsyncParsableCommand, CommandWithOutput {
    static let configuration = CommandConfiguration(
        commandName: "compact", abstract: "Forget the history up to a revision: watches that are further behind have to read afresh.",
        discussion: """
            Needs the right to administer. Keys and values stay as they are. The server forgets old history by itself, within its limits; \
            this does it now. At a terminal the command asks first; a script says --yes.
            """)

    @Argument(help: ArgumentHelp("Up to this one, INCARNATION:NUMBER (default: the store's latest).", valueName: "revision"))
    var revision: RevisionText?

    @Flag(help: "Do not ask.")
    var yes = false

    @Flag(help: "Only say what it would do.")
    var dryRun = false

    @OptionGroup(title: "Connection") var connection: ConnectionOptions
    @OptionGroup var output: OutputOptions

    func run() async throws {
        try await connection.withAdministration { client in
            let storage = try await client.ask(NativeStatusRequest()).storage
            let incarnation = Array(storage.incarnation.readableBytesView)
            if let revision, revision.incarnation != incarnation {
                throw CommandFailure(
                    .compacted, "\(revision) is a revision of another store", why: "this one is incarnation \(Bytes.hex(incarnation))",
                    remedy: "take a revision from this store: mwstorage status", code: "wrongIncarnation")
            }
            let goal = revision?.number ?? UInt64(max(0, storage.revision))
            let now = RevisionText(incarnation: incarnation, number: UInt64(max(0, storage.compactedRevision)))
            guard goal > now.number else {
                Output.note("nothing to do: the history up to \(now.number) is forgotten already")
                return try say(now)
            }
            if dryRun { return Output.note("would forget the history from revision \(now.number) to \(goal)") }
            try Confirmation.ask("forget the history up to revision \(goal)?", yes: yes)
            var request = NativeCompactRequest()
            request.revision = Int64(clamping: goal)
            let reply = try await client.ask(request)
            try say(now.with(UInt64(max(0, reply.revision))))
        }
    }

    private func say(_ revision: RevisionText) throws {
        let format = output.format ?? .text
        try Output.record([("compacted_revision", .string("\(revision)"))], format: format)
    }
}
