import Glibc
import MWStorage

/// Reads the frames of a segment, one after the other, from any of them on.
@safe
struct FrameReader: ~Copyable {
    private let file: FileDescriptor
    private let path: String
    private let mark: UInt64
    private let end: Int
    /// Of the next frame.
    private(set) var offset: Int
    // Bytes of the file from `bufferStart` on.
    private var buffer: UnsafeMutableRawPointer
    private var capacity: Int
    private var bufferStart = 0
    private var bufferCount = 0

    /// What one read asks for, at least.
    private static let readBytes = 128 << 10

    /// What was found where a frame might begin.
    @unsafe
    enum Found {
        /// The payload is borrowed until the next call.
        case frame(FrameHeader, payload: UnsafeRawBufferPointer)
        /// The end of the file, or bytes that are no frame of this segment.
        case none
    }

    init(_ segment: LogSegment, from offset: Int, to end: Int) {
        self.file = segment.file
        self.path = segment.path
        self.mark = segment.mark
        self.offset = offset
        self.end = end
        self.capacity = FrameReader.readBytes
        unsafe buffer = UnsafeMutableRawPointer.allocate(byteCount: FrameReader.readBytes, alignment: LogFormat.alignment)
    }

    deinit { unsafe buffer.deallocate() }

    /// Reads the next frame, and checks it.
    mutating func next() throws(StorageError) -> Found {
        guard let start = unsafe try bytes(LogFormat.frameHeaderBytes) else { return unsafe .none }
        func load<I: FixedWidthInteger>(_ type: I.Type, _ place: Int) -> I {
            I(bigEndian: unsafe start.loadUnaligned(fromByteOffset: place, as: I.self))
        }
        guard load(UInt64.self, 8) == mark, let kind = FrameHeader.Kind(rawValue: load(UInt32.self, 24)) else { return unsafe .none }
        let header = FrameHeader(
            payloadBytes: Int(load(UInt32.self, 4)), synced: Int(clamping: load(UInt64.self, 16)), kind: kind, flags: load(UInt32.self, 28))
        let expected = load(UInt32.self, 0)
        let count = LogFormat.frameHeaderBytes + header.payloadBytes
        guard let whole = unsafe try bytes(count) else { return unsafe .none }
        var crc = CRC32C()
        unsafe crc.add(UnsafeRawBufferPointer(start: whole + 4, count: count - 4))
        guard crc.value == expected else { return unsafe .none }
        offset += header.frameBytes
        return unsafe .frame(
            header, payload: UnsafeRawBufferPointer(start: whole + LogFormat.frameHeaderBytes, count: header.payloadBytes))
    }

    /// Whether some frame behind the place where there is none says that this place had been on stable storage.
    mutating func isAcknowledgedHere() throws(StorageError) -> Bool {
        let place = offset
        while let start = unsafe try bytes(LogFormat.frameHeaderBytes) {
            let found = UInt64(bigEndian: unsafe start.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
            let synced = UInt64(bigEndian: unsafe start.loadUnaligned(fromByteOffset: 16, as: UInt64.self))
            let candidate = offset
            if found == mark, synced > UInt64(place), case .frame = unsafe try next() { return true }
            offset = candidate + LogFormat.alignment
        }
        return false
    }

    /// The next `count` bytes; nil if there are not so many.
    private mutating func bytes(_ count: Int) throws(StorageError) -> UnsafeMutableRawPointer? {
        guard count <= end - offset else { return nil }
        if offset < bufferStart || offset + count > bufferStart + bufferCount {
            if count > capacity {
                unsafe buffer.deallocate()
                capacity = count
                unsafe buffer = UnsafeMutableRawPointer.allocate(byteCount: count, alignment: LogFormat.alignment)
            }
            let wanted = unsafe UnsafeMutableRawBufferPointer(start: buffer, count: min(capacity, end - offset))
            bufferStart = offset
            bufferCount = 0
            bufferCount = unsafe try file.read(into: wanted, at: offset, subject: path)
            guard count <= bufferCount else { return nil }
        }
        return unsafe buffer + (offset - bufferStart)
    }
}
