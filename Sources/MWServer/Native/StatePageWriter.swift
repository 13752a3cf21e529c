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

    // As in the fields of `NativeState`.
    private static let revisionTag: NativeTag = 1
    private static let entryTag: NativeTag = 2

    init(on loop: SessionLoop, revision: UInt64, isWithoutValues: Bool, maximumBytes: Int) {
        self.loop = loop
        self.revision = Int64(clamping: revision)
        self.isWithoutValues = isWithoutValues
        self.maximumBytes = maximumBytes - NativeFrame.headerBytes
    }

    mutating func append(_ key: UnsafeRawBufferPointer, _ stored: StoredValue) {
        let entry = NativeEntryLayout(
            keyBytes: key.count, valueBytes: self.isWithoutValues ? 0 : unsafe stored.bytes.count, stored.revision, stored.lease)
        if self.fields.readableBytes > 0, self.fields.readableBytes + entry.byteCount > self.maximumBytes {
            self.events.append(self.fields)
            self.fields = ByteBuffer()
        }
        if self.fields.readableBytes == 0 { self.fields.writeNativeField(Self.revisionTag, self.revision) }
        let start = self.fields.writerIndex
        unsafe self.fields.writeNativeEntry(Self.entryTag, entry, key: key, value: stored.bytes, on: self.loop)
        self.lastKeyRange = start + entry.keyRange.lowerBound..<start + entry.keyRange.upperBound
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
}
