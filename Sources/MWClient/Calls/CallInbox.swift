import NIOCore
import Synchronization

/// What callers on any thread hand to the client's event loop.
///
/// The first submission of a burst wakes the loop, the others ride along: what many tasks ask within one loop tick leaves in one write.
final class CallInbox: Sendable {
    enum Submission: Sendable {
        case call(CallID, Request, deadline: NIODeadline, CheckedContinuation<Answer, any Error>)
        case cancel(CallID)
        /// Nobody waits for its answer; it goes on this connection, if one is named, or on none.
        case post(Request, onlyOn: UInt64?)
    }

    private struct State {
        var submissions: [Submission] = []
        var isWakePending = false
    }

    private let state = Mutex(State())
    private let lastID = Atomic<UInt64>(0)

    func makeID() -> CallID { CallID(self.lastID.wrappingAdd(1, ordering: .relaxed).newValue) }

    /// - Returns: true if the caller must wake the loop.
    func submit(_ submission: Submission) -> Bool {
        self.state.withLock { state in
            state.submissions.append(submission)
            defer { state.isWakePending = true }
            return !state.isWakePending
        }
    }

    func drain() -> [Submission] {
        self.state.withLock { state in
            state.isWakePending = false
            var submissions: [Submission] = []
            swap(&submissions, &state.submissions)
            return submissions
        }
    }
}
