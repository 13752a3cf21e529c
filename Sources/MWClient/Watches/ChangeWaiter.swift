import MWProtocol
import NIOCore
import Synchronization

/// Waits for anything to happen in a range: a change, or whatever means that one has to look again.
private final class ChangeWaiter: WatchHandler {
    private let range: KeyRange
    private let after: Revision
    private let sleeper: Sleeper

    init(_ range: KeyRange, after: Revision, _ sleeper: Sleeper) {
        self.range = range
        self.after = after
        self.sleeper = sleeper
    }

    func watchRequest(on incarnation: Incarnation) -> NativeWatch? {
        guard incarnation == self.after.incarnation else {
            self.sleeper.end(.success(()))
            return nil
        }
        var watch = NativeWatch()
        watch.ranges = [self.range.native]
        watch.after = self.after.wireNumber
        watch.incarnation = incarnation.buffer
        watch.isWithoutValues = true
        return watch
    }

    func received(_ signal: WatchSignal) {
        switch signal {
        case .began, .progress, .event(.progress, _), .event(.synced, _): break
        case .event, .disconnected: self.sleeper.end(.success(()))
        case .refused(let failure):
            switch failure.code {
            case .compacted, .wrongIncarnation: self.sleeper.end(.success(()))
            default: self.sleeper.end(.failure(ClientError(failure, of: .watch)))
            }
        case .ended(let error): self.sleeper.end(.failure(error))
        }
    }
}

extension ClientCore {
    /// Waits until something changes in the range behind a revision, or may have: after a lost connection one has to look. Returns at the
    /// deadline, too.
    func waitForChange(of range: KeyRange, after revision: Revision, until deadline: NIODeadline?) async throws {
        let sleeper = Sleeper()
        let shared = WatchReference()
        defer {
            self.withWatches { desk, _ in
                if let id = shared.id { desk.close(id) }
            }
        }
        try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { continuation in
                guard sleeper.begin(continuation) else { return }
                self.withWatches { desk, _ in shared.id = desk.open(ChangeWaiter(range, after: revision, sleeper)) }
                if let deadline { self.eventLoop.scheduleTask(deadline: deadline) { sleeper.end(.success(())) } }
            }
        } onCancel: {
            sleeper.end(.failure(CancellationError()))
        }
    }
}

/// The watch that one closure opens and a later one closes.
private final class WatchReference: Sendable {
    private let stored = Mutex<WatchID?>(nil)
    var id: WatchID? {
        get { self.stored.withLock { $0 } }
        set { self.stored.withLock { $0 = newValue } }
    }
}
