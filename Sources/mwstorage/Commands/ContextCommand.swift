import ArgumentParser
import Glibc

/// `mwstorage context`: named sets of endpoint, identity and trust.
struct ContextCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "context", abstract: "Keep named sets of endpoint, identity and trust.",
        subcommands: [Add.self, Use.self, List.self, Remove.self])

    /// `mwstorage context add NAME`.
    struct Add: AsyncParsableCommand, CommandWithOutput {
        static let configuration = CommandConfiguration(abstract: "Make a context, or replace it; the first one made is also used.")

        @Argument(help: "Letters, digits, '-', '_' and '.'.")
        var name: String

        @OptionGroup var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions

        func run() async throws {
            let files = ConfigurationFiles.standard()
            guard ConfigurationFiles.isContextName(name) else {
                throw CommandFailure(
                    .usage, "'\(name)' cannot be the name of a context",
                    why: "expected: up to 64 letters, digits, '-', '_' and '.', not first a dot",
                    remedy: "choose another name")
            }
            let flags = connection.flags
            var text = "# Written by: mwstorage context add \(name)\n"
            for setting in Setting.ofContext {
                guard let values = flags[setting] else { continue }
                let quoted = values.map { JSONValue.string(Self.absolute($0, setting)).text }
                text += "\(setting.name): " + (setting.isList ? "[\(quoted.joined(separator: ", "))]" : quoted[0]) + "\n"
            }
            try LocalFile.makeDirectory(files.contextsDirectory)
            try LocalFile.replace(files.contextFile(name), with: Array(text.utf8))
            if try files.currentContext() == nil {
                try LocalFile.replace(files.currentContextFile, with: Array("\(name)\n".utf8))
                Output.note("context '\(name)' is made, and in use")
            } else {
                Output.note("context '\(name)' is made; to use it: mwstorage context use \(name)")
            }
        }

        /// A context works from every directory, so the files in it are absolute.
        private static func absolute(_ value: String, _ setting: Setting) -> String {
            let files: [Setting] = [.certificate, .key, .trust, .crl, .keystore, .passphraseFile, .trustPassphraseFile]
            guard files.contains(setting), !value.hasPrefix("/"), let directory = unsafe getcwd(nil, 0) else { return value }
            defer { unsafe free(directory) }
            return unsafe String(cString: directory) + "/" + value
        }
    }

    /// `mwstorage context use NAME`.
    struct Use: ParsableCommand, CommandWithOutput {
        static let configuration = CommandConfiguration(abstract: "Use a context from now on.")

        @Argument(help: "Its name.")
        var name: String

        @OptionGroup var output: OutputOptions

        func run() throws {
            let files = ConfigurationFiles.standard()
            guard try files.contextNames().contains(name) else { throw ContextCommand.unknown(name) }
            try LocalFile.replace(files.currentContextFile, with: Array("\(name)\n".utf8))
        }
    }

    /// `mwstorage context ls`.
    struct List: ParsableCommand, CommandWithOutput {
        static let configuration = CommandConfiguration(commandName: "ls", abstract: "List the contexts.")

        @OptionGroup var output: OutputOptions

        func run() throws {
            let files = ConfigurationFiles.standard()
            let current = try files.currentContext()
            let rows: [[JSONValue]] = try files.contextNames().map { [.string($0), .bool($0 == current), .string(files.contextFile($0))] }
            try Output.rows(["name", "current", "file"], rows, format: output.format ?? .text)
        }
    }

    /// `mwstorage context rm NAME`.
    struct Remove: ParsableCommand, CommandWithOutput {
        static let configuration = CommandConfiguration(commandName: "rm", abstract: "Remove a context.")

        @Argument(help: "Its name.")
        var name: String

        @Flag(help: "Do it; without it nothing is removed unless the question is answered with yes.")
        var yes = false

        @Flag(help: "Only say what would be removed.")
        var dryRun = false

        @OptionGroup var output: OutputOptions

        func run() throws {
            let files = ConfigurationFiles.standard()
            guard try files.contextNames().contains(name) else { return Output.note("nothing to do: there is no context '\(name)'") }
            let path = files.contextFile(name)
            if dryRun { return Output.note("would remove \(path)") }
            try Confirmation.ask("remove the context '\(name)' (\(path))?", yes: yes)
            let isRemoved = unsafe unlink(path) == 0
            guard isRemoved else { throw CommandFailure(.inputOutput, "cannot remove \(path)", why: systemMessage(errno)) }
            if try files.currentContext() == name { _ = unsafe unlink(files.currentContextFile) }
        }
    }

    private static func unknown(_ name: String) -> CommandFailure {
        CommandFailure(.no, "there is no context '\(name)'", remedy: "see: mwstorage context ls", code: "configuration.noContext")
    }
}
