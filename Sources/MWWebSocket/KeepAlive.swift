package import NIOCore

/// How long a connection may be quiet.
package struct KeepAliveTimes: Sendable, Equatable {
    /// A peer that was quiet for so long is pinged. `nil`: never. Default 20 s: below the idle limits of common middleboxes.
    package var pingInterval: Duration?
    /// A peer that stays quiet for so long after a ping is gone: 1011, close. Default 20 s.
    package var pongTimeout: Duration
    /// From our close frame to the peer's, then the transport is closed. Default 10 s.
    package var closingTimeout: Duration

    package init(
        pingInterval: Duration? = .seconds(20), pongTimeout: Duration = .seconds(20), closingTimeout: Duration = .seconds(10)
    ) {
        self.pingInterval = pingInterval
        self.pongTimeout = pongTimeout
        self.closingTimeout = closingTimeout
    }
}

/// Decides when to ping and when to give up; time in, actions out.
///
///               quiet for pingInterval                quiet for pongTimeout
///     listening ──────────────────────► pinged ──────────────────────────► ended (pongMissed)
///         ▲ └──────────────┐              │ bytes received
///         └────────────────┼──────────────┘
///               closeSent  └─► closing ──────────────────────────────────► ended (closingTimedOut)
///                                           closingTimeout
///
/// The shell keeps one timer, set to the deadline of the latest action; it need not touch the timer when bytes arrive.
package struct KeepAlive: Sendable {
    package enum Action: Equatable, Sendable {
        /// Call ``timerFired(at:isReading:)`` then. `nil`: no timer is needed.
        case wait(until: NIODeadline?)
        /// Write a ping; call ``timerFired(at:isReading:)`` then.
        case sendPing(waitUntil: NIODeadline)
        /// Write a close frame with the error's close code if it has one, then close the transport without waiting for the peer.
        case end(WebSocketError)
    }

    private enum State {
        case listening
        case pinged(at: NIODeadline)
        case closing(until: NIODeadline)
        case ended
    }

    private let times: KeepAliveTimes
    private var state = State.listening
    private var lastReceived: NIODeadline

    package init(times: KeepAliveTimes = KeepAliveTimes(), now: NIODeadline) {
        self.times = times
        lastReceived = now
    }

    /// When the first timer is due.
    package var firstDeadline: NIODeadline? { times.pingInterval.map { lastReceived + TimeAmount($0) } }

    /// Anything the peer sends shows that it lives, not only a pong.
    @inline(__always)
    package mutating func bytesReceived(at now: NIODeadline) {
        lastReceived = now
    }

    /// We sent a close frame. The timer must be set anew, to the deadline returned.
    package mutating func closeSent(at now: NIODeadline) -> NIODeadline {
        let deadline = now + TimeAmount(times.closingTimeout)
        state = .closing(until: deadline)
        return deadline
    }

    /// - Parameter isReading: Whether we would have seen what the peer sent: one that we do not listen to is not blamed for its silence.
    package mutating func timerFired(at now: NIODeadline, isReading: Bool = true) -> Action {
        if !isReading { lastReceived = now }
        switch state {
        case .closing(let deadline):
            guard now >= deadline else { return .wait(until: deadline) }
            state = .ended
            return .end(WebSocketError(.closingTimedOut, "connection", "the peer did not answer our close frame in time"))
        case .pinged(let pingTime) where lastReceived <= pingTime:
            let deadline = pingTime + TimeAmount(times.pongTimeout)
            guard now >= deadline else { return .wait(until: deadline) }
            state = .ended
            return .end(WebSocketError(.pongMissed, "connection", "the peer did not answer a ping in time", closeCode: .internalError))
        case .listening, .pinged:
            guard let pingInterval = times.pingInterval else { return .wait(until: nil) }
            state = .listening
            let deadline = lastReceived + TimeAmount(pingInterval)
            guard now >= deadline else { return .wait(until: deadline) }
            state = .pinged(at: now)
            return .sendPing(waitUntil: now + TimeAmount(times.pongTimeout))
        case .ended:
            return .wait(until: nil)
        }
    }
}
