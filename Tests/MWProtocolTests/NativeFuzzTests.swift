import MWProtocol
import NIOCore
import Testing

/// Frames that were changed at random: a decoder reads them or throws, and what it read says the same when written again.
/// `scripts/fuzz native` goes on where this stops.
@Suite struct NativeFuzzTests {
    private static let rounds = 20_000

    private static var seeds: [ByteBuffer] {
        var sessions = NativeSessions()
        sessions.sessions = [NativeSessionEntry()]
        var identity = NativeIdentity()
        identity.rules = ["rule 1"]
        identity.rights = [NativeRight("read", prefix: ByteBuffer(string: "a/"))]
        var buffers = [ByteBuffer](repeating: ByteBuffer(), count: 4)
        NativeFrame.write(NativeHello(), id: RequestID(1), to: &buffers[0])
        NativeFrame.write(NativePing(payload: ByteBuffer(string: "ping")), id: RequestID(2), to: &buffers[0])
        NativeFrame.write(reply: sessions, to: .sessions, id: RequestID(3), to: &buffers[1])
        NativeFrame.write(reply: identity, to: .whoami, id: RequestID(4), to: &buffers[2])
        NativeFrame.write(failure: NativeFailure(.unavailable, "ends"), of: .status, id: RequestID(5), to: &buffers[3])
        return buffers
    }

    @Test func `A changed message is read or refused, and says the same when written again`() throws {
        var random = SystemRandomNumberGenerator()
        let seeds = Self.seeds
        var read = 0
        for _ in 0..<Self.rounds {
            var bytes = Array(buffer: seeds.randomElement(using: &random) ?? ByteBuffer())
            for _ in 0..<Int.random(in: 1...3, using: &random) {
                let position = Int.random(in: 0..<bytes.count, using: &random)
                bytes[position] = [0, 1, 6, 7, 8, 0x7f, 0x80, 0xff].randomElement(using: &random) ?? 0
            }
            guard let frames = try? NativeFrame.all(in: ByteBuffer(bytes: bytes)) else { continue }
            for frame in frames {
                var again = ByteBuffer()
                frame.write(to: &again)
                #expect(try NativeFrame.all(in: again) == [frame])
                guard let record = try? NativeIdentity(frame.fields) else { continue }
                read += 1
                var written = ByteBuffer()
                record.writeNativeValue(to: &written)
                #expect(try NativeIdentity(NativeFields(bytes: written)) == record)
            }
        }
        #expect(read > Self.rounds / 100, "most changes must not be refused for the frame alone")
    }

    // Fields by slices and by pointers, which share only the look at the bounds.
    @Test func `Random bytes are the same fields whichever way they are read`() throws {
        var random = SystemRandomNumberGenerator()
        for _ in 0..<Self.rounds {
            var bytes: [UInt8] = []
            for _ in 0..<Int.random(in: 0...4, using: &random) {
                let length = UInt8.random(in: 0...5, using: &random)
                bytes += [0, UInt8.random(in: 0...3, using: &random), 0, 0, 0, length]
                bytes += (0..<Int(length) + Int.random(in: 0...1, using: &random)).map { _ in UInt8.random(in: 0...255, using: &random) }
            }
            let fields = NativeFields(bytes: ByteBuffer(bytes: bytes))
            var walked: [(NativeTag, [UInt8])] = []
            do {
                unsafe try fields.forEach { (tag, value) throws(ProtocolError) in unsafe walked.append((tag, Array(value))) }
                let slices = try fields.slices().map { ($0.tag, Array(buffer: $0.value)) }
                #expect(slices.elementsEqual(walked) { $0 == $1 })
            } catch {
                #expect(throws: ProtocolError.self) { try fields.slices() }
            }
        }
    }
}
