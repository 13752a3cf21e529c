import History
import Testing

/// What a log says against what clients know.
@Suite struct LogCheckTests {
    private static func check(_ log: ModelLog, _ body: (inout History) -> Void) -> [Violation] {
        var history = History()
        body(&history)
        return LogCheck(history, ["x": log]).violations
    }

    private static func log(_ commits: [ModelChange]...) -> ModelLog {
        var log = ModelLog()
        for (index, changes) in commits.enumerated() { log.append(.init(UInt64(index + 1), changes)) }
        return log
    }

    private static let twoPuts = log(
        [ModelChange("a", "1", previousRevision: 0)], [ModelChange("a", "2", previousRevision: 1)])

    @Test func `A log that is what was asked for passes`() {
        let violations = Self.check(Self.twoPuts) { history in
            let first = history.called(.write([.put("a", "1")]), by: 1)
            history.returned(first, .written(revision: 1, changes: 1), incarnation: "x")
            _ = history.called(.write([.put("a", "2")]), by: 1)
            let read = history.called(.get(["a"]), by: 2)
            history.returned(read, .read(revision: 2, ["a": ModelEntry("2", 2)]), incarnation: "x")
        }
        #expect(violations.isEmpty)
    }

    @Test func `A lost write, a repeated one and one that nobody asked for are found`() {
        let lost = Self.check(Self.log([ModelChange("a", "1", previousRevision: 0)])) { history in
            for (revision, value) in [(UInt64(1), "1"), (2, "2")] {
                let call = history.called(.write([.put("a", value)]), by: 1)
                history.returned(call, .written(revision: revision, changes: 1), incarnation: "x")
            }
        }
        #expect(lost.count == 1)
        let twice = Self.log([ModelChange("a", "1", previousRevision: 0)], [ModelChange("a", "1", previousRevision: 1)])
        let repeated = Self.check(twice) { history in
            let call = history.called(.write([.put("a", "1")]), by: 1)
            history.returned(call, .written(revision: 1, changes: 1), incarnation: "x")
        }
        #expect(repeated.count == 1)
        #expect(Self.check(Self.twoPuts) { $0.add(.write([.put("a", "2")]), .refused, from: 1, to: 2) }.count == 2)
        #expect(Self.check(Self.twoPuts) { $0.add(.write([.put("a", "1")]), .unknown, from: 1, to: 2) }.count == 1)
    }

    @Test func `A read of the past, a wrong effect and a wrong answer are found`() {
        let stale = Self.check(Self.twoPuts) { history in
            for (revision, value) in [(UInt64(1), "1"), (2, "2")] {
                let call = history.called(.write([.put("a", value)]), by: 1)
                history.returned(call, .written(revision: revision, changes: 1), incarnation: "x")
            }
            let read = history.called(.get(["a"]), by: 2)
            history.returned(read, .read(revision: 1, ["a": ModelEntry("1", 1)]), incarnation: "x")
        }
        #expect(stale.count == 1)
        let torn = Self.check(Self.log([ModelChange("a", "1", previousRevision: 0)])) { history in
            let call = history.called(.write([.put("a", "1"), .put("b", "1")]), by: 1)
            history.returned(call, .written(revision: 1, changes: 2), incarnation: "x")
        }
        #expect(!torn.isEmpty)
        let untrue = Self.check(Self.log([ModelChange("a", "1", previousRevision: 0)])) { history in
            let call = history.called(
                .transaction([ModelCompare("a", .isPresent(true))], then: [], otherwise: [.put("a", "1")]), by: 1)
            history.returned(call, .transaction(revision: 1, hasSucceeded: true, before: []), incarnation: "x")
        }
        #expect(!untrue.isEmpty)
    }

    @Test func `A lease that ends explains what nobody asked for, if all of its keys go`() {
        let put: [ModelChange] = ["a", "b"].map { ModelChange($0, "1", previousRevision: 0) }
        func check(_ removals: [String]) -> [Violation] {
            Self.check(Self.log(put, removals.map { ModelChange($0, nil, previousRevision: 1) })) { history in
                let call = history.called(.write([.put("a", "1", lease: 9), .put("b", "1", lease: 9)]), by: 1)
                history.returned(call, .written(revision: 1, changes: 2), incarnation: "x")
            }
        }
        #expect(check(["a", "b"]).isEmpty)
        #expect(check(["a"]).count == 1)
    }

    @Test(arguments: 0..<40) func `Histories of a store that works pass, and those with one answer changed fail`(seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        let (history, log) = RandomHistory.make(calls: 60, clients: 8, using: &random)
        #expect(LogCheck(history, ["x": log]).violations == [])
        let spoiled = try #require(RandomHistory.spoil(history, using: &random))
        #expect(LogCheck(spoiled, ["x": log]).violations.count == 1)
    }
}

/// Which streams a watch may have.
@Suite struct WatchCheckTests {
    private static let log: ModelLog = {
        var log = ModelLog()
        log.append(.init(1, [ModelChange("a", "1", previousRevision: 0), ModelChange("b", "1", previousRevision: 0)]))
        log.append(.init(2, [ModelChange("z", "2", previousRevision: 0)]))
        log.append(.init(3, [ModelChange("a", nil, previousRevision: 1)]))
        log.append(.init(4, [ModelChange("b", "4", previousRevision: 1)]))
        return log
    }()
    private static let range = ModelRange("a", "c")
    private static let all: [WatchItem] = [1, 3, 4].compactMap { revision in
        log.next(after: revision - 1, in: [range]).map { .changes($0, incarnation: "x") }
    }
    private static let state: WatchItem = .state(["a": ModelEntry("1", 1), "b": ModelEntry("1", 1)], 2, incarnation: "x")

    private static func violation(
        _ items: [WatchItem], from start: WatchTerms.Start = .after(0, incarnation: "x"), isQuiet: Bool = true
    ) -> String? {
        WatchCheck.check(items, of: WatchTerms([self.range], from: start), in: ["x": self.log], quietStore: isQuiet ? "x" : nil)?
            .description
    }

    @Test func `Every change once and in order passes, from anywhere, and over reconnections and progress`() {
        #expect(Self.violation(Self.all) == nil)
        #expect(Self.violation(Array(Self.all[1...]), from: .after(2, incarnation: "x")) == nil)
        #expect(Self.violation(Array(Self.all[1...]), from: .now) == nil)
        let x = "x"
        #expect(
            Self.violation([Self.all[0], .progress(2, incarnation: x), .resumed(2, incarnation: x), Self.all[1], Self.all[2]]) == nil)
        #expect(Self.violation([Self.state, .synced(2, incarnation: x)] + Self.all[1...], from: .state) == nil)
        #expect(Self.violation([Self.all[0], .resync, Self.state, .synced(2, incarnation: x)] + Self.all[1...]) == nil)
        #expect(Self.violation([.ended]) == nil)
    }

    @Test func `A missed, repeated or reordered event and a torn batch are found`() {
        #expect(Self.violation(Array(Self.all[1...])) != nil)
        #expect(Self.violation(Array(Self.all[..<2])) != nil)
        #expect(Self.violation(Array(Self.all[..<2]), isQuiet: false) == nil)
        #expect(Self.violation([Self.all[0], Self.all[0]] + Self.all[1...]) != nil)
        #expect(Self.violation([Self.all[1], Self.all[0], Self.all[2]]) != nil)
        #expect(Self.violation([Self.all[0], .progress(3, incarnation: "x")]) != nil)
        let torn: WatchItem = .changes(.init(1, [ModelChange("a", "1", previousRevision: 0)]), incarnation: "x")
        #expect(Self.violation([torn] + Self.all[1...]) != nil)
        #expect(Self.violation([Self.all[0], .resumed(3, incarnation: "x"), Self.all[2]]) != nil, "without a resync")
    }

    @Test func `A state that was not so, has a key twice or no end, or that nobody asked for is found`() {
        let x = "x"
        let half: WatchItem = .state(["a": ModelEntry("1", 1)], 2, incarnation: x)
        #expect(Self.violation([half, .synced(2, incarnation: x)] + Self.all[1...], from: .state) != nil)
        #expect(Self.violation([Self.state, Self.state, .synced(2, incarnation: x)] + Self.all[1...], from: .state) != nil)
        #expect(Self.violation([Self.state], from: .state) != nil)
        #expect(Self.violation([Self.state, .synced(3, incarnation: x)] + Self.all[2...], from: .state) != nil)
        #expect(Self.violation([Self.state, .synced(2, incarnation: x)] + Self.all[1...]) != nil)
        #expect(Self.violation([Self.all[0], .resumed(1, incarnation: "y")] + Self.all[1...]) != nil)
    }
}
