internal import Glibc
internal import MWProtocol
internal import MWStorage
internal import NIOCore

/// What a watch is about: ranges of keys in order, none of which touches another. Equal for all who watch the same keys, however they said it.
struct WatchRanges: Hashable, Sendable {
    let ranges: [KeyRange]

    /// - Parameter ranges: None of them empty.
    init(_ ranges: [KeyRange]) {
        var merged: [KeyRange] = []
        for range in ranges.sorted(by: { $0.lower.lexicographicallyPrecedes($1.lower) }) {
            guard let last = merged.last, last.reaches(range.lower) else {
                merged.append(range)
                continue
            }
            if let end = last.upper, range.upper.map({ end.lexicographicallyPrecedes($0) }) ?? true {
                merged[merged.count - 1].upper = range.upper
            }
        }
        self.ranges = merged
    }

    /// The ranges of a request, one by one. Throws ``NativeFailure``: none, too many, a bound that no key needs, or one without a key in it.
    static func pieces(_ ranges: [NativeRange], maximum: Int) throws(NativeFailure) -> [KeyRange] {
        guard !ranges.isEmpty else {
            throw NativeFailure(.invalidArgument, "a watch without a range", remedy: "for all keys give a range without bounds")
        }
        try self.checkCount(ranges.count, maximum: maximum)
        var parsed: [KeyRange] = []
        for range in ranges {
            guard max(range.lower.readableBytes, range.upper?.readableBytes ?? 0) <= Self.maximumBoundBytes else {
                throw NativeFailure(.invalidArgument, "a bound of a range over \(Self.maximumBoundBytes) bytes: no key is so long")
            }
            let parsedRange = KeyRange(
                lower: Array(range.lower.readableBytesView), upper: range.upper.map { Array($0.readableBytesView) })
            if let upper = parsedRange.upper, !parsedRange.lower.lexicographicallyPrecedes(upper) {
                throw NativeFailure(.invalidArgument, "a range that ends where it begins, or before: no key is in it")
            }
            parsed.append(parsedRange)
        }
        return parsed
    }

    /// Bytes of a bound: those of the longest key, and one more for what is just behind it.
    static let maximumBoundBytes = StorageLimits.maximumKeyBytes + 1

    static func checkCount(_ count: Int, maximum: Int) throws(NativeFailure) {
        guard count <= maximum else {
            throw NativeFailure(
                .tooMany, "\(count) ranges in one request, of at most \(maximum)", remedy: "use several watches, or larger ranges")
        }
    }

    /// Whether `key` is in one of them.
    func contains(_ key: UnsafeRawBufferPointer) -> Bool {
        // The last that does not begin above the key is the only one that can have it.
        var (lower, upper) = (0, self.ranges.count)
        while lower < upper {
            let middle = (lower + upper) / 2
            if unsafe ByteOrder.precedes(key, self.ranges[middle].lower) { upper = middle } else { lower = middle + 1 }
        }
        guard lower > 0 else { return false }
        return unsafe ByteOrder.isBelow(key, self.ranges[lower - 1].upper)
    }
}

extension NativeFields {
    /// How many fields have `tag`: known before records are made of them.
    func count(of wanted: NativeTag) throws(NativeFailure) -> Int {
        var count = 0
        try reading { () throws(ProtocolError) in
            try unsafe self.forEach { (tag, _) throws(ProtocolError) in if tag == wanted { count += 1 } }
        }
        return count
    }
}

extension KeyRange {
    /// Bytes of its bounds.
    var boundBytes: Int { self.lower.count + (self.upper?.count ?? 0) }

    /// Whether nothing is between this range's end and `key`, which is not below its beginning.
    fileprivate func reaches(_ key: [UInt8]) -> Bool {
        guard let upper = self.upper else { return true }
        return !upper.lexicographicallyPrecedes(key)
    }
}

/// Byte order, as keys have it.
enum ByteOrder {
    static func precedes(_ left: UnsafeRawBufferPointer, _ right: [UInt8]) -> Bool {
        unsafe right.withUnsafeBytes { right in unsafe self.compare(left, right) < 0 }
    }

    /// Whether `key` is below an upper bound.
    static func isBelow(_ key: UnsafeRawBufferPointer, _ upper: [UInt8]?) -> Bool {
        guard let upper else { return true }
        return unsafe self.precedes(key, upper)
    }

    /// Negative, zero or positive.
    private static func compare(_ left: UnsafeRawBufferPointer, _ right: UnsafeRawBufferPointer) -> Int {
        let common = min(left.count, right.count)
        if common > 0, let leftStart = left.baseAddress, let rightStart = right.baseAddress {
            let order = unsafe memcmp(leftStart, rightStart, common)
            if order != 0 { return Int(order) }
        }
        return left.count - right.count
    }
}
