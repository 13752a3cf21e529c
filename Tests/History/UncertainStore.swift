/// A store whose clients do not know every revision: that of a write with an unknown outcome shows only when it is read.
struct UncertainStore: Hashable {
    /// A key's entry; its revision may be anything above ``last`` as it was then.
    struct Cell: Hashable {
        var value: String
        var revision: UInt64?
        var lease: Int64?
    }

    private let keys: [String]
    private var cells: [Cell?]
    /// The store's revision is no lower.
    private var last: UInt64

    init(keys: [String], _ initial: ModelStore) {
        self.keys = keys
        self.cells = keys.map { key in
            initial.entries[key].map { Cell(value: $0.value, revision: $0.revision, lease: $0.lease) }
        }
        self.last = initial.revision
    }

    static func == (left: Self, right: Self) -> Bool { left.last == right.last && left.cells == right.cells }

    func hash(into hasher: inout Hasher) {
        hasher.combine(self.last)
        hasher.combine(self.cells)
    }

    private func index(of key: String) -> Int? {
        var (low, high) = (0, self.keys.count)
        while low < high {
            let middle = (low + high) / 2
            if self.keys[middle] < key { low = middle + 1 } else { high = middle }
        }
        return low < self.keys.count && self.keys[low] == key ? low : nil
    }

    /// The stores that this may be once `call` has been done with its outcome; none if it cannot have that outcome now.
    func after(_ call: Call) -> [UncertainStore] {
        switch (call.operation, call.outcome) {
        case (.get(let keys), .read(let revision, let found)): self.read(keys, found, at: revision)
        case (.scan(let range), .read(let revision, let found)): self.read(self.keys.filter { range.contains($0) }, found, at: revision)
        case (.write(let steps), .written(let revision, let changes)): self.write(steps, at: revision, changes: changes)
        case (.write(let steps), .unknown): self.write(steps, at: nil, changes: nil)
        case (.revoke(let lease), .written(let revision, let changes)): self.write(self.bound(to: lease), at: revision, changes: changes)
        case (.revoke(let lease), .unknown): self.write(self.bound(to: lease), at: nil, changes: nil)
        case (.transaction(let compares, let then, _), .transaction(let revision, true, let before)):
            self.assume(compares, hold: true).flatMap { $0.write(then, at: revision, changes: nil, before: before) }
        case (.transaction(let compares, _, let otherwise), .transaction(let revision, false, let before)):
            self.assume(compares, hold: false).flatMap { $0.write(otherwise, at: revision, changes: nil, before: before) }
        case (.transaction(let compares, let then, let otherwise), .unknown):
            self.assume(compares, hold: true).flatMap { $0.write(then, at: nil, changes: nil) }
                + self.assume(compares, hold: false).flatMap { $0.write(otherwise, at: nil, changes: nil) }
        default: []
        }
    }

    private func bound(to lease: Int64) -> [ModelStep] {
        zip(self.keys, self.cells).filter { $0.1?.lease == lease }.map { .remove($0.0) }
    }

    private func read(_ keys: [String], _ found: [String: ModelEntry], at revision: UInt64) -> [UncertainStore] {
        guard revision >= self.last else { return [] }
        var next = self
        next.last = revision
        for key in keys where !next.bind(key, found[key]) { return [] }
        return [next]
    }

    /// Whether `key` can hold `entry`; then it does.
    private mutating func bind(_ key: String, _ entry: ModelEntry?) -> Bool {
        guard let index = self.index(of: key), let cell = self.cells[index] else { return entry == nil }
        guard let entry, entry.value == cell.value, cell.revision == nil || cell.revision == entry.revision else { return false }
        self.cells[index]?.revision = entry.revision
        return true
    }

    private func write(
        _ steps: [ModelStep], at revision: UInt64?, changes: Int?, before: [ModelEntry?]? = nil
    ) -> [UncertainStore] {
        var next = self
        var touched: Set<String> = []
        for (number, step) in steps.enumerated() {
            if let before {
                guard before.count == steps.count, next.bind(step.key, before[number]) else { return [] }
            }
            guard let index = self.index(of: step.key) else { continue }
            switch step {
            case .get: break
            case .put(_, let value, let lease):
                next.cells[index] = Cell(value: value, revision: revision, lease: lease)
                touched.insert(step.key)
            case .remove:
                if next.cells[index] != nil { touched.insert(step.key) }
                next.cells[index] = nil
            }
        }
        if let changes, changes != touched.count { return [] }
        if let revision {
            guard touched.isEmpty ? revision >= self.last : revision > self.last else { return [] }
            next.last = revision
        } else if !touched.isEmpty {
            next.last += 1
        }
        return [next]
    }

    /// The stores that this may be if the conditions hold, or do not.
    private func assume(_ compares: [ModelCompare], hold: Bool) -> [UncertainStore] {
        // Those that decide: all of them, or one that fails.
        var uncertain: [(index: Int, revision: UInt64)] = []
        var allCertainHold = true
        for compare in compares {
            let index = self.index(of: compare.key)
            let cell = index.flatMap { self.cells[$0] }
            if let index, let cell, cell.revision == nil, case .revisionIs(let revision) = compare.condition {
                if revision > 0 { uncertain.append((index, revision)) } else { allCertainHold = false }
                continue
            }
            let entry = cell.map { ModelEntry($0.value, $0.revision ?? 0) }
            if !compare.holds(for: entry) { allCertainHold = false }
        }
        if !hold { return allCertainHold && uncertain.isEmpty ? [] : [self] }
        guard allCertainHold else { return [] }
        var next = self
        for (index, revision) in uncertain { next.cells[index]?.revision = revision }
        return [next]
    }
}
