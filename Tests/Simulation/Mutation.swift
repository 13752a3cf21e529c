import History
import MWProtocol
import NIOCore

/// What a simulation does wrong on purpose, to see that it is found.
package enum Mutation: String, Sendable, CaseIterable {
    /// An event of a watch does not arrive.
    case dropsEvent
    /// A write arrives again, without its identifier.
    case repeatsWrite
    /// Two events arrive in the wrong order.
    case swapsEvents
    /// A part of an event's changes does not arrive.
    case tearsBatch
    /// A read is answered with what another one was answered before.
    case answersFromPast
}

/// Sits on a connection that is not encrypted, and does wrong.
// Safety: used on one thread only.
final class LinkMutator: @unchecked Sendable {
    private let mutation: Mutation
    private let clock: SimulatedClock
    private var toServer = FrameSplitter()
    private var toClient = FrameSplitter()
    /// Of answers that the client did not ask for.
    private static let ownID = RequestID(-77)
    private var held: NativeFrame?
    private var pastAnswers: [ByteBuffer: NativeFrame] = [:]
    private var questions: [RequestID: ByteBuffer] = [:]
    /// How often it did.
    private(set) var count = 0

    /// Percent of the occasions.
    private static let often = 30

    init(_ mutation: Mutation, clock: SimulatedClock) {
        self.mutation = mutation
        self.clock = clock
    }

    func pass(_ bytes: ByteBuffer, _ way: LinkWay) -> ByteBuffer {
        switch way {
        case .toServer: self.toServer.pass(bytes) { self.changed(request: $0) }
        case .toClient: self.toClient.pass(bytes) { self.changed(answer: $0) }
        }
    }

    private func changed(request frame: NativeFrame) -> [NativeFrame] {
        guard frame.role == .request else { return [frame] }
        switch (self.mutation, NativeRequestKind(rawValue: frame.kind)) {
        case (.repeatsWrite, .put):
            guard self.clock.chance(Self.often), var put = try? NativePut(frame.fields), put.writeID != nil else { return [frame] }
            put.writeID = nil
            self.count += 1
            return [frame, Self.frame(.request, frame.kind, Self.ownID, put)]
        case (.answersFromPast, .get):
            self.questions[frame.id] = frame.fields.bytes
            return [frame]
        default: return [frame]
        }
    }

    private func changed(answer frame: NativeFrame) -> [NativeFrame] {
        if frame.id == Self.ownID { return [] }
        if self.mutation == .answersFromPast, frame.role == .reply, let question = self.questions.removeValue(forKey: frame.id) {
            return [self.answer(to: question, instead: frame)]
        }
        guard frame.role == .event, frame.kind == NativeEventKind.changes.rawValue else { return [frame] + self.release() }
        switch self.mutation {
        case .dropsEvent where self.clock.chance(Self.often):
            self.count += 1
            return []
        case .tearsBatch:
            guard var event = try? NativeChanges(frame.fields), event.changes.count > 1 else { return [frame] }
            event.changes.removeLast()
            self.count += 1
            return [Self.frame(.event, frame.kind, frame.id, event)]
        case .swapsEvents:
            if self.held == nil, self.clock.chance(Self.often) {
                self.held = frame
                return []
            }
            if let held, held.id == frame.id { self.count += 1 }
            return [frame] + self.release()
        case .dropsEvent, .repeatsWrite, .answersFromPast: return [frame]
        }
    }

    private func release() -> [NativeFrame] {
        defer { self.held = nil }
        return self.held.map { [$0] } ?? []
    }

    private func answer(to question: ByteBuffer, instead frame: NativeFrame) -> NativeFrame {
        guard let past = self.pastAnswers[question], self.clock.chance(50) else {
            self.pastAnswers[question] = frame
            return frame
        }
        if past.fields != frame.fields { self.count += 1 }
        return NativeFrame(.reply, kind: frame.kind, id: frame.id, fields: past.fields)
    }

    private static func frame(_ role: NativeRole, _ kind: UInt16, _ id: RequestID, _ record: some NativeRecord) -> NativeFrame {
        var bytes = ByteBuffer()
        record.writeNativeValue(to: &bytes)
        return NativeFrame(role, kind: kind, id: id, fields: NativeFields(bytes: bytes))
    }
}

/// Takes the native frames out of WebSocket frames, and puts others in (RFC 6455 §5.2). Both ends send unfragmented messages.
private struct FrameSplitter {
    private var buffer = ByteBuffer()

    mutating func pass(_ bytes: ByteBuffer, _ change: (NativeFrame) -> [NativeFrame]) -> ByteBuffer {
        self.buffer.writeImmutableBuffer(bytes)
        var out = ByteBuffer()
        while let (opcode, isMasked, payload, whole) = self.nextFrame() {
            guard opcode == 0x82, let frames = try? NativeFrame.all(in: payload) else {
                out.writeImmutableBuffer(whole)
                continue
            }
            var changed = ByteBuffer()
            for frame in frames.flatMap(change) { frame.write(to: &changed) }
            if changed.readableBytes > 0 { Self.write(changed, isMasked: isMasked, to: &out) }
        }
        return out
    }

    private mutating func nextFrame() -> (opcode: UInt8, isMasked: Bool, payload: ByteBuffer, whole: ByteBuffer)? {
        var reader = self.buffer
        guard let opcode: UInt8 = reader.readInteger(), let second: UInt8 = reader.readInteger() else { return nil }
        var length = Int(second & 0x7f)
        if length == 126 {
            guard let long: UInt16 = reader.readInteger() else { return nil }
            length = Int(long)
        } else if length == 127 {
            guard let long: UInt64 = reader.readInteger() else { return nil }
            length = Int(long)
        }
        let isMasked = second & 0x80 != 0
        var key: [UInt8] = [0, 0, 0, 0]
        if isMasked {
            guard let bytes = reader.readBytes(length: 4) else { return nil }
            key = bytes
        }
        guard var payload = reader.readSlice(length: length) else { return nil }
        let consumed = self.buffer.readableBytes - reader.readableBytes
        guard let whole = self.buffer.readSlice(length: consumed) else { return nil }
        self.buffer.discardReadBytes()
        if isMasked {
            payload = ByteBuffer(bytes: payload.readableBytesView.enumerated().map { $1 ^ key[$0 % 4] })
        }
        return (opcode, isMasked, payload, whole)
    }

    private static func write(_ payload: ByteBuffer, isMasked: Bool, to out: inout ByteBuffer) {
        out.writeInteger(UInt8(0x82))
        let mask: UInt8 = isMasked ? 0x80 : 0
        switch payload.readableBytes {
        case ..<126: out.writeInteger(mask | UInt8(payload.readableBytes))
        case ..<65_536:
            out.writeInteger(mask | 126)
            out.writeInteger(UInt16(payload.readableBytes))
        default:
            out.writeInteger(mask | 127)
            out.writeInteger(UInt64(payload.readableBytes))
        }
        // A key of zeros masks nothing.
        if isMasked { out.writeInteger(UInt32(0)) }
        out.writeImmutableBuffer(payload)
    }
}
