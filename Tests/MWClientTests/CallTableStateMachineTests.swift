import MWClient
import MWProtocol
import NIOCore
import Testing

// What most tests do not care about.
extension CallTableStateMachine {
    mutating func nextToSend() -> Outgoing? { self.nextToSend(now: .uptimeNanoseconds(0)) }
    mutating func answered(_ request: RequestID) -> AnswerAction { self.answered(request, now: .uptimeNanoseconds(0)) }
}

extension CallTableStateMachine.AnswerAction {
    static func complete(_ call: CallID) -> Self { .complete(call, isUncertain: false) }
}

@Suite struct CallTableStateMachineTests {
    typealias Table = CallTableStateMachine
    private let start = NIODeadline.uptimeNanoseconds(0)
    private let later = NIODeadline.uptimeNanoseconds(1_000_000_000)

    private func table(inFlight: Int = 4, calls: Int = 8, bytes: Int = 100, reserve: Int = 8) -> Table {
        var limits = Table.Limits()
        limits.maximumInFlight = inFlight
        limits.maximumQueuedCalls = calls
        limits.maximumQueuedBytes = bytes
        return Table(limits: limits, budget: RetryBudget(percent: 10, reserve: reserve, capacity: 1024))
    }

    private func submit(
        _ id: UInt64, _ effect: Table.Effect = .repeatable, bytes: Int = 1, to table: inout Table
    ) -> Table.SubmitAction {
        table.submitted(CallID(id), effect: effect, bytes: bytes, deadline: self.later, now: self.start)
    }

    private func sendAll(_ table: inout Table) -> [UInt64] {
        var sent: [UInt64] = []
        while let next = table.nextToSend() { sent.append(next.call.rawValue) }
        return sent
    }

    @Test("calls are sent in order, no more than fit in flight, the next when one is answered")
    func order() throws {
        var table = self.table(inFlight: 2)
        for id in 1...3 { #expect(self.submit(UInt64(id), to: &table) == .queued) }
        let sent = table.nextToSend()
        let first = try #require(sent)
        #expect(first.call == CallID(1) && first.request == RequestID(0))
        #expect(table.nextToSend()?.request == RequestID(1))
        #expect(self.sendAll(&table) == [])
        #expect(table.answered(RequestID(0)) == .complete(CallID(1)))
        let sentNext = table.nextToSend()
        let third = try #require(sentNext)
        #expect(third.call == CallID(3) && third.request == RequestID(2))
    }

    @Test("the queue is bounded in calls and in bytes, and a refused call leaves no trace")
    func bounds() {
        var table = self.table(calls: 2, bytes: 10)
        #expect(self.submit(1, bytes: 9, to: &table) == .queued)
        #expect(self.submit(2, bytes: 2, to: &table) == .refuseQueueFull)
        #expect(self.submit(3, bytes: 1, to: &table) == .queued)
        #expect(self.submit(4, bytes: 0, to: &table) == .refuseQueueFull)
        #expect(table.queuedCalls == 2 && table.queuedBytes == 10)
        #expect(self.sendAll(&table) == [1, 3])
        #expect(table.queuedCalls == 0 && table.queuedBytes == 0)
    }

    @Test("request ids start again after 1,000,000 and leave out those in flight")
    func wrapAround() throws {
        var table = self.table(inFlight: 3)
        var next: UInt64 = 0
        func roundTrip() throws -> RequestID {
            next += 1
            _ = self.submit(next, to: &table)
            let sent = table.nextToSend()
            let request = try #require(sent).request
            #expect(table.answered(request) == .complete(CallID(next)))
            return request
        }
        // Id 1 stays in flight for the whole tour.
        #expect(try roundTrip() == RequestID(0))
        next += 1
        let kept = next
        _ = self.submit(kept, to: &table)
        #expect(table.nextToSend()?.request == RequestID(1))
        for expected in 2...Table.maximumRequestID { #expect(try roundTrip() == RequestID(expected)) }
        #expect(try roundTrip() == RequestID(0))
        #expect(try roundTrip() == RequestID(2))
        #expect(table.answered(RequestID(1)) == .complete(CallID(kept)))
    }

    @Test("a lost connection: unsent calls wait, reads are sent again first, writes have an unknown outcome")
    func connectionLost() {
        var table = self.table(inFlight: 3)
        _ = self.submit(1, .repeatable, to: &table)
        _ = self.submit(2, .once, to: &table)
        _ = self.submit(3, .repeatable, to: &table)
        _ = self.submit(4, .once, to: &table)
        #expect(self.sendAll(&table) == [1, 2, 3])
        let (resent, ended) = table.connectionLost()
        #expect(resent == 2)
        #expect(ended == [.init(call: CallID(2), reason: .connectionLost, wasSent: true, mayHaveTakenEffect: true)])
        #expect(self.sendAll(&table) == [1, 3, 4])
    }

    @Test("reads beyond the retry budget fail instead of becoming the load")
    func budget() {
        var table = self.table(reserve: 1)
        for id in 1...3 { _ = self.submit(UInt64(id), to: &table) }
        _ = self.sendAll(&table)
        let (resent, ended) = table.connectionLost()
        #expect(resent == 1)
        #expect(ended.map(\.call) == [CallID(2), CallID(3)])
        #expect(ended.allSatisfy { $0.wasSent && !$0.mayHaveTakenEffect })
        #expect(self.sendAll(&table) == [1])
    }

    @Test("what nobody waits for keeps its id until the answer, which is dropped")
    func abandoned() {
        var table = self.table(inFlight: 1)
        _ = self.submit(1, .once, to: &table)
        _ = self.sendAll(&table)
        #expect(table.cancelled(CallID(1)) == .init(call: CallID(1), reason: .cancelled, wasSent: true, mayHaveTakenEffect: true))
        #expect(table.cancelled(CallID(1)) == nil)
        _ = self.submit(2, to: &table)
        #expect(self.sendAll(&table) == [])
        #expect(table.answered(RequestID(0)) == .drop)
        #expect(table.answered(RequestID(0)) == .unknownRequest)
        #expect(table.nextToSend()?.request == RequestID(1))
    }

    @Test("a connection is stuck when all that fits in flight is past its deadline, until an answer comes")
    func stuck() {
        var table = self.table(inFlight: 2)
        let soon = self.start + .milliseconds(5)
        _ = table.submitted(CallID(1), effect: .once, bytes: 1, deadline: soon, now: self.start)
        _ = self.submit(2, to: &table)
        #expect(self.sendAll(&table) == [1, 2])
        // Cancelled is not late: the server may be about to answer.
        _ = table.cancelled(CallID(2))
        _ = table.deadlinesReached(now: soon)
        let (isStuckSoon, isStuckLater) = (table.isStuck(now: soon), table.isStuck(now: self.later))
        #expect(!isStuckSoon && isStuckLater)
        #expect(table.answered(RequestID(0)) == .drop)
        let isStuckAfterAnswer = table.isStuck(now: self.later)
        #expect(!isStuckAfterAnswer)
    }

    @Test("an abandoned call is not sent again")
    func abandonedIsNotResent() {
        var table = self.table()
        _ = self.submit(1, to: &table)
        _ = self.sendAll(&table)
        _ = table.cancelled(CallID(1))
        let (resent, ended) = table.connectionLost()
        #expect(resent == 0 && ended.isEmpty && table.isIdle && table.inFlightCount == 0)
    }

    @Test("deadlines end what waits and what was sent, and say which is which")
    func deadlines() {
        var table = self.table(inFlight: 1)
        let soon = self.start + .milliseconds(5)
        _ = table.submitted(CallID(1), effect: .once, bytes: 1, deadline: soon, now: self.start)
        _ = table.submitted(CallID(2), effect: .once, bytes: 1, deadline: soon, now: self.start)
        _ = self.submit(3, to: &table)
        _ = self.sendAll(&table)
        #expect(table.earliestDeadline == soon)
        #expect(table.deadlinesReached(now: self.start + .milliseconds(4)) == [])
        #expect(
            table.deadlinesReached(now: soon) == [
                .init(call: CallID(1), reason: .deadline, wasSent: true, mayHaveTakenEffect: true),
                .init(call: CallID(2), reason: .deadline, wasSent: false, mayHaveTakenEffect: false),
            ])
        #expect(table.earliestDeadline == self.later)
        #expect(table.submitted(CallID(9), effect: .once, bytes: 1, deadline: soon, now: soon) == .refuseExpired)
    }

    @Test("every call ends exactly once, whatever happens; bounds and ids hold", arguments: 0..<300)
    func randomSchedules(seed: Int) {
        // Random events against a model that only remembers which calls are open and which were sent, and how often.
        var random = SeededRandom(seed: UInt64(seed))
        var table = self.table(inFlight: 5, calls: 12, bytes: 200, reserve: 3)
        var model = Model()
        var now = self.start
        var next: UInt64 = 0
        for _ in 0..<400 {
            now = now + .milliseconds(Int64.random(in: 0...3, using: &random))
            switch Int.random(in: 0..<10, using: &random) {
            case 0...2:
                next += 1
                let effect: Table.Effect = Bool.random(using: &random) ? .repeatable : .once
                let deadline = now + .milliseconds(Int64.random(in: 1...60, using: &random))
                let action = table.submitted(
                    CallID(next), effect: effect, bytes: Int.random(in: 0...40, using: &random), deadline: deadline, now: now)
                if action == .queued { model.open[CallID(next)] = (effect, deadline, false) }
            case 3...5:
                if let next = table.nextToSend() { model.sent(next.call, next.request) }
            case 6...7:
                if let request = model.inFlight.keys.sorted(by: { $0.rawValue < $1.rawValue }).randomElement(using: &random) {
                    model.answered(request, table.answered(request))
                }
            case 8:
                let call = CallID(UInt64.random(in: 0...next, using: &random))
                model.ended([table.cancelled(call)].compactMap { $0 })
            default:
                if Int.random(in: 0..<8, using: &random) == 0 {
                    let (resent, ended) = table.connectionLost()
                    model.connectionLost(resent: resent, ended: ended)
                }
                let ended = table.deadlinesReached(now: now)
                model.ended(ended)
                #expect(model.open.values.allSatisfy { $0.deadline > now })
            }
            #expect(table.inFlightCount <= 5 && table.inFlightCount == model.inFlight.count)
            // Reads that are sent again may exceed the bound by what was in flight.
            #expect(table.queuedCalls <= 12 + 5 && table.queuedCalls >= 0 && table.queuedBytes >= 0)
            #expect(table.queuedCalls == model.open.values.filter { !$0.isSent }.count)
        }
        model.ended(table.clientEnded())
        #expect(model.open.isEmpty && table.isIdle && table.queuedCalls == 0 && table.queuedBytes == 0)
    }

    private struct Model {
        var open: [CallID: (effect: Table.Effect, deadline: NIODeadline, isSent: Bool)] = [:]
        var inFlight: [RequestID: CallID] = [:]

        mutating func sent(_ call: CallID, _ request: RequestID) {
            #expect(self.open[call]?.isSent == false, "only an open, unsent call is sent")
            #expect(self.inFlight.updateValue(call, forKey: request) == nil, "an id in flight is not given again")
            self.open[call]?.isSent = true
        }

        mutating func answered(_ request: RequestID, _ action: Table.AnswerAction) {
            guard let call = self.inFlight.removeValue(forKey: request) else { return }
            #expect(action == (self.open.removeValue(forKey: call) == nil ? .drop : .complete(call)))
        }

        mutating func ended(_ ended: [Table.Ended]) {
            for end in ended {
                guard let call = self.open.removeValue(forKey: end.call) else {
                    Issue.record("\(end.call) ended twice")
                    continue
                }
                #expect(end.wasSent == call.isSent)
                #expect(end.mayHaveTakenEffect == (call.isSent && call.effect == .once))
            }
        }

        mutating func connectionLost(resent: Int, ended: [Table.Ended]) {
            let writes = self.open.filter { $0.value.isSent && $0.value.effect == .once }.keys
            #expect(Set(writes).isSubset(of: ended.map(\.call)), "a sent write is never sent again")
            self.ended(ended)
            self.inFlight.removeAll()
            var waiting = 0
            for (id, call) in self.open where call.isSent {
                self.open[id] = (call.effect, call.deadline, false)
                waiting += 1
            }
            #expect(waiting == resent)
        }
    }
}
