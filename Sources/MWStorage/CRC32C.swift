import CLinux

/// The Castagnoli checksum (RFC 3720 appendix B.4), for export streams, backups and logs.
package struct CRC32C {
    private var state: UInt32 = 0xFFFF_FFFF

    package init() {}

    /// The checksum of all that was added.
    package var value: UInt32 { ~state }

    package static func of(_ bytes: some Sequence<UInt8>) -> UInt32 {
        var crc = CRC32C()
        crc.add(bytes)
        return crc.value
    }

    /// Eight bytes at a time where the processor has an instruction for it.
    package mutating func add(_ bytes: UnsafeRawBufferPointer) {
        guard let start = bytes.baseAddress else { return }
        if mws_has_crc32c() != 0 { return state = unsafe mws_crc32c(state, start, bytes.count) }
        unsafe addByteByByte(bytes)
    }

    mutating func add(_ bytes: some Sequence<UInt8>) {
        if bytes.withContiguousStorageIfAvailable({ unsafe add(UnsafeRawBufferPointer($0)) }) == nil { addByteByByte(bytes) }
    }

    private mutating func addByteByByte(_ bytes: some Sequence<UInt8>) {
        var state = state
        for byte in bytes { state = CRC32C.table[Int(UInt8(truncatingIfNeeded: state) ^ byte)] ^ (state >> 8) }
        self.state = state
    }

    /// The reflected polynomial 0x1EDC6F41, byte by byte.
    private static let table: [UInt32] = (0..<256).map { index in
        (0..<8).reduce(UInt32(index)) { rest, _ in rest & 1 == 1 ? (rest >> 1) ^ 0x82F6_3B78 : rest >> 1 }
    }
}
