import NIOCore
import Testing

@testable import MWWebSocket

@Suite("Frames on the wire")
struct FrameTests {
    // RFC 6455 §5.7, as far as it needs no server of the same role.
    @Test("the examples of RFC 6455 §5.7 are read")
    func goldenRead() throws {
        let server = EchoEnd(.server)
        server.receive([0x81, 0x85, 0x37, 0xFA, 0x21, 0x3D, 0x7F, 0x9F, 0x4D, 0x51, 0x58])
        server.receive([0x8A, 0x85, 0x37, 0xFA, 0x21, 0x3D, 0x7F, 0x9F, 0x4D, 0x51, 0x58])
        #expect(server.events == [.message(.text, ByteBuffer(string: "Hello")), .pong(ByteBuffer(string: "Hello"))])

        let client = EchoEnd(.client)
        client.receive([0x81, 0x05, 0x48, 0x65, 0x6C, 0x6C, 0x6F])
        client.receive([0x01, 0x03, 0x48, 0x65, 0x6C])
        client.receive([0x80, 0x02, 0x6C, 0x6F])
        client.receive([0x89, 0x05, 0x48, 0x65, 0x6C, 0x6C, 0x6F])
        client.receive([0x82, 0x7E, 0x01, 0x00] + [UInt8](repeating: 7, count: 256))
        client.receive([0x82, 0x7F, 0, 0, 0, 0, 0, 1, 0, 0] + [UInt8](repeating: 8, count: 65536))
        #expect(
            client.events == [
                .message(.text, ByteBuffer(string: "Hello")), .message(.text, ByteBuffer(string: "Hello")),
                .ping(ByteBuffer(string: "Hello")),
                .message(.binary, ByteBuffer(repeating: 7, count: 256)), .message(.binary, ByteBuffer(repeating: 8, count: 65536)),
            ])
    }

    // The masking key is zero: what is on the wire is the payload.
    @Test("a buffer that was taken whole is given back once, and not before")
    func returnedInput() {
        var machine = WebSocketStateMachine(role: .server)
        machine.isReturningInput = true
        var outbound = ByteBuffer()
        let message: [UInt8] = [0x82, 0x82, 0, 0, 0, 0, 7, 8]
        let expected = WebSocketEvent.message(.binary, ByteBuffer(bytes: [7, 8]))
        machine.bytesReceived(ByteBuffer(bytes: message + message + message.prefix(1)))
        for _ in 0..<2 {
            let event = machine.nextEvent(outbound: &outbound)
            let returned = machine.takeReturnedInput()
            #expect(event == expected && returned == nil)
        }
        let none = machine.nextEvent(outbound: &outbound)
        let returned = [machine.takeReturnedInput(), machine.takeReturnedInput()]
        #expect(none == nil && returned[0] != nil && returned[1] == nil)
        machine.bytesReceived(ByteBuffer(bytes: message.dropFirst()))
        let event = machine.nextEvent(outbound: &outbound)
        let storage = machine.takeReturnedInput()
        #expect(event == expected && storage?.storageCapacity ?? 0 > 0)
    }

    @Test("a buffer that was taken whole is given back after the last event, too")
    func returnedInputAfterTheLastEvent() {
        var machine = WebSocketStateMachine(role: .server)
        machine.isReturningInput = true
        var outbound = ByteBuffer()
        machine.bytesReceived(ByteBuffer(bytes: [0x82, 0x82, 0, 0, 0, 0, 7, 8] as [UInt8]))
        var events = 0
        while machine.nextEvent(outbound: &outbound) != nil { events += 1 }
        let storage = machine.takeReturnedInput()
        #expect(events == 1 && storage?.storageCapacity ?? 0 > 0)
    }

    @Test("the examples of RFC 6455 §5.7 are written")
    func goldenWritten() {
        var server = WebSocketStateMachine(role: .server)
        var client = WebSocketStateMachine(role: .client)
        var outbound = ByteBuffer()
        server.writeMessage(.text, ByteBuffer(string: "Hello"), to: &outbound)
        #expect(Array(outbound.readableBytesView) == [0x81, 0x05, 0x48, 0x65, 0x6C, 0x6C, 0x6F])
        outbound.clear()
        client.writeMessage(.text, ByteBuffer(string: "Hello"), to: &outbound, maskingKey: 0x37FA_213D)
        #expect(Array(outbound.readableBytesView) == [0x81, 0x85, 0x37, 0xFA, 0x21, 0x3D, 0x7F, 0x9F, 0x4D, 0x51, 0x58])
        outbound.clear()
        server.writePing(ByteBuffer(string: "Hello"), to: &outbound)
        #expect(Array(outbound.readableBytesView) == [0x89, 0x05, 0x48, 0x65, 0x6C, 0x6C, 0x6F])
        outbound.clear()
        server.writeMessage(.binary, ByteBuffer(repeating: 0, count: 256), to: &outbound)
        #expect(Array(outbound.readableBytesView.prefix(4)) == [0x82, 0x7E, 0x01, 0x00])
        outbound.clear()
        server.writeMessage(.binary, ByteBuffer(repeating: 0, count: 65536), to: &outbound)
        #expect(Array(outbound.readableBytesView.prefix(10)) == [0x82, 0x7F, 0, 0, 0, 0, 0, 1, 0, 0])
    }

    /// Header bytes a client may not send, with the least of them that must show it.
    static let malformed: [(name: String, bytes: [UInt8], code: WebSocketError.Code)] = [
        ("not masked", [0x82, 0x05], .maskMissing),
        ("16 bit length of 125", [0x82, 0xFE, 0x00, 0x7D], .lengthNotMinimal),
        ("16 bit length of 0", [0x82, 0xFE, 0x00, 0x00], .lengthNotMinimal),
        ("64 bit length of 125", [0x82, 0xFF, 0, 0, 0, 0, 0, 0, 0, 0x7D], .lengthNotMinimal),
        ("64 bit length of 65,535", [0x82, 0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF], .lengthNotMinimal),
        ("highest bit of the length", [0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0], .lengthInvalid),
        ("all bits of the length", [0x82, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF], .lengthInvalid),
        ("control frame of 126", [0x89, 0xFE], .controlTooLong),
        ("control frame of 64 bits", [0x88, 0xFF], .controlTooLong),
        ("fragmented ping", [0x09, 0x80], .controlFragmented),
        ("reserved bit, first byte only", [0xC2], .reservedBits),
        ("reserved opcode, first byte only", [0x83], .reservedOpcode),
    ]

    @Test("a malformed header is 1002 as soon as it shows", arguments: malformed.indices)
    func malformedHeader(_ index: Int) throws {
        let (_, bytes, code) = Self.malformed[index]
        for slicing in [Slicing.allAtOnce, .byteAtATime] {
            let end = EchoEnd(.server)
            for part in slicing.cut([bytes]) {
                #expect(end.state == .open)
                end.receive(part)
            }
            #expect(end.events.compactMap(\.violation?.code) == [code])
            #expect(end.sent?.map { Array($0.payload.prefix(2)) } == [[0x03, 0xEA]])
        }
    }

    @Test("a masked frame from a server is 1002")
    func maskedServerFrame() {
        let end = EchoEnd(.client)
        end.receive(TestFrame.text("Hello").bytes(mask: [1, 2, 3, 4]))
        #expect(end.events.compactMap(\.violation?.code) == [.maskUnexpected])
    }

    @Test("the largest length there is, 63 bits, is 1009 at its header")
    func largestLength() {
        let end = EchoEnd(.server)
        end.receive([0x82, 0xFF, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1, 2, 3, 4])
        #expect(end.events.compactMap(\.violation?.closeCode) == [.messageTooBig])
    }

    @Test("a frame, a message and a number of fragments at its limit pass, one more is 1009")
    func limits() {
        let limits = WebSocketLimits(maximumMessageBytes: 100, maximumFrameBytes: 60, maximumFragments: 4)
        func outcome(_ counts: [Int]) -> WebSocketError.Code? {
            let end = EchoEnd(.server, limits: limits)
            for (index, count) in counts.enumerated() {
                let frame = TestFrame(index == 0 ? 2 : 0, Array(repeating: 1, count: count), fin: index == counts.count - 1)
                end.receive(WebSocketRole.server.received(frame))
            }
            if let error = end.events.last?.violation {
                #expect(error.closeCode == .messageTooBig)
                return error.code
            }
            #expect(end.events == [.message(.binary, ByteBuffer(repeating: 1, count: counts.reduce(0, +)))])
            return nil
        }
        #expect(outcome([60]) == nil)
        #expect(outcome([61]) == .frameTooBig)
        #expect(outcome([60, 40]) == nil)
        #expect(outcome([60, 41]) == .messageTooBig)
        #expect(outcome([25, 25, 25, 25]) == nil)
        #expect(outcome([0, 0, 0, 0, 0]) == .tooManyFragments)
    }

    @Test("after a message the next one has the limits anew")
    func limitsAreOfOneMessage() {
        let end = EchoEnd(.server, limits: WebSocketLimits(maximumMessageBytes: 10, maximumFragments: 2))
        for _ in 0..<20 {
            end.receive(WebSocketRole.server.received(.init(2, Array(repeating: 1, count: 5), fin: false)))
            end.receive(WebSocketRole.server.received(.init(0, Array(repeating: 1, count: 5))))
        }
        #expect(end.events.count == 20)
        #expect(end.state == .open)
    }

    @Test("a claimed length does not reserve memory that never fills")
    func claimedLength() {
        let end = EchoEnd(.server)
        let header = Array(TestFrame.binary(Array(repeating: 0, count: 16 << 20)).bytes(mask: [1, 2, 3, 4]).prefix(20))
        end.receive(header)
        #expect(end.heldBytes <= 512 * 1024)
        #expect(end.state == .open)
    }
}

@Suite("Copies and slices")
struct SliceTests {
    private func address(_ buffer: ByteBuffer) -> UInt {
        unsafe buffer.withUnsafeReadableBytes { UInt(bitPattern: $0.baseAddress) }
    }

    @Test("messages that lie whole in one buffer are slices of it, though earlier ones are still held", arguments: WebSocketRole.both)
    func slices(_ role: WebSocketRole) {
        let frames = (0..<10).map { TestFrame.binary(Array(repeating: UInt8($0), count: 500)) }
        var machine = WebSocketStateMachine(role: role)
        var received = ByteBuffer(bytes: frames.flatMap(role.received))
        let start = address(received)
        machine.bytesReceived(received)
        received = ByteBuffer()
        var held: [ByteBuffer] = []
        var outbound = ByteBuffer()
        while case .message(_, let payload)? = machine.nextEvent(outbound: &outbound) { held.append(payload) }
        #expect(held == (0..<10).map { ByteBuffer(repeating: UInt8($0), count: 500) })
        // Where the buffer was shared, one copy of it was made; the slices still share one storage.
        let headerBytes = role == .server ? 8 : 4
        let first = address(held[0])
        #expect(held.map { address($0) - first } == (0..<10).map { UInt($0 * (500 + headerBytes)) })
        if role == .client { #expect(first == start + 4) }
    }

    @Test("a buffer that nothing else holds is unmasked in place")
    func inPlace() {
        var machine = WebSocketStateMachine(role: .server)
        let bytes = WebSocketRole.server.received(.text("Hello")) + WebSocketRole.server.received(.text("World"))
        func make() -> (ByteBuffer, UInt) {
            let buffer = ByteBuffer(bytes: bytes)
            return (buffer, address(buffer))
        }
        let start = feed(&machine, make)
        var outbound = ByteBuffer()
        guard case .message(_, let payload)? = machine.nextEvent(outbound: &outbound) else {
            Issue.record("no message")
            return
        }
        #expect(address(payload) == start + 6)
    }

    private func feed(_ machine: inout WebSocketStateMachine, _ make: () -> (ByteBuffer, UInt)) -> UInt {
        let (buffer, start) = make()
        machine.bytesReceived(buffer)
        return start
    }

    @Test("a buffer that somebody else holds is left as it was")
    func sharedBuffer() {
        let bytes = WebSocketRole.server.received(.text("Hello"))
        let shared = ByteBuffer(bytes: bytes)
        var machine = WebSocketStateMachine(role: .server)
        machine.bytesReceived(shared)
        var outbound = ByteBuffer()
        let event = machine.nextEvent(outbound: &outbound)
        #expect(event == .message(.text, ByteBuffer(string: "Hello")))
        #expect(Array(shared.readableBytesView) == bytes)
    }

    @Test("a frame whose header alone has come holds no memory, neither of its own nor the transport's")
    func headerAlone() {
        var machine = WebSocketStateMachine(role: .server)
        var outbound = ByteBuffer()
        let frame = TestFrame.binary(Array(repeating: 7, count: 100_000)).bytes(mask: [1, 2, 3, 4])
        machine.bytesReceived(ByteBuffer(bytes: frame[..<14]))
        let nothing = machine.nextEvent(outbound: &outbound)
        let (held, input) = (machine.message.bytes.storageCapacity, machine.input.storageCapacity)
        #expect(nothing == nil && held == 0 && input == 0)
        machine.bytesReceived(ByteBuffer(bytes: frame[14...]))
        let event = machine.nextEvent(outbound: &outbound)
        #expect(event == .message(.binary, ByteBuffer(repeating: 7, count: 100_000)))
    }

    @Test("bytes may come before the events of earlier ones were taken")
    func feedAhead() {
        let frames = (0..<50).map { TestFrame.binary(Array(repeating: UInt8($0), count: $0 * 7)) }
        var machine = WebSocketStateMachine(role: .server)
        var outbound = ByteBuffer()
        var messages: [ByteBuffer] = []
        let bytes = frames.flatMap(WebSocketRole.server.received)
        for (index, start) in stride(from: 0, to: bytes.count, by: 101).enumerated() {
            machine.bytesReceived(ByteBuffer(bytes: bytes[start..<min(start + 101, bytes.count)]))
            // Now and then one event, never all.
            if index % 3 == 0, case .message(_, let payload)? = machine.nextEvent(outbound: &outbound) { messages.append(payload) }
        }
        while case .message(_, let payload)? = machine.nextEvent(outbound: &outbound) { messages.append(payload) }
        #expect(messages == frames.map { ByteBuffer(bytes: $0.payload) })
    }
}
