internal import MWProtocol
internal import MWStorage
internal import NIOCore

/// Writes entries as the fields of ``NativeState`` events: one, or several where that would be over the message limit.
struct StatePageWriter {
    private let loop: SessionLoop
    private let revision: Int64
    private let isWithoutValues: Bool
    private let maximumBytes: Int
    private var events: [ByteBuffer] = []
    private var fields = ByteBuffer()
    private var lastKeyRange = 0..<0
    private var isTooBig = false
    /// Of all entries.
    private(set) var byteCount = 0

    /// Bytes that may be passed over for one that is told.
    private static let untoldBytesPerByte = 16

    /// Of the revision's field.
    private static let headBytes = NativeFields.headerBytes + MemoryLayout<Int64>.size

    // As in the fields of `NativeState` and `NativeEntry`.
    private enum Tag {
        static let revision: NativeTag = 1
        static let entry: NativeTag = 2
        static let key: NativeTag = 1
        static let value: NativeTag = 2
        static let entryRevision: NativeTag = 3
        static let lease: NativeTag = 4
    }

    init(on loop: SessionLoop, revision: UInt64, isWithoutValues: Bool, maximumBytes: Int) {
        self.loop = loop
        self.revision = Int64(clamping: revision)
        self.isWithoutValues = isWithoutValues
        self.maximumBytes = maximumBytes - NativeFrame.headerBytes
    }

    mutating func append(_ key: UnsafeRawBufferPointer, _ stored: StoredValue) {
        self.begin()
        let start = self.fields.writerIndex
        unsafe self.write(key, stored)
        if self.fields.readableBytes > self.maximumBytes, start > Self.headBytes {
            self.fields.moveWriterIndex(to: start)
            self.events.append(self.fields)
            self.fields = ByteBuffer()
            self.begin()
            unsafe self.write(key, stored)
        }
        if self.fields.readableBytes > self.maximumBytes { self.isTooBig = true }
        unsafe self.loop.passedEntry(of: key.count + stored.bytes.count)
        // A value that is not told is read nevertheless.
        self.byteCount +=
            unsafe key.count + (self.isWithoutValues ? stored.bytes.count / Self.untoldBytesPerByte : stored.bytes.count) + Self.headBytes
    }

    /// Of the last entry.
    var lastKey: [UInt8]? {
        self.fields.getBytes(at: self.lastKeyRange.lowerBound, length: self.lastKeyRange.count)
    }

    /// The fields of each event; nil if an entry is too large for any.
    consuming func finish() -> [ByteBuffer]? {
        guard !self.isTooBig else { return nil }
        var events = self.events
        if self.fields.readableBytes > 0 { events.append(self.fields) }
        return events
    }

    private mutating func begin() {
        if self.fields.readableBytes == 0 { self.fields.writeNativeField(Tag.revision, self.revision) }
    }

    private mutating func write(_ key: UnsafeRawBufferPointer, _ stored: StoredValue) {
        let isWithoutValues = self.isWithoutValues
        var keyStart = 0
        self.fields.writeNativeField(Tag.entry) { buffer in
            keyStart = buffer.writerIndex + NativeFields.headerBytes
            unsafe buffer.writeNativeField(Tag.key, key)
            if !isWithoutValues { unsafe buffer.writeNativeField(Tag.value, stored.bytes, on: self.loop) }
            buffer.writeNativeField(Tag.entryRevision, Int64(clamping: stored.revision.number))
            if let lease = stored.lease { buffer.writeNativeField(Tag.lease, Int64(clamping: lease.number)) }
        }
        self.lastKeyRange = keyStart..<keyStart + key.count
    }
}
