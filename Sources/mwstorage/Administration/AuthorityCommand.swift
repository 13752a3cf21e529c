import ArgumentParser
import MWClient
import MWProtocol

/// `mwstorage ca`.
struct AuthorityCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ca", abstract: "The authorities whose clients the server accepts.", subcommands: [Status.self])

    /// `mwstorage ca status`.
    struct Status: AsyncParsableCommand, CommandWithOutput {
        static let configuration = CommandConfiguration(
            abstract: "Count the open connections of each authority, so that one knows when an old one can go.",
            discussion: "Needs the right to administer.")

        @OptionGroup(title: "Connection") var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions

        func run() async throws {
            let authorities = try await connection.withAdministration { try await $0.ask(NativeAuthoritiesRequest()) }.authorities
            let format = output.format ?? .text
            switch format {
            case .json: try Output.line(JSONValue.array(authorities.map { ShownRecord.json($0) }).text)
            case .ndjson: for authority in authorities { try Output.line(ShownRecord.json(authority).text) }
            case .text, .table, .raw:
                let columns = ["authority", "trusted", "connections", "issuers", "valid until", "days left", "list until", "fingerprint"]
                try Output.rows(columns, authorities.map(Self.row), format: format)
            }
        }

        private static func row(_ authority: NativeAuthority) -> [JSONValue] {
            let certificate = authority.certificate
            return [
                ShownRecord.value(certificate.subject), .bool(authority.isTrusted), .integer(authority.connections),
                .string(ShownRecord.counts(authority.issuers)), ShownRecord.value(certificate.notAfter), .integer(certificate.daysLeft),
                authority.revocationListNextUpdate.map { ShownRecord.value($0) } ?? .null, ShownRecord.value(certificate.fingerprint),
            ]
        }
    }
}
