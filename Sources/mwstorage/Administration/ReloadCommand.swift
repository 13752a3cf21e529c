import ArgumentParser
import MWClient
import MWProtocol

/// `mwstorage reload`.
struct ReloadCommand: AsyncParsableCommand, CommandWithOutput {
    static let configuration = CommandConfiguration(
        commandName: "reload",
        abstract: "Have the server load certificate, trust, revocation lists and policy anew: all of it, or nothing.",
        discussion: """
            Needs the right to administer. What is new holds for every connection from then on, and those that are open are judged by it \
            before the command returns. The exit code is 78 if the new set cannot be used; then the old one stays.
            """)

    @OptionGroup(title: "Connection") var connection: ConnectionOptions
    @OptionGroup var output: OutputOptions

    func run() async throws {
        let state = try await connection.withAdministration { try await $0.ask(NativeReloadRequest()) }
        let format = output.format ?? .text
        if format.isJSON { return try Output.line(ShownRecord.json(state).text) }
        try Output.record(
            [
                ("generation", .integer(state.generation)), ("loaded at", ShownRecord.value(state.loadedAt)),
                ("connections closed", .integer(state.connectionsClosed ?? 0)),
            ] + state.loaded.map { (ShownRecord.plain($0.name), ShownRecord.value($0.text)) }, format: format)
    }
}
