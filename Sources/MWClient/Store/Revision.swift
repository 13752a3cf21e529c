package import NIOCore

/// Which store it is: 16 bytes, drawn when a store is made and again when one is restored. Revisions of two incarnations have nothing to do
/// with each other.
public struct Incarnation: Hashable, Sendable, CustomStringConvertible {
    private let high: UInt64
    private let low: UInt64

    /// 16 bytes.
    public static let byteCount = 16

    /// `nil` unless there are 16 bytes.
    public init?(_ bytes: [UInt8]) { self.init(ByteBuffer(bytes: bytes)) }

    package init?(_ bytes: ByteBuffer) {
        var bytes = bytes
        guard bytes.readableBytes == Self.byteCount, let (high, low) = bytes.readMultipleIntegers(as: (UInt64, UInt64).self) else {
            return nil
        }
        self.high = high
        self.low = low
    }

    private init(high: UInt64, low: UInt64) {
        self.high = high
        self.low = low
    }

    /// That of a server which does not say: no store has it.
    public static let unknown = Incarnation(high: 0, low: 0)

    /// The 16 bytes.
    public var bytes: [UInt8] { Array(self.buffer.readableBytesView) }

    /// As on the wire.
    package var buffer: ByteBuffer {
        var buffer = ByteBuffer()
        buffer.writeMultipleIntegers(self.high, self.low)
        return buffer
    }

    /// 32 hexadecimal digits.
    public var description: String { Self.hexadecimal(self.high) + Self.hexadecimal(self.low) }

    private static func hexadecimal(_ number: UInt64) -> String {
        let digits = String(number, radix: 16)
        return String(repeating: "0", count: 2 * MemoryLayout<UInt64>.size - digits.count) + digits
    }
}

/// A point in a store's life: it counts the changes that the store has seen, from 1, without gaps.
///
/// Two revisions can be compared only within one incarnation of the store; there is no `<`, as it would have to guess otherwise.
public struct Revision: Hashable, Sendable, CustomStringConvertible {
    /// Of which store.
    public let incarnation: Incarnation
    /// How many changes there had been; 0 is before the first, and the revision of a key that is absent.
    public let number: UInt64

    /// A revision that was kept, in a file or beside a copy.
    public init(incarnation: Incarnation, number: UInt64) {
        self.incarnation = incarnation
        self.number = number
    }

    /// From the wire, where it is never negative.
    package init(_ incarnation: Incarnation, _ number: Int64) {
        self.init(incarnation: incarnation, number: UInt64(max(0, number)))
    }

    /// What a write in mwDB's protocol returns, which has no revisions. It is not comparable with any.
    public static let unknown = Revision(incarnation: .unknown, number: 0)

    /// As on the wire.
    package var wireNumber: Int64 { Int64(clamping: self.number) }

    /// How two revisions of one store lie to each other.
    public enum Order: Hashable, Sendable {
        /// The first is earlier.
        case earlier
        /// They are the same.
        case same
        /// The first is later.
        case later
    }

    /// How this one lies to `other`; `nil` when they are not of the same incarnation, or it is not known.
    public func compared(to other: Revision) -> Order? {
        guard self.incarnation == other.incarnation, self.incarnation != .unknown else { return nil }
        if self.number == other.number { return .same }
        return self.number < other.number ? .earlier : .later
    }

    /// Whether everything up to `other` is in what was read at this revision; false, too, when they cannot be compared.
    public func includes(_ other: Revision) -> Bool {
        switch self.compared(to: other) {
        case .same, .later: true
        case .earlier, nil: false
        }
    }

    /// `number@incarnation`.
    public var description: String { "\(self.number)@\(self.incarnation)" }
}
