import Synchronization

/// One producer, any number of `AsyncStream`s, each bounded on its own, in elements and in bytes.
final class Broadcast<Element: Sendable>: Sendable {
    private struct Sized {
        let element: Element
        let bytes: Int
    }

    /// The bytes that a subscriber has not taken yet.
    private final class Backlog: Sendable {
        let bytes = Atomic<Int>(0)
    }

    private struct Subscriber {
        let continuation: AsyncStream<Sized>.Continuation
        let backlog: Backlog
        var missed = 0
    }

    private struct State {
        var subscribers: [Int: Subscriber] = [:]
        var nextID = 0
        var isFinished = false
    }

    private let state = Mutex(State())
    private let policy: AsyncStream<Sized>.Continuation.BufferingPolicy
    private let maximumBytes: Int

    /// Each stream drops what comes when it holds `limit` elements.
    static func keepingOldest(_ limit: Int, maximumBytes: Int) -> Self { Self(.bufferingOldest(limit), maximumBytes) }
    /// Each stream drops the oldest element when it holds `limit`.
    static func keepingNewest(_ limit: Int) -> Self { Self(.bufferingNewest(limit), .max) }

    private init(_ policy: AsyncStream<Sized>.Continuation.BufferingPolicy, _ maximumBytes: Int) {
        self.policy = policy
        self.maximumBytes = maximumBytes
    }

    /// A stream of what is sent from now on; it ends with the producer.
    func subscribe() -> AsyncStream<Element> {
        let (stream, continuation) = AsyncStream.makeStream(of: Sized.self, bufferingPolicy: self.policy)
        let backlog = Backlog()
        self.add(continuation, backlog)
        // AsyncStream does not say when an element is taken: the outer one, which does not buffer, does.
        return AsyncStream {
            var iterator = stream.makeAsyncIterator()
            guard let next = await iterator.next() else { return nil }
            backlog.bytes.subtract(next.bytes, ordering: .relaxed)
            return next.element
        }
    }

    private func add(_ continuation: AsyncStream<Sized>.Continuation, _ backlog: Backlog) {
        let id: Int? = self.state.withLock { state in
            guard !state.isFinished else { return nil }
            defer { state.nextID += 1 }
            state.subscribers[state.nextID] = Subscriber(continuation: continuation, backlog: backlog)
            return state.nextID
        }
        guard let id else { return continuation.finish() }
        continuation.onTermination = { [weak self] _ in
            self?.state.withLock { _ = $0.subscribers.removeValue(forKey: id) }
        }
    }

    func send(_ element: Element) { _ = self.send(bytes: 0) { _ in element } }

    /// Sends to every subscriber what `make` returns for the number of elements that it missed since the last it got. `make` is not called
    /// where there is no room for the `bytes`.
    ///
    /// - Returns: how many subscribers missed this one.
    func send(bytes: Int, _ make: (_ missed: Int) -> Element) -> Int {
        // Yielding under the lock keeps the order; a subscriber's termination handler never runs inside of a yield.
        self.state.withLock { state in
            var dropped = 0
            for (id, subscriber) in state.subscribers {
                let isTaken = self.offer(bytes, to: subscriber, make)
                state.subscribers[id]?.missed = isTaken ? 0 : subscriber.missed + 1
                if !isTaken { dropped += 1 }
            }
            return dropped
        }
    }

    private func offer(_ bytes: Int, to subscriber: Subscriber, _ make: (_ missed: Int) -> Element) -> Bool {
        let backlog = subscriber.backlog
        guard backlog.bytes.load(ordering: .relaxed) <= self.maximumBytes - bytes else { return false }
        // Before it can be taken.
        backlog.bytes.add(bytes, ordering: .relaxed)
        switch subscriber.continuation.yield(Sized(element: make(subscriber.missed), bytes: bytes)) {
        case .dropped(let dropped):
            backlog.bytes.subtract(dropped.bytes, ordering: .relaxed)
            return false
        case .enqueued, .terminated: return true
        @unknown default: return true
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
