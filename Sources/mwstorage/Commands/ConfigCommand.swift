import ArgumentParser

/// `mwstorage config`.
struct ConfigCommand: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "config", abstract: "Show the configuration.", subcommands: [Show.self])

    /// `mwstorage config show [--origin]`.
    struct Show: AsyncParsableCommand, CommandWithOutput {
        static let configuration = CommandConfiguration(abstract: "Print every setting and its value.")

        @Flag(help: "Also say where each value comes from.")
        var origin = false

        @OptionGroup var configuration: ConfigurationOptions
        @OptionGroup var output: OutputOptions

        func run() async throws {
            let settings = try await configuration.settings(flags: [:])
            let rows: [[JSONValue]] = try Setting.all.map { setting in
                let found = try settings.found(setting)
                let value: JSONValue = found.map { .string($0.values.joined(separator: ",")) } ?? .null
                return [.string(setting.name), value] + (origin ? [.optional(found.map { "\($0.origin)" })] : [])
            }
            try Output.rows(["name", "value"] + (origin ? ["origin"] : []), rows, format: output.format ?? .text)
        }
    }
}
