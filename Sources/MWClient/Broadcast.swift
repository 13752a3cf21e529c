import Synchronization

/// One producer, any number of `AsyncStream`s, each bounded on its own.
final class Broadcast<Element: Sendable>: Sendable {
    private struct Subscriber {
        let continuation: AsyncStream<Element>.Continuation
        var missed = 0
    }

    private struct State {
        var subscribers: [Int: Subscriber] = [:]
        var nextID = 0
        var isFinished = false
    }

    private let state = Mutex(State())
    private let policy: AsyncStream<Element>.Continuation.BufferingPolicy

    init(_ policy: AsyncStream<Element>.Continuation.BufferingPolicy) { self.policy = policy }

    /// A stream of what is sent from now on; it ends with the producer.
    func subscribe() -> AsyncStream<Element> {
        let (stream, continuation) = AsyncStream.makeStream(of: Element.self, bufferingPolicy: self.policy)
        let id: Int? = self.state.withLock { state in
            guard !state.isFinished else { return nil }
            defer { state.nextID += 1 }
            state.subscribers[state.nextID] = Subscriber(continuation: continuation)
            return state.nextID
        }
        guard let id else {
            continuation.finish()
            return stream
        }
        continuation.onTermination = { [weak self] _ in
            self?.state.withLock { _ = $0.subscribers.removeValue(forKey: id) }
        }
        return stream
    }

    func send(_ element: Element) { _ = self.send { _ in element } }

    /// Sends to every subscriber what `make` returns for the number of elements that it missed since the last it got.
    ///
    /// - Returns: how many subscribers missed this one.
    func send(_ make: (_ missed: Int) -> Element) -> Int {
        // Yielding under the lock keeps the order; a subscriber's termination handler never runs inside of a yield.
        self.state.withLock { state in
            var dropped = 0
            for (id, subscriber) in state.subscribers {
                switch subscriber.continuation.yield(make(subscriber.missed)) {
                case .dropped:
                    state.subscribers[id]?.missed += 1
                    dropped += 1
                case .enqueued: state.subscribers[id]?.missed = 0
                case .terminated: break
                @unknown default: break
                }
            }
            return dropped
        }
    }

    func finish() {
        let subscribers = self.state.withLock { state in
            state.isFinished = true
            defer { state.subscribers.removeAll() }
            return state.subscribers.values.map(\.continuation)
        }
        for continuation in subscribers { continuation.finish() }
    }
}
