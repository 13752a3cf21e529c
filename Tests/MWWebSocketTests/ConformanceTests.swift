import MWWebSocket
import NIOCore
import Testing

@Suite("The conformance suite's cases, at both ends, however the stream is cut")
struct ConformanceTests {
    @Test("an echo answers as the suite demands", arguments: ConformanceCase.all, WebSocketRole.both)
    func echoes(_ example: ConformanceCase, _ role: WebSocketRole) throws {
        let received = example.send.map(role.received)
        for slicing in Slicing.allCases {
            let end = EchoEnd(role)
            for bytes in slicing.cut(received) { end.receive(bytes) }
            // The reason of a close frame is ours to choose.
            let shortened = end.sent?.map { $0.opcode == 8 ? TestFrame(8, Array($0.payload.prefix(2))) : $0 }
            #expect(shortened == example.expect, "\(slicing)")
            let endsClosed = example.expect.last?.opcode == 8
            #expect(end.state == (endsClosed ? .closed : .open), "\(slicing)")
        }
    }

    @Test("a ping flood sliced bytewise gets every answer while the output flows", arguments: WebSocketRole.both)
    func pingFlood(_ role: WebSocketRole) throws {
        let end = EchoEnd(role)
        for number in 0..<1000 { end.receive(role.received(.ping("\(number)"))) }
        #expect(end.sent == (0..<1000).map { .pong("\($0)") })
    }
}

@Suite("Text is UTF-8, told at the first byte that cannot be (RFC 6455 §8.1)")
struct TextTests {
    static let valid: [[UInt8]] =
        [
            "", "Hello-µ@ßöäüàá-UTF-8!!", "κόσμε", "\u{0}", "\u{7F}", "\u{80}", "\u{7FF}", "\u{800}", "\u{FFFF}", "\u{10000}", "\u{10FFFF}",
            "\u{D7FF}", "\u{E000}", "\u{FFFD}", "\u{FFFE}", "\u{1FFFE}", "𝄞𝄞𝄞𝄞𝄞𝄞𝄞𝄞𝄞𝄞",
            "ASCII that is longer than a block of the fast path, é, and then more of it €",
        ].map { Array($0.utf8) }

    /// With the index of the first byte that shows it; the length for what only ends too early.
    static let invalid: [(bytes: [UInt8], at: Int)] = [
        ([0x80], 0), ([0xBF], 0), ([0xC0, 0xAF], 0), ([0xC1, 0xBF], 0), ([0xC2], 1), ([0xC2, 0x20], 1), ([0xE0, 0x80, 0xAF], 1),
        ([0xE0, 0x9F, 0xBF], 1), ([0xE1, 0x80], 2), ([0xE1, 0x80, 0x41], 2), ([0xED, 0xA0, 0x80], 1), ([0xED, 0xBF, 0xBF], 1),
        ([0xED, 0xAD, 0xBF, 0xED, 0xB0, 0x80], 1), ([0xF0, 0x80, 0x80, 0xAF], 1), ([0xF0, 0x8F, 0xBF, 0xBF], 1),
        ([0xF0, 0x90, 0x80], 3), ([0xF4, 0x90, 0x80, 0x80], 1), ([0xF5, 0x80, 0x80, 0x80], 0), ([0xF8, 0x88, 0x80, 0x80, 0x80], 0),
        ([0xFC, 0x84], 0), ([0xFE], 0), ([0xFF], 0),
        ([0xCE, 0xBA, 0xE1, 0xBD, 0xB9, 0xCF, 0x83, 0xCE, 0xBC, 0xCE, 0xB5, 0xED, 0xA0, 0x80, 0x65, 0x64, 0x69, 0x74, 0x65, 0x64], 12),
        (
            [0xCE, 0xBA, 0xE1, 0xBD, 0xB9, 0xCF, 0x83, 0xCE, 0xBC, 0xCE, 0xB5, 0xF4, 0x90, 0x80, 0x80, 0x65, 0x64, 0x69, 0x74, 0x65, 0x64],
            12
        ),
    ]

    @Test("valid text is echoed, whole, cut into fragments anywhere, and bytewise", arguments: valid)
    func accepts(_ text: [UInt8]) throws {
        for cut in 0...text.count {
            let frames = [TestFrame(1, Array(text[..<cut]), fin: false), TestFrame(0, Array(text[cut...]))]
            for slicing in Slicing.allCases {
                let end = EchoEnd(.server)
                for bytes in slicing.cut(frames.map(WebSocketRole.server.received)) { end.receive(bytes) }
                #expect(end.sent == [TestFrame(1, text)])
            }
        }
    }

    @Test("invalid text ends with 1007, wherever it stands", arguments: invalid.indices)
    func refuses(_ index: Int) throws {
        for prefix in ["", "a", "12345678", String(repeating: "x", count: 61), "µ"] {
            let text = Array(prefix.utf8) + Self.invalid[index].bytes
            for cut in Set([0, 1, prefix.utf8.count, prefix.utf8.count + 1, text.count]).filter({ $0 <= text.count }) {
                let frames = [TestFrame(1, Array(text[..<cut]), fin: false), TestFrame(0, Array(text[cut...]))]
                for slicing in Slicing.allCases {
                    let end = EchoEnd(.server)
                    for bytes in slicing.cut(frames.map(WebSocketRole.server.received)) { end.receive(bytes) }
                    #expect(end.events.compactMap(\.violation?.code) == [.utf8Invalid])
                    #expect(end.sent?.first?.payload.prefix(2) == [0x03, 0xEF])
                }
            }
        }
    }

    @Test("inside a frame that is still coming, the first bad byte ends the connection at once (6.4)", arguments: invalid.indices)
    func failsFast(_ index: Int) {
        let (text, badIndex) = Self.invalid[index]
        // A frame of which the rest never comes.
        let bytes = WebSocketRole.server.received(TestFrame(1, text + Array(repeating: 0x20, count: 50)))
        let end = EchoEnd(.server)
        for (position, byte) in bytes.enumerated() {
            end.receive([byte])
            let isShown = position >= 6 + badIndex
            #expect(end.state == (isShown ? .closed : .open), "byte \(position)")
        }
    }

    @Test("the fast path and the slow path agree with the standard library on random bytes")
    func agreesWithStandardLibrary() {
        var generator = SeededGenerator(state: 6)
        let leads: [UInt8] = [0x41, 0x80, 0x9F, 0xA0, 0xBF, 0xC2, 0xE0, 0xE1, 0xED, 0xF0, 0xF1, 0xF4, 0xF5]
        var disagreements: [[UInt8]] = []
        for _ in 0..<10_000 {
            let ascii = [UInt8](repeating: 0x61, count: Int.random(in: 0...40, using: &generator))
            let odd = (0..<Int.random(in: 0...6, using: &generator)).map { _ in leads.randomElement(using: &generator) ?? 0 }
            let bytes = ascii + odd + ascii.prefix(3)
            var validator = UTF8Validator()
            let isValid = unsafe bytes.withUnsafeBytes { unsafe validator.validate($0) } && validator.isComplete
            if isValid != (String(validating: bytes, as: UTF8.self) != nil) { disagreements.append(bytes) }
        }
        #expect(disagreements == [])
    }
}
