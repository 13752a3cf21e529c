internal import NIOCore

// RFC 6455 §5.2, all integers big-endian:
//
//     offset  size  meaning
//     0       1     FIN 80 | RSV 40 20 10 | opcode 0F
//     1       1     MASK 80 | length 7F: 0 to 125, or 126: two bytes follow, or 127: eight bytes follow
//     2       0/2/8 length, in the fewest bytes that hold it, highest bit of eight clear
//     …       0/4   masking key: from a client always, from a server never
//     …       n     payload, XORed with the key

/// Which end of the connection we are.
package enum WebSocketRole: Sendable {
    case server
    case client
}

/// The type of a message.
package enum MessageOpcode: UInt8, Sendable, Hashable {
    case text = 0x1
    case binary = 0x2
}

enum FrameOpcode: UInt8 {
    case continuation = 0x0
    case text = 0x1
    case binary = 0x2
    case close = 0x8
    case ping = 0x9
    case pong = 0xA

    var isControl: Bool { rawValue & 0x8 != 0 }

    var messageOpcode: MessageOpcode? { MessageOpcode(rawValue: rawValue) }
}

struct FrameHeader {
    static let maximumBytes = 14
    static let maximumControlPayloadBytes = 125
    /// The first byte of a final frame with opcode 2 and no reserved bit.
    static let wholeBinaryMessage: UInt8 = 0x82

    var isFinal: Bool
    var opcode: FrameOpcode
    var maskingKey: UInt32
    var payloadBytes: Int

    /// Reads a frame that the peer of `role` sent. A violation is told as soon as the bytes that show it are there.
    ///
    /// - Returns: The header and how many bytes it takes; `nil` when more are needed.
    @inline(__always)
    static func decode(
        _ bytes: UnsafeRawBufferPointer, receivedBy role: WebSocketRole
    ) throws(WebSocketError) -> (header: FrameHeader, byteCount: Int)? {
        guard bytes.count >= 2 else {
            // One byte is enough to refuse reserved bits and opcodes.
            if bytes.count == 1 { _ = try opcode(unsafe bytes[0]) }
            return nil
        }
        let first = unsafe bytes[0]
        let second = unsafe bytes[1]
        let opcode = try opcode(first)
        let isFinal = first & 0x80 != 0
        let isMasked = second & 0x80 != 0
        let length7 = Int(second & 0x7F)
        guard isMasked == (role == .server) else { throw maskViolation(role) }
        if opcode.isControl {
            guard isFinal else { throw .violation(.controlFragmented, "frame", "a control frame is fragmented") }  // RFC 6455 §5.5
            guard length7 <= maximumControlPayloadBytes else {
                throw .violation(.controlTooLong, "frame", "a control frame is too long", expected: "at most 125 bytes")  // RFC 6455 §5.5
            }
        }
        var offset = 2
        var length = length7
        if length7 == 126 {
            offset = 4
            guard bytes.count >= offset else { return nil }
            length = Int(UInt16(bigEndian: unsafe bytes.loadUnaligned(fromByteOffset: 2, as: UInt16.self)))
            guard length > 125 else { throw notMinimal(length) }
        } else if length7 == 127 {
            offset = 10
            guard bytes.count >= offset else { return nil }
            let long = UInt64(bigEndian: unsafe bytes.loadUnaligned(fromByteOffset: 2, as: UInt64.self))
            guard long <= UInt64(Int64.max) else {
                throw .violation(.lengthInvalid, "frame", "the highest bit of a 64 bit length is set")  // RFC 6455 §5.2
            }
            length = Int(long)
            guard length > Int(UInt16.max) else { throw notMinimal(length) }
        }
        guard isMasked else {
            return (FrameHeader(isFinal: isFinal, opcode: opcode, maskingKey: 0, payloadBytes: length), offset)
        }
        guard bytes.count >= offset + 4 else { return nil }
        let key = UInt32(bigEndian: unsafe bytes.loadUnaligned(fromByteOffset: offset, as: UInt32.self))
        return (FrameHeader(isFinal: isFinal, opcode: opcode, maskingKey: key, payloadBytes: length), offset + 4)
    }

    @inline(__always)
    private static func opcode(_ first: UInt8) throws(WebSocketError) -> FrameOpcode {
        // RFC 6455 §5.2: no extension is ever negotiated, so no reserved bit has a meaning.
        guard first & 0x70 == 0 else { throw .violation(.reservedBits, "frame", "a reserved bit is set") }
        guard let opcode = FrameOpcode(rawValue: first & 0x0F) else {
            throw .violation(.reservedOpcode, "frame", "the opcode is reserved", found: String(first & 0x0F))
        }
        return opcode
    }

    private static func maskViolation(_ role: WebSocketRole) -> WebSocketError {
        switch role {  // RFC 6455 §5.1
        case .server: .violation(.maskMissing, "frame", "a client's frame is not masked")
        case .client: .violation(.maskUnexpected, "frame", "a server's frame is masked")
        }
    }

    private static func notMinimal(_ length: Int) -> WebSocketError {
        .violation(.lengthNotMinimal, "frame", "the length is not in its shortest form", found: String(length))  // RFC 6455 §5.2
    }
}

extension FrameHeader {
    /// Bytes of the header of an unmasked frame with so much payload.
    static func byteCount(payloadBytes: Int) -> Int {
        payloadBytes <= 125 ? 2 : payloadBytes <= Int(UInt16.max) ? 4 : 10
    }

    /// Appends the header of an unfragmented frame; with a key, that of a masked one.
    @inline(__always)
    static func write(_ opcode: UInt8, payloadBytes: Int, maskingKey: UInt32?, to outbound: inout ByteBuffer) {
        let first = UInt16(0x80 | opcode) << 8 | (maskingKey == nil ? 0 : 0x80)
        if payloadBytes <= 125 {
            outbound.writeInteger(first | UInt16(payloadBytes))
        } else if payloadBytes <= Int(UInt16.max) {
            outbound.writeInteger(UInt32(first | 126) << 16 | UInt32(payloadBytes))
        } else {
            outbound.writeInteger(first | 127)
            outbound.writeInteger(UInt64(payloadBytes))
        }
        if let maskingKey { outbound.writeInteger(maskingKey) }
    }

    /// Writes the header of an unfragmented, unmasked frame at the start of `bytes`: ``byteCount(payloadBytes:)``.
    @inline(__always)
    static func write(_ opcode: UInt8, payloadBytes: Int, into bytes: UnsafeMutableRawBufferPointer) {
        let first = UInt16(0x80 | opcode) << 8
        if payloadBytes <= 125 {
            unsafe bytes.storeBytes(of: (first | UInt16(payloadBytes)).bigEndian, as: UInt16.self)
        } else if payloadBytes <= Int(UInt16.max) {
            unsafe bytes.storeBytes(of: (UInt32(first | 126) << 16 | UInt32(payloadBytes)).bigEndian, as: UInt32.self)
        } else {
            unsafe bytes.storeBytes(of: (first | 127).bigEndian, as: UInt16.self)
            unsafe bytes.storeBytes(of: UInt64(payloadBytes).bigEndian, toByteOffset: 2, as: UInt64.self)
        }
    }

    /// Overwrites the bytes before the payload with its header.
    static func patch(_ opcode: UInt8, payloadBytes: Int, maskingKey: UInt32?, at index: Int, of outbound: inout ByteBuffer) {
        let first = UInt16(0x80 | opcode) << 8 | (maskingKey == nil ? 0 : 0x80)
        if payloadBytes <= 125 {
            outbound.setInteger(first | UInt16(payloadBytes), at: index)
        } else if payloadBytes <= Int(UInt16.max) {
            outbound.setInteger(UInt32(first | 126) << 16 | UInt32(payloadBytes), at: index)
        } else {
            outbound.setInteger(first | 127, at: index)
            outbound.setInteger(UInt64(payloadBytes), at: index + 2)
        }
        if let maskingKey { outbound.setInteger(maskingKey, at: index + byteCount(payloadBytes: payloadBytes)) }
    }
}
