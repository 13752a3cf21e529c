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
    /// The store's revision at the last tick.
    private var lastSeen: UInt64 = 0
    /// Connections that have something to read from the store, each once.
    private var busy = Deque<NativeWatches>()
    private var isTurnScheduled = false
    private var isDelivering = false
    private weak var latestSnapshot: StorageSnapshot?

    /// Bytes read for one watch before it is another one's turn. 64 KiB: a hundred microseconds.
    static let pageBytes = 64 << 10
    /// How long reading may keep the loop from everything else, but for the page that is under way.
    private static let turnTime = TimeAmount.milliseconds(2)
    /// Then everything else has its turn.
    private static let pause = TimeAmount.microseconds(200)

    /// - Parameter wake: Called on the commit thread; brings `deliver()` to `loop`.
    package init(on loop: SessionLoop, storage: Storage, hub: WatchHub, wake: @escaping @Sendable () -> Void) {
        self.loop = loop
        self.storage = storage
        self.hub = hub
        self.mailbox = hub.makeMailbox(wake: wake)
    }

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
    func loopEnded() { self.busy = [] }

    // MARK: What commits bring

    /// Takes what is in the mailbox. Called when it has something, at each tick, and when somebody wants to know how far it has come.
    func deliver() {
        // What is sent may bring a request that asks for this again: what came later must not be told first.
        guard !self.isDelivering else { return }
        self.isDelivering = true
        defer { self.isDelivering = false }
        let contents = self.mailbox.take()
        if contents.hasGap || contents.revisions.map({ $0.previous > self.frontier }) ?? false { self.gapFound() }
        for delivery in contents.deliveries {
            for event in delivery.events where event.runs.revision > self.frontier {
                guard let topic = self.names[event.name] else { continue }
                self.deliver(event, of: delivery, to: topic)
            }
        }
        if let last = contents.revisions?.last { self.frontier = max(self.frontier, last) }
    }

    /// The same, as a turn of its own.
    package func deliverInTurn() { self.loop.turn { self.deliver() } }

    private func deliver(_ event: WatchDelivery.Event, of delivery: WatchDelivery, to topic: LoopTopic) {
        let bytes = event.isWithoutValues ? delivery.bare : delivery.valued
        let events = ChangesEvent.events(of: event.runs, in: bytes, maximumBytes: self.loop.limits.maximumMessageBytes)
        // A copy: what is sent may end a connection.
        for watcher in topic.watchers where !watcher.hasEnded { watcher.owner.deliver(event.runs.revision, events, in: bytes, to: watcher) }
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
        if !self.topics.isEmpty, self.lastSeen > self.frontier {
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
        if !self.busy.isEmpty { self.scheduleTurn(in: Self.pause) }
    }
}
