import MWACME
import MWPKI

/// Why a command failed, as its user reads it: three lines on standard error, and an exit code.
///
///     mwstorage: cannot read server.p12
///       the passphrase was rejected: the MAC does not match
///       to mend it: give the right passphrase with --passphrase-file
///
/// Under `-o json` the same is one JSON object on standard error. Never put a secret into any part.
struct CommandFailure: Error, Hashable, Sendable {
    /// What failed.
    var what: String
    /// What was seen, and what was expected.
    var why: String?
    /// The command or the change that mends it.
    var remedy: String?
    /// The module's error code, for scripts; for example `tls.unknownCA`.
    var code: String?
    var status: ExitStatus
    /// What a CA said, for scripts.
    var problem: ACMEProblem?
    /// When to try again, where somebody said so.
    var retryAt: Timestamp?

    init(_ status: ExitStatus, _ what: String, why: String? = nil, remedy: String? = nil, code: String? = nil) {
        self.status = status
        self.what = what
        self.why = why
        self.remedy = remedy
        self.code = code
    }

    /// An answer of "no" that needs no words: the exit code says it.
    static func silent(_ status: ExitStatus) -> CommandFailure {
        CommandFailure(status, "")
    }

    var text: String {
        guard !what.isEmpty else { return "" }
        var lines = ["mwstorage: \(what)"]
        if let why, !why.isEmpty { lines.append("  \(why)") }
        if let remedy, !remedy.isEmpty { lines.append("  to mend it: \(remedy)") }
        return lines.joined(separator: "\n") + "\n"
    }

    var json: JSONValue {
        var members: [(String, JSONValue)] = [
            ("error", .string(what)),
            ("why", .optional(why)),
            ("remedy", .optional(remedy)),
            ("code", .optional(code)),
            ("exit", .integer(Int64(status.rawValue))),
        ]
        if let problem { members.append(("problem", problem.document)) }
        if let retryAt { members.append(("retry_at", .string("\(retryAt)"))) }
        return .object(members)
    }
}
