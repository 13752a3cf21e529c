internal import MWTLS
internal import MWWebSocket
internal import NIOCore

// A large value leaves in turns, and so it lies in pieces, of which each is used again as soon as it has left. One buffer for all of it is
// memory that the system has to find first, and takes back in one go: a third of what the answer costs, and for 16 MiB a millisecond in which
// no other thread gets the processor.

extension SessionHandler {
    /// Beyond, a message is encrypted in turns.
    static var maximumBytesAtOnce: Int { TLSHandler.maximumBytesAtOnce }

    /// Sends a binary message of `head`, `value` and `tail`, which is too much to leave at once.
    func sendLarge(_ head: ByteBuffer, _ value: UnsafeRawBufferPointer, _ tail: ByteBuffer) {
        let payloadBytes = head.readableBytes + value.count + tail.readableBytes
        let frameHeaderBytes = WebSocketStateMachine.messageBytes(payloadBytes: payloadBytes) - payloadBytes
        // A turn's worth with what is in front of it: so each piece is whole records, where nothing else waits to leave.
        let firstBytes = min(max(0, TLSHandler.turnBytes - frameHeaderBytes - head.readableBytes), value.count)
        var pieces: [ByteBuffer] = []
        for start in stride(from: firstBytes, to: value.count, by: TLSHandler.turnBytes) {
            let part = unsafe UnsafeRawBufferPointer(rebasing: value[start..<min(start + TLSHandler.turnBytes, value.count)])
            var piece = self.loop.buffers.takeOutbound()
            piece.reserveCapacity(part.count)
            unsafe piece.writeBytes(part)
            pieces.append(piece)
            self.loop.worked(part.count)
        }
        pieces.append(tail)
        self.sendShared(.binary, headBytes: head.readableBytes + firstBytes, then: pieces) { outbound in
            outbound.writeImmutableBuffer(head)
            unsafe outbound.writeBytes(UnsafeRawBufferPointer(rebasing: value[..<firstBytes]))
        }
    }
}
