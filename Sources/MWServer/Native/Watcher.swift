internal import MWProtocol
internal import MWStorage
internal import NIOCore

/// One watch of one connection, on its event loop: its rules, and what it reads from.
final class Watcher {
    let id: RequestID
    let topic: LoopTopic
    /// The ranges as they were asked for, which rights are judged by.
    let pieces: [KeyRange]
    let isWithState: Bool
    // It goes with its connection.
    unowned let owner: NativeWatches
    var machine: WatcherStateMachine
    /// Where ``LoopTopic`` keeps it.
    var index = 0
    /// Whether it waits for its turn to read.
    var isQueued = false

    /// What its state is read from, and where that has come to.
    private(set) var state: StateCursor?

    struct StateCursor {
        let snapshot: StorageSnapshot
        /// Ranges that are left; the first may have been begun.
        var rest: ArraySlice<KeyRange>
        var movedAt: NIODeadline
    }

    init(
        _ id: RequestID, _ topic: LoopTopic, _ pieces: [KeyRange], isWithState: Bool, of owner: NativeWatches,
        _ machine: consuming WatcherStateMachine
    ) {
        self.id = id
        self.topic = topic
        self.pieces = pieces
        self.isWithState = isWithState
        self.owner = owner
        self.machine = machine
    }

    var boundBytes: Int { self.pieces.reduce(0) { $0 + $1.boundBytes } }

    var hasEnded: Bool { self.machine.phase == .ended }

    func beginState(_ snapshot: StorageSnapshot, at now: NIODeadline) {
        self.state = StateCursor(snapshot: snapshot, rest: self.topic.topic.ranges.ranges[...], movedAt: now)
    }

    func moveState(to rest: ArraySlice<KeyRange>, at now: NIODeadline) {
        self.state?.rest = rest
        self.state?.movedAt = now
    }

    func endState() { self.state = nil }

    /// How many revisions behind `revision` it is.
    func lag(at revision: UInt64, frontier: UInt64) -> UInt64 {
        let told = self.machine.phase == .state ? 0 : self.machine.told(frontier)
        return revision > told ? revision - told : 0
    }
}
