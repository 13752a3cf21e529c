import Synchronization
import Testing

@testable import MWStorage

/// The cache alone, against a map that stands for the engine.
@Suite struct HotValuesTests {
    private enum Lookup {
        case hit([UInt8])
        case miss(HotValues.FillTicket)
    }

    private func look(_ cache: HotValues, _ key: [UInt8]) -> Lookup {
        var found: [UInt8] = []
        let ticket = unsafe key.withUnsafeBytes { key in unsafe cache.lookUp(key) { found = unsafe Array($0) } }
        return ticket.map { .miss($0) } ?? .hit(found)
    }

    private func value(_ cache: HotValues, _ key: [UInt8]) -> [UInt8]? {
        if case .hit(let value) = look(cache, key) { value } else { nil }
    }

    private func fill(_ cache: HotValues, _ key: [UInt8], _ value: [UInt8], _ ticket: HotValues.FillTicket) {
        unsafe key.withUnsafeBytes { key in unsafe value.withUnsafeBytes { unsafe cache.fill(key, $0, ticket) } }
    }

    /// Those that are under way.
    private final class Writes: Sendable {
        struct Place: Hashable {
            let cache: ObjectIdentifier
            let key: [UInt8]
        }
        let underWay = Mutex<[Place: [HotValues.Write]]>([:])
    }

    private let writes = Writes()

    private func began(_ cache: HotValues, _ key: [UInt8], valueBytes: Int) {
        let write = unsafe key.withUnsafeBytes { key in unsafe cache.writeBegan(key, cache.hash(of: key), valueBytes: valueBytes) }
        writes.underWay.withLock { $0[Writes.Place(cache: ObjectIdentifier(cache), key: key), default: []].append(write) }
    }

    private func ended(_ cache: HotValues, _ key: [UInt8], _ value: [UInt8]?) {
        let place = Writes.Place(cache: ObjectIdentifier(cache), key: key)
        guard let write = writes.underWay.withLock({ $0[place]?.popLast() }) else { preconditionFailure("a write begins before it ends") }
        unsafe key.withUnsafeBytes { key in
            guard let value else { return unsafe cache.writeEnded(write, key, nil) }
            unsafe value.withUnsafeBytes { unsafe cache.writeEnded(write, key, $0) }
        }
    }

    private func put(_ cache: HotValues, _ key: [UInt8], _ value: [UInt8]?) {
        began(cache, key, valueBytes: value?.count ?? 0)
        ended(cache, key, value)
    }

    @Test func `What was put is there, what was removed or is too large is not`() {
        let cache = HotValues(capacityBytes: 64 << 20)
        put(cache, [1], [2, 3])
        #expect(value(cache, [1]) == [2, 3])
        put(cache, [1], [])
        #expect(value(cache, [1]) == [])
        put(cache, [1], nil)
        #expect(value(cache, [1]) == nil)
        put(cache, [], [9])
        #expect(value(cache, []) == [9])
        let large = [UInt8](repeating: 7, count: HotValues.maximumValueBytes)
        put(cache, [2], large)
        #expect(value(cache, [2]) == large)
        put(cache, [2], large + [7])
        #expect(value(cache, [2]) == nil)
    }

    @Test func `Of two writes of a key in one batch the first is never seen`() {
        let cache = HotValues(capacityBytes: 64 << 20)
        for _ in 0..<2 { began(cache, [1], valueBytes: 1) }
        ended(cache, [1], [1])
        #expect(value(cache, [1]) == nil)
        ended(cache, [1], [2])
        #expect(value(cache, [1]) == [2])
    }

    @Test func `What is being written is not given up, whatever else comes`() {
        let capacity = 64 * 2 * 1024
        let cache = HotValues(capacityBytes: capacity)
        let body = [UInt8](repeating: 1, count: 300)
        let keys = (0..<2_000).map { Array("key \($0)".utf8) }
        for key in keys { began(cache, key, valueBytes: body.count) }
        for key in keys { #expect(value(cache, key) == nil) }
        for key in keys { ended(cache, key, body) }
        #expect(cache.byteCount <= capacity && cache.byteCount > capacity / 4)
        let kept = keys.compactMap { value(cache, $0) }
        #expect(kept.count > 50 && kept.allSatisfy { $0 == body })
        for key in keys { put(cache, key, nil) }
        #expect(cache.byteCount == 0)
    }

    @Test func `When everything is forgotten nothing is there, and what was read before is not kept`() throws {
        let cache = HotValues(capacityBytes: 64 << 20)
        for number in UInt8(0)...200 { put(cache, [number], [number]) }
        guard case .miss(let ticket) = look(cache, [201]) else { throw NotAMiss() }
        cache.removeAll()
        for number in UInt8(0)...200 { #expect(value(cache, [number]) == nil) }
        #expect(cache.byteCount == 0)
        fill(cache, [201], [1], ticket)
        #expect(value(cache, [201]) == nil)
        put(cache, [1], [2])
        #expect(value(cache, [1]) == [2])
    }

    private struct NotAMiss: Error {}

    // Source: the standard library's hasher is SipHash-1-3, too; these are the vectors of the authors' test, as other implementations of
    // SipHash-1-3 have them: the key is 00 01 … 0f, the messages are nothing, 00, 00 01, …
    @Test func `Keys are hashed as SipHash-1-3 says`() {
        let hash = KeyHash(key: (0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908))
        let expected: [(count: Int, hash: UInt64)] = [
            (0, 0xabac_0158_050f_c4dc),
            (1, 0xc9f4_9bf3_7d57_ca93),
            (4, 0xcf75_5760_88d3_8328),
            (7, 0xd392_7d98_9bb1_1140),
            (8, 0x3690_9511_8d29_9a8e),
            (9, 0x25a4_8eb3_6c06_3de4),
            (12, 0x78a3_84b1_57b4_d9a2),
            (15, 0xd320_d86d_2a51_9956),
            (16, 0xcc4f_dd1a_7d90_8b66),
            (23, 0x525a_0e7f_dae6_c123),
            (63, 0x9d19_9062_b7bb_b3a8),
        ]
        for (count, expected) in expected {
            let message = (0..<count).map { UInt8($0) }
            let actual = unsafe message.withUnsafeBytes { unsafe hash($0) }
            #expect(UInt64(bitPattern: Int64(actual)) == expected, "\(count) bytes")
        }
    }

    // Method: one writer and eight readers, each a sequence of steps as in the drawing of the file; a seeded schedule takes one step of one of
    // them at a time. The cache is small, so that entries come and go.
    @Test func `In every interleaving of reads, fills and writes a hit is what the engine would say`() {
        var hits = 0
        for seed in UInt64(1)...300 {
            var random = SplitMix(state: seed)
            let cache = HotValues(capacityBytes: 64 * 1024)
            var engine: [[UInt8]: [UInt8]] = [:]
            var writing: (key: [UInt8], value: [UInt8]?, isApplied: Bool)?
            var reading: [(key: [UInt8], ticket: HotValues.FillTicket, seen: [UInt8]?)?] = Array(repeating: nil, count: 8)
            for step in 0..<600 {
                let key = [UInt8(truncatingIfNeeded: random.next() % 6)]
                let actor = Int(random.next() % 9)
                if actor == 8 {
                    if let current = writing, current.isApplied {
                        ended(cache, current.key, current.value)
                        writing = nil
                    } else if let current = writing {
                        // One in eight fails: nobody can say what is there until it is read.
                        if random.next() % 8 == 0 { writing?.value = nil } else { engine[current.key] = current.value }
                        writing?.isApplied = true
                    } else {
                        let value = [UInt8](repeating: UInt8(truncatingIfNeeded: step), count: Int(random.next() % 300))
                        writing = (key, random.next() % 4 == 0 ? nil : value, false)
                        // What it says of its value's size may be wrong, too: then there is no room yet.
                        began(cache, key, valueBytes: random.next() % 4 == 0 ? 7 : value.count)
                    }
                } else if let current = reading[actor] {
                    if let seen = current.seen {
                        fill(cache, current.key, seen, current.ticket)
                        reading[actor] = nil
                    } else if let seen = engine[current.key] {
                        reading[actor]?.seen = seen
                    } else {
                        reading[actor] = nil
                    }
                } else {
                    switch look(cache, key) {
                    case .hit(let value):
                        hits += 1
                        #expect(value == engine[key], "seed \(seed) step \(step)")
                    case .miss(let ticket): reading[actor] = (key, ticket, nil)
                    }
                }
            }
        }
        #expect(hits > 10_000)
    }

    private final class Race: Sendable {
        let cache = HotValues(capacityBytes: 256 * 1024)
        let engine = Mutex<[[UInt8]: [UInt8]]>([:])
        let isOver = Atomic(false)
        let faults = Atomic(0)
    }

    // Method: a writer raises a number under each key; readers fill what they read from its map, and never see a number fall.
    @Test func `Under threads nobody reads a value older than one that was read or written before`() async {
        let race = Race()
        let cache = race.cache
        await withTaskGroup(of: Void.self) { group in
            group.addTask {
                var random = SplitMix(state: 1)
                for round in 1...20_000 {
                    let key = [UInt8(truncatingIfNeeded: random.next() % 16)]
                    let value = (0..<4).map { UInt8(truncatingIfNeeded: round >> (24 - 8 * $0)) }
                    self.began(cache, key, valueBytes: 4)
                    race.engine.withLock { $0[key] = value }
                    self.ended(cache, key, value)
                }
                race.isOver.store(true, ordering: .releasing)
            }
            for reader in 0..<3 {
                group.addTask {
                    var random = SplitMix(state: UInt64(100 + reader))
                    var newest: [[UInt8]: [UInt8]] = [:]
                    while !race.isOver.load(ordering: .acquiring) {
                        let key = [UInt8(truncatingIfNeeded: random.next() % 16)]
                        var seen: [UInt8]?
                        switch self.look(cache, key) {
                        case .hit(let value): seen = value
                        case .miss(let ticket):
                            seen = race.engine.withLock { $0[key] }
                            if let seen { self.fill(cache, key, seen, ticket) }
                        }
                        guard let seen else { continue }
                        if let before = newest[key], seen.lexicographicallyPrecedes(before) { race.faults.add(1, ordering: .relaxed) }
                        newest[key] = seen
                    }
                }
            }
        }
        #expect(race.faults.load(ordering: .relaxed) == 0)
    }

    @Test func `It stays within its bytes, and what is read stays while what is not goes`() {
        let capacity = 64 * 16 * 1024
        let cache = HotValues(capacityBytes: capacity)
        let body = [UInt8](repeating: 1, count: 100)
        let hot = (0..<200).map { Array("hot \($0)".utf8) }
        for key in hot { put(cache, key, body) }
        for round in 0..<20_000 {
            put(cache, Array("cold \(round)".utf8), body)
            // Every hot key is read between two visits of the hand.
            if round % 20 == 0 { for key in hot { _ = look(cache, key) } }
            if round % 1000 == 0 { #expect(cache.byteCount <= capacity) }
        }
        #expect(hot.filter { value(cache, $0) != nil }.count == hot.count)
        #expect(cache.byteCount <= capacity && cache.byteCount > capacity / 2)
    }

    /// As a read does.
    private func read(_ cache: HotValues, _ key: [UInt8], _ stored: [UInt8]) {
        if case .miss(let ticket) = look(cache, key) { fill(cache, key, stored, ticket) }
    }

    @Test func `Once it is full, what is read once takes nobody's place, and what is read again soon is kept`() {
        let capacity = 64 * 16 * 1024
        let cache = HotValues(capacityBytes: capacity)
        let body = [UInt8](repeating: 1, count: 100)
        read(cache, [0], body)
        #expect(value(cache, [0]) == body, "there is room")
        let known = (0..<10_000).map { Array("known \($0)".utf8) }
        for key in known { put(cache, key, body) }
        let kept = known.filter { value(cache, $0) != nil }
        #expect(kept.count > 4_000 && cache.byteCount > capacity * 9 / 10)
        for number in 0..<20_000 { read(cache, Array("once \(number)".utf8), body) }
        // Two keys may be taken for one, which is rare.
        #expect(kept.filter { value(cache, $0) == nil }.count < 20)

        let hot = (0..<200).map { Array("hot \($0)".utf8) }
        for key in hot { read(cache, key, body) }
        #expect(hot.filter { value(cache, $0) != nil }.count < 5)
        for key in hot { read(cache, key, body) }
        #expect(hot.filter { value(cache, $0) != nil }.count > 150)
        #expect(cache.byteCount <= capacity)
    }

    private struct SplitMix: RandomNumberGenerator {
        var state: UInt64

        mutating func next() -> UInt64 {
            state &+= 0x9E37_79B9_7F4A_7C15
            var z = state
            z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
            z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
            return z ^ (z >> 31)
        }
    }
}
