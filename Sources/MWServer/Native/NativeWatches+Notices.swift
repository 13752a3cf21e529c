internal import MWProtocol
internal import NIOCore

// What a client is told unasked: to read afresh, or to go elsewhere.

extension NativeWatches {
    /// Reload notices that are remembered of a client that answers none. 16: more than anybody would send by hand.
    private static let maximumNotices = 16

    /// Asks the client to drop what it holds and to read it afresh.
    func askToReload(_ notice: NativeReloadNotice, _ tally: ClientTally, of native: NativeSession, in session: SessionHandler) {
        guard session.isOpen else { return }
        self.connect(native, session)
        tally.asked(ClientTally.Client(session.info))
        self.notices.append((notice.reload, tally))
        if self.notices.count > Self.maximumNotices { self.notices.removeFirst() }
        self.send(notice, .reload, .zero)
    }

    func reloadDone(_ request: NativeReloadDone, _ id: RequestID) throws(NativeFailure) {
        guard let connection = self.connection, let index = self.notices.firstIndex(where: { $0.reload == request.reload }) else {
            throw NativeFailure(.invalidArgument, "this connection was not asked for reload \(request.reload), or has said that it is done")
        }
        self.notices.remove(at: index).tally.done(connection.session.info.connectionID)
        self.reply(NativeReloadDone.self, NativeDone(), id)
    }

    /// Says that the server is about to end; `tally` hears when the client has left.
    func tellOfDrain(_ notice: NativeDrainNotice, _ tally: ClientTally, of native: NativeSession, in session: SessionHandler) {
        guard session.isOpen else { return }
        self.connect(native, session)
        tally.asked(ClientTally.Client(session.info))
        self.drain = tally
        self.send(notice, .draining, .zero)
    }
}

extension ClientTally.Client {
    init(_ info: SessionInfo) { self.init(connection: info.connectionID, principal: info.principal.name, address: info.address) }
}
