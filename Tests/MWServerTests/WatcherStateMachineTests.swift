import MWProtocol
import NIOCore
import Testing

@testable import MWServer

/// The rules of one watch, as values: what is told, in which order, and what becomes of it when something is missing.
@Suite struct WatcherStateMachineTests {
    private static let start = NIODeadline.uptimeNanoseconds(1)

    /// A machine that `#expect` can hold.
    private final class Subject {
        private var machine: WatcherStateMachine

        init(_ start: WatcherStateMachine.Start, isWithState: Bool) {
            self.machine = WatcherStateMachine(start, isWithState: isWithState, at: WatcherStateMachineTests.start)
        }

        var phase: WatcherStateMachine.Phase { self.machine.phase }
        var isLagging: Bool { self.machine.isLagging }
        func told(_ frontier: UInt64) -> UInt64 { self.machine.told(frontier) }
        func next(frontier: UInt64) -> WatcherStateMachine.Step { self.machine.next(frontier: frontier) }
        func statePageSent(isLast: Bool) -> WatcherStateMachine.StateAction { self.machine.statePageSent(isLast: isLast) }
        func revisionToldFromHistory(_ revision: UInt64) -> Bool { self.machine.revisionToldFromHistory(revision) }
        func historyRead(upTo revision: UInt64, isEnd: Bool, leastLive: UInt64) {
            self.machine.historyRead(upTo: revision, isEnd: isEnd, leastLive: leastLive)
        }
        func sourceLost() -> WatcherStateMachine.LossAction { self.machine.sourceLost() }
        func resynced(at revision: UInt64) { self.machine.resynced(at: revision) }
        func changesCommitted(at revisions: ClosedRange<UInt64>, isBackedUp: Bool) -> WatcherStateMachine.Delivery {
            self.machine.changesCommitted(at: revisions, isBackedUp: isBackedUp, now: WatcherStateMachineTests.start)
        }
        /// One revision: whether all of it is sent.
        func changesCommitted(at revision: UInt64, isBackedUp: Bool) -> Told {
            switch self.changesCommitted(at: revision...revision, isBackedUp: isBackedUp) {
            case .send(let told): told < revision ? .send : .skip
            case .skip: .skip
            case .lag: .lag
            }
        }
        func gapFound(after frontier: UInt64) -> Bool { self.machine.gapFound(after: frontier) }
        func progressRequested(_ id: RequestID, upTo revision: UInt64) { self.machine.progressRequested(id, upTo: revision) }
        func sent(at now: NIODeadline) { self.machine.sent(at: now) }
        func ticked(_ now: NIODeadline, interval: TimeAmount, frontier: UInt64) -> UInt64? {
            self.machine.ticked(now, interval: interval, frontier: frontier)
        }
        func takeProgressRequests() -> [RequestID] { self.machine.takeProgressRequests() }
        func end() -> [RequestID] { self.machine.end() }
    }

    private enum Told { case send, skip, lag }

    private func machine(_ start: WatcherStateMachine.Start, isWithState: Bool = false) -> Subject {
        Subject(start, isWithState: isWithState)
    }

    @Test func `From now: synced at once, then what is committed behind that, once and in order`() {
        let machine = self.machine(.now(7))
        #expect(machine.next(frontier: 5) == .sendSynced(7))
        #expect(machine.next(frontier: 5) == .wait)
        // What was committed before it began may be brought behind it.
        #expect(machine.changesCommitted(at: 6, isBackedUp: false) == .skip)
        #expect(machine.changesCommitted(at: 7, isBackedUp: false) == .skip)
        #expect(machine.changesCommitted(at: 8, isBackedUp: false) == .send)
        #expect(machine.changesCommitted(at: 8, isBackedUp: false) == .skip)
        #expect(machine.changesCommitted(at: 10, isBackedUp: false) == .send)
        #expect(machine.told(10) == 10)
    }

    @Test func `Of several revisions at once it is sent those that it was not told`() {
        let machine = self.machine(.now(7))
        _ = machine.next(frontier: 5)
        #expect(machine.changesCommitted(at: 5...7, isBackedUp: false) == .skip)
        #expect(machine.changesCommitted(at: 6...9, isBackedUp: false) == .send(behind: 7))
        #expect(machine.changesCommitted(at: 10...12, isBackedUp: false) == .send(behind: 9))
        #expect(machine.told(12) == 12)
        #expect(machine.changesCommitted(at: 14...15, isBackedUp: true) == .lag)
        #expect(machine.next(frontier: 15) == .readHistory(after: 13))
    }

    @Test func `After a revision: history until the present, synced, live; what was read is not told again`() {
        let machine = self.machine(.after(3))
        #expect(machine.next(frontier: 9) == .readHistory(after: 3))
        #expect(machine.changesCommitted(at: 10, isBackedUp: false) == .skip)
        #expect(machine.revisionToldFromHistory(5))
        machine.historyRead(upTo: 6, isEnd: false, leastLive: 9)
        #expect(machine.next(frontier: 9) == .readHistory(after: 6))
        #expect(machine.revisionToldFromHistory(10))
        #expect(!machine.revisionToldFromHistory(10))
        machine.historyRead(upTo: 10, isEnd: true, leastLive: 9)
        #expect(machine.phase == .live)
        #expect(machine.next(frontier: 9) == .sendSynced(10))
        #expect(machine.changesCommitted(at: 10, isBackedUp: false) == .skip)
        #expect(machine.changesCommitted(at: 11, isBackedUp: false) == .send)
    }

    @Test func `The end of history joins only what has come as far as the loop`() {
        let machine = self.machine(.after(3))
        // Read before the commits that the loop has been brought meanwhile.
        machine.historyRead(upTo: 6, isEnd: true, leastLive: 8)
        #expect(machine.phase == .catchingUp)
        machine.historyRead(upTo: 8, isEnd: true, leastLive: 8)
        #expect(machine.phase == .live)
    }

    @Test func `With state: pages, synced as of the snapshot, then history behind it without another synced`() {
        let machine = self.machine(.state(20), isWithState: true)
        #expect(machine.next(frontier: 20) == .readState)
        #expect(machine.statePageSent(isLast: false) == .goOn)
        #expect(machine.changesCommitted(at: 21, isBackedUp: false) == .skip)
        #expect(machine.next(frontier: 21) == .readState)
        #expect(machine.statePageSent(isLast: true) == .sendSynced(20))
        #expect(machine.next(frontier: 21) == .readHistory(after: 20))
        #expect(machine.revisionToldFromHistory(21))
        machine.historyRead(upTo: 21, isEnd: true, leastLive: 21)
        #expect(machine.next(frontier: 21) == .wait)
        #expect(machine.changesCommitted(at: 22, isBackedUp: false) == .send)
    }

    @Test func `Too much unsent: it falls behind before that change, and goes on from history`() {
        let machine = self.machine(.now(1))
        _ = machine.next(frontier: 1)
        #expect(machine.changesCommitted(at: 5, isBackedUp: true) == .lag)
        #expect(machine.isLagging)
        // Revisions 2 to 4 did not concern it, or it had been told.
        #expect(machine.next(frontier: 5) == .readHistory(after: 4))
        #expect(machine.changesCommitted(at: 6, isBackedUp: false) == .skip)
        machine.historyRead(upTo: 6, isEnd: true, leastLive: 6)
        #expect(machine.phase == .live)
        #expect(!machine.isLagging)
        #expect(machine.next(frontier: 6) == .wait)
    }

    @Test func `A gap between what was brought makes it read what lies between`() {
        let machine = self.machine(.now(1))
        _ = machine.next(frontier: 1)
        #expect(machine.gapFound(after: 4))
        #expect(machine.next(frontier: 4) == .readHistory(after: 4))
        // Once is enough.
        #expect(!machine.gapFound(after: 9))
        #expect(machine.next(frontier: 9) == .readHistory(after: 4))
    }

    @Test func `Forgotten history: without state it ends, as compacted or as too slow, with state it begins anew`() {
        let fresh = self.machine(.after(3))
        #expect(fresh.sourceLost() == .end(.compacted))
        #expect(fresh.phase == .ended)
        #expect(fresh.sourceLost() == .nothing)

        let slow = self.machine(.now(3))
        _ = slow.changesCommitted(at: 4, isBackedUp: true)
        #expect(slow.sourceLost() == .end(.watchOverflowed))

        let withState = self.machine(.after(3), isWithState: true)
        #expect(withState.sourceLost() == .resync)
        withState.resynced(at: 50)
        #expect(withState.next(frontier: 50) == .readState)
        #expect(withState.statePageSent(isLast: true) == .sendSynced(50))
        #expect(withState.next(frontier: 50) == .readHistory(after: 50))
    }

    @Test func `Progress is answered in order, behind everything up to the store's revision at the request`() {
        let machine = self.machine(.after(3))
        machine.progressRequested(RequestID(8), upTo: 6)
        machine.progressRequested(RequestID(9), upTo: 7)
        #expect(machine.next(frontier: 7) == .readHistory(after: 3))
        machine.historyRead(upTo: 7, isEnd: true, leastLive: 7)
        #expect(machine.next(frontier: 7) == .sendSynced(7))
        #expect(machine.next(frontier: 7) == .answerProgress(RequestID(8), 7))
        #expect(machine.next(frontier: 7) == .answerProgress(RequestID(9), 7))
        #expect(machine.next(frontier: 7) == .wait)
    }

    @Test func `Progress does not wait for history behind what it asked for, and is owed nothing once it was taken back`() {
        let machine = self.machine(.after(3))
        machine.progressRequested(RequestID(1), upTo: 5)
        machine.progressRequested(RequestID(2), upTo: 9)
        #expect(machine.next(frontier: 9) == .readHistory(after: 3))
        machine.historyRead(upTo: 6, isEnd: false, leastLive: 9)
        #expect(machine.next(frontier: 9) == .answerProgress(RequestID(1), 6))
        #expect(machine.next(frontier: 9) == .readHistory(after: 6))
        #expect(machine.takeProgressRequests() == [RequestID(2)])
        machine.historyRead(upTo: 9, isEnd: true, leastLive: 9)
        #expect(machine.next(frontier: 9) == .sendSynced(9))
        #expect(machine.next(frontier: 9) == .wait)
        #expect(machine.end() == [])
    }

    @Test func `Progress does not wait for a commit that is still on its way to the loop`() {
        let machine = self.machine(.now(3))
        _ = machine.next(frontier: 3)
        machine.progressRequested(RequestID(8), upTo: 5)
        #expect(machine.next(frontier: 4) == .readHistory(after: 4))
        #expect(machine.revisionToldFromHistory(5))
        machine.historyRead(upTo: 5, isEnd: true, leastLive: 4)
        #expect(machine.next(frontier: 4) == .answerProgress(RequestID(8), 5))
        #expect(machine.changesCommitted(at: 5, isBackedUp: false) == .skip)
    }

    @Test func `A progress event comes when nothing else was sent for so long, and never amid a state`() {
        let interval = TimeAmount.seconds(10)
        let machine = self.machine(.now(3))
        #expect(machine.ticked(Self.start + interval, interval: interval, frontier: 3) == nil)
        _ = machine.next(frontier: 3)
        machine.sent(at: Self.start + .seconds(1))
        #expect(machine.ticked(Self.start + interval, interval: interval, frontier: 3) == nil)
        #expect(machine.ticked(Self.start + .seconds(11), interval: interval, frontier: 9) == 9)
        #expect(machine.ticked(Self.start + .seconds(12), interval: interval, frontier: 9) == nil)

        let state = self.machine(.state(3), isWithState: true)
        #expect(state.ticked(Self.start + .seconds(99), interval: interval, frontier: 3) == nil)
    }

    @Test func `After its end it wants nothing, and says which requests stay unanswered`() {
        let machine = self.machine(.after(3))
        machine.progressRequested(RequestID(8), upTo: 6)
        #expect(machine.end() == [RequestID(8)])
        #expect(machine.next(frontier: 9) == .wait)
        #expect(machine.changesCommitted(at: 10, isBackedUp: false) == .skip)
        #expect(!machine.gapFound(after: 3))
        #expect(!machine.revisionToldFromHistory(11))
        #expect(machine.end() == [])
    }
}
