import MWWebSocket
import NIOCore
import Testing

@Suite("What we send")
struct SendingTests {
    static let sizes = [0, 1, 3, 7, 31, 33, 124, 125, 126, 127, 1024, 65534, 65535, 65536, 70000]

    @Test(
        "a payload written in place gets the same bytes as one that was given, whatever was expected", arguments: sizes, WebSocketRole.both)
    func inPlace(_ count: Int, _ role: WebSocketRole) throws {
        let payload = (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 31) }
        for expected in [0, 125, 126, 1024, 65535, 65536, 1 << 20] {
            var machine = WebSocketStateMachine(role: role)
            var outbound = ByteBuffer(string: "before")
            outbound.moveReaderIndex(forwardBy: 2)
            let start = outbound.readableBytes
            machine.writeMessage(.binary, to: &outbound, expectedBytes: expected, maskingKey: 0xDEAD_BEEF) { $0.writeBytes(payload) }
            machine.writeMessage(.text, ByteBuffer(string: "after"), to: &outbound, maskingKey: 1)
            let bytes = Array(outbound.readableBytesView)
            #expect(bytes.prefix(start) == Array("fore".utf8)[...])
            #expect(TestFrame.parse(Array(bytes.dropFirst(start)), masked: role == .client) == [.binary(payload), .text("after")])
        }
    }

    @Test("a payload of known length that is filled in gets the same bytes as one that was given", arguments: sizes)
    func filledIn(_ count: Int) {
        let payload = ByteBuffer(bytes: (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 31) })
        var machine = WebSocketStateMachine(role: .server)
        var (given, filled) = (ByteBuffer(string: "before"), ByteBuffer(string: "before"))
        machine.writeMessage(.binary, payload, to: &given)
        let isWritten = unsafe machine.writeMessage(.binary, payloadBytes: count, to: &filled) { bytes in
            unsafe payload.withUnsafeReadableBytes { unsafe bytes.copyMemory(from: $0) }
        }
        #expect(isWritten && filled == given)
        machine.writeClose(.normal, to: &given)
        let isWrittenAfterClose = unsafe machine.writeMessage(.binary, payloadBytes: count, to: &filled) { _ in }
        #expect(!isWrittenAfterClose)
    }

    @Test("a body that throws leaves nothing behind")
    func bodyThrows() {
        struct Failure: Error {}
        var machine = WebSocketStateMachine(role: .server)
        var outbound = ByteBuffer(string: "before")
        #expect(throws: Failure.self) {
            try machine.writeMessage(.binary, to: &outbound) { buffer throws(Failure) in
                buffer.writeString("half")
                throw Failure()
            }
        }
        #expect(outbound == ByteBuffer(string: "before"))
    }

    @Test("what a client sends, a server reads, and the other way round", arguments: sizes)
    func bothWays(_ count: Int) {
        let payload = ByteBuffer(bytes: (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 17) })
        for (sender, receiver) in [(WebSocketRole.client, WebSocketRole.server), (.server, .client)] {
            var from = WebSocketStateMachine(role: sender)
            var to = WebSocketStateMachine(role: receiver)
            var (wire, unused) = (ByteBuffer(), ByteBuffer())
            from.writeMessage(.binary, payload, to: &wire, maskingKey: 0x0102_0304)
            to.bytesReceived(wire)
            let event = to.nextEvent(outbound: &unused)
            #expect(event == .message(.binary, payload))
        }
    }

    @Test("after our close frame nothing more is sent, and the peer's answer ends it")
    func ourClose() throws {
        let end = EchoEnd(.server)
        end.machine.writeClose(.goingAway, "bye", to: &end.outbound)
        #expect(end.state == .closing)
        let late = end.machine.writeMessage(.text, ByteBuffer(string: "late"), to: &end.outbound)
        let latePing = end.machine.writePing(to: &end.outbound)
        let secondClose = end.machine.writeClose(.normal, to: &end.outbound)
        #expect([late, latePing, secondClose] == [false, false, false])
        end.receive(WebSocketRole.server.received(.text("crossed ours")))
        end.receive(WebSocketRole.server.received(.ping()))
        end.receive(WebSocketRole.server.received(.close(1001)))
        #expect(end.events == [.closeReceived(.goingAway, "")])
        #expect(end.state == .closed)
        #expect(end.sent == [.close(1001, "bye")])
    }

    @Test("a violation after our close frame ends it without a second one")
    func violationWhileClosing() throws {
        let end = EchoEnd(.server)
        end.machine.writeClose(.goingAway, to: &end.outbound)
        end.receive([0xFF, 0xFF])
        #expect(end.events.count == 1)
        #expect(end.state == .closed)
        #expect(end.sent == [.close(1001)])
    }

    @Test("a reason is cut to 123 bytes between characters")
    func longReason() throws {
        let end = EchoEnd(.server)
        end.machine.writeClose(.normal, String(repeating: "€", count: 100), to: &end.outbound)
        #expect(end.sent == [.close(1000, String(repeating: "€", count: 41))])
    }

    @Test("while the output is backed up only the latest ping is answered, once it drains")
    func backedUp() throws {
        let end = EchoEnd(.server)
        end.machine.isOutputBackedUp = true
        for number in 0..<10_000 { end.receive(WebSocketRole.server.received(.ping("\(number)"))) }
        #expect(end.outbound.readableBytes == 0)
        #expect(end.heldBytes <= 1024)
        end.machine.isOutputBackedUp = false
        let first = end.machine.writePendingPong(to: &end.outbound)
        let second = end.machine.writePendingPong(to: &end.outbound)
        #expect((first, second) == (true, false))
        #expect(end.sent == [.pong("9999")])
    }

    @Test("a client draws one key a frame, a server none")
    func maskingKeys() {
        for (role, expected) in [(WebSocketRole.client, 3), (.server, 0)] {
            var drawn = 0
            func key() -> UInt32 {
                drawn += 1
                return UInt32(drawn)
            }
            var machine = WebSocketStateMachine(role: role)
            var outbound = ByteBuffer()
            machine.bytesReceived(
                ByteBuffer(bytes: [TestFrame.ping("1"), .text("no answer of ours"), .ping("2"), .close()].flatMap(role.received)))
            while machine.nextEvent(outbound: &outbound, maskingKey: key()) != nil {}
            #expect(drawn == expected)
        }
    }
}

@Suite("Keep-alive and closing timeouts")
struct KeepAliveTests {
    private let start = NIODeadline.uptimeNanoseconds(1_000_000_000_000)

    private func after(_ seconds: Int64) -> NIODeadline { start + .seconds(seconds) }

    @Test("a quiet peer is pinged, then given up with 1011")
    func missedPong() {
        var keepAlive = KeepAlive(now: start)
        #expect(keepAlive.firstDeadline == after(20))
        let action1 = keepAlive.timerFired(at: after(20))
        #expect(action1 == .sendPing(waitUntil: after(40)))
        let action2 = keepAlive.timerFired(at: after(39))
        #expect(action2 == .wait(until: after(40)))
        guard case .end(let error) = keepAlive.timerFired(at: after(40)) else {
            Issue.record("the peer was not given up")
            return
        }
        #expect(error.code == .pongMissed)
        #expect(error.closeCode == .internalError)
        let action3 = keepAlive.timerFired(at: after(60))
        #expect(action3 == .wait(until: nil))
    }

    @Test("anything received puts the ping off, and answers one")
    func activity() {
        var keepAlive = KeepAlive(now: start)
        keepAlive.bytesReceived(at: after(15))
        let action4 = keepAlive.timerFired(at: after(20))
        #expect(action4 == .wait(until: after(35)))
        let action5 = keepAlive.timerFired(at: after(35))
        #expect(action5 == .sendPing(waitUntil: after(55)))
        keepAlive.bytesReceived(at: after(36))
        let action6 = keepAlive.timerFired(at: after(55))
        #expect(action6 == .wait(until: after(56)))
        let action7 = keepAlive.timerFired(at: after(56))
        #expect(action7 == .sendPing(waitUntil: after(76)))
    }

    @Test("a peer we do not listen to is not blamed for its silence")
    func notReading() {
        var keepAlive = KeepAlive(now: start)
        let action8 = keepAlive.timerFired(at: after(20), isReading: false)
        #expect(action8 == .wait(until: after(40)))
        let action9 = keepAlive.timerFired(at: after(40))
        #expect(action9 == .sendPing(waitUntil: after(60)))
        let action10 = keepAlive.timerFired(at: after(60), isReading: false)
        #expect(action10 == .wait(until: after(80)))
    }

    @Test("a close frame that is not answered ends after the closing timeout")
    func closing() {
        var keepAlive = KeepAlive(now: start)
        let action11 = keepAlive.closeSent(at: after(5))
        #expect(action11 == after(15))
        keepAlive.bytesReceived(at: after(14))
        let action12 = keepAlive.timerFired(at: after(14))
        #expect(action12 == .wait(until: after(15)))
        guard case .end(let error) = keepAlive.timerFired(at: after(15)) else {
            Issue.record("the connection was not ended")
            return
        }
        #expect(error.code == .closingTimedOut)
        #expect(error.closeCode == nil)
    }

    @Test("without an interval nothing is pinged, but closing still times out")
    func noPings() {
        var keepAlive = KeepAlive(times: KeepAliveTimes(pingInterval: nil), now: start)
        #expect(keepAlive.firstDeadline == nil)
        let action13 = keepAlive.timerFired(at: after(1000))
        #expect(action13 == .wait(until: nil))
        let action14 = keepAlive.closeSent(at: after(1000))
        #expect(action14 == after(1010))
    }
}
