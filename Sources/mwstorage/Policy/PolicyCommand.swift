import ArgumentParser
import MWPolicyFile
import MWServer

/// `mwstorage policy …`.
struct PolicyCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "policy", abstract: "Check an access policy, and ask it who may do what.",
        subcommands: [CheckPolicyCommand.self, ExplainPolicyCommand.self])
}

/// `mwstorage policy check FILE`.
struct CheckPolicyCommand: CommandWithOutput {
    static let configuration = CommandConfiguration(
        commandName: "check", abstract: "Check an access policy: all that is wrong with it, each with its place.",
        discussion: """
            Prints the rules of a policy that is good. One that is not: a line for each fault on standard error (under -o json in the document \
            on standard output), and exit code 78. - is standard input.
            """)

    @Argument(help: ArgumentHelp("The policy, YAML or JSON.", valueName: "file"))
    var file: String

    @OptionGroup var output: OutputOptions

    func run() throws {
        let format = output.format ?? .text
        let policy: AccessPolicy
        do {
            policy = try PolicyFile.read(file)
        } catch let error as AccessPolicyError {
            try report(error, format)
            throw CommandFailure(
                .configurationInvalid, "the access policy \(file) cannot be used", why: "\(error.faults.count) faults, listed above",
                remedy: "correct them, and check it again", code: "policy.invalid")
        }
        guard !format.isJSON else { return try Output.line(Self.document(policy, file).text) }
        try Output.rows(["rule", "matches any of", "rights"], policy.rules.map(Self.row), format: format)
        for warning in policy.warnings { Output.note("warning: \(warning)") }
    }

    private func report(_ error: AccessPolicyError, _ format: OutputFormat) throws {
        guard format.isJSON else {
            for fault in error.faults { Output.note("\(error.source)\(fault)") }
            return
        }
        let faults = error.faults.map { fault in
            JSONValue.object([
                ("line", fault.line.map { .integer(Int64($0)) } ?? .null), ("column", fault.column.map { .integer(Int64($0)) } ?? .null),
                ("what", .string(fault.what)), ("remedy", .string(fault.remedy)),
            ])
        }
        try Output.line(JSONValue.object([("file", .string(file)), ("good", false), ("faults", .array(faults))]).text)
    }

    private static func document(_ policy: AccessPolicy, _ file: String) -> JSONValue {
        let rules = policy.rules.map { rule in
            JSONValue.object([
                ("name", .string(rule.name)), ("match", .array(rule.matchers.map { .object([($0.kind.rawValue, .string($0.value))]) })),
                ("allow", .array(rule.grants.list.map(PolicyText.json))),
            ])
        }
        return .object([
            ("file", .string(file)), ("good", true), ("rules", .array(rules)), ("warnings", .array(policy.warnings.map { .string($0) })),
        ])
    }

    private static func row(_ rule: AccessRule) -> [JSONValue] {
        [
            .string(rule.name), .array(rule.matchers.map { .string("\($0)") }),
            .string(rule.grants.list.map { "\(PolicyText.rights($0.rights)) over \(PolicyText.keys($0.keys))" }.joined(separator: "; ")),
        ]
    }
}

extension PolicyFile {
    /// The policy in a file, or on standard input for `-`.
    static func read(_ path: String) throws -> AccessPolicy {
        guard path == "-" else { return try PolicyFile.policy(at: path) }
        return try PolicyFile.policy(LocalFile.contents(path), source: "standard input")
    }
}

/// Parts of a policy, as the commands show them.
extension PolicyText {
    static func rights(_ rights: AccessRights) -> String { rights.list.map(\.rawValue).joined(separator: ", ") }

    static func keys(_ keys: AccessGrant.Keys) -> String {
        switch keys {
        case .all: "all keys"
        case .prefixes(let prefixes): "keys that begin with " + prefixes.map { "'\(escaped($0))'" }.joined(separator: " or ")
        }
    }

    /// As the file has it.
    static func json(_ grant: AccessGrant) -> JSONValue {
        let keys: (String, JSONValue) =
            switch grant.keys {
            case .all: ("keys", "all")
            case .prefixes(let prefixes): ("prefixes", .array(prefixes.map(json)))
            }
        return .object([("rights", .array(grant.rights.list.map { .string($0.rawValue) })), keys])
    }

    private static func json(_ prefix: [UInt8]) -> JSONValue {
        let (text, encoding) = Bytes.text(prefix)
        return encoding == "utf8" ? .string(text) : .object([(encoding, .string(text))])
    }
}
