internal import MWProtocol
internal import MWStorage
internal import NIOCore

// Entries, written straight into the outbound buffer. The fields are those of NativeEntry in MWProtocol; what is empty or absent is left out.

extension Revision {
    /// On the wire.
    var native: Int64 { Int64(clamping: self.number) }
}

extension LeaseID {
    var native: Int64 { Int64(clamping: self.number) }
}

extension Duration {
    /// Whole milliseconds, rounded up: nobody is told of less time than there is to wait.
    var native: Int64 {
        let (seconds, attoseconds) = self.components
        let (milliseconds, isOver) = seconds.multipliedReportingOverflow(by: 1_000)
        let attosecondsPerMillisecond: Int64 = 1_000_000_000_000_000
        let rest = (attoseconds + attosecondsPerMillisecond - 1) / attosecondsPerMillisecond
        return isOver ? .max : milliseconds + rest
    }
}

/// An entry, whose length is known before it is written:
///
///     header 6 │ revision 14 │ lease 14, if there is one │ key 6 + n, unless it is empty │ value 6 + n, unless it is empty
struct NativeEntryLayout {
    private let revision: Revision
    private let lease: LeaseID?
    private let keyBytes: Int
    let valueBytes: Int
    let byteCount: Int
    private let headerBytes: Int

    @inline(__always)
    init(keyBytes: Int = 0, valueBytes: Int, _ revision: Revision, _ lease: LeaseID?) {
        self.revision = revision
        self.lease = lease
        self.keyBytes = keyBytes
        self.valueBytes = valueBytes
        // Asked for once: it is another module's.
        let header = NativeFields.headerBytes
        self.headerBytes = header
        var bytes = 2 * header + MemoryLayout<Int64>.size
        if lease != nil { bytes += header + MemoryLayout<Int64>.size }
        if keyBytes > 0 { bytes += header + keyBytes }
        if valueBytes > 0 { bytes += header + valueBytes }
        self.byteCount = bytes
    }

    /// Where its key is, if it is not empty.
    var keyRange: Range<Int> {
        let end = self.byteCount - (self.valueBytes > 0 ? self.headerBytes + self.valueBytes : 0)
        return end - self.keyBytes..<end
    }

    /// Writes all that is in front of the value.
    ///
    /// - Parameter key: Of as many bytes as were said.
    @inline(__always)
    func writeHead(_ tag: NativeTag, key: UnsafeRawBufferPointer, to cursor: inout ByteCursor, on loop: SessionLoop) {
        cursor.write(tag, UInt32(truncatingIfNeeded: self.byteCount - self.headerBytes))
        cursor.write(3, self.revision.native)
        if let lease { cursor.write(4, lease.native) }
        if self.keyBytes > 0 {
            cursor.write(1, UInt32(truncatingIfNeeded: self.keyBytes))
            unsafe cursor.write(key, on: loop)
        }
        if self.valueBytes > 0 { cursor.write(2, UInt32(truncatingIfNeeded: self.valueBytes)) }
    }
}

extension ByteBuffer {
    /// Appends an entry without its key, as answers to gets have them.
    @inline(__always)
    mutating func writeNativeEntry(_ tag: NativeTag, _ stored: StoredValue?, isWithoutValue: Bool, on loop: SessionLoop) {
        guard let stored else {
            self.writeMultipleIntegers(tag.rawValue, UInt32(0))
            return
        }
        unsafe self.writeNativeEntry(
            tag, key: UnsafeRawBufferPointer(start: nil, count: 0), value: stored.bytes, stored.revision, stored.lease,
            isWithoutValue: isWithoutValue, on: loop)
    }

    /// Appends an entry.
    @inline(__always)
    mutating func writeNativeEntry(
        _ tag: NativeTag, key: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer, _ revision: Revision, _ lease: LeaseID?,
        isWithoutValue: Bool, on loop: SessionLoop
    ) {
        let layout = NativeEntryLayout(keyBytes: key.count, valueBytes: isWithoutValue ? 0 : value.count, revision, lease)
        unsafe self.writeNativeEntry(tag, layout, key: key, value: value, on: loop)
    }

    /// Appends an entry, of as many bytes of `value` as `layout` has: all, or none.
    @inline(__always)
    mutating func writeNativeEntry(
        _ tag: NativeTag, _ layout: NativeEntryLayout, key: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer, on loop: SessionLoop
    ) {
        // All of it at once: each write to a buffer has its price.
        _ = unsafe self.writeWithUnsafeMutableBytes(minimumWritableBytes: layout.byteCount) { free in
            var cursor = unsafe ByteCursor(UnsafeMutableRawBufferPointer(rebasing: free[..<layout.byteCount]))
            unsafe layout.writeHead(tag, key: key, to: &cursor, on: loop)
            if layout.valueBytes > 0 { unsafe cursor.write(value, on: loop) }
            // What is not written was somebody else's.
            precondition(cursor.isAtEnd, "an entry is as long as was said")
            return layout.byteCount
        }
    }

    /// Appends an entry.
    mutating func writeNativeEntry(_ tag: NativeTag, _ entry: StoredEntry, isWithoutValue: Bool = false, on loop: SessionLoop) {
        unsafe entry.key.withUnsafeBytes { key in
            unsafe entry.value.withUnsafeBytes { value in
                unsafe self.writeNativeEntry(
                    tag, key: key, value: value, entry.revision, entry.lease, isWithoutValue: isWithoutValue, on: loop)
            }
        }
    }

    /// Appends a field, in parts if it is large.
    @inline(__always)
    mutating func writeNativeField(_ tag: NativeTag, _ bytes: UnsafeRawBufferPointer, on loop: SessionLoop) {
        guard bytes.count > ProcessorTurns.bytesPerLook else { return unsafe self.writeNativeField(tag, bytes) }
        self.writeMultipleIntegers(tag.rawValue, UInt32(truncatingIfNeeded: bytes.count))
        _ = unsafe self.writeWithUnsafeMutableBytes(minimumWritableBytes: bytes.count) { free in
            unsafe loop.copy(bytes, to: free)
            return bytes.count
        }
    }

    /// Appends bytes, in parts: on a thread that is no event loop's.
    mutating func writeInParts(_ bytes: UnsafeRawBufferPointer) {
        self.reserveCapacity(minimumWritableBytes: bytes.count)
        ProcessorTurns.inParts(bytes.count) { part in unsafe self.writeBytes(UnsafeRawBufferPointer(rebasing: bytes[part])) }
    }

    /// Appends a field whose value is yes.
    mutating func writeNativeTruth(_ tag: NativeTag) { self.writeMultipleIntegers(tag.rawValue, UInt32(1), UInt8(1)) }
}
