/// XORs `bytes` with the masking key (RFC 6455 §5.3), 32 bytes at a time. Masking and unmasking are the same.
///
/// - Parameters:
///   - key: The four bytes of the key as they stand in the frame, the first one most significant.
///   - offset: How many bytes of the frame's payload came before `bytes`.
@inline(__always)
func applyMask(_ key: UInt32, to bytes: UnsafeMutableRawBufferPointer, offset: Int) {
    // The key turned so that its first byte meets the first byte here, in the order of memory.
    let shift = UInt32(truncatingIfNeeded: offset & 3) &* 8
    let rotated = shift == 0 ? key : (key &<< shift) | (key &>> (32 &- shift))
    let word = rotated.bigEndian
    let word64 = UInt64(word) | UInt64(word) &<< 32
    let word256 = SIMD4<UInt64>(repeating: word64)

    var index = 0
    let count = bytes.count
    while count - index >= 32 {
        let block = unsafe bytes.loadUnaligned(fromByteOffset: index, as: SIMD4<UInt64>.self)
        unsafe bytes.storeBytes(of: block ^ word256, toByteOffset: index, as: SIMD4<UInt64>.self)
        index += 32
    }
    while count - index >= 8 {
        let block = unsafe bytes.loadUnaligned(fromByteOffset: index, as: UInt64.self)
        unsafe bytes.storeBytes(of: block ^ word64, toByteOffset: index, as: UInt64.self)
        index += 8
    }
    // 32 and 8 are multiples of 4: the key starts anew here.
    var tail = word.littleEndian
    while index < count {
        unsafe bytes[index] ^= UInt8(truncatingIfNeeded: tail)
        tail &>>= 8
        if (index & 3) == 3 { tail = word.littleEndian }
        index += 1
    }
}
