// Whether a store's log is what its clients asked for: every acknowledged write is in it once, at the revision that was said, with the effect
// that it must have; nothing is in it that nobody asked for; and what was read was so.
//
//   revision      5         6         7         8
//   log        [put a]   [del b]   [put c]   [put d]
//   claimed by  write 1   write 4   –         write 9     7 must be an unknown outcome's, or a lease's that ended

/// Compares the logs of stores with what their clients know.
package struct LogCheck {
    private let calls: [Call]
    private let logs: [String: ModelLog]
    /// What went wrong, each thing in a line.
    package private(set) var violations: [Violation] = []

    /// - Parameter logs: By the name of the incarnation.
    package init(_ history: History, _ logs: [String: ModelLog]) {
        self.calls = history.calls
        self.logs = logs
        for (incarnation, log) in logs.sorted(by: { $0.key < $1.key }) {
            self.checkOrder(of: incarnation)
            self.checkWrites(of: incarnation, log)
            self.checkReads(of: incarnation, log)
        }
    }

    private mutating func violated(_ text: String) { self.violations.append(Violation(text)) }

    // MARK: Order

    /// A call sees all that had been answered when it was made.
    private mutating func checkOrder(of incarnation: String) {
        for call in self.calls where call.incarnation == incarnation {
            guard let revision = call.outcome.revision, let bound = self.bounds(of: incarnation).before(call.calledAt) else { continue }
            if revision < bound { self.violated("\(call): revision \(bound) had been seen before it was called") }
            if call.makesRevision == true, revision == bound {
                self.violated("\(call): revision \(bound) had been made before it was called")
            }
        }
    }

    /// The highest revision that anybody had learned by some time.
    private struct Bounds {
        private var known: [(time: Int, revision: UInt64)] = []

        init(_ calls: [Call], _ incarnation: String) {
            let returns = calls.compactMap { call -> (time: Int, revision: UInt64)? in
                guard call.incarnation == incarnation, let time = call.returnedAt, let revision = call.outcome.revision else { return nil }
                return (time, revision)
            }
            for entry in returns.sorted(by: { $0.time < $1.time }) {
                self.known.append((entry.time, max(entry.revision, self.known.last?.revision ?? 0)))
            }
        }

        func before(_ time: Int) -> UInt64? {
            var (low, high) = (0, self.known.count)
            while low < high {
                let middle = (low + high) / 2
                if self.known[middle].time < time { low = middle + 1 } else { high = middle }
            }
            return low == 0 ? nil : self.known[low - 1].revision
        }
    }

    private var boundsCache: [String: Bounds] = [:]

    private mutating func bounds(of incarnation: String) -> Bounds {
        if let bounds = self.boundsCache[incarnation] { return bounds }
        let bounds = Bounds(self.calls, incarnation)
        self.boundsCache[incarnation] = bounds
        return bounds
    }

    // MARK: Writes

    private mutating func checkWrites(of incarnation: String, _ log: ModelLog) {
        var claims: [UInt64: Call] = [:]
        var idle: [UInt64: [Call]] = [:]
        // They made it, or changed nothing then.
        var uncertain: [UInt64: [Call]] = [:]
        for call in self.calls where call.incarnation == incarnation && call.operation.isWrite {
            guard let revision = call.outcome.revision else { continue }
            guard let makesRevision = call.makesRevision else {
                uncertain[revision, default: []].append(call)
                continue
            }
            if !makesRevision {
                idle[revision, default: []].append(call)
            } else if let other = claims.updateValue(call, forKey: revision) {
                self.violated("\(call) and \(other) both say that they made revision \(revision)")
            }
        }
        // What may have made a revision that nobody claims: unanswered, or answered in another store that was made from this one.
        var open = self.calls.filter { $0.operation.isWrite && $0.outcome != .refused && $0.incarnation != incarnation }
        var store = log.base
        self.check(
            (idle.removeValue(forKey: store.revision) ?? []) + (uncertain.removeValue(forKey: store.revision) ?? []), changeNothingIn: store
        )
        for commit in log.commits {
            if commit.revision != store.revision + 1 {
                self.violated("revision \(commit.revision) of \(incarnation) follows \(store.revision)")
                store.revision = commit.revision - 1
            }
            var maybe = uncertain.removeValue(forKey: commit.revision) ?? []
            if let call = claims.removeValue(forKey: commit.revision) {
                let effect = store.apply(call.operation)
                self.check(call, effect, commit)
            } else if let index = maybe.firstIndex(where: { call in
                var next = store
                return next.apply(call.operation).changes == commit.changes
            }) {
                _ = store.apply(maybe.remove(at: index).operation)
            } else {
                store = self.explain(commit, in: store, with: &open, incarnation)
            }
            self.check((idle.removeValue(forKey: store.revision) ?? []) + maybe, changeNothingIn: store)
        }
        for call in claims.values.sorted(by: { $0.calledAt < $1.calledAt }) { self.violated("\(call): lost; not in the log") }
        for call in (Array(idle.values) + Array(uncertain.values)).joined() { self.violated("\(call): at a revision that never was") }
    }

    private mutating func check(_ calls: [Call], changeNothingIn store: ModelStore) {
        for call in calls {
            var store = store
            let effect = store.apply(call.operation)
            if !effect.changes.isEmpty { self.violated("\(call): said to change nothing, but would have made \(effect.changes)") }
            if case .transaction(_, let hasSucceeded, let before) = call.outcome {
                self.check(call, effect, hasSucceeded: hasSucceeded, before: before)
            }
        }
    }

    private mutating func check(_ call: Call, _ effect: ModelStore.Effect, _ commit: ModelLog.Commit) {
        if effect.changes != commit.changes { self.violated("\(call): must have made \(effect.changes), made \(commit)") }
        switch call.outcome {
        case .written(_, let changes):
            if let changes, changes != commit.changes.count { self.violated("\(call): made \(commit)") }
        case .transaction(_, let hasSucceeded, let before):
            self.check(call, effect, hasSucceeded: hasSucceeded, before: before)
        case .read, .unknown, .refused: break
        }
    }

    private mutating func check(_ call: Call, _ effect: ModelStore.Effect, hasSucceeded: Bool, before: [ModelEntry?]) {
        if hasSucceeded != effect.hasSucceeded { self.violated("\(call): its conditions held: \(effect.hasSucceeded)") }
        if before.map({ $0?.withoutLease }) != effect.before.map({ $0?.withoutLease }) {
            self.violated("\(call): there was \(effect.before) before it")
        }
    }

    /// Finds who made a revision that no answered write did, and returns the store after it.
    private mutating func explain(
        _ commit: ModelLog.Commit, in store: ModelStore, with open: inout [Call], _ incarnation: String
    ) -> ModelStore {
        let bounds = self.bounds(of: incarnation)
        for (index, call) in open.enumerated() {
            if let bound = bounds.before(call.calledAt), bound >= commit.revision { continue }
            var next = store
            guard next.apply(call.operation).changes == commit.changes else { continue }
            open.remove(at: index)
            return next
        }
        var next = store
        let leases = Set(commit.changes.map { store.entries[$0.key]?.lease })
        if leases.count == 1, let lease = leases.first ?? nil {
            if next.apply(.revoke(lease: lease)).changes == commit.changes { return next }
            next = store
        }
        self.violated("\(commit) of \(incarnation): nobody asked for it, or it was done twice")
        next.replay(commit.changes, at: commit.revision)
        return next
    }

    // MARK: Reads

    private mutating func checkReads(of incarnation: String, _ log: ModelLog) {
        for call in self.calls where call.incarnation == incarnation {
            guard case .read(let revision, let found) = call.outcome else { continue }
            guard let state = log.state(at: revision) else {
                self.violated("\(call): at a revision that never was")
                continue
            }
            let expected: [String: ModelEntry] =
                switch call.operation {
                case .get(let keys): state.entries.filter { keys.contains($0.key) }
                case .scan(let range): state.entries(in: range)
                default: [:]
                }
            if expected.mapValues(\.withoutLease) != found.mapValues(\.withoutLease) { self.violated("\(call): there was \(expected)") }
        }
    }
}

extension Call {
    /// It says that it changed something; nil if it does not say.
    fileprivate var makesRevision: Bool? {
        switch self.outcome {
        case .written(_, let changes): changes.map { $0 > 0 }
        case .transaction(_, let hasSucceeded, let before): self.operation.changesSomething(hasSucceeded, before)
        case .read, .unknown, .refused: false
        }
    }
}

extension ModelOperation {
    /// As far as the answer to a transaction tells.
    fileprivate func changesSomething(_ hasSucceeded: Bool, _ before: [ModelEntry?]) -> Bool {
        guard case .transaction(_, let then, let otherwise) = self else { return false }
        return zip(hasSucceeded ? then : otherwise, before).contains { step, before in
            switch step {
            case .get: false
            case .put: true
            case .remove: before != nil
            }
        }
    }
}

extension ModelEntry {
    /// The log does not say which lease an entry goes with.
    package var withoutLease: ModelEntry { ModelEntry(self.value, self.revision) }
}
