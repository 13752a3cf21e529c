internal import NIOCore
internal import Synchronization

/// Who was asked for something on all event loops, and who has done it.
final class ClientTally: Sendable {
    struct Client: Sendable {
        let connection: UInt64
        let principal: String
        let address: String
    }

    private struct State {
        var outstanding: [UInt64: Client] = [:]
        var gone: [Client] = []
        var asked = 0
        var done = 0
        /// Everybody who is going to be asked has been.
        var isComplete = false
        var whenSettled: EventLoopPromise<Void>?
    }

    private let state = Mutex(State())

    func asked(_ client: Client) {
        self.state.withLock { state in
            state.asked += 1
            state.outstanding[client.connection] = client
        }
    }

    /// The client has done it.
    func done(_ connection: UInt64) {
        self.change { state in if state.outstanding.removeValue(forKey: connection) != nil { state.done += 1 } }
    }

    /// The connection ended.
    func gone(_ connection: UInt64) {
        self.change { state in if let client = state.outstanding.removeValue(forKey: connection) { state.gone.append(client) } }
    }

    /// Returns once nobody is outstanding, after `timeout` at the latest. Call it once, when all have been asked.
    func settle(within timeout: Duration, on eventLoop: any EventLoop) async {
        let promise = eventLoop.makePromise(of: Void.self)
        let timer = eventLoop.scheduleTask(in: TimeAmount(timeout)) { promise.succeed() }
        self.change { state in
            state.isComplete = true
            state.whenSettled = promise
        }
        try? await promise.futureResult.get()
        timer.cancel()
    }

    struct Outcome: Sendable {
        let asked: Int
        let done: Int
        /// Those who did not say so, gone or not.
        let unanswered: [Client]
    }

    var outcome: Outcome {
        self.state.withLock { state in
            let unanswered = (state.gone + state.outstanding.values).sorted { $0.connection < $1.connection }
            return Outcome(asked: state.asked, done: state.done, unanswered: unanswered)
        }
    }

    private func change(_ body: (inout State) -> Void) {
        let settled = self.state.withLock { state -> EventLoopPromise<Void>? in
            body(&state)
            guard state.isComplete, state.outstanding.isEmpty else { return nil }
            defer { state.whenSettled = nil }
            return state.whenSettled
        }
        settled?.succeed()
    }
}
