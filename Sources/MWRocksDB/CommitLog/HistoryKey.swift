import MWStorage

/// Keys of history: its keyspace, and the revision.
enum HistoryKey {
    static let byteCount = 1 + MemoryLayout<UInt64>.size

    /// Nil for any other key.
    static func revision(_ key: UnsafeRawBufferPointer) -> UInt64? {
        guard key.count == byteCount, unsafe key.first == Keyspace.history.prefix else { return nil }
        return UInt64(bigEndian: unsafe key.loadUnaligned(fromByteOffset: 1, as: UInt64.self))
    }

    static func withKey(of revision: UInt64, _ body: (UnsafeRawBufferPointer) -> Void) {
        unsafe withUnsafeTemporaryAllocation(byteCount: byteCount, alignment: 1) { buffer in
            unsafe buffer.storeBytes(of: Keyspace.history.prefix, as: UInt8.self)
            unsafe buffer.storeBytes(of: revision.bigEndian, toByteOffset: 1, as: UInt64.self)
            unsafe body(UnsafeRawBufferPointer(buffer))
        }
    }
}
