import MWProtocol
import NIOCore

/// One mwDB request, encoded in the caller's task but for the request id, which only the connection can give: it comes last.
struct Request: Sendable {
    let type: MWDBRequestType
    /// The message up to its id.
    let bytes: ByteBuffer

    static func get(_ keys: [[UInt8]]) throws -> Request {
        try Self(.get) { buffer throws(ProtocolError) in try MWDBRequest.writeGet(keys, id: .zero, to: &buffer) }
    }

    static func put(_ pairs: some Sequence<(key: [UInt8], value: [UInt8])>) throws -> Request {
        try Self(.put) { buffer throws(ProtocolError) in try MWDBRequest.writePut(pairs, id: .zero, to: &buffer) }
    }

    static func remove(_ keys: [[UInt8]]) throws -> Request {
        try Self(.remove) { buffer throws(ProtocolError) in try MWDBRequest.writeRemove(keys, id: .zero, to: &buffer) }
    }

    static func allocatePrefix() throws -> Request {
        try Self(.prefix) { buffer throws(ProtocolError) in MWDBRequest.writePrefix(id: .zero, to: &buffer) }
    }

    private init(_ type: MWDBRequestType, _ write: (inout ByteBuffer) throws(ProtocolError) -> Void) throws {
        var buffer = ByteBuffer()
        do {
            try write(&buffer)
        } catch {
            throw ClientError(
                .invalidArgument, subject: error.subject, what: "cannot be said in mwDB's protocol", found: error.found,
                expected: error.expected, remedy: error.remedy, underlying: error)
        }
        // The text of id 0 is one character, "A".
        buffer.moveWriterIndex(to: buffer.writerIndex - 1)
        self.type = type
        self.bytes = buffer
    }

    /// The most bytes that the id adds to ``bytes``.
    static var maximumIDBytes: Int { Base64Number.maximumInt32Characters }

    var effect: CallTableStateMachine.Effect {
        switch self.type {
        case .get, .prefix: .repeatable
        case .put, .remove: .once
        }
    }

    /// Appends the whole message.
    func write(id: RequestID, to buffer: inout ByteBuffer) {
        buffer.writeImmutableBuffer(self.bytes)
        Base64Number(id.rawValue).write(to: &buffer)
    }
}

/// What the server answered; taken apart in the caller's task.
enum Answer: Sendable {
    case values(ByteBuffer)
    case done
    case prefix(UInt32)

    /// - Returns: nil when the reply is not an answer to such a request.
    /// - Throws: ``ClientError`` with `refused` when the server said that it could not.
    init?(_ reply: MWDBReply, to type: MWDBRequestType) throws(ClientError) {
        switch (reply, type) {
        case (.get(let data, _), .get): self = .values(data)
        case (.put(let isDone, _), .put), (.remove(let isDone, _), .remove):
            guard isDone else {
                throw ClientError(
                    .refused, subject: "\(type)", what: "the server could not store it, and stored nothing of it",
                    remedy: "see the server's log; its disk may be full or read-only")
            }
            self = .done
        case (.prefix(let number, _), .prefix):
            guard let prefix = UInt32(exactly: number.value) else { return nil }
            self = .prefix(prefix)
        default: return nil
        }
    }
}
