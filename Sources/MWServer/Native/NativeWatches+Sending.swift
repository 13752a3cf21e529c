internal import DequeModule
internal import MWProtocol
internal import MWStorage
internal import MWWebSocket
internal import NIOCore

// What the watches of a connection are sent: as it happens, or read from the store, a page in each turn.

extension NativeWatches {
    /// Payloads from here on are shared by all watchers instead of copied for each. 16 KiB: a TLS record, which is copied anyway.
    private static let sharedBytes = 16 << 10
    /// Unless their runs are smaller than this on average: each that is shared is a write of its own. 1 KiB: copying it costs less than that.
    private static let leastSharedRunBytes = 1 << 10

    /// Whether its changes are not copied at all.
    static func isShared(_ event: ChangesEvent) -> Bool {
        event.byteCount >= Self.sharedBytes && event.byteCount / event.runs.count >= Self.leastSharedRunBytes
    }

    /// Whether what happens waits until the network has taken what it has.
    func isBackedUp(_ connection: Connection) -> Bool {
        let session = connection.session
        guard session.mayAnswer else { return true }
        let limit = session.loop.limits.maximumWatchBacklogBytes
        // What the network has not taken is known to be little until as much was sent since: asking it costs more than most events. Half, for
        // what encryption adds.
        let sent = session.sentBytes
        guard self.unsent.bytes + (sent - self.unsent.after) > limit / 2 else { return false }
        self.unsent = (session.unsentBytes, sent)
        return self.unsent.bytes > limit
    }

    // MARK: As it happens

    /// Commits changed something that `watcher` watches.
    ///
    /// - Parameter isLast: This turn has nothing more for the watches of its topic.
    func deliver(_ messages: inout ChangesMessages, to watcher: Watcher, isLast: Bool) {
        guard let connection = self.connection, let revisions = messages.revisions else { return }
        let session = connection.session
        switch watcher.machine.changesCommitted(at: revisions, isBackedUp: self.isBackedUp(connection), now: session.loop.now) {
        case .skip: break
        case .lag: self.lag(watcher, session)
        case .send(let told):
            messages.address(to: watcher.id)
            guard told < revisions.lowerBound else {
                let rest = messages.behind(told)
                session.send(frames: rest.bytes)
                session.loop.counters.watchEventsSent &+= UInt64(rest.count)
                return
            }
            session.loop.counters.watchEventsSent &+= UInt64(messages.count)
            // Nothing follows: the first watcher need not wait until all have theirs.
            if isLast, self.count == 1 {
                session.sendNow(frames: messages.bytes, isWithOthers: true)
            } else {
                session.send(frames: messages.bytes)
            }
        }
    }

    /// The same for changes of one revision that are better not copied, or that fit into no message.
    ///
    /// - Parameter events: nil where it fits into no message.
    func deliver(_ revision: UInt64, _ events: [ChangesEvent]?, in bytes: ByteBuffer, to watcher: Watcher) {
        guard let connection = self.connection else { return }
        let isBackedUp = self.isBackedUp(connection)
        switch watcher.machine.changesCommitted(at: revision...revision, isBackedUp: isBackedUp, now: connection.session.loop.now) {
        case .skip: break
        case .send: self.send(events, in: bytes, to: watcher, connection)
        case .lag: self.lag(watcher, connection.session)
        }
    }

    private func lag(_ watcher: Watcher, _ session: SessionHandler) {
        session.loop.counters.watchesLagged &+= 1
        self.enqueue(watcher)
    }

    private func send(_ events: [ChangesEvent]?, in bytes: ByteBuffer, to watcher: Watcher, _ connection: Connection) {
        guard let events else { return self.end(watcher, .tooBigToTell(connection.session.loop.limits.maximumMessageBytes)) }
        for event in events { Self.send(event, in: bytes, to: watcher.id, connection.session) }
        connection.session.loop.counters.watchEventsSent &+= UInt64(events.count)
        watcher.machine.sent(at: connection.session.loop.now)
    }

    private static func send(_ event: ChangesEvent, in bytes: ByteBuffer, to id: RequestID, _ session: SessionHandler) {
        let slices = event.runs.compactMap { bytes.getSlice(at: $0.lowerBound, length: $0.count) }
        if Self.isShared(event) {
            session.sendShared(.binary, headBytes: event.frameBytes - event.byteCount, then: slices) { event.writeHead(id, to: &$0) }
        } else {
            session.send(.binary, expectedBytes: event.frameBytes) { buffer in
                event.writeHead(id, to: &buffer)
                for slice in slices { buffer.writeImmutableBuffer(slice) }
            }
        }
    }

    func send(_ event: some NativeRecord, _ kind: NativeEventKind, _ id: RequestID) {
        guard let session = self.connection?.session else { return }
        session.send(.binary, expectedBytes: 64) { NativeFrame.write(event: event, kind, id: id, to: &$0) }
        session.loop.counters.watchEventsSent &+= 1
    }

    // MARK: Turns

    /// It has something to read.
    func enqueue(_ watcher: Watcher) {
        guard !watcher.isQueued else { return }
        watcher.isQueued = true
        self.queue.append(watcher)
        self.enqueueIfQueued()
    }

    func enqueueIfQueued() {
        guard !self.queue.isEmpty, !self.isEnqueued, !self.isAwaitingNetwork, let loop = self.connection?.watches else { return }
        self.isEnqueued = true
        loop.enqueue(self)
    }

    /// Reads a page for the watch whose turn it is. Called by ``WatchLoop``, in turn with other connections.
    func read() {
        self.isEnqueued = false
        guard let connection = self.connection, connection.session.isOpen else { return }
        guard !self.isBackedUp(connection) else { return self.awaitNetwork(connection) }
        while let watcher = self.queue.popFirst() {
            watcher.isQueued = false
            guard !watcher.hasEnded else { continue }
            self.readPage(watcher, connection)
            break
        }
        self.enqueueIfQueued()
    }

    private func awaitNetwork(_ connection: Connection) {
        guard !self.isAwaitingNetwork else { return }
        self.isAwaitingNetwork = true
        connection.session.whenTaken {
            self.isAwaitingNetwork = false
            self.lastTaken = connection.session.loop.now
            self.enqueueIfQueued()
        }
    }

    private func readPage(_ watcher: Watcher, _ connection: Connection) {
        guard let loop = connection.watches else { return }
        do throws(StorageError) {
            switch watcher.machine.next(frontier: loop.frontier) {
            case .readState: try self.readState(watcher, connection, loop)
            case .readHistory(let after): try self.readHistory(after, watcher, connection, loop)
            case let step: self.act(on: step, watcher, connection)
            }
        } catch {
            self.sourceFailed(error, watcher, loop)
        }
        self.settle(watcher)
    }

    /// Does what needs no reading, and has the rest wait for its turn.
    func settle(_ watcher: Watcher) {
        guard let connection = self.connection, let loop = connection.watches else { return }
        while true {
            switch watcher.machine.next(frontier: loop.frontier) {
            case .wait: return
            case .readState, .readHistory: return self.enqueue(watcher)
            case let step: self.act(on: step, watcher, connection)
            }
        }
    }

    private func act(on step: WatcherStateMachine.Step, _ watcher: Watcher, _ connection: Connection) {
        switch step {
        case .wait, .readState, .readHistory: break
        case .sendSynced(let revision): self.sendSynced(watcher, revision)
        case .answerProgress(let id, let revision):
            var progress = NativeProgress()
            progress.revision = Int64(clamping: revision)
            self.reply(NativeProgressRequest.self, progress, id)
            connection.session.requestEnded()
        }
    }

    private func sendSynced(_ watcher: Watcher, _ revision: UInt64) {
        var synced = NativeSynced()
        synced.revision = Int64(clamping: revision)
        self.send(synced, .synced, watcher.id)
    }

    // MARK: History

    private func readHistory(
        _ after: UInt64, _ watcher: Watcher, _ connection: Connection, _ loop: WatchLoop
    ) throws(StorageError) {
        let page = try loop.history(after: Revision(after))
        var isSent = false
        try loop.withMessages(of: page, for: watcher.topic) { messages in
            messages?.address(to: watcher.id)
            guard let messages else { return }
            isSent = true
            guard messages.count > 0 else { return }
            // It may bring a request that has the loop take more from its mailbox: see below.
            connection.session.sendNow(frames: messages.bytes)
            connection.session.loop.counters.watchEventsSent &+= UInt64(messages.count)
            watcher.machine.sent(at: connection.session.loop.now)
        }
        if !isSent { try self.sendEach(of: page, watcher, connection, loop) }
        watcher.machine.historyRead(
            upTo: page.lastRevision.number, isEnd: page.lastRevision == page.storeRevision, leastLive: loop.leastLive)
        loop.loop.worked(WatchLoop.pageBytes)
    }

    /// Up to a change that fits into no message: with that the watch ends.
    private func sendEach(of page: HistoryPage, _ watcher: Watcher, _ connection: Connection, _ loop: WatchLoop) throws(StorageError) {
        let maximumBytes = loop.loop.limits.maximumMessageBytes
        var failure: StorageError?
        page.forEachRevision { revision, changes in
            guard failure == nil, !watcher.hasEnded else { return }
            do throws(StorageError) {
                var encoded = EncodedChanges()
                let runs = try changes.runs(for: watcher.topic.topic, revision, encodedTo: &encoded)
                guard runs.byteCount > 0, watcher.machine.revisionToldFromHistory(revision.number) else { return }
                self.send(
                    ChangesEvent.events(of: runs, in: encoded.bytes, maximumBytes: maximumBytes), in: encoded.bytes, to: watcher, connection
                )
            } catch {
                failure = error
            }
        }
        if let failure { throw failure }
    }

    // MARK: State

    private func readState(_ watcher: Watcher, _ connection: Connection, _ loop: WatchLoop) throws(StorageError) {
        guard let state = watcher.state else { return }
        var rest = state.rest
        var writer = StatePageWriter(
            on: loop.loop, revision: watcher.machine.position, isWithoutValues: watcher.topic.topic.isWithoutValues,
            maximumBytes: loop.loop.limits.maximumMessageBytes)
        while let range = rest.first, writer.byteCount < WatchLoop.pageBytes {
            var last: [UInt8]?
            try unsafe state.snapshot.scan(range) { key, stored in
                guard writer.byteCount < WatchLoop.pageBytes else {
                    last = writer.lastKey
                    return false
                }
                unsafe writer.append(key, stored)
                return true
            }
            guard let last else {
                rest.removeFirst()
                continue
            }
            rest[rest.startIndex] = range.following(last, .forward)
        }
        guard let events = writer.finish() else { return self.end(watcher, .tooBigToTell(loop.loop.limits.maximumMessageBytes)) }
        for fields in events {
            connection.session.send(.binary, expectedBytes: fields.readableBytes) { buffer in
                NativeFrame.write(.event, kind: NativeEventKind.state.rawValue, id: watcher.id, to: &buffer) {
                    $0.writeImmutableBuffer(fields)
                }
            }
        }
        loop.loop.counters.watchEventsSent &+= UInt64(events.count)
        watcher.machine.sent(at: loop.loop.now)
        watcher.moveState(to: rest, at: loop.loop.now)
        if case .sendSynced(let revision) = watcher.machine.statePageSent(isLast: rest.isEmpty) {
            watcher.endState()
            self.sendSynced(watcher, revision)
        }
    }

    /// What a watch reads from cannot be read, or is not there any more.
    private func sourceFailed(_ error: StorageError, _ watcher: Watcher, _ loop: WatchLoop) {
        guard error.code == .compacted || error.code == .snapshotLost else {
            return self.end(watcher, NativeFailure(watching: error))
        }
        loop.forgetSnapshot()
        switch watcher.machine.sourceLost() {
        case .nothing: return
        case .end(let code):
            if code == .watchOverflowed { loop.loop.counters.watchesOverflowed &+= 1 }
            self.end(watcher, NativeFailure(code, "\(error)", remedy: "read afresh, then watch anew"))
        case .resync: self.resync(watcher, error.found, loop)
        }
    }

    private func resync(_ watcher: Watcher, _ reason: String, _ loop: WatchLoop) {
        do throws(StorageError) {
            let snapshot = try loop.snapshot()
            watcher.machine.resynced(at: snapshot.revision.number)
            watcher.beginState(snapshot, at: loop.loop.now)
            self.sendResync(watcher, reason, loop)
        } catch {
            self.end(watcher, NativeFailure(watching: error))
        }
    }

    func sendResync(_ watcher: Watcher, _ reason: String, _ loop: WatchLoop) {
        loop.loop.counters.watchesResynced &+= 1
        var event = NativeResync()
        event.reason = reason
        event.revision = Int64(clamping: watcher.machine.position)
        event.incarnation = ByteBuffer(integer: loop.storage.incarnation.number)
        self.send(event, .resync, watcher.id)
    }
}

extension NativeFailure {
    static func compacted(_ after: UInt64, _ storage: Storage) -> NativeFailure {
        NativeFailure(
            .compacted, "the history behind revision \(after) has been forgotten: it begins behind \(storage.compactedRevision)",
            remedy: "read afresh; or watch with state, which is sent then")
    }

    static func ahead(_ after: UInt64, _ storage: Storage) -> NativeFailure {
        NativeFailure(
            .compacted, "there is no history behind revision \(after): the store is at \(storage.revision)",
            remedy: "read afresh; or watch with state, which is sent then")
    }

    fileprivate static func tooBigToTell(_ maximumBytes: Int) -> NativeFailure {
        NativeFailure(
            .answerTooBig, "a single key and its value are over the message limit of \(maximumBytes) bytes", remedy: "watch without values")
    }

    /// Why the store cannot be read for a watch.
    init(watching error: StorageError) {
        switch error.code {
        case .compacted: self.init(.compacted, "\(error)", remedy: "read afresh, then watch anew")
        case .closed: self.init(.unavailable, "the store is closed", isRetryable: true)
        default: self.init(.storageFailure, "the store cannot be read", remedy: "see the server's log", isRetryable: true)
        }
    }
}
