internal import DequeModule
internal import MWProtocol
internal import MWStorage
internal import NIOCore

/// The watches of one connection. Called on its event loop only; nothing is called after ``sessionEnded(_:)``.
///
/// Answers go through the session's `reply` and `fail`, which find their request by kind and id; a frame is not kept, for it holds the message.
///
///     commit ─▶ WatchLoop ─▶ deliver ─┬─▶ sent                                      who is live
///                                     └─▶ lag: too much is unsent                   who is not ─▶ queue ─▶ read, in turns ─▶ sent
final class NativeWatches {
    private var watchers: [RequestID: Watcher] = [:]
    /// From the first watch or notice on.
    private(set) var connection: Connection?
    /// Those that have something to read.
    var queue = Deque<Watcher>()
    /// Whether ``WatchLoop`` is going to call ``read()``.
    var isEnqueued = false
    var isAwaitingNetwork = false
    /// What the network had not taken when it was asked last, and what it had been sent in all by then. At first it is to be asked.
    var unsent = (bytes: Int.max / 2, after: 0)
    /// When the network had taken everything, last.
    var lastTaken = NIODeadline.distantPast
    /// Bytes of the bounds of all ranges.
    private var boundBytes = 0
    /// What this client was told to do and has not said that it did.
    var notices: [(reload: Int64, tally: ClientTally)] = []
    var drain: ClientTally?

    struct Connection {
        let session: SessionHandler
        let native: NativeSession
        /// nil on a server without a store.
        let watches: WatchLoop?
    }

    // MARK: Requests

    /// A request of one of the kinds `watch`, `endWatch`, `progress` and `reloadDone`.
    func requestReceived(_ frame: NativeFrame, of native: NativeSession, in session: SessionHandler) {
        self.connect(native, session)
        switch NativeRequestKind(rawValue: frame.kind) {
        case .watch:
            self.take(NativeWatch.self, frame, rangesTag: 1) { (request) throws(NativeFailure) in try self.begin(request, frame.id) }
        case .endWatch: self.take(NativeEndWatch.self, frame) { (request) throws(NativeFailure) in try self.end(request, frame.id) }
        case .progress:
            self.take(NativeProgressRequest.self, frame) { (request) throws(NativeFailure) in try self.progress(request, frame.id) }
        case .reloadDone:
            self.take(NativeReloadDone.self, frame) { (request) throws(NativeFailure) in try self.reloadDone(request, frame.id) }
        default: native.fail(.unknownRequest(frame.kind), frame, in: session)
        }
    }

    private func take<Request: NativeRequest>(
        _ type: Request.Type, _ frame: NativeFrame, rangesTag: NativeTag? = nil, _ body: (Request) throws(NativeFailure) -> Void
    ) {
        do throws(NativeFailure) {
            if let rangesTag, let limits = self.connection?.session.loop.limits {
                try WatchRanges.checkCount(frame.fields.count(of: rangesTag), maximum: limits.maximumRangesPerWatch)
            }
            let request: Request
            do throws(ProtocolError) { request = try Request(frame.fields) } catch { throw NativeFailure(error) }
            try body(request)
        } catch {
            guard let connection = self.connection else { return }
            connection.native.fail(error, frame, in: connection.session)
        }
    }

    func connect(_ native: NativeSession, _ session: SessionHandler) {
        guard self.connection == nil else { return }
        self.connection = Connection(session: session, native: native, watches: native.storage?.watches)
    }

    func reply<Request: NativeRequest>(_ type: Request.Type, _ reply: Request.Reply, _ id: RequestID) {
        guard let connection = self.connection else { return }
        connection.native.reply(reply, to: Request.kind, id, in: connection.session)
    }

    // MARK: Beginning

    private func begin(_ request: NativeWatch, _ id: RequestID) throws(NativeFailure) {
        guard let connection = self.connection, let loop = connection.watches else {
            throw NativeFailure(.notConfigured, "this server has no store")
        }
        guard id.rawValue != 0 else { throw NativeFailure(.invalidArgument, "a watch with id 0, which is that of the connection's events") }
        guard self.watchers[id] == nil else { throw NativeFailure(.invalidArgument, "id \(id) is in use by a watch that has not ended") }
        let limits = connection.session.loop.limits
        guard self.watchers.count < limits.maximumWatchesPerConnection else {
            throw NativeFailure(
                .tooMany, "this connection has \(self.watchers.count) watches, as many as it may", remedy: "watch several ranges with one")
        }
        let pieces = try WatchRanges.pieces(request.ranges, maximum: limits.maximumRangesPerWatch)
        let boundBytes = pieces.reduce(0) { $0 + $1.boundBytes }
        guard self.boundBytes + boundBytes <= limits.maximumWatchBoundBytesPerConnection else {
            throw NativeFailure(
                .tooMany, "the bounds of this connection's ranges are over \(limits.maximumWatchBoundBytesPerConnection) bytes",
                remedy: "watch fewer ranges, or some with shorter bounds")
        }
        try self.judge(pieces, isWithState: request.isWithState, connection)
        if let after = request.after { try Self.check(after, request.incarnation, loop.storage) }
        let topic = loop.topic(WatchTopic(ranges: WatchRanges(pieces), isWithoutValues: request.isWithoutValues))
        do throws(NativeFailure) {
            try self.begin(request, id, topic, pieces, loop)
        } catch {
            loop.forgetIfUnused(topic)
            throw error
        }
    }

    /// Only now that the loop hears of the topic the store's revision is one behind which nothing is missed.
    private func begin(
        _ request: NativeWatch, _ id: RequestID, _ topic: LoopTopic, _ pieces: [KeyRange], _ loop: WatchLoop
    ) throws(NativeFailure) {
        let storage = loop.storage
        let revision = storage.revision.number
        var start = WatcherStateMachine.Start.now(revision)
        var snapshot: StorageSnapshot?
        var isResync = false
        if let after = request.after {
            let after = UInt64(clamping: after)
            // A revision above the store's is one that it does not have any more: what was read with it is not to be built upon.
            let isAbove = after > revision
            isResync = isAbove || after < storage.compactedRevision.number
            guard !isResync || request.isWithState else { throw isAbove ? .ahead(after, storage) : .compacted(after, storage) }
            start = .after(after)
        }
        if isResync || (request.isWithState && request.after == nil) {
            do throws(StorageError) {
                let taken = try loop.snapshot()
                snapshot = taken
                start = .state(taken.revision.number)
            } catch {
                throw NativeFailure(watching: error)
            }
        }
        let now = loop.loop.now
        let machine = WatcherStateMachine(start, isWithState: request.isWithState, at: now)
        let watcher = Watcher(id, topic, pieces, isWithState: request.isWithState, of: self, machine)
        self.watchers[id] = watcher
        self.boundBytes += watcher.boundBytes
        loop.begin(watcher)
        var reply = NativeWatching()
        reply.revision = Int64(clamping: watcher.machine.position)
        reply.incarnation = ByteBuffer(integer: storage.incarnation.number)
        self.reply(NativeWatch.self, reply, id)
        if isResync, let after = request.after {
            self.sendResync(watcher, "there is no history behind revision \(after)", loop)
        }
        if let snapshot { watcher.beginState(snapshot, at: now) }
        self.settle(watcher)
    }

    /// Whether the client may be told of everything in `pieces`: each by itself, for what covers each need not cover them as one.
    private func judge(_ pieces: [KeyRange], isWithState: Bool, _ connection: Connection) throws(NativeFailure) {
        let session = connection.session
        let grants = session.info.principal.grants
        let rights: [AccessRight] = isWithState ? [.read] : [.watch, .read]
        for range in pieces where !rights.contains(where: { grants.covers($0, range) }) {
            session.loop.counters.deniedRequests &+= 1
            let right = rights[0].rawValue
            session.loop.audit.record(.requestDenied(session.info, DeniedRequest(operation: "watch", right: right, key: range.lower)))
            throw NativeFailure(
                .permissionDenied,
                "\(session.info.principal.name) may not \(right) all of the keys from '\(PolicyText.escaped(range.lower))' on",
                remedy: "ask for the right \(right) over the whole range, or watch less")
        }
    }

    private static func check(_ after: Int64, _ incarnation: ByteBuffer, _ storage: Storage) throws(NativeFailure) {
        let own = ByteBuffer(integer: storage.incarnation.number)
        guard incarnation.readableBytes == own.readableBytes else {
            throw NativeFailure(
                .invalidArgument, "a revision to begin after, and \(incarnation.readableBytes) bytes to say of which store it is",
                remedy: "send the incarnation, \(own.readableBytes) bytes, that came with the revision")
        }
        guard incarnation == own else {
            throw NativeFailure(
                .wrongIncarnation, "revision \(after) is one of another store, or of this one before it was restored",
                remedy: "forget what was read before, and begin with the state")
        }
        guard after >= 0 else { throw NativeFailure(.invalidArgument, "revision \(after): there is none below 0") }
    }

    // MARK: Other requests

    private func end(_ request: NativeEndWatch, _ id: RequestID) throws(NativeFailure) {
        self.end(try self.watcher(request.watch))
        self.reply(NativeEndWatch.self, NativeDone(), id)
    }

    private func progress(_ request: NativeProgressRequest, _ id: RequestID) throws(NativeFailure) {
        let watcher = try self.watcher(request.watch)
        guard let connection = self.connection, let loop = connection.watches else { return }
        watcher.machine.progressRequested(id, upTo: loop.storage.revision.number)
        connection.session.requestStarted()
        // What has been brought by now need not be read.
        loop.deliver()
        self.settle(watcher)
    }

    private func watcher(_ id: Int64) throws(NativeFailure) -> Watcher {
        guard let number = Int32(exactly: id), let watcher = self.watchers[RequestID(number)] else {
            throw NativeFailure(.watchUnknown, "this connection has no watch \(id)", remedy: "watch anew")
        }
        return watcher
    }

    // MARK: Ending

    /// Nothing of the watch is sent after this.
    ///
    /// - Parameter failure: What its client is told; nil if it knows.
    func end(_ watcher: Watcher, _ failure: NativeFailure? = nil) {
        guard let connection = self.connection, self.watchers[watcher.id] === watcher else { return }
        let unanswered = watcher.machine.end()
        self.watchers[watcher.id] = nil
        self.boundBytes -= watcher.boundBytes
        watcher.endState()
        connection.watches?.end(watcher)
        if let failure {
            var event = NativeWatchEnded()
            event.failure = failure
            self.send(event, .watchEnded, watcher.id)
        }
        for id in unanswered {
            let failure = NativeFailure(.watchUnknown, "the watch \(watcher.id) has ended")
            connection.native.fail(failure, .progress, id, in: connection.session)
            connection.session.requestEnded()
        }
    }

    /// The connection ends when it has no request under way: none waits for what its watches read.
    func drainBegan() {
        guard let connection = self.connection else { return }
        for id in self.watchers.values.flatMap({ $0.machine.takeProgressRequests() }) {
            connection.native.fail(
                NativeFailure(.unavailable, "the server ends this connection", remedy: "connect again", isRetryable: true), .progress, id,
                in: connection.session)
            connection.session.requestEnded()
        }
    }

    func sessionEnded(_ session: SessionHandler) {
        for watcher in self.watchers.values {
            _ = watcher.machine.end()
            watcher.endState()
            self.connection?.watches?.end(watcher)
        }
        self.watchers = [:]
        self.boundBytes = 0
        self.queue = []
        for notice in self.notices { notice.tally.gone(session.info.connectionID) }
        self.notices = []
        self.drain?.gone(session.info.connectionID)
        self.drain = nil
        self.connection = nil
    }

    /// Rights may be others from here on: a watch of what the client may not be told any more ends.
    func principalChanged(of native: NativeSession, in session: SessionHandler) {
        guard let connection = self.connection else { return }
        for watcher in self.watchers.values {
            do throws(NativeFailure) {
                try self.judge(watcher.pieces, isWithState: watcher.isWithState, connection)
            } catch {
                self.end(watcher, error)
            }
        }
    }

    // MARK: Time and the network

    /// Everything that one read brought has been taken.
    func readBurstEnded(of native: NativeSession, in session: SessionHandler) {}

    /// The network takes bytes again.
    func mayGoOn(of native: NativeSession, in session: SessionHandler) { self.enqueueIfQueued() }

    /// About twice a second.
    func ticked(_ now: NIODeadline, of native: NativeSession, in session: SessionHandler) {
        guard !self.watchers.isEmpty, let connection = self.connection, let loop = connection.watches else { return }
        let limits = session.loop.limits
        let interval = TimeAmount(limits.watchProgressInterval)
        let isBackedUp = self.isBackedUp(connection)
        for watcher in self.watchers.values {
            // Pages are read in turn: a watch may wait while those of others are taken.
            if self.isAwaitingNetwork, let state = watcher.state,
                now - max(state.movedAt, self.lastTaken) >= TimeAmount(limits.watchStateTimeout)
            {
                self.overflowed(watcher, "no page of its state was taken in \(limits.watchStateTimeout)", connection)
            } else if !isBackedUp, let told = watcher.machine.ticked(now, interval: interval, frontier: loop.frontier) {
                var progress = NativeProgress()
                progress.revision = Int64(clamping: told)
                self.send(progress, .progress, watcher.id)
            }
        }
    }

    /// Its client did not take what it asked for.
    private func overflowed(_ watcher: Watcher, _ reason: String, _ connection: Connection) {
        connection.session.loop.counters.watchesOverflowed &+= 1
        self.end(watcher, NativeFailure(.watchOverflowed, reason, remedy: "read faster, or watch less; then watch anew"))
    }

    // MARK: What there is

    var count: Int { self.watchers.count }

    /// How many revisions behind the store the slowest is.
    var lag: UInt64 {
        guard let loop = self.connection?.watches else { return 0 }
        let revision = loop.storage.revision.number
        return self.watchers.values.reduce(0) { max($0, $1.lag(at: revision, frontier: loop.frontier)) }
    }
}
