import Testing

@testable import MWStorage

@Suite struct KnownRevisionsTests {
    @Test("what is known of a key is what was said last, whatever was said of others", arguments: 1...8)
    func model(seed: UInt64) {
        var random = SplitMix(state: seed)
        var known = KnownRevisions(maximumBytes: 64 << 10)
        var model: [[UInt8]: Revision] = [:]
        var found = 0
        for step in 1...20_000 {
            let key = key(Int(random.next() % 1_500))
            // Keys whose hashes agree in part, and wholly, too.
            let hash = Int(truncatingIfNeeded: key.reduce(0) { $0 &* 31 &+ UInt64($1) } % 700)
            unsafe key.span.bytes.withUnsafeBytes { bytes in
                switch random.next() % 8 {
                case 0:
                    unsafe known.forget(bytes, hash)
                    model[key] = nil
                case 1...4:
                    let revision = random.next() % 4 == 0 ? Revision.zero : Revision(UInt64(step))
                    unsafe known.set(bytes, hash, revision)
                    model[key] = revision
                default:
                    guard let revision = unsafe known.revision(of: bytes, hash) else { break }
                    #expect(revision == model[key])
                    found += 1
                }
            }
        }
        #expect(found > 500)
    }

    @Test("what was written last is known, also after many others and after it has grown")
    func recent() {
        var known = KnownRevisions(maximumBytes: 4 << 20)
        for number in 1...10_000 {
            let key = key(number)
            unsafe key.span.bytes.withUnsafeBytes { unsafe known.set($0, CommitOverlay.hash($0), Revision(UInt64(number))) }
        }
        let count = (1...10_000).count { number in
            unsafe key(number).span.bytes.withUnsafeBytes { unsafe known.revision(of: $0, CommitOverlay.hash($0)) != nil }
        }
        #expect(count > 7_000)
    }

    @Test("a key that is longer than a slot is not kept, one that just fits is")
    func lengths() {
        var known = KnownRevisions(maximumBytes: 64 << 10)
        for (length, isKept) in [(0, true), (KnownRevisions.maximumKeyBytes, true), (KnownRevisions.maximumKeyBytes + 1, false)] {
            let key = Array(repeating: UInt8(7), count: length)
            unsafe key.span.bytes.withUnsafeBytes { bytes in
                unsafe known.set(bytes, 5, Revision(9))
                let revision = unsafe known.revision(of: bytes, 5)
                #expect(revision == (isKept ? Revision(9) : nil))
            }
        }
    }

    private func key(_ number: Int) -> [UInt8] { Array("key \(number)".utf8) + Array(repeating: 0, count: number % 38) }

    private struct SplitMix {
        var state: UInt64

        mutating func next() -> UInt64 {
            state &+= 0x9E37_79B9_7F4A_7C15
            var z = state
            z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
            z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
            return z ^ z >> 31
        }
    }
}
