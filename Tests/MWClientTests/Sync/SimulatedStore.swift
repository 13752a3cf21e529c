import MWProtocol
import NIOCore

@testable import MWClient

/// A store with history, and the server's half of one watch, as values: what a client would be sent.
struct SimulatedStore {
    enum Said: Equatable {
        case began(NativeWatching)
        case refused(NativeFailure)
        case state(NativeState)
        case changes(NativeChanges)
        case synced(NativeSynced)
        case progress(NativeProgress)
        case resync(NativeResync)
        case ended(NativeFailure)
    }

    private(set) var incarnation: UInt8 = 1
    private(set) var revision: Int64 = 0
    private(set) var compacted: Int64 = 0
    private(set) var entries: [[UInt8]: Entry] = [:]
    private var history: [(revision: Int64, changes: [NativeChange])] = []
    private var watch: NativeWatch?
    /// What is on its way to the client, in order.
    var sent: [Said] = []

    var wireIncarnation: ByteBuffer { ByteBuffer(repeating: self.incarnation, count: Incarnation.byteCount) }
    var typedIncarnation: Incarnation { Incarnation(self.wireIncarnation) ?? .unknown }
    var isWatched: Bool { self.watch != nil }

    /// What is in `ranges` now.
    func content(_ ranges: [KeyRange]) -> [Entry] {
        self.entries.values.filter { entry in ranges.contains { $0.contains(entry.key) } }.sorted {
            $0.key.lexicographicallyPrecedes($1.key)
        }
    }

    // MARK: What happens to it

    /// Puts (a value) and removes (nil), together.
    mutating func write(_ writes: [(key: [UInt8], value: [UInt8]?)], parts: Int = 1) {
        self.revision += 1
        let number = self.revision
        var changes: [NativeChange] = []
        for (key, value) in writes {
            var change = NativeChange()
            change.key = ByteBuffer(bytes: key)
            change.previousRevision = self.entries[key]?.revision.wireNumber ?? 0
            change.isRemoval = value == nil
            if let value {
                change.value = ByteBuffer(bytes: value)
                self.entries[key] = Entry(key: key, value: value, revision: Revision(self.typedIncarnation, number))
            } else {
                self.entries[key] = nil
            }
            changes.append(change)
        }
        self.history.append((number, changes))
        if self.watch != nil { self.tell(number, changes, parts: parts) }
    }

    mutating func compact() {
        self.compacted = self.revision
        self.history = []
    }

    /// Another store stands where this one stood.
    mutating func restore(_ writes: [(key: [UInt8], value: [UInt8]?)]) {
        self.disconnect()
        self.incarnation += 1
        self.revision = 0
        self.compacted = 0
        self.entries = [:]
        self.history = []
        self.write(writes)
    }

    // MARK: The watch

    mutating func disconnect() {
        self.watch = nil
        self.sent = []
    }

    mutating func end(_ failure: NativeFailure) {
        guard self.watch != nil else { return }
        self.watch = nil
        self.sent.append(.ended(failure))
    }

    mutating func progress() {
        guard self.watch != nil else { return }
        var progress = NativeProgress()
        progress.revision = self.revision
        self.sent.append(.progress(progress))
    }

    mutating func resync() {
        guard let watch = self.watch, watch.isWithState else { return }
        self.tellResync()
        self.tellState(pages: 2)
    }

    mutating func received(_ request: NativeWatch, pages: Int = 1) {
        if let after = request.after, request.incarnation != self.wireIncarnation {
            return self.sent.append(.refused(NativeFailure(.wrongIncarnation, "revision \(after) is of another store")))
        }
        let isCompacted = request.after.map { $0 < self.compacted } ?? false
        guard !isCompacted || request.isWithState else { return self.sent.append(.refused(NativeFailure(.compacted, "forgotten"))) }
        self.watch = request
        var reply = NativeWatching()
        reply.incarnation = self.wireIncarnation
        reply.revision = isCompacted ? self.revision : request.after ?? self.revision
        self.sent.append(.began(reply))
        if isCompacted { self.tellResync() }
        if isCompacted || (request.after == nil && request.isWithState) { return self.tellState(pages: pages) }
        if let after = request.after {
            for (revision, changes) in self.history where revision > after { self.tell(revision, changes, parts: pages) }
        }
        self.tellSynced()
    }

    private mutating func tell(_ revision: Int64, _ changes: [NativeChange], parts: Int) {
        guard let watch = self.watch else { return }
        let ranges = watch.ranges.map { KeyRange($0) }
        let meant = changes.filter { change in ranges.contains { $0.contains(Array(change.key.readableBytesView)) } }
        guard !meant.isEmpty else { return }
        let size = max(1, (meant.count + parts - 1) / parts)
        for start in stride(from: 0, to: meant.count, by: size) {
            var event = NativeChanges()
            event.revision = revision
            event.changes = Array(meant[start..<min(start + size, meant.count)])
            event.isContinued = start + size < meant.count
            self.sent.append(.changes(event))
        }
    }

    private mutating func tellState(pages: Int) {
        guard let watch = self.watch else { return }
        let content = self.content(watch.ranges.map { KeyRange($0) })
        let size = max(1, (content.count + pages - 1) / pages)
        for start in stride(from: 0, to: content.count, by: size) {
            var state = NativeState()
            state.revision = self.revision
            state.entries = content[start..<min(start + size, content.count)].map { entry in
                var native = NativeEntry()
                native.key = ByteBuffer(bytes: entry.key)
                native.value = ByteBuffer(bytes: entry.value)
                native.revision = entry.revision.wireNumber
                return native
            }
            self.sent.append(.state(state))
        }
        self.tellSynced()
    }

    private mutating func tellResync() {
        var event = NativeResync()
        event.reason = "test"
        event.revision = self.revision
        event.incarnation = self.wireIncarnation
        self.sent.append(.resync(event))
    }

    private mutating func tellSynced() {
        var synced = NativeSynced()
        synced.revision = self.revision
        self.sent.append(.synced(synced))
    }
}

extension WatchStateMachine {
    /// What the shell does with what arrives.
    mutating func received(_ said: SimulatedStore.Said, using random: inout some RandomNumberGenerator) -> Action {
        switch said {
        case .began(let reply): self.began(reply)
        case .refused(let failure): self.refused(failure, using: &random)
        case .state(let state): self.stateReceived(state)
        case .changes(let changes): self.changesReceived(changes)
        case .synced(let synced): self.synced(synced)
        case .progress(let progress): self.progressed(progress)
        case .resync(let resync): self.resyncReceived(resync)
        case .ended(let failure): self.ended(failure, using: &random)
        }
    }
}

extension SeededRandom {
    mutating func oneIn(_ count: Int) -> Bool { Int.random(in: 0..<count, using: &self) == 0 }

    /// Writes of a few of a few keys.
    mutating func writes() -> [(key: [UInt8], value: [UInt8]?)] {
        var keys = (0..<12).map { [UInt8(ascii: "a") + UInt8($0)] }
        keys.shuffle(using: &self)
        return keys.prefix(Int.random(in: 1...4, using: &self)).map { key in
            (key, self.oneIn(4) ? nil : [UInt8.random(in: 0...255, using: &self)])
        }
    }
}
