import NIOCore

/// Writes numbers and bytes one after the other into memory that has room for them: a request costs one look at its buffer's bounds, and not
/// one for each field.
@unsafe struct LoadWriter {
    private let start: UnsafeMutableRawPointer
    private var next: UnsafeMutableRawPointer

    private init(_ start: UnsafeMutableRawPointer) {
        unsafe self.start = unsafe start
        unsafe next = unsafe start
    }

    /// Bytes written so far.
    var count: Int { unsafe next - start }

    /// A big-endian integer.
    @inline(__always)
    mutating func write<Integer: FixedWidthInteger & BitwiseCopyable>(_ integer: Integer) {
        unsafe next.storeBytes(of: integer.bigEndian, as: Integer.self)
        unsafe next += MemoryLayout<Integer>.size
    }

    /// The first `count` of these bytes.
    @inline(__always)
    mutating func write(_ bytes: UnsafeRawBufferPointer, _ count: Int) {
        guard let base = bytes.baseAddress else { return }
        unsafe next.copyMemory(from: base, byteCount: count)
        unsafe next += count
    }

    /// A byte that is not the next: the next stays.
    @inline(__always)
    mutating func set(_ byte: UInt8, at offset: Int) { unsafe next.storeBytes(of: byte, toByteOffset: offset, as: UInt8.self) }

    /// Goes over bytes that ``set(_:at:)`` wrote.
    @inline(__always)
    mutating func skip(_ count: Int) { unsafe next += count }

    /// Overwrites an integer, at an offset from the beginning.
    @inline(__always)
    mutating func patch(_ integer: UInt32, at offset: Int) {
        unsafe start.storeBytes(of: integer.bigEndian, toByteOffset: offset, as: UInt32.self)
    }

    /// Appends what `body` writes to a buffer.
    ///
    /// - Parameter maximumBytes: What `body` writes at most.
    @inline(__always)
    static func append(to buffer: inout ByteBuffer, maximumBytes: Int, _ body: (inout LoadWriter) -> Void) {
        unsafe buffer.writeWithUnsafeMutableBytes(minimumWritableBytes: maximumBytes) { bytes in
            guard let start = bytes.baseAddress else { return 0 }
            var writer = unsafe LoadWriter(start)
            unsafe body(&writer)
            let count = unsafe writer.count
            precondition(count <= maximumBytes, "a request is longer than it was said to be")
            return count
        }
    }
}
