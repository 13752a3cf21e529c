import ArgumentParser
import MWKeystore
import MWPKI

/// `mwstorage provision`: makes certificates and keys, without Java.
struct ProvisionCommand: CommandWithOutput {
    static let configuration = CommandConfiguration(
        commandName: "provision", abstract: "Make an authority, identities and revocation lists.",
        discussion: """
            --layout ca: a private authority, a server, and the clients named with --client; each with PEM files, PKCS#12 stores that \
            Java reads, and a random passphrase for those in a file of mode 0600. Later, --add-client and --revoke work on the same \
            directory; --revoke writes ca.crl anew.

            --layout exchange: two self-signed identities that trust each other, with the documented aliases and passwords.

            Files are not overwritten without --force.
            """)

    enum Layout: String, ExpressibleByArgument, CaseIterable {
        case ca, exchange
    }

    enum Key: String, ExpressibleByArgument, CaseIterable {
        case ec, rsa

        var algorithm: KeyAlgorithm {
            switch self {
            case .ec: .ec(.p256)
            // What NIST SP 800-57 wants beyond 2030.
            case .rsa: .rsa(bits: 3072)
            }
        }
    }

    @Option(help: ArgumentHelp("ca or exchange (default: ca).", valueName: "layout"))
    var layout: Layout?

    @Option(help: ArgumentHelp("Directory to write to; made if it is missing.", valueName: "directory"))
    var out: String

    @Option(help: ArgumentHelp("Kind of key, ec (P-256) or rsa (3072 bits).", valueName: "kind"))
    var key: Key = .ec

    @Option(help: ArgumentHelp("How long certificates and revocation lists are valid.", valueName: "number"))
    var days: Int64 = ProvisioningOptions.defaultDays

    @Option(
        help: ArgumentHelp(
            "Name or address the server's certificate is for; repeat (default: localhost, 127.0.0.1, ::1).", valueName: "name"))
    var san: [String] = []

    @Option(parsing: .upToNextOption, help: ArgumentHelp("Client to make an identity for; one or more names.", valueName: "name"))
    var client: [String] = []

    @Option(parsing: .upToNextOption, help: ArgumentHelp("Client to add to the authority in the directory.", valueName: "name"))
    var addClient: [String] = []

    @Option(
        parsing: .upToNextOption,
        help: ArgumentHelp("Client whose certificate in the directory is revoked; writes ca.crl.", valueName: "name"))
    var revoke: [String] = []

    @Flag(help: "Replace files that exist.")
    var force = false

    @OptionGroup var output: OutputOptions

    func validate() throws {
        let changes = !addClient.isEmpty || !revoke.isEmpty
        if layout == .exchange, changes || !client.isEmpty {
            throw ValidationError("--client, --add-client and --revoke are for --layout ca: the exchange layout has one client.")
        }
        if changes, !client.isEmpty || !san.isEmpty {
            throw ValidationError("--client and --san are for a new authority; --add-client and --revoke change the one there is.")
        }
    }

    func run() throws {
        let files = try makeFiles()
        if !force {
            let present = files.filter { !$0.replaces && LocalFile.exists(path($0.name)) }.map(\.name)
            guard present.isEmpty else {
                throw CommandFailure(
                    .cannotCreateOutput, "files exist already in \(out): \(present.joined(separator: ", "))",
                    why: "keys that are in use would be lost", remedy: "name another directory with --out, or add --force",
                    code: "file.exists")
            }
        }
        try LocalFile.makeDirectory(out)
        for file in files {
            try PrivateFile.write(file.contents, to: path(file.name), mode: file.mode, replacing: force || file.replaces)
        }
        try Output.rows(
            ["file", "mode", "what"],
            files.map { [.string(path($0.name)), .string("0" + String($0.mode, radix: 8)), .string($0.summary)] },
            format: output.format ?? .text)
    }

    private func makeFiles() throws -> [ProvisionedFile] {
        let names = san.isEmpty ? ProvisioningOptions.localNames : san
        let options = ProvisioningOptions(keyAlgorithm: key.algorithm, days: days, serverNames: names)
        guard addClient.isEmpty, revoke.isEmpty else { return try changes(options) }
        return layout == .exchange
            ? try ExchangeLayout.files(options: options) : try AuthorityLayout.files(clients: client, options: options)
    }

    private func changes(_ options: ProvisioningOptions) throws -> [ProvisionedFile] {
        let authority = try AuthorityLayout(
            certificate: LocalFile.contents(path(AuthorityLayout.certificateFile)),
            key: PrivateFile.read(path(AuthorityLayout.keyFile)).bytes, options: options)
        var files = try addClient.flatMap { try authority.clientFiles($0) }
        guard !revoke.isEmpty else { return files }
        let certificates = try revoke.map { name in
            // The name becomes part of a path.
            guard !name.contains("/"), !name.hasPrefix(".") else {
                throw CommandFailure(.usage, "\(name) is no client's name", remedy: "give the name without directory and .pem")
            }
            let file = path("\(name).pem")
            return try Certificate.list(pem: LocalFile.contents(file), source: file)[0]
        }
        let listFile = path(AuthorityLayout.revocationListFile)
        let previous = try LocalFile.contentsIfPresent(listFile).map { try CertificateRevocationList.list($0, source: listFile) }?.first
        files.append(try authority.revocationList(revoking: certificates, previous: previous))
        return files
    }

    private func path(_ name: String) -> String {
        out.hasSuffix("/") ? out + name : "\(out)/\(name)"
    }
}
