import MWProtocol
import NIOCore

/// What a client speaks with its servers.
enum ClientProtocol: Sendable {
    /// mwDB's, which has no name in the opening handshake.
    case mwdb
    case native

    /// What the opening handshake asks for, and must get.
    var subprotocol: String? {
        switch self {
        case .mwdb: nil
        case .native: nativeSubprotocol
        }
    }
}

/// One request, encoded in the caller's task but for the request id, which only the connection can give.
struct Request: Sendable {
    /// What an answer must be the answer to.
    enum Kind: Hashable, Sendable, CustomStringConvertible {
        case mwdb(MWDBRequestType)
        case native(NativeRequestKind)

        var description: String {
            switch self {
            case .mwdb(let type): "\(type)"
            case .native(let kind): "\(kind)"
            }
        }
    }

    let kind: Kind
    /// mwDB's message up to its id; the fields of a native request.
    let bytes: ByteBuffer

    /// Of the native protocol. All there are today may be asked again: what they change, they set.
    init(_ request: some NativeRequest) {
        self.kind = .native(type(of: request).kind)
        var bytes = ByteBuffer()
        request.writeNativeValue(to: &bytes)
        self.bytes = bytes
    }

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
        self.kind = .mwdb(type)
        self.bytes = buffer
    }

    /// Bytes of the whole message, at most.
    var maximumMessageBytes: Int {
        switch self.kind {
        case .mwdb: self.bytes.readableBytes + Base64Number.maximumInt32Characters
        case .native: self.bytes.readableBytes + NativeFrame.headerBytes
        }
    }

    var effect: CallTableStateMachine.Effect {
        switch self.kind {
        case .mwdb(.get), .mwdb(.prefix), .native: .repeatable
        case .mwdb(.put), .mwdb(.remove): .once
        }
    }

    /// Appends the whole message.
    func write(id: RequestID, to buffer: inout ByteBuffer) {
        switch self.kind {
        case .mwdb:
            buffer.writeImmutableBuffer(self.bytes)
            Base64Number(id.rawValue).write(to: &buffer)
        case .native(let kind):
            NativeFrame(.request, kind: kind.rawValue, id: id, fields: NativeFields(bytes: self.bytes)).write(to: &buffer)
        }
    }
}

/// One answer of a server, with the id of its request.
enum Reply: Sendable {
    case mwdb(MWDBReply)
    /// A reply or a failure.
    case native(NativeFrame)
}

/// What the server answered; taken apart in the caller's task.
enum Answer: Sendable {
    case values(ByteBuffer)
    case done
    case prefix(UInt32)
    /// Of a native reply.
    case fields(NativeFields)

    /// - Returns: nil when the reply is not an answer to such a request.
    /// - Throws: ``ClientError`` with what the server said when it could not, or would not.
    init?(_ reply: Reply, to kind: Request.Kind) throws(ClientError) {
        switch (reply, kind) {
        case (.mwdb(let reply), .mwdb(let type)):
            try self.init(reply, to: type)
        case (.native(let frame), .native(let kind)) where frame.kind == kind.rawValue:
            guard frame.role == .failure else {
                self = .fields(frame.fields)
                return
            }
            let failure: NativeFailure
            do { failure = try NativeFailure(frame.fields) } catch { return nil }
            throw ClientError(failure, of: kind)
        default: return nil
        }
    }

    private init?(_ reply: MWDBReply, to type: MWDBRequestType) throws(ClientError) {
        switch (reply, type) {
        case (.get(let data, _), .get): self = .values(data)
        case (.put(let isDone, _), .put), (.remove(let isDone, _), .remove):
            guard isDone else {
                throw ClientError(
                    .refused, subject: "\(type)", what: "the server could not store it, and stored nothing of it",
                    remedy: "see the server's log: its disk may be full or read-only, or its access policy may not let us write these keys")
            }
            self = .done
        case (.prefix(let number, _), .prefix):
            guard let prefix = UInt32(exactly: number.value) else { return nil }
            self = .prefix(prefix)
        default: return nil
        }
    }
}

extension ClientError {
    /// What a server said instead of doing it.
    init(_ failure: NativeFailure, of kind: NativeRequestKind) {
        let code: Code =
            switch failure.code {
            case .permissionDenied: .forbidden
            case .malformedRequest, .unknownRequest, .unsupportedField: .protocolMismatch
            case .invalidArgument: .invalidArgument
            default: .refused
            }
        let wait = failure.retryAfterMilliseconds.map { "ask again after \(max(0, $0)) ms" }
        self.init(
            code, subject: "\(kind)", what: "the server says no: \(failure.code)", found: failure.detail, remedy: failure.remedy ?? wait,
            mayHaveTakenEffect: failure.mayHaveTakenEffect, underlying: failure)
    }
}
