// Which streams of events a watch may have, given the logs of the stores that it was connected to.
//
//             state … synced, or where it was to begin
//   unplaced ─────────────────────────────────────────▶ placed at a revision ──┐ changes: exactly the next commit in its ranges, whole
//      ▲                                                    │            ▲     │ progress, synced, resumed: nothing in between was left out
//      └──────────────────── resync ────────────────────────┘            └─────┘

/// What a watch says.
package enum WatchItem: Hashable, Sendable {
    /// The server reports again, from this revision on.
    case resumed(UInt64, incarnation: String)
    /// A part of the state, at a revision.
    case state([String: ModelEntry], UInt64, incarnation: String)
    case synced(UInt64, incarnation: String)
    case changes(ModelLog.Commit, incarnation: String)
    case progress(UInt64, incarnation: String)
    /// What was reported is void.
    case resync
    /// It has come to its end, which it may.
    case ended
}

/// What a watch was asked for.
package struct WatchTerms: Hashable, Sendable {
    package enum Start: Hashable, Sendable {
        case now
        case state
        case after(UInt64, incarnation: String)
    }

    package var ranges: [ModelRange]
    package var start: Start
    package var hasValues: Bool
    /// A resync brings the state; otherwise only what changes from then on.
    package var resyncsWithState: Bool

    package init(_ ranges: [ModelRange], from start: Start, hasValues: Bool = true, resyncsWithState: Bool = true) {
        self.ranges = ranges
        self.start = start
        self.hasValues = hasValues
        self.resyncsWithState = resyncsWithState
    }
}

/// Follows one watch through its items.
package struct WatchCheck {
    private struct Place: Hashable {
        var incarnation: String
        var revision: UInt64
    }

    private let terms: WatchTerms
    private let logs: [String: ModelLog]
    /// Everything up to here has been reported; nil: nobody knows yet.
    private var place: Place?
    private var awaitsState: Bool
    private var collected: (place: Place, entries: [String: ModelEntry])?
    private var mustResync = false
    private var hasEnded = false

    package init(_ terms: WatchTerms, _ logs: [String: ModelLog]) {
        self.terms = terms
        self.logs = logs
        self.awaitsState = terms.start == .state
        if case .after(let revision, let incarnation) = terms.start { self.place = Place(incarnation: incarnation, revision: revision) }
    }

    /// - Parameter quietStore: The store's incarnation, when nothing happens any more and everything must have been reported.
    /// - Returns: The first thing that is wrong.
    package static func check(
        _ items: [WatchItem], of terms: WatchTerms, in logs: [String: ModelLog], quietStore: String?
    ) -> Violation? {
        var check = WatchCheck(terms, logs)
        for (number, item) in items.enumerated() {
            if let what = check.received(item) { return Violation("watch of \(terms), item \(number) \(item): \(what)") }
        }
        if let quietStore, let what = check.missing(in: quietStore) {
            return Violation("watch of \(terms), quiet after \(items.count) items, the last \(items.suffix(3)): \(what)")
        }
        return nil
    }

    /// What has not been reported.
    private func missing(in incarnation: String) -> String? {
        if self.hasEnded { return nil }
        if self.awaitsState || self.collected != nil { return "the state has no end" }
        guard let place else { return nil }
        if place.incarnation != incarnation { return "it is still at store \(place.incarnation), and not at \(incarnation)" }
        return self.logs[incarnation]?.next(after: place.revision, in: self.terms.ranges).map {
            "\($0) is missing behind revision \(place.revision)"
        }
    }

    /// - Returns: Why it must not say that.
    package mutating func received(_ item: WatchItem) -> String? {
        if self.hasEnded { return "behind the end" }
        if self.mustResync {
            switch item {
            case .resync, .ended: break
            // The connection was lost before it could say so.
            case .resumed: return nil
            case .state, .synced, .changes, .progress: return "something was missed, and no resync says so"
            }
        }
        switch item {
        case .resumed(let revision, let incarnation): return self.resumed(Place(incarnation: incarnation, revision: revision))
        case .state(let entries, let revision, let incarnation):
            return self.received(entries, at: Place(incarnation: incarnation, revision: revision))
        case .synced(let revision, let incarnation): return self.synced(at: Place(incarnation: incarnation, revision: revision))
        case .changes(let commit, let incarnation): return self.received(commit, of: incarnation)
        case .progress(let revision, let incarnation):
            return self.awaitsState ? "progress inside of the state" : self.advance(to: Place(incarnation: incarnation, revision: revision))
        case .resync:
            self.mustResync = false
            self.place = nil
            self.collected = nil
            // A state that was cut off begins again.
            self.awaitsState = self.awaitsState || self.terms.resyncsWithState
            return nil
        case .ended:
            self.hasEnded = true
            return nil
        }
    }

    private mutating func resumed(_ place: Place) -> String? {
        if self.awaitsState { return nil }
        if let own = self.place, own.incarnation != place.incarnation {
            self.mustResync = true
            return nil
        }
        if let own = self.place, place.revision > own.revision, self.advance(to: place) != nil {
            // What was in between has been forgotten: the state has to follow.
            self.mustResync = true
            return nil
        }
        return self.advance(to: place)
    }

    private mutating func received(_ entries: [String: ModelEntry], at place: Place) -> String? {
        guard self.awaitsState else { return "a state that nobody asked for" }
        if self.state(at: place) == nil { return "a revision that never was" }
        var all = self.collected?.entries ?? [:]
        if let collected, collected.place != place { return "a part of another state" }
        for (key, entry) in entries {
            if all.updateValue(entry, forKey: key) != nil { return "\(key) is in it twice" }
        }
        self.collected = (place, all)
        return nil
    }

    private func state(at place: Place) -> ModelStore? { self.logs[place.incarnation]?.state(at: place.revision) }

    private mutating func synced(at place: Place) -> String? {
        guard self.awaitsState else { return self.advance(to: place) }
        if let collected, collected.place != place { return "the end of another state" }
        guard let state = self.state(at: place) else { return "a revision that never was" }
        let reported = self.seen(self.collected?.entries ?? [:])
        self.collected = nil
        self.awaitsState = false
        self.place = place
        let expected = self.seen(state.entries.filter { entry in self.terms.ranges.contains { $0.contains(entry.key) } })
        return expected == reported ? nil : "the state was \(expected), reported was \(reported)"
    }

    private func seen(_ entries: [String: ModelEntry]) -> [String: ModelEntry] {
        entries.mapValues { ModelEntry(self.terms.hasValues ? $0.value : "", $0.revision) }
    }

    private mutating func received(_ commit: ModelLog.Commit, of incarnation: String) -> String? {
        if self.awaitsState { return "changes inside of the state" }
        guard let log = self.logs[incarnation] else { return "there is no store \(incarnation)" }
        if let place, place.incarnation != incarnation { return "of another store, without a resync" }
        if let place, commit.revision <= place.revision { return "repeated, or out of order: revision \(place.revision) had been reported" }
        let from = self.place?.revision ?? (commit.revision - 1)
        guard let expected = log.next(after: from, in: self.terms.ranges) else { return "nothing happened behind revision \(from)" }
        guard expected.revision == commit.revision else { return "missed \(expected)" }
        guard self.seen(expected) == self.seen(commit) else { return "torn or wrong: it was \(expected)" }
        self.place = Place(incarnation: incarnation, revision: commit.revision)
        return nil
    }

    private func seen(_ commit: ModelLog.Commit) -> ModelLog.Commit {
        guard !self.terms.hasValues else { return commit }
        return ModelLog.Commit(
            commit.revision,
            commit.changes.map { ModelChange($0.key, $0.value.map { _ in "" }, previousRevision: $0.previousRevision) })
    }

    private mutating func advance(to place: Place) -> String? {
        guard let log = self.logs[place.incarnation], log.state(at: place.revision) != nil else { return "a revision that never was" }
        if let own = self.place {
            if own.incarnation != place.incarnation { return "of another store, without a resync" }
            if place.revision < own.revision { return "back from revision \(own.revision)" }
            if let missed = log.next(after: own.revision, in: self.terms.ranges), missed.revision <= place.revision {
                return "missed \(missed)"
            }
        }
        self.place = place
        return nil
    }
}
