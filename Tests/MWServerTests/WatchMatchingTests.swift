import EngineContract
import MWProtocol
import MWStorage
import NIOCore
import Testing

@testable import MWServer

/// Which watches a change concerns, and what of it is encoded.
@Suite struct WatchMatchingTests {
    private static let alphabet: [UInt8] = [0, 1, 0x61, 0xff]

    private static func key(_ random: inout some RandomNumberGenerator) -> [UInt8] {
        (0..<Int.random(in: 0...3, using: &random)).map { _ in Self.alphabet.randomElement(using: &random) ?? 0 }
    }

    private static func range(_ random: inout some RandomNumberGenerator) -> KeyRange {
        while true {
            let range = KeyRange(lower: Self.key(&random), upper: Int.random(in: 0..<6, using: &random) == 0 ? nil : Self.key(&random))
            if range.upper.map({ range.lower.lexicographicallyPrecedes($0) }) ?? true { return range }
        }
    }

    private static func contains(_ range: KeyRange, _ key: [UInt8]) -> Bool {
        !key.lexicographicallyPrecedes(range.lower) && (range.upper.map { key.lexicographicallyPrecedes($0) } ?? true)
    }

    // MARK: Ranges

    @Test(arguments: 0..<50 as Range<UInt64>) func `Merged ranges have the keys of those they were made of, and do not touch`(seed: UInt64)
    {
        var random = SeededRandom(seed: seed)
        let given = (0..<Int.random(in: 1...6, using: &random)).map { _ in Self.range(&random) }
        let ranges = WatchRanges(given)
        for _ in 0..<100 {
            let key = Self.key(&random)
            let isIn = unsafe key.withUnsafeBytes { unsafe ranges.contains($0) }
            #expect(isIn == given.contains { Self.contains($0, key) })
        }
        for (left, right) in zip(ranges.ranges, ranges.ranges.dropFirst()) {
            #expect(left.upper.map { $0.lexicographicallyPrecedes(right.lower) } == true)
        }
        #expect(WatchRanges(given.shuffled(using: &random)) == ranges)
    }

    @Test func `No range, too many, and one without a key are refused`() {
        func code(_ ranges: [(String, String?)]) -> NativeFailure.Code? {
            let ranges = ranges.map { lower, upper in
                var range = NativeRange()
                range.lower = ByteBuffer(string: lower)
                range.upper = upper.map { ByteBuffer(string: $0) }
                return range
            }
            do throws(NativeFailure) {
                _ = try WatchRanges.pieces(ranges, maximum: 2)
                return nil
            } catch {
                return error.code
            }
        }
        #expect(code([]) == .invalidArgument)
        #expect(code([("a", nil), ("b", nil), ("c", nil)]) == .tooMany)
        #expect(code([("b", "b")]) == .invalidArgument)
        #expect(code([("b", "a")]) == .invalidArgument)
        #expect(code([("a", "b"), ("", nil)]) == nil)
        let longest = String(repeating: "k", count: StorageLimits.maximumKeyBytes + 1)
        #expect(code([("", longest), (longest, nil)]) == nil)
        #expect(code([("", longest + "k")]) == .invalidArgument)
        #expect(code([(longest + "k", nil)]) == .invalidArgument)
    }

    // MARK: The index

    @Test(arguments: 0..<20 as Range<UInt64>) func `The index finds exactly the ranges that have a key, while ranges come and go`(
        seed: UInt64
    ) {
        var random = SeededRandom(seed: seed)
        var index = RangeIndex(seed: seed)
        var model: [(range: KeyRange, owner: Int)] = []
        for step in 0..<400 {
            if !model.isEmpty, Int.random(in: 0..<3, using: &random) == 0 {
                let gone = model.remove(at: Int.random(in: 0..<model.count, using: &random))
                index.remove(gone.range, owner: gone.owner)
            } else {
                let range = Self.range(&random)
                model.append((range, step))
                index.insert(range, owner: step)
            }
            let key = Self.key(&random)
            var found: [Int] = []
            unsafe key.withUnsafeBytes { unsafe index.forEachOwner(of: $0) { found.append($0) } }
            #expect(found.sorted() == model.filter { Self.contains($0.range, key) }.map(\.owner).sorted())
            #expect(index.count == model.count)
        }
    }

    // MARK: Encoding

    private static func change(_ key: String, _ value: String?, previous: UInt64 = 0, lease: UInt64? = nil) -> NativeChange {
        var change = NativeChange()
        change.key = ByteBuffer(string: key)
        if let value { change.value = ByteBuffer(string: value) } else { change.isRemoval = true }
        change.previousRevision = Int64(previous)
        change.lease = lease.map { Int64($0) }
        return change
    }

    /// Calls `body` as the store does.
    private static func with(_ change: NativeChange, _ body: (KeyChange) -> Void) {
        unsafe change.key.withUnsafeReadableBytes { key in
            unsafe change.value.withUnsafeReadableBytes { value in
                unsafe body(
                    KeyChange(
                        key: key, value: change.isRemoval ? nil : value, previousRevision: Revision(UInt64(change.previousRevision)),
                        lease: change.lease.map { LeaseID(UInt64($0)) }))
            }
        }
    }

    private static func decode(_ events: [ChangesEvent], _ bytes: ByteBuffer) throws -> [NativeChanges] {
        try events.map { event in
            var frame = ByteBuffer()
            event.writeHead(RequestID(7), to: &frame)
            for run in event.runs { frame.writeBytes(bytes.readableBytesView[run]) }
            #expect(frame.readableBytes == event.frameBytes)
            let frames = try NativeFrame.all(in: frame)
            let only = try #require(frames.count == 1 ? frames.first : nil)
            #expect(only.role == .event && only.kind == NativeEventKind.changes.rawValue && only.id == RequestID(7))
            return try NativeChanges(only.fields)
        }
    }

    private static let changes = [
        change("a", "1"), change("b", nil, previous: 3), change("c", "", previous: 4, lease: 9), change("d", "four"),
    ]

    @Test func `What is encoded reads as the records of the protocol, with values and without`() throws {
        for isWithoutValue in [false, true] {
            var encoded = EncodedChanges()
            var runs = ChangeRuns(revision: 5)
            for change in Self.changes { Self.with(change) { runs.append(encoded.append($0, isWithoutValue: isWithoutValue)) } }
            #expect(runs.runs.count == 1)
            let events = try #require(ChangesEvent.events(of: runs, in: encoded.bytes, maximumBytes: 1000))
            var expected = NativeChanges()
            expected.revision = 5
            expected.changes = Self.changes
            if isWithoutValue { for index in expected.changes.indices { expected.changes[index].value = ByteBuffer() } }
            #expect(try Self.decode(events, encoded.bytes) == [expected])
        }
    }

    @Test func `A revision over the message limit is told in several events, each but the last continued`() throws {
        var encoded = EncodedChanges()
        var runs = ChangeRuns(revision: 5)
        for change in Self.changes { Self.with(change) { runs.append(encoded.append($0, isWithoutValue: false)) } }
        for maximumBytes in 90...250 {
            let events = try #require(ChangesEvent.events(of: runs, in: encoded.bytes, maximumBytes: maximumBytes))
            #expect(events.allSatisfy { $0.frameBytes <= maximumBytes })
            let decoded = try Self.decode(events, encoded.bytes)
            #expect(decoded.flatMap(\.changes) == Self.changes)
            #expect(decoded.map(\.isContinued) == decoded.dropLast().map { _ in true } + [false])
            #expect(decoded.allSatisfy { $0.revision == 5 && !$0.changes.isEmpty })
        }
        #expect(ChangesEvent.events(of: runs, in: encoded.bytes, maximumBytes: 60) == nil)
    }

    // MARK: The matcher

    private static func topic(_ lower: String, _ upper: String?, isWithoutValues: Bool = false) -> WatchTopic {
        WatchTopic(
            ranges: WatchRanges([KeyRange(lower: Array(lower.utf8), upper: upper.map { Array($0.utf8) })]), isWithoutValues: isWithoutValues
        )
    }

    @Test func `Each topic gets its changes of each revision, encoded once for all, and a loop hears of commits that do not concern it`()
        throws
    {
        var matcher = WatchMatcher(seed: 1)
        matcher.add(Self.topic("a", "c"), loop: 0, name: 1)
        matcher.add(Self.topic("", nil), loop: 0, name: 2)
        matcher.add(Self.topic("", nil), loop: 1, name: 1)
        matcher.add(Self.topic("b", nil, isWithoutValues: true), loop: 0, name: 3)
        matcher.add(Self.topic("x", nil), loop: 2, name: 1)
        matcher.begin(5)
        Self.with(Self.changes[0]) { matcher.match($0) }
        Self.with(Self.changes[1]) { matcher.match($0) }
        matcher.begin(6)
        Self.with(Self.changes[3]) { matcher.match($0) }
        let result = matcher.finish()
        func told(_ loop: Int) throws -> [String] {
            let events = try #require(result.events.first { $0.loop == loop }).events
            return try events.map { event in
                let bytes = event.isWithoutValues ? result.bare : result.valued
                let events = try #require(ChangesEvent.events(of: event.runs, in: bytes, maximumBytes: 1000))
                let decoded = try #require(try Self.decode(events, bytes).first)
                let changes = decoded.changes.map { "\(String(buffer: $0.key))=\(String(buffer: $0.value))" }
                return "\(event.name)@\(decoded.revision): \(changes.joined(separator: " "))"
            }.sorted()
        }
        #expect(try told(0) == ["1@5: a=1 b=", "2@5: a=1 b=", "2@6: d=four", "3@5: b=", "3@6: d="])
        #expect(try told(1) == ["1@5: a=1 b=", "1@6: d=four"])
        #expect(try told(2) == [])
        // Three changes, and two without their values.
        let once = Self.changes.filter { String(buffer: $0.key) != "c" }.map { change in
            var encoded = EncodedChanges()
            Self.with(change) { _ = encoded.append($0, isWithoutValue: false) }
            return encoded.bytes.readableBytes
        }
        #expect(result.valued.readableBytes == once.reduce(0, +))
    }

    @Test func `A commit that concerns too many is left to history, for all loops; the next one is brought again`() {
        var matcher = WatchMatcher(seed: 1, maximumMatches: 2)
        matcher.add(Self.topic("a", nil), loop: 0, name: 1)
        matcher.add(Self.topic("", nil), loop: 1, name: 1)
        matcher.begin(5)
        Self.with(Self.changes[0]) { matcher.match($0) }
        Self.with(Self.changes[1]) { matcher.match($0) }
        let tooMany = matcher.finish()
        #expect(tooMany.isOverLimit)
        #expect(Set(tooMany.events.map(\.loop)) == [0, 1])
        #expect(tooMany.events.allSatisfy { $0.events.isEmpty })
        matcher.begin(6)
        Self.with(Self.changes[3]) { matcher.match($0) }
        let next = matcher.finish()
        #expect(!next.isOverLimit)
        #expect(next.events.flatMap(\.events).map(\.runs.revision) == [6, 6])
    }

    @Test func `What nobody watches any more is neither matched nor brought`() {
        var matcher = WatchMatcher(seed: 1)
        matcher.add(Self.topic("a", nil), loop: 0, name: 1)
        matcher.add(Self.topic("a", nil), loop: 1, name: 1)
        matcher.remove(Self.topic("a", nil), loop: 0, name: 1)
        matcher.begin(5)
        Self.with(Self.changes[0]) { matcher.match($0) }
        #expect(matcher.finish().events.map(\.loop) == [1])
        matcher.remove(Self.topic("a", nil), loop: 1, name: 1)
        matcher.begin(6)
        Self.with(Self.changes[0]) { matcher.match($0) }
        let result = matcher.finish()
        #expect(result.events.isEmpty)
        #expect(result.valued.readableBytes == 0)
    }
}
