import NIOCore
import Testing

@testable import MWTLS

@Suite struct BufferPoolTests {
    private func address(_ buffer: ByteBuffer) -> UInt { unsafe buffer.withVeryUnsafeBytes { UInt(bitPattern: $0.baseAddress) } }

    private func filled(_ count: Int) -> ByteBuffer { ByteBuffer(repeating: 1, count: count) }

    @Test func `What is given back is taken again, empty, the last one first`() {
        let pool = BufferPool()
        var (first, second) = (filled(100), filled(200))
        let addresses = [address(second), address(first)]
        pool.giveBack(inbound: &first)
        pool.giveBack(inbound: &second)
        #expect(first.storageCapacity == 0)
        let taken = [pool.takeInbound(), pool.takeInbound()]
        #expect(taken.map(address) == addresses)
        #expect(taken.allSatisfy { $0.readableBytes == 0 })
        #expect(pool.takeInbound().storageCapacity == 0)
        #expect(pool.idleBytes == 0)
    }

    @Test func `What somebody else holds is not kept`() {
        let pool = BufferPool()
        var buffer = filled(100)
        let slice = buffer.getSlice(at: 0, length: 10)
        pool.giveBack(inbound: &buffer)
        #expect(buffer.storageCapacity == 0 && pool.idleBytes == 0)
        #expect(slice == filled(10))
    }

    @Test func `What was received and what is sent are kept apart, each within its size`() {
        let pool = BufferPool()
        var buffer = filled(256 * 1024)
        pool.giveBack(inbound: &buffer)
        #expect(pool.idleBytes == 0)
        buffer = filled(256 * 1024)
        pool.giveBack(outbound: &buffer)
        #expect(pool.idleBytes == 256 * 1024)
        #expect(pool.takeInbound().storageCapacity == 0)
        buffer = filled(256 * 1024 + 1)
        pool.giveBack(outbound: &buffer)
        #expect(pool.idleBytes == 256 * 1024)
        pool.removeAll()
        #expect(pool.idleBytes == 0)
    }

    @Test func `All that is kept stays within the bytes that may be`() {
        let pool = BufferPool(maximumIdleBytes: 1024)
        var buffers = (0..<10).map { _ in filled(256) }
        for index in buffers.indices { pool.giveBack(outbound: &buffers[index]) }
        #expect(pool.idleBytes == 1024)
    }
}
