internal import NIOCore

/// The payload of a close frame (RFC 6455 §5.5.1): nothing, or
///
///     offset  size    meaning
///     0       2       code, big-endian
///     2       0…123   reason, UTF-8
enum ClosePayload {
    static let maximumReasonBytes = 123

    static func decode(_ payload: ByteBuffer) throws(WebSocketError) -> (CloseCode?, String) {
        var payload = payload
        guard payload.readableBytes > 0 else { return (nil, "") }
        guard let rawCode = payload.readInteger(as: UInt16.self) else {
            throw .violation(.closePayloadMalformed, "close frame", "the payload is one byte long", expected: "none, or at least two")
        }
        guard let code = CloseCode(rawValue: rawCode) else {
            throw .violation(.closeCodeInvalid, "close frame", "the code must not be sent", found: String(rawCode))  // RFC 6455 §7.4
        }
        var utf8 = UTF8Validator()
        guard unsafe payload.withUnsafeReadableBytes({ unsafe utf8.validate($0) }), utf8.isComplete else {
            throw .violation(.closeReasonInvalid, "close frame", "the reason is not UTF-8", closeCode: .invalidPayload)
        }
        return (code, String(buffer: payload))
    }

    /// As much of `reason` as fits, cut between characters.
    static func encode(_ code: CloseCode, _ reason: String) -> ByteBuffer {
        var payload = ByteBuffer()
        payload.writeInteger(code.rawValue)
        var left = maximumReasonBytes
        let kept = reason.unicodeScalars.prefix { scalar in
            left -= UTF8.width(scalar)
            return left >= 0
        }
        payload.writeString(String(kept))
        return payload
    }
}
