package import NIOCore

// Notices a peer that is gone although TCP says nothing.
//
//   watching ── timerFired, nothing heard for `interval` ──▶ awaiting a pong ── timerFired, nothing heard for `pongTimeout` ──▶ dead
//       ▲                                                         │
//       └───────────────────── bytesReceived ─────────────────────┘
//
// Any byte counts as a sign of life (RFC 6455 §5.5.3 asks for a pong, but a server busy with a 16 MiB answer sends that first). One timer
// runs at a time; bytes only move a time stamp, so that the hot path schedules nothing.

package struct KeepAliveStateMachine: Equatable, Sendable {
    /// What to do when the timer fired.
    package enum TimerAction: Equatable, Sendable {
        /// Call ``timerFired(now:)`` again at this time.
        case rearm(NIODeadline)
        /// Send a ping, and call ``timerFired(now:)`` again at this time.
        case ping(rearm: NIODeadline)
        /// The peer is gone: close the connection.
        case dead
    }

    private let interval: TimeAmount
    private let pongTimeout: TimeAmount
    private var lastHeard: NIODeadline
    private var pingedAt: NIODeadline?

    /// The connection is up; call ``timerFired(now:)`` after `interval`.
    package init(interval: Duration, pongTimeout: Duration, now: NIODeadline) {
        self.interval = TimeAmount(interval)
        self.pongTimeout = TimeAmount(pongTimeout)
        self.lastHeard = now
    }

    package mutating func bytesReceived(now: NIODeadline) {
        self.lastHeard = now
        self.pingedAt = nil
    }

    package mutating func timerFired(now: NIODeadline) -> TimerAction {
        if let pingedAt = self.pingedAt {
            let limit = pingedAt + self.pongTimeout
            return now >= limit ? .dead : .rearm(limit)
        }
        let due = self.lastHeard + self.interval
        guard now >= due else { return .rearm(due) }
        self.pingedAt = now
        return .ping(rearm: now + self.pongTimeout)
    }
}
