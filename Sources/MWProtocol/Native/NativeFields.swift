package import NIOCore

/// A field's number within its frame or record.
package struct NativeTag: Hashable, Sendable, CustomStringConvertible, ExpressibleByIntegerLiteral {
    package let rawValue: UInt16

    package init(rawValue: UInt16) { self.rawValue = rawValue }

    package init(integerLiteral value: UInt16) { self.rawValue = value }

    private static let criticalBit: UInt16 = 0x8000

    /// Whoever does not know this field must not act on the frame: the field changes what the rest of it means.
    package var isCritical: Bool { self.rawValue & Self.criticalBit != 0 }

    /// The same number, as one that must be understood.
    package var critical: NativeTag { NativeTag(rawValue: self.rawValue | Self.criticalBit) }

    package var description: String {
        self.isCritical ? "\(self.rawValue & ~Self.criticalBit) (critical)" : "\(self.rawValue)"
    }
}

/// The fields of a frame or record, still in the buffer they arrived in. Their bounds are looked at as they are read.
package struct NativeFields: Hashable, Sendable {
    /// As they are on the wire.
    package let bytes: ByteBuffer

    package init(bytes: ByteBuffer = ByteBuffer()) { self.bytes = bytes }

    /// Bytes of a tag and a length.
    package static let headerBytes = 6

    /// Calls `body` once for each field, in order, without copying or allocating. The pointer is valid during the call only.
    ///
    /// Throws ``ProtocolError/Code/tornField`` where a field has no header, or is longer than what is left; and what `body` throws.
    package func forEach(_ body: (NativeTag, UnsafeRawBufferPointer) throws(ProtocolError) -> Void) throws(ProtocolError) {
        // withUnsafeReadableBytes has no typed throws.
        let failure = unsafe self.bytes.withUnsafeReadableBytes { bytes -> ProtocolError? in
            do throws(ProtocolError) {
                unsafe try Self.forEach(in: bytes, body)
                return nil
            } catch {
                return error
            }
        }
        if let failure { throw failure }
    }

    /// The same for the fields of a record, which are a field's value.
    package static func forEach(
        in bytes: UnsafeRawBufferPointer, _ body: (NativeTag, UnsafeRawBufferPointer) throws(ProtocolError) -> Void
    ) throws(ProtocolError) {
        var offset = 0
        while offset < bytes.count {
            let (tag, length) = try unsafe Self.header(bytes, at: offset)
            offset += Self.headerBytes
            unsafe try body(tag, UnsafeRawBufferPointer(rebasing: bytes[offset..<offset + length]))
            offset += length
        }
    }

    /// One slice of the same storage for each field. Allocates the array: for clients, tests and what is rare.
    package func slices() throws(ProtocolError) -> [(tag: NativeTag, value: ByteBuffer)] {
        var slices: [(tag: NativeTag, value: ByteBuffer)] = []
        var offset = self.bytes.readerIndex
        unsafe try self.forEach { (tag, value) throws(ProtocolError) in
            offset += Self.headerBytes
            // The cursor has just looked at these bounds.
            slices.append((tag, self.bytes.getSlice(at: offset, length: value.count) ?? ByteBuffer()))
            offset += value.count
        }
        return slices
    }

    private static func header(_ bytes: UnsafeRawBufferPointer, at offset: Int) throws(ProtocolError) -> (tag: NativeTag, length: Int) {
        let left = bytes.count - offset - Self.headerBytes
        guard left >= 0 else {
            throw ProtocolError(
                .tornField, "field", expected: "a header of \(Self.headerBytes) bytes", found: "\(left + Self.headerBytes) bytes")
        }
        let tag = unsafe UInt16(bigEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt16.self))
        let length = unsafe UInt32(bigEndian: bytes.loadUnaligned(fromByteOffset: offset + 2, as: UInt32.self))
        guard length <= left else {
            throw ProtocolError(.tornField, "field \(tag)", expected: "at most the \(left) bytes that are left", found: "\(length)")
        }
        return (NativeTag(rawValue: tag), Int(length))
    }
}

// MARK: - Reading in place

extension NativeTag {
    /// Throws ``ProtocolError/Code/unsupportedField`` if a field of this tag, which nobody knows, cannot be skipped.
    @inline(__always)
    package func checkSkippable() throws(ProtocolError) {
        guard self.isCritical else { return }
        throw ProtocolError(.unsupportedField, "field \(self)", expected: "only fields that this version knows")
    }
}

extension UnsafeRawBufferPointer {
    /// A field's value as an integer.
    @inline(__always)
    package func nativeInteger(_ name: StaticString) throws(ProtocolError) -> Int64 {
        guard self.count == MemoryLayout<Int64>.size else {
            throw ProtocolError(.malformedField, "field \(name)", expected: "an integer of 8 bytes", found: "\(self.count) bytes")
        }
        return Int64(bigEndian: unsafe self.loadUnaligned(as: Int64.self))
    }

    /// A field's value as a truth.
    @inline(__always)
    package func nativeTruth(_ name: StaticString) throws(ProtocolError) -> Bool {
        guard self.count == 1, unsafe self[0] <= 1 else {
            throw ProtocolError(.malformedField, "field \(name)", expected: "one byte, 0 or 1")
        }
        return unsafe self[0] == 1
    }
}

extension Optional {
    /// Keeps the value of a field that may come once.
    @inline(__always)
    package mutating func setNativeField(_ name: StaticString, _ value: Wrapped) throws(ProtocolError) {
        guard self == nil else { throw ProtocolError(.malformedField, "field \(name)", expected: "it at most once", found: "it twice") }
        self = value
    }
}

// MARK: - Writing

extension ByteBuffer {
    /// Appends a field of raw bytes.
    @inline(__always)
    package mutating func writeNativeField(_ tag: NativeTag, _ bytes: UnsafeRawBufferPointer) {
        self.writeMultipleIntegers(tag.rawValue, UInt32(truncatingIfNeeded: bytes.count))
        unsafe self.writeBytes(bytes)
    }

    /// Appends a field whose value is an integer.
    @inline(__always)
    package mutating func writeNativeField(_ tag: NativeTag, _ integer: Int64) {
        self.writeMultipleIntegers(tag.rawValue, UInt32(MemoryLayout<Int64>.size), integer)
    }

    /// Appends a field whose value `body` writes.
    @inline(__always)
    package mutating func writeNativeField<Failure: Error>(
        _ tag: NativeTag, _ body: (inout ByteBuffer) throws(Failure) -> Void
    ) throws(Failure) {
        self.writeMultipleIntegers(tag.rawValue, UInt32(0))
        let start = self.writerIndex
        try body(&self)
        self.setInteger(UInt32(truncatingIfNeeded: self.writerIndex - start), at: start - MemoryLayout<UInt32>.size)
    }
}
