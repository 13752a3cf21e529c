import MWClient
import NIOCore
import Testing

@Suite struct WriteSessionStateMachineTests {
    private static let one = WriteSessionID(ByteBuffer(repeating: 1, count: 16))
    private static let two = WriteSessionID(ByteBuffer(repeating: 2, count: 16))
    private let store = Incarnation(Array(repeating: 1, count: 16)) ?? .unknown
    private let other = Incarnation(Array(repeating: 2, count: 16)) ?? .unknown

    private func at(_ milliseconds: Int64) -> NIODeadline { .uptimeNanoseconds(1_000_000_000) + .milliseconds(milliseconds) }

    /// Connected, with a session of 3 outcomes that lives for 900 ms.
    private func open(maximumOutcomes: Int64 = 3) throws -> WriteSessionStateMachine {
        var machine = WriteSessionStateMachine()
        _ = machine.connected(to: self.store)
        let wants = machine.wantsOpening(now: self.at(0))
        #expect(wants)
        machine.opened(try #require(Self.one), timeToLive: .milliseconds(900), maximumOutcomes: maximumOutcomes, now: self.at(0))
        return machine
    }

    @Test("a session is asked for once, and only on a connection; a refusal is waited for")
    func opening() throws {
        var machine = WriteSessionStateMachine()
        let early = machine.wantsOpening(now: self.at(0))
        _ = machine.connected(to: self.store)
        let (first, second) = (machine.wantsOpening(now: self.at(0)), machine.wantsOpening(now: self.at(0)))
        #expect(!early && first && !second)
        machine.openingFailed(tryAgainAt: self.at(5))
        #expect(machine.nextDeadline == self.at(5))
        machine.waitElapsed(now: self.at(4))
        let before = machine.wantsOpening(now: self.at(4))
        machine.waitElapsed(now: self.at(5))
        // Nobody may want one then: there is nothing to wait for any more.
        #expect(machine.nextDeadline == nil)
        let then = machine.wantsOpening(now: self.at(5))
        #expect(!before && then)
        // The answer is lost with its connection.
        machine.connectionLost()
        machine.opened(try #require(Self.one), timeToLive: .seconds(1), maximumOutcomes: 1, now: self.at(6))
        #expect(machine.open == nil)
        _ = machine.connected(to: self.store)
        let again = machine.wantsOpening(now: self.at(6))
        #expect(again)
    }

    @Test("sequences begin at 1; what is acknowledged has no gap; the window is the server's")
    func window() throws {
        var machine = try self.open()
        let numbers = (1...3).map { _ in machine.assign(now: self.at(1)) }
        #expect(numbers.map(\.sequence) == [1, 2, 3])
        #expect(machine.canAssign(now: self.at(1)) == false)
        machine.concluded(numbers[2])
        machine.concluded(numbers[1])
        #expect(machine.header(of: numbers[0]) == .init(session: try #require(Self.one), sequence: 1, acknowledged: 0))
        #expect(machine.canAssign(now: self.at(1)) == false)
        machine.concluded(numbers[0])
        machine.concluded(numbers[0])
        #expect(machine.canAssign(now: self.at(1)) == true)
        let fourth = machine.assign(now: self.at(1))
        #expect(machine.header(of: fourth) == .init(session: try #require(Self.one), sequence: 4, acknowledged: 3))
    }

    @Test("a session outlives connections to its store, and no other store's")
    func connections() throws {
        var machine = try self.open()
        let number = machine.assign(now: self.at(1))
        machine.connectionLost()
        #expect(machine.canAssign(now: self.at(1)) == false)
        #expect(machine.connected(to: self.store) == nil)
        #expect(machine.header(of: number)?.sequence == 1)
        machine.connectionLost()
        #expect(machine.connected(to: self.other) == number.session)
        #expect(machine.header(of: number) == nil)
        let wants = machine.wantsOpening(now: self.at(1))
        #expect(wants)
    }

    @Test("it is kept alive while an outcome is missing, and given up when it was unused for half its life")
    func keepAlive() throws {
        var machine = try self.open()
        let number = machine.assign(now: self.at(100))
        #expect(machine.nextDeadline == self.at(400))
        #expect(machine.wantsKeepAlive(now: self.at(399)) == nil)
        #expect(machine.wantsKeepAlive(now: self.at(400)) == Self.one)
        #expect(machine.nextDeadline == self.at(700))
        machine.concluded(number)
        #expect(machine.nextDeadline == nil)
        #expect(machine.canAssign(now: self.at(849)) == true)
        #expect(machine.canAssign(now: self.at(850)) == false)
        let wants = machine.wantsOpening(now: self.at(850))
        #expect(wants)
        machine.opened(try #require(Self.two), timeToLive: .milliseconds(900), maximumOutcomes: 3, now: self.at(850))
        let next = machine.assign(now: self.at(850))
        #expect(next.session != number.session && next.sequence == 1)
        // What is said of the old one is not about this one.
        machine.sessionLost(number.session)
        machine.concluded(number)
        #expect(machine.header(of: next) == .init(session: try #require(Self.two), sequence: 1, acknowledged: 0))
    }
}
