import ArgumentParser
import MWClient
import MWProtocol

/// `mwstorage reload-clients`.
struct ReloadClientsCommand: AsyncParsableCommand, CommandWithOutput {
    static let configuration = CommandConfiguration(
        commandName: "reload-clients",
        abstract: "Have clients drop what they hold, read it afresh, and say so.",
        discussion: """
            Needs the right to administer. Choose clients with --principal, keys with a prefix or --range, or say --all. Clients of mwDB's \
            protocol cannot say that they have done it: their connections are closed, and they read afresh when they come back. The exit \
            code is 1 if somebody did not say so in time; who that was goes to standard error.
            """)

    @OptionGroup var keys: KeyRangeOptions

    @Option(help: ArgumentHelp("Only clients of this principal.", valueName: "name"))
    var principal: String?

    @Flag(help: "All clients, and all keys.")
    var all = false

    @Option(help: ArgumentHelp("Why, for their logs.", valueName: "text"))
    var reason: String?

    @Option(help: ArgumentHelp("How long to wait for them (default: 10s).", valueName: "span"))
    var wait = TimeSpan(.seconds(10))

    @OptionGroup(title: "Connection") var connection: ConnectionOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        let isChosen = principal != nil || keys.isGiven
        if all, isChosen { throw ValidationError("--all stands alone.") }
        if !all, !isChosen { throw ValidationError("Say whose copies: --principal, a prefix, --range, or --all.") }
        if wait.duration <= .zero { throw ValidationError("--wait must be more than 0.") }
    }

    func run() async throws {
        var request = NativeReloadClientsRequest()
        request.principal = principal
        request.ranges = keys.isGiven ? [try keys.keyRange.native] : []
        request.reason = reason ?? ""
        request.timeoutMilliseconds = wait.milliseconds
        let timeout = wait.duration + .seconds(10)
        let reply = try await connection.withAdministration { [request] in try await $0.ask(request, timeout: timeout) }
        let format = output.format ?? .text
        if format.isJSON {
            try Output.line(ShownRecord.json(reply).text)
        } else {
            try Output.record(
                [("asked", .integer(reply.asked)), ("reloaded", .integer(reply.acknowledged)), ("closed (mwdb)", .integer(reply.forced))],
                format: format)
        }
        for client in reply.unanswered { Output.note("did not say that it has reloaded: \(ShownRecord.plain(client))") }
        guard reply.acknowledged >= reply.asked else { throw CommandFailure.silent(.no) }
    }
}
