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
