import MWWebSocket
import NIOCore
import Testing

/// A frame as a peer would build it, wrong ones included. Written apart from the codec it tests.
struct TestFrame: Equatable, CustomStringConvertible {
    var isFinal = true
    var reserved: UInt8 = 0
    var opcode: UInt8
    var payload: [UInt8]

    init(_ opcode: UInt8, _ payload: [UInt8] = [], fin isFinal: Bool = true, reserved: UInt8 = 0) {
        self.opcode = opcode
        self.payload = payload
        self.isFinal = isFinal
        self.reserved = reserved
    }

    static func text(_ text: String, fin: Bool = true) -> Self { .init(1, Array(text.utf8), fin: fin) }
    static func binary(_ bytes: [UInt8], fin: Bool = true) -> Self { .init(2, bytes, fin: fin) }
    static func continuation(_ text: String, fin: Bool) -> Self { .init(0, Array(text.utf8), fin: fin) }
    static func ping(_ text: String = "") -> Self { .init(9, Array(text.utf8)) }
    static func pong(_ text: String = "") -> Self { .init(10, Array(text.utf8)) }
    static func close(_ code: UInt16? = nil, _ reason: String = "") -> Self {
        .init(8, (code.map { [UInt8($0 >> 8), UInt8($0 & 0xFF)] } ?? []) + Array(reason.utf8))
    }

    func bytes(mask: [UInt8]?) -> [UInt8] {
        var bytes: [UInt8] = [(isFinal ? 0x80 : 0) | reserved << 4 | opcode]
        let maskBit: UInt8 = mask == nil ? 0 : 0x80
        switch payload.count {
        case ...125: bytes.append(maskBit | UInt8(payload.count))
        case ...0xFFFF: bytes += [maskBit | 126, UInt8(payload.count >> 8), UInt8(payload.count & 0xFF)]
        default: bytes += [maskBit | 127] + (0..<8).reversed().map { UInt8(truncatingIfNeeded: payload.count >> ($0 * 8)) }
        }
        guard let mask else { return bytes + payload }
        return bytes + mask + payload.enumerated().map { $1 ^ mask[$0 % 4] }
    }

    /// Frames that our side sent; `nil` when the bytes are not a whole number of well-formed frames.
    static func parse(_ bytes: [UInt8], masked: Bool) -> [TestFrame]? {
        var frames: [TestFrame] = []
        var rest = bytes[...]
        func take(_ count: Int) -> [UInt8]? {
            guard rest.count >= count else { return nil }
            defer { rest = rest.dropFirst(count) }
            return Array(rest.prefix(count))
        }
        while !rest.isEmpty {
            guard let head = take(2), (head[1] & 0x80 != 0) == masked else { return nil }
            var length = Int(head[1] & 0x7F)
            if length >= 126 {
                guard let long = take(length == 126 ? 2 : 8) else { return nil }
                length = long.reduce(0) { $0 << 8 | Int($1) }
            }
            guard let mask = masked ? take(4) : [], let masked = take(length) else { return nil }
            let payload = mask.isEmpty ? masked : masked.enumerated().map { $1 ^ mask[$0 % 4] }
            frames.append(
                TestFrame(
                    head[0] & 0x0F, payload, fin: head[0] & 0x80 != 0, reserved: head[0] >> 4 & 7))
        }
        return frames
    }

    var description: String {
        "\(isFinal ? "" : "…")\(opcode):\(payload.count <= 40 ? String(decoding: payload, as: UTF8.self) : "\(payload.count) bytes")"
    }
}

/// How a stream is cut into what the transport reads.
enum Slicing: CaseIterable, Sendable {
    case allAtOnce
    case frameAtATime
    case byteAtATime
    case odd

    private static let longestBytewise = 2000

    func cut(_ frames: [[UInt8]]) -> [[UInt8]] {
        switch self {
        case .allAtOnce: return [frames.flatMap { $0 }]
        case .frameAtATime: return frames
        // Of long streams the first bytes; a debug build takes microseconds for each.
        case .byteAtATime:
            let all = frames.flatMap { $0 }
            let rest = Array(all.dropFirst(Self.longestBytewise))
            return all.prefix(Self.longestBytewise).map { [$0] } + (rest.isEmpty ? [] : [rest])
        case .odd:
            let all = frames.flatMap { $0 }
            return stride(from: 0, to: all.count, by: 997).map { Array(all[$0..<min($0 + 997, all.count)]) }
        }
    }
}

/// Our end of a connection, with a handler that echoes every message, as `mwstorage-echo` does.
final class EchoEnd {
    var machine: WebSocketStateMachine
    let role: WebSocketRole
    var outbound = ByteBuffer()
    var events: [WebSocketEvent] = []
    private var nextKey: UInt32 = 0x3141_5926

    init(_ role: WebSocketRole, limits: WebSocketLimits = WebSocketLimits()) {
        self.role = role
        machine = WebSocketStateMachine(role: role, limits: limits)
    }

    func receive(_ bytes: [UInt8]) {
        machine.bytesReceived(ByteBuffer(bytes: bytes))
        takeEvents()
    }

    func takeEvents() {
        while let event = machine.nextEvent(outbound: &outbound, maskingKey: drawKey()) {
            events.append(event)
            if case .message(let opcode, let payload) = event {
                machine.writeMessage(opcode, payload, to: &outbound, maskingKey: drawKey())
            }
        }
    }

    private func drawKey() -> UInt32 {
        nextKey &+= 0x9E37_79B9
        return nextKey
    }

    var state: WebSocketStateMachine.State { machine.state }
    var heldBytes: Int { machine.heldBytes }

    /// What the peer was sent; `nil` when that is not a whole number of frames.
    var sent: [TestFrame]? { TestFrame.parse(Array(outbound.readableBytesView), masked: role == .client) }
}

extension WebSocketRole {
    static var both: [WebSocketRole] { [.server, .client] }

    /// The frame as the peer of this role sends it.
    func received(_ frame: TestFrame) -> [UInt8] {
        frame.bytes(mask: self == .server ? [0x37, 0xFA, 0x21, 0x3D] : nil)
    }
}

extension WebSocketEvent {
    var violation: WebSocketError? {
        if case .violation(let error) = self { error } else { nil }
    }
}

/// SplitMix64: the same numbers every run.
struct SeededGenerator: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
}
