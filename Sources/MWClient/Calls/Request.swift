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

extension StorageClientConfiguration.Subprotocol {
    var spoken: ClientProtocol {
        switch self {
        case .native: .native
        case .mwdb: .mwdb
        }
    }
}

/// One request, encoded in the caller's task but for the request id, which only the connection can give.
struct Request: Sendable {
    /// What an answer must be the answer to.
    enum Kind: Hashable, Sendable, CustomStringConvertible {
        case mwdb(MWDBRequestType)
        case native(NativeRequestKind)

        var isNative: Bool {
            switch self {
            case .mwdb: false
            case .native: true
            }
        }

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
    /// The only connection it makes sense on, as it names something of that one's.
    var connection: UInt64?
    /// The only store it makes sense for, as it names revisions of that one's.
    var incarnation: Incarnation?

    /// Of the native protocol; what a write carries to happen once is added when it is sent.
    init<Native: NativeRequest>(_ request: Native, connection: UInt64? = nil) {
        self.init(Native.kind, connection: connection) { request.writeNativeValue(to: &$0) }
    }

    /// - Parameter write: writes the fields.
    init(_ kind: NativeRequestKind, connection: UInt64? = nil, expectedBytes: Int = 64, _ write: (inout ByteBuffer) -> Void) {
        self.kind = .native(kind)
        var bytes = ByteBuffer()
        bytes.reserveCapacity(expectedBytes)
        write(&bytes)
        self.bytes = bytes
        self.connection = connection
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

    /// Bytes that a native request takes beside its fields, at most.
    static let maximumOverheadBytes = NativeFrame.headerBytes + WriteSessionStateMachine.Header.fieldBytes

    /// Bytes of the whole message, at most.
    var maximumMessageBytes: Int {
        switch self.kind {
        case .mwdb: self.bytes.readableBytes + Base64Number.maximumInt32Characters
        case .native(let kind):
            self.bytes.readableBytes + NativeFrame.headerBytes + (kind.writeTag == nil ? 0 : WriteSessionStateMachine.Header.fieldBytes)
        }
    }

    var effect: CallTableStateMachine.Effect {
        switch self.kind {
        case .mwdb(.get), .mwdb(.prefix): .repeatable
        case .mwdb(.put), .mwdb(.remove): .once
        // A second one would be another backup.
        case .native(.backup): .once
        case .native(let kind): kind.writeTag == nil ? .repeatable : .identified
        }
    }

    /// Appends the whole of mwDB's message, or a native frame; several of these may share a message.
    func write(id: RequestID, _ write: WriteSessionStateMachine.Header?, to buffer: inout ByteBuffer) {
        switch self.kind {
        case .mwdb:
            buffer.writeImmutableBuffer(self.bytes)
            Base64Number(id.rawValue).write(to: &buffer)
        case .native(let kind):
            NativeFrame.write(.request, kind: kind.rawValue, id: id, to: &buffer) { buffer in
                buffer.writeImmutableBuffer(self.bytes)
                if let write, let tag = kind.writeTag { write.write(tag, to: &buffer) }
            }
        }
    }
}

/// One answer of a server, with the id of its request.
enum Reply: Sendable {
    case mwdb(MWDBReply)
    /// A reply; or a failure, and what it says if it can be read.
    case native(NativeFrame, NativeFailure?)
}

/// Where an answer came from.
struct AnswerOrigin: Sendable {
    let incarnation: Incarnation
    /// Which of the client's connections.
    let connection: UInt64
}

/// What the server answered; taken apart in the caller's task.
enum Answer: Sendable {
    case values(ByteBuffer)
    case done
    case prefix(UInt32)
    /// Of a native reply.
    case fields(NativeFields, AnswerOrigin)

    /// - Parameter isUncertain: the request had been sent before, unanswered: that it failed now says nothing about that time.
    /// - Returns: nil when the reply is not an answer to such a request.
    /// - Throws: ``ClientError`` with what the server said when it could not, or would not.
    init?(_ reply: Reply, to kind: Request.Kind, isUncertain: Bool, from origin: AnswerOrigin) throws(ClientError) {
        switch (reply, kind) {
        case (.mwdb(let reply), .mwdb(let type)): try self.init(reply, to: type)
        case (.native(let frame, let failure), .native(let kind)) where frame.kind == kind.rawValue:
            guard frame.role == .failure else {
                self = .fields(frame.fields, origin)
                return
            }
            guard let failure else { return nil }
            let error = ClientError(failure, of: kind)
            throw isUncertain ? .outcomeUnknown(kind, because: error) : error
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
            case .compacted: .compacted
            case .wrongIncarnation: .wrongIncarnation
            case .snapshotUnknown: .snapshotLost
            case .leaseUnknown: .leaseLost
            case .outcomeForgotten: .outcomeUnknown
            default: failure.mayHaveTakenEffect ? .outcomeUnknown : .refused
            }
        let wait = failure.retryAfterMilliseconds.map { "ask again after \(max(0, $0)) ms" }
        self.init(
            code, subject: "\(kind)", what: "the server says no: \(failure.code)", found: failure.detail, remedy: failure.remedy ?? wait,
            mayHaveTakenEffect: failure.mayHaveTakenEffect || code == .outcomeUnknown, underlying: failure)
    }

    /// A write that was sent on a connection that was lost, and of which the next one learned nothing.
    static func outcomeUnknown(_ kind: NativeRequestKind, because error: ClientError) -> ClientError {
        ClientError(
            .outcomeUnknown, subject: "\(kind)", what: "was sent on a connection that was lost, and could not be asked for again",
            found: "\(error)", remedy: "it may have been done: read before writing again", mayHaveTakenEffect: true, underlying: error)
    }
}

extension NativeRequestKind {
    /// Under which tag a request carries its session and sequence; nil: it is none that happens once.
    var writeTag: NativeTag? {
        switch self {
        case .put: NativeTag(rawValue: 3).critical
        case .remove, .grantLease, .revokeLease: NativeTag(rawValue: 2).critical
        case .transaction: NativeTag(rawValue: 4).critical
        case .allocatePrefix: NativeTag(rawValue: 1).critical
        default: nil
        }
    }
}

extension WriteSessionStateMachine.Header {
    /// A record of the session's 16 bytes and two integers, and its own header.
    static let fieldBytes = 4 * NativeFields.headerBytes + 2 * MemoryLayout<Int64>.size + WriteSessionID.byteCount

    /// As a ``NativeWriteID``.
    func write(_ tag: NativeTag, to buffer: inout ByteBuffer) {
        buffer.writeNativeField(tag) { buffer in
            buffer.writeNativeField(1) { $0.writeMultipleIntegers(self.session.high, self.session.low) }
            buffer.writeNativeField(2, self.sequence)
            buffer.writeNativeField(3, self.acknowledged)
        }
    }
}
