import ArgumentParser
import MWClient
import MWProtocol

/// `mwstorage whoami`.
struct WhoAmICommand: AsyncParsableCommand, CommandWithOutput {
    static let configuration = CommandConfiguration(
        commandName: "whoami", abstract: "Show what the server sees of us: principal, certificate, rules that matched, rights.",
        discussion: "Needs no right: whoever may connect may ask.")

    @OptionGroup(title: "Connection") var connection: ConnectionOptions
    @OptionGroup var output: OutputOptions

    func run() async throws {
        let identity = try await connection.withAdministration { try await $0.ask(NativeWhoAmI()) }
        let format = output.format ?? .text
        if format.isJSON { return try Output.line(ShownRecord.json(identity).text) }
        let certificate = identity.certificate
        try Output.record(
            [
                ("principal", ShownRecord.value(identity.principal)), ("subject", ShownRecord.value(certificate.subject)),
                ("names", .array(ShownRecord.names(of: certificate).map { .string($0) })),
                ("fingerprint", ShownRecord.value(certificate.fingerprint)), ("serial", ShownRecord.value(certificate.serial)),
                ("issuer", ShownRecord.value(certificate.issuer)),
                ("valid until", .string("\(ShownRecord.text(certificate.notAfter)) (\(ShownRecord.days(certificate.daysLeft)))")),
                ("rules", .array(identity.rules.map { ShownRecord.value($0) })),
                ("rights", .array(identity.rights.map { ShownRecord.value($0.text) })), ("administrator", .bool(identity.isAdministrator)),
                ("address", ShownRecord.value(identity.address)), ("tls", ShownRecord.value(identity.tls)),
                ("connection", .integer(identity.connection)),
            ], format: format)
    }
}
