package import NIOCore

/// One request of an mwDB client. Keys and values are slices of the message they came in.
package enum MWDBRequest: Hashable, Sendable {
    case get(MWDBElements, id: RequestID)
    case put(MWDBPairs, id: RequestID)
    case remove(MWDBElements, id: RequestID)
    case prefix(id: RequestID)

    package var id: RequestID {
        switch self {
        case .get(_, let id), .put(_, let id), .remove(_, let id), .prefix(let id): return id
        }
    }

    package var type: MWDBRequestType {
        switch self {
        case .get: return .get
        case .put: return .put
        case .remove: return .remove
        case .prefix: return .prefix
        }
    }
}

// MARK: - The server's side

extension MWDBRequest {
    /// Reads one binary message.
    ///
    /// Throws what is wrong with it, with the close code to send; or, for a put that can be answered, the request to answer as failed.
    package init(message: consuming ByteBuffer) throws(ProtocolError) {
        guard let trailer = try Trailer(of: message) else {
            self = .prefix(id: try Self.prefixID(message))
            return
        }
        guard let type = MWDBRequestType(rawValue: trailer.type), type != .prefix else {
            throw ProtocolError(
                .unknownType, "request", expected: "type 0, 2 or 3, or 6 without a separator", found: "type \(trailer.type)")
        }
        guard let id = trailer.id else {
            throw ProtocolError(.tornMessage, "\(type) request", expected: "a request id", found: "the end")
        }
        message.moveWriterIndex(to: message.readerIndex + trailer.dataBytes)
        switch type {
        case .get: self = .get(MWDBElements(bytes: message), id: id)
        case .remove: self = .remove(MWDBElements(bytes: message), id: id)
        case .put:
            guard let pairs = MWDBPairs(bytes: message) else {
                throw ProtocolError(
                    .tornPut, "put request", expected: "a value for each key", found: "a key at the end",
                    failedRequest: .init(type: .put, id: id))
            }
            self = .put(pairs, id: id)
        case .prefix: self = .prefix(id: id)
        }
    }

    /// The one message without a separator: 06 and the id.
    private static func prefixID(_ message: borrowing ByteBuffer) throws(ProtocolError) -> RequestID {
        let view = message.readableBytesView
        guard let type = view.first else {
            throw ProtocolError(.tornMessage, "request", expected: "a message", found: "no bytes")
        }
        guard view.count <= 1 + Base64Number.maximumInt32Characters else {
            throw ProtocolError(.tornMessage, "request", expected: "a separator, a type and an id at the end")
        }
        guard type == MWDBRequestType.prefix.rawValue else {
            throw ProtocolError(.tornMessage, "request", expected: "a separator before type \(type)")
        }
        return try RequestID(text: view.dropFirst())
    }
}

// MARK: - The client's side

extension MWDBRequest {
    /// Appends a get of `keys`. Throws ``ProtocolError/Code/separatorInKey``, and leaves the buffer as it was, when a key contains `#`.
    package static func writeGet<Keys: Sequence>(_ keys: Keys, id: RequestID, to buffer: inout ByteBuffer) throws(ProtocolError)
    where Keys.Element: Collection<UInt8> {
        try self.writeKeys(keys, type: .get, id: id, to: &buffer)
    }

    /// Appends a remove of `keys`. Throws ``ProtocolError/Code/separatorInKey``, and leaves the buffer as it was, when a key contains `#`.
    package static func writeRemove<Keys: Sequence>(_ keys: Keys, id: RequestID, to buffer: inout ByteBuffer) throws(ProtocolError)
    where Keys.Element: Collection<UInt8> {
        try self.writeKeys(keys, type: .remove, id: id, to: &buffer)
    }

    /// Appends a put of `pairs`, which the server stores together or not at all.
    ///
    /// Throws ``ProtocolError/Code/separatorInKey`` or ``ProtocolError/Code/separatorInValue``, and leaves the buffer as it was, when one
    /// contains `#`: the server would take what follows for the next key.
    package static func writePut<Bytes: Collection<UInt8>>(
        _ pairs: some Sequence<(key: Bytes, value: Bytes)>, id: RequestID, to buffer: inout ByteBuffer
    ) throws(ProtocolError) {
        let start = buffer.writerIndex
        var isFirst = true
        for (key, value) in pairs {
            guard !key.contains(mwdbSeparator) else { throw Self.refusal(.separatorInKey, &buffer, backTo: start) }
            guard !value.contains(mwdbSeparator) else { throw Self.refusal(.separatorInValue, &buffer, backTo: start) }
            if !isFirst { buffer.writeInteger(mwdbSeparator) }
            isFirst = false
            buffer.writeBytes(key)
            buffer.writeInteger(mwdbSeparator)
            buffer.writeBytes(value)
        }
        Self.writeTrailer(.put, id: id, to: &buffer)
    }

    /// Appends a prefix request.
    package static func writePrefix(id: RequestID, to buffer: inout ByteBuffer) {
        buffer.writeInteger(MWDBRequestType.prefix.rawValue)
        Base64Number(id.rawValue).write(to: &buffer)
    }

    private static func writeKeys<Keys: Sequence>(
        _ keys: Keys, type: MWDBRequestType, id: RequestID, to buffer: inout ByteBuffer
    ) throws(ProtocolError) where Keys.Element: Collection<UInt8> {
        let start = buffer.writerIndex
        var isFirst = true
        var lastIsEmpty = false
        for key in keys {
            guard !key.contains(mwdbSeparator) else { throw Self.refusal(.separatorInKey, &buffer, backTo: start) }
            if !isFirst { buffer.writeInteger(mwdbSeparator) }
            isFirst = false
            lastIsEmpty = key.isEmpty
            buffer.writeBytes(key)
        }
        // "a#" is one element: an empty key at the end is there only with a separator after it.
        if lastIsEmpty { buffer.writeInteger(mwdbSeparator) }
        Self.writeTrailer(type, id: id, to: &buffer)
    }

    private static func writeTrailer(_ type: MWDBRequestType, id: RequestID, to buffer: inout ByteBuffer) {
        buffer.writeInteger(mwdbSeparator)
        buffer.writeInteger(type.rawValue)
        Base64Number(id.rawValue).write(to: &buffer)
    }

    private static func refusal(_ code: ProtocolError.Code, _ buffer: inout ByteBuffer, backTo start: Int) -> ProtocolError {
        buffer.moveWriterIndex(to: start)
        return ProtocolError(
            code, code == .separatorInKey ? "key" : "value", expected: "no '#' in it",
            remedy: "mwDB's protocol uses '#' as its separator: encode the bytes, for example as base64")
    }
}
