import MWProtocol
import MWWebSocket
import NIOCore

@testable import MWServer

/// A client of the native protocol in a ``StorageHarness``.
final class NativeHarnessClient {
    let client: HarnessClient
    private unowned let harness: StorageHarness
    private var nextID: Int32 = 1
    private var waiting: [NativeFrame] = []

    struct Unexpected: Error {
        let event: WebSocketEvent
    }

    /// There is no answer, or it is of something else.
    struct NoAnswer: Error {
        let frames: [NativeFrame]
    }

    init(_ client: HarnessClient, _ harness: StorageHarness) {
        self.client = client
        self.harness = harness
    }

    /// Sends a request of which the fields are written by `body`.
    func send(_ kind: NativeRequestKind, _ id: RequestID, _ body: (inout ByteBuffer) -> Void) throws {
        var message = ByteBuffer()
        NativeFrame.write(.request, kind: kind.rawValue, id: id, to: &message, body)
        try self.client.send([message])
    }

    @discardableResult
    func send<Request: NativeRequest>(_ request: Request) throws -> RequestID {
        let id = RequestID(self.nextID)
        self.nextID += 1
        try self.send(Request.kind, id) { request.writeNativeValue(to: &$0) }
        return id
    }

    /// What came since the last call.
    func frames() throws -> [NativeFrame] {
        let frames = try self.client.receive().flatMap { event in
            guard case .message(.binary, let payload) = event else { throw Unexpected(event: event) }
            return try NativeFrame.all(in: payload)
        }
        defer { self.waiting = [] }
        return self.waiting + frames
    }

    /// Reads the answer to `id`. Throws ``NativeFailure`` when it is one.
    func answer<Reply: NativeRecord>(to id: RequestID, as type: Reply.Type) throws -> Reply {
        var frames = try self.frames()
        guard let index = frames.firstIndex(where: { $0.id == id && $0.role != .event }) else { throw NoAnswer(frames: frames) }
        let frame = frames.remove(at: index)
        self.waiting = frames
        if frame.role == .failure { throw try NativeFailure(frame.fields) }
        return try Reply(frame.fields)
    }

    /// A request that is answered at once.
    func ask<Request: NativeRequest>(_ request: Request) throws -> Request.Reply {
        try self.answer(to: try self.send(request), as: Request.Reply.self)
    }

    /// A request that storage answers.
    func write<Request: NativeRequest>(_ request: Request) throws -> Request.Reply {
        let id = try self.send(request)
        self.harness.deliver(1)
        return try self.answer(to: id, as: Request.Reply.self)
    }

    /// What a request fails with; nil when it does not.
    func failure<Request: NativeRequest>(of request: Request, submitted: Bool = false) throws -> NativeFailure? {
        do {
            _ = submitted ? try self.write(request) : try self.ask(request)
            return nil
        } catch let failure as NativeFailure {
            return failure
        }
    }
}

extension NativeGet {
    init(_ keys: [String], snapshot: Int64? = nil) {
        self.init()
        self.keys = keys.map { ByteBuffer(string: $0) }
        self.snapshot = snapshot
    }
}

extension NativePut {
    init(_ pairs: [(String, String)], lease: Int64? = nil, writeID: NativeWriteID? = nil) {
        self.init()
        self.pairs = pairs.map { key, value in
            var pair = NativePair()
            pair.key = ByteBuffer(string: key)
            pair.value = ByteBuffer(string: value)
            return pair
        }
        self.lease = lease
        self.writeID = writeID
    }
}

extension NativeRemove {
    init(_ keys: [String], writeID: NativeWriteID? = nil) {
        self.init()
        self.keys = keys.map { ByteBuffer(string: $0) }
        self.writeID = writeID
    }
}

extension NativeScan {
    init(_ lower: String = "", upTo upper: String? = nil, limit: Int64 = 0, snapshot: Int64? = nil) {
        self.init()
        self.range.lower = ByteBuffer(string: lower)
        self.range.upper = upper.map { ByteBuffer(string: $0) }
        self.limit = limit
        self.snapshot = snapshot
    }
}

extension NativeOperation {
    init(_ action: Int64, _ key: String, _ value: String = "", lease: Int64? = nil) {
        self.init()
        self.action = action
        self.key = ByteBuffer(string: key)
        self.value = ByteBuffer(string: value)
        self.lease = lease
    }

    static func get(_ key: String) -> Self { Self(0, key) }
    static func put(_ key: String, _ value: String, lease: Int64? = nil) -> Self { Self(1, key, value, lease: lease) }
    static func remove(_ key: String) -> Self { Self(2, key) }
}

extension NativeCompare {
    /// - Parameters: As on the wire.
    init(_ key: String, _ target: Int64, _ relation: Int64, number: Int64 = 0, value: String = "") {
        self.init()
        self.key = ByteBuffer(string: key)
        self.target = target
        self.relation = relation
        self.number = number
        self.value = ByteBuffer(string: value)
    }
}

extension NativeTransaction {
    init(if compares: [NativeCompare] = [], then: [NativeOperation], else otherwise: [NativeOperation] = [], writeID: NativeWriteID? = nil)
    {
        self.init()
        self.compares = compares
        self.thenOperations = then
        self.elseOperations = otherwise
        self.writeID = writeID
    }
}

extension NativeWriteID {
    init(_ session: ByteBuffer, _ sequence: Int64, acknowledged: Int64 = 0) {
        self.init()
        self.session = session
        self.sequence = sequence
        self.acknowledged = acknowledged
    }
}

extension NativeEntry {
    /// `key=value@revision`, for comparing.
    var shown: String { "\(String(buffer: self.key))=\(String(buffer: self.value))@\(self.revision)" }
}
