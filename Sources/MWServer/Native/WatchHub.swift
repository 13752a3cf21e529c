internal import MWProtocol
package import MWStorage
internal import NIOCore
internal import Synchronization

/// What is watched: equal for all watchers that are told the same.
struct WatchTopic: Hashable, Sendable {
    let ranges: WatchRanges
    let isWithoutValues: Bool
}

/// Sees every commit, finds what somebody watches of it, encodes that once, and brings it to the event loops of those who watch.
///
///     commit thread                                    event loops
///     change ─▶ whose ranges? ─▶ encode, once a change ─▶ one mailbox each ─▶ one task for all that is in it
///
/// A loop that has no watch hears nothing. One whose watches are not concerned is not woken: it is only noted how far commits have come.
package final class WatchHub: StorageObserver {
    /// Bytes of changes that wait for one event loop. Over it they are dropped, and its watches read them from history. 16 MiB: what a loop
    /// that stands still misses in the time of some large commits.
    static let maximumUndeliveredBytes = 16 << 20

    private let watched = Atomic<Int>(0)
    private let inbox = Mutex<[Change]>([])
    private let mailboxes = Mutex<[WatchMailbox]>([])
    // Locked by the commit thread only, so never waited for.
    private let matcher: Mutex<WatchMatcher>

    /// A loop begins or ends to watch something; what it is called there.
    private enum Change {
        case add(WatchTopic, loop: Int, name: UInt64)
        case remove(WatchTopic, loop: Int)
    }

    package init() {
        var random = SystemRandomNumberGenerator()
        self.matcher = Mutex(WatchMatcher(seed: random.next()))
    }

    // MARK: The loops' side

    /// - Parameter wake: Called on the commit thread; has the mailbox emptied on its loop.
    func makeMailbox(wake: @escaping @Sendable () -> Void) -> WatchMailbox {
        self.mailboxes.withLock { mailboxes in
            let mailbox = WatchMailbox(number: mailboxes.count, wake: wake)
            mailboxes.append(mailbox)
            return mailbox
        }
    }

    /// From the next commit on its changes are brought to the loop of `mailbox`, under `name`: read the store's revision after this call, and
    /// no commit behind that revision is missed.
    func add(_ topic: WatchTopic, named name: UInt64, to mailbox: WatchMailbox) {
        self.inbox.withLock { $0.append(.add(topic, loop: mailbox.number, name: name)) }
        self.watched.add(1, ordering: .sequentiallyConsistent)
    }

    func remove(_ topic: WatchTopic, from mailbox: WatchMailbox) {
        // Not counted down before the commit thread has seen it: else it would not look.
        self.inbox.withLock { $0.append(.remove(topic, loop: mailbox.number)) }
    }

    // MARK: All loops

    /// Open watches, and how far behind the slowest is, over all loops, as they said last.
    var totals: (watches: Int, lag: UInt64) {
        self.mailboxes.withLock { $0 }.reduce(into: (0, 0)) { totals, mailbox in
            totals.watches += mailbox.watches.load(ordering: .relaxed)
            totals.lag = max(totals.lag, mailbox.lag.load(ordering: .relaxed))
        }
    }

    // MARK: The commit thread

    package func committed(_ commit: borrowing Commit) {
        guard self.watched.load(ordering: .sequentiallyConsistent) > 0 else { return }
        let changes = self.inbox.withLock { inbox in
            defer { inbox = [] }
            return inbox
        }
        let previousRevision = commit.previousRevision.number
        let lastRevision = commit.lastRevision.number
        let deliveries = self.matcher.withLock { matcher in
            for change in changes {
                switch change {
                case .add(let topic, let loop, let name): matcher.add(topic, loop: loop, name: name)
                case .remove(let topic, let loop):
                    matcher.remove(topic, loop: loop)
                    self.watched.subtract(1, ordering: .sequentiallyConsistent)
                }
            }
            commit.forEachRequest { _, request in
                matcher.begin(request.revision.number)
                request.forEachChange { matcher.match($0) }
            }
            return matcher.finish()
        }
        let mailboxes = self.mailboxes.withLock { $0 }
        for (loop, events) in deliveries.events {
            mailboxes[loop].bring(
                WatchDelivery(events: events, valued: deliveries.valued, bare: deliveries.bare), from: previousRevision, to: lastRevision)
        }
    }

    /// What had failed may be there or not, and a commit may have been missed: history knows.
    package func healthChanged(_ health: StorageHealth) {
        guard health == .writable else { return }
        for mailbox in self.mailboxes.withLock({ $0 }) { mailbox.noteGap() }
    }
}

/// What some commits changed for the watches of one loop.
struct WatchDelivery: Sendable {
    struct Event: Sendable {
        /// What the loop calls the topic.
        let name: UInt64
        let runs: ChangeRuns
        let isWithoutValues: Bool
    }

    let events: [Event]
    let valued: ByteBuffer
    let bare: ByteBuffer
}

/// What was brought for one event loop and is not taken yet.
final class WatchMailbox: Sendable {
    let number: Int
    /// For the status: as of the loop's last tick.
    let watches = Atomic<Int>(0)
    let lag = Atomic<UInt64>(0)
    private let wake: @Sendable () -> Void
    private let contents = Mutex(Contents())

    struct Contents {
        var deliveries: [WatchDelivery] = []
        var bytes = 0
        /// All of this is behind the first and up to the second; nil when nothing came.
        var revisions: (previous: UInt64, last: UInt64)?
        /// Something is missing: before, between or behind the deliveries.
        var hasGap = false
        fileprivate var isWoken = false
    }

    fileprivate init(number: Int, wake: @escaping @Sendable () -> Void) {
        self.number = number
        self.wake = wake
    }

    fileprivate func bring(_ delivery: WatchDelivery, from previous: UInt64, to last: UInt64) {
        let wakes = self.contents.withLock { contents in
            if let revisions = contents.revisions, revisions.last != previous { contents.hasGap = true }
            contents.revisions = (contents.revisions?.previous ?? previous, last)
            if !delivery.events.isEmpty, !contents.hasGap {
                contents.deliveries.append(delivery)
                contents.bytes += delivery.valued.readableBytes + delivery.bare.readableBytes
            }
            if contents.bytes > WatchHub.maximumUndeliveredBytes { contents.hasGap = true }
            if contents.hasGap { (contents.deliveries, contents.bytes) = ([], 0) }
            // What concerns nobody can wait for the next that does, or for the tick.
            guard !contents.isWoken, contents.hasGap || !contents.deliveries.isEmpty else { return false }
            contents.isWoken = true
            return true
        }
        if wakes { self.wake() }
    }

    fileprivate func noteGap() {
        let wakes = self.contents.withLock { contents in
            contents.hasGap = true
            (contents.deliveries, contents.bytes) = ([], 0)
            defer { contents.isWoken = true }
            return !contents.isWoken
        }
        if wakes { self.wake() }
    }

    /// On its event loop.
    func take() -> Contents {
        self.contents.withLock { contents in
            defer { contents = Contents() }
            return contents
        }
    }
}
