import ArgumentParser
import MWClient

/// `mwstorage replicate [PREFIX] [--to DIRECTORY]`.
struct ReplicateCommand: AsyncParsableCommand, CommandWithOutput {
    static let configuration = CommandConfiguration(
        commandName: "replicate", abstract: "Follow a range from its whole state on; with --to, keep a copy of it on disk.",
        discussion: """
            Prints the state of the range, then every change as it comes, in the form of 'mwstorage watch'. With --to it keeps a copy in \
            that directory, which is the store as it was at one revision, whenever and however the process ends. Started again, it goes on \
            from there, and prints only what is new. If the history that it needs was forgotten, or the store was restored, it says 'resync' \
            and loads the range afresh, beside the copy that it has until the new one is whole. 'mwstorage scan --replica DIRECTORY' reads \
            the copy while nobody keeps it.
            """)

    @OptionGroup var keys: KeyRangeOptions

    @Option(help: ArgumentHelp("Directory of the copy; made if it is not there.", valueName: "directory"))
    var to: String?

    @OptionGroup(title: "Connection") var connection: ConnectionOptions
    @OptionGroup var output: OutputOptions

    func run() async throws {
        let range = try keys.keyRange
        let lines = ChangeLines(output)
        try await Interruption.stopping(isQuiet: true) { [connection, to] in
            try await connection.withLastingClient { client in
                let keeper = try to.map { try ReplicaKeeper(ReplicaDirectory(path: $0, range: range.text)) }
                defer { keeper?.close() }
                try await FollowedRange(client: client, range: range).run(from: keeper?.start ?? .state) { event in
                    // In the copy before anybody is told.
                    try keeper?.keep(event)
                    if case .progress = event { return }
                    try Output.data(lines.bytes(event))
                }
            }
        }
    }
}

/// Does with a copy on disk what a watch reports.
final class ReplicaKeeper {
    private let copy: ReplicaDirectory
    /// The revision of the state that is being loaded; nil while nothing is.
    private var loading: Loading?

    private enum Loading: Equatable {
        case begun
        case state(Revision)
    }

    init(_ copy: ReplicaDirectory) throws {
        self.copy = copy
        if copy.position == nil { try begin() }
    }

    /// Where its watch begins.
    var start: WatchStart {
        guard let position = copy.position, let incarnation = Incarnation(position.incarnation) else { return .state }
        return .after(Revision(incarnation: incarnation, number: position.revision))
    }

    func keep(_ event: WatchEvent) throws {
        switch event {
        case .state(let revision, let entries):
            // A state that was cut off begins anew at another revision.
            if loading != .begun, loading != .state(revision) { try begin() }
            loading = .state(revision)
            try copy.load(entries.map { .init(key: $0.key, value: $0.value, revision: $0.revision.number) })
        case .synced(let revision):
            if loading != nil {
                try copy.finishLoading(incarnation: revision.incarnation.bytes, revision: revision.number)
                loading = nil
            } else {
                try copy.apply([], revision: revision.number)
            }
        case .changes(let revision, let changes):
            try copy.apply(
                changes.map { $0.isRemoval ? .remove(key: $0.key) : .put(key: $0.key, value: $0.value ?? []) }, revision: revision.number)
        case .progress(let revision):
            if loading == nil { try copy.apply([], revision: revision.number) }
        case .resync: try begin()
        case .resumed, .disconnected: break
        }
    }

    func close() { copy.close() }

    private func begin() throws {
        try copy.beginLoading()
        loading = .begun
    }
}
