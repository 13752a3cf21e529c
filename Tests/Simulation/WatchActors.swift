package import History
package import MWClient
import NIOCore

/// A watch of one client, and what it has said.
// Safety: used on one thread only.
final class SimulatedWatch: @unchecked Sendable {
    let terms: WatchTerms
    private(set) var items: [WatchItem] = []
    /// Why it ended, if it did.
    private(set) var end: String?
    private let client: ModelledClient
    private let clock: SimulatedClock
    /// Milliseconds that the reader takes for an event, at most.
    private let slowness: Int
    private let options: WatchOptions

    init(_ client: ModelledClient, clock: SimulatedClock) {
        self.client = client
        self.clock = clock
        let ranges: [ModelRange] =
            switch clock.any(0...3) {
            case 0: [.all]
            case 1: [ModelRange("k0", "k4")]
            case 2: [ModelRange("k3", "k4"), ModelRange("k6", nil)]
            default: [ModelRange("k1", "k7")]
            }
        var options = WatchOptions()
        options.includesValues = clock.chance(75)
        options.onGap = [.resync, .resync, .restart, .fail][clock.any(0...3)]
        if clock.chance(30) { options.maximumBufferedBytes = clock.any(300...2_000) }
        self.options = options
        self.slowness = clock.chance(30) ? clock.any(1...400) : 0
        let start: WatchTerms.Start = clock.chance(60) && options.onGap != .restart ? .state : .now
        self.terms = WatchTerms(ranges, from: start, hasValues: options.includesValues, resyncsWithState: options.onGap != .restart)
    }

    /// Reads until the client ends, or the watch does.
    func follow(_ isCalm: @escaping () -> Bool) async {
        do {
            let ranges = self.terms.ranges.map { KeyRange($0) }
            let start: WatchStart = self.terms.start == .state ? .state : .now
            for try await event in try self.client.client.watch(ranges, from: start, options: self.options) {
                self.clock.log("watch of client \(self.client.number) \(self.terms.ranges): \(event)")
                if let item = WatchItem(event) { self.items.append(item) }
                if self.slowness > 0, !isCalm() { await self.clock.sleep(.milliseconds(Int64(self.clock.any(0...self.slowness)))) }
            }
        } catch {
            self.end = "\(error)"
            self.clock.log("watch of client \(self.client.number) \(self.terms.ranges) ended: \(error)")
            self.items.append(.ended)
        }
    }

    /// Whether it may have ended as it did.
    var endViolation: String? {
        guard let end else { return nil }
        // The client judges too: it ends a watch whose server breaks the order of events.
        if end.contains("protocolMismatch") { return "a watch found: \(end)" }
        return self.options.onGap == .fail ? nil : "a watch ended: \(end)"
    }
}

extension WatchItem {
    package init?(_ event: WatchEvent) {
        switch event {
        case .state(let revision, let entries):
            self = .state(.init(entries), revision.number, incarnation: "\(revision.incarnation)")
        case .changes(let revision, let changes):
            self = .changes(
                ModelLog.Commit(
                    revision.number,
                    changes.map { change in
                        let value = change.isRemoval ? nil : change.value.map { String(decoding: $0, as: UTF8.self) } ?? ""
                        return ModelChange(
                            String(decoding: change.key, as: UTF8.self), value, previousRevision: change.previousRevision.number)
                    }), incarnation: "\(revision.incarnation)")
        case .synced(let revision): self = .synced(revision.number, incarnation: "\(revision.incarnation)")
        case .progress(let revision): self = .progress(revision.number, incarnation: "\(revision.incarnation)")
        case .resumed(let revision): self = .resumed(revision.number, incarnation: "\(revision.incarnation)")
        case .resync: self = .resync
        case .disconnected: return nil
        }
    }
}

/// A replica of one client.
// Safety: used on one thread only.
final class SimulatedReplica: @unchecked Sendable {
    private let client: ModelledClient
    private let clock: SimulatedClock
    private let range: ModelRange
    private let replica: Replica
    /// What was read from it at some time, to be compared with the log.
    private var readings: [(incarnation: String, revision: UInt64, entries: [String: ModelEntry])] = []
    private var told: [String: ModelEntry] = [:]
    private(set) var violations: [String] = []

    init(_ client: ModelledClient, clock: SimulatedClock) throws {
        self.client = client
        self.clock = clock
        self.range = clock.chance(50) ? .all : ModelRange("k2", "k7")
        self.replica = try client.client.replica(of: [KeyRange(self.range)])
    }

    /// Looks at it now and then.
    func observe(_ isCalm: @escaping () -> Bool) async {
        while !isCalm() {
            await self.clock.sleep(.milliseconds(Int64(self.clock.any(1...300))))
            self.look()
        }
    }

    private func look() {
        guard let snapshot = try? self.replica.snapshot() else { return }
        self.readings.append(("\(snapshot.revision.incarnation)", snapshot.revision.number, .init(snapshot.scan())))
    }

    /// What its changes say, applied one after the other.
    func follow() async {
        let changes = self.replica.changes()
        if let start = changes.start { self.told = .init(start.scan()) }
        do {
            for try await event in changes {
                guard case .changes(_, let list) = event else { continue }
                for change in list {
                    let key = String(decoding: change.key, as: UTF8.self)
                    if self.told[key] != change.before.map(ModelEntry.init) {
                        self.violations.append(
                            "replica's change of \(key): before it was \(String(describing: change.before)), told was \(String(describing: self.told[key]))"
                        )
                    }
                    self.told[key] = change.after.map(ModelEntry.init)
                }
            }
        } catch {
            self.violations.append("a replica ended: \(error)")
        }
    }

    func close() { self.replica.close() }

    /// Everything that was read was so, and when quiet it is equal to the store.
    func check(_ logs: [String: ModelLog], store incarnation: String) -> [String] {
        var found = self.violations
        var last: (incarnation: String, revision: UInt64)?
        for reading in self.readings {
            guard let state = logs[reading.incarnation]?.state(at: reading.revision) else {
                found.append("a replica was read at revision \(reading.revision) of \(reading.incarnation), which never was")
                continue
            }
            if self.plain(state.entries(in: self.range)) != self.plain(reading.entries) {
                found.append("a replica held \(reading.entries) at revision \(reading.revision); the store had \(state.entries)")
            }
            if let last, last.incarnation == reading.incarnation, reading.revision < last.revision {
                found.append("a replica went back from revision \(last.revision) to \(reading.revision)")
            }
            last = (reading.incarnation, reading.revision)
        }
        guard let log = logs[incarnation], let snapshot = try? self.replica.snapshot() else {
            return found + ["a replica cannot be read when everything is quiet: \(self.replica.status)"]
        }
        let expected = self.plain(log.last.entries(in: self.range))
        if snapshot.isStale { found.append("a replica is stale when everything is quiet: \(self.replica.status)") }
        if self.plain(.init(snapshot.scan())) != expected {
            found.append("when quiet a replica held \(snapshot.scan()); the store has \(expected)")
        }
        if self.plain(self.told) != expected { found.append("a replica's changes made \(self.told); the store has \(expected)") }
        return found
    }

    private func plain(_ entries: [String: ModelEntry]) -> [String: ModelEntry] { entries.mapValues(\.withoutLease) }
}
