package import MWProtocol
import NIOCore

/// The keys from ``lower`` up to, and without, ``upper``, in byte order.
public struct KeyRange: Hashable, Sendable {
    /// The first key; empty is the first of all.
    public let lower: [UInt8]
    /// The key behind the last; `nil` is no bound.
    public let upper: [UInt8]?

    /// A range; one whose upper bound is not above its lower one holds nothing.
    public init(from lower: [UInt8] = [], to upper: [UInt8]? = nil) {
        self.lower = lower
        self.upper = upper
    }

    /// Every key.
    public static let all = KeyRange()

    /// Only this key.
    public static func key(_ key: [UInt8]) -> KeyRange { KeyRange(from: key, to: key + [0]) }

    /// Every key that begins with these bytes; with none, every key.
    public static func prefix(_ prefix: [UInt8]) -> KeyRange {
        // The last byte that can be counted up; 0xFF, as the last digit, has no successor.
        guard let last = prefix.lastIndex(where: { $0 != .max }) else { return KeyRange(from: prefix) }
        var upper = Array(prefix[...last])
        upper[last] += 1
        return KeyRange(from: prefix, to: upper)
    }

    /// Whether no key can be in it.
    public var isEmpty: Bool {
        guard let upper = self.upper else { return false }
        return !self.lower.lexicographicallyPrecedes(upper)
    }

    /// Whether `key` is in it.
    public func contains(_ key: [UInt8]) -> Bool {
        guard !key.lexicographicallyPrecedes(self.lower) else { return false }
        guard let upper = self.upper else { return true }
        return key.lexicographicallyPrecedes(upper)
    }

    package init(_ range: NativeRange) {
        self.init(from: Array(range.lower.readableBytesView), to: range.upper.map { Array($0.readableBytesView) })
    }

    /// As on the wire.
    package var native: NativeRange {
        var range = NativeRange()
        range.lower = ByteBuffer(bytes: self.lower)
        range.upper = self.upper.map { ByteBuffer(bytes: $0) }
        return range
    }
}
