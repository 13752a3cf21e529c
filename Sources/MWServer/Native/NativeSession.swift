internal import Logging
internal import MWPKI
internal import MWProtocol
internal import MWStorage
package import MWWebSocket
package import NIOCore

/// The native protocol of one connection. Its frames are drawn in MWProtocol, in NativeFrame.swift.
///
///     message ─▶ frame ─▶ by kind ─▶ may it? ─▶ read ─┬─▶ answered at once
///                  ▲                  └─ failure      └─▶ on its way; its future brings the answer back to the loop
///                  └── the next, as far as the network and the limits go
///
/// What cannot be found its end closes the connection; every request that has an end has an answer.
package final class NativeSession: SessionDelegate {
    let administration: (any AdministrationService)?
    /// The store's side of this event loop.
    let storage: StorageLoop?
    /// What the connection watches, and what it is told unasked.
    let watches = NativeWatches()
    var administrationsInFlight = 0
    var snapshots = NativeSnapshots()
    /// Writes were handed to storage since it was asked whether it keeps up.
    var hasUnflushedWrites = false
    /// What of the last message is still to be taken.
    private var rest: ByteBuffer?
    private var isTaking = false
    /// Others have their turn before the next request is taken.
    private var isPausing = false

    /// How long the requests of one message may keep the loop from everything else, but for the one that is under way.
    var turnTime = TimeAmount.milliseconds(2)
    /// Requests between two looks at the clock.
    private static let requestsPerLook = 8
    /// A client that fails all the time must not fill a disk with logs.
    private var lines = EventBudget(burst: 1, perSecond: 1)

    /// - Parameters:
    ///   - administration: Without one, every request of an administrator is answered as not set up.
    ///   - storage: Without one, so is every request for data.
    package init(administration: (any AdministrationService)?, storage: StorageLoop? = nil) {
        self.administration = administration
        self.storage = storage
    }

    // MARK: Messages

    package func messageReceived(_ opcode: MessageOpcode, _ payload: ByteBuffer, in session: SessionHandler) {
        guard opcode == .binary else {
            return session.close(
                .unsupportedMessage, CloseCode.unsupportedData.rawValue, "\(nativeSubprotocol) has binary messages only")
        }
        if self.rest == nil, !self.isTaking, !self.isPausing, self.answerOnlyGet(payload, in: session) { return }
        self.rest = payload
        self.takeRequests(in: session)
    }

    package func readBurstEnded(in session: SessionHandler) {
        self.takeRequests(in: session)
        self.watches.readBurstEnded(of: self, in: session)
    }

    package func mayGoOn(in session: SessionHandler) {
        self.takeRequests(in: session)
        self.watches.mayGoOn(of: self, in: session)
    }

    package func principalChanged(in session: SessionHandler) { self.watches.principalChanged(of: self, in: session) }

    package func drainBegan(in session: SessionHandler) { self.watches.drainBegan() }

    package func sessionEnded(_ session: SessionHandler) {
        self.rest = nil
        self.snapshots.removeAll()
        self.watches.sessionEnded(session)
    }

    /// About twice a second.
    func ticked(_ now: NIODeadline, in session: SessionHandler) {
        self.snapshots.removeIdle(since: now - TimeAmount(session.loop.limits.snapshotLifetime))
        self.watches.ticked(now, of: self, in: session)
    }

    func takeRequests(in session: SessionHandler) {
        // A flush may bring us here again.
        guard !self.isTaking, !self.isPausing, self.rest != nil else { return }
        self.isTaking = true
        // Asked for when there is a second request: most messages have one.
        var end: NIODeadline?
        var count = 0
        while session.mayTakeNext, self.takeRequest(in: session) {
            guard self.rest != nil else { break }
            count += 1
            guard count == 1 || count % Self.requestsPerLook == 0 else { continue }
            let now = session.loop.eventLoop.now
            guard let turnEnd = end else {
                end = now + self.turnTime
                continue
            }
            guard now >= turnEnd else { continue }
            self.pause(session)
            break
        }
        self.isTaking = false
        if self.hasUnflushedWrites, let storage = self.storage {
            self.hasUnflushedWrites = false
            // Outcomes are under way, so there will be a moment to go on.
            if storage.isCongested { storage.holdUntilUncongested(session) }
        }
        if self.rest == nil { session.release(.unfinishedMessage) } else { session.hold(.unfinishedMessage) }
    }

    /// Goes on after everybody else had a turn.
    private func pause(_ session: SessionHandler) {
        self.isPausing = true
        session.loop.afterOthers {
            self.isPausing = false
            self.takeRequests(in: session)
        }
    }

    /// - Returns: false when there is none.
    private func takeRequest(in session: SessionHandler) -> Bool {
        guard var message = self.rest else { return false }
        // Nobody else may hold the message while its slices are made.
        self.rest = nil
        do throws(ProtocolError) {
            guard let frame = try NativeFrame(readingFrom: &message) else { return false }
            guard frame.role == .request else {
                throw ProtocolError(.unknownType, "frame", expected: "a request", found: "a \(frame.role)")
            }
            self.rest = message.readableBytes > 0 ? message : nil
            session.countRequest()
            self.handle(frame, in: session)
            return true
        } catch {
            self.log("\(error)", in: session)
            session.close(.protocolViolation, error.closeCode, error.closeReason)
            return false
        }
    }

    // MARK: Requests

    // Plain integers, to compare with: most requests are one of these.
    private static let getKind = NativeRequestKind.get.rawValue
    private static let putKind = NativeRequestKind.put.rawValue

    @inline(__always)
    private func handle(_ frame: NativeFrame, in session: SessionHandler) {
        if frame.kind == Self.getKind {
            self.get(frame, in: session)
        } else if frame.kind == Self.putKind {
            self.put(frame, in: session)
        } else {
            self.handleOther(frame, in: session)
        }
    }

    private func handleOther(_ frame: NativeFrame, in session: SessionHandler) {
        switch NativeRequestKind(rawValue: frame.kind) {
        case .hello: self.answer(NativeHello.self, frame, in: session) { self.welcome($0, session) }
        case .ping: self.answer(NativePing.self, frame, in: session) { Self.pong($0) }
        case .whoami: self.answer(NativeWhoAmI.self, frame, in: session) { _ in NativeIdentity(of: session, at: .now()) }
        case .status: self.administer(NativeStatusRequest.self, frame, in: session) { try await $0.perform($1, by: $2) }
        case .sessions: self.administer(NativeSessionsRequest.self, frame, in: session) { try await $0.perform($1, by: $2) }
        case .rejections: self.administer(NativeRejectionsRequest.self, frame, in: session) { try await $0.perform($1, by: $2) }
        case .authorities: self.administer(NativeAuthoritiesRequest.self, frame, in: session) { try await $0.perform($1, by: $2) }
        case .refusals: self.administer(NativeRefusalsRequest.self, frame, in: session) { try await $0.perform($1, by: $2) }
        case .backup: self.change(NativeBackupRequest.self, \.name, frame, in: session) { try await $0.perform($1, by: $2) }
        case .compact: self.change(NativeCompactRequest.self, { "\($0.revision)" }, frame, in: session) { try await $0.perform($1, by: $2) }
        case .reload: self.change(NativeReloadRequest.self, { _ in nil }, frame, in: session) { try await $0.perform($1, by: $2) }
        case .refuse: self.change(NativeRefuseRequest.self, \.target.text, frame, in: session) { try await $0.perform($1, by: $2) }
        case .acceptAgain:
            self.change(NativeAcceptAgainRequest.self, \.target.text, frame, in: session) { try await $0.perform($1, by: $2) }
        case .reloadClients:
            do throws(NativeFailure) {
                // Before records are made of them; whoever may not ask at all is told that instead.
                if session.info.principal.isAdministrator {
                    try WatchRanges.checkCount(frame.fields.count(of: 2), maximum: session.loop.limits.maximumRangesPerWatch)
                }
            } catch {
                return self.fail(error, frame, in: session)
            }
            let asking = session.info.connectionID
            self.change(NativeReloadClientsRequest.self, \.subject, frame, in: session) { try await $0.perform($1, by: $2, on: asking) }
        case .remove: self.remove(frame, in: session)
        case .scan: self.scan(frame, in: session)
        case .transaction: self.transaction(frame, in: session)
        case .openSnapshot: self.openSnapshot(frame, in: session)
        case .closeSnapshot: self.closeSnapshot(frame, in: session)
        case .allocatePrefix: self.allocatePrefix(frame, in: session)
        case .openSession: self.openSession(frame, in: session)
        case .resumeSession: self.resumeSession(frame, in: session)
        case .closeSession: self.closeSession(frame, in: session)
        case .grantLease: self.grantLease(frame, in: session)
        case .keepLease: self.keepLease(frame, in: session)
        case .revokeLease: self.revokeLease(frame, in: session)
        case .watch, .endWatch, .progress, .reloadDone: self.watches.requestReceived(frame, of: self, in: session)
        default: self.fail(.unknownRequest(frame.kind), frame, in: session)
        }
    }

    /// Answers at once.
    func answer<Request: NativeRequest>(
        _ type: Request.Type, _ frame: NativeFrame, in session: SessionHandler, _ body: (Request) -> Request.Reply
    ) {
        do throws(ProtocolError) {
            self.reply(body(try Request(frame.fields)), to: Request.kind, frame.id, in: session)
        } catch {
            self.fail(NativeFailure(error), frame, in: session)
        }
    }

    private func welcome(_ hello: NativeHello, _ session: SessionHandler) -> NativeWelcome {
        var welcome = NativeWelcome()
        welcome.version = max(1, min(hello.version, NativeHello.currentVersion))
        welcome.serverVersion = softwareVersion
        welcome.principal = session.info.principal.name
        welcome.maximumMessageBytes = Int64(session.loop.limits.maximumMessageBytes)
        welcome.maximumRequestsInFlight = Int64(session.loop.limits.maximumRequestsInFlight)
        welcome.connection = Int64(clamping: session.info.connectionID)
        if let storage = self.storage?.storage {
            welcome.incarnation = ByteBuffer(integer: storage.incarnation.number)
            welcome.revision = storage.revision.native
            welcome.compactedRevision = storage.compactedRevision.native
        }
        return welcome
    }

    private static func pong(_ ping: NativePing) -> NativePong {
        var pong = NativePong()
        pong.payload = ping.payload
        return pong
    }

    // MARK: Answers

    /// Answers a request of `kind` with what `write` writes as the reply's fields, straight into the outbound buffer; with a failure if that
    /// is over the message limit.
    ///
    /// - Parameter expectedBytes: About how much it will be.
    @inline(__always)
    func reply(
        to kind: NativeRequestKind, _ id: RequestID, expectedBytes: Int = 256, in session: SessionHandler,
        _ write: (inout ByteBuffer) throws(NativeFailure) -> Void
    ) {
        let maximumBytes = session.loop.limits.maximumMessageBytes
        do throws(NativeFailure) {
            try session.send(.binary, expectedBytes: expectedBytes) { (buffer) throws(NativeFailure) in
                let start = buffer.writerIndex
                try NativeFrame.write(.reply, kind: kind.rawValue, id: id, to: &buffer, write)
                if buffer.writerIndex - start > maximumBytes { throw .answerTooBig(maximumBytes) }
            }
        } catch {
            self.fail(error, kind, id, in: session)
        }
    }

    /// Answers a request of `kind`.
    func reply(_ reply: some NativeRecord, to kind: NativeRequestKind, _ id: RequestID, in session: SessionHandler) {
        self.reply(to: kind, id, in: session) { (buffer) throws(NativeFailure) in reply.writeNativeValue(to: &buffer) }
    }

    func fail(_ failure: NativeFailure, _ frame: NativeFrame, in session: SessionHandler) {
        self.fail(failure, NativeRequestKind(rawValue: frame.kind), frame.id, in: session)
    }

    /// Answers a request of `kind` with why it was not done.
    func fail(_ failure: NativeFailure, _ kind: NativeRequestKind, _ id: RequestID, in session: SessionHandler) {
        session.loop.counters.failedRequests &+= 1
        self.log("\(kind): \(failure.code): \(failure.detail)", in: session)
        session.send(.binary, expectedBytes: 256) { buffer in
            NativeFrame.write(failure: failure, of: kind, id: id, to: &buffer)
        }
    }

    func log(_ reason: String, in session: SessionHandler) {
        let (isAllowed, unlogged) = self.lines.take(at: session.loop.now.uptimeSeconds)
        guard isAllowed else { return }
        session.loop.log(session.info, level: .warning, "request failed", ["reason": "\(reason)", "unlogged": "\(unlogged)"])
    }
}
