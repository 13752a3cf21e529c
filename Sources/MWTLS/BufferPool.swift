package import NIOCore

/// Buffers that the connections of one event loop use in turn, for what a read brought and for what is written: a connection without
/// traffic holds none, and one with traffic allocates none.
///
/// Use it on its event loop only.
package final class BufferPool {
    /// What is kept for the next burst, in bytes, of each of the two kinds. Default 4 MiB: a turn that writes to a thousand watchers finds
    /// a buffer for each.
    package static let defaultMaximumIdleBytes = 4 * 1024 * 1024
    /// A larger one is not kept: what a read brings at most, and what fills a socket's buffer.
    private static let maximumInboundBytes = 64 * 1024
    private static let maximumOutboundBytes = 256 * 1024
    private static let firstOutboundBytes = 4096

    private let inbound: UncheckedBox<Idle>
    private let outbound: UncheckedBox<Idle>

    package init(maximumIdleBytes: Int = BufferPool.defaultMaximumIdleBytes) {
        inbound = UncheckedBox(Idle(maximumBytes: maximumIdleBytes))
        outbound = UncheckedBox(Idle(maximumBytes: maximumIdleBytes))
    }

    /// An empty buffer for what was received; whoever has read it may give it back.
    package func takeInbound() -> ByteBuffer { inbound.value.take() ?? ByteBuffer() }

    /// An empty buffer for what is to be sent.
    package func takeOutbound() -> ByteBuffer { outbound.value.take() ?? ByteBufferAllocator().buffer(capacity: Self.firstOutboundBytes) }

    /// Takes a buffer's storage back, if nobody else holds it.
    package func giveBack(inbound buffer: inout ByteBuffer) {
        inbound.value.give(&buffer, maximumCapacity: Self.maximumInboundBytes)
    }

    /// Takes a buffer's storage back, if nobody else holds it.
    package func giveBack(outbound buffer: inout ByteBuffer) {
        outbound.value.give(&buffer, maximumCapacity: Self.maximumOutboundBytes)
    }

    /// Bytes that are kept at the moment.
    package var idleBytes: Int { inbound.value.byteCount + outbound.value.byteCount }

    /// Lets go of all that is kept.
    package func removeAll() {
        inbound.value.removeAll()
        outbound.value.removeAll()
    }
}

/// The last one given back is the first one taken: it is still in the processor's cache.
private struct Idle {
    let maximumBytes: Int
    private var buffers: [ByteBuffer] = []
    private(set) var byteCount = 0

    init(maximumBytes: Int) { self.maximumBytes = maximumBytes }

    mutating func take() -> ByteBuffer? {
        guard let buffer = buffers.popLast() else { return nil }
        byteCount -= buffer.capacity
        return buffer
    }

    mutating func give(_ buffer: inout ByteBuffer, maximumCapacity: Int) {
        // A cleared buffer reaches over all of its storage, and knows how much that is without a look at it.
        if buffer.capacity > 0, buffer.modifyIfUniquelyOwned({ $0.clear() }) != nil, buffer.capacity <= maximumCapacity,
            byteCount + buffer.capacity <= maximumBytes
        {
            buffers.append(buffer)
            byteCount += buffer.capacity
        }
        buffer = ByteBuffer()
    }

    mutating func removeAll() {
        buffers = []
        byteCount = 0
    }
}
