import MWProtocol
import NIOCore
import Testing

/// Golden bytes of the native protocol, and what is not one of its frames.
@Suite struct NativeFrameTests {
    private static func hex(_ text: String) -> ByteBuffer {
        let digits = text.filter(\.isHexDigit).map { UInt8($0.hexDigitValue ?? 0) }
        return ByteBuffer(bytes: stride(from: 0, to: digits.count, by: 2).map { digits[$0] << 4 | digits[$0 + 1] })
    }

    private static func hex(_ buffer: ByteBuffer) -> String {
        buffer.readableBytesView.map { byte in
            let text = String(byte, radix: 16)
            return text.count == 1 ? "0" + text : text
        }.joined()
    }

    // The same bytes stand in the documentation's example, for clients in other languages.
    private static let hello = """
        0000001f 00 00 0001 00000007
          0001 00000008 0000000000000001
          0002 00000003 636c69
        """

    @Test func `A hello is exactly these bytes, and is read from them`() throws {
        var hello = NativeHello()
        hello.name = "cli"
        var written = ByteBuffer()
        NativeFrame.write(hello, id: RequestID(7), to: &written)
        #expect(Self.hex(written) == Self.hello.filter(\.isHexDigit))

        var message = Self.hex(Self.hello)
        let frame = try #require(try NativeFrame(readingFrom: &message))
        #expect(frame.role == .request && frame.kind == NativeRequestKind.hello.rawValue && frame.id == RequestID(7))
        #expect(try NativeHello(frame.fields) == hello)
        #expect(try NativeFrame(readingFrom: &message) == nil)
    }

    @Test func `What is read of the beginning of a message is what whoever reads all of it finds there`() throws {
        var get = NativeGet()
        get.keys = [ByteBuffer(string: "key")]
        var message = ByteBuffer()
        NativeFrame.write(get, id: RequestID(7), to: &message)
        let bytes = Array(message.readableBytesView)
        func firstField(_ bytes: [UInt8]) -> (id: RequestID, value: [UInt8], rest: [UInt8])? {
            unsafe bytes.withUnsafeBytes { bytes in
                guard let (id, value, rest) = unsafe NativeFrame.firstField(1, ofOnlyRequest: NativeRequestKind.get.rawValue, in: bytes)
                else { return nil }
                return unsafe (id, Array(value), Array(rest))
            }
        }
        let first = try #require(firstField(bytes))
        #expect(first.id == RequestID(7) && first.value == Array("key".utf8))

        // Cut, with more behind it, and each bit changed.
        var others = (0..<bytes.count).map { Array(bytes.prefix($0)) } + [bytes + [0], bytes + bytes]
        for index in bytes.indices {
            for bit in 0..<8 {
                others.append(bytes)
                others[others.count - 1][index] ^= 1 << bit
            }
        }
        for other in others {
            guard let first = firstField(other) else { continue }
            let frames = try NativeFrame.all(in: ByteBuffer(bytes: other))
            #expect(frames.count == 1 && frames[0].role == .request && frames[0].kind == NativeRequestKind.get.rawValue)
            let fields = Array(frames[0].fields.bytes.readableBytesView)
            let header: [UInt8] = [0, 1, 0, 0, 0, UInt8(first.value.count)]
            #expect(frames[0].id == first.id && fields == header + first.value + first.rest)
        }
    }

    @Test func `Each kind of value has its one form`() throws {
        var failure = NativeFailure(
            .overloaded, "é", remedy: "wait", isRetryable: true, retryAfterMilliseconds: -1, mayHaveTakenEffect: false)
        var written = ByteBuffer()
        NativeFrame.write(failure: failure, of: .status, id: RequestID(-1), to: &written)
        #expect(
            Self.hex(written)
                == """
                00000044 02 00 0010 ffffffff
                  0001 00000008 0000000000000007
                  0002 00000002 c3a9
                  0003 00000001 01
                  0004 00000008 ffffffffffffffff
                  0005 00000004 77616974
                  0006 00000001 00
                """.filter(\.isHexDigit))
        var frame = try #require(try NativeFrame.all(in: written).first)
        #expect(try NativeFailure(frame.fields) == failure)

        // Records inside of records, lists, and what is not there.
        var sessions = NativeSessions()
        sessions.sessions = [NativeSessionEntry(), NativeSessionEntry()]
        sessions.sessions[1].principal = "alice"
        sessions.sessions[1].since = NativeTime(1_000_000_000)
        written.clear()
        NativeFrame.write(reply: sessions, to: .sessions, id: .zero, to: &written)
        frame = try #require(try NativeFrame.all(in: written).first)
        #expect(frame.role == .reply)
        #expect(try NativeSessions(frame.fields) == sessions)
        failure.retryAfterMilliseconds = nil
        failure.remedy = nil
        written.clear()
        NativeFrame.write(failure: failure, of: .status, id: .zero, to: &written)
        frame = try #require(try NativeFrame.all(in: written).first)
        #expect(try NativeFailure(frame.fields) == failure)
    }

    @Test func `Many frames share a message, and each is found`() throws {
        var message = ByteBuffer()
        let pings = (0..<100).map { NativePing(payload: ByteBuffer(repeating: UInt8($0), count: $0)) }
        for (number, ping) in pings.enumerated() { NativeFrame.write(ping, id: RequestID(Int32(number)), to: &message) }
        let frames = try NativeFrame.all(in: message)
        #expect(frames.map(\.id.rawValue) == Array(0..<100))
        #expect(try frames.map { try NativePing($0.fields) } == pings)
    }

    @Test func `A field of 32 MiB is read in place`() throws {
        let payload = ByteBuffer(repeating: 0x23, count: 32 * 1024 * 1024)
        var message = ByteBuffer()
        NativeFrame.write(NativePing(payload: payload), id: .zero, to: &message)
        let frame = try #require(try NativeFrame.all(in: message).first)
        #expect(try NativePing(frame.fields).payload == payload)
    }

    // By cutting and by lengthening a frame at every byte.
    @Test func `A frame that is cut, or longer than its message, is torn and closes with 1002`() throws {
        let whole = Self.hex(Self.hello)
        for count in 1..<whole.readableBytes {
            var message = try #require(whole.getSlice(at: 0, length: count))
            let error = #expect(throws: ProtocolError.self) { try NativeFrame(readingFrom: &message) }
            #expect(error?.code == .tornFrame && error?.closeCode == 1002)
        }
        for length: UInt32 in [0, 7, 0x20, 0x7fff_ffff, 0xffff_ffff] {
            var message = whole
            message.setInteger(length, at: 0)
            let error = #expect(throws: ProtocolError.self) { try NativeFrame(readingFrom: &message) }
            #expect(error?.code == .tornFrame)
        }
        for role: UInt8 in [4, 0x80, 0xff] {
            var message = whole
            message.setInteger(role, at: 4)
            let error = #expect(throws: ProtocolError.self) { try NativeFrame(readingFrom: &message) }
            #expect(error?.code == .unknownType)
        }
    }

    @Test func `A field that is cut, or longer than its frame, is torn`() throws {
        for text in ["00", "0001", "0001000000", "000100000001", "0001ffffffff00", "000100000000 0002 00000005 61626364"] {
            let fields = NativeFields(bytes: Self.hex(text))
            let error = #expect(throws: ProtocolError.self) { try NativePing(fields) }
            #expect(error?.code == .tornField, "\(text)")
        }
    }

    @Test func `Values that are not of their kind are malformed`() throws {
        // An integer of 7 bytes, one of none, text that is not UTF-8.
        for text in ["0001 00000007 00000000000000", "0001 00000000", "0002 00000002 c328"] {
            let error = #expect(throws: ProtocolError.self) { try NativeHello(NativeFields(bytes: Self.hex(text))) }
            #expect(error?.code == .malformedField, "\(text)")
        }
        // A truth of 2, of none, of two bytes; a time of 4 bytes.
        for text in ["0007 00000001 02", "0007 00000000", "0007 00000002 0001", "0004 00000004 00000000"] {
            let error = #expect(throws: ProtocolError.self) { try NativeServerState(NativeFields(bytes: Self.hex(text))) }
            #expect(error?.code == .malformedField, "\(text)")
        }
        // What may come once and comes twice.
        let twice = Self.hex("0001 00000001 61 0001 00000001 62")
        let error = #expect(throws: ProtocolError.self) { try NativePing(NativeFields(bytes: twice)) }
        #expect(error?.code == .malformedField)
    }

    @Test func `Unknown fields are skipped, unless they must be understood`() throws {
        var fields = Self.hex("0063 00000003 010203")
        NativePing(payload: ByteBuffer(string: "x")).writeNativeValue(to: &fields)
        fields.writeBytes([0x7f, 0xff, 0, 0, 0, 0])
        #expect(try NativePing(NativeFields(bytes: fields)).payload == ByteBuffer(string: "x"))

        fields.writeBytes([0x80, 0x63, 0, 0, 0, 0])
        let error = #expect(throws: ProtocolError.self) { try NativePing(NativeFields(bytes: fields)) }
        #expect(error?.code == .unsupportedField)
        #expect(NativeFailure(try #require(error)).code == .unsupportedField)
    }

    @Test func `Unknown kinds and codes are read as such`() throws {
        var message = Self.hex("00000008 00 ff 7abc 00000001")
        let frame = try #require(try NativeFrame(readingFrom: &message))
        #expect(frame.kind == 0x7abc, "flags are not looked at")
        #expect(NativeRequestKind(rawValue: frame.kind).description == "request 31420")
        #expect(NativeFailure.Code(rawValue: 999).description == "code 999")
    }

    @Test func `No two request kinds and no two failure codes share a number or a name`() {
        #expect(Set(NativeRequestKind.names.values).count == NativeRequestKind.names.count)
        #expect(Set(NativeFailure.Code.names.values).count == NativeFailure.Code.names.count)
    }

    @Test func `What a record shows has each field's name once`() throws {
        func names(_ record: some NativeRecord) throws {
            guard case .record(let fields) = record.nativeShown else { return #expect(Bool(false), "a record") }
            #expect(Set(fields.map(\.name)).count == fields.count, "\(type(of: record))")
            var written = ByteBuffer()
            record.writeNativeValue(to: &written)
            let tags = try NativeFields(bytes: written).slices().map(\.tag)
            #expect(Set(tags).count == tags.count, "\(type(of: record))")
        }
        try names(NativeWelcome())
        try names(NativeIdentity())
        try names(NativeCertificate())
        try names(NativeSessionEntry())
        try names(NativeRejection())
        try names(NativeStatus())
        try names(NativeReloadState())
        try names(NativeRefusal())
        try names(NativeAuthority())
        try names(NativeFailure())
    }
}
