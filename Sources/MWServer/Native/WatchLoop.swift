internal import DequeModule
internal import MWProtocol
package import MWStorage
internal import NIOCore
internal import Synchronization

/// All watchers of one event loop that watch the same.
final class LoopTopic {
    let topic: WatchTopic
    let name: UInt64
    fileprivate(set) var watchers: [Watcher] = []
    /// Parts of what is being delivered that are still to be sent to them.
    fileprivate var partsToSend = 0

    fileprivate init(_ topic: WatchTopic, name: UInt64) {
        self.topic = topic
        self.name = name
    }
}

/// The watches of one event loop: what commits bring goes to those who are live, and those who are not read the history in turns.
package final class WatchLoop {
    let loop: SessionLoop
    let storage: Storage
    private let hub: WatchHub
    private let mailbox: WatchMailbox
    private var topics: [WatchTopic: LoopTopic] = [:]
    private var names: [UInt64: LoopTopic] = [:]
    private var nextName: UInt64 = 0
    /// Watches that are open.
    private(set) var count = 0
    /// Everything up to this revision was brought here.
    private(set) var frontier: UInt64 = 0
    /// Everything up to this revision was taken from the mailbox. It is the frontier but for what is being delivered: that is told only to
    /// those who are live when their turn comes.
    private var taken: UInt64 = 0
    /// Who reads the history may become live here, or behind it: what was taken passes it by until then.
    var leastLive: UInt64 { max(self.frontier, self.taken) }
    /// The store's revision at the last tick.
    private var lastSeen: UInt64 = 0
    /// Connections that have something to read from the store, each once.
    private var busy = Deque<NativeWatches>()
    private var isTurnScheduled = false
    private var isDelivering = false
    /// What was taken from the mailbox and is not told to all yet.
    private var unfinished: Round?
    /// Reused from delivery to delivery.
    private var messages = ChangesMessages()
    private let bytesPerTurn: Int
    private weak var latestSnapshot: StorageSnapshot?
    /// What was read last, while somebody has something to read.
    private var latestPage: HistoryPage?
    /// What the watchers of a topic are sent of it.
    private var latestMessages: (page: HistoryPage, topic: LoopTopic, messages: ChangesMessages)?

    /// Bytes read for one watch before it is another one's turn. 64 KiB: a hundred microseconds.
    static let pageBytes = 64 << 10
    /// How long reading may keep the loop from everything else, but for the page that is under way.
    private static let turnTime = TimeAmount.milliseconds(2)
    /// Then everything else has its turn.
    private static let pause = TimeAmount.microseconds(200)

    /// - Parameters:
    ///   - bytesPerTurn: What is sent to watchers before everything else has its turn; a watcher counts 4 KiB more.
    ///   - wake: Called on the commit thread; brings `deliver()` to `loop`.
    package init(
        on loop: SessionLoop, storage: Storage, hub: WatchHub, bytesPerTurn: Int = WatchLoop.defaultBytesPerTurn,
        wake: @escaping @Sendable () -> Void
    ) {
        self.bytesPerTurn = bytesPerTurn
        self.loop = loop
        self.storage = storage
        self.hub = hub
        self.mailbox = hub.makeMailbox(wake: wake)
    }

    /// 1 MiB: two milliseconds, for 200 watchers of 1 KiB.
    package static let defaultBytesPerTurn = 1 << 20
    /// What telling one takes, in bytes that take as long. 4 KiB: encrypting is quick, the system is not.
    private static let bytesPerWatcher = 4 << 10
    /// Bytes of messages that are sent to one watcher before it is the next one's turn. 64 KiB: what one gathers before it encrypts.
    private static let maximumPartBytes = 64 << 10
    /// Events that are put into parts before these are sent. 1024: a third of a millisecond.
    private static let eventsAtOnce = 1024
    /// What that takes for one, in bytes that take as long to send. 256: a third of a microsecond.
    private static let bytesPerEvent = 256
    /// Storage for them that a loop keeps while nothing happens.
    private static let maximumIdleMessageBytes = 256 << 10

    // MARK: Watchers

    /// What is committed behind the store's revision after this call will be brought here.
    func topic(_ topic: WatchTopic) -> LoopTopic {
        if let known = self.topics[topic] { return known }
        let isFirst = self.topics.isEmpty
        self.nextName += 1
        let made = LoopTopic(topic, name: self.nextName)
        self.topics[topic] = made
        self.names[made.name] = made
        self.hub.add(topic, named: made.name, to: self.mailbox)
        // Nothing was brought before.
        if isFirst { self.frontier = max(self.frontier, self.storage.revision.number) }
        return made
    }

    func begin(_ watcher: Watcher) {
        watcher.index = watcher.topic.watchers.count
        watcher.topic.watchers.append(watcher)
        self.count += 1
    }

    func end(_ watcher: Watcher) {
        let topic = watcher.topic
        guard let last = topic.watchers.popLast() else { return }
        if last !== watcher {
            last.index = watcher.index
            topic.watchers[watcher.index] = last
        }
        self.count -= 1
        self.forgetIfUnused(topic)
    }

    func forgetIfUnused(_ topic: LoopTopic) {
        guard topic.watchers.isEmpty, self.names[topic.name] === topic else { return }
        self.topics[topic.topic] = nil
        self.names[topic.name] = nil
        self.hub.remove(topic.topic, named: topic.name, from: self.mailbox)
    }

    /// Nothing can be brought here any more.
    func loopEnded() {
        self.busy = []
        self.unfinished = nil
        self.forgetPage()
    }

    // MARK: What commits bring

    // Most rounds are one event, and over in one turn. One that has many to tell goes on after everybody else had a turn; meanwhile what comes
    // waits in the mailbox, and the frontier stays where it is.

    /// Takes what is in the mailbox. Called when it has something, at each tick, and when somebody wants to know how far it has come.
    func deliver() {
        // What is sent may bring a request that asks for this again: what came later must not be told first.
        guard !self.isDelivering, self.unfinished == nil else { return }
        let contents = self.mailbox.take()
        if contents.hasGap || contents.revisions.map({ $0.previous > self.frontier }) ?? false { self.gapFound() }
        guard let last = contents.revisions?.last else { return }
        self.taken = max(self.taken, last)
        var round = Round(deliveries: contents.deliveries, last: last)
        swap(&round.messages, &self.messages)
        self.goOn(with: consume round)
    }

    /// The same, as a turn of its own.
    package func deliverInTurn() { self.loop.turn { self.deliver() } }

    /// What one look into the mailbox brought. What is done with is let go of at once.
    private struct Round {
        /// What is not in parts yet: the first from its event `nextEvent` on.
        var deliveries: Deque<WatchDelivery>
        var nextEvent = 0
        let last: UInt64
        var parts = Deque<Part>()
        /// Of the first part, and who is still to be sent it; nil when it has not begun.
        var watchers: ArraySlice<Watcher>?
        var messages = ChangesMessages()

        init(deliveries: Deque<WatchDelivery>, last: UInt64) {
            self.deliveries = deliveries
            self.last = last
        }

        var isOver: Bool { self.parts.isEmpty && self.deliveries.isEmpty }

        mutating func popEvent() -> (event: WatchDelivery.Event, bytes: ByteBuffer)? {
            while let delivery = self.deliveries.first {
                guard self.nextEvent < delivery.events.count else {
                    self.deliveries.removeFirst()
                    self.nextEvent = 0
                    continue
                }
                let event = delivery.events[self.nextEvent]
                self.nextEvent += 1
                return (event, event.isWithoutValues ? delivery.bare : delivery.valued)
            }
            return nil
        }
    }

    /// What watchers of one topic are sent, one after the other.
    private struct Part {
        let topic: LoopTopic
        var content: Content
        /// Of events that are put together. Not in `content`: here it grows in place.
        var together: [(events: [ChangesEvent], bytes: ByteBuffer)] = []
        /// Of all messages.
        var byteCount = 0

        enum Content {
            case together
            /// One revision, that is better not copied, or fits into no message: then it has no events.
            case alone(UInt64, [ChangesEvent]?, ByteBuffer)
        }

        func takes(_ byteCount: Int, for topic: LoopTopic, maximumBytes: Int) -> Bool {
            guard case .together = self.content else { return false }
            return self.topic === topic && self.byteCount + byteCount <= maximumBytes
        }

        mutating func append(_ events: [ChangesEvent], of bytes: ByteBuffer, byteCount: Int) {
            self.together.append((events, bytes))
            self.byteCount += byteCount
        }
    }

    /// Puts what comes next, and has not been told, into parts, in order; returns what that took of the turn's bytes.
    private func makeParts(of round: inout Round) -> Int {
        let limits = self.loop.limits
        let maximumBytes = min(Self.maximumPartBytes, limits.maximumWatchBacklogBytes)
        var count = 0
        while count < Self.eventsAtOnce, let (event, bytes) = round.popEvent() {
            count += 1
            guard event.runs.revision > self.frontier, let topic = self.names[event.name] else { continue }
            let events = ChangesEvent.events(of: event.runs, in: bytes, maximumBytes: limits.maximumMessageBytes)
            let byteCount = events?.reduce(0) { $0 + $1.messageBytes } ?? event.runs.byteCount
            guard let events, !events.contains(where: NativeWatches.isShared) else {
                round.parts.append(Part(topic: topic, content: .alone(event.runs.revision, events, bytes), byteCount: byteCount))
                topic.partsToSend += 1
                continue
            }
            let last = round.parts.count - 1
            if last < 0 || !round.parts[last].takes(byteCount, for: topic, maximumBytes: maximumBytes) {
                round.parts.append(Part(topic: topic, content: .together))
                topic.partsToSend += 1
            }
            round.parts[round.parts.count - 1].append(events, of: bytes, byteCount: byteCount)
        }
        return count * Self.bytesPerEvent
    }

    private func goOn(with round: consuming Round) {
        self.isDelivering = true
        defer { self.isDelivering = false }
        var budget = self.bytesPerTurn
        while !round.isOver {
            if round.parts.isEmpty { budget -= self.makeParts(of: &round) }
            if let part = round.parts.first {
                if round.watchers == nil { self.begin(part, &round) }
                let isLast = part.topic.partsToSend == 0
                let isTogether = !part.together.isEmpty
                let cost = part.byteCount + Self.bytesPerWatcher
                while let watcher = round.watchers?.popFirst() {
                    guard !watcher.hasEnded else { continue }
                    if isTogether {
                        watcher.owner.deliver(&round.messages, to: watcher, isLast: isLast)
                    } else if case .alone(let revision, let events, let bytes) = part.content {
                        watcher.owner.deliver(revision, events, in: bytes, to: watcher)
                    }
                    budget -= cost
                    self.loop.worked(cost)
                    if budget <= 0, round.watchers?.isEmpty == false { return self.pause(round) }
                }
                round.messages.removeAll(keeping: Self.maximumIdleMessageBytes)
                round.watchers = nil
                round.parts.removeFirst()
            }
            if budget <= 0, !round.isOver { return self.pause(round) }
        }
        swap(&round.messages, &self.messages)
        self.frontier = max(self.frontier, round.last)
    }

    private func begin(_ part: Part, _ round: inout Round) {
        part.topic.partsToSend -= 1
        // Who begins to watch from here on begins behind it.
        round.watchers = part.topic.watchers[...]
        for (events, bytes) in part.together {
            for event in events { round.messages.append(event, of: bytes) }
        }
    }

    private func pause(_ round: consuming Round) {
        self.unfinished = round
        self.loop.afterOthers {
            guard let round = self.unfinished.take() else { return }
            self.goOn(with: round)
            // What came meanwhile: its waking found nothing to be done yet.
            self.deliver()
        }
    }

    private func gapFound() {
        for topic in self.names.values {
            for watcher in topic.watchers where watcher.machine.gapFound(after: self.frontier) { watcher.owner.enqueue(watcher) }
        }
    }

    // MARK: Time

    /// About twice a second, before the connections' own ticks.
    func ticked(_ now: NIODeadline) {
        let seen = self.storage.revision.number
        self.deliverInTurn()
        // A commit that is not brought within a tick is none that is on its way.
        if !self.topics.isEmpty, self.unfinished == nil, self.lastSeen > self.frontier {
            self.gapFound()
            self.frontier = max(self.frontier, self.lastSeen)
        }
        self.lastSeen = seen
        self.mailbox.watches.store(self.count, ordering: .relaxed)
        self.mailbox.lag.store(self.greatestLag(at: seen), ordering: .relaxed)
        self.loop.counters.watchesOpen = self.hub.totals.watches
        self.loop.counters.watchLag = self.hub.totals.lag
    }

    private func greatestLag(at revision: UInt64) -> UInt64 {
        var lag: UInt64 = 0
        for topic in self.names.values {
            for watcher in topic.watchers { lag = max(lag, watcher.lag(at: revision, frontier: self.frontier)) }
        }
        return lag
    }

    // MARK: Reading in turns

    /// A state to begin with; those who begin together share it.
    func snapshot() throws(StorageError) -> StorageSnapshot {
        if let latest = self.latestSnapshot, latest.revision == self.storage.revision { return latest }
        let made = try self.storage.snapshot()
        self.latestSnapshot = made
        return made
    }

    func forgetSnapshot() { self.latestSnapshot = nil }

    /// The history behind `revision`, a page of it; those who have come as far share it.
    func history(after revision: Revision) throws(StorageError) -> HistoryPage {
        let stored = self.storage.revision
        if let page = self.latestPage, page.previousRevision == revision, revision >= self.storage.compactedRevision,
            page.storeRevision <= stored, page.lastRevision < page.storeRevision || page.storeRevision == stored
        {
            return page
        }
        let page = try self.storage.history(after: revision, limitBytes: Self.pageBytes)
        self.latestPage = page
        return page
    }

    /// Calls `body` with what the watchers of `topic` are sent of `page`; they share it. With nil where a change fits into no message.
    func withMessages(of page: HistoryPage, for topic: LoopTopic, _ body: (inout ChangesMessages?) -> Void) throws(StorageError) {
        var messages: ChangesMessages?
        if let latest = self.latestMessages, latest.topic === topic, latest.page.isSame(as: page) {
            messages = latest.messages
        } else {
            messages = try ChangesMessages(
                of: page, for: topic.topic, maximumBytes: self.loop.limits.maximumMessageBytes)
        }
        // Nobody else holds it while its ids are put in.
        self.latestMessages = nil
        body(&messages)
        if let messages { self.latestMessages = (page, topic, messages) }
    }

    private func forgetPage() { (self.latestPage, self.latestMessages) = (nil, nil) }

    /// It will be asked to ``NativeWatches/read()``.
    func enqueue(_ watches: NativeWatches) {
        self.busy.append(watches)
        self.scheduleTurn(in: .zero)
    }

    private func scheduleTurn(in delay: TimeAmount) {
        guard !self.isTurnScheduled else { return }
        self.isTurnScheduled = true
        // Scheduled, not executed: the network has its turn between two of ours.
        self.loop.eventLoop.assumeIsolated().scheduleTask(in: delay) {
            self.isTurnScheduled = false
            self.loop.turn { self.readInTurn() }
        }
    }

    private func readInTurn() {
        let end = self.loop.eventLoop.now + Self.turnTime
        while let watches = self.busy.popFirst() {
            watches.read()
            if self.loop.eventLoop.now >= end { break }
        }
        if self.busy.isEmpty { self.forgetPage() } else { self.scheduleTurn(in: Self.pause) }
    }
}

extension HistoryPage {
    /// Whether they are the same revisions.
    fileprivate func isSame(as other: HistoryPage) -> Bool {
        self.previousRevision == other.previousRevision && self.lastRevision == other.lastRevision
    }
}
