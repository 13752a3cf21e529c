import Configuration
import Glibc
import SystemPackage

/// Where configuration lives. Contexts are one file each, so that writing one never touches what a person wrote.
struct ConfigurationFiles: Sendable {
    /// `$XDG_CONFIG_HOME/mwstorage`, or `~/.config/mwstorage`.
    var userDirectory: String
    var systemFile = "/etc/mwstorage/config.yaml"

    var userFile: String { userDirectory + "/config.yaml" }
    var contextsDirectory: String { userDirectory + "/contexts" }
    /// Holds the name of the context in use, on one line.
    var currentContextFile: String { userDirectory + "/current-context" }
    func contextFile(_ name: String) -> String { contextsDirectory + "/\(name).yaml" }

    static func standard(environment: [String: String] = processEnvironment) -> ConfigurationFiles {
        // XDG Base Directory: a relative path in the variable is to be ignored.
        let base =
            environment["XDG_CONFIG_HOME"].flatMap { $0.hasPrefix("/") ? $0 : nil }
            ?? environment["HOME"].flatMap { $0.isEmpty ? nil : $0 + "/.config" } ?? "/nonexistent"
        return ConfigurationFiles(userDirectory: base + "/mwstorage")
    }

    /// Letters, digits, `-`, `_` and `.`; not first a dot: the name is a file name.
    static func isContextName(_ name: String) -> Bool {
        !name.isEmpty && !name.hasPrefix(".") && name.count <= 64
            && name.allSatisfy { $0.isASCII && ($0.isLetter || $0.isNumber || "-_.".contains($0)) }
    }

    func currentContext() throws -> String? {
        guard let bytes = try LocalFile.contentsIfPresent(currentContextFile) else { return nil }
        let name = String(decoding: bytes, as: UTF8.self).split(whereSeparator: \.isNewline).first.map(String.init)
        return name.flatMap { Self.isContextName($0) ? $0 : nil }
    }

    func contextNames() throws -> [String] {
        try LocalFile.names(in: contextsDirectory).filter { $0.hasSuffix(".yaml") }.map { String($0.dropLast(".yaml".count)) }.sorted()
    }

    /// All layers, read once.
    ///
    /// - Parameters:
    ///   - flags: What was given on the command line.
    ///   - context: The context named by a flag, if any; else `MWSTORAGE_CONTEXT`; else the one in use.
    ///   - configurationFile: In place of the user's file; then it must exist.
    /// - Throws: `CommandFailure` with status 78, if a file cannot be parsed or has a setting nobody knows.
    func settings(
        flags: [Setting: [String]], context: String?, configurationFile: String?, environment: [String: String] = processEnvironment
    ) async throws -> Settings {
        let given: [AbsoluteConfigKey: ConfigValue] = Dictionary(
            uniqueKeysWithValues: flags.filter { !$0.value.isEmpty }.map { setting, values in
                let content: ConfigContent = setting.isList ? .stringArray(values) : .string(values[0])
                return (AbsoluteConfigKey(setting.name.split(separator: ".").map(String.init)), ConfigValue(content, isSecret: false))
            })
        var layers = [Settings.Layer(origin: .flag, provider: InMemoryProvider(values: given))]
        let ours = environment.filter { $0.key.hasPrefix("MWSTORAGE_") && !$0.value.isEmpty }
        layers.append(
            .init(
                origin: .environment(""),
                provider: EnvironmentVariablesProvider(environmentVariables: ours).prefixKeys(with: "mwstorage")))

        if let name = try context ?? ours["MWSTORAGE_CONTEXT"] ?? currentContext() {
            let path = contextFile(name)
            guard Self.isContextName(name), let layer = try await layer(path, origin: .context(name, path: path)) else {
                throw CommandFailure(
                    .configurationInvalid, "there is no context '\(name)'", why: "expected: a file \(path)",
                    remedy: "see: mwstorage context ls; or make it: mwstorage context add \(name) --endpoint wss://…",
                    code: "configuration.noContext")
            }
            layers.append(layer)
        }
        let userPath = configurationFile ?? ours["MWSTORAGE_CONFIG"]
        if let layer = try await layer(userPath ?? userFile, origin: .userFile(userPath ?? userFile)) {
            layers.append(layer)
        } else if let userPath {
            throw CommandFailure(
                .inputMissing, "there is no configuration file \(userPath)", remedy: "correct --config or MWSTORAGE_CONFIG")
        }
        if let layer = try await layer(systemFile, origin: .systemFile(systemFile)) { layers.append(layer) }
        return Settings(layers: layers)
    }

    private func layer(_ path: String, origin: Settings.Origin) async throws -> Settings.Layer? {
        guard try LocalFile.contentsIfPresent(path) != nil else { return nil }
        do {
            let provider = try await FileProvider<YAMLSnapshot>(filePath: FilePath(path))
            try refuseUnknownNames(path: path, known: Set(Setting.all.map(\.name)))
            return Settings.Layer(origin: origin, provider: provider)
        } catch let failure as CommandFailure {
            throw failure
        } catch {
            throw CommandFailure(
                .configurationInvalid, "cannot read the configuration in \(path)", why: "\(error)",
                remedy: "write it as YAML, one `name: value` a line; the names are in: mwstorage config show", code: "configuration.invalid"
            )
        }
    }

    /// A misspelt name must not be silence. The provider does not list its keys, but its snapshot's debug description does,
    /// one `key=<REDACTED>` each when every value counts as secret.
    private func refuseUnknownNames(path: String, known: Set<String>) throws {
        guard let bytes = try LocalFile.contentsIfPresent(path) else { return }
        let snapshot = unsafe try YAMLSnapshot(data: bytes.span.bytes, providerName: "names", parsingOptions: .init(secretsSpecifier: .all))
        // names[2 values: endpoint=<REDACTED>, trust=<REDACTED>]
        guard let start = snapshot.debugDescription.firstRange(of: "values: ")?.upperBound else { return }
        let listed = snapshot.debugDescription[start...].dropLast()
        for item in listed.split(separator: ", ") {
            guard let equals = item.firstIndex(of: "=") else { continue }
            let name = String(item[..<equals])
            if known.contains(name) { continue }
            throw CommandFailure(
                .configurationInvalid, "\(path) has a setting that does not exist: \(name)",
                why: "expected one of: \(known.sorted().joined(separator: ", "))",
                remedy: "correct or remove it", code: "configuration.unknownName")
        }
    }
}
