/// One case of the well-known conformance suite: what the peer sends, and what it must get back from an echo.
struct ConformanceCase: Sendable, CustomStringConvertible {
    var id: String
    var send: [TestFrame]
    var expect: [TestFrame]

    init(_ id: String, _ send: [TestFrame], _ expect: [TestFrame]) {
        self.id = id
        self.send = send
        self.expect = expect
    }

    /// The connection must end with this code after `before`.
    init(_ id: String, _ send: [TestFrame], before: [TestFrame] = [], fails code: UInt16) {
        self.init(id, send, before + [.close(code)])
    }

    var description: String { id }
}

extension ConformanceCase {
    static let all = framing + pings + reservedBits + opcodes + fragmentation + closing + sizes + miscellaneous

    private static func star(_ count: Int) -> [UInt8] { Array(repeating: UInt8(ascii: "*"), count: count) }

    static let framing: [Self] = [0, 125, 126, 127, 128, 65535, 65536].enumerated().flatMap { index, count in
        [
            Self("1.1.\(index + 1)", [.init(1, star(count))], [.init(1, star(count))]),
            Self("1.2.\(index + 1)", [.binary(Array(repeating: 0xFE, count: count))], [.binary(Array(repeating: 0xFE, count: count))]),
        ]
    }

    static let pings: [Self] = [
        Self("2.1", [.ping()], [.pong()]),
        Self("2.2", [.ping("Hello, world!")], [.pong("Hello, world!")]),
        Self(
            "2.3", [.init(9, [0x00, 0xFF, 0xFE, 0xFD, 0xFC, 0xFB, 0x00, 0xFF])],
            [.init(10, [0x00, 0xFF, 0xFE, 0xFD, 0xFC, 0xFB, 0x00, 0xFF])]),
        Self("2.4", [.init(9, Array(repeating: 0xFE, count: 125))], [.init(10, Array(repeating: 0xFE, count: 125))]),
        Self("2.5", [.init(9, Array(repeating: 0xFE, count: 126))], fails: 1002),
        Self("2.7", [.pong()], []),
        Self("2.8", [.pong("unsolicited pong payload")], []),
        Self("2.9", [.pong("unsolicited"), .ping("ping payload")], [.pong("ping payload")]),
        Self("2.10", (0..<10).map { .ping("payload-\($0)") }, (0..<10).map { .pong("payload-\($0)") }),
    ]

    static let reservedBits: [Self] =
        (1...7).map { (bits: Int) in
            Self("3.\(bits)", [.text("Hello"), .init(1, star(8), reserved: UInt8(bits)), .ping()], before: [.text("Hello")], fails: 1002)
        }
        + [
            Self("3.5c", [.init(9, reserved: 5)], fails: 1002), Self("3.6c", [.init(8, reserved: 6)], fails: 1002),
            Self("3.7c", [.init(10, reserved: 1)], fails: 1002),
        ]

    static let opcodes: [Self] = (Array(3...7) + Array(11...15)).flatMap { opcode in
        [
            Self("4.\(opcode) empty", [.init(opcode), .ping()], fails: 1002),
            Self("4.\(opcode)", [.text("Hello"), .init(opcode, star(9)), .ping()], before: [.text("Hello")], fails: 1002),
        ]
    }

    private static let (first, second) = (TestFrame.text("fragment1", fin: false), TestFrame.continuation("fragment2", fin: true))

    static let fragmentation: [Self] = [
        Self("5.1", [.init(9, Array("fragment1".utf8), fin: false), second], fails: 1002),
        Self("5.2", [.init(10, Array("fragment1".utf8), fin: false), second], fails: 1002),
        Self("5.3", [first, second], [.text("fragment1fragment2")]),
        Self("5.6", [first, .ping("ping"), second], [.pong("ping"), .text("fragment1fragment2")]),
        Self("5.9", [.continuation("non-continuation", fin: true), .text("Hello")], fails: 1002),
        Self("5.12", [.continuation("non-continuation", fin: false), .text("Hello")], fails: 1002),
        Self(
            "5.15", [first, second, .continuation("fragment3", fin: false), .text("fragment4")], before: [.text("fragment1fragment2")],
            fails: 1002),
        Self("5.16", [.continuation("fragment1", fin: false), first, second], fails: 1002),
        Self("5.18", [first, .text("fragment2")], fails: 1002),
        Self(
            "5.19",
            [
                first, .continuation("fragment2", fin: false), .ping("1"), .continuation("fragment3", fin: false),
                .continuation("fragment4", fin: false), .ping("2"), .continuation("fragment5", fin: true),
            ], [.pong("1"), .pong("2"), .text("fragment1fragment2fragment3fragment4fragment5")]),
        Self("5.x empty fragments", [.text("", fin: false), .continuation("", fin: false), .continuation("", fin: true)], [.text("")]),
        Self("5.x binary", [.binary([1, 0xFF], fin: false), .init(0, [0xFE])], [.binary([1, 0xFF, 0xFE])]),
    ]

    static let closing: [Self] =
        [
            Self("7.1.1", [.text("Hello World!"), .close(1000)], [.text("Hello World!"), .close(1000)]),
            Self("7.1.2", [.close(1000), .close(1000)], [.close(1000)]),
            Self("7.1.3", [.close(1000), .ping()], [.close(1000)]),
            Self("7.1.4", [.close(1000), .text("Hello")], [.close(1000)]),
            Self("7.1.5", [first, .close(1000), second], [.close(1000)]),
            Self(
                "7.1.6", [.init(1, star(256 * 1024)), .text("Hello World!"), .close(1000), .ping()],
                [.init(1, star(256 * 1024)), .text("Hello World!"), .close(1000)]),
            // The original client leaves with an empty close frame and gets 1000.
            Self("7.3.1", [.close()], [.close(1000)]),
            Self("7.3.2", [.init(8, [0x61])], fails: 1002),
            Self("7.3.3", [.close(1000)], [.close(1000)]),
            Self("7.3.4", [.close(1000, "Hello World!")], [.close(1000)]),
            Self("7.3.5", [.init(8, [0x03, 0xE8] + star(123))], [.close(1000)]),
            Self("7.3.6", [.init(8, [0x03, 0xE8] + star(124))], fails: 1002),
            Self("7.5.1", [.init(8, [0x03, 0xE8, 0xCE, 0xBA, 0xE1, 0xBD, 0xB9, 0xCF, 0x83, 0xED, 0xA0, 0x80])], fails: 1007),
        ]
        + [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999].map { (code: UInt16) in
            Self("7.7 \(code)", [.close(code)], [.close(code)])
        }
        + [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535].map { (code: UInt16) in
            Self("7.9 \(code)", [.close(code)], fails: 1002)
        }

    static let sizes: [Self] = [
        Self("9.1 512 KiB", [.init(1, star(512 << 10))], [.init(1, star(512 << 10))]),
        Self("9.2 512 KiB", [.binary(Array(repeating: 0xFE, count: 512 << 10))], [.binary(Array(repeating: 0xFE, count: 512 << 10))]),
        Self("9.3 fragments of 64", fragments(1, total: 64 << 10, each: 64), [.init(1, star(64 << 10))]),
        Self("9.4 fragments of 256", fragments(2, total: 256 << 10, each: 256), [.init(2, star(256 << 10))]),
        Self("9.4 fragments of 64 KiB", fragments(2, total: 256 << 10, each: 64 << 10), [.init(2, star(256 << 10))]),
        Self(
            "9.7 many small", Array(repeating: .text("0123456789abcdef"), count: 500),
            Array(repeating: .text("0123456789abcdef"), count: 500)),
    ]

    static let miscellaneous: [Self] = [
        Self("10.1.1", fragments(1, total: 65536, each: 1300), [.init(1, star(65536))])
    ]

    static func fragments(_ opcode: UInt8, total: Int, each: Int) -> [TestFrame] {
        stride(from: 0, to: total, by: each).map { start in
            let count = min(each, total - start)
            return TestFrame(start == 0 ? opcode : 0, star(count), fin: start + count == total)
        }
    }
}
