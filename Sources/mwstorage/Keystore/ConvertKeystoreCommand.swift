import ArgumentParser
import MWKeystore
import MWPKI

/// `mwstorage keystore convert FILE --to pem|pkcs12|jks --out FILE`.
struct ConvertKeystoreCommand: CommandWithOutput {
    static let configuration = CommandConfiguration(
        commandName: "convert", abstract: "Write a store's entries in another format.",
        discussion: """
            PEM output is one file: each private key and its chain, then the trusted certificates, with their aliases in the text between; \
            it serves as --certificate and as --key. Its keys are not encrypted unless an --out-passphrase-… option is given.

            PKCS#12 and JKS output have the passphrase of the --out-passphrase-… option, or else the input's.
            """)

    enum Target: String, ExpressibleByArgument, CaseIterable {
        case pem, pkcs12, jks
    }

    @OptionGroup var input: KeystoreInput

    @Option(help: ArgumentHelp("Format to write.", valueName: "format"))
    var to: Target

    @Option(help: ArgumentHelp("File to write; mode 0600.", valueName: "file"))
    var out: String

    @Option(help: ArgumentHelp("Only this entry.", valueName: "alias"))
    var alias: String?

    @Option(help: ArgumentHelp("File with the new store's passphrase; readable by its owner only.", valueName: "file"))
    var outPassphraseFile: String?

    @Option(help: ArgumentHelp("Open file descriptor to read the new store's passphrase from.", valueName: "number"))
    var outPassphraseFd: Int32?

    @Option(help: ArgumentHelp("Name of the environment variable that holds the new store's passphrase.", valueName: "name"))
    var outPassphraseEnv: String?

    @Flag(help: "Replace the file if there is one.")
    var force = false

    @OptionGroup var output: OutputOptions

    func validate() throws {
        if [outPassphraseFile != nil, outPassphraseFd != nil, outPassphraseEnv != nil].count(where: { $0 }) > 1 {
            throw ValidationError("Give one of --out-passphrase-file, --out-passphrase-fd and --out-passphrase-env.")
        }
    }

    func run() throws {
        if !force, LocalFile.exists(out) {
            throw CommandFailure(
                .cannotCreateOutput, "\(out) exists already", remedy: "name another file, or add --force", code: "file.exists")
        }
        let given = try input.passphrase.passphrase()
        let read = try input.read(given)
        let store = try selected(read)
        for warning in read.warnings { Output.note("warning: \(warning)") }
        let bytes = try converted(store, given)
        try PrivateFile.write(bytes, to: out, replacing: force)
        let format = output.format ?? .text
        if format.isJSON {
            let members: [(String, JSONValue)] = [
                ("file", .string(out)), ("format", .string(to.rawValue)), ("entries", .integer(Int64(store.entries.count))),
            ]
            try Output.line(JSONValue.object(members).text)
        } else {
            Output.note("wrote \(out): \(to.rawValue), \(store.entries.count) entries")
        }
    }

    private func selected(_ store: Keystore) throws -> Keystore {
        guard let alias else { return store }
        let entries = store.entries.filter { $0.alias.lowercased() == alias.lowercased() }
        guard !entries.isEmpty else {
            throw KeystoreError(
                .aliasUnknown, subject: input.file, "no entry is called \(alias)", found: store.entries.map(\.alias).joined(separator: ", ")
            )
        }
        return try Keystore(entries: entries)
    }

    private func converted(_ store: Keystore, _ given: Passphrase?) throws -> SecretBytes {
        let own = try outPassphrase(given)
        if to == .pem { return try store.pem(passphrase: own) }
        guard let passphrase = own ?? given else {
            throw CommandFailure(
                .usage, "the new store needs a passphrase",
                remedy: "give it with --out-passphrase-file, --out-passphrase-fd or --out-passphrase-env",
                code: "keystore.passphraseMissing")
        }
        return SecretBytes(to == .jks ? try store.jks(passphrase: passphrase) : try store.pkcs12(passphrase: passphrase))
    }

    /// The new store's own passphrase. A descriptor or variable that has been read for the input is empty now: it is `given`.
    private func outPassphrase(_ given: Passphrase?) throws -> Passphrase? {
        if let outPassphraseFile { return try Passphrase.file(outPassphraseFile) }
        if let outPassphraseFd {
            return outPassphraseFd == input.passphrase.passphraseFd ? given : try Passphrase.descriptor(outPassphraseFd)
        }
        return try outPassphraseEnv.flatMap { name in
            name == input.passphrase.passphraseEnv ? given : try Passphrase.takingEnvironment(name)
        }
    }
}
