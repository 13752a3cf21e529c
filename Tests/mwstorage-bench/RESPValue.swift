import NIOCore

/// What Redis says (RESP2 and RESP3), as far as subscribers and trackers hear it: of which kind a value is, and where it ends. No more is made
/// of it, for what reading costs is in the time of the last watcher.
enum RESPValue: Equatable {
    case failure(String)
    /// What it says unasked.
    case push
    case other

    /// The next value of `buffer`, or nil while it is not whole; then nothing is taken.
    init?(readingFrom buffer: inout ByteBuffer) throws {
        let end = unsafe try buffer.withUnsafeReadableBytes { bytes in
            var scanner = unsafe RESPScanner(bytes: bytes)
            return try unsafe scanner.skipValue() ? unsafe scanner.position : nil
        }
        guard let end, let type = buffer.getInteger(at: buffer.readerIndex, as: UInt8.self) else { return nil }
        switch type {
        case UInt8(ascii: "-"): self = .failure(buffer.getString(at: buffer.readerIndex + 1, length: end - 3) ?? "")
        case UInt8(ascii: ">"): self = .push
        default: self = .other
        }
        buffer.moveReaderIndex(forwardBy: end)
    }

    /// `COMMAND ARGUMENT…`, each as it is.
    static func command(_ words: [ByteBuffer], to buffer: inout ByteBuffer) {
        buffer.writeString("*\(words.count)\r\n")
        for word in words {
            buffer.writeString("$\(word.readableBytes)\r\n")
            buffer.writeImmutableBuffer(word)
            buffer.writeString("\r\n")
        }
    }
}

struct RESPError: Error {
    let line: String
}

@unsafe private struct RESPScanner {
    /// Of a length or a count.
    private static let maximumDigits = 10

    let bytes: UnsafeRawBufferPointer
    private(set) var position = 0

    init(bytes: UnsafeRawBufferPointer) { unsafe self.bytes = bytes }

    /// Goes behind one value, with all that are in it; false while it is not whole.
    mutating func skipValue() throws(RESPError) -> Bool {
        var values = 1
        while values > 0 {
            let start = unsafe position
            guard unsafe skipLine() else { return false }
            values -= 1
            switch unsafe bytes[start] {
            case UInt8(ascii: "+"), UInt8(ascii: "-"), UInt8(ascii: ":"), UInt8(ascii: "_"): break
            case UInt8(ascii: "$"):
                guard let count = try unsafe number(start) else { break }
                guard unsafe bytes.count - position >= count + 2 else { return false }
                unsafe position += count + 2
            case UInt8(ascii: "*"), UInt8(ascii: ">"): values += try unsafe number(start) ?? 0
            case UInt8(ascii: "%"): values += 2 * (try unsafe number(start) ?? 0)
            default: throw unsafe error(start)
            }
        }
        return true
    }

    private mutating func skipLine() -> Bool {
        var end = unsafe position
        while unsafe end + 1 < bytes.count {
            if unsafe bytes[end] == UInt8(ascii: "\r") {
                unsafe position = end + 2
                return true
            }
            end += 1
        }
        return false
    }

    /// What a line says behind its type; nil where that is negative: there is nothing.
    private func number(_ start: Int) throws(RESPError) -> Int? {
        let places = unsafe (start + 1)..<(position - 2)
        guard unsafe places.isEmpty || bytes[places.lowerBound] != UInt8(ascii: "-") else { return nil }
        var number = 0
        guard !places.isEmpty, unsafe places.count <= Self.maximumDigits else { throw unsafe error(start) }
        for place in places {
            let digit = unsafe bytes[place]
            guard (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(digit) else { throw unsafe error(start) }
            number = number * 10 + Int(digit - UInt8(ascii: "0"))
        }
        return number
    }

    private func error(_ start: Int) -> RESPError {
        unsafe RESPError(line: String(decoding: bytes[start..<(position - 2)], as: UTF8.self))
    }
}
