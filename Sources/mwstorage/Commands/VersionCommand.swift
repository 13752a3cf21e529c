import ArgumentParser
import MWProtocol

/// `mwstorage version`.
struct VersionCommand: CommandWithOutput {
    static let configuration = CommandConfiguration(commandName: "version", abstract: "Print the version.")

    @OptionGroup var output: OutputOptions

    func run() throws {
        let format = output.format ?? .text
        if format.isJSON {
            try Output.line(JSONValue.object([("version", .string(softwareVersion))]).text)
        } else {
            try Output.line("mwstorage \(softwareVersion)")
        }
    }
}
