import ArgumentParser
import Glibc

/// `mwstorage`: arguments to calls to exit codes.
@main
struct MWStorageCommand: AsyncParsableCommand {
    /// New commands are registered here, and nowhere else.
    static let configuration = CommandConfiguration(
        commandName: "mwstorage",
        abstract: "A key-value storage server and its client, over WebSocket with mutual TLS.",
        discussion: """
            Settings come from flags, then MWSTORAGE_* in the environment, then a named context, then the user's and the system's \
            configuration file ('mwstorage config show --origin' says which).

            Exit codes: 0 done; 1 the answer is no; 64 usage; 65 bad input; 66 input missing; 69 server not reachable; 70 internal error; \
            73 cannot create output; 74 input or output failed; 75 outcome unknown, try again; 76 protocol mismatch; 77 forbidden; \
            78 configuration invalid; 80 the server refused our certificate; 81 we refuse the server; 82 history compacted.
            """,
        subcommands: [
            ServeCommand.self, GetCommand.self, PutCommand.self, RemoveCommand.self, ScanCommand.self, TransactionCommand.self,
            WatchCommand.self, ReplicateCommand.self, LockCommand.self, LeaseCommand.self,
            PrefixCommand.self, ImportCommand.self, ExportCommand.self, BackupCommand.self, RestoreCommand.self,
            TunnelCommand.self, DoctorCommand.self, ACMECommand.self, WhoAmICommand.self, StatusCommand.self,
            SessionsCommand.self,
            RejectionsCommand.self, ReloadCommand.self, ReloadClientsCommand.self, CompactCommand.self, RevokeCommand.self,
            AuthorityCommand.self, BenchmarkCommand.self,
            ProvisionCommand.self,
            KeystoreCommand.self, CertificateCommand.self, PolicyCommand.self,
            ConfigCommand.self, ContextCommand.self, VersionCommand.self,
        ])

    static func main() async {
        // A closed pipe or socket is an error of the call that met it.
        _ = signal(SIGPIPE, SIG_IGN)
        // While this is the only thread: those to come inherit it.
        if CommandLine.arguments.dropFirst().first == "serve" { ProcessHardening.refuseNewPrivileges() }
        let status = await run(Array(CommandLine.arguments.dropFirst()))
        Glibc.exit(status)
    }

    /// Runs one command line.
    /// - Returns: The exit code.
    static func run(_ arguments: [String]) async -> Int32 {
        var format = requestedFormat(arguments)
        do {
            var command = try parseAsRoot(arguments)
            if let command = command as? any CommandWithOutput { format = command.output.format ?? .text }
            if var command = command as? any AsyncParsableCommand {
                try await command.run()
            } else {
                try command.run()
            }
            return ExitStatus.done.rawValue
        } catch {
            return report(error, format: format)
        }
    }

    /// For errors met before the command line could be parsed as a whole.
    private static func requestedFormat(_ arguments: [String]) -> OutputFormat {
        if arguments.contains("--json") { return .json }
        for (argument, next) in zip(arguments, arguments.dropFirst() + [""]) {
            if argument == "-o" || argument == "--output" { return OutputFormat(rawValue: next) ?? .text }
            if argument.hasPrefix("--output=") { return OutputFormat(rawValue: String(argument.dropFirst("--output=".count))) ?? .text }
        }
        return .text
    }

    private static func report(_ error: any Error, format: OutputFormat) -> Int32 {
        // What ArgumentParser itself throws: wrong usage, and the requests for help, version and completion scripts.
        let isOwn = error is CommandFailure
        let code = exitCode(for: error)
        if !isOwn, code == .success {
            try? Output.line(fullMessage(for: error))
            return ExitStatus.done.rawValue
        }
        if !isOwn, code == .validationFailure {
            if format.isJSON {
                Output.failure(CommandFailure(.usage, message(for: error), remedy: "see: mwstorage help", code: "usage"), format: format)
            } else {
                Output.note(fullMessage(for: error))
            }
            return ExitStatus.usage.rawValue
        }
        if let exit = error as? ExitCode { return exit.rawValue }
        let failure = CommandFailure(error)
        Output.failure(failure, format: format)
        return failure.status.rawValue
    }
}
