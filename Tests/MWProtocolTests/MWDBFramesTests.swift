import MWProtocol
import NIOCore
import Testing

/// Frames captured between the original client and the original server, both ways through our codec.
@Suite struct MWDBFramesTests {
    private func bytes(_ text: String) -> ByteBuffer { ByteBuffer(string: text) }

    private func written(_ body: (inout ByteBuffer) throws -> Void) rethrows -> ByteBuffer {
        var buffer = ByteBuffer()
        try body(&buffer)
        return buffer
    }

    private func reply(_ values: [String?], id: RequestID) throws -> ByteBuffer {
        try self.written { buffer in
            for (index, value) in values.enumerated() {
                if let value {
                    try unsafe Array(value.utf8).withUnsafeBytes { try unsafe MWDBReply.writeValue($0, isFirst: index == 0, to: &buffer) }
                } else {
                    try unsafe MWDBReply.writeValue(nil, isFirst: index == 0, to: &buffer)
                }
            }
            MWDBReply.writeGetTrailer(id: id, to: &buffer)
        }
    }

    @Test func `The prefix request is its type and id, and is answered with a number`() throws {
        #expect(try MWDBRequest(message: self.bytes("\u{6}A")) == .prefix(id: .zero))
        #expect(self.written { MWDBRequest.writePrefix(id: .zero, to: &$0) } == self.bytes("\u{6}A"))
        #expect(self.written { MWDBReply.writePrefix(0, id: .zero, to: &$0) } == self.bytes("A#\u{7}A"))
        #expect(try MWDBReply(message: self.bytes("A#\u{7}A")) == .prefix(Base64Number(Int32(0)), id: .zero))
    }

    static let keys = [
        "\u{3};////////9;////////+;A", "\u{3};////////8;////////+;A", "\u{2};////////+;////////+;////////+", "\u{0};////////+;A;A",
    ]

    @Test func `The first get of a session asks for four keys, with or without a separator at the end`() throws {
        let captured = self.bytes(Self.keys.joined(separator: "#") + "##\u{0}C")
        guard case .get(let keys, let id) = try MWDBRequest(message: captured) else { throw Unexpected() }
        #expect(id == RequestID(1))
        #expect(keys.slices == Self.keys.map(self.bytes))
        #expect(keys.count == 4)

        let ours = try self.written { try MWDBRequest.writeGet(Self.keys.map(\.utf8), id: RequestID(1), to: &$0) }
        #expect(ours == self.bytes(Self.keys.joined(separator: "#") + "#\u{0}C"))
    }

    @Test func `Four missing values are three separators`() throws {
        let captured = self.bytes("####\u{1}C")
        #expect(try self.reply([nil, nil, nil, nil], id: RequestID(1)) == captured)
        #expect(try MWDBReply(message: captured) == .get(self.bytes("###"), id: RequestID(1)))
        #expect(try MWDBReply.values(self.bytes("###"), count: 4) == Array(repeating: ByteBuffer(), count: 4))
    }

    @Test func `Four values come in the order of their keys`() throws {
        let state = "C|A,W,I:bmFtZQ%A:dmFsdWU%C:aW5kZXhOYW1l%E:aW5kZXg%G"
        let captured = self.bytes("E#A##\(state)#\u{1}C")
        #expect(try self.reply(["E", "A", nil, state], id: RequestID(1)) == captured)
        guard case .get(let data, _) = try MWDBReply(message: captured) else { throw Unexpected() }
        #expect(try MWDBReply.values(data, count: 4) == ["E", "A", "", state].map(self.bytes))
    }

    @Test func `A get of one key has one answer`() throws {
        let captured = self.bytes("\u{2};////////+;////////+;////////8#\u{0}E")
        let key = "\u{2};////////+;////////+;////////8"
        #expect(try self.written { try MWDBRequest.writeGet([key.utf8], id: RequestID(2), to: &$0) } == captured)
        #expect(try MWDBRequest(message: captured) == .get(MWDBElements(bytes: self.bytes(key)), id: RequestID(2)))
        #expect(try self.reply([nil], id: RequestID(2)) == self.bytes("#\u{1}E"))
    }

    @Test func `A put is answered with one byte, and carried on as a force reload without an id`() throws {
        let captured = self.bytes("k1#v1#k2#v2#\u{2}G")
        let ours = try self.written {
            try MWDBRequest.writePut([("k1".utf8, "v1".utf8), ("k2".utf8, "v2".utf8)], id: RequestID(3), to: &$0)
        }
        #expect(ours == captured)
        guard case .put(let pairs, let id) = try MWDBRequest(message: captured) else { throw Unexpected() }
        #expect(id == RequestID(3))
        #expect(pairs.slices.map(\.key) == ["k1", "k2"].map(self.bytes))
        #expect(pairs.slices.map(\.value) == ["v1", "v2"].map(self.bytes))
        #expect(self.written { MWDBReply.writeOutcome(.put, isDone: true, id: id, to: &$0) } == self.bytes("\u{1}#\u{3}G"))
        #expect(try MWDBReply(message: self.bytes("\u{1}#\u{3}G")) == .put(isDone: true, id: id))

        let reload = self.written {
            $0.writeImmutableBuffer(pairs.bytes)
            MWDBReply.writeForceReloadTrailer(to: &$0)
        }
        #expect(reload == self.bytes("k1#v1#k2#v2#\u{5}"))
        #expect(try MWDBReply(message: reload) == .forceReload(pairs))
    }

    @Test func `A remove is answered with one byte`() throws {
        let captured = self.bytes("nokey#\u{3}E")
        #expect(try self.written { try MWDBRequest.writeRemove(["nokey".utf8], id: RequestID(2), to: &$0) } == captured)
        #expect(try MWDBRequest(message: captured) == .remove(MWDBElements(bytes: self.bytes("nokey")), id: RequestID(2)))
        #expect(self.written { MWDBReply.writeOutcome(.remove, isDone: true, id: RequestID(2), to: &$0) } == self.bytes("\u{1}#\u{4}E"))
        #expect(try MWDBReply(message: self.bytes("\u{0}#\u{4}E")) == .remove(isDone: false, id: RequestID(2)))
    }

    private struct Unexpected: Error {}
}
