import EngineContract
import MWStorage
import Testing

@testable import MWRocksDB

/// The table in memory beside a sorted map: more versions than are sorted at once, of keys that are hard to tell apart.
@Suite struct PendingTableTests {
    @Test(arguments: 0..<4) func `It finds and walks through what it held at each moment`(seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        let table = PendingTable(number: 1)
        let universe = PendingTableTests.keys(&random, count: Int.random(in: 1...4000, using: &random))
        var model: [[UInt8]: [UInt8]?] = [:]
        var remembered: [(view: PendingTable.View, model: [[UInt8]: [UInt8]?])] = []
        for batch in 0..<20 {
            table.sortVisible(ofAtLeast: PendingTable.unsortedEntries)
            for _ in 0..<Int.random(in: 0...2000, using: &random) {
                let key = universe[.random(in: 0..<universe.count, using: &random)]
                let value: [UInt8]? = Int.random(in: 0..<5, using: &random) == 0 ? nil : Array("\(batch)".utf8)
                PendingTableTests.add(key, value, to: table)
                model[key] = .some(value)
            }
            table.publish()
            if batch.isMultiple(of: 6) { remembered.append((table.view, model)) }
        }
        remembered.append((table.view, model))
        for (view, model) in remembered {
            let sorted = model.keys.sorted { $0.lexicographicallyPrecedes($1) }
            try PendingTableTests.compare(view, .all, sorted, model)
            for _ in 0..<4 {
                guard let first = sorted.randomElement(using: &random), let second = sorted.randomElement(using: &random) else { continue }
                let isInOrder = first.lexicographicallyPrecedes(second)
                let range = KeyRange(lower: isInOrder ? first : second, upper: isInOrder ? second : first)
                let wanted = sorted.filter { !$0.lexicographicallyPrecedes(range.lower) && $0.lexicographicallyPrecedes(range.upper ?? []) }
                try PendingTableTests.compare(view, range, wanted, model)
            }
            for key in universe { #expect(PendingTableTests.find(key, in: view) == model[key]) }
        }
    }

    /// Beginnings of each other, with zeros behind them, long ones that differ at their ends, and all in several keyspaces.
    private static func keys(_ random: inout SeededRandom, count: Int) -> [[UInt8]] {
        func bytes(atMost count: Int, _ values: ClosedRange<UInt8>) -> [UInt8] {
            (0..<Int.random(in: 0...count, using: &random)).map { _ in .random(in: values, using: &random) }
        }
        let beginnings = (0..<3).map { _ in bytes(atMost: 40, 0...1) }
        let isNumbered = Bool.random(using: &random)
        return (0..<count).map { number in
            let keyspace = isNumbered && number > 3 ? 1 : UInt8.random(in: 0...2, using: &random)
            let end = isNumbered ? Array("\(number)".utf8) : bytes(atMost: 12, 0...2)
            return [keyspace] + beginnings[isNumbered ? 0 : .random(in: 0..<3, using: &random)] + end
        }
    }

    private static func add(_ key: [UInt8], _ value: [UInt8]?, to table: PendingTable) {
        unsafe key.withUnsafeBytes { key in
            guard let value else { return unsafe table.add(key, nil) }
            unsafe value.withUnsafeBytes { unsafe table.add(key, $0) }
        }
    }

    private static func find(_ key: [UInt8], in view: PendingTable.View) -> [UInt8]?? {
        unsafe key.withUnsafeBytes { key -> [UInt8]?? in
            guard let entry = unsafe view.find(key, PendingTable.hash(key)) else { return .none }
            return .some(unsafe PendingTable.value(of: entry).map { unsafe Array($0) })
        }
    }

    private static func compare(
        _ view: PendingTable.View, _ range: KeyRange, _ wanted: [[UInt8]], _ model: [[UInt8]: [UInt8]?]
    ) throws {
        for direction in [ScanDirection.forward, .backward] {
            var cursor = PendingCursor([view], range, direction)
            for key in direction == .forward ? wanted : wanted.reversed() {
                let entry = unsafe try #require(unsafe cursor.next())
                let (found, value) = unsafe (Array(PendingTable.key(of: entry)), PendingTable.value(of: entry).map { unsafe Array($0) })
                try #require(found == key)
                #expect(value == model[key])
            }
            #expect(unsafe cursor.next() == nil)
        }
    }
}
