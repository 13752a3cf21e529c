internal import DequeModule
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
    /// that stands still misses in the time of some large commits. As much may be on its way to that loop's watches meanwhile, so a loop holds
    /// 32 MiB at most.
    static let maximumUndeliveredBytes = 16 << 20

    private let watched = Atomic<Int>(0)
    private let inbox = Mutex(Inbox())
    private let mailboxes = Mutex<[WatchMailbox]>([])
    // Locked by the commit thread only, so never waited for.
    private let matcher: Mutex<WatchMatcher>

    /// What a loop calls a topic.
    private struct Name: Hashable, Comparable {
        let loop: Int
        let number: UInt64

        static func < (left: Name, right: Name) -> Bool { (left.loop, left.number) < (right.loop, right.number) }
    }

    /// What loops begin and end to watch, for the next commit to see. It has no more than what is watched, and what the last one saw: where
    /// nothing is written, what begins and ends again leaves nothing here.
    private struct Inbox {
        var begun: [Name: WatchTopic] = [:]
        var ended: [(name: Name, topic: WatchTopic)] = []
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
        self.inbox.withLock { $0.begun[Name(loop: mailbox.number, number: name)] = topic }
        self.watched.add(1, ordering: .sequentiallyConsistent)
    }

    func remove(_ topic: WatchTopic, named number: UInt64, from mailbox: WatchMailbox) {
        let name = Name(loop: mailbox.number, number: number)
        let isUnseen = self.inbox.withLock { inbox in
            guard inbox.begun.removeValue(forKey: name) == nil else { return true }
            inbox.ended.append((name, topic))
            return false
        }
        // What the commit thread has seen is not counted down before it has seen the end too: else it would not look.
        if isUnseen { self.watched.subtract(1, ordering: .sequentiallyConsistent) }
    }

    /// Topics that loops begin or end to watch, and that no commit has seen.
    var unseenCount: Int { self.inbox.withLock { $0.begun.count + $0.ended.count } }

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
            defer { inbox = Inbox() }
            return inbox
        }
        let previousRevision = commit.previousRevision.number
        let lastRevision = commit.lastRevision.number
        let deliveries = self.matcher.withLock { matcher in
            for (name, topic) in changes.ended {
                matcher.remove(topic, loop: name.loop, name: name.number)
                self.watched.subtract(1, ordering: .sequentiallyConsistent)
            }
            for (name, topic) in changes.begun.sorted(by: { $0.key < $1.key }) {
                matcher.add(topic, loop: name.loop, name: name.number)
            }
            commit.forEachRequest { _, request in
                matcher.begin(request.revision.number)
                request.forEachChange { matcher.match($0) }
            }
            return matcher.finish()
        }
        let mailboxes = self.mailboxes.withLock { $0 }
        for (loop, events) in deliveries.events {
            let delivery =
                deliveries.isOverLimit ? nil : WatchDelivery(events: events, valued: deliveries.valued, bare: deliveries.bare)
            mailboxes[loop].bring(delivery, from: previousRevision, to: lastRevision)
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

    /// About what an event and a run cost beside their changes.
    private static let bytesPerEvent = 128
    private static let bytesPerRun = 16

    var byteCount: Int {
        self.events.reduce(self.valued.readableBytes + self.bare.readableBytes) {
            $0 + Self.bytesPerEvent + Self.bytesPerRun * $1.runs.runs.count
        }
    }
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
        var deliveries = Deque<WatchDelivery>()
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

    /// - Parameter delivery: nil where it was too much: history has it.
    fileprivate func bring(_ delivery: WatchDelivery?, from previous: UInt64, to last: UInt64) {
        let wakes = self.contents.withLock { contents in
            if let revisions = contents.revisions, revisions.last != previous { contents.hasGap = true }
            contents.revisions = (contents.revisions?.previous ?? previous, last)
            if let delivery {
                if !delivery.events.isEmpty, !contents.hasGap {
                    contents.deliveries.append(delivery)
                    contents.bytes += delivery.byteCount
                }
            } else {
                contents.hasGap = true
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
