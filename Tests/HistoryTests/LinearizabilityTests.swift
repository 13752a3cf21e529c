import History
import Testing

/// The checker itself: histories that are known to be good, and known to be bad.
@Suite struct LinearizabilityTests {
    private static func verdict(_ body: (inout History) -> Void) -> LinearizabilityChecker.Verdict {
        var history = History()
        body(&history)
        return LinearizabilityChecker().check(history)
    }

    private static func put(_ key: String, _ value: String) -> ModelOperation { .write([.put(key, value)]) }

    private static func read(_ revision: UInt64, _ entries: [String: (String, UInt64)]) -> ModelOutcome {
        .read(revision: revision, entries.mapValues { ModelEntry($0.0, $0.1) })
    }

    @Test func `What happened one after the other is fine, and a read of what was overwritten is not`() {
        #expect(
            Self.verdict {
                $0.add(Self.put("a", "1"), .written(revision: 1, changes: 1), from: 1, to: 2)
                $0.add(Self.put("a", "2"), .written(revision: 2, changes: 1), from: 3, to: 4)
                $0.add(.get(["a"]), Self.read(2, ["a": ("2", 2)]), from: 5, to: 6)
            } == .linearizable)
        #expect(
            Self.verdict {
                $0.add(Self.put("a", "1"), .written(revision: 1, changes: 1), from: 1, to: 2)
                $0.add(Self.put("a", "2"), .written(revision: 2, changes: 1), from: 3, to: 4)
                $0.add(.get(["a"]), Self.read(2, ["a": ("1", 1)]), from: 5, to: 6)
            } == .violated(keys: ["a"]))
        #expect(
            Self.verdict {
                $0.add(Self.put("a", "1"), .written(revision: 1, changes: 1), from: 1, to: 2)
                $0.add(.get(["a"]), Self.read(0, [:]), from: 3, to: 4)
            } == .violated(keys: ["a"]))
    }

    @Test(arguments: [("1", UInt64(1), true), ("2", 2, true), ("3", 3, false)])
    func `A read that overlaps a write sees what was before it or what is after it`(value: String, revision: UInt64, isLegal: Bool) {
        let verdict = Self.verdict {
            $0.add(Self.put("a", "1"), .written(revision: 1, changes: 1), from: 1, to: 2)
            $0.add(Self.put("a", "2"), .written(revision: 2, changes: 1), from: 3, to: 6)
            $0.add(.get(["a"]), Self.read(revision, ["a": (value, revision)]), from: 4, to: 5, by: 1)
        }
        #expect((verdict == .linearizable) == isLegal)
    }

    // Both reads overlap the write; the second began after the first had returned.
    @Test func `Once the new value has been read, nobody reads the old one`() {
        func history(_ first: UInt64, _ second: UInt64) -> LinearizabilityChecker.Verdict {
            Self.verdict {
                $0.add(Self.put("a", "1"), .written(revision: 1, changes: 1), from: 1, to: 2)
                $0.add(Self.put("a", "2"), .written(revision: 2, changes: 1), from: 3, to: 10)
                $0.add(.get(["a"]), Self.read(first, ["a": ("\(first)", first)]), from: 4, to: 5, by: 1)
                $0.add(.get(["a"]), Self.read(second, ["a": ("\(second)", second)]), from: 6, to: 7, by: 2)
            }
        }
        #expect(history(1, 2) == .linearizable)
        #expect(history(2, 1) == .violated(keys: ["a"]))
    }

    @Test func `An unknown outcome happens at any later time or never, and once only`() {
        func history(_ reads: [(String, UInt64)]) -> LinearizabilityChecker.Verdict {
            Self.verdict { history in
                history.add(Self.put("a", "lost"), .unknown, from: 1, to: 2)
                history.add(Self.put("a", "1"), .written(revision: 7, changes: 1), from: 3, to: 4)
                for (number, read) in reads.enumerated() {
                    history.add(
                        .get(["a"]), Self.read(max(7, read.1), ["a": read]), from: 10 + 2 * number, to: 11 + 2 * number)
                }
            }
        }
        #expect(history([("1", 7), ("1", 7)]) == .linearizable, "never")
        #expect(history([("1", 7), ("lost", 8), ("lost", 8)]) == .linearizable, "late")
        #expect(history([("lost", 8), ("1", 7)]) == .violated(keys: ["a"]), "there and gone again")
        #expect(history([("lost", 8), ("lost", 9)]) == .violated(keys: ["a"]), "twice")
    }

    @Test func `A lost write, and one that comes back, are found`() {
        #expect(
            Self.verdict {
                $0.add(Self.put("a", "1"), .written(revision: 1, changes: 1), from: 1, to: 2)
                $0.add(.write([.remove("a")]), .written(revision: 2, changes: 1), from: 3, to: 4)
                $0.add(.get(["a"]), Self.read(3, ["a": ("1", 3)]), from: 5, to: 6)
            } == .violated(keys: ["a"]))
        #expect(
            Self.verdict {
                $0.add(Self.put("a", "1"), .written(revision: 1, changes: 1), from: 1, to: 2)
                $0.add(.write([.remove("a")]), .written(revision: 1, changes: 0), from: 3, to: 4)
            } == .violated(keys: ["a"]), "it was there")
    }

    @Test func `Of two that compare with the same revision, one wins`() {
        func swap(_ value: String, from revision: UInt64) -> ModelOperation {
            .transaction([ModelCompare("a", .revisionIs(revision))], then: [.put("a", value)], otherwise: [.get("a")])
        }
        func history(_ second: ModelOutcome) -> LinearizabilityChecker.Verdict {
            Self.verdict {
                $0.add(Self.put("a", "0"), .written(revision: 1, changes: 1), from: 1, to: 2)
                let before = ModelEntry("0", 1)
                $0.add(swap("1", from: 1), .transaction(revision: 2, hasSucceeded: true, before: [before]), from: 3, to: 8, by: 1)
                $0.add(swap("2", from: 1), second, from: 4, to: 7, by: 2)
            }
        }
        #expect(history(.transaction(revision: 2, hasSucceeded: false, before: [ModelEntry("1", 2)])) == .linearizable)
        #expect(history(.transaction(revision: 3, hasSucceeded: true, before: [ModelEntry("0", 1)])) == .violated(keys: ["a"]))
        #expect(history(.transaction(revision: 2, hasSucceeded: false, before: [ModelEntry("0", 1)])) == .violated(keys: ["a"]))
        #expect(history(.unknown) == .linearizable)
    }

    @Test func `What is written together is read together`() {
        func history(_ a: UInt64, _ b: UInt64) -> LinearizabilityChecker.Verdict {
            Self.verdict {
                $0.add(.write([.put("a", "1"), .put("b", "1")]), .written(revision: 1, changes: 2), from: 1, to: 2)
                $0.add(.write([.put("a", "2"), .put("b", "2")]), .written(revision: 2, changes: 2), from: 3, to: 8)
                $0.add(.get(["a", "b"]), Self.read(max(a, b), ["a": ("\(a)", a), "b": ("\(b)", b)]), from: 4, to: 5, by: 1)
            }
        }
        #expect(history(1, 1) == .linearizable)
        #expect(history(2, 2) == .linearizable)
        #expect(history(1, 2) == .violated(keys: ["a", "b"]))
        #expect(history(2, 1) == .violated(keys: ["a", "b"]))
    }

    @Test func `A lease's keys go together, by revocation or when it ends`() {
        #expect(
            Self.verdict {
                $0.add(.write([.put("a", "1", lease: 5), .put("b", "1", lease: 5)]), .written(revision: 1, changes: 2), from: 1, to: 2)
                $0.add(.revoke(lease: 5), .unknown, from: 3, to: nil)
                $0.add(.get(["a"]), Self.read(1, ["a": ("1", 1)]), from: 4, to: 5)
                $0.add(.scan(.all), Self.read(2, [:]), from: 6, to: 7)
            } == .linearizable)
        #expect(
            Self.verdict {
                $0.add(.write([.put("a", "1", lease: 5), .put("b", "1", lease: 5)]), .written(revision: 1, changes: 2), from: 1, to: 2)
                $0.add(.revoke(lease: 5), .unknown, from: 3, to: nil)
                $0.add(.scan(.all), Self.read(2, ["b": ("1", 1)]), from: 6, to: 7)
            } == .violated(keys: ["a", "b"]))
    }

    // A store that works, used by eight clients whose calls take effect somewhere between call and return.
    @Test(arguments: 0..<40) func `Histories of a store that works pass, and those with one answer changed fail`(seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        let (history, _) = RandomHistory.make(calls: 60, clients: 8, using: &random)
        #expect(LinearizabilityChecker().check(history) == .linearizable)
        let spoiled = try #require(RandomHistory.spoil(history, using: &random))
        #expect(LinearizabilityChecker().check(spoiled) != .linearizable)
    }
}
