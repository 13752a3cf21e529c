package import NIOCore

// The session under which this client's writes happen exactly once: the server keeps the outcome of each, by session and sequence, in the
// same commit as the write, and answers a repetition with it.
//
//            wantsOpening                opened
//   none ──────────────────▶ opening ────────────▶ open ──┐ assign, concluded, keepAliveSent
//    ▲                          │                   │ ▲────┘
//    │  openingFailed,          │                   │
//    │  connectionLost          │                   │ sessionLost, connected to another store,
//    └──────────────────────────┴───────────────────┘ unused for too long
//
// Responsibilities: sequences in the order of sending, each used once; which outcomes the server may forget (`acknowledged`: everything up
// to it has an outcome, or nobody will ask for it again); the window of outcomes that the server keeps; keeping the session alive while a
// write may still have to be repeated. Not its own: which writes there are and what becomes of each: `CallTableStateMachine`.
//
// A session is the store's, and outlives connections. It does not outlive an incarnation: what was sent to another store is never repeated
// here.

/// A session's name: 16 bytes of the server's.
package struct WriteSessionID: Hashable, Sendable {
    package let high: UInt64
    package let low: UInt64

    /// Nil unless there are 16 bytes.
    package init?(_ bytes: ByteBuffer) {
        var bytes = bytes
        guard bytes.readableBytes == Self.byteCount, let (high, low) = bytes.readMultipleIntegers(as: (UInt64, UInt64).self) else {
            return nil
        }
        self.high = high
        self.low = low
    }

    package static let byteCount = 16

    /// As on the wire.
    package var buffer: ByteBuffer {
        var buffer = ByteBuffer()
        buffer.writeMultipleIntegers(self.high, self.low)
        return buffer
    }
}

package struct WriteSessionStateMachine: ~Copyable {
    /// Which write of which of this client's sessions, in the order of their opening.
    package struct Number: Hashable, Sendable {
        package let session: UInt64
        package let sequence: Int64
    }

    /// What a write carries.
    package struct Header: Hashable, Sendable {
        package let session: WriteSessionID
        package let sequence: Int64
        package let acknowledged: Int64

        package init(session: WriteSessionID, sequence: Int64, acknowledged: Int64) {
            self.session = session
            self.sequence = sequence
            self.acknowledged = acknowledged
        }
    }

    private struct Session {
        let id: WriteSessionID
        let number: UInt64
        let incarnation: Incarnation
        let timeToLive: TimeAmount
        let maximumOutcomes: Int64
        var lastSequence: Int64 = 0
        var acknowledged: Int64 = 0
        /// Above ``acknowledged``, with a gap below.
        var concluded: Set<Int64> = []
        var lastUsed: NIODeadline

        var hasUnconcluded: Bool { self.acknowledged < self.lastSequence }
    }

    private enum State {
        case none(notBefore: NIODeadline?)
        case opening
        case open(Session)
    }

    private var state = State.none(notBefore: nil)
    private var incarnation: Incarnation?
    private var sessions: UInt64 = 0

    package init() {}

    // MARK: The connection

    /// There is a connection to a store.
    ///
    /// - Returns: the session that is lost, as it is another store's.
    package mutating func connected(to incarnation: Incarnation) -> UInt64? {
        self.connectionLost()
        self.incarnation = incarnation
        guard case .open(let session) = self.state, session.incarnation != incarnation else { return nil }
        self.state = .none(notBefore: nil)
        return session.number
    }

    /// The connection is gone, or left.
    package mutating func connectionLost() {
        self.incarnation = nil
        if case .opening = self.state { self.state = .none(notBefore: nil) }
    }

    // MARK: The session

    /// Whether a session is to be asked for now; then it counts as asked for.
    package mutating func wantsOpening(now: NIODeadline) -> Bool {
        self.letGoIfStale(now: now)
        guard self.incarnation != nil, case .none(let notBefore) = self.state, notBefore.map({ $0 <= now }) ?? true else { return false }
        self.state = .opening
        return true
    }

    package mutating func opened(_ id: WriteSessionID, timeToLive: TimeAmount, maximumOutcomes: Int64, now: NIODeadline) {
        guard case .opening = self.state, let incarnation = self.incarnation else { return }
        self.sessions += 1
        self.state = .open(
            Session(
                id: id, number: self.sessions, incarnation: incarnation, timeToLive: timeToLive, maximumOutcomes: max(1, maximumOutcomes),
                lastUsed: now))
    }

    /// The server gave no session; it is asked again from then on.
    package mutating func openingFailed(tryAgainAt: NIODeadline?) {
        if case .opening = self.state { self.state = .none(notBefore: tryAgainAt) }
    }

    /// The server has no such session any more.
    package mutating func sessionLost(_ number: UInt64) {
        if case .open(let session) = self.state, session.number == number { self.state = .none(notBefore: nil) }
    }

    /// The session that is open, for the one who keeps it alive or closes it.
    package var open: (id: WriteSessionID, number: UInt64)? {
        guard case .open(let session) = self.state else { return nil }
        return (session.id, session.number)
    }

    /// When something is to be done about the session: opened again, or kept alive.
    package var nextDeadline: NIODeadline? {
        guard self.incarnation != nil else { return nil }
        switch self.state {
        case .none(let notBefore): return notBefore
        case .opening: return nil
        case .open(let session): return session.hasUnconcluded ? session.lastUsed + session.timeToLive / Self.keepAliveParts : nil
        }
    }

    /// A time that was waited for and is over is no deadline any more: whoever next wants a session may ask.
    package mutating func waitElapsed(now: NIODeadline) {
        if case .none(let notBefore?) = self.state, notBefore <= now { self.state = .none(notBefore: nil) }
    }

    /// The session to be kept alive now, as a write may still have to be repeated under it; then it counts as used.
    package mutating func wantsKeepAlive(now: NIODeadline) -> WriteSessionID? {
        guard case .open(var session) = self.state, let deadline = self.nextDeadline, deadline <= now else { return nil }
        session.lastUsed = now
        self.state = .open(session)
        return session.id
    }

    /// Kept alive so often in its time to live: two attempts may be lost.
    private static let keepAliveParts = 3

    // MARK: Writes

    /// Whether another write fits: there is a session, and the server keeps its outcome until it has arrived.
    package mutating func canAssign(now: NIODeadline) -> Bool {
        self.letGoIfStale(now: now)
        guard self.incarnation != nil, case .open(let session) = self.state else { return false }
        return session.lastSequence - session.acknowledged < session.maximumOutcomes
    }

    /// Takes the next sequence. Only when ``canAssign(now:)``.
    package mutating func assign(now: NIODeadline) -> Number {
        guard case .open(var session) = self.state else { preconditionFailure("a write without a session") }
        session.lastSequence += 1
        session.lastUsed = now
        self.state = .open(session)
        return Number(session: session.number, sequence: session.lastSequence)
    }

    /// What a write is to carry now; nil when its session is lost.
    package func header(of number: Number) -> Header? {
        guard case .open(let session) = self.state, session.number == number.session else { return nil }
        return Header(session: session.id, sequence: number.sequence, acknowledged: session.acknowledged)
    }

    /// The outcome arrived, or nobody will ask for it again.
    package mutating func concluded(_ number: Number) {
        guard case .open(var session) = self.state, session.number == number.session, number.sequence > session.acknowledged else { return }
        // Taken out, so that the set is not copied.
        self.state = .opening
        if number.sequence == session.acknowledged + 1 {
            session.acknowledged += 1
            while !session.concluded.isEmpty, session.concluded.remove(session.acknowledged + 1) != nil { session.acknowledged += 1 }
        } else {
            session.concluded.insert(number.sequence)
        }
        self.state = .open(session)
    }

    /// A session that was not used for most of its life may end before the next write arrives: a new one costs one question, and is sure.
    private mutating func letGoIfStale(now: NIODeadline) {
        guard case .open(let session) = self.state, !session.hasUnconcluded, now >= session.lastUsed + session.timeToLive / 2 else {
            return
        }
        self.state = .none(notBefore: nil)
    }
}

extension TimeAmount {
    fileprivate static func / (left: TimeAmount, right: Int) -> TimeAmount { .nanoseconds(left.nanoseconds / Int64(right)) }
}
