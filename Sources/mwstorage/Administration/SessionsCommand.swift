import ArgumentParser
import MWClient
import MWProtocol

/// `mwstorage sessions`.
struct SessionsCommand: AsyncParsableCommand, CommandWithOutput {
    static let configuration = CommandConfiguration(
        commandName: "sessions", abstract: "List the connections that are open.",
        discussion: """
            Needs the right to administer. The last column is mwdb for a connection without a subprotocol; lag is how many revisions its \
            slowest watch is behind.
            """)

    @OptionGroup(title: "Connection") var connection: ConnectionOptions
    @OptionGroup var output: OutputOptions

    func run() async throws {
        let sessions = try await connection.withAdministration { try await $0.sessions() }
        let format = output.format ?? .text
        switch format {
        case .json: try Output.line(JSONValue.array(sessions.map { ShownRecord.json($0) }).text)
        case .ndjson: for session in sessions { try Output.line(ShownRecord.json(session).text) }
        case .text, .table, .raw:
            let columns = [
                "connection", "principal", "address", "fingerprint", "since", "requests", "received", "sent", "watches", "lag", "protocol",
            ]
            try Output.rows(columns, sessions.map(Self.row), format: format)
        }
    }

    private static func row(_ session: NativeSessionEntry) -> [JSONValue] {
        [
            .integer(session.connection), ShownRecord.value(session.principal), ShownRecord.value(session.address),
            ShownRecord.value(session.fingerprint), ShownRecord.value(session.since), .integer(session.requests),
            .integer(session.receivedBytes), .integer(session.sentBytes), .integer(session.watches), .integer(session.lag),
            ShownRecord.value(session.subprotocol.isEmpty ? "mwdb" : session.subprotocol),
        ]
    }
}
