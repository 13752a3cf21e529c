import ArgumentParser
import MWClient

/// `mwstorage watch [PREFIX]`.
struct WatchCommand: AsyncParsableCommand, CommandWithOutput {
    static let configuration = CommandConfiguration(
        commandName: "watch", abstract: "Print every change of a range, once, in order, as it happens.",
        discussion: """
            One JSON object a line for each revision, with all of its changes in the range; at a terminal, a line for each change. It goes \
            on until it is stopped. A lost connection is made again, and the watch goes on behind the last revision that was printed: \
            standard error says so. With --state it begins with what is there, up to the event 'synced'; if the history that it needs was \
            forgotten meanwhile, it says 'resync' and begins so again. Without --state it ends then, with exit code 82.

            A revision is written INCARNATION:NUMBER. Give the last one that was printed to --after, and nothing is missed and nothing \
            comes twice.
            """)

    @OptionGroup var keys: KeyRangeOptions

    @Option(help: ArgumentHelp("Changes behind this revision (default: from now on).", valueName: "revision"))
    var after: RevisionText?

    @Flag(help: "Begin with what is there.")
    var state = false

    @Flag(help: "Only keys.")
    var withoutValues = false

    @Flag(help: "Say also, when nothing changes, up to which revision everything was printed.")
    var progress = false

    @OptionGroup(title: "Connection") var connection: ConnectionOptions
    @OptionGroup var output: OutputOptions

    func run() async throws {
        let range = try keys.keyRange
        let start: WatchStart = after.map { .after($0.revision) } ?? (state ? .state : .now)
        let lines = ChangeLines(output)
        try await Interruption.stopping(isQuiet: true) { [connection, progress, state, withoutValues] in
            try await connection.withLastingClient { client in
                let print = { (event: WatchEvent) in
                    if case .progress = event, !progress { return }
                    try Output.data(lines.bytes(event))
                }
                if state {
                    return try await FollowedRange(client: client, range: range, includesValues: !withoutValues).run(from: start, print)
                }
                var options = WatchOptions()
                options.includesValues = !withoutValues
                for try await event in try client.watch([range], from: start, options: options) { try print(event) }
            }
        }
    }
}

extension ChangeLines {
    /// - Returns: nothing, for what goes to standard error.
    func bytes(_ event: WatchEvent) -> [UInt8] {
        switch event {
        case .state(let revision, let entries): state(entries.map { Entry($0) }, at: RevisionText(revision))
        case .changes(let revision, let changes): self.changes(changes.map { Change($0) }, at: RevisionText(revision))
        case .synced(let revision): mark("synced", at: RevisionText(revision))
        case .progress(let revision): mark("progress", at: RevisionText(revision))
        case .resync(let reason): mark("resync", reason: reason)
        case .resumed(let revision): mark("resumed", at: RevisionText(revision))
        // The client says so itself.
        case .disconnected: []
        }
    }
}

extension ChangeLines.Change {
    init(_ change: MWClient.Change) {
        self.init(
            key: change.key, value: change.value, isRemoval: change.isRemoval, previousRevision: change.previousRevision.number,
            lease: change.lease?.rawValue)
    }
}
