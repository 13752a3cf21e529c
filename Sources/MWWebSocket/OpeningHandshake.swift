/// One header line, as NIOHTTP1's `HTTPHeaders` gives it.
package typealias HeaderField = (name: String, value: String)

/// What both sides of the opening handshake know (RFC 6455 §4).
package enum OpeningHandshake {
    /// RFC 6455 §4.1: the only version there is.
    package static let version = "13"
    /// RFC 6455 §4.1: bytes of the nonce in `Sec-WebSocket-Key`.
    package static let nonceBytes = 16
    /// Bytes of request line and header lines. Breach: 431. Default 16 KiB: ours are below 1 KiB.
    package static let maximumHeaderBytes = 16 * 1024
    /// From the accepted connection to the 101, TLS included. Breach: close. Default 5 s: a handshake takes milliseconds.
    package static let timeout = Duration.seconds(5)
    private static let guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

    /// The `Sec-WebSocket-Accept` that answers a key (RFC 6455 §4.2.2).
    package static func accept(forKey key: String) -> String {
        Base64.encode(SHA1.digest(Array((key + guid).utf8)))
    }

    /// The values of every line of that name, in order.
    static func values(_ name: String, in headers: [HeaderField]) -> [String] {
        headers.filter { isEqual($0.name, name) }.map { trimmed($0.value) }
    }

    /// The elements of a comma list that may span several lines (RFC 9110 §5.6.1); empty elements do not count.
    static func tokens(_ name: String, in headers: [HeaderField]) -> [String] {
        values(name, in: headers).flatMap { $0.split(separator: ",") }.map { trimmed($0) }.filter { !$0.isEmpty }
    }

    static func hasToken(_ token: String, _ name: String, in headers: [HeaderField]) -> Bool {
        tokens(name, in: headers).contains { isEqual($0, token) }
    }

    /// ASCII, case-insensitive.
    static func isEqual(_ left: String, _ right: String) -> Bool {
        left.utf8.count == right.utf8.count && left.utf8.elementsEqual(right.utf8) { lowercased($0) == lowercased($1) }
    }

    private static func lowercased(_ byte: UInt8) -> UInt8 {
        (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains(byte) ? byte | 0x20 : byte
    }

    private static func trimmed(_ text: some StringProtocol) -> String {
        let isSpace = { (byte: UInt8) in byte == UInt8(ascii: " ") || byte == UInt8(ascii: "\t") }
        // Most often there is none.
        guard text.utf8.contains(where: isSpace) else { return String(text) }
        let head = text.utf8.drop(while: isSpace)
        return String(decoding: head.reversed().drop(while: isSpace).reversed(), as: UTF8.self)
    }

    /// RFC 9110 §5.6.2.
    static func isToken(_ text: String) -> Bool {
        !text.isEmpty
            && text.utf8.allSatisfy { byte in
                switch byte {
                case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "a")...UInt8(ascii: "z"):
                    true
                default: "!#$%&'*+-.^_`|~".utf8.contains(byte)
                }
            }
    }
}
