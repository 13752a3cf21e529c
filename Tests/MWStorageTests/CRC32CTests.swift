import Testing

@testable import MWStorage

@Suite struct CRC32CTests {
    // RFC 3720, appendix B.4, and the check value of the catalogue of CRCs.
    @Test("the checksum is the one of RFC 3720")
    func vectors() {
        #expect(CRC32C.of([UInt8](repeating: 0, count: 32)) == 0x8A91_36AA)
        #expect(CRC32C.of([UInt8](repeating: 0xFF, count: 32)) == 0x62A8_AB43)
        #expect(CRC32C.of(0..<32 as Range<UInt8>) == 0x46DD_794E)
        #expect(CRC32C.of("123456789".utf8) == 0xE306_9283)
    }

    // Long blocks are summed in three parts at once.
    @Test("bytes come to the same one by one, in pieces and all at once", arguments: [0, 1, 7, 8, 767, 768, 769, 1535, 1536, 5000])
    func pieces(count: Int) {
        let bytes = (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 197 ^ $0 >> 5) }
        var single = CRC32C()
        for byte in bytes { single.add(CollectionOfOne(byte)) }
        #expect(CRC32C.of(bytes) == single.value)
        for place in stride(from: 0, through: count, by: max(1, count / 13)) {
            var both = CRC32C()
            both.add(bytes[..<place])
            both.add(bytes[place...])
            #expect(both.value == single.value)
        }
    }
}
