import Logging
import MWPKI
import NIOCore
import NIOPosix

// Moving over to a new connection while the old one still works.

extension ClientEngine {
    // MARK: Another identity

    func armIdentityWatch() {
        guard let interval = self.configuration.identityWatchInterval, !self.configuration.identity.paths.isEmpty else { return }
        self.watchTimer = self.schedule(in: interval) { $0.lookAtIdentity() }
    }

    private func lookAtIdentity() {
        guard case .running = self.phase else { return }
        NIOThreadPool.singleton.runIfActive(eventLoop: self.eventLoop) { [paths = self.configuration.identity.paths] in
            FileSnapshot(of: paths)
        }
        .assumeIsolated().whenComplete { [weak self] (result: Result<FileSnapshot, any Error>) in
            guard let self, case .running = self.phase else { return }
            let isBusy = self.link == nil || self.moving != nil || self.successor != nil || self.relocation != nil
            if case .success(let files) = result, !isBusy, self.identityWatch.looked(at: files) { self.openSuccessor() }
            self.armIdentityWatch()
        }
    }

    /// A second connection, to where the first one is.
    private func openSuccessor() { self.openSuccessor(at: self.endpointIndex) }

    private func openSuccessor(at index: Int) {
        let attempt = self.connector.connect(to: self.configuration.endpoints[index])
        self.moving = attempt
        attempt.whenComplete { [weak self] result in
            guard let self, self.moving === attempt else { return }
            self.moving = nil
            switch result {
            case .success(let opened): self.successorOpened(opened, index, attempt.files)
            case .failure(let failure): self.moveFailed(failure, with: attempt.files)
            }
        }
    }

    private func successorOpened(_ opened: OpenedConnection, _ index: Int, _ files: FileSnapshot?) {
        // The first one ended meanwhile, or the client does: whoever connects next reads the new files anyway.
        guard case .running = self.phase, self.link != nil else { return opened.close() }
        let link = self.makeLink(opened, index, files: files)
        // Before the start, which may already end it.
        self.successor = link
        do {
            try opened.start(link.session)
        } catch {
            guard self.successor === link else { return }
            self.successor = nil
            self.moveFailed(ConnectionError(error), with: files)
            return self.sendQueued()
        }
        self.desk.count { $0.connections += 1 }
        guard self.successor === link else { return }
        self.moveTimer = self.schedule(in: self.configuration.timeouts.drain) { engine in
            // It answers nothing any more: what it owes is lost, as with any connection that broke.
            if engine.successor != nil { engine.link?.session.giveUp(.unresponsive) }
        }
        self.greet(link)
    }

    func moveFailed(_ failure: ConnectionError, with files: FileSnapshot?) {
        self.moveTimer?.cancel()
        guard self.relocation == nil else {
            self.desk.count { $0.failedAttempts += 1 }
            self.logger.warning("no new connection yet; the old one is about to end", metadata: ["error": "\(failure.error)"])
            return self.relocate()
        }
        self.identityWatch.attemptFailed(with: files)
        self.logger.warning("no connection with the new identity; the old one stays", metadata: ["error": "\(failure.error)"])
        self.heedDrain()
    }

    /// Every call is answered on the connection it was sent on; then the next ones go over the new one.
    func moveOverIfQuiet() {
        guard let link = self.successor, link.isReady, self.desk.inFlightCount == 0 else { return }
        let old = self.link
        self.link = link
        self.successor = nil
        self.relocation = nil
        self.moveTimer?.cancel()
        self.endpointIndex = link.endpointIndex
        let stableAfter = self.reconnection.moved(to: link.endpointIndex, now: self.now)
        self.stabilityTimer?.cancel()
        self.stabilityTimer = self.schedule(in: stableAfter) { $0.reconnection.stabilityElapsed(now: $0.now) }
        self.identityWatch.connected(with: link.files)
        self.logger.info("moved over to a new connection", metadata: ["endpoint": "\(link.endpoint)"])
        self.shared.events.send(.moved(link.endpoint))
        self.watches.disconnected(because: Self.moved)
        old?.session.close()
        self.takeIntoUse(link)
        self.sendQueued()
        self.heedDrain()
    }

    /// Does what the server of the connection in use said while there was a move already.
    private func heedDrain() {
        guard let end = self.link?.drainsBy else { return }
        self.serverDrains(within: .nanoseconds(max(.zero, end - self.now).nanoseconds))
    }

    private static let moved = ClientError(.connectionLost, subject: "connection", what: "was left for a new one")

    func forgetSuccessor() {
        self.moving?.cancel()
        self.moving = nil
        self.relocation = nil
        self.moveTimer?.cancel()
        let successor = self.successor
        self.successor = nil
        successor?.greetingTimer?.cancel()
        successor?.session.close()
    }

    // MARK: A server that is about to end

    /// The server of the connection in use will end within this time: a new one is made first.
    func serverDrains(within: Duration) {
        guard case .running = self.phase, self.relocation == nil, self.successor == nil else { return }
        self.moving?.cancel()
        self.moving = nil
        self.logger.info("the server is about to end", metadata: ["within": "\(within)"])
        self.relocation = RelocationStateMachine(
            endpointCount: self.configuration.endpoints.count, leaving: self.endpointIndex, within: within,
            policy: ReconnectionPolicy(self.configuration.reconnection))
        self.relocate()
    }

    private func relocate() {
        guard self.link != nil, let action = self.relocation?.next(using: &self.random) else { return }
        switch action {
        case .connect(let endpoint): self.openSuccessor(at: endpoint)
        case .wait(let after): self.moveTimer = self.schedule(in: after) { $0.relocate() }
        }
    }
}
