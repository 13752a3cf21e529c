// Whether a history is linearizable: whether there is an order of its operations that one store, doing one after the other, could have had,
// and in which each takes effect between its call and its return (Herlihy, Wing: Linearizability, 1990).
//
// The search is Wing's and Gong's with Lowe's memory of where it has been (Testing for linearizability, 2017):
//
//   time ──▶    c1 ├──────────┤          candidates: the calls that nobody's return precedes. Take one, if the store can answer so;
//               c2    ├───────────┤      go on with the rest, unless the same calls have been taken before and led to the same state.
//               c3 ├─────────────────…   An unknown outcome has no return: it is a candidate for ever, and need not be taken.
//
// A history about several keys falls apart into groups of keys that no operation joins: each is checked on its own, which says the same
// (locality, loc. cit. §3.3). What all of them share, the order of revisions, is `LogCheck`'s.

/// Looks for a legal order of a history.
package struct LinearizabilityChecker {
    package enum Verdict: Hashable, Sendable {
        case linearizable
        /// There is no order of these calls, which concern the keys given.
        case violated(keys: [String])
        /// Too many orders were possible.
        case undecided
    }

    /// Configurations to look at, at most: some 100 bytes each.
    package var maximumConfigurations = 1_000_000

    package init() {}

    /// - Parameter initial: What the store held before.
    package func check(_ history: History, from initial: ModelStore = ModelStore()) -> Verdict {
        var verdict = Verdict.linearizable
        for group in KeyGroups(history.calls, initial).groups {
            var search = Search(group, initial, maximumConfigurations: self.maximumConfigurations)
            switch search.run() {
            case .linearizable: continue
            case .undecided: verdict = .undecided
            case .violated: return .violated(keys: group.keys)
            }
        }
        return verdict
    }
}

/// Calls by the keys that they join.
struct KeyGroups {
    struct Group {
        var keys: [String] = []
        var calls: [Call] = []
    }

    private(set) var groups: [Group] = []

    init(_ calls: [Call], _ initial: ModelStore) {
        let calls = calls.filter { $0.outcome != .refused && !($0.outcome == .unknown && !$0.operation.isWrite) }
        let all = Set(calls.flatMap { $0.operation.namedKeys }).union(initial.entries.keys).sorted()
        var parent = Dictionary(uniqueKeysWithValues: all.map { ($0, $0) })
        func root(_ key: String) -> String {
            var key = key
            while let next = parent[key], next != key { key = next }
            return key
        }
        func keys(of call: Call) -> [String] {
            switch call.operation {
            case .scan(let range): all.filter { range.contains($0) }
            case .revoke: all
            default: call.operation.namedKeys
            }
        }
        for call in calls {
            let keys = keys(of: call)
            for key in keys.dropFirst() { parent[root(key)] = root(keys[0]) }
        }
        var byRoot: [String: Group] = [:]
        for key in all { byRoot[root(key), default: Group()].keys.append(key) }
        for call in calls {
            if let first = keys(of: call).first { byRoot[root(first), default: Group()].calls.append(call) }
        }
        self.groups = byRoot.values.filter { !$0.calls.isEmpty }.sorted { $0.keys[0] < $1.keys[0] }
    }
}

extension ModelOperation {
    var namedKeys: [String] {
        switch self {
        case .get(let keys): keys
        case .scan, .revoke: []
        case .write(let steps): steps.map(\.key)
        case .transaction(let compares, let then, let otherwise): compares.map(\.key) + (then + otherwise).map(\.key)
        }
    }
}

/// The search over one group.
private struct Search {
    private struct Configuration: Hashable {
        let taken: [UInt64]
        let state: UncertainStore
    }

    private struct Frame {
        let call: Int
        let state: UncertainStore
        let candidates: [Int]
        let position: Int
        let alternative: Int
    }

    /// By the time of the call.
    private let calls: [Call]
    private let maximumConfigurations: Int
    private var taken: [UInt64]
    private var state: UncertainStore
    private var untakenReturns: Int
    private var seen: Set<Configuration> = []
    private var firstUntaken = 0

    init(_ group: KeyGroups.Group, _ initial: ModelStore, maximumConfigurations: Int) {
        self.calls = group.calls.sorted { $0.calledAt < $1.calledAt }
        self.maximumConfigurations = maximumConfigurations
        self.taken = Array(repeating: 0, count: group.calls.count / 64 + 1)
        self.state = UncertainStore(keys: group.keys, initial)
        self.untakenReturns = self.calls.count { Self.mustBeTaken($0) }
    }

    private static func mustBeTaken(_ call: Call) -> Bool { call.outcome != .unknown }

    private func isTaken(_ call: Int) -> Bool { self.taken[call / 64] & (1 << UInt64(call % 64)) != 0 }

    mutating func run() -> LinearizabilityChecker.Verdict {
        var frames: [Frame] = []
        var candidates = self.candidates()
        var position = 0
        var alternative = 0
        while self.untakenReturns > 0 {
            if position < candidates.count {
                let call = candidates[position]
                let next = self.state.after(self.calls[call])
                if alternative < next.count {
                    self.take(call)
                    if self.seen.insert(Configuration(taken: self.taken, state: next[alternative])).inserted {
                        if self.seen.count > self.maximumConfigurations { return .undecided }
                        frames.append(
                            Frame(call: call, state: self.state, candidates: candidates, position: position, alternative: alternative))
                        self.state = next[alternative]
                        candidates = self.candidates()
                        (position, alternative) = (0, 0)
                    } else {
                        self.giveBack(call)
                        alternative += 1
                    }
                } else {
                    (position, alternative) = (position + 1, 0)
                }
            } else {
                guard let frame = frames.popLast() else { return .violated(keys: []) }
                self.giveBack(frame.call)
                self.state = frame.state
                (candidates, position, alternative) = (frame.candidates, frame.position, frame.alternative + 1)
            }
        }
        return .linearizable
    }

    private mutating func take(_ call: Int) {
        self.taken[call / 64] |= 1 << UInt64(call % 64)
        if Self.mustBeTaken(self.calls[call]) { self.untakenReturns -= 1 }
        while self.firstUntaken < self.calls.count, self.isTaken(self.firstUntaken) { self.firstUntaken += 1 }
    }

    private mutating func giveBack(_ call: Int) {
        self.taken[call / 64] &= ~(1 << UInt64(call % 64))
        if Self.mustBeTaken(self.calls[call]) { self.untakenReturns += 1 }
        self.firstUntaken = min(self.firstUntaken, call)
    }

    /// Calls that may come next: none was called after another's return. What is unknown comes last: it need not have happened.
    private func candidates() -> [Int] {
        var certain: [Int] = []
        var uncertain: [Int] = []
        var earliestReturn = Int.max
        for index in self.firstUntaken..<self.calls.count where !self.isTaken(index) {
            let call = self.calls[index]
            if call.calledAt > earliestReturn { break }
            if Self.mustBeTaken(call) {
                certain.append(index)
                earliestReturn = min(earliestReturn, call.returnedAt ?? Int.max)
            } else {
                uncertain.append(index)
            }
        }
        // What they say of the store's revision tells which is the likeliest to have happened first; at one revision, the write.
        func rank(_ index: Int) -> (UInt64, Int) {
            (self.calls[index].outcome.revision ?? 0, self.calls[index].operation.isWrite ? 0 : 1)
        }
        return certain.sorted { rank($0) < rank($1) } + uncertain
    }
}
