import MWStorage
import Testing

@testable import MWServer

/// Whether rights cover ranges, against a model that looks at keys one by one. Prefixes and bounds have up to two of the bytes 0, 254 and 255:
/// what they leave out begins at a bound, or right behind the keys of a prefix, so keys of these bytes and of 1 show every gap.
@Suite struct AccessRangeTests {
    private static func words(of alphabet: [UInt8], upTo length: Int) -> [[UInt8]] {
        var words: [[UInt8]] = [[]]
        var longest = words
        for _ in 0..<length {
            longest = longest.flatMap { word in alphabet.map { word + [$0] } }
            words += longest
        }
        return words
    }

    /// Fewer than there are bits in a set.
    private static let keys = words(of: [0, 1, 254, 255], upTo: 3)
    private static let bounds = words(of: [0, 254, 255], upTo: 2)
    private static let prefixes = Array(bounds.dropFirst())

    /// The keys that `isIn` says yes to, one bit for each.
    private static func bits(_ isIn: ([UInt8]) -> Bool) -> UInt128 {
        self.keys.enumerated().reduce(0) { isIn($1.element) ? $0 | 1 << UInt128($1.offset) : $0 }
    }

    private static let ranges: [(range: KeyRange, keys: UInt128)] = bounds.flatMap { lower in
        (bounds.map { $0 as [UInt8]? } + [nil]).map { upper in
            let keys = bits { key in
                !key.lexicographicallyPrecedes(lower) && (upper.map { key.lexicographicallyPrecedes($0) } ?? true)
            }
            return (KeyRange(lower: lower, upper: upper), keys)
        }
    }

    @Test func `A range is covered if and only if every key in it is, for every set of small prefixes and every small range`() {
        let covered = Self.prefixes.map { prefix in Self.bits { $0.starts(with: prefix) } }
        var yes = 0
        for set in 1..<(1 << Self.prefixes.count) {
            let members = Self.prefixes.indices.filter { set & 1 << $0 != 0 }
            let grants = AccessGrants([AccessGrant(.read, over: .prefixes(members.map { Self.prefixes[$0] }))])
            let union = members.reduce(0 as UInt128) { $0 | covered[$1] }
            for (range, keys) in Self.ranges {
                let expected = keys & ~union == 0
                if expected { yes += 1 }
                if grants.covers(.read, range) != expected {
                    Issue.record("\(members.map { Self.prefixes[$0] }) over \(range) is not \(expected)")
                }
            }
        }
        #expect(yes > 100_000 && yes < Self.ranges.count << Self.prefixes.count - 100_000)
    }

    @Test func `A right over some keys covers nothing of another right, and a right over all keys every range`() {
        let some = AccessGrants([AccessGrant(.read, over: .prefixes([[0x61]]))])
        #expect(some.covers(.read, KeyRange(lower: [0x61], upper: [0x61, 0x62])))
        #expect(!some.covers(.write, KeyRange(lower: [0x61], upper: [0x61, 0x62])))
        #expect(!some.covers(.write, KeyRange(lower: [0x62], upper: [0x61])), "nobody gets an empty range for nothing")
        #expect(!some.covers(.read, .all))
        #expect(AccessGrants.everything.covers(.watch, .all))
    }
}
