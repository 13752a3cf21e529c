// Where in the stream of records OpenSSL stands, told by the bytes that it took (RFC 8446 §5.1).
//
//   0      1               3          5
//   ├ type ┼ legacy version ┼ length n ┼ n bytes ... ┤ the next record

/// Follows the record headers among the bytes that OpenSSL takes during a handshake.
struct RecordFraming {
    enum Position: Equatable {
        case boundary
        case insideHeader
        case insideRecord(bytesLeft: Int)
        /// What came was no record; OpenSSL alone knows what it makes of it.
        case unknown
    }

    static let headerBytes = 5
    static let lengthOffset = 3
    /// change_cipher_spec, alert, handshake, application_data.
    static let recordTypes: ClosedRange<UInt8> = 20...23

    /// The whole record, version 1.2 as everybody sends it.
    static let changeCipherSpec: [UInt8] = [20, 3, 3, 0, 1, 1]

    private var headerBytesTaken = 0
    /// Of the record's length; while the header is incomplete, what is known of it.
    private var bytesLeft = 0
    private var isLost = false

    var position: Position {
        if isLost { return .unknown }
        switch headerBytesTaken {
        case 0: return .boundary
        case Self.headerBytes: return .insideRecord(bytesLeft: bytesLeft)
        default: return .insideHeader
        }
    }

    mutating func take(_ bytes: UnsafeRawBufferPointer) {
        var index = 0
        while index < bytes.count, !isLost {
            if headerBytesTaken < Self.headerBytes {
                takeHeaderByte(unsafe bytes[index])
                index += 1
            } else {
                let count = min(bytesLeft, bytes.count - index)
                bytesLeft -= count
                index += count
            }
            if headerBytesTaken == Self.headerBytes, bytesLeft == 0 { headerBytesTaken = 0 }
        }
    }

    private mutating func takeHeaderByte(_ byte: UInt8) {
        if headerBytesTaken == 0 { isLost = !Self.recordTypes.contains(byte) }
        if headerBytesTaken >= Self.lengthOffset { bytesLeft = bytesLeft << 8 | Int(byte) }
        headerBytesTaken += 1
    }
}
