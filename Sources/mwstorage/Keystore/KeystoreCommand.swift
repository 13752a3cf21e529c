import ArgumentParser
import MWKeystore
import MWPKI

/// `mwstorage keystore …`.
struct KeystoreCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "keystore", abstract: "Look at keystores and truststores, and convert them (PKCS#12, JKS, PEM).",
        subcommands: [InspectKeystoreCommand.self, ConvertKeystoreCommand.self])
}

/// Which store to read, and what opens it.
struct KeystoreInput: ParsableArguments {
    @Argument(help: ArgumentHelp("PKCS#12, JKS or PEM file; what it is shows in its content.", valueName: "file"))
    var file: String

    @OptionGroup(title: "Passphrase of the store")
    var passphrase: PassphraseOptions

    @Option(
        help: ArgumentHelp("File with the private keys' passphrase, where it is not the store's (JKS).", valueName: "file"))
    var keyPassphraseFile: String?

    @Flag(help: "Read a truststore that has no integrity check: anybody who can write the file decides what it says.")
    var allowUnauthenticated = false

    /// - Parameter given: What ``passphrase`` says; read by the caller, as a descriptor or a variable can be read once only.
    func read(_ given: Passphrase?) throws -> Keystore {
        // A keystore is encrypted, and what is shown of it is public.
        let bytes =
            file == "-"
            ? try LocalFile.contents(file)
            : try PrivateFile.read(file, maximumBytes: KeystoreLimits().maximumFileBytes, permissions: .any).bytes
        return try Keystore(
            bytes: bytes, source: file, passphrase: given,
            keyPassphrase: keyPassphraseFile.map { try Passphrase.file($0) },
            acceptsUnauthenticated: allowUnauthenticated)
    }
}

/// `mwstorage keystore inspect FILE`.
struct InspectKeystoreCommand: CommandWithOutput {
    static let configuration = CommandConfiguration(
        commandName: "inspect", abstract: "Show a store's entries, algorithms, validity, fingerprints and weaknesses.",
        discussion: "Never shows a private key. Whether an entry can be used as an identity is said beside it, with the reason if not.")

    @OptionGroup var input: KeystoreInput
    @OptionGroup var output: OutputOptions

    func run() throws {
        let store = try input.read(input.passphrase.passphrase())
        let now = Timestamp.now()
        let format = output.format ?? .text
        if format.isJSON {
            try Output.line(json(store, now).text)
        } else {
            try Output.line(text(store, now).joined(separator: "\n"))
        }
    }

    private func json(_ store: Keystore, _ now: Timestamp) -> JSONValue {
        let entries = store.entries.map { entry -> JSONValue in
            var members: [(String, JSONValue)] = [
                ("alias", .string(entry.alias)), ("kind", .string(entry.isPrivateKey ? "private_key" : "trusted_certificate")),
                ("created", .optional(entry.created.map { "\($0)" })),
            ]
            if case .privateKey(let key, _) = entry.content {
                let problem = Self.problem(store, entry)
                members.append(("key", .string("\(key.algorithm)")))
                members.append(("usable", .bool(problem == nil)))
                members.append(("problem", .optional(problem)))
            }
            members.append(("certificates", .array(entry.certificates.map { .object(CertificateDetails($0, at: now).members) })))
            return .object(members)
        }
        return .object([
            ("file", .string(input.file)), ("format", .string(store.format.rawValue)),
            ("warnings", .array(store.warnings.map { .string($0) })), ("entries", .array(entries)),
            ("revocation_lists", .array(store.revocationLists.map { .string($0.issuer) })),
        ])
    }

    private func text(_ store: Keystore, _ now: Timestamp) -> [String] {
        let keys = store.entries.count { $0.isPrivateKey }
        var lines = ["\(input.file): \(store.format.rawValue), private keys: \(keys), trusted certificates: \(store.entries.count - keys)"]
        lines += store.warnings.map { "warning: \($0)" }
        for entry in store.entries {
            lines.append("")
            if case .privateKey(let key, _) = entry.content {
                lines.append("\(entry.alias): private key, \(key.algorithm)" + (entry.created.map { ", created \($0)" } ?? ""))
                lines.append("    usable: " + (Self.problem(store, entry).map { "no: \($0)" } ?? "yes"))
            } else {
                lines.append("\(entry.alias): trusted certificate" + (entry.created.map { ", created \($0)" } ?? ""))
            }
            for (number, certificate) in entry.certificates.enumerated() {
                if entry.certificates.count > 1 { lines.append("  certificate \(number + 1)") }
                lines += CertificateDetails(certificate, at: now).lines(indent: "    ")
            }
        }
        for list in store.revocationLists {
            lines += ["", "revocation list of \(list.issuer), until \(list.nextUpdate), revoked: \(list.revokedSerialNumbers.count)"]
        }
        return lines
    }

    /// Why the entry cannot be an identity.
    private static func problem(_ store: Keystore, _ entry: Keystore.Entry) -> String? {
        do {
            _ = try store.identity(alias: entry.alias)
            return nil
        } catch let error as PKIError {
            return [error.what, error.remedy].compactMap { $0 }.joined(separator: "; ")
        } catch {
            return "\(error)"
        }
    }
}
