import MWClient

/// What a watch says, as lines on standard output: one JSON object for each revision, or one line for each change.
///
///     {"event":"changes","revision":"INCARNATION:7","changes":[{"change":"put","key":…,"value":…,"encoding":"utf8","previous_revision":3}]}
///     INCARNATION:7 put key value
///
/// A revision is one object, since it is one change of the store: whoever stops reading between two lines stops between two revisions.
struct ChangeLines {
    /// A change of one key.
    struct Change {
        var key: [UInt8]
        /// nil: it was removed, or values are not asked for.
        var value: [UInt8]?
        var isRemoval: Bool
        /// That of the key's change before; 0: it was absent.
        var previousRevision: UInt64
        var lease: Int64?
    }

    /// A key and what is stored there.
    struct Entry {
        var key: [UInt8]
        var value: [UInt8]?
        var revision: UInt64
        var lease: Int64?
    }

    let format: OutputFormat

    /// As asked for; without that, lines for a person at a terminal, and JSON for everybody else.
    init(_ options: OutputOptions) { self.init(options.format ?? (Output.isTerminal ? .text : .ndjson)) }

    init(_ format: OutputFormat) { self.format = format }

    func changes(_ changes: [Change], at revision: RevisionText) -> [UInt8] {
        switch format {
        case .json, .ndjson: line("changes", revision, [("changes", .array(changes.map(Self.json)))])
        case .text, .table: changes.flatMap { Self.text($0, at: revision) }
        case .raw: changes.flatMap { $0.isRemoval ? [] : $0.value ?? $0.key }
        }
    }

    /// A part of the state that a watch begins with.
    func state(_ entries: [Entry], at revision: RevisionText) -> [UInt8] {
        switch format {
        case .json, .ndjson: line("state", revision, [("entries", .array(entries.map { Self.json($0, in: revision) }))])
        case .text, .table: entries.flatMap { Self.text($0, in: revision) }
        case .raw: entries.flatMap { $0.value ?? $0.key }
        }
    }

    /// Something that is no change: `synced`, `progress`, `resumed`, and `resync`, which has no revision.
    func mark(_ event: String, at revision: RevisionText? = nil, reason: String? = nil) -> [UInt8] {
        switch format {
        case .json, .ndjson: line(event, revision, reason.map { [("reason", .string($0))] } ?? [])
        // A reader of lines has to know when to forget what it has.
        case .text, .table: Array("\(revision.map { "\($0)" } ?? "-") \(event)\(reason.map { " \($0)" } ?? "")\n".utf8)
        case .raw: []
        }
    }

    /// A put and a removal are lines of the same form; what is not printable is escaped as in the text of a transaction.
    private static func text(_ change: Change, at revision: RevisionText) -> [UInt8] {
        let verb = change.isRemoval ? "remove" : "put"
        let value = change.isRemoval ? "" : change.value.map { " \(ByteText.quoted($0))" } ?? ""
        return Array("\(revision) \(verb) \(ByteText.quoted(change.key))\(value)\n".utf8)
    }

    private static func text(_ entry: Entry, in state: RevisionText) -> [UInt8] {
        let value = entry.value.map { " \(ByteText.quoted($0))" } ?? ""
        return Array("\(state.with(entry.revision)) state \(ByteText.quoted(entry.key))\(value)\n".utf8)
    }

    private func line(_ event: String, _ revision: RevisionText?, _ more: [(String, JSONValue)]) -> [UInt8] {
        let head: [(String, JSONValue)] = [("event", .string(event))] + (revision.map { [("revision", .string("\($0)"))] } ?? [])
        return Array((JSONValue.object(head + more).text + "\n").utf8)
    }

    private static func json(_ change: Change) -> JSONValue {
        var members: [(String, JSONValue)] = [("change", change.isRemoval ? "remove" : "put")]
        members += Bytes.members(key: change.key, value: change.isRemoval ? nil : change.value)
        members.append(("previous_revision", change.previousRevision == 0 ? .null : .integer(Int64(clamping: change.previousRevision))))
        if let lease = change.lease { members.append(("lease", .integer(lease))) }
        return .object(members)
    }

    static func json(_ entry: Entry, in state: RevisionText) -> JSONValue {
        var members = Bytes.members(key: entry.key, value: entry.value)
        members.append(("revision", .string("\(state.with(entry.revision))")))
        if let lease = entry.lease { members.append(("lease", .integer(lease))) }
        return .object(members)
    }
}
