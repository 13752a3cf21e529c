// What a store does, as a value that knows nothing of how one is made: a dictionary, a counter, and a log. Keys and values are text here:
// the tests that use it write such.

/// What is stored under a key.
package struct ModelEntry: Hashable, Sendable {
    package var value: String
    /// That of its last change.
    package var revision: UInt64
    package var lease: Int64?

    package init(_ value: String, _ revision: UInt64, lease: Int64? = nil) {
        self.value = value
        self.revision = revision
        self.lease = lease
    }
}

/// Keys from `lower` up to, and without, `upper`.
package struct ModelRange: Hashable, Sendable {
    package var lower: String
    package var upper: String?

    package init(_ lower: String, _ upper: String?) {
        self.lower = lower
        self.upper = upper
    }

    package static let all = ModelRange("", nil)

    package func contains(_ key: String) -> Bool { key >= self.lower && self.upper.map { key < $0 } ?? true }
}

/// One step of a write.
package enum ModelStep: Hashable, Sendable {
    case get(String)
    case put(String, String, lease: Int64? = nil)
    case remove(String)

    package var key: String {
        switch self {
        case .get(let key), .put(let key, _, _), .remove(let key): key
        }
    }
}

/// A condition of a transaction.
package struct ModelCompare: Hashable, Sendable {
    package enum Condition: Hashable, Sendable {
        case isPresent(Bool)
        case revisionIs(UInt64)
        case valueIs(String)
    }

    package var key: String
    package var condition: Condition

    package init(_ key: String, _ condition: Condition) {
        self.key = key
        self.condition = condition
    }

    /// An absent key has revision 0 and an empty value.
    package func holds(for entry: ModelEntry?) -> Bool {
        switch self.condition {
        case .isPresent(let isPresent): (entry != nil) == isPresent
        case .revisionIs(let revision): (entry?.revision ?? 0) == revision
        case .valueIs(let value): (entry?.value ?? "") == value
        }
    }
}

/// What a client asks of a store.
package enum ModelOperation: Hashable, Sendable {
    case get([String])
    case scan(ModelRange)
    /// Puts and removes without a condition, all or none.
    case write([ModelStep])
    case transaction([ModelCompare], then: [ModelStep], otherwise: [ModelStep])
    /// Removes what is bound to the lease.
    case revoke(lease: Int64)

    package var isWrite: Bool {
        switch self {
        case .get, .scan: false
        case .write, .transaction, .revoke: true
        }
    }
}

/// A key's change, as the log has it and watchers see it.
package struct ModelChange: Hashable, Sendable {
    package var key: String
    /// Nil: removed.
    package var value: String?
    /// 0: the key was absent.
    package var previousRevision: UInt64

    package init(_ key: String, _ value: String?, previousRevision: UInt64) {
        self.key = key
        self.value = value
        self.previousRevision = previousRevision
    }
}

/// A store at one revision.
package struct ModelStore: Hashable, Sendable {
    package var entries: [String: ModelEntry]
    package var revision: UInt64

    package init(entries: [String: ModelEntry] = [:], revision: UInt64 = 0) {
        self.entries = entries
        self.revision = revision
    }

    /// What a write does.
    package struct Effect: Hashable, Sendable {
        /// Of each key that changes, in the order of keys.
        package var changes: [ModelChange]
        /// What was at the key of each step before it.
        package var before: [ModelEntry?]
        /// The conditions held.
        package var hasSucceeded: Bool
    }

    /// Does `operation`, at the next revision if it changes anything.
    package mutating func apply(_ operation: ModelOperation) -> Effect {
        switch operation {
        case .get, .scan: return Effect(changes: [], before: [], hasSucceeded: true)
        case .write(let steps): return self.apply(steps, hasSucceeded: true)
        case .transaction(let compares, let then, let otherwise):
            let holds = compares.allSatisfy { $0.holds(for: self.entries[$0.key]) }
            return self.apply(holds ? then : otherwise, hasSucceeded: holds)
        case .revoke(let lease):
            let keys = self.entries.filter { $0.value.lease == lease }.keys.sorted()
            return self.apply(keys.map { .remove($0) }, hasSucceeded: true)
        }
    }

    private mutating func apply(_ steps: [ModelStep], hasSucceeded: Bool) -> Effect {
        let old = self.entries
        let revision = self.revision + 1
        var before: [ModelEntry?] = []
        var touched: Set<String> = []
        for step in steps {
            before.append(self.entries[step.key])
            switch step {
            case .get: break
            case .put(let key, let value, let lease):
                self.entries[key] = ModelEntry(value, revision, lease: lease)
                touched.insert(key)
            case .remove(let key):
                if self.entries.removeValue(forKey: key) != nil { touched.insert(key) }
            }
        }
        let changes = touched.sorted().map { key in
            ModelChange(key, self.entries[key]?.value, previousRevision: old[key]?.revision ?? 0)
        }
        if !changes.isEmpty { self.revision = revision }
        return Effect(changes: changes, before: before, hasSucceeded: hasSucceeded)
    }

    /// Does what the log says happened at `revision`. Leases are not in the log.
    package mutating func replay(_ changes: [ModelChange], at revision: UInt64) {
        for change in changes {
            self.entries[change.key] = change.value.map { ModelEntry($0, revision) }
        }
        self.revision = revision
    }

    package func entries(in range: ModelRange) -> [String: ModelEntry] { self.entries.filter { range.contains($0.key) } }
}
