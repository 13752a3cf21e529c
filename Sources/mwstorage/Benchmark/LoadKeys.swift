/// The keys of a benchmark, `benchmark;N` with N from 0, and which of them a request is about.
///
/// A request's number decides everything about it, so that whoever reads its reply needs to keep nothing but that, and so that the same seed
/// means the same requests whatever answers first.
struct LoadKeys: Hashable, Sendable {
    /// What every key begins with.
    static let prefix = "benchmark;"
    static let prefixBytes = 10
    /// Digits of the longest number that a key may have.
    static let maximumDigits = 18

    /// How many there are.
    let count: UInt64
    let seed: UInt64

    init(count: Int, seed: UInt64) {
        self.count = UInt64(count)
        self.seed = seed
    }

    // MARK: The order

    /// Where the randomness of a request begins.
    @inline(__always)
    func state(ofRequest number: UInt64) -> UInt64 { Self.mixed(seed &+ Self.mixed(number)) }

    /// The number of a random request's key.
    ///
    /// - Parameter index: Which of its keys, from 0.
    @inline(__always)
    func key(_ index: Int, ofState state: UInt64) -> UInt64 {
        let random = Self.mixed(state &+ UInt64(truncatingIfNeeded: index + 1) &* Self.step)
        return random.multipliedFullWidth(by: count).high
    }

    /// Whether a mixed request reads.
    ///
    /// - Parameter share: Of reads, 0 to 1.
    @inline(__always)
    func isRead(_ state: UInt64, share: Double) -> Bool {
        Double(Self.mixed(state) >> 11) * 0x1p-53 < share
    }

    /// 2^64 divided by the golden ratio.
    private static let step: UInt64 = 0x9E37_79B9_7F4A_7C15

    /// SplitMix64's finisher, by Steele, Lea and Flood: a bijection whose every output bit depends on every input bit.
    @inline(__always)
    static func mixed(_ value: UInt64) -> UInt64 {
        var bits = value &+ step
        bits = (bits ^ (bits &>> 30)) &* 0xBF58_476D_1CE4_E5B9
        bits = (bits ^ (bits &>> 27)) &* 0x94D0_49BB_1331_11EB
        return bits ^ (bits &>> 31)
    }

    // MARK: Their text

    /// The length of a key, in bytes.
    @inline(__always)
    static func byteCount(_ number: UInt64) -> Int { prefixBytes + digits(number) }

    @inline(__always)
    private static func digits(_ number: UInt64) -> Int {
        precondition(number < numberEnd, "a key has at most 18 digits")
        var digits = 1
        var limit: UInt64 = 10
        while number >= limit {
            digits += 1
            limit &*= 10
        }
        return digits
    }

    private static let numberEnd: UInt64 = 1_000_000_000_000_000_000

    /// The longest key, in bytes.
    static let maximumBytes = prefixBytes + maximumDigits

    /// Writes a key where there is room for ``byteCount(_:)``.
    @inline(__always)
    static func write(_ number: UInt64, to writer: inout LoadWriter) {
        // "benchmark;" in two stores.
        unsafe writer.write(0x6265_6E63_686D_6172 as UInt64)
        unsafe writer.write(0x6B3B as UInt16)
        let digits = digits(number)
        var rest = number
        for index in stride(from: digits - 1, through: 0, by: -1) {
            unsafe writer.set(UInt8(ascii: "0") &+ UInt8(truncatingIfNeeded: rest % 10), at: index)
            rest /= 10
        }
        unsafe writer.skip(digits)
    }

    /// A key as text.
    static func text(_ number: UInt64) -> String { "\(prefix)\(number)" }

    /// Reads a key; nil for one that no benchmark writes.
    static func number(of key: UnsafeRawBufferPointer) -> UInt64? {
        let digits = unsafe UnsafeRawBufferPointer(rebasing: key.dropFirst(prefixBytes))
        guard unsafe (1...maximumDigits).contains(digits.count) && key.starts(with: prefix.utf8) else { return nil }
        guard unsafe digits.count == 1 || digits[0] != UInt8(ascii: "0") else { return nil }
        var number: UInt64 = 0
        for index in 0..<digits.count {
            let byte = unsafe digits[index]
            guard (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) else { return nil }
            number = number * 10 + UInt64(byte - UInt8(ascii: "0"))
        }
        return number
    }

    // MARK: The order of a scan

    /// The number whose key is the next in byte order: 0, 1, 10, 100, 101 … 11, 110 …; nil after the last.
    func successor(of number: UInt64) -> UInt64? {
        if number > 0, number * 10 < count { return number * 10 }
        var number = number
        while number % 10 == 9 || number + 1 >= count {
            number /= 10
            if number == 0 { return nil }
        }
        // 0 is a key of its own and has none under it.
        return number + 1
    }
}
