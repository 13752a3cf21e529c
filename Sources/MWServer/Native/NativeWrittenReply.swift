internal import MWProtocol
internal import MWStorage
internal import NIOCore

/// The reply to a write, a frame of known length with the fields of NativeWritten:
///
///     frame header 12 │ revision 14 │ changes 14 │ repeated 7, if it is
struct NativeWrittenReply {
    private let kind: NativeRequestKind
    private let id: RequestID
    private let written: Written

    private static let bytesOfEach = NativeFrame.headerBytes + 2 * (NativeFields.headerBytes + MemoryLayout<Int64>.size)
    private static let bytesIfRepeated = NativeFields.headerBytes + MemoryLayout<UInt8>.size

    init(_ kind: NativeRequestKind, _ id: RequestID, _ written: Written) {
        self.kind = kind
        self.id = id
        self.written = written
    }

    var byteCount: Int { Self.bytesOfEach + (self.written.isRepeated ? Self.bytesIfRepeated : 0) }

    /// Fills ``byteCount`` bytes.
    func write(into bytes: UnsafeMutableRawBufferPointer) {
        var cursor = unsafe ByteCursor(bytes)
        cursor.writeHeader(byteCount: bytes.count, ofReplyTo: self.kind, self.id)
        cursor.write(1, self.written.revision.native)
        cursor.write(3, Int64(self.written.changes))
        if self.written.isRepeated {
            cursor.write(2, UInt32(MemoryLayout<UInt8>.size))
            cursor.write(UInt8(1))
        }
        // What is not written was somebody else's.
        precondition(cursor.isAtEnd, "an answer is as long as was said")
    }
}

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
        unsafe loop.copy(bytes, to: UnsafeMutableRawBufferPointer(rebasing: self.bytes[self.offset...]))
        self.offset += bytes.count
    }
}
