internal import MWProtocol
package import MWStorage
internal import MWWebSocket
package import NIOCore
internal import Synchronization

/// What one commit put, as FORCE_RELOAD frames: encoded once, shared by all clients.
package struct ReloadBatch: Sendable {
    package struct Request: Sendable {
        package let origin: CommitOrigin
        /// Where its frame is in ``ReloadBatch/bytes``; empty where nothing of it is told.
        package let range: Range<Int>
        /// Where the keys and values are in it.
        let pairs: Range<Int>
    }

    package private(set) var bytes = ByteBuffer()
    package private(set) var requests: [Request] = []

    package init() {}

    /// Calls `body` with the frames of all requests but those at `indices`, which are in order: as few slices as possible.
    func forEachSlice(without indices: [Int], _ body: (ByteBuffer) -> Void) {
        guard !indices.isEmpty else {
            if self.bytes.readableBytes > 0 { body(self.bytes) }
            return
        }
        var start = self.bytes.readerIndex
        func slice(to end: Int) {
            if start < end, let slice = self.bytes.getSlice(at: start, length: end - start) { body(slice) }
        }
        for index in indices {
            slice(to: self.requests[index].range.lowerBound)
            start = self.requests[index].range.upperBound
        }
        slice(to: self.bytes.writerIndex)
    }

    /// The frames' bytes in all.
    func byteCount(without indices: [Int]) -> Int {
        indices.reduce(self.bytes.readableBytes) { $0 - self.requests[$1].range.count }
    }

    // MARK: Making

    /// Appends what `request` put; removes have no place in a FORCE_RELOAD, nor have bytes that this protocol cannot say.
    mutating func append(_ request: borrowing CommittedRequest, from origin: CommitOrigin) {
        let appended = self.appendFrame { buffer in
            var isEmpty = true
            request.forEachChange { change in
                guard let value = unsafe change.value, unsafe MWDBReply.canSay(change.key), unsafe MWDBReply.canSay(value) else { return }
                unsafe Self.write(change.key, value, isFirst: isEmpty, to: &buffer)
                isEmpty = false
            }
            return !isEmpty
        }
        if let (range, pairs) = appended { self.requests.append(Request(origin: origin, range: range, pairs: pairs)) }
    }

    /// What of it somebody with `grants` may be told: what they could read, or watch, anyway. Requests keep their places.
    func visible(to grants: AccessGrants) -> ReloadBatch {
        guard grants.everywhere.isDisjoint(with: [.read, .watch]) else { return self }
        var batch = ReloadBatch()
        for request in self.requests {
            let slice = self.bytes.getSlice(at: request.pairs.lowerBound, length: request.pairs.count)
            let appended = slice.flatMap { MWDBPairs(bytes: $0) }.flatMap { pairs in
                batch.appendFrame { buffer in
                    var isEmpty = true
                    unsafe pairs.forEach { key, value in
                        guard unsafe grants.allows(.read, key) || grants.allows(.watch, key) else { return }
                        unsafe Self.write(key, value, isFirst: isEmpty, to: &buffer)
                        isEmpty = false
                    }
                    return !isEmpty
                }
            }
            let end = batch.bytes.writerIndex
            let (range, pairs) = appended ?? (end..<end, end..<end)
            batch.requests.append(Request(origin: request.origin, range: range, pairs: pairs))
        }
        return batch
    }

    /// - Parameter writePairs: Returns whether it wrote any; if not, no frame is appended.
    /// - Returns: Where the frame and its pairs are.
    private mutating func appendFrame(_ writePairs: (inout ByteBuffer) -> Bool) -> (frame: Range<Int>, pairs: Range<Int>)? {
        let start = self.bytes.writerIndex
        var machine = WebSocketStateMachine(role: .server)
        // The header comes before the payload afterwards, so they are counted from the end.
        var (pairBytes, trailerBytes) = (0, 0)
        do throws(NothingPut) {
            try machine.writeMessage(.binary, to: &self.bytes) { (buffer) throws(NothingPut) in
                let payload = buffer.writerIndex
                guard writePairs(&buffer) else { throw NothingPut() }
                pairBytes = buffer.writerIndex - payload
                MWDBReply.writeForceReloadTrailer(to: &buffer)
                trailerBytes = buffer.writerIndex - payload - pairBytes
            }
        } catch {
            return nil
        }
        let end = self.bytes.writerIndex
        return (start..<end, end - trailerBytes - pairBytes..<end - trailerBytes)
    }

    private static func write(
        _ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer, isFirst: Bool, to buffer: inout ByteBuffer
    ) {
        if !isFirst { buffer.writeInteger(mwdbSeparator) }
        unsafe buffer.writeBytes(key)
        buffer.writeInteger(mwdbSeparator)
        unsafe buffer.writeInParts(value)
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
