import MWClient
import NIOCore
import Testing

@Suite struct KeepAliveStateMachineTests {
    private let start = NIODeadline.uptimeNanoseconds(0)

    private func machine() -> KeepAliveStateMachine {
        KeepAliveStateMachine(interval: .seconds(20), pongTimeout: .seconds(15), now: self.start)
    }

    @Test("silence for the interval sends a ping, silence after it ends the connection")
    func silence() {
        var machine = self.machine()
        #expect(machine.timerFired(now: self.start + .seconds(20)) == .ping(rearm: self.start + .seconds(35)))
        #expect(machine.timerFired(now: self.start + .seconds(34)) == .rearm(self.start + .seconds(35)))
        #expect(machine.timerFired(now: self.start + .seconds(35)) == .dead)
    }

    @Test("bytes put the ping off, with no timer of their own")
    func traffic() {
        var machine = self.machine()
        machine.bytesReceived(now: self.start + .seconds(12))
        #expect(machine.timerFired(now: self.start + .seconds(20)) == .rearm(self.start + .seconds(32)))
        #expect(machine.timerFired(now: self.start + .seconds(32)) == .ping(rearm: self.start + .seconds(47)))
    }

    @Test("any byte after the ping counts as life, a pong or not")
    func lateLife() {
        var machine = self.machine()
        _ = machine.timerFired(now: self.start + .seconds(20))
        machine.bytesReceived(now: self.start + .seconds(34))
        #expect(machine.timerFired(now: self.start + .seconds(35)) == .rearm(self.start + .seconds(54)))
    }
}
