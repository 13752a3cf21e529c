/// What became of an operation, as its client learned it.
package enum ModelOutcome: Hashable, Sendable {
    /// What is there, of what was asked for, at a revision of the store.
    case read(revision: UInt64, [String: ModelEntry])
    /// The revision that the write made; the store's if it changed nothing. Keys that changed, if that was said.
    case written(revision: UInt64, changes: Int?)
    case transaction(revision: UInt64, hasSucceeded: Bool, before: [ModelEntry?])
    /// It may have happened at any time since it was called, may still happen, or never.
    case unknown
    /// It did not happen, and will not.
    case refused

    /// The store's revision, as the client learned it.
    package var revision: UInt64? {
        switch self {
        case .read(let revision, _), .written(let revision, _), .transaction(let revision, _, _): revision
        case .unknown, .refused: nil
        }
    }
}

/// One operation of one client, from its call to its return.
package struct Call: Sendable {
    package let client: Int
    package let operation: ModelOperation
    /// Moments of one clock that all clients of the history share; each is given once.
    package let calledAt: Int
    package var returnedAt: Int?
    package var outcome: ModelOutcome
    /// In which store it was done; stores that were restored are others. Nil if nobody knows.
    package var incarnation: String?
}

extension Call: CustomStringConvertible {
    package var description: String {
        let end = self.returnedAt.map(String.init) ?? "…"
        return "client \(self.client) [\(self.calledAt), \(end)] \(self.operation) -> \(self.outcome)"
    }
}

/// The calls of all clients.
package struct History: Sendable {
    package struct CallID: Hashable, Sendable {
        fileprivate let index: Int
    }

    package private(set) var calls: [Call] = []
    private var clock = 0

    package init() {}

    /// A client calls. Until it returns, the outcome is unknown.
    package mutating func called(_ operation: ModelOperation, by client: Int) -> CallID {
        self.clock += 1
        self.calls.append(Call(client: client, operation: operation, calledAt: self.clock, returnedAt: nil, outcome: .unknown))
        return CallID(index: self.calls.count - 1)
    }

    package mutating func returned(_ id: CallID, _ outcome: ModelOutcome, incarnation: String? = nil) {
        self.clock += 1
        self.calls[id.index].returnedAt = self.clock
        self.calls[id.index].outcome = outcome
        self.calls[id.index].incarnation = incarnation
    }

    /// Adds a call with times of its own, for tests of the checkers.
    package mutating func add(
        _ operation: ModelOperation, _ outcome: ModelOutcome, from calledAt: Int, to returnedAt: Int?, by client: Int = 0,
        incarnation: String? = nil
    ) {
        self.clock = max(self.clock, returnedAt ?? calledAt)
        self.calls.append(
            Call(
                client: client, operation: operation, calledAt: calledAt, returnedAt: returnedAt, outcome: outcome,
                incarnation: incarnation))
    }
}

/// Something that must not happen has.
package struct Violation: Error, Hashable, Sendable, CustomStringConvertible {
    package let description: String

    package init(_ description: String) { self.description = description }
}
