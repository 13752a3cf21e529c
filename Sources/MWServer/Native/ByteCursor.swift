internal import MWProtocol

/// Writes one after the other, big-endian, into memory that has room for it.
@safe
struct ByteCursor {
    private let bytes: UnsafeMutableRawBufferPointer
    private var offset = 0

    init(_ bytes: UnsafeMutableRawBufferPointer) { unsafe self.bytes = bytes }

    var isAtEnd: Bool { unsafe self.offset == self.bytes.count }

    /// The header of a frame of `byteCount`.
    @inline(__always)
    mutating func writeHeader(byteCount: Int, ofReplyTo kind: NativeRequestKind, _ id: RequestID) {
        self.write(UInt32(truncatingIfNeeded: byteCount - MemoryLayout<UInt32>.size))
        self.write(UInt16(NativeRole.reply.rawValue) << 8)
        self.write(kind.rawValue)
        self.write(id.rawValue)
    }

    @inline(__always)
    mutating func write<Integer: FixedWidthInteger & BitwiseCopyable>(_ integer: Integer) {
        unsafe self.bytes.storeBytes(of: integer.bigEndian, toByteOffset: self.offset, as: Integer.self)
        self.offset += MemoryLayout<Integer>.size
    }

    /// A field's header.
    @inline(__always)
    mutating func write(_ tag: NativeTag, _ length: UInt32) {
        self.write(tag.rawValue)
        self.write(length)
    }

    /// A field whose value is an integer.
    @inline(__always)
    mutating func write(_ tag: NativeTag, _ integer: Int64) {
        self.write(tag, UInt32(MemoryLayout<Int64>.size))
        self.write(integer)
    }

    @inline(__always)
    mutating func write(_ bytes: UnsafeRawBufferPointer, on loop: SessionLoop) {
        let end = self.offset + bytes.count
        unsafe loop.copy(bytes, to: UnsafeMutableRawBufferPointer(rebasing: self.bytes[self.offset..<end]))
        self.offset = end
    }
}
