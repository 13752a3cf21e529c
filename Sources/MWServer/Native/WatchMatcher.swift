internal import MWStorage
internal import NIOCore

/// Which topics a change concerns, and where its encoding is: of the commit thread.
struct WatchMatcher {
    private struct Entry {
        let topic: WatchTopic
        /// What the loops that watch it call it.
        var names: [(loop: Int, name: UInt64)] = []
        /// Of the revision that is being matched.
        var runs = ChangeRuns(revision: 0)
    }

    private var entries: [Entry?] = []
    private var free: [Int] = []
    private var places: [WatchTopic: Int] = [:]
    private var index: RangeIndex
    /// How many topics each loop has.
    private var loops: [Int: Int] = [:]

    private var revision: UInt64 = 0
    private var touched: [Int] = []
    private var matched: [Int] = []
    /// Of this commit.
    private var matchCount = 0
    private let maximumMatches: Int

    /// Changes of one commit, each as often as it concerns a topic. Over it all loops go by the history, which they read in turns of their own:
    /// meanwhile everybody's writes would wait. 262,144: some ten milliseconds, and 4 MiB of runs.
    static let maximumMatchesPerCommit = 262_144

    struct Result {
        /// For each loop that watches anything, also where nothing concerns it.
        var events: [(loop: Int, events: [WatchDelivery.Event])] = []
        var valued = ByteBuffer()
        var bare = ByteBuffer()
        /// There were more matches than ``WatchMatcher/maximumMatchesPerCommit``: nothing of the commit is here.
        var isOverLimit = false
    }

    private var events: [Int: [WatchDelivery.Event]] = [:]
    private var valued = EncodedChanges()
    private var bare = EncodedChanges()

    init(seed: UInt64, maximumMatches: Int = WatchMatcher.maximumMatchesPerCommit) {
        self.index = RangeIndex(seed: seed)
        self.maximumMatches = maximumMatches
    }

    // MARK: Topics

    mutating func add(_ topic: WatchTopic, loop: Int, name: UInt64) {
        let place = self.places[topic] ?? self.makePlace(topic)
        self.entries[place]?.names.append((loop, name))
        self.loops[loop, default: 0] += 1
    }

    mutating func remove(_ topic: WatchTopic, loop: Int, name: UInt64) {
        guard let place = self.places[topic], var entry = self.entries[place],
            let index = entry.names.firstIndex(where: { $0.loop == loop && $0.name == name })
        else { return }
        entry.names.remove(at: index)
        self.entries[place] = entry
        if let count = self.loops[loop] { self.loops[loop] = count > 1 ? count - 1 : nil }
        guard entry.names.isEmpty else { return }
        for range in topic.ranges.ranges { self.index.remove(range, owner: place) }
        self.places[topic] = nil
        self.entries[place] = nil
        self.free.append(place)
    }

    private mutating func makePlace(_ topic: WatchTopic) -> Int {
        let place = self.free.popLast() ?? self.entries.count
        if place == self.entries.count { self.entries.append(nil) }
        self.entries[place] = Entry(topic: topic)
        self.places[topic] = place
        for range in topic.ranges.ranges { self.index.insert(range, owner: place) }
        return place
    }

    // MARK: A commit

    /// The changes that follow are of `revision`.
    mutating func begin(_ revision: UInt64) {
        self.endRevision()
        self.revision = revision
    }

    mutating func match(_ change: KeyChange) {
        guard self.matchCount <= self.maximumMatches else { return }
        self.matched.removeAll(keepingCapacity: true)
        unsafe self.index.forEachOwner(of: change.key) { self.matched.append($0) }
        guard !self.matched.isEmpty else { return }
        self.matchCount += self.matched.count
        guard self.matchCount <= self.maximumMatches else { return }
        var valued: Range<Int>?
        var bare: Range<Int>?
        for place in self.matched {
            let range: Range<Int>
            if self.entries[place]?.topic.isWithoutValues == true {
                range = bare ?? self.bare.append(change, isWithoutValue: true)
                bare = range
            } else {
                range = valued ?? self.valued.append(change, isWithoutValue: false)
                valued = range
            }
            if self.entries[place]?.runs.byteCount == 0 {
                self.entries[place]?.runs = ChangeRuns(revision: self.revision)
                self.touched.append(place)
            }
            self.entries[place]?.runs.append(range)
        }
    }

    private mutating func endRevision() {
        for place in self.touched {
            guard let entry = self.entries[place] else { continue }
            for (loop, name) in entry.names {
                self.events[loop, default: []].append(
                    WatchDelivery.Event(name: name, runs: entry.runs, isWithoutValues: entry.topic.isWithoutValues))
            }
            self.entries[place]?.runs = ChangeRuns(revision: 0)
        }
        self.touched.removeAll(keepingCapacity: true)
    }

    /// What there is for each loop; the matcher is ready for the next commit.
    mutating func finish() -> Result {
        self.endRevision()
        var result = Result()
        for loop in self.loops.keys { result.events.append((loop, self.events[loop] ?? [])) }
        if self.matchCount > self.maximumMatches {
            result = Result(events: self.loops.keys.map { ($0, []) }, isOverLimit: true)
        } else {
            (result.valued, result.bare) = (self.valued.bytes, self.bare.bytes)
        }
        self.matchCount = 0
        (self.valued, self.bare) = (EncodedChanges(), EncodedChanges())
        self.events = [:]
        return result
    }
}
