import ArgumentParser

/// `mwstorage version`.
struct VersionCommand: CommandWithOutput {
    static let configuration = CommandConfiguration(commandName: "version", abstract: "Print the version.")

    /// Semantic version of the command and the libraries.
    static let current = "0.1.0"

    @OptionGroup var output: OutputOptions

    func run() throws {
        let format = output.format ?? .text
        if format.isJSON {
            try Output.line(JSONValue.object([("version", .string(Self.current))]).text)
        } else {
            try Output.line("mwstorage \(Self.current)")
        }
    }
}
