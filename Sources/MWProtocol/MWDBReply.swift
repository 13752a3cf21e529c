package import NIOCore

#if canImport(Glibc)
    internal import Glibc
#elseif canImport(Darwin)
    internal import Darwin
#endif

/// One message of an mwDB server.
package enum MWDBReply: Hashable, Sendable {
    /// The answer to a get. ``values(_:count:)`` takes it apart.
    case get(ByteBuffer, id: RequestID)
    case put(isDone: Bool, id: RequestID)
    case remove(isDone: Bool, id: RequestID)
    case prefix(Base64Number, id: RequestID)
    /// Another client put these: unasked, and without an id.
    case forceReload(MWDBPairs)

    /// nil for a message that answers no request.
    package var id: RequestID? {
        switch self {
        case .get(_, let id), .put(_, let id), .remove(_, let id), .prefix(_, let id): return id
        case .forceReload: return nil
        }
    }
}

// MARK: - The server's side: each writes into the outbound buffer, where a message has been begun

extension MWDBReply {
    /// Appends one value of a get's answer; `nil` and empty look alike on the wire.
    ///
    /// Throws ``ProtocolError/Code/separatorInValue`` for a value with `#` (it came another way than through this protocol): said here it
    /// would shift every value behind it.
    package static func writeValue(
        _ value: UnsafeRawBufferPointer?, isFirst: Bool, to buffer: inout ByteBuffer
    ) throws(ProtocolError) {
        if !isFirst { buffer.writeInteger(mwdbSeparator) }
        guard let value = unsafe value else { return }
        guard unsafe self.canSay(value) else { throw self.unsayable }
        unsafe buffer.writeBytes(value)
    }

    /// Ends a get's answer after its values.
    package static func writeGetTrailer(id: RequestID, to buffer: inout ByteBuffer) {
        self.writeTrailer(.get, id: id, to: &buffer)
    }

    /// Bytes of the answer to a get of one key.
    package static func byteCount(valueBytes: Int, id: RequestID) -> Int { valueBytes + 2 + Base64Number(id.rawValue).characterCount }

    /// Ends the answer to a get of one key, whose value ``canSay(_:)`` and is there, in the ``byteCount(valueBytes:id:)`` bytes that it takes.
    package static func writeGetTrailer(id: RequestID, behind valueBytes: Int, in bytes: UnsafeMutableRawBufferPointer) {
        let trailerBytes = unsafe Self.writeTrailer(.get, id: id, into: UnsafeMutableRawBufferPointer(rebasing: bytes[valueBytes...]))
        // What is not written was somebody else's.
        precondition(valueBytes + trailerBytes == bytes.count, "an answer is as long as was said")
    }

    /// Appends the answer to a put or a remove.
    package static func writeOutcome(_ type: MWDBReplyType, isDone: Bool, id: RequestID, to buffer: inout ByteBuffer) {
        assert(type == .put || type == .remove, "only writes have an outcome byte")
        buffer.writeInteger(isDone ? Self.done : Self.failed)
        self.writeTrailer(type, id: id, to: &buffer)
    }

    /// Appends the answer to a prefix request.
    package static func writePrefix(_ prefix: UInt32, id: RequestID, to buffer: inout ByteBuffer) {
        Base64Number(prefix).write(to: &buffer)
        self.writeTrailer(.prefix, id: id, to: &buffer)
    }

    /// Ends a FORCE_RELOAD after its put stream.
    package static func writeForceReloadTrailer(to buffer: inout ByteBuffer) {
        buffer.writeInteger(mwdbSeparator)
        buffer.writeInteger(MWDBReplyType.forceReload.rawValue)
    }

    /// Whether these bytes can be a key or a value in this protocol: it has no way to say a separator.
    package static func canSay(_ bytes: UnsafeRawBufferPointer) -> Bool {
        guard let base = bytes.baseAddress, bytes.count > 0 else { return true }
        return unsafe memchr(base, Int32(mwdbSeparator), bytes.count) == nil
    }

    private static func writeTrailer(_ type: MWDBReplyType, id: RequestID, to buffer: inout ByteBuffer) {
        _ = unsafe buffer.writeWithUnsafeMutableBytes(minimumWritableBytes: Self.maximumTrailerBytes) { bytes in
            unsafe Self.writeTrailer(type, id: id, into: bytes)
        }
    }

    /// - Returns: Bytes written.
    private static func writeTrailer(_ type: MWDBReplyType, id: RequestID, into bytes: UnsafeMutableRawBufferPointer) -> Int {
        unsafe bytes[0] = mwdbSeparator
        unsafe bytes[1] = type.rawValue
        return 2 + (unsafe Base64Number(id.rawValue).write(into: UnsafeMutableRawBufferPointer(rebasing: bytes[2...])))
    }

    /// What ``writeValue(_:isFirst:to:)`` throws.
    package static var unsayable: ProtocolError {
        ProtocolError(
            .separatorInValue, "stored value", expected: "no '#' in it",
            remedy: "mwDB's protocol cannot carry this value: read it in process or through another protocol")
    }

    private static let maximumTrailerBytes = 2 + Base64Number.maximumInt32Characters

    private static let done: UInt8 = 1
    private static let failed: UInt8 = 0
}

// MARK: - The client's side

extension MWDBReply {
    /// Reads one binary message of a server.
    package init(message: consuming ByteBuffer) throws(ProtocolError) {
        guard let trailer = try Trailer(of: message) else {
            throw ProtocolError(.tornMessage, "reply", expected: "a separator, a type and an id at the end")
        }
        guard let type = MWDBReplyType(rawValue: trailer.type) else {
            throw ProtocolError(.unknownType, "reply", expected: "type 1, 3, 4, 5 or 7", found: "type \(trailer.type)")
        }
        message.moveWriterIndex(to: message.readerIndex + trailer.dataBytes)
        if type == .forceReload {
            self = try Self.forceReload(message, trailer)
            return
        }
        guard let id = trailer.id else {
            throw ProtocolError(.tornMessage, "\(type) reply", expected: "a request id", found: "the end")
        }
        switch type {
        case .get: self = .get(message, id: id)
        case .put: self = .put(isDone: try Self.outcome(message), id: id)
        case .remove: self = .remove(isDone: try Self.outcome(message), id: id)
        case .prefix: self = .prefix(try Base64Number(text: message.readableBytesView), id: id)
        case .forceReload: self = try Self.forceReload(message, trailer)
        }
    }

    /// Takes the answer to `count` keys apart: one slice for each key, in their order; a missing value is an empty slice.
    ///
    /// Throws ``ProtocolError/Code/elementCountMismatch`` when there are not exactly `count - 1` separators.
    package static func values(_ data: ByteBuffer, count: Int) throws(ProtocolError) -> [ByteBuffer] {
        var values: [ByteBuffer] = []
        var rest = data
        if count > 0 || data.readableBytes > 0 {
            while let end = rest.readableBytesView.firstIndex(of: mwdbSeparator) {
                values.append(rest.readSlice(length: end - rest.readerIndex) ?? ByteBuffer())
                rest.moveReaderIndex(forwardBy: 1)
            }
            values.append(rest)
        }
        guard values.count == count else {
            throw ProtocolError(.elementCountMismatch, "get reply", expected: "\(count) values", found: "\(values.count)")
        }
        return values
    }

    private static func forceReload(_ data: ByteBuffer, _ trailer: Trailer) throws(ProtocolError) -> MWDBReply {
        guard trailer.id == nil else {
            throw ProtocolError(.tornMessage, "force reload", expected: "no id", found: "one")
        }
        guard let pairs = MWDBPairs(bytes: data) else {
            throw ProtocolError(.tornPut, "force reload", expected: "a value for each key", found: "a key at the end")
        }
        return .forceReload(pairs)
    }

    private static func outcome(_ data: borrowing ByteBuffer) throws(ProtocolError) -> Bool {
        let view = data.readableBytesView
        switch (view.count, view.first) {
        case (1, Self.done): return true
        case (1, Self.failed): return false
        default: throw ProtocolError(.malformedOutcome, "write reply", expected: "one byte, 00 or 01", found: "\(view.count) bytes")
        }
    }
}
