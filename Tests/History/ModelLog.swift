/// What happened in one store, in order: its state at the beginning, and every change behind it.
package struct ModelLog: Sendable {
    package struct Commit: Hashable, Sendable {
        package var revision: UInt64
        package var changes: [ModelChange]

        package init(_ revision: UInt64, _ changes: [ModelChange]) {
            self.revision = revision
            self.changes = changes.sorted { $0.key < $1.key }
        }
    }

    package let base: ModelStore
    package private(set) var commits: [Commit] = []
    /// The store at the base, and after each commit.
    private var states: [ModelStore]

    package init(base: ModelStore = ModelStore()) {
        self.base = base
        self.states = [base]
    }

    package mutating func append(_ commit: Commit) {
        var state = self.last
        state.replay(commit.changes, at: commit.revision)
        self.commits.append(commit)
        self.states.append(state)
    }

    /// The store now.
    package var last: ModelStore { self.states[self.states.count - 1] }

    /// The store as it was at `revision`; nil if that is before the base, or has not happened.
    package func state(at revision: UInt64) -> ModelStore? {
        guard revision >= self.base.revision, revision <= self.last.revision else { return nil }
        // Revisions follow each other: `LogCheck` sees to it. Where they do not, the last one before it counts.
        var (low, high) = (0, self.states.count - 1)
        while low < high {
            let middle = (low + high + 1) / 2
            if self.states[middle].revision <= revision { low = middle } else { high = middle - 1 }
        }
        return self.states[low]
    }

    /// The first commit behind `revision` that concerns one of `ranges`, with what of it does.
    package func next(after revision: UInt64, in ranges: [ModelRange]) -> Commit? {
        var (low, high) = (0, self.commits.count)
        while low < high {
            let middle = (low + high) / 2
            if self.commits[middle].revision <= revision { low = middle + 1 } else { high = middle }
        }
        for commit in self.commits[low...] {
            let changes = commit.changes.filter { change in ranges.contains { $0.contains(change.key) } }
            if !changes.isEmpty { return Commit(commit.revision, changes) }
        }
        return nil
    }
}
