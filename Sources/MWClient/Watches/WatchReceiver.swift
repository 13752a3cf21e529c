import MWProtocol
import NIOCore

/// Takes what a watch reports. Called on the client's event loop, in order; must not wait there.
protocol WatchSink: Sendable {
    /// - Returns: bytes that wait to be read; 0 for those who take everything at once.
    func take(_ events: [WatchEvent]) -> Int
    /// Too much waits: nothing comes until ``WatchReceiver/drained()``.
    ///
    /// - Returns: false: everything was read meanwhile.
    func pause() -> Bool
    /// The watch is over: nothing comes behind it. `nil`: the client was closed.
    func end(because error: ClientError?)
}

/// One watch on the event loop: hands what the server says to the machine, and what that reports to a sink.
final class WatchReceiver: WatchHandler {
    private var machine: WatchStateMachine
    private let sink: any WatchSink
    private let core: ClientCore
    private weak var desk: WatchDesk?
    private var id: WatchID?
    private var random: any RandomNumberGenerator

    init(_ configuration: WatchStateMachine.Configuration, sink: any WatchSink, core: ClientCore) {
        self.machine = WatchStateMachine(configuration)
        self.sink = sink
        self.core = core
        self.random = core.random
    }

    func open(on desk: WatchDesk) {
        self.desk = desk
        let id = desk.open(self)
        if self.machine.isEnded { return desk.close(id) }
        self.id = id
    }

    /// Nobody reads any more.
    func close() {
        self.machine.clientEnded()
        if let id = self.id { self.desk?.close(id) }
        self.id = nil
    }

    /// The reader has read everything.
    func drained() {
        if self.machine.drained() { self.arm() }
    }

    /// Begins with the state again.
    func restart(reason: String) {
        let action = self.machine.restarted(reason: reason)
        if let id = self.id { self.desk?.suspend(id) }
        self.perform(action)
        self.arm()
    }

    func askProgress() {
        if self.machine.isFollowing, let id = self.id { self.desk?.askProgress(id) }
    }

    private func arm() {
        if let id = self.id { self.desk?.arm(id) }
    }

    // MARK: WatchHandler

    func watchRequest(on incarnation: Incarnation) -> NativeWatch? { self.machine.request() }

    func received(_ signal: WatchSignal) {
        do throws(ProtocolError) {
            switch signal {
            case .began(let fields): self.perform(self.machine.began(try NativeWatching(fields)))
            case .event(let kind, let fields): try self.received(kind, fields)
            case .progress(let fields): self.perform(self.machine.progressed(try NativeProgress(fields)))
            case .refused(let failure): self.perform(self.machine.refused(failure, using: &self.random))
            case .disconnected(let error): self.perform(self.machine.disconnected(error))
            case .ended(let error):
                self.machine.clientEnded()
                self.sink.end(because: error.code == .closed ? nil : error)
            }
        } catch {
            self.perform(self.machine.undecodable(error))
        }
    }

    private func received(_ kind: NativeEventKind, _ fields: NativeFields) throws(ProtocolError) {
        switch kind {
        case .changes: self.perform(self.machine.changesReceived(try NativeChanges(fields)))
        case .state: self.perform(self.machine.stateReceived(try NativeState(fields)))
        case .synced: self.perform(self.machine.synced(try NativeSynced(fields)))
        case .progress: self.perform(self.machine.progressed(try NativeProgress(fields)))
        case .resync: self.perform(self.machine.resyncReceived(try NativeResync(fields)))
        case .watchEnded: self.perform(self.machine.ended(try NativeWatchEnded(fields).failure, using: &self.random))
        default: break  // of later servers
        }
    }

    private func perform(_ action: WatchStateMachine.Action) {
        switch action {
        case .report(let events): self.report(events)
        case .rearm(let events, let wait):
            self.report(events)
            if let id = self.id { self.desk?.suspend(id) }
            self.core.eventLoop.assumeIsolated().scheduleTask(in: TimeAmount(wait)) { [weak self] in
                guard let self else { return }
                self.arm()
                self.core.flush()
            }
        case .fail(let error): self.fail(error)
        }
    }

    private func report(_ events: [WatchEvent]) {
        guard !events.isEmpty else { return }
        switch self.machine.buffered(self.sink.take(events)) {
        case .success(let isPaused):
            guard isPaused, let id = self.id else { return }
            self.desk?.suspend(id)
            if !self.sink.pause() { self.drained() }
        case .failure(let error): self.fail(error)
        }
    }

    private func fail(_ error: ClientError) {
        self.close()
        self.sink.end(because: error)
    }
}

/// A watch as other threads hold it.
final class WatchHandle: Sendable {
    private let receiver: NIOLoopBoundBox<WatchReceiver>
    private let core: ClientCore

    init(_ configuration: WatchStateMachine.Configuration, sink: any WatchSink, core: ClientCore) {
        self.core = core
        self.receiver = .makeBoxSendingValue(WatchReceiver(configuration, sink: sink, core: core), eventLoop: core.eventLoop)
        core.withWatches { [receiver] desk, _ in receiver.value.open(on: desk) }
    }

    /// Has the receiver do something on the loop.
    func tell(_ body: @escaping @Sendable (WatchReceiver) -> Void) {
        self.core.withWatches { [receiver] _, _ in body(receiver.value) }
    }

    func close() { self.tell { $0.close() } }
}

extension WatchStateMachine.Configuration {
    /// - Throws: `invalidArgument` when the ranges hold nothing, or the limits are none.
    init(checking ranges: [KeyRange], from start: WatchStart, _ options: WatchOptions) throws {
        let ranges = KeyRange.merged(ranges)
        guard !ranges.isEmpty else {
            throw ClientError.invalid("ranges", "hold no key", remedy: "watch at least one range with an upper bound above its lower one")
        }
        guard options.maximumBufferedBytes > 0, options.maximumBufferedStateBytes > 0, options.maximumRevisionBytes > 0 else {
            throw ClientError.invalid("options", "hold nothing", remedy: "limits are above zero")
        }
        if case .after(let revision) = start, revision.incarnation == .unknown {
            throw ClientError.invalid("start", "is a revision of no store", remedy: "watch from a revision that the server gave")
        }
        self.init(ranges: ranges, start: start, options: options)
    }
}

extension KeyRange {
    /// The same keys, in as few ranges as can be, in order.
    static func merged(_ ranges: [KeyRange]) -> [KeyRange] {
        var merged: [KeyRange] = []
        for range in ranges.filter({ !$0.isEmpty }).sorted(by: { $0.lower.lexicographicallyPrecedes($1.lower) }) {
            guard let last = merged.last, let end = last.upper else {
                if merged.isEmpty { merged.append(range) }
                continue  // the last one has no end
            }
            if end.lexicographicallyPrecedes(range.lower) {
                merged.append(range)
            } else {
                let isLonger = range.upper.map { end.lexicographicallyPrecedes($0) } ?? true
                if isLonger { merged[merged.count - 1] = KeyRange(from: last.lower, to: range.upper) }
            }
        }
        return merged
    }

    /// Whether a key can be in both.
    func intersects(_ other: KeyRange) -> Bool {
        let endsBefore = self.upper.map { !other.lower.lexicographicallyPrecedes($0) } ?? false
        let beginsBehind = other.upper.map { !self.lower.lexicographicallyPrecedes($0) } ?? false
        return !self.isEmpty && !other.isEmpty && !endsBefore && !beginsBehind
    }
}
