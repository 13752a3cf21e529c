internal import DequeModule
internal import Logging
internal import MWProtocol
internal import MWStorage
internal import MWWebSocket
internal import NIOCore

/// One client that speaks mwDB's protocol: requests to storage, outcomes to replies, and when it may be told to reload.
///
/// Order: replies find their requests by id, and may overtake each other. What is promised: a get sees every write that the same client sent
/// before it, acknowledged or not. A get waits for these writes if they may concern its keys; a write waits for nothing, so that many share a
/// commit.
final class MWDBSession: SessionDelegate, PendingRequestOwner {
    private let storage: StorageLoop

    /// Writes handed to storage, and those of them whose outcome came; outcomes come in order.
    private var writesSubmitted: UInt64 = 0
    private var writesEnded: UInt64 = 0
    private var touched = TouchedKeys()
    private var waitingGets = Deque<WaitingGet>()
    private var waitingGetBytes = 0
    private var isAnsweringWaitingGets = false
    private var hasUnflushedWrites = false

    private var hasAnsweredFirst = false
    /// Requests with id 0 that are not answered: the original client would take a FORCE_RELOAD for their answer.
    private var zeroInFlight = 0
    private var deferredReloads: [DeferredReload] = []
    private var deferredReloadBytes = 0

    private var nextFailureLog: NIODeadline?
    private var unloggedFailures = 0

    private struct WaitingGet {
        let keys: MWDBElements
        let id: RequestID
        /// Answered once so many writes have ended.
        let after: UInt64
    }

    private struct DeferredReload {
        let batch: ReloadBatch
        /// The client's own requests in it.
        let own: [Int]
        /// Whose `batch` is.
        let grants: AccessGrants
    }

    /// Between two log lines about failed requests of one connection: a full disk must not fill another with logs.
    private static let failureLogInterval = TimeAmount.seconds(1)

    init(on storage: StorageLoop) { self.storage = storage }

    // MARK: Requests

    func messageReceived(_ opcode: MessageOpcode, _ payload: ByteBuffer, in session: SessionHandler) {
        guard opcode == .binary else {
            return session.close(.unsupportedMessage, CloseCode.unsupportedData.rawValue, "mwDB's protocol has binary messages only")
        }
        let request: MWDBRequest
        do throws(ProtocolError) {
            request = try MWDBRequest(message: payload)
        } catch {
            return self.refused(error, in: session)
        }
        session.countRequest()
        let limit = session.loop.limits.maximumKeysPerRequest
        guard !request.hasMoreKeys(than: limit) else {
            self.logFailure("more than \(limit) keys in one request", in: session)
            return session.close(
                .tooManyKeys, CloseCode.messageTooBig.rawValue, "a request has at most \(limit) keys: split it")
        }
        guard self.isAllowed(request, in: session) else { return }
        switch request {
        case .get(let keys, let id): self.get(keys, id, in: session)
        case .put(let pairs, let id): self.put(pairs, id, in: session)
        case .remove(let keys, let id): self.remove(keys, id, in: session)
        case .prefix(let id): self.allocatePrefix(id, in: session)
        }
    }

    private func refused(_ error: ProtocolError, in session: SessionHandler) {
        self.logFailure("\(error)", in: session)
        guard let failed = error.failedRequest else {
            return session.close(.unsupportedMessage, error.closeCode, error.closeReason)
        }
        self.answer(failed.type, isDone: false, failed.id, in: session)
    }

    // MARK: Rights

    /// Whether a request may go on: all of it or nothing. One that may not has been answered, before storage knows of it.
    private func isAllowed(_ request: MWDBRequest, in session: SessionHandler) -> Bool {
        let grants = session.grants
        switch request {
        case .get(let keys, let id):
            guard let key = Self.denied(.read, keys, to: grants) else { return true }
            self.deny(.read, key, request.type, id, in: session)
        case .put(let pairs, let id):
            guard let key = Self.denied(.write, pairs, to: grants) else { return true }
            self.deny(.write, key, request.type, id, in: session)
        case .remove(let keys, let id):
            guard let key = Self.denied(.write, keys, to: grants) else { return true }
            self.deny(.write, key, request.type, id, in: session)
        case .prefix(let id):
            // The original client asks for one whenever it connects, whatever it does then.
            guard grants.somewhere.isDisjoint(with: [.read, .write]) else { return true }
            self.deny(.write, nil, request.type, id, in: session)
        }
        return false
    }

    /// The first of `keys` without `right`.
    private static func denied(_ right: AccessRight, _ keys: MWDBElements, to grants: AccessGrants) -> [UInt8]? {
        guard !grants.everywhere.contains(right) else { return nil }
        var denied: [UInt8]?
        unsafe keys.forEach { key in
            if denied == nil, unsafe !grants.allows(right, key) { denied = unsafe Array(key) }
        }
        return denied
    }

    private static func denied(_ right: AccessRight, _ pairs: MWDBPairs, to grants: AccessGrants) -> [UInt8]? {
        guard !grants.everywhere.contains(right) else { return nil }
        var denied: [UInt8]?
        unsafe pairs.forEach { key, _ in
            if denied == nil, unsafe !grants.allows(right, key) { denied = unsafe Array(key) }
        }
        return denied
    }

    /// Answers as failed what has an answer for that. A get has none: an empty value would say that there is nothing, and a client that
    /// believes it may put over what it cannot see.
    private func deny(_ right: AccessRight, _ key: [UInt8]?, _ type: MWDBRequestType, _ id: RequestID, in session: SessionHandler) {
        session.loop.counters.deniedRequests &+= 1
        session.loop.audit.record(.requestDenied(session.info, DeniedRequest(operation: "\(type)", right: right.rawValue, key: key)))
        let which = key.map { "over the key '\(PolicyText.escaped($0))'" } ?? "over any key"
        self.logFailure("denied: \(type) without the right \(right.rawValue) \(which)", in: session)
        switch type {
        case .put: self.answer(.put, isDone: false, id, in: session)
        case .remove: self.answer(.remove, isDone: false, id, in: session)
        case .get, .prefix:
            session.loop.counters.failedRequests &+= 1
            session.close(
                .requestDenied, session.loop.closeCodes.refused,
                "request \(id) denied: \(type) without the right \(right.rawValue)\(key == nil ? "" : " over all of its keys")")
        }
    }

    /// Gets that wait were judged by rules that are gone.
    func principalChanged(in session: SessionHandler) {
        let grants = session.grants
        for get in self.waitingGets {
            guard let key = Self.denied(.read, get.keys, to: grants) else { continue }
            return self.deny(.read, key, .get, get.id, in: session)
        }
    }

    // MARK: Requests that may

    private func get(_ keys: MWDBElements, _ id: RequestID, in session: SessionHandler) {
        self.storage.loop.counters.getRequests &+= 1
        guard self.writesEnded == self.writesSubmitted || !self.mayBeTouched(keys) else {
            // A copy: the slice would hold everything that came in the same read.
            let copy = MWDBElements(bytes: ByteBuffer(bytes: keys.bytes.readableBytesView))
            self.waitingGets.append(WaitingGet(keys: copy, id: id, after: self.writesSubmitted))
            self.waitingGetBytes += copy.bytes.readableBytes
            self.started(id, in: session)
            if self.waitingGetBytes > session.loop.limits.maximumMessageBytes { session.hold(.waitingGets) }
            return
        }
        if !self.answerOnlyKey(keys, id, in: session) { self.answerGet(keys, id, in: session) }
        self.answered(in: session)
    }

    private func mayBeTouched(_ keys: MWDBElements) -> Bool {
        var isTouched = false
        unsafe keys.forEach { key in if unsafe self.touched.mayContain(key) { isTouched = true } }
        return isTouched
    }

    private func put(_ pairs: MWDBPairs, _ id: RequestID, in session: SessionHandler) {
        self.storage.loop.counters.putRequests &+= 1
        guard !pairs.isEmpty else { return self.answer(.put, isDone: true, id, in: session) }
        self.write(.put, id, in: session) { (batch) throws(StorageError) in
            var failure: StorageError?
            unsafe pairs.forEach { key, value in
                guard failure == nil else { return }
                unsafe self.touched.insert(key)
                do throws(StorageError) { try unsafe batch.put(key: key, value: value) } catch { failure = error }
            }
            if let failure { throw failure }
        }
    }

    private func remove(_ keys: MWDBElements, _ id: RequestID, in session: SessionHandler) {
        self.storage.loop.counters.removeRequests &+= 1
        guard keys.bytes.readableBytes > 0 else { return self.answer(.remove, isDone: true, id, in: session) }
        self.write(.remove, id, in: session) { (batch) throws(StorageError) in
            var failure: StorageError?
            unsafe keys.forEach { key in
                guard failure == nil else { return }
                unsafe self.touched.insert(key)
                do throws(StorageError) { try unsafe batch.remove(key: key) } catch { failure = error }
            }
            if let failure { throw failure }
        }
    }

    private func write(
        _ type: MWDBReplyType, _ id: RequestID, in session: SessionHandler,
        _ body: (inout WriteBatch) throws(StorageError) -> Void
    ) {
        do throws(StorageError) {
            try self.storage.submit(PendingRequest(self, session, .mwdb(type), id), body)
        } catch {
            self.logFailure("\(error)", in: session)
            return self.answer(type, isDone: false, id, in: session)
        }
        self.writesSubmitted &+= 1
        self.hasUnflushedWrites = true
        self.started(id, in: session)
    }

    private func allocatePrefix(_ id: RequestID, in session: SessionHandler) {
        self.storage.loop.counters.prefixRequests &+= 1
        do throws(StorageError) {
            try self.storage.allocatePrefix(PendingRequest(self, session, .mwdb(.prefix), id))
            self.hasUnflushedWrites = true
            self.started(id, in: session)
        } catch {
            self.failed(error, in: session)
        }
    }

    func readBurstEnded(in session: SessionHandler) {
        guard self.hasUnflushedWrites else { return }
        self.hasUnflushedWrites = false
        // Outcomes are under way, so there will be a moment to go on.
        if self.storage.isCongested { self.storage.holdUntilUncongested(session) }
    }

    func sessionEnded(_ session: SessionHandler) {
        self.waitingGets = []
        self.waitingGetBytes = 0
        self.deferredReloads = []
        self.storage.sessionEnded()
    }

    // MARK: Outcomes

    /// What storage made of a request that this session had handed to it.
    func requestEnded(_ request: PendingRequest, _ result: CommitOutcome.Result) {
        guard case .mwdb(let type) = request.kind else { preconditionFailure("this session speaks mwDB's protocol") }
        let (id, session) = (request.id, request.session)
        switch result {
        case .written: self.sendOutcome(type, isDone: true, id, in: session)
        case .prefix(let prefix, _): session.send(.binary, expectedBytes: 32) { MWDBReply.writePrefix(prefix, id: id, to: &$0) }
        case .transaction, .session, .done, .lease, .compacted: preconditionFailure("not an outcome of what this protocol asks for")
        case .failed(let error) where type == .prefix: self.failed(error, in: session)
        case .failed(let error):
            self.logFailure("\(error)", in: session)
            self.sendOutcome(type, isDone: false, id, in: session)
        }
        if type != .prefix {
            self.writesEnded &+= 1
            if self.writesEnded == self.writesSubmitted { self.touched.removeAll() }
        }
        self.ended(id, in: session)
        self.answerWaitingGets(in: session)
        self.answered(in: session)
    }

    func mayGoOn(in session: SessionHandler) {
        let waiting = self.waitingGets.count
        guard waiting > 0 else { return }
        self.answerWaitingGets(in: session)
        if self.waitingGets.count < waiting { self.answered(in: session) }
    }

    /// As many as the network takes: a thousand small requests may ask for a thousand large answers.
    private func answerWaitingGets(in session: SessionHandler) {
        // A flush may bring us here again.
        guard !self.isAnsweringWaitingGets else { return }
        self.isAnsweringWaitingGets = true
        while session.mayAnswer, let get = self.waitingGets.first, get.after <= self.writesEnded {
            self.waitingGets.removeFirst()
            self.waitingGetBytes -= get.keys.bytes.readableBytes
            self.answerGet(get.keys, get.id, in: session)
            self.ended(get.id, in: session)
            session.flushIfLarge()
        }
        self.isAnsweringWaitingGets = false
        if self.waitingGetBytes <= session.loop.limits.maximumMessageBytes { session.release(.waitingGets) }
    }

    // MARK: Replies

    /// Answers a get of one key, the hot path: its value goes from where it lies into the outbound buffer, with all that is around it.
    ///
    /// - Returns: false if there is more than one key, or something in the way; nothing was written then.
    private func answerOnlyKey(_ keys: MWDBElements, _ id: RequestID, in session: SessionHandler) -> Bool {
        let loop = session.loop
        let maximumBytes = loop.limits.maximumMessageBytes
        var isAnswered = false
        _ = unsafe keys.withOnlyElement { key in
            try? unsafe self.storage.storage.read(key) { stored in
                let value = unsafe stored?.bytes
                let byteCount = unsafe MWDBReply.byteCount(valueBytes: value?.count ?? 0, id: id)
                if let value = unsafe value, unsafe byteCount > maximumBytes || !Self.canSay(value, loop) { return }
                if let value = unsafe value, byteCount > SessionHandler.maximumBytesAtOnce {
                    var tail = ByteBuffer()
                    MWDBReply.writeGetTrailer(id: id, to: &tail)
                    unsafe session.sendLarge(ByteBuffer(), value, tail)
                    return isAnswered = true
                }
                unsafe session.send(.binary, payloadBytes: byteCount) { bytes in
                    if let value = unsafe value { unsafe loop.copy(value, to: bytes) }
                    unsafe MWDBReply.writeGetTrailer(id: id, behind: value?.count ?? 0, in: bytes)
                }
                isAnswered = true
            }
        }
        if isAnswered { session.loop.counters.keysRead &+= 1 }
        return isAnswered
    }

    @inline(__always)
    private static func canSay(_ value: UnsafeRawBufferPointer, _ loop: SessionLoop) -> Bool {
        guard value.count > ProcessorTurns.bytesPerLook else { return unsafe MWDBReply.canSay(value) }
        var canSay = true
        loop.inParts(value.count) { part in
            canSay = unsafe canSay && MWDBReply.canSay(UnsafeRawBufferPointer(rebasing: value[part]))
        }
        return canSay
    }

    /// Reads every key where it is, straight into the outbound buffer.
    private func answerGet(_ keys: MWDBElements, _ id: RequestID, in session: SessionHandler) {
        let storage = self.storage.storage
        let maximumBytes = session.loop.limits.maximumMessageBytes
        var keysRead: UInt64 = 0
        do throws(GetFailure) {
            try session.send(.binary) { (buffer) throws(GetFailure) in
                let start = buffer.writerIndex
                var failure: GetFailure?
                unsafe keys.forEach { key in
                    guard failure == nil else { return }
                    let keyStart = buffer.writerIndex
                    do throws(StorageError) {
                        try unsafe storage.read(key) { stored in
                            do throws(ProtocolError) {
                                try unsafe MWDBReply.writeValue(stored?.bytes, isFirst: keysRead == 0, to: &buffer)
                            } catch {
                                failure = .message(error)
                            }
                        }
                    } catch {
                        failure = .storage(error)
                    }
                    keysRead += 1
                    session.loop.passedEntry(of: buffer.writerIndex - keyStart)
                    if buffer.writerIndex - start > maximumBytes { failure = .tooBig(maximumBytes) }
                }
                if let failure { throw failure }
                MWDBReply.writeGetTrailer(id: id, to: &buffer)
            }
            session.loop.counters.keysRead &+= keysRead
        } catch {
            switch error {
            case .storage(let error): self.failed(error, in: session)
            case .message(let error):
                self.logFailure("\(error)", in: session)
                session.close(.storageFailure, error.closeCode, error.closeReason)
            case .tooBig(let limit):
                session.close(
                    .answerTooBig, CloseCode.messageTooBig.rawValue,
                    "the answer to request \(id) is over \(limit) bytes: ask for fewer keys")
            }
        }
    }

    private enum GetFailure: Error {
        case storage(StorageError)
        case message(ProtocolError)
        case tooBig(Int)
    }

    private func sendOutcome(_ type: MWDBReplyType, isDone: Bool, _ id: RequestID, in session: SessionHandler) {
        if !isDone { session.loop.counters.failedRequests &+= 1 }
        session.send(.binary, expectedBytes: 32) { MWDBReply.writeOutcome(type, isDone: isDone, id: id, to: &$0) }
    }

    /// Answers a request at once.
    private func answer(_ type: MWDBReplyType, isDone: Bool, _ id: RequestID, in session: SessionHandler) {
        self.sendOutcome(type, isDone: isDone, id, in: session)
        self.answered(in: session)
    }

    /// There is no answer in this protocol for a request that failed here.
    private func failed(_ error: StorageError, in session: SessionHandler) {
        session.loop.counters.failedRequests &+= 1
        // It ends the connection, so its line is not one of many.
        if session.isOpen { self.nextFailureLog = nil }
        self.logFailure("\(error)", in: session)
        // Paths and what the engine said are for our log, not for the peer.
        session.close(.storageFailure, session.loop.closeCodes.storageFailure, "storage.\(error.code)")
    }

    private func started(_ id: RequestID, in session: SessionHandler) {
        if id == .zero { self.zeroInFlight += 1 }
        session.requestStarted()
    }

    private func ended(_ id: RequestID, in session: SessionHandler) {
        if id == .zero { self.zeroInFlight -= 1 }
        session.requestEnded()
    }

    /// An answer has been written: what had to wait for it follows.
    private func answered(in session: SessionHandler) {
        self.hasAnsweredFirst = true
        guard self.deferredReloadBytes > 0, self.zeroInFlight == 0 else { return }
        let deferred = self.deferredReloads
        self.deferredReloads = []
        self.deferredReloadBytes = 0
        let grants = session.info.principal.grants
        for reload in deferred {
            // Rules may have changed since.
            let batch = reload.grants === grants ? reload.batch : reload.batch.visible(to: grants)
            batch.forEachSlice(without: reload.own) { session.sendShared(frames: $0) }
        }
    }

    // MARK: FORCE_RELOAD

    /// Clients put something, in one commit: tells this one, at once or as soon as it cannot mistake it for an answer.
    ///
    /// - Parameters:
    ///   - batch: What the client's principal may see of it.
    ///   - own: Which of its requests are the client's own, which it is not told of.
    func reload(_ batch: ReloadBatch, without own: [Int], in session: SessionHandler) {
        guard session.isOpen else { return }
        // What it has not taken before these: one large commit is no fault of those that watch.
        let backlog = session.unsentBytes + self.deferredReloadBytes
        guard backlog <= session.loop.limits.maximumUnsentBytes else {
            self.deferredReloads = []
            self.deferredReloadBytes = 0
            // A client that has read nothing yet holds nothing that could be old: what it reads first is newer than all of these.
            guard self.hasAnsweredFirst else { return }
            return session.closeAsSlowReader("over \(session.loop.limits.maximumUnsentBytes) bytes of changes are not taken")
        }
        if self.hasAnsweredFirst && self.zeroInFlight == 0 {
            batch.forEachSlice(without: own) { frames in
                session.loop.counters.forceReloadsSent &+= 1
                session.sendShared(frames: frames)
            }
            return
        }
        let byteCount = batch.byteCount(without: own)
        guard byteCount > 0 else { return }
        session.loop.counters.forceReloadsDeferred &+= 1
        self.deferredReloads.append(DeferredReload(batch: batch, own: own, grants: session.info.principal.grants))
        self.deferredReloadBytes += byteCount
    }

    // MARK: Log

    private func logFailure(_ reason: String, in session: SessionHandler) {
        let now = session.loop.now
        if let next = self.nextFailureLog, now < next {
            self.unloggedFailures += 1
            return
        }
        session.loop.log(
            session.info, level: .warning, "request failed", ["reason": "\(reason)", "unlogged": "\(self.unloggedFailures)"])
        self.unloggedFailures = 0
        self.nextFailureLog = now + Self.failureLogInterval
    }
}

extension MWDBRequest {
    /// Stops counting at `limit`, and does not begin where there are too few bytes: an element has its separator, or one byte.
    fileprivate func hasMoreKeys(than limit: Int) -> Bool {
        switch self {
        case .get(let keys, _), .remove(let keys, _): keys.bytes.readableBytes > limit && keys.isLonger(than: limit)
        case .put(let pairs, _): pairs.bytes.readableBytes > limit && pairs.isLonger(than: limit)
        case .prefix: false
        }
    }
}

// Apart from what every request asks: here there is a counter on the heap.

extension MWDBElements {
    @inline(never)
    fileprivate func isLonger(than limit: Int) -> Bool {
        var count = 0
        return (try? unsafe self.forEach { _ in try count.grow(to: limit) }) == nil
    }
}

extension MWDBPairs {
    @inline(never)
    fileprivate func isLonger(than limit: Int) -> Bool {
        var count = 0
        return (try? unsafe self.forEach { _, _ in try count.grow(to: limit) }) == nil
    }
}

extension Int {
    private struct Exceeded: Error {}

    /// Adds one; throws beyond `limit`.
    fileprivate mutating func grow(to limit: Int) throws {
        self += 1
        if self > limit { throw Exceeded() }
    }
}
