import History

/// Histories of a store that works.
enum RandomHistory {
    private static let keys = ["a", "b", "c", "d"]

    static func make(calls: Int, clients: Int, using random: inout SeededGenerator) -> (History, ModelLog) {
        var store = ModelStore()
        var log = ModelLog()
        var history = History()
        var running: [(id: History.CallID, operation: ModelOperation, outcome: ModelOutcome?)] = []
        var made = 0
        while made < calls || !running.isEmpty {
            if made < calls, running.count < clients, Bool.random(using: &random) {
                made += 1
                let operation = self.operation(number: made, store, using: &random)
                running.append((history.called(operation, by: running.count), operation, nil))
                continue
            }
            guard let index = running.indices.randomElement(using: &random) else { continue }
            if let outcome = running[index].outcome {
                if UInt.random(in: 0..<20, using: &random) > 0 { history.returned(running[index].id, outcome, incarnation: "x") }
                running.remove(at: index)
            } else {
                running[index].outcome = self.perform(running[index].operation, on: &store, &log)
            }
        }
        return (history, log)
    }

    private static func operation(number: Int, _ store: ModelStore, using random: inout SeededGenerator) -> ModelOperation {
        let key = self.keys.randomElement(using: &random) ?? "a"
        let other = self.keys.first { $0 != key } ?? "b"
        switch UInt.random(in: 0..<6, using: &random) {
        case 0: return .write([.put(key, "\(number)")])
        case 1: return .write([.put(key, "\(number)"), .put(other, "\(number)")])
        case 2: return .write([.remove(key)])
        case 3: return .scan(.all)
        case 4:
            let revision = store.entries[key]?.revision ?? 0
            return .transaction(
                [ModelCompare(key, .revisionIs(revision))], then: [.put(key, "\(number)"), .remove(other)], otherwise: [.get(key)])
        default: return .get([key, other])
        }
    }

    private static func perform(
        _ operation: ModelOperation, on store: inout ModelStore, _ log: inout ModelLog
    ) -> ModelOutcome {
        let effect = store.apply(operation)
        if !effect.changes.isEmpty { log.append(.init(store.revision, effect.changes)) }
        switch operation {
        case .get(let keys): return .read(revision: store.revision, store.entries.filter { keys.contains($0.key) })
        case .scan(let range): return .read(revision: store.revision, store.entries(in: range))
        case .write, .revoke: return .written(revision: store.revision, changes: effect.changes.count)
        case .transaction: return .transaction(revision: store.revision, hasSucceeded: effect.hasSucceeded, before: effect.before)
        }
    }

    /// The same with one answer that cannot be: a value from nowhere.
    static func spoil(_ history: History, using random: inout SeededGenerator) -> History? {
        let reads = history.calls.indices.filter { index in
            if case .read(_, let entries) = history.calls[index].outcome { return !entries.isEmpty }
            return false
        }
        guard let chosen = reads.randomElement(using: &random) else { return nil }
        var spoiled = History()
        for (index, call) in history.calls.enumerated() {
            var outcome = call.outcome
            if index == chosen, case .read(let revision, var entries) = outcome, let key = entries.keys.min() {
                entries[key]?.value = "nobody's"
                outcome = .read(revision: revision, entries)
            }
            spoiled.add(call.operation, outcome, from: call.calledAt, to: call.returnedAt, by: call.client, incarnation: call.incarnation)
        }
        return spoiled
    }
}
