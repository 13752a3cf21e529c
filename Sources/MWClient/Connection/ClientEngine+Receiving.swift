import Logging
import MWProtocol
import MWWebSocket
import NIOCore

// What the connections say.

extension ClientEngine: SessionDelegate {
    func session(_ session: SessionHandler, received message: ByteBuffer) {
        // A connection that we have left says nothing new.
        let known = session === self.link?.session ? self.link : session === self.successor?.session ? self.successor : nil
        guard let link = known else { return }
        do throws(ProtocolError) {
            switch self.clientProtocol {
            case .mwdb: self.received(try MWDBReply(message: message), in: session)
            case .native:
                var message = message
                while let frame = try NativeFrame(readingFrom: &message) { try self.received(frame, on: link) }
            }
        } catch {
            session.violated(CloseCode(rawValue: error.closeCode) ?? .protocolError, error.closeReason, error)
        }
    }

    private func received(_ reply: MWDBReply, in session: SessionHandler) {
        if let id = reply.id { return self.answered(.mwdb(reply), id, in: session) }
        if case .forceReload(let pairs) = reply { self.reload(pairs) }
    }

    private func received(_ frame: NativeFrame, on link: Link) throws(ProtocolError) {
        switch frame.role {
        case .reply, .failure:
            if frame.id == Link.helloID { return try self.welcomed(frame, link) }
            guard link.isReady else { throw ProtocolError(.unknownType, "frame", expected: "a welcome", found: "something else") }
            if frame.id == Link.unheededID { return }
            if frame.id == Link.sessionID { return try self.sessionAnswered(frame, link) }
            guard WatchDesk.owns(frame.id) else {
                let failure = frame.role == .failure ? try? NativeFailure(frame.fields) : nil
                return self.answered(.native(frame, failure), frame.id, in: link.session)
            }
            if !self.watches.answered(frame) { link.session.violated(.protocolError, Self.unasked) }
        case .event:
            // Those of the connection that is about to take over come with its own watches.
            if frame.id == .zero { return self.noticed(frame, link) }
            // Events that no watch of ours has are for later clients.
            if link === self.link { _ = self.watches.received(frame) }
        case .request: throw ProtocolError(.unknownType, "frame", expected: "a reply, a failure or an event", found: "a request")
        }
    }

    private static let unasked = "an answer to nothing that was asked"

    private func welcomed(_ frame: NativeFrame, _ link: Link) throws(ProtocolError) {
        guard !link.isReady, frame.role == .reply, frame.kind == NativeRequestKind.hello.rawValue else {
            throw ProtocolError(.unknownType, "frame", expected: "one welcome", found: "something else")
        }
        link.welcome = Link.Welcome(try NativeWelcome(frame.fields))
        self.becameReady(link)
    }

    private func sessionAnswered(_ frame: NativeFrame, _ link: Link) throws(ProtocolError) {
        // What the connection that was left says of a session, the new one is asked again.
        guard link === self.link else { return }
        guard self.desk.sessionAnswered(frame) else {
            throw ProtocolError(.unknownType, "frame", expected: "a session", found: "something else")
        }
    }

    private func noticed(_ frame: NativeFrame, _ link: Link) {
        switch NativeEventKind(rawValue: frame.kind) {
        case .reload:
            guard let notice = try? NativeReloadNotice(frame.fields) else { return }
            let link = NIOLoopBound(link, eventLoop: self.eventLoop)
            self.notices.reload(notice) { [eventLoop] frame in
                eventLoop.execute {
                    link.value.session.write(frame)
                    link.value.session.flush()
                }
            }
        case .draining:
            guard let notice = try? NativeDrainNotice(frame.fields) else { return }
            let within = Duration.milliseconds(min(max(0, notice.withinMilliseconds), Self.maximumDrainMilliseconds))
            link.drainsBy = self.now + TimeAmount(within)
            if link === self.link { self.serverDrains(within: within) }
        default: break
        }
    }

    /// An hour: a server that takes longer is left no later.
    private static let maximumDrainMilliseconds: Int64 = 3_600_000

    private func answered(_ reply: Reply, _ id: RequestID, in session: SessionHandler) {
        switch self.desk.answered(reply, id: id) {
        case .fine: self.reconnection.requestAnswered()
        case .violation(let reason, let cause): session.violated(.protocolError, reason, cause)
        }
    }

    private func reload(_ pairs: MWDBPairs) {
        var changes: [Reload.Change]?
        let dropped = self.shared.reloads.send(bytes: Reload.bytes(of: pairs)) { missed in
            // Once, and only for somebody.
            let copied = changes ?? Reload.changes(of: pairs)
            changes = copied
            return Reload(changes: copied, missedBefore: missed)
        }
        self.desk.count { counters in
            counters.reloads += 1
            counters.reloadsDropped += dropped
        }
    }

    func sessionReadCompleted(_ session: SessionHandler) {
        self.sendQueued()
        self.callsEnded()
    }

    func sessionBecameWritable(_ session: SessionHandler) { self.sendQueued() }

    func sessionEnded(_ session: SessionHandler, _ failure: ConnectionError) {
        if let successor = self.successor, successor.session === session {
            successor.greetingTimer?.cancel()
            self.successor = nil
            self.moveFailed(failure, with: successor.files)
            return self.sendQueued()
        }
        guard let link = self.link, link.session === session else { return }
        self.link = nil
        link.greetingTimer?.cancel()
        self.stabilityTimer?.cancel()
        self.desk.connectionLost(because: failure.error)
        self.watches.disconnected(because: failure.error)
        switch self.phase {
        case .draining, .closingHandshake: return self.end(with: nil)
        case .idle, .running, .ended: break
        }
        if self.successor?.isReady == true {
            // The new one is here already.
            self.moveOverIfQuiet()
            return self.deliverResults()
        }
        self.forgetSuccessor()
        self.note(failure)
        self.proceed(self.reconnection.connectionLost(failure.kind, retryAfter: failure.retryAfter, using: &self.random))
    }
}
