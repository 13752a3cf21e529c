#if canImport(Glibc)
    import Glibc
#elseif canImport(Darwin)
    import Darwin
#endif

/// Keys that mask a client's frames: unpredictable, one for each frame (RFC 6455 §5.3, §10.3).
///
/// Drawn from the system in blocks: a system call for each frame would cost as much as the frame.
struct MaskingKeys {
    /// Keys of one block: as many as fit the 256 bytes that getentropy gives at most.
    private static let blockCount = 64
    private var block: [UInt32] = []

    mutating func next() -> UInt32 {
        if let key = self.block.popLast() { return key }
        self.block = unsafe [UInt32](unsafeUninitializedCapacity: Self.blockCount) { buffer, count in
            let failed = unsafe getentropy(buffer.baseAddress, Self.blockCount * MemoryLayout<UInt32>.size) != 0
            precondition(!failed, "the system gives no randomness")
            count = Self.blockCount
        }
        return self.block.removeLast()
    }
}
