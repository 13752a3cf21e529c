import MWProtocol
import NIOCore
import Testing

@Suite struct MWDBRulesTests {
    private func bytes(_ text: String) -> ByteBuffer { ByteBuffer(string: text) }

    @Test func `The answer to a get of one key that is filled in is the one that is written piece by piece`() throws {
        for value in [nil, "", "v", String(repeating: "long", count: 300)] as [String?] {
            for id in [0, 1, -1, 31, 32, 4_096, 1_000_000, .max, .min] as [Int32] {
                let id = RequestID(id)
                var pieces = ByteBuffer()
                let bytes = value.map { Array($0.utf8) }
                try unsafe bytes?.withUnsafeBytes { try unsafe MWDBReply.writeValue($0, isFirst: true, to: &pieces) }
                MWDBReply.writeGetTrailer(id: id, to: &pieces)
                var filled = [UInt8](repeating: 0, count: MWDBReply.byteCount(valueBytes: bytes?.count ?? 0, id: id))
                filled.replaceSubrange(0..<(bytes?.count ?? 0), with: bytes ?? [])
                unsafe filled.withUnsafeMutableBytes { unsafe MWDBReply.writeGetTrailer(id: id, behind: bytes?.count ?? 0, in: $0) }
                #expect(filled == Array(pieces.readableBytesView))
            }
        }
    }

    @Test(arguments: [
        ("a#", ["a"]), ("#", [""]), ("a##b", ["a", "", "b"]), ("", []), ("a", ["a"]), ("##", ["", ""]), ("#a", ["", "a"]),
    ]) func `Data splits on separators as the original splits it`(data: String, elements: [String]) {
        #expect(MWDBElements(bytes: self.bytes(data)).slices == elements.map(self.bytes))
        #expect(MWDBElements(bytes: self.bytes(data)).count == elements.count)
    }

    @Test(arguments: [
        ("", [] as [[String]]), ("k#", [["k", ""]]), ("k#v", [["k", "v"]]), ("k#v#", [["k", "v"]]), ("k##", [["k", ""]]),
        ("a#1#b#", [["a", "1"], ["b", ""]]), ("a##b#2", [["a", ""], ["b", "2"]]), ("#v", [["", "v"]]),
    ]) func `A put's data are pairs, and a separator at the end is an empty value`(data: String, pairs: [[String]]) throws {
        let parsed = try #require(MWDBPairs(bytes: self.bytes(data)))
        #expect(parsed.slices.map { [String(buffer: $0.key), String(buffer: $0.value)] } == pairs)
    }

    @Test(arguments: ["k", "a#1#b"]) func `A put whose last key has no value is answered as failed, not closed`(data: String) throws {
        let error = try #require(throws: ProtocolError.self) { try MWDBRequest(message: self.bytes(data + "#\u{2}G")) }
        #expect(error.code == .tornPut)
        #expect(error.failedRequest == .init(type: .put, id: RequestID(3)))
    }

    @Test(arguments: [
        ("", ProtocolError.Code.tornMessage, UInt16(1002)), ("#", .tornMessage, 1002), ("key#", .tornMessage, 1002),
        ("\u{6}", .malformedNumber, 1002),
        ("key#\u{0}", .tornMessage, 1002), ("key#\u{0}é", .malformedNumber, 1002), ("a long key without an end", .tornMessage, 1002),
        ("\u{0}A", .tornMessage, 1002), ("key#\u{9}A", .unknownType, 1003), ("key#\u{1}A", .unknownType, 1003),
        ("#\u{6}A", .unknownType, 1003), ("key#\u{0}/////+", .numberOutOfRange, 1002), ("\u{6}AAAAAAA", .tornMessage, 1002),
        ("key#\u{5}", .unknownType, 1003), ("key#\u{0}HoSAHoSA", .tornMessage, 1002),
    ]) func `What is not a request closes the connection with a code and a reason`(text: String, code: ProtocolError.Code, close: UInt16)
        throws
    {
        let error = try #require(throws: ProtocolError.self) { try MWDBRequest(message: self.bytes(text)) }
        #expect(error.code == code)
        #expect(error.closeCode == close)
        #expect(error.failedRequest == nil)
        #expect(!error.closeReason.isEmpty && error.closeReason.utf8.count <= 123)
    }

    @Test(arguments: [
        "", "#", "\u{6}A", "v#\u{1}", "v#\u{2}A", "x#\u{3}A", "\u{1}\u{1}#\u{3}A", "#\u{4}A", "#\u{7}A", "k#v#\u{5}A", "k#\u{5}",
        "v#\u{1}=",
    ])
    func `What is not a reply is a typed error for the client`(text: String) throws {
        #expect(throws: ProtocolError.self) { try MWDBReply(message: self.bytes(text)) }
    }

    @Test(arguments: [(0, ""), (1, ""), (1, "v"), (2, "#"), (3, "a##"), (2, "a#b")])
    func `An answer to n keys has n - 1 separators`(count: Int, data: String) throws {
        #expect(try MWDBReply.values(self.bytes(data), count: count).count == count)
    }

    @Test(arguments: [(0, "v"), (0, "#"), (1, "#"), (2, ""), (2, "a##"), (3, "a#b")])
    func `An answer with another number of values is refused`(count: Int, data: String) {
        #expect(throws: ProtocolError(.elementCountMismatch, "")) { try MWDBReply.values(self.bytes(data), count: count) }
    }

    @Test(arguments: [[], [""], ["", ""], ["a", ""], ["", "a"], ["a", "", "b"]])
    func `What our client asks for is what a server reads`(keys: [String]) throws {
        var buffer = ByteBuffer()
        try MWDBRequest.writeGet(keys.map(\.utf8), id: RequestID(7), to: &buffer)
        guard case .get(let elements, let id) = try MWDBRequest(message: buffer) else {
            Issue.record("not a get")
            return
        }
        #expect(id == RequestID(7))
        #expect(elements.slices == keys.map(self.bytes))
    }

    @Test(arguments: [[], [["k", ""]], [["", ""]], [["a", "1"], ["b", ""]], [["a", ""], ["b", "2"]], [["", "v"]]])
    func `What our client puts is what a server stores`(pairs: [[String]]) throws {
        var buffer = ByteBuffer()
        try MWDBRequest.writePut(pairs.map { ($0[0].utf8, $0[1].utf8) }, id: RequestID(7), to: &buffer)
        guard case .put(let parsed, _) = try MWDBRequest(message: buffer) else {
            Issue.record("not a put")
            return
        }
        #expect(parsed.slices.map { [String(buffer: $0.key), String(buffer: $0.value)] } == pairs)
    }

    @Test func `Our client refuses a separator in a key or a value and writes nothing`() throws {
        var buffer = ByteBuffer(string: "before")
        #expect(throws: ProtocolError(.separatorInKey, "")) { try MWDBRequest.writeGet(["fine".utf8, "a#b".utf8], id: .zero, to: &buffer) }
        #expect(throws: ProtocolError(.separatorInKey, "")) { try MWDBRequest.writeRemove(["#".utf8], id: .zero, to: &buffer) }
        #expect(throws: ProtocolError(.separatorInKey, "")) { try MWDBRequest.writePut([("#".utf8, "".utf8)], id: .zero, to: &buffer) }
        #expect(throws: ProtocolError(.separatorInValue, "")) {
            try MWDBRequest.writePut([("a".utf8, "1".utf8), ("k".utf8, "#".utf8)], id: .zero, to: &buffer)
        }
        #expect(buffer == ByteBuffer(string: "before"))
    }

    @Test func `A stored value with a separator is never said, as it would shift the values behind it`() {
        var buffer = ByteBuffer()
        #expect(throws: ProtocolError(.separatorInValue, "")) {
            try unsafe Array("a#b".utf8).withUnsafeBytes { try unsafe MWDBReply.writeValue($0, isFirst: true, to: &buffer) }
        }
    }
}
