internal import MWStorage
internal import NIOCore
internal import Synchronization

/// The ``StorageLoop`` of each event loop, to reach them from the commit thread: one task a loop and commit, whatever it carries.
final class StorageLoops: Sendable {
    private let loops = Mutex<[NIOLoopBound<StorageLoop>]>([])

    /// Makes the one of `loop`; called on its event loop.
    func make(
        on loop: SessionLoop, storage: Storage, reloads: ReloadBroadcaster, hub: WatchHub, administration: any AdministrationService
    ) -> StorageLoop {
        let eventLoop = loop.eventLoop
        let reference = Reference(eventLoop: eventLoop)
        let submitter = storage.makeSubmitter { outcomes in
            eventLoop.execute { reference.value?.outcomesDelivered(outcomes) }
        }
        let watches = WatchLoop(on: loop, storage: storage, hub: hub) {
            eventLoop.execute { reference.value?.watches?.deliverInTurn() }
        }
        let made = StorageLoop(
            on: loop, storage: storage, submitter: submitter, reloads: reloads, watches: watches, administration: administration
        ) { reference.value = nil }
        reference.value = made
        self.loops.withLock { $0.append(NIOLoopBound(made, eventLoop: eventLoop)) }
        return made
    }

    /// Calls `body` with each, on its event loop.
    func forEach(_ body: @escaping @Sendable (StorageLoop) -> Void) {
        for bound in self.loops.withLock({ $0 }) { bound.eventLoop.execute { body(bound.value) } }
    }

    /// Ties the knot between a submitter, which delivers, and its loop, which submits; undone when the loop ends.
    private final class Reference: Sendable {
        private let bound: NIOLoopBoundBox<StorageLoop?>

        init(eventLoop: any EventLoop) { self.bound = NIOLoopBoundBox(nil, eventLoop: eventLoop) }

        var value: StorageLoop? {
            get { self.bound.value }
            set { self.bound.value = newValue }
        }
    }
}
