// The two extensions of a ClientHello that say whether it is an ACME validation. All numbers are big-endian.
//
//   application_layer_protocol_negotiation (RFC 7301 §3.1)     server_name (RFC 6066 §3)
//
//   offset size                                                offset size
//   0      2     bytes of the list                             0      2     bytes of the list
//   2      1     bytes of a name, 1 to 255 ┐ once for each     2      1     kind: 0, a host name
//   3      …     the name                  ┘ protocol          3      2     bytes of the name
//                                                              5      …     the name, without a final dot
//
// OpenSSL parses both again, later, and ends the handshake with decode_error where they are malformed.

/// What a ClientHello says about protocols and names, out of the bytes of its extensions.
enum ClientHelloExtensions {
    private static let hostNameKind: UInt8 = 0

    /// The protocols offered, in order; `nil` when the bytes are malformed.
    static func protocols(_ bytes: some RandomAccessCollection<UInt8>) -> [String]? {
        var reader = Reader(bytes)
        guard let count = reader.readUInt16(), count == reader.unreadBytes, count > 0 else { return nil }
        var protocols: [String] = []
        while reader.unreadBytes > 0 {
            guard let length = reader.readUInt8(), length > 0, let name = reader.read(Int(length)) else { return nil }
            // Protocol names are bytes, not text; what is not ASCII is a name that nobody here asks for.
            protocols.append(String(decoding: name, as: UTF8.self))
        }
        return protocols
    }

    /// The one host name, in lower case; `nil` when there is none, more than one, or the bytes are malformed.
    static func serverName(_ bytes: some RandomAccessCollection<UInt8>) -> String? {
        var reader = Reader(bytes)
        guard let count = reader.readUInt16(), count == reader.unreadBytes, reader.readUInt8() == hostNameKind,
            let length = reader.readUInt16(), length > 0, let name = reader.read(length), reader.unreadBytes == 0,
            name.allSatisfy({ $0 > 0x20 && $0 < 0x7F })
        else { return nil }
        return String(decoding: name, as: UTF8.self).lowercased()
    }

    private struct Reader<Bytes: RandomAccessCollection<UInt8>> {
        private var rest: Bytes.SubSequence

        init(_ bytes: Bytes) { rest = bytes[...] }

        var unreadBytes: Int { rest.count }

        mutating func readUInt8() -> UInt8? { rest.popFirst() }

        mutating func readUInt16() -> Int? {
            guard let high = rest.popFirst(), let low = rest.popFirst() else { return nil }
            return Int(high) << 8 | Int(low)
        }

        mutating func read(_ count: Int) -> Bytes.SubSequence? {
            guard count <= rest.count else { return nil }
            defer { rest = rest.dropFirst(count) }
            return rest.prefix(count)
        }
    }
}
