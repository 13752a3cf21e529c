import NIOCore

/// What Redis says (RESP2 and RESP3), as far as subscribers and trackers hear it.
indirect enum RESPValue: Equatable {
    case text(String)
    case failure(String)
    case integer(Int)
    case bytes(ByteBuffer)
    case list([RESPValue])
    /// What it says unasked.
    case push([RESPValue])
    case null

    /// The next value of `buffer`, or nil while it is not whole; then nothing is taken.
    init?(readingFrom buffer: inout ByteBuffer) throws(RESPError) {
        var rest = buffer
        guard let value = try RESPValue.read(&rest) else { return nil }
        self = value
        buffer = rest
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

    private static func read(_ buffer: inout ByteBuffer) throws(RESPError) -> RESPValue? {
        guard let line = line(&buffer), let type = line.utf8.first else { return nil }
        let text = String(line.dropFirst())
        switch type {
        case UInt8(ascii: "+"): return .text(text)
        case UInt8(ascii: "-"): return .failure(text)
        case UInt8(ascii: ":"): return .integer(Int(text) ?? 0)
        case UInt8(ascii: "_"): return .null
        case UInt8(ascii: "$"):
            guard let count = Int(text) else { throw RESPError(line) }
            guard count >= 0 else { return .null }
            guard buffer.readableBytes >= count + 2, let bytes = buffer.readSlice(length: count) else { return nil }
            buffer.moveReaderIndex(forwardBy: 2)
            return .bytes(bytes)
        case UInt8(ascii: "*"): return try list(text, &buffer).map { .list($0) }
        case UInt8(ascii: ">"): return try list(text, &buffer).map { .push($0) }
        case UInt8(ascii: "%"):
            guard let count = Int(text) else { throw RESPError(line) }
            return try list("\(count * 2)", &buffer).map { .list($0) }
        default: throw RESPError(line)
        }
    }

    private static func list(_ text: String, _ buffer: inout ByteBuffer) throws(RESPError) -> [RESPValue]? {
        guard let count = Int(text) else { throw RESPError(text) }
        var values: [RESPValue] = []
        for _ in 0..<max(0, count) {
            guard let value = try read(&buffer) else { return nil }
            values.append(value)
        }
        return values
    }

    private static func line(_ buffer: inout ByteBuffer) -> String? {
        guard let end = buffer.readableBytesView.firstIndex(of: UInt8(ascii: "\r")), end + 1 < buffer.writerIndex else { return nil }
        let text = buffer.readString(length: end - buffer.readerIndex)
        buffer.moveReaderIndex(forwardBy: 2)
        return text
    }
}

struct RESPError: Error {
    let line: String

    init(_ line: String) { self.line = line }
}
