// Which streams of events a watch may have, given the logs of the stores that it was connected to.
//
//            began, or state … synced
//   nothing ──────────────────────────▶ at a revision ──┐ changes: exactly the next commit in its ranges, whole
//      ▲                                       │   ▲    │ progress, synced: no commit in between was left out
//      └───────── resync, ended ───────────────┘   └────┘

/// What a watch says.
package enum WatchItem: Hashable, Sendable {
    /// Changes behind this revision will come; it may be that of before, after a reconnection.
    case began(UInt64, incarnation: String)
    /// A part of the state, at a revision.
    case state([String: ModelEntry], UInt64)
    case synced(UInt64)
    case changes(ModelLog.Commit)
    case progress(UInt64)
    /// What was reported is void; the state follows.
    case resync(UInt64, incarnation: String)
    case ended
}

/// Follows one watch through its items.
package struct WatchCheck {
    private let ranges: [ModelRange]
    private let hasValues: Bool
    private let logs: [String: ModelLog]
    private var incarnation = ""
    /// Everything up to here has been reported; nil while nothing has.
    private var position: UInt64?
    private var collected: [String: ModelEntry]?

    package init(_ ranges: [ModelRange], hasValues: Bool = true, _ logs: [String: ModelLog]) {
        self.ranges = ranges
        self.hasValues = hasValues
        self.logs = logs
    }

    /// - Parameter isQuiet: Nothing happens any more, so everything must have been reported.
    /// - Returns: The first thing that is wrong.
    package static func check(
        _ items: [WatchItem], of ranges: [ModelRange], hasValues: Bool = true, in logs: [String: ModelLog], isQuiet: Bool
    ) -> Violation? {
        var check = WatchCheck(ranges, hasValues: hasValues, logs)
        for (number, item) in items.enumerated() {
            if let what = check.received(item) { return Violation("watch of \(ranges), item \(number) \(item): \(what)") }
        }
        if isQuiet, let what = check.missing() { return Violation("watch of \(ranges), quiet after \(items.count) items: \(what)") }
        return nil
    }

    /// Whether everything has been reported; what has not, if so.
    package func missing() -> String? {
        guard let position, let log = self.logs[self.incarnation] else { return nil }
        if let missed = log.next(after: position, in: self.ranges) { return "\(missed) is missing behind revision \(position)" }
        return self.collected == nil ? nil : "the state has no end"
    }

    /// - Returns: Why it must not say that.
    package mutating func received(_ item: WatchItem) -> String? {
        switch item {
        case .began(let revision, let incarnation): return self.began(revision, incarnation)
        case .resync(_, let incarnation):
            self.incarnation = incarnation
            self.position = nil
            self.collected = [:]
            return nil
        case .state(let entries, let revision): return self.received(entries, at: revision)
        case .synced(let revision): return self.synced(revision)
        case .changes(let commit): return self.received(commit)
        case .progress(let revision): return self.advance(to: revision)
        case .ended:
            self.position = nil
            self.collected = nil
            return nil
        }
    }

    private mutating func began(_ revision: UInt64, _ incarnation: String) -> String? {
        defer { (self.incarnation, self.position) = (incarnation, revision) }
        guard let position, incarnation == self.incarnation else { return nil }
        return revision == position ? nil : self.advance(to: revision)
    }

    private mutating func received(_ entries: [String: ModelEntry], at revision: UInt64) -> String? {
        if let what = self.mayStandAt(revision) { return what }
        for (key, entry) in entries {
            if self.collected?.updateValue(entry, forKey: key) != nil { return "\(key) is in it twice" }
        }
        if self.collected == nil { self.collected = entries }
        self.position = revision
        return nil
    }

    private func mayStandAt(_ revision: UInt64) -> String? {
        guard let log = self.logs[self.incarnation] else { return "there is no store \(self.incarnation)" }
        return log.state(at: revision) == nil ? "that revision never was" : nil
    }

    private mutating func synced(_ revision: UInt64) -> String? {
        guard let collected else { return self.advance(to: revision) }
        if let what = self.mayStandAt(revision) { return what }
        self.collected = nil
        self.position = revision
        guard let state = self.logs[self.incarnation]?.state(at: revision) else { return nil }
        let expected = state.entries.filter { entry in self.ranges.contains { $0.contains(entry.key) } }
        return self.seen(expected) == self.seen(collected) ? nil : "the state was \(expected), reported was \(collected)"
    }

    private func seen(_ entries: [String: ModelEntry]) -> [String: ModelEntry] {
        entries.mapValues { ModelEntry(self.hasValues ? $0.value : "", $0.revision) }
    }

    private mutating func received(_ commit: ModelLog.Commit) -> String? {
        if self.collected != nil { return "changes inside of the state" }
        guard let position, let log = self.logs[self.incarnation] else { return "a change before the beginning" }
        if commit.revision <= position { return "repeated, or out of order: revision \(position) had been reported" }
        guard let expected = log.next(after: position, in: self.ranges) else { return "nothing happened behind revision \(position)" }
        guard expected.revision == commit.revision else { return "missed \(expected)" }
        guard self.seen(expected) == self.seen(commit) else { return "torn or wrong: it was \(expected)" }
        self.position = commit.revision
        return nil
    }

    private func seen(_ commit: ModelLog.Commit) -> ModelLog.Commit {
        guard !self.hasValues else { return commit }
        return ModelLog.Commit(
            commit.revision,
            commit.changes.map { ModelChange($0.key, $0.value.map { _ in "" }, previousRevision: $0.previousRevision) })
    }

    private mutating func advance(to revision: UInt64) -> String? {
        if self.collected != nil { return "progress inside of the state" }
        guard let position, let log = self.logs[self.incarnation] else { return "progress before the beginning" }
        if revision < position { return "back from revision \(position)" }
        if let what = self.mayStandAt(revision) { return what }
        if let missed = log.next(after: position, in: self.ranges), missed.revision <= revision { return "missed \(missed)" }
        self.position = revision
        return nil
    }
}
