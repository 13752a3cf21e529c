internal import MWProtocol
internal import MWStorage
internal import NIOCore

extension StorageSnapshot {
    var watchRevision: Revision { .zero }

    func watchEntries(_ range: KeyRange, bytes: Int, isKeysOnly: Bool) throws(StorageError) -> (
        entries: [NativeEntry], hasMore: Bool, last: [UInt8]?
    ) {
        let page = try self.page(range, .forward, bytes: bytes)
        return (
            page.map { entry in
                var made = NativeEntry()
                made.key = ByteBuffer(bytes: entry.key)
                made.value = ByteBuffer(bytes: entry.value)
                return made
            }, !page.isEmpty, page.last?.key
        )
    }
}

extension Incarnation {
    var wireBytes: ByteBuffer {
        var buffer = ByteBuffer()
        buffer.writeInteger(self.number)
        return buffer
    }
}
