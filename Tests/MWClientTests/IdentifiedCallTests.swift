import MWClient
import MWProtocol
import NIOCore
import Testing

/// Calls that are sent under a session and a sequence.
@Suite struct IdentifiedCallTests {
    typealias Table = CallTableStateMachine
    private let start = NIODeadline.uptimeNanoseconds(1_000_000_000)
    private let store = Incarnation(Array(repeating: 1, count: 16)) ?? .unknown
    private let other = Incarnation(Array(repeating: 2, count: 16)) ?? .unknown

    private func at(_ milliseconds: Int64) -> NIODeadline { self.start + .milliseconds(milliseconds) }
    private func session(_ byte: UInt8) throws -> WriteSessionID {
        try #require(WriteSessionID(ByteBuffer(repeating: byte, count: 16)))
    }

    private func table(reserve: Int = 8) -> Table {
        var limits = Table.Limits()
        limits.maximumInFlight = 4
        return Table(limits: limits, budget: RetryBudget(percent: 10, reserve: reserve, capacity: 1024))
    }

    /// Connected to the store, with a session.
    private func openTable(reserve: Int = 8, maximumOutcomes: Int64 = 10) throws -> Table {
        var table = self.table(reserve: reserve)
        _ = table.connected(1, to: self.store)
        self.submit(0, to: &table)
        _ = table.wantsSession(now: self.start)
        table.sessionOpened(try self.session(1), timeToLive: .seconds(60), maximumOutcomes: maximumOutcomes, now: self.start)
        _ = table.cancelled(CallID(0))
        return table
    }

    private func submit(_ id: UInt64, _ effect: Table.Effect = .identified, to table: inout Table) {
        let action = table.submitted(CallID(id), effect: effect, bytes: 1, deadline: self.at(1000), now: self.start)
        #expect(action == .queued)
    }

    private func sendAll(_ table: inout Table) -> [Table.Outgoing] {
        var sent: [Table.Outgoing] = []
        while let next = table.nextToSend(now: self.start) { sent.append(next) }
        return sent
    }

    @Test("writes wait for their session, reads do not wait for writes, and then all go in the order they were made")
    func order() throws {
        var table = self.table()
        for (id, effect) in [(1, Table.Effect.identified), (2, .repeatable), (3, .identified)] {
            self.submit(UInt64(id), effect, to: &table)
        }
        let early = table.wantsSession(now: self.start)
        #expect(!early)
        _ = table.connected(1, to: self.store)
        #expect(self.sendAll(&table).map(\.call) == [CallID(2)])
        let (first, second) = (table.wantsSession(now: self.start), table.wantsSession(now: self.start))
        #expect(first && !second)
        self.submit(4, .repeatable, to: &table)
        table.sessionOpened(try self.session(1), timeToLive: .seconds(60), maximumOutcomes: 10, now: self.start)
        let sent = self.sendAll(&table)
        #expect(sent.map(\.call) == [CallID(1), CallID(3), CallID(4)])
        #expect(sent.map { $0.write?.sequence } == [1, 2, nil])
    }

    @Test("a write that was lost with its connection is sent again under its number, before those that are new")
    func again() throws {
        var table = try self.openTable()
        self.submit(1, to: &table)
        self.submit(2, to: &table)
        let sent = self.sendAll(&table)
        #expect(table.answered(sent[1].request, now: self.start) == .complete(CallID(2), isUncertain: false))
        self.submit(3, to: &table)
        let (resent, ended) = table.connectionLost()
        #expect(resent == 1 && ended == [])
        #expect(table.nextToSend(now: self.start) == nil)
        #expect(table.connected(2, to: self.store) == [])
        let next = self.sendAll(&table)
        #expect(next.map(\.call) == [CallID(1), CallID(3)])
        #expect(next.map { $0.write?.sequence } == [1, 3])
        #expect(next[0].write?.session == sent[0].write?.session)
        #expect(table.answered(next[0].request, now: self.start) == .complete(CallID(1), isUncertain: true))
    }

    @Test("the window of the server bounds the writes without an outcome")
    func window() throws {
        var table = try self.openTable(maximumOutcomes: 2)
        for id: UInt64 in 1...3 { self.submit(id, to: &table) }
        let sent = self.sendAll(&table)
        #expect(sent.map(\.call) == [CallID(1), CallID(2)])
        _ = table.answered(sent[0].request, now: self.start)
        #expect(self.sendAll(&table).map { $0.write?.acknowledged } == [1])
    }

    @Test("another store: what was sent to the first is never sent there, what was not is")
    func otherStore() throws {
        var table = try self.openTable()
        self.submit(1, to: &table)
        _ = self.sendAll(&table)
        self.submit(2, to: &table)
        _ = table.connectionLost()
        #expect(
            table.connected(2, to: self.other) == [
                .init(call: CallID(1), reason: .sessionLost, wasSent: true, mayHaveTakenEffect: true)
            ])
        #expect(self.sendAll(&table) == [])
        let wants = table.wantsSession(now: self.start)
        #expect(wants)
        table.sessionOpened(try self.session(2), timeToLive: .seconds(60), maximumOutcomes: 10, now: self.start)
        #expect(self.sendAll(&table).map { $0.write?.sequence } == [1])
    }

    @Test("an unknown session: nothing is known of what was sent before; what was refused just now gets a new number")
    func sessionUnknown() throws {
        var table = try self.openTable()
        self.submit(1, to: &table)
        self.submit(2, to: &table)
        _ = self.sendAll(&table)
        _ = table.connectionLost()
        _ = table.connected(2, to: self.store)
        self.submit(3, to: &table)
        self.submit(4, to: &table)
        let sent = self.sendAll(&table)
        #expect(sent.map(\.call) == [CallID(1), CallID(2), CallID(3), CallID(4)])
        #expect(table.answered(sent[2].request, .sessionUnknown, now: self.start) == .again(CallID(3)))
        #expect(table.answered(sent[0].request, .sessionUnknown, now: self.start) == .complete(CallID(1), isUncertain: true))
        #expect(table.takeEnds() == [])
        // The second is lost again before it is answered: its session is gone, so it is not sent again.
        let (resent, ended) = table.connectionLost()
        #expect(ended.map(\.reason) == [.sessionLost, .sessionLost] && ended.map(\.call) == [CallID(2), CallID(4)] && resent == 0)
        _ = table.connected(3, to: self.store)
        let wants = table.wantsSession(now: self.start)
        #expect(wants)
        table.sessionOpened(try self.session(2), timeToLive: .seconds(60), maximumOutcomes: 10, now: self.start)
        #expect(self.sendAll(&table).map(\.call) == [CallID(3)])
    }

    @Test("writes that wait to be sent again end when another's answer says that their session is unknown")
    func sessionUnknownToOthers() throws {
        var table = try self.openTable()
        self.submit(1, to: &table)
        self.submit(2, to: &table)
        let sent = self.sendAll(&table)
        #expect(table.answered(sent[1].request, .retryable(after: .milliseconds(50)), now: self.start) == .again(CallID(2)))
        _ = table.connectionLost()
        _ = table.connected(2, to: self.store)
        let again = self.sendAll(&table)
        #expect(again.map(\.call) == [CallID(1)])
        #expect(table.answered(again[0].request, .sessionUnknown, now: self.start) == .complete(CallID(1), isUncertain: true))
        // The second was refused, not lost: nothing is uncertain about it.
        #expect(table.takeEnds() == [])
        table.waitsElapsed(now: self.at(50))
        let wants = table.wantsSession(now: self.at(50))
        #expect(wants)
        table.sessionOpened(try self.session(2), timeToLive: .seconds(60), maximumOutcomes: 10, now: self.at(50))
        #expect(self.sendAll(&table).map { $0.write?.sequence } == [1])
    }

    @Test("a failure that may pass is waited for and asked again under the same number, within budget and deadline")
    func retryable() throws {
        var table = try self.openTable(reserve: 1)
        self.submit(1, to: &table)
        let sent = self.sendAll(&table)
        #expect(table.answered(sent[0].request, .retryable(after: .milliseconds(500)), now: self.start) == .again(CallID(1)))
        #expect(self.sendAll(&table) == [] && table.earliestDeadline == self.at(500))
        table.waitsElapsed(now: self.at(499))
        #expect(self.sendAll(&table) == [])
        table.waitsElapsed(now: self.at(500))
        let again = self.sendAll(&table)
        #expect(again.map { $0.write?.sequence } == [1])
        // Too late for another, and the budget is used up.
        #expect(
            table.answered(again[0].request, .retryable(after: .milliseconds(500)), now: self.at(500))
                == .complete(CallID(1), isUncertain: false))
        #expect(table.isIdle == true)
    }

    @Test("a deadline says whether the write had been sent on any connection")
    func deadline() throws {
        var table = try self.openTable()
        self.submit(1, to: &table)
        _ = self.sendAll(&table)
        _ = table.connectionLost()
        self.submit(2, to: &table)
        #expect(
            table.deadlinesReached(now: self.at(1000)) == [
                .init(call: CallID(1), reason: .deadline, wasSent: true, mayHaveTakenEffect: true),
                .init(call: CallID(2), reason: .deadline, wasSent: false, mayHaveTakenEffect: false),
            ])
    }

    @Test("what is bound to a connection ends with it, sent or not, and is not taken for a later one")
    func bound() {
        var table = self.table()
        _ = table.connected(7, to: self.store)
        for id: UInt64 in 1...2 {
            let action = table.submitted(
                CallID(id), effect: .repeatable, bytes: 1, deadline: self.at(9), connection: 7, now: self.start)
            #expect(action == .queued)
        }
        #expect(table.nextToSend(now: self.start)?.call == CallID(1))
        let (resent, ended) = table.connectionLost()
        #expect(resent == 0 && ended.map(\.call) == [CallID(1), CallID(2)])
        _ = table.connected(8, to: self.store)
        let late = table.submitted(CallID(3), effect: .repeatable, bytes: 1, deadline: self.at(9), connection: 7, now: self.start)
        #expect(late == .refuseGone && table.isIdle)
    }

    @Test("no session to be had: the writes that wait for one end, unsent; or wait, if it may be had later")
    func sessionRefused() throws {
        var table = self.table()
        _ = table.connected(1, to: self.store)
        self.submit(1, to: &table)
        _ = table.wantsSession(now: self.start)
        #expect(table.sessionRefused(tryAgainAt: self.at(5)) == [])
        let (early, then) = (table.wantsSession(now: self.at(4)), table.wantsSession(now: self.at(5)))
        #expect(!early && then)
        #expect(
            table.sessionRefused(tryAgainAt: nil) == [
                .init(call: CallID(1), reason: .sessionRefused, wasSent: false, mayHaveTakenEffect: false)
            ])
    }
}
