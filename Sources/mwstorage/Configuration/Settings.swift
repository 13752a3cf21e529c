import Configuration

/// The values of all settings and where each came from.
///
/// Precedence: flag, environment, named context, the user's file, the system's file, default. The first layer that has a
/// value wins, lists included: they are not merged. No file is ever looked for in the working directory.
struct Settings: Sendable {
    enum Origin: Hashable, Sendable, CustomStringConvertible {
        case flag
        case environment(String)
        case context(String, path: String)
        case userFile(String)
        case systemFile(String)
        case fallback

        var description: String {
            switch self {
            case .flag: "flag"
            case .environment(let name): "environment \(name)"
            case .context(let name, let path): "context \(name) (\(path))"
            case .userFile(let path), .systemFile(let path): path
            case .fallback: "default"
            }
        }
    }

    struct Layer: Sendable {
        var origin: Origin
        var provider: any ConfigProvider
    }

    struct Found: Hashable, Sendable {
        var values: [String]
        var origin: Origin
    }

    var layers: [Layer]

    /// - Throws: `CommandFailure` with status 78, if a file has something else than text or a list of texts there.
    func found(_ setting: Setting) throws -> Found? {
        for layer in layers {
            let origin = if case .environment = layer.origin { Origin.environment(setting.environmentName) } else { layer.origin }
            if let values = try Self.values(setting, in: layer.provider, origin: origin) { return Found(values: values, origin: origin) }
        }
        return setting.fallback.map { Found(values: [$0], origin: .fallback) }
    }

    func string(_ setting: Setting) throws -> String? { try found(setting)?.values.first }

    func strings(_ setting: Setting) throws -> [String] { try found(setting)?.values ?? [] }

    /// The parsed value.
    /// - Throws: `CommandFailure`, if the value cannot be parsed: status 64 if it was a flag, else 78.
    func value<Value>(_ setting: Setting, expected: String, _ parse: (String) -> Value?) throws -> Value? {
        try values(setting, expected: expected, parse).first
    }

    func values<Value>(_ setting: Setting, expected: String, _ parse: (String) -> Value?) throws -> [Value] {
        guard let found = try found(setting) else { return [] }
        return try found.values.map { text in
            guard let value = parse(text) else { throw Self.invalid(setting, text, origin: found.origin, expected: expected) }
            return value
        }
    }

    /// The value, or an error that says where it can be set.
    func required(_ setting: Setting) throws -> String {
        if let value = try string(setting) { return value }
        throw missing(setting)
    }

    /// The error that says where it can be set.
    func missing(_ setting: Setting) -> CommandFailure {
        CommandFailure(
            .configurationInvalid, "\(setting.name) is not set", why: "expected: \(setting.summary)",
            remedy:
                "give \(setting.flagName), or set \(setting.environmentName), or put it into a context or file; see: mwstorage config show --origin",
            code: "configuration.missing")
    }

    /// A setting that is on or off.
    func yesOrNo(_ setting: Setting) throws -> Bool {
        let value = try value(setting, expected: "yes or no") { text -> Bool? in
            switch text.lowercased() {
            case "yes", "true": true
            case "no", "false": false
            default: nil
            }
        }
        return value ?? false
    }

    static func invalid(_ setting: Setting, _ text: String, origin: Origin, expected: String) -> CommandFailure {
        CommandFailure(
            origin == .flag ? .usage : .configurationInvalid, "\(setting.name) is not valid",
            why: "seen: '\(text)' (\(origin)); expected: \(expected)",
            remedy: "correct it there", code: "configuration.invalid")
    }

    private static func values(_ setting: Setting, in provider: any ConfigProvider, origin: Origin) throws -> [String]? {
        let key = AbsoluteConfigKey(setting.name.split(separator: ".").map(String.init))
        // A single text is a list of one; asking a file for the wrong one of the two throws.
        if let content = try? provider.value(forKey: key, type: .string).value?.content, case .string(let text) = content {
            return setting.isList ? text.split(separator: ",").map(String.init) : [text]
        }
        do {
            guard let content = try provider.value(forKey: key, type: .stringArray).value?.content else { return nil }
            guard case .stringArray(let texts) = content, setting.isList || texts.count == 1 else {
                throw invalid(setting, "a list", origin: origin, expected: setting.summary)
            }
            return texts
        } catch let failure as CommandFailure {
            throw failure
        } catch {
            throw invalid(setting, "something else than text", origin: origin, expected: setting.summary)
        }
    }
}
