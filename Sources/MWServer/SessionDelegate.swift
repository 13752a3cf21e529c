package import MWPKI
package import MWWebSocket
package import NIOCore

/// What a listener does with the messages of one connection. Made by a ``SessionFactory``, called on the connection's event loop only.
///
/// Call order: any number of bursts, each some ``messageReceived(_:_:in:)`` and one ``readBurstEnded(in:)``; then one ``sessionEnded(_:)``.
package protocol SessionDelegate: AnyObject {
    /// A whole message. Replies written now leave together with those to all other messages of the same burst.
    func messageReceived(_ opcode: MessageOpcode, _ payload: ByteBuffer, in session: SessionHandler)

    /// Everything that one read brought, and that the session was not told to hold, has been handed over.
    func readBurstEnded(in session: SessionHandler)

    /// The network takes bytes again: answers that waited because ``SessionHandler/mayAnswer`` was false can go on.
    func mayGoOn(in session: SessionHandler)

    /// ``SessionInfo/principal`` of `session` is another, or has other rights, from its next request on.
    func principalChanged(in session: SessionHandler)

    /// No more requests are taken, and the session closes when none is under way: what would wait for long is answered now.
    func drainBegan(in session: SessionHandler)

    /// The connection is gone; nothing can be sent any more. Nothing is called after it.
    func sessionEnded(_ session: SessionHandler)
}

extension SessionDelegate {
    package func readBurstEnded(in session: SessionHandler) {}
    package func mayGoOn(in session: SessionHandler) {}
    package func principalChanged(in session: SessionHandler) {}
    package func drainBegan(in session: SessionHandler) {}
    package func sessionEnded(_ session: SessionHandler) {}
}

/// Makes the delegates of one event loop's sessions. Called on that loop only.
package protocol SessionFactory: AnyObject {
    func makeDelegate(for info: SessionInfo) -> any SessionDelegate

    /// Called about twice a second.
    func ticked(_ now: NIODeadline)

    /// Everything that was ready on this loop has been read, if ``SessionLoop/scheduleTurnEnd()`` was called meanwhile: hand over what was
    /// collected from all its sessions.
    func turnEnded()

    /// Everything is over on this loop: let go of what refers to it.
    func loopEnded()
}

extension SessionFactory {
    package func ticked(_ now: NIODeadline) {}
    package func turnEnded() {}
    package func loopEnded() {}
}

/// Who is at the other end of a session.
package struct SessionInfo: Sendable {
    /// Different for each connection of a server.
    package let connectionID: UInt64
    /// A reload may change it.
    package internal(set) var principal: Principal
    /// `address:port` of the peer.
    package let address: String
    /// nil is mwDB's own protocol.
    package let subprotocol: String?
    /// TLS version, cipher suite and group: what logs and status say.
    package let tls: String
    /// When its 101 was sent.
    package var openedAt = Timestamp.now()

    package init(connectionID: UInt64, principal: Principal, address: String, subprotocol: String?, tls: String) {
        self.connectionID = connectionID
        self.principal = principal
        self.address = address
        self.subprotocol = subprotocol
        self.tls = tls
    }
}

/// How a session ended, for the log and the counters.
package struct SessionEnd: Sendable, Hashable {
    /// Which side began to close.
    package enum Side: String, Sendable {
        case server
        case client
        /// Neither: the transport broke.
        case network
    }

    /// Why, as a bounded set of names: each is a series in the metrics.
    package enum Cause: String, Sendable, CaseIterable {
        case normal
        case stop
        case restart
        case lifetime
        case missedPong
        case slowReader
        case protocolViolation
        case unsupportedMessage
        case storageFailure
        case answerTooBig
        case requestDenied
        case tooManyKeys
        case closingTimeout
        case connectionLost
        case delegate
        /// An administrator has the client read afresh.
        case reload
        // What a new set of trust, refusals and policy says, or the clock.
        case certificateExpired
        case certificateRevoked
        case revocationUnknown
        case refusedByList
        case noLongerTrusted
        case notAllowed
    }

    package var side: Side
    package var cause: Cause
    /// The code of the close frame that began it.
    package var code: CloseCode?
    package var reason: String

    package init(_ side: Side, _ cause: Cause, _ code: CloseCode?, _ reason: String) {
        self.side = side
        self.cause = cause
        self.code = code
        self.reason = reason
    }
}
