import Glibc
import MWStorage

/// Frames on their way into a segment: filled, written in one call, and used again.
@safe
struct FrameBuffer: ~Copyable, @unchecked Sendable {
    // Safety: the memory has this one owner, and a non-copyable value is used by one thread at a time.
    private var base: UnsafeMutableRawPointer
    private var capacity: Int
    private(set) var byteCount = 0
    private var frameStart = 0

    /// Memory that is kept from one batch to the next.
    private static let maximumIdleBytes = 4 << 20
    private static let initialBytes = 64 << 10
    /// A tag and two lengths of at most five bytes.
    private static let operationOverheadBytes = 11

    init() {
        capacity = FrameBuffer.initialBytes
        unsafe base = UnsafeMutableRawPointer.allocate(byteCount: FrameBuffer.initialBytes, alignment: LogFormat.alignment)
    }

    deinit { unsafe base.deallocate() }

    mutating func removeAll() {
        if capacity > FrameBuffer.maximumIdleBytes { self = FrameBuffer() }
        byteCount = 0
    }

    /// Where, in the buffer, the frame begins that is open.
    var openFrameOffset: Int { frameStart }
    var openPayloadBytes: Int { byteCount - frameStart - LogFormat.frameHeaderBytes }

    mutating func beginFrame() {
        frameStart = byteCount
        reserve(LogFormat.frameHeaderBytes)
        byteCount += LogFormat.frameHeaderBytes
    }

    mutating func endFrame(_ kind: FrameHeader.Kind, flags: UInt32, mark: UInt64, synced: Int) {
        let payloadBytes = openPayloadBytes
        store(UInt32(payloadBytes), at: frameStart + 4)
        store(mark, at: frameStart + 8)
        store(UInt64(synced), at: frameStart + 16)
        store(kind.rawValue, at: frameStart + 24)
        store(flags, at: frameStart + 28)
        var crc = CRC32C()
        unsafe crc.add(UnsafeRawBufferPointer(start: base + frameStart + 4, count: byteCount - frameStart - 4))
        store(crc.value, at: frameStart)
        let end = LogFormat.aligned(byteCount)
        reserve(end - byteCount)
        unsafe memset(base + byteCount, 0, end - byteCount)
        byteCount = end
    }

    mutating func append(key: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer?) {
        unsafe reserve(FrameBuffer.operationOverheadBytes + key.count + (value?.count ?? 0))
        unsafe base.storeBytes(of: value == nil ? LogFormat.removeTag : LogFormat.putTag, toByteOffset: byteCount, as: UInt8.self)
        byteCount += 1
        unsafe appendCounted(key)
        if let value = unsafe value { unsafe appendCounted(value) }
    }

    mutating func append(_ integer: UInt64) {
        reserve(MemoryLayout<UInt64>.size)
        store(integer, at: byteCount)
        byteCount += MemoryLayout<UInt64>.size
    }

    borrowing func withUnsafeBytes<E: Error>(_ body: (UnsafeRawBufferPointer) throws(E) -> Void) throws(E) {
        unsafe try body(UnsafeRawBufferPointer(start: base, count: byteCount))
    }

    private mutating func appendCounted(_ bytes: UnsafeRawBufferPointer) {
        var rest = UInt32(bytes.count)
        while rest >= 0x80 {
            unsafe base.storeBytes(of: UInt8(truncatingIfNeeded: rest) | 0x80, toByteOffset: byteCount, as: UInt8.self)
            byteCount += 1
            rest >>= 7
        }
        unsafe base.storeBytes(of: UInt8(truncatingIfNeeded: rest), toByteOffset: byteCount, as: UInt8.self)
        byteCount += 1
        guard let start = bytes.baseAddress else { return }
        unsafe (base + byteCount).copyMemory(from: start, byteCount: bytes.count)
        byteCount += bytes.count
    }

    private func store<I: FixedWidthInteger>(_ integer: I, at offset: Int) {
        unsafe base.storeBytes(of: integer.bigEndian, toByteOffset: offset, as: I.self)
    }

    private mutating func reserve(_ bytes: Int) {
        let needed = byteCount + bytes
        guard needed > capacity else { return }
        let grown = max(needed, capacity * 2)
        let moved = UnsafeMutableRawPointer.allocate(byteCount: grown, alignment: LogFormat.alignment)
        unsafe moved.copyMemory(from: base, byteCount: byteCount)
        unsafe base.deallocate()
        unsafe base = moved
        capacity = grown
    }
}
