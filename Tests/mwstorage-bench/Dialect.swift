import ArgumentParser
import MWProtocol
import MWTLS
import MWWebSocket
import NIOCore

/// What a connection speaks, and what it waits for.
enum Dialect: String, ExpressibleByArgument, CaseIterable {
    /// `mwstorage.v1`: a watch, and a put.
    case native
    /// Redis: SUBSCRIBE, and PUBLISH of the value.
    case pubsub
    /// Redis: client tracking by prefix, and SET; what arrives is that the key is not valid any more.
    case tracking
    /// The same, and the value that the client then gets.
    case trackingGet = "tracking-get"
}

/// What a connection is there for.
enum Duty {
    /// Writes when it is told to.
    case writer
    /// Is told of what was written.
    case watcher
}

/// What a conversation heard, after the connection's own business.
struct Heard {
    /// The other side knows what we wait for.
    var ready = 0
    /// What was written has arrived.
    var notified = 0
    /// Our write is answered.
    var written = 0
}

/// The bytes of one conversation: no socket, no clock.
protocol Conversation: AnyObject {
    /// After TLS.
    func begin(_ outbound: inout ByteBuffer) throws
    /// Takes `bytes`, and leaves a buffer there to be filled again.
    func received(_ bytes: inout ByteBuffer, _ outbound: inout ByteBuffer, _ heard: inout Heard) throws
    func write(_ value: ByteBuffer, _ outbound: inout ByteBuffer)
}

/// The key that is written, and the prefix that is watched.
enum Names {
    static let key = ByteBuffer(string: "bench/key")
    static let lower = ByteBuffer(string: "bench/")
    static let upper = ByteBuffer(string: "bench0")
    static let channel = ByteBuffer(string: "bench")
}

struct Unexpected: Error, CustomStringConvertible {
    let description: String
}

// MARK: - Ours

final class NativeConversation: Conversation {
    private static let watchID = RequestID(1)
    private static let putID = RequestID(2)

    private let duty: Duty
    private let handshake: ClientOpeningHandshake
    private var machine = WebSocketStateMachine(role: .client)
    private var isOpen = false
    private var head = ByteBuffer()
    private var masks = Masks()

    init(_ duty: Duty, authority: String) {
        self.duty = duty
        machine.isReturningInput = true
        var random = SystemRandomNumberGenerator()
        handshake = ClientOpeningHandshake(
            authority: authority, subprotocols: [nativeSubprotocol],
            nonce: (0..<OpeningHandshake.nonceBytes).map { _ in UInt8.random(in: 0...255, using: &random) })
    }

    func begin(_ outbound: inout ByteBuffer) throws { outbound.writeString(try handshake.requestBytes()) }

    func received(_ bytes: inout ByteBuffer, _ outbound: inout ByteBuffer, _ heard: inout Heard) throws {
        if !isOpen {
            head.writeBuffer(&bytes)
            guard try open() else { return }
            swap(&bytes, &head)
            switch duty {
            case .writer: heard.ready += 1
            case .watcher: watch(&outbound)
            }
        }
        // It alone holds them.
        var taken = ByteBuffer()
        swap(&taken, &bytes)
        machine.bytesReceived(taken)
        while let event = machine.nextEvent(outbound: &outbound, maskingKey: masks.next()) {
            switch event {
            case .message(_, var message):
                while let frame = try NativeFrame(readingFrom: &message) { try note(frame, &heard) }
            case .closeReceived(let code, let reason): throw Unexpected(description: "closed: \(code.map { "\($0)" } ?? "") \(reason)")
            case .violation(let error): throw error
            case .ping, .pong: continue
            }
        }
        if let returned = machine.takeReturnedInput() { bytes = returned }
        bytes.clear()
    }

    func write(_ value: ByteBuffer, _ outbound: inout ByteBuffer) {
        var pair = NativePair()
        pair.key = Names.key
        pair.value = value
        var put = NativePut()
        put.pairs = [pair]
        send(put, Self.putID, &outbound)
    }

    private func watch(_ outbound: inout ByteBuffer) {
        var range = NativeRange()
        range.lower = Names.lower
        range.upper = Names.upper
        var watch = NativeWatch()
        watch.ranges = [range]
        send(watch, Self.watchID, &outbound)
    }

    private func send(_ request: some NativeRequest, _ id: RequestID, _ outbound: inout ByteBuffer) {
        var message = ByteBuffer()
        NativeFrame.write(request, id: id, to: &message)
        _ = machine.writeMessage(.binary, message, to: &outbound, maskingKey: masks.next())
    }

    private func note(_ frame: NativeFrame, _ heard: inout Heard) throws {
        switch frame.role {
        case .reply: if frame.id == Self.watchID { heard.ready += 1 } else { heard.written += 1 }
        case .failure: throw try NativeFailure(frame.fields)
        case .event where frame.kind == NativeEventKind.changes.rawValue: heard.notified += try Self.notifications(in: frame.fields)
        case .event, .request: break
        }
    }

    /// Every key and value in hand, and no more made of them than of Redis's: on one processor for all watchers, what reading costs is in the
    /// time of the last.
    private static func notifications(in fields: NativeFields) throws -> Int {
        var count = 0
        unsafe try fields.forEach { (tag, change) throws(ProtocolError) in
            guard tag == changeTag else { return try tag.checkSkippable() }
            var key: UnsafeRawBufferPointer?
            var value: UnsafeRawBufferPointer?
            unsafe try NativeFields.forEach(in: change) { (tag, bytes) throws(ProtocolError) in
                switch tag {
                case keyTag: unsafe key = bytes
                case valueTag: unsafe value = bytes
                default: try tag.checkSkippable()
                }
            }
            guard unsafe key != nil, unsafe value != nil else {
                throw ProtocolError(.malformedField, "change", expected: "a key and a value")
            }
            count += 1
        }
        return count
    }

    // As in the fields of `NativeChanges` and `NativeChange`.
    private static let changeTag: NativeTag = 2
    private static let keyTag: NativeTag = 1
    private static let valueTag: NativeTag = 2

    private func open() throws -> Bool {
        guard let end = head.readableBytesView.firstRange(of: Array("\r\n\r\n".utf8)) else { return false }
        let lines = String(decoding: head.readableBytesView[..<end.lowerBound], as: UTF8.self).split(separator: "\r\n")
        head.moveReaderIndex(to: end.upperBound)
        let status = lines.first.flatMap { $0.split(separator: " ").dropFirst().first }.flatMap { Int($0) } ?? 0
        let fields: [HeaderField] = lines.dropFirst().compactMap { line in
            line.firstIndex(of: ":").map { (String(line[..<$0]), String(line[line.index(after: $0)...].drop { $0 == " " })) }
        }
        guard try handshake.validate(status: status, headers: fields) == nativeSubprotocol else {
            throw Unexpected(description: "the server does not speak \(nativeSubprotocol)")
        }
        isOpen = true
        return true
    }
}

/// Keys that mask frames. RFC 6455 §5.3 wants such that a hostile script cannot guess; there is none here, and to ask the system for each would
/// be in the time of a write.
struct Masks {
    private var state: UInt64

    init() {
        var random = SystemRandomNumberGenerator()
        state = random.next() | 1
    }

    /// Marsaglia's xorshift.
    mutating func next() -> UInt32 {
        state ^= state << 13
        state ^= state >> 7
        state ^= state << 17
        return UInt32(truncatingIfNeeded: state >> 32)
    }
}

// MARK: - Redis

final class RedisConversation: Conversation {
    private let duty: Duty
    private let dialect: Dialect
    private var inbound = ByteBuffer()
    /// Replies to what the beginning asked, still to come.
    private var setup = 0

    init(_ duty: Duty, _ dialect: Dialect) {
        self.duty = duty
        self.dialect = dialect
    }

    func begin(_ outbound: inout ByteBuffer) {
        switch (duty, dialect) {
        case (.writer, _): send("PING", [], &outbound)
        case (.watcher, .pubsub): send("SUBSCRIBE", [Names.channel], &outbound)
        case (.watcher, _):
            send("HELLO 3", [], &outbound)
            send("CLIENT TRACKING on BCAST PREFIX", [Names.lower], &outbound)
            setup = 1
        }
        setup += 1
    }

    func received(_ bytes: inout ByteBuffer, _ outbound: inout ByteBuffer, _ heard: inout Heard) throws {
        // What is not whole waits for the rest.
        if inbound.readableBytes == 0 { swap(&inbound, &bytes) } else { inbound.writeBuffer(&bytes) }
        while let value = try RESPValue(readingFrom: &inbound) { try note(value, &outbound, &heard) }
        if inbound.readableBytes == 0 { swap(&inbound, &bytes) }
        bytes.clear()
    }

    func write(_ value: ByteBuffer, _ outbound: inout ByteBuffer) {
        if dialect == .pubsub { send("PUBLISH", [Names.channel, value], &outbound) } else { send("SET", [Names.key, value], &outbound) }
    }

    private func note(_ value: RESPValue, _ outbound: inout ByteBuffer, _ heard: inout Heard) throws {
        if case .failure(let text) = value { throw Unexpected(description: "Redis: \(text)") }
        if setup > 0 {
            setup -= 1
            if setup == 0 { heard.ready += 1 }
            return
        }
        switch (duty, dialect) {
        case (.writer, _): heard.written += 1
        case (.watcher, .pubsub): heard.notified += 1
        case (.watcher, .trackingGet):
            if value == .push { send("GET", [Names.key], &outbound) } else { heard.notified += 1 }
        case (.watcher, _): if value == .push { heard.notified += 1 }
        }
    }

    private func send(_ command: String, _ arguments: [ByteBuffer], _ outbound: inout ByteBuffer) {
        RESPValue.command(command.split(separator: " ").map { ByteBuffer(substring: $0) } + arguments, to: &outbound)
    }
}
