internal import NIOCore

/// Plaintext that was written and is not encrypted yet: kept as it is, without a copy, in the order of writing.
struct PendingPlaintext {
    private struct Piece {
        var bytes: ByteBuffer
        /// Of the flush that ends here.
        var promise: EventLoopPromise<Void>?
    }

    /// Places of pieces that are gone, before room is made.
    private static let maximumGapCount = 64
    /// What is put together into one piece: a small one would keep the whole buffer that it lies in.
    private static let maximumGatheredBytes = 16 << 10

    /// Those before `head` are encrypted. An array that is empty holds no memory: most connections never have anything here.
    private var pieces: [Piece] = []
    private var head = 0
    /// Those before it are flushed.
    private var flushedEnd = 0
    private(set) var byteCount = 0
    private(set) var flushedByteCount = 0

    var isEmpty: Bool { head == pieces.count }
    /// Whether something may be encrypted.
    var hasFlushed: Bool { head < flushedEnd }

    mutating func append(_ bytes: ByteBuffer) {
        guard bytes.readableBytes > 0 else { return }
        byteCount += bytes.readableBytes
        guard bytes.readableBytes <= Self.maximumGatheredBytes else { return pieces.append(Piece(bytes: bytes)) }
        let last = pieces.count - 1
        if last >= max(flushedEnd, head), pieces[last].bytes.readableBytes + bytes.readableBytes <= Self.maximumGatheredBytes {
            pieces[last].bytes.writeImmutableBuffer(bytes)
        } else {
            pieces.append(Piece(bytes: ByteBuffer(bytes: bytes.readableBytesView)))
        }
    }

    /// Everything so far may be encrypted; `promise` belongs to its last byte.
    mutating func flush(_ promise: EventLoopPromise<Void>?) {
        if let promise {
            if flushedEnd < pieces.count, pieces[pieces.count - 1].promise == nil {
                pieces[pieces.count - 1].promise = promise
            } else {
                pieces.append(Piece(bytes: ByteBuffer(), promise: promise))
            }
        }
        flushedEnd = pieces.count
        flushedByteCount = byteCount
    }

    /// The next flushed bytes, at most `maximumBytes`, and the promise of the flush that ends with them.
    mutating func next(upTo maximumBytes: Int) -> (bytes: ByteBuffer, promise: EventLoopPromise<Void>?)? {
        guard hasFlushed else { return nil }
        if pieces[head].bytes.readableBytes > maximumBytes, let bytes = pieces[head].bytes.readSlice(length: maximumBytes) {
            byteCount -= maximumBytes
            flushedByteCount -= maximumBytes
            return (bytes, nil)
        }
        let piece = pieces[head]
        // Let go of at once: it may be large.
        pieces[head] = Piece(bytes: ByteBuffer())
        head += 1
        byteCount -= piece.bytes.readableBytes
        flushedByteCount -= piece.bytes.readableBytes
        if isEmpty {
            pieces = []
            (head, flushedEnd) = (0, 0)
        } else if head >= Self.maximumGapCount, head * 2 >= pieces.count {
            // A peer may take just enough for this never to become empty.
            pieces.removeFirst(head)
            flushedEnd -= head
            head = 0
        }
        return (piece.bytes, piece.promise)
    }

    /// Forgets what was not flushed.
    mutating func removeUnflushed() {
        byteCount = flushedByteCount
        pieces.removeSubrange(flushedEnd...)
    }

    /// Forgets everything; the promises are to be failed.
    mutating func removeAll() -> [EventLoopPromise<Void>] {
        defer { self = PendingPlaintext() }
        return pieces[head...].compactMap(\.promise)
    }
}
