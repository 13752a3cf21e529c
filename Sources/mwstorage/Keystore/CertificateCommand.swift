import ArgumentParser
import MWPKI

/// `mwstorage certificate …`.
struct CertificateCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "certificate", abstract: "Look at certificates.", subcommands: [InspectCertificateCommand.self])
}

/// `mwstorage certificate inspect FILE…`.
struct InspectCertificateCommand: CommandWithOutput {
    static let configuration = CommandConfiguration(
        commandName: "inspect", abstract: "Show what certificates say: names, dates, algorithms, fingerprints.",
        discussion: "FILE is PEM, with any number of certificates, or DER; - is standard input.")

    @Argument(help: ArgumentHelp("Certificates to show.", valueName: "file"))
    var files: [String]

    @OptionGroup var output: OutputOptions

    func run() throws {
        let now = Timestamp.now()
        let format = output.format ?? .text
        var documents: [JSONValue] = []
        for file in files {
            let bytes = try LocalFile.contents(file)
            let certificates =
                PEM.isPEM(bytes) ? try Certificate.list(pem: bytes, source: file) : [try Certificate(der: bytes, source: file)]
            for (number, certificate) in certificates.enumerated() {
                let details = CertificateDetails(certificate, at: now)
                let document = JSONValue.object([("file", .string(file)), ("number", .integer(Int64(number + 1)))] + details.members)
                switch format {
                case .json: documents.append(document)
                case .ndjson: try Output.line(document.text)
                default:
                    try Output.line("\(file), certificate \(number + 1)\n" + details.lines(indent: "    ").joined(separator: "\n"))
                }
            }
        }
        if format == .json { try Output.line(JSONValue.array(documents).text) }
    }
}
