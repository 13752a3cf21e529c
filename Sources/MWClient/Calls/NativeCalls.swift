import MWProtocol
import NIOCore

// The data calls of the native protocol, written and read in place: `MWProtocol`'s records say the same, and allocate.

extension Request {
    static func nativeGet(_ keys: [[UInt8]], isWithoutValues: Bool = false) -> Request {
        Request(.get, expectedBytes: keys.reduce(0) { $0 + $1.count + NativeFields.headerBytes }) { buffer in
            for key in keys { buffer.writeNativeField(1) { $0.writeBytes(key) } }
            if isWithoutValues { buffer.writeNativeField(2) { $0.writeInteger(UInt8(1)) } }
        }
    }

    static func nativePut(_ pairs: [(key: [UInt8], value: [UInt8])], lease: LeaseID?) -> Request {
        let bytes = pairs.reduce(0) { $0 + $1.key.count + $1.value.count + 3 * NativeFields.headerBytes }
        return Request(.put, expectedBytes: bytes) { buffer in
            for (key, value) in pairs {
                buffer.writeNativeField(1) { buffer in
                    buffer.writeNativeField(1) { $0.writeBytes(key) }
                    buffer.writeNativeField(2) { $0.writeBytes(value) }
                }
            }
            if let lease { buffer.writeNativeField(NativeTag(rawValue: 2).critical, lease.rawValue) }
        }
    }

    static func nativeRemove(_ keys: [[UInt8]]) -> Request {
        Request(.remove, expectedBytes: keys.reduce(0) { $0 + $1.count + NativeFields.headerBytes }) { buffer in
            for key in keys { buffer.writeNativeField(1) { $0.writeBytes(key) } }
        }
    }
}

/// A ``NativeEntry`` as it is read.
struct ReadEntry {
    private(set) var key: [UInt8] = []
    private(set) var value: [UInt8] = []
    /// 0: the key is absent.
    private(set) var revision: Int64 = 0
    private(set) var lease: Int64?

    init(_ bytes: UnsafeRawBufferPointer) throws(ProtocolError) {
        unsafe try NativeFields.forEach(in: bytes) { (tag, value) throws(ProtocolError) in
            switch tag {
            case 1: self.key = unsafe Array(value)
            case 2: self.value = unsafe Array(value)
            case 3: self.revision = unsafe try NativeRead.integer(value)
            case 4: self.lease = unsafe try NativeRead.integer(value)
            default: try NativeRead.skip(tag)
            }
        }
    }

    /// - Parameter key: where the wire leaves it out.
    func entry(key: [UInt8]? = nil, in incarnation: Incarnation) -> Entry? {
        guard self.revision > 0 else { return nil }
        return Entry(
            key: key ?? self.key, value: self.value, revision: Revision(incarnation, self.revision), lease: self.lease.map { LeaseID($0) })
    }
}

/// Reads replies.
enum NativeRead {
    /// A reply that is a revision and entries: ``NativeValues``, ``NativeScanPage``.
    struct Page {
        var revision: Int64 = 0
        var entries: [ReadEntry] = []
        var hasMore = false
    }

    static func page(_ fields: NativeFields) throws(ProtocolError) -> Page {
        var page = Page()
        unsafe try fields.forEach { (tag, value) throws(ProtocolError) in
            switch tag {
            case 1: page.revision = unsafe try Self.integer(value)
            case 2: page.entries.append(unsafe try ReadEntry(value))
            case 3: page.hasMore = unsafe try Self.truth(value)
            default: try Self.skip(tag)
            }
        }
        return page
    }

    /// The revision of a ``NativeWritten``.
    static func revision(_ fields: NativeFields) throws(ProtocolError) -> Int64 {
        var revision: Int64 = 0
        unsafe try fields.forEach { (tag, value) throws(ProtocolError) in
            switch tag {
            case 1: revision = unsafe try Self.integer(value)
            default: try Self.skip(tag)
            }
        }
        return revision
    }

    static func integer(_ bytes: UnsafeRawBufferPointer) throws(ProtocolError) -> Int64 {
        guard bytes.count == MemoryLayout<Int64>.size else {
            throw ProtocolError(.malformedField, "field", expected: "an integer of 8 bytes", found: "\(bytes.count) bytes")
        }
        return unsafe Int64(bigEndian: bytes.loadUnaligned(as: Int64.self))
    }

    static func truth(_ bytes: UnsafeRawBufferPointer) throws(ProtocolError) -> Bool {
        guard bytes.count == 1, unsafe bytes[0] <= 1 else { throw ProtocolError(.malformedField, "field", expected: "one byte, 0 or 1") }
        return unsafe bytes[0] == 1
    }

    static func skip(_ tag: NativeTag) throws(ProtocolError) {
        guard !tag.isCritical else {
            throw ProtocolError(.unsupportedField, "field \(tag)", expected: "only fields that this version knows")
        }
    }
}

extension ClientCore {
    /// Sends a request and reads its reply.
    func ask<Value>(
        _ request: Request, _ timeout: Duration?, _ read: (NativeFields, AnswerOrigin) throws(ProtocolError) -> Value
    ) async throws -> Value {
        guard case .fields(let fields, let origin) = try await self.call(request, timeout) else { throw ClientError.impossibleAnswer }
        do throws(ProtocolError) {
            return try read(fields, origin)
        } catch {
            // The server did something, and what that was is not known.
            let isWrite = request.effect != .repeatable
            throw ClientError(
                isWrite ? .outcomeUnknown : .protocolMismatch, subject: "\(request.kind)", what: "the answer cannot be read",
                found: error.found, expected: error.expected, remedy: "use a client of the server's version", mayHaveTakenEffect: isWrite,
                underlying: error)
        }
    }

    /// The same with records.
    func ask<Native: NativeRequest>(
        _ request: Native, connection: UInt64? = nil, _ timeout: Duration?
    ) async throws -> (Native.Reply, AnswerOrigin) {
        try await self.ask(Request(request, connection: connection), timeout) { (fields, origin) throws(ProtocolError) in
            (try Native.Reply(fields), origin)
        }
    }
}

extension ClientError {
    static let impossibleAnswer = ClientError(.protocolMismatch, subject: "answer", what: "is of another kind than the request")
}
