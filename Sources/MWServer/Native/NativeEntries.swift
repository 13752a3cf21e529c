internal import MWProtocol
internal import MWStorage
internal import MWTLS
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

extension ByteBuffer {
    /// Bytes of a field whose value is an integer.
    private static var integerFieldBytes: Int { NativeFields.headerBytes + MemoryLayout<Int64>.size }

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
        let valueBytes = isWithoutValue ? 0 : value.count
        var bytes = Self.integerFieldBytes
        if lease != nil { bytes += Self.integerFieldBytes }
        if key.count > 0 { bytes += NativeFields.headerBytes + key.count }
        if valueBytes > 0 { bytes += NativeFields.headerBytes + valueBytes }
        let entryBytes = NativeFields.headerBytes + bytes
        // All of it at once: each write to a buffer has its price.
        _ = unsafe self.writeWithUnsafeMutableBytes(minimumWritableBytes: entryBytes) { free in
            var cursor = unsafe ByteCursor(UnsafeMutableRawBufferPointer(rebasing: free[..<entryBytes]))
            cursor.write(tag, UInt32(truncatingIfNeeded: bytes))
            cursor.write(3, revision.native)
            if let lease { cursor.write(4, lease.native) }
            if key.count > 0 {
                cursor.write(1, UInt32(truncatingIfNeeded: key.count))
                unsafe cursor.write(key, on: loop)
            }
            if valueBytes > 0 {
                cursor.write(2, UInt32(truncatingIfNeeded: valueBytes))
                unsafe cursor.write(value, on: loop)
            }
            // What is not written was somebody else's.
            precondition(cursor.isAtEnd, "an entry is as long as was said")
            return entryBytes
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

    /// Appends a field whose value is yes.
    mutating func writeNativeTruth(_ tag: NativeTag) { self.writeMultipleIntegers(tag.rawValue, UInt32(1), UInt8(1)) }
}
