import ArgumentParser
import MWClient
import MWProtocol

/// `mwstorage rejections`.
struct RejectionsCommand: AsyncParsableCommand, CommandWithOutput {
    static let configuration = CommandConfiguration(
        commandName: "rejections", abstract: "List whom the server refused lately, why, and what mends it; the latest first.",
        discussion: "Needs the right to administer. The same from the same is counted, not listed again.")

    @Option(help: "How many, at most.")
    var limit = 100

    @OptionGroup(title: "Connection") var connection: ConnectionOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        if limit < 1 { throw ValidationError("--limit is 1 or more.") }
    }

    func run() async throws {
        var request = NativeRejectionsRequest()
        request.limit = Int64(limit)
        let reply = try await connection.withAdministration { [request] in try await $0.ask(request) }
        switch output.format ?? .text {
        case .json: try Output.line(ShownRecord.json(reply).text)
        case .ndjson: for rejection in reply.rejections { try Output.line(ShownRecord.json(rejection).text) }
        case .table, .raw:
            try Output.rows(
                ["latest", "count", "stage", "address", "check", "fingerprint", "reason"], reply.rejections.map(Self.row),
                format: output.format ?? .text)
        case .text: for rejection in reply.rejections { try Output.line(Self.paragraph(rejection)) }
        }
        let shown = reply.rejections.reduce(0) { $0 + $1.count }
        if reply.total > shown { Output.note("\(reply.total - shown) more since the server started") }
    }

    private static func row(_ rejection: NativeRejection) -> [JSONValue] {
        [
            ShownRecord.value(rejection.latest), .integer(rejection.count), ShownRecord.value(rejection.stage),
            ShownRecord.value(rejection.address), ShownRecord.value(rejection.check), ShownRecord.value(rejection.fingerprint),
            ShownRecord.value(rejection.reason),
        ]
    }

    private static func paragraph(_ rejection: NativeRejection) -> String {
        let times = rejection.count > 1 ? " (\(rejection.count) times since \(ShownRecord.text(rejection.first)))" : ""
        var lines = [
            "\(ShownRecord.text(rejection.latest)) \(ShownRecord.plain(rejection.address)) \(ShownRecord.plain(rejection.stage)) refused: "
                + "\(ShownRecord.plain(rejection.check))\(times)"
        ]
        let parts: [(String, String?)] = [
            ("why", rejection.reason), ("expected", rejection.expected), ("found", rejection.found), ("principal", rejection.principal),
            ("subject", rejection.subject), ("names", rejection.names.isEmpty ? nil : rejection.names.joined(separator: ", ")),
            ("sha256", rejection.fingerprint), ("serial", rejection.serial), ("issuer", rejection.issuer),
            ("not after", rejection.notAfter.map { ShownRecord.text($0) }), ("told", rejection.told), ("to mend it", rejection.remedy),
        ]
        for (name, text) in parts { if let text { lines.append("  \(name): \(ShownRecord.plain(text))") } }
        return lines.joined(separator: "\n")
    }
}
