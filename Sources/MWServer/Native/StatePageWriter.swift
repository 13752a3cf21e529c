internal import MWProtocol
internal import MWStorage
internal import NIOCore

/// Writes entries as the fields of ``NativeState`` events: one, or several where that would be over the message limit.
struct StatePageWriter {
    private let revision: Int64
    private let isWithoutValues: Bool
    private let maximumBytes: Int
    private var events: [ByteBuffer] = []
    private var fields = ByteBuffer()
    private var isTooBig = false
    /// Of the revision's field.
    private static let headBytes = NativeFields.headerBytes + MemoryLayout<Int64>.size
    /// Of all entries.
    private(set) var byteCount = 0

    init(revision: UInt64, isWithoutValues: Bool, maximumBytes: Int) {
        self.revision = Int64(clamping: revision)
        self.isWithoutValues = isWithoutValues
        self.maximumBytes = maximumBytes - NativeFrame.headerBytes
    }

    mutating func append(_ entry: NativeEntry) {
        var entry = entry
        if self.isWithoutValues { entry.value = ByteBuffer() }
        self.begin()
        let start = self.fields.writerIndex
        self.write(entry)
        if self.fields.readableBytes > self.maximumBytes, start > Self.headBytes {
            self.fields.moveWriterIndex(to: start)
            self.events.append(self.fields)
            self.fields = ByteBuffer()
            self.begin()
            self.write(entry)
        }
        if self.fields.readableBytes > self.maximumBytes { self.isTooBig = true }
        self.byteCount += entry.key.readableBytes + entry.value.readableBytes
    }

    /// The fields of each event; nil if an entry is too large for any.
    consuming func finish() -> [ByteBuffer]? {
        guard !self.isTooBig else { return nil }
        var events = self.events
        if self.fields.readableBytes > 0 { events.append(self.fields) }
        return events
    }

    private mutating func begin() {
        if self.fields.readableBytes == 0 { self.fields.writeNativeField(1, self.revision) }
    }

    private mutating func write(_ entry: NativeEntry) {
        self.fields.writeNativeField(2) { entry.writeNativeValue(to: &$0) }
    }
}
