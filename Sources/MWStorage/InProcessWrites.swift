import Synchronization

/// Writes of async callers: many tasks share one submitter, under a lock.
final class InProcessWrites: Sendable {
    private struct State {
        let submitter: Submitter
        var nextToken: UInt64 = 0
    }

    private let state: Mutex<State>
    private let waiting: Waiting
    let identifier: UInt32

    /// The callers by token; apart from the submitter, whose `deliver` must not hold what holds it.
    private final class Waiting: Sendable {
        let continuations = Mutex<[UInt64: CheckedContinuation<CommitOutcome.Result, Never>]>([:])
    }

    init(committer: Committer) {
        let waiting = Waiting()
        let submitter = committer.makeSubmitter { outcomes in
            for outcome in outcomes {
                let continuation = waiting.continuations.withLock { $0.removeValue(forKey: outcome.token) }
                continuation?.resume(returning: outcome.result)
            }
        }
        self.identifier = submitter.identifier
        self.waiting = waiting
        self.state = Mutex(State(submitter: submitter))
    }

    /// Submits one request and returns how it ended. Does not heed cancellation: the write happens either way.
    func submit(
        _ body: (Submitter, UInt64) throws(StorageError) -> Void
    ) async throws(StorageError) -> CommitOutcome.Result {
        let result = await withCheckedContinuation { (continuation: CheckedContinuation<CommitOutcome.Result, Never>) in
            let failure = state.withLock { state -> StorageError? in
                state.nextToken += 1
                do throws(StorageError) { try body(state.submitter, state.nextToken) } catch { return error }
                waiting.continuations.withLock { $0[state.nextToken] = continuation }
                state.submitter.flush()
                return nil
            }
            if let failure { continuation.resume(returning: .failed(failure)) }
        }
        if case .failed(let error) = result { throw error }
        return result
    }
}
