internal import MWProtocol
package import MWStorage
internal import MWWebSocket
package import NIOCore
internal import Synchronization

/// What one commit put, as FORCE_RELOAD frames: encoded once, shared by all clients.
package struct ReloadBatch: Sendable {
    package struct Request: Sendable {
        package let origin: CommitOrigin
        /// Where its frame is in ``ReloadBatch/bytes``.
        package let range: Range<Int>
    }

    package private(set) var bytes = ByteBuffer()
    package private(set) var requests: [Request] = []

    package init() {}

    /// The frames of all requests but those in `ranges`, which are in order: as few slices as possible.
    func frames(without ranges: [Range<Int>]) -> [ByteBuffer] {
        var frames: [ByteBuffer] = []
        var start = self.bytes.readerIndex
        for range in ranges {
            if start < range.lowerBound, let slice = self.bytes.getSlice(at: start, length: range.lowerBound - start) {
                frames.append(slice)
            }
            start = range.upperBound
        }
        let end = self.bytes.writerIndex
        if start < end, let slice = self.bytes.getSlice(at: start, length: end - start) { frames.append(slice) }
        return frames
    }

    /// Appends what `request` put; removes have no place in a FORCE_RELOAD, nor have bytes that this protocol cannot say.
    mutating func append(_ request: borrowing CommittedRequest, from origin: CommitOrigin) {
        let start = self.bytes.writerIndex
        var machine = WebSocketStateMachine(role: .server)
        do throws(NothingPut) {
            try machine.writeMessage(.binary, to: &self.bytes) { (buffer) throws(NothingPut) in
                var isEmpty = true
                unsafe request.forEachChange { key, value in
                    guard let value = unsafe value, unsafe MWDBReply.canSay(key), unsafe MWDBReply.canSay(value) else { return }
                    if !isEmpty { buffer.writeInteger(mwdbSeparator) }
                    isEmpty = false
                    unsafe buffer.writeBytes(key)
                    buffer.writeInteger(mwdbSeparator)
                    unsafe buffer.writeBytes(value)
                }
                if isEmpty { throw NothingPut() }
                MWDBReply.writeForceReloadTrailer(to: &buffer)
            }
            self.requests.append(Request(origin: origin, range: start..<self.bytes.writerIndex))
        } catch {
            // Nothing was appended.
        }
    }

    private struct NothingPut: Error {}
}

/// Watches commits, and tells the mwDB clients of every event loop what was put: by other clients, and in process.
package final class ReloadBroadcaster: StorageObserver {
    /// Sessions that want to hear of changes.
    private let sessions = Atomic<Int>(0)
    private let deliver: @Sendable (ReloadBatch) -> Void

    /// - Parameter deliver: Called on the commit thread; brings a batch to ``StorageLoop/reloadsCommitted(_:)`` on each event loop.
    package init(deliver: @escaping @Sendable (ReloadBatch) -> Void) { self.deliver = deliver }

    func sessionOpened() { self.sessions.add(1, ordering: .relaxed) }

    func sessionEnded() { self.sessions.subtract(1, ordering: .relaxed) }

    package func committed(_ commit: borrowing Commit) {
        guard self.sessions.load(ordering: .relaxed) > 0 else { return }
        var batch = ReloadBatch()
        commit.forEachRequest { origin, request in batch.append(request, from: origin) }
        if !batch.requests.isEmpty { self.deliver(batch) }
    }
}
