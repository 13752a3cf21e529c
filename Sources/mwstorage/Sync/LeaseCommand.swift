import ArgumentParser
import MWClient

/// `mwstorage lease`.
struct LeaseCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "lease", abstract: "Timed ownership: keys that are put with a lease go when it ends.",
        discussion: "A lease is its principal's, not a connection's: any process of it may keep or revoke it.",
        subcommands: [Grant.self, Keep.self, Revoke.self])

    /// `mwstorage lease grant`.
    struct Grant: AsyncParsableCommand, CommandWithOutput {
        static let configuration = CommandConfiguration(abstract: "Take a lease, and print its number, for 'put --lease'.")

        @Option(help: ArgumentHelp("How long it lasts unless it is kept.", valueName: "span"))
        var ttl: TimeSpan

        @OptionGroup(title: "Connection") var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions

        func run() async throws {
            try LeaseCommand.print(try await connection.withClient { try await $0.grantLease(timeToLive: ttl.duration) }, output)
        }
    }

    /// `mwstorage lease keep`.
    struct Keep: AsyncParsableCommand, CommandWithOutput {
        static let configuration = CommandConfiguration(
            abstract: "Keep a lease for its whole time again.", discussion: "The exit code is 75 if it has ended.")

        @Argument(help: "Its number.")
        var lease: Int64

        @OptionGroup(title: "Connection") var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions

        func run() async throws {
            let id = LeaseID(rawValue: lease)
            try LeaseCommand.print(try await connection.withClient { try await $0.keepLease(id) }, output)
        }
    }

    /// `mwstorage lease revoke`.
    struct Revoke: AsyncParsableCommand, CommandWithOutput {
        static let configuration = CommandConfiguration(
            abstract: "End a lease: its keys go, all at one revision.", discussion: "The exit code is 75 if it has ended before.")

        @Argument(help: "Its number.")
        var lease: Int64

        @OptionGroup(title: "Connection") var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions

        func run() async throws {
            let id = LeaseID(rawValue: lease)
            let revision = try await connection.withClient { try await $0.revokeLease(id) }
            guard output.format?.isJSON == true else { return }
            try Output.line(JSONValue.object([("revoked", .integer(lease)), ("revision", .string("\(RevisionText(revision))"))]).text)
        }
    }

    private static func print(_ lease: Lease, _ output: OutputOptions) throws {
        guard output.format?.isJSON == true else { return try Output.line("\(lease.id)") }
        let members: [(String, JSONValue)] = [
            ("lease", .integer(lease.id.rawValue)), ("ttl_ms", .integer(TimeSpan(lease.timeToLive).milliseconds)),
            ("remaining_ms", .integer(TimeSpan(lease.remaining).milliseconds)),
        ]
        try Output.line(JSONValue.object(members).text)
    }
}
