import MWWebSocket
import NIOCore
import Testing

@Suite("Mutated streams")
struct FuzzTests {
    /// Valid frames of every kind, then a few bytes changed, removed, or doubled.
    private static func stream(_ generator: inout SeededGenerator, _ role: WebSocketRole) -> [UInt8] {
        var bytes: [UInt8] = []
        for _ in 0..<Int.random(in: 1...12, using: &generator) {
            let opcode = [0, 0, 1, 1, 2, 2, 2, 9, 10, 8].randomElement(using: &generator) ?? 2
            let count = [0, 1, 2, 5, 50, 125, 126, 300].randomElement(using: &generator) ?? 0
            let ascii = Bool.random(using: &generator)
            var payload = (0..<(opcode > 7 ? min(count, 125) : count)).map { _ in
                ascii ? UInt8.random(in: 0x20...0x7E, using: &generator) : UInt8.random(in: 0...255, using: &generator)
            }
            if opcode == 8, payload.count > 1 { payload.replaceSubrange(0..<2, with: [0x03, 0xE8]) }
            let isFinal = opcode > 7 || Int.random(in: 0..<3, using: &generator) > 0
            let mask = role == .server ? (0..<4).map { _ in UInt8.random(in: 0...255, using: &generator) } : nil
            bytes += TestFrame(UInt8(opcode), payload, fin: isFinal).bytes(mask: mask)
        }
        for _ in 0..<Int.random(in: 0...3, using: &generator) where !bytes.isEmpty {
            let index = Int.random(in: 0..<bytes.count, using: &generator)
            switch Int.random(in: 0..<4, using: &generator) {
            case 0: bytes[index] ^= 1 << UInt8.random(in: 0..<8, using: &generator)
            case 1: bytes[index] = [0, 0x7F, 0x80, 0xFE, 0xFF].randomElement(using: &generator) ?? 0
            case 2: bytes.remove(at: index)
            default: bytes.insert(bytes[index], at: index)
            }
        }
        return bytes
    }

    @Test("never trap, and give the same events and answers however they are sliced", arguments: WebSocketRole.both, 0..<8)
    func sameHoweverSliced(_ role: WebSocketRole, _ seed: Int) {
        var generator = SeededGenerator(state: UInt64(seed))
        let limits = WebSocketLimits(maximumMessageBytes: 700, maximumFrameBytes: 400, maximumFragments: 5)
        for round in 0..<250 {
            let bytes = Self.stream(&generator, role)
            let whole = EchoEnd(role, limits: limits)
            whole.receive(bytes)
            for _ in 0..<4 {
                let sliced = EchoEnd(role, limits: limits)
                var rest = bytes[...]
                while !rest.isEmpty {
                    let count = Bool.random(using: &generator) ? 1 : Int.random(in: 1...rest.count, using: &generator)
                    let part = Array(rest.prefix(count))
                    rest = rest.dropFirst(count)
                    // Sometimes several reads come before the events are taken.
                    if Int.random(in: 0..<4, using: &generator) == 0 {
                        sliced.machine.bytesReceived(ByteBuffer(bytes: part))
                    } else {
                        sliced.receive(part)
                    }
                }
                sliced.takeEvents()
                let isSame = sliced.events == whole.events && sliced.outbound == whole.outbound && sliced.state == whole.state
                if !isSame { Issue.record("seed \(seed), round \(round): \(sliced.events) is not \(whole.events)") }
            }
        }
    }

    @Test("what is sent is always well formed, and at most one close frame comes last", arguments: WebSocketRole.both, 100..<104)
    func answersAreWellFormed(_ role: WebSocketRole, _ seed: Int) throws {
        var generator = SeededGenerator(state: UInt64(seed))
        for _ in 0..<250 {
            let end = EchoEnd(role)
            end.receive(Self.stream(&generator, role))
            guard let sent = end.sent else {
                Issue.record("not frames: \(end.outbound)")
                continue
            }
            #expect(sent.dropLast().allSatisfy { $0.opcode != 8 })
            #expect((sent.last?.opcode == 8) == (end.state == .closed))
        }
    }

    @Test("bytes of no form at all never trap", arguments: 200..<204)
    func noise(_ seed: Int) {
        var generator = SeededGenerator(state: UInt64(seed))
        var closed = 0
        for _ in 0..<2000 {
            let end = EchoEnd(Bool.random(using: &generator) ? .server : .client)
            end.receive((0..<Int.random(in: 0...64, using: &generator)).map { _ in UInt8.random(in: 0...255, using: &generator) })
            if end.state == .closed { closed += 1 }
        }
        #expect(closed > 1000)
    }
}
