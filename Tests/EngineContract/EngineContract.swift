package import MWStorage
import Testing

/// One thing that every engine must do. Each engine's tests run all of them:
///
///     @Test(arguments: EngineContract.claims) func contract(claim: EngineContract) async throws { try await claim.check(.rocksDB) }
package struct EngineContract: Sendable, CustomTestStringConvertible {
    package let testDescription: String
    /// Runs the check in a directory of its own.
    package let check: @Sendable (StorageEngineFactory) async throws -> Void

    private init(_ claim: String, _ body: @escaping @Sendable (ContractBench) throws -> Void) {
        self.testDescription = claim
        self.check = { factory in
            try await withTemporaryDirectory { directory in
                try await onOwnThread { try body(ContractBench(factory: factory, directory: directory)) }
            }
        }
    }

    package static let claims: [EngineContract] = [
        EngineContract("an absent key reads as nothing, an empty value as an empty value", absentAndEmpty),
        EngineContract("of two operations on a key in a batch the later one wins", laterWins),
        EngineContract("keys of any bytes, the empty one included, keep apart and in byte order", byteOrder),
        EngineContract("a scan stops at its bounds, in both directions", scanBounds),
        EngineContract("a scan ends when it is told to", scanStops),
        EngineContract("random batches read and scan as a dictionary does", randomModel),
        EngineContract("a snapshot does not move", snapshotStands),
        EngineContract("a snapshot that outlives its engine does no harm", snapshotOutlives),
        EngineContract("what was applied is there after closing and opening", survivesReopening),
        EngineContract("a value of many blocks comes back whole", largeValue),
        EngineContract("readers beside a writer see whole batches only", readersSeeWholeBatches),
    ]

    // MARK: The claims

    private static func absentAndEmpty(_ bench: ContractBench) throws {
        let engine = try bench.open()
        #expect(try engine.value([1, 7]) == nil)
        try engine.write(["07": ""])
        #expect(try engine.value("07") == [])
        try engine.write(["07": nil, "08": nil])
        #expect(try engine.value("07") == nil)
        engine.close()
    }

    private static func laterWins(_ bench: ContractBench) throws {
        let engine = try bench.open()
        var batch = WriteBatch()
        try batch.put([1], [1])
        try batch.put([1], [2])
        try batch.put([2], [1])
        try batch.remove([2])
        try batch.remove([3])
        try batch.put([3], [3])
        try engine.apply(batch, sync: true)
        #expect(try engine.all() == [.init([1, 1], [2]), .init([1, 3], [3])])
        engine.close()
    }

    private static func byteOrder(_ bench: ContractBench) throws {
        let engine = try bench.open()
        let keys: [[UInt8]] = [[], [0], [0, 0], [0, 255], [1], [127], [128], [255], [255, 0], [255, 255]]
        var batch = WriteBatch()
        for (index, key) in keys.enumerated().reversed() { try batch.put(key, [UInt8(index)]) }
        try engine.apply(batch, sync: false)
        #expect(try engine.all().map(\.key) == keys.map { [1] + $0 })
        for (index, key) in keys.enumerated() { #expect(try engine.value([1] + key) == [UInt8(index)]) }
        engine.close()
    }

    private static func scanBounds(_ bench: ContractBench) throws {
        let engine = try bench.open()
        try engine.write(["a": "1", "b": "2", "c": "3", "d": "4"])
        let cases: [(lower: String, upper: String?, expected: String)] = [
            ("", nil, "abcd"), ("b", "d", "bc"), ("b", "cc", "bc"), ("bb", "d", "c"), ("a", "a", ""), ("c", "b", ""), ("d", nil, "d"),
            ("e", nil, ""), ("", "a", ""), ("", "z", "abcd"),
        ]
        for (lower, upper, expected) in cases {
            let range = KeyRange(lower: Array(lower.utf8), upper: upper.map { Array($0.utf8) })
            let keys = expected.utf8.map { [1, $0] }
            #expect(try engine.all(in: range, .forward).map(\.key) == keys, "forward from \(lower) to \(upper ?? "the end")")
            #expect(try engine.all(in: range, .backward).map(\.key) == keys.reversed(), "backward from \(upper ?? "the end") to \(lower)")
        }
        engine.close()
    }

    private static func scanStops(_ bench: ContractBench) throws {
        let engine = try bench.open()
        try engine.write(["a": "1", "b": "2", "c": "3"])
        for direction in [ScanDirection.forward, .backward] {
            var seen = 0
            try unsafe engine.snapshot().scan(.all, direction) { _, _ in
                seen += 1
                return seen < 2
            }
            #expect(seen == 2)
        }
        engine.close()
    }

    private static func randomModel(_ bench: ContractBench) throws {
        var engine = try bench.open()
        var random = SeededRandom(seed: 20_160_531)
        var model: [[UInt8]: [UInt8]] = [:]
        for round in 0..<60 {
            var batch = WriteBatch()
            for _ in 0..<Int.random(in: 1...20, using: &random) {
                let key = (0..<Int.random(in: 0...3, using: &random)).map { _ in UInt8.random(in: 96...102, using: &random) }
                if Int.random(in: 0..<4, using: &random) == 0 {
                    try batch.remove(key)
                    model[[1] + key] = nil
                } else {
                    let value = [UInt8](repeating: .random(in: 0...255, using: &random), count: .random(in: 0...3000, using: &random))
                    try batch.put(key, value)
                    model[[1] + key] = value
                }
            }
            try engine.apply(batch, sync: round % 7 == 0)
            if round % 20 == 19 {
                engine.close()
                engine = try bench.open()
            }
            let expected = model.sorted { $0.key.lexicographicallyPrecedes($1.key) }.map { Entry($0.key, $0.value) }
            #expect(try engine.all() == expected)
            #expect(try engine.all(in: .all, .backward) == expected.reversed())
            for entry in expected.prefix(5) { #expect(try engine.value(entry.key) == entry.value) }
        }
        engine.close()
    }

    private static func snapshotStands(_ bench: ContractBench) throws {
        let engine = try bench.open()
        try engine.write(["a": "old", "b": "old"])
        let before = try engine.snapshot()
        try engine.write(["a": "new", "b": nil, "c": "new"])
        #expect(try before.value("a") == Array("old".utf8))
        #expect(try before.value("c") == nil)
        #expect(try before.all() == [.init("a", "old"), .init("b", "old")])
        #expect(try engine.all() == [.init("a", "new"), .init("c", "new")])
        engine.close()
    }

    private static func snapshotOutlives(_ bench: ContractBench) throws {
        let engine = try bench.open()
        try engine.write(["a": "1"])
        let snapshot = try engine.snapshot()
        engine.close()
        withExtendedLifetime(snapshot) {}
    }

    private static func survivesReopening(_ bench: ContractBench) throws {
        var engine = try bench.open()
        try engine.write(["a": "1", "b": "2"], sync: true)
        try engine.write(["b": nil, "c": "3"], sync: false)
        engine.close()
        engine = try bench.open()
        #expect(try engine.all() == [.init("a", "1"), .init("c", "3")])
        try engine.sync()
        #expect(engine.bytesNeededToReopen >= 0)
        engine.close()
    }

    private static func largeValue(_ bench: ContractBench) throws {
        let engine = try bench.open()
        var random = SeededRandom(seed: 1)
        let value = (0..<(3 << 20)).map { _ in UInt8.random(in: 0...255, using: &random) }
        var batch = WriteBatch()
        try batch.put([1], value)
        try engine.apply(batch, sync: true)
        #expect(try engine.value([1, 1]) == value)
        engine.close()
    }

    private static func readersSeeWholeBatches(_ bench: ContractBench) throws {
        let engine = try bench.open()
        try engine.write(["a": "0", "b": "0"])
        let readers = try (0..<2).map { _ in
            try TestThread {
                for _ in 0..<400 {
                    let snapshot = try engine.snapshot()
                    let first = try snapshot.value("a")
                    #expect(try snapshot.value("b") == first)
                }
            }
        }
        for round in 1...400 { try engine.write(["a": "\(round)", "b": "\(round)"], sync: false) }
        for reader in readers { try reader.join() }
        engine.close()
    }
}
