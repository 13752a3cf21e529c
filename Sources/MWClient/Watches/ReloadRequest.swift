import Synchronization

/// An administrator wants what was read from the store to be dropped and read afresh: for programs that hold such things themselves. A
/// ``Replica`` and a ``NearCache`` do it on their own.
public final class ReloadRequest: Sendable {
    /// What is meant; none: everything.
    public let ranges: [KeyRange]
    /// What the administrator said.
    public let reason: String
    private let acknowledge: Mutex<(@Sendable () -> Void)?>

    init(_ notice: ReloadNotice, done: @escaping @Sendable () -> Void) {
        self.ranges = notice.ranges
        self.reason = notice.reason
        self.acknowledge = Mutex(done)
    }

    /// Says that it has been done. The server is told once every holder of this client has said so; a second call does nothing.
    public func done() { self.acknowledge.withLock { $0.take() }?() }

    /// Requests that may wait; one beyond stays unanswered. An administrator makes one at a time.
    static let maximumWaiting = 256
}

extension ClientCore {
    /// As ``StorageClient/reloadRequests``.
    func reloadRequests() -> AsyncStream<ReloadRequest> {
        let (stream, continuation) = AsyncStream.makeStream(
            of: ReloadRequest.self, bufferingPolicy: .bufferingOldest(ReloadRequest.maximumWaiting))
        let id = self.holdReloads { notice, done in
            // Nobody reads any more: nothing is held.
            if case .terminated = continuation.yield(ReloadRequest(notice, done: done)) { done() }
        }
        continuation.onTermination = { [weak self] _ in self?.releaseReloads(id) }
        return stream
    }
}
