import DequeModule
import Synchronization

/// The events of a watch: one reader, who may be slow.
///
/// The watch begins with the first call of `next()`, and ends when the iterator is let go, its task is cancelled, or the client is closed, whereupon
/// the sequence ends. It throws ``ClientError`` where it cannot go on:
///
/// - `compacted`, `wrongIncarnation`, `watchOverflowed`: a gap, see ``GapPolicy``;
/// - `forbidden`: the ranges are not all readable to us;
/// - `limitExceeded`: a limit of ``WatchOptions`` would be broken;
/// - `protocolMismatch`: the server repeated, tore or reordered what it reports. Nothing of that is passed on.
///
/// A lost connection is none of these: ``WatchEvent/disconnected(_:)``, and after ``WatchEvent/resumed(_:)`` what was missed.
public struct WatchSequence: AsyncSequence, Sendable {
    /// An event.
    public typealias Element = WatchEvent
    /// `ClientError`.
    public typealias Failure = any Error

    private let core: ClientCore
    private let configuration: WatchStateMachine.Configuration

    init(_ configuration: WatchStateMachine.Configuration, core: ClientCore) {
        self.configuration = configuration
        self.core = core
    }

    /// A watch of its own.
    public func makeAsyncIterator() -> Iterator { Iterator(self.configuration, core: self.core) }

    /// Reads the events, from one task at a time.
    public struct Iterator: AsyncIteratorProtocol {
        private final class Life {
            let buffer: WatchBuffer
            let handle: WatchHandle

            init(_ configuration: WatchStateMachine.Configuration, core: ClientCore) {
                self.buffer = WatchBuffer()
                self.handle = WatchHandle(configuration, sink: self.buffer, core: core)
            }

            deinit { self.handle.close() }
        }

        private let core: ClientCore
        private let configuration: WatchStateMachine.Configuration
        private var life: Life?

        fileprivate init(_ configuration: WatchStateMachine.Configuration, core: ClientCore) {
            self.configuration = configuration
            self.core = core
        }

        /// The next event; `nil` once the client was closed or the task cancelled.
        ///
        /// - Throws: ``ClientError``, once; then the sequence has ended.
        public mutating func next() async throws -> WatchEvent? {
            let life = self.life ?? Life(self.configuration, core: self.core)
            self.life = life
            let (event, mayGoOn) = try await life.buffer.next()
            if mayGoOn { life.handle.tell { $0.drained() } }
            return event
        }
    }
}

/// What a watch has reported and nobody has read yet.
final class WatchBuffer: WatchSink {
    private struct State {
        var events: Deque<WatchEvent> = []
        var bytes = 0
        var isPaused = false
        var end: Result<Void, ClientError>?
        var reader: CheckedContinuation<Void, Never>?
    }

    private let state = Mutex(State())

    func take(_ events: [WatchEvent]) -> Int {
        let added = events.reduce(0) { $0 + $1.byteCount }
        let (bytes, reader) = self.state.withLock { state in
            state.events.append(contentsOf: events)
            state.bytes += added
            return (state.bytes, state.reader.take())
        }
        reader?.resume()
        return bytes
    }

    func pause() -> Bool {
        self.state.withLock { state in
            state.isPaused = !state.events.isEmpty
            return state.isPaused
        }
    }

    func end(because error: ClientError?) {
        let reader = self.state.withLock { state in
            if state.end == nil { state.end = error.map { .failure($0) } ?? .success(()) }
            return state.reader.take()
        }
        reader?.resume()
    }

    /// - Returns: the next event, nil at the end; and whether the receiver is to be told that it was the last that waited.
    func next() async throws -> (WatchEvent?, mayGoOn: Bool) {
        while true {
            let found: Result<(WatchEvent?, mayGoOn: Bool), ClientError>? = self.state.withLock { state in
                if let event = state.events.popFirst() {
                    state.bytes -= event.byteCount
                    guard state.isPaused, state.events.isEmpty else { return .success((event, false)) }
                    state.isPaused = false
                    return .success((event, true))
                }
                switch state.end {
                case .success?: return .success((nil, false))
                case .failure(let error)?:
                    state.end = .success(())
                    return .failure(error)
                case nil: return Task.isCancelled ? .success((nil, false)) : nil
                }
            }
            if let found { return try found.get() }
            await withTaskCancellationHandler {
                await withCheckedContinuation { continuation in
                    let isAtOnce = self.state.withLock { state in
                        precondition(state.reader == nil, "a watch has one reader")
                        guard state.events.isEmpty, state.end == nil, !Task.isCancelled else { return true }
                        state.reader = continuation
                        return false
                    }
                    if isAtOnce { continuation.resume() }
                }
            } onCancel: {
                self.state.withLock { $0.reader.take() }?.resume()
            }
        }
    }
}
