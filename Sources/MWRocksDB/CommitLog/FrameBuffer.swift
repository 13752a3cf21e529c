import Glibc
import MWStorage

/// Frames on their way into a segment: written in one call, what is long from where it lies, and used again.
///
///     pieces   │ header │ operations of a batch, borrowed │ zeros, header, a short operation │ …
@safe
struct FrameBuffer: ~Copyable, @unchecked Sendable {
    // Safety: the memory has this one owner, and a non-copyable value is used by one thread at a time; what is borrowed is used until
    // `removeAll()` at most.
    private var base: UnsafeMutableRawPointer
    private var capacity: Int
    /// Of the memory.
    private var ownCount = 0
    private var pieces: [Piece] = []
    /// Of all frames.
    private(set) var byteCount = 0
    private var frameStart = 0
    private var framePiece = 0

    /// Bytes that are written one behind the other.
    @safe
    private struct Piece {
        /// Nil for our own.
        let borrowed: UnsafeRawPointer?
        /// Of our own, which may move: where they are.
        let offset: Int
        var count = 0
    }

    /// Memory that is kept from one batch to the next.
    private static let maximumIdleBytes = 4 << 20
    private static let initialBytes = 64 << 10
    /// What is shorter is copied: a piece of its own costs more.
    private static let minimumBorrowedBytes = 2 << 10
    /// A tag and a length of at most five bytes.
    private static let removalOverheadBytes = 6

    init() {
        capacity = FrameBuffer.initialBytes
        unsafe base = UnsafeMutableRawPointer.allocate(byteCount: FrameBuffer.initialBytes, alignment: LogFormat.alignment)
    }

    deinit { unsafe base.deallocate() }

    mutating func removeAll() {
        if capacity > FrameBuffer.maximumIdleBytes { self = FrameBuffer() }
        pieces.removeAll(keepingCapacity: true)
        (ownCount, byteCount) = (0, 0)
    }

    // MARK: Frames

    /// Where, among the frames, the one begins that is open.
    var openFrameOffset: Int { frameStart }
    var openPayloadBytes: Int { byteCount - frameStart - LogFormat.frameHeaderBytes }

    mutating func beginFrame() {
        frameStart = byteCount
        framePiece = pieces.count
        unsafe pieces.append(Piece(borrowed: nil, offset: ownCount))
        reserve(LogFormat.frameHeaderBytes)
        addOwn(LogFormat.frameHeaderBytes)
    }

    mutating func endFrame(_ kind: FrameHeader.Kind, flags: UInt32, mark: UInt64, synced: Int) {
        copyShortPiece()
        let header = pieces[framePiece].offset
        store(UInt32(openPayloadBytes), at: header + 4)
        store(mark, at: header + 8)
        store(UInt64(synced), at: header + 16)
        store(kind.rawValue, at: header + 24)
        store(flags, at: header + 28)
        var crc = CRC32C()
        for index in framePiece..<pieces.count {
            let summed = unsafe UnsafeRawBufferPointer(rebasing: bytes(of: pieces[index]).dropFirst(index == framePiece ? 4 : 0))
            ProcessorTurns.inParts(summed.count) { part in unsafe crc.add(UnsafeRawBufferPointer(rebasing: summed[part])) }
        }
        store(crc.value, at: header)
        appendZeros(LogFormat.aligned(byteCount) - byteCount)
    }

    /// Appends the bytes of an operation as `WriteBatch` has them, which stay where they are until ``removeAll()``.
    mutating func append(borrowing operation: UnsafeRawBufferPointer) {
        guard let start = operation.baseAddress else { return }
        if let last = pieces.last, let borrowed = unsafe last.borrowed, unsafe borrowed + last.count == start {
            pieces[pieces.count - 1].count += operation.count
        } else {
            copyShortPiece()
            pieces.append(unsafe Piece(borrowed: start, offset: 0, count: operation.count))
        }
        byteCount += operation.count
    }

    /// Appends the removal of a key.
    mutating func append(removalOf key: UnsafeRawBufferPointer) {
        prepareOwn(FrameBuffer.removalOverheadBytes + key.count)
        unsafe base.storeBytes(of: LogFormat.removeTag, toByteOffset: ownCount, as: UInt8.self)
        addOwn(1)
        var rest = UInt32(key.count)
        while rest >= 0x80 {
            unsafe base.storeBytes(of: UInt8(truncatingIfNeeded: rest) | 0x80, toByteOffset: ownCount, as: UInt8.self)
            addOwn(1)
            rest >>= 7
        }
        unsafe base.storeBytes(of: UInt8(truncatingIfNeeded: rest), toByteOffset: ownCount, as: UInt8.self)
        addOwn(1)
        unsafe appendOwn(key)
    }

    mutating func append(_ integer: UInt64) {
        prepareOwn(MemoryLayout<UInt64>.size)
        store(integer, at: ownCount)
        addOwn(MemoryLayout<UInt64>.size)
    }

    // MARK: Writing

    /// Writes all frames, and so many zeros behind them, at most 4096.
    borrowing func write(to file: FileDescriptor, _ path: String, at position: Int, zeros: Int = 0) throws(StorageError) {
        var vectors: [iovec] = unsafe []
        unsafe vectors.reserveCapacity(pieces.count + 1)
        for piece in pieces {
            let bytes = unsafe bytes(of: piece)
            for start in stride(from: 0, to: bytes.count, by: FileDescriptor.maximumBytesAtOnce) {
                let end = min(start + FileDescriptor.maximumBytesAtOnce, bytes.count)
                unsafe vectors.append(FrameBuffer.vector(of: UnsafeRawBufferPointer(rebasing: bytes[start..<end])))
            }
        }
        try unsafe FrameBuffer.zeros.span.bytes.withUnsafeBytes { (page) throws(StorageError) in
            if zeros > 0 { unsafe vectors.append(FrameBuffer.vector(of: UnsafeRawBufferPointer(rebasing: page[..<zeros]))) }
            unsafe try file.write(&vectors, at: position, subject: path)
        }
    }

    private static func vector(of bytes: UnsafeRawBufferPointer) -> iovec {
        unsafe iovec(iov_base: UnsafeMutableRawPointer(mutating: bytes.baseAddress), iov_len: bytes.count)
    }

    private static let zeros = [UInt8](repeating: 0, count: 4096)

    // MARK: Pieces

    /// Copies what was borrowed last if it is not worth a piece.
    private mutating func copyShortPiece() {
        guard let last = pieces.last, let start = unsafe last.borrowed, last.count < FrameBuffer.minimumBorrowedBytes else { return }
        pieces.removeLast()
        byteCount -= last.count
        prepareOwn(last.count)
        unsafe appendOwn(UnsafeRawBufferPointer(start: start, count: last.count))
    }

    /// Room for some bytes of our own, behind those before.
    private mutating func prepareOwn(_ bytes: Int) {
        copyShortPiece()
        if pieces.last.map({ unsafe $0.borrowed != nil }) ?? true { unsafe pieces.append(Piece(borrowed: nil, offset: ownCount)) }
        reserve(bytes)
    }

    private mutating func addOwn(_ bytes: Int) {
        ownCount += bytes
        byteCount += bytes
        pieces[pieces.count - 1].count += bytes
    }

    private mutating func appendOwn(_ bytes: UnsafeRawBufferPointer) {
        guard let start = bytes.baseAddress else { return }
        unsafe (base + ownCount).copyMemory(from: start, byteCount: bytes.count)
        addOwn(bytes.count)
    }

    private mutating func appendZeros(_ count: Int) {
        guard count > 0 else { return }
        prepareOwn(count)
        unsafe memset(base + ownCount, 0, count)
        addOwn(count)
    }

    private func bytes(of piece: Piece) -> UnsafeRawBufferPointer {
        unsafe UnsafeRawBufferPointer(start: piece.borrowed ?? UnsafeRawPointer(base + piece.offset), count: piece.count)
    }

    private func store<I: FixedWidthInteger>(_ integer: I, at offset: Int) {
        unsafe base.storeBytes(of: integer.bigEndian, toByteOffset: offset, as: I.self)
    }

    private mutating func reserve(_ bytes: Int) {
        let needed = ownCount + bytes
        guard needed > capacity else { return }
        let grown = max(needed, capacity * 2)
        let moved = UnsafeMutableRawPointer.allocate(byteCount: grown, alignment: LogFormat.alignment)
        unsafe moved.copyMemory(from: base, byteCount: ownCount)
        unsafe base.deallocate()
        unsafe base = moved
        capacity = grown
    }
}
