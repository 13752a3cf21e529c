// The native protocol, subprotocol `mwstorage.v1`: frames inside binary WebSocket messages. All numbers are big-endian.
//
//     message := frame*            a frame never crosses from one message into the next
//
//     frame   offset  size
//             0       4     length   bytes of the frame behind this field, 8 or more
//             4       1     role     0 request, 1 reply, 2 failure, 3 event; a client sends requests only
//             5       1     flags    none so far: sent as 0, not looked at
//             6       2     kind     of a request, its reply and its failure: NativeRequestKind; of an event: NativeEventKind
//             8       4     id       chosen by the client; a reply or failure repeats its request's, an event that of what it belongs to
//             12      n     fields   n = length - 8
//
//     field   offset  size
//             0       2     tag      its meaning depends on the kind; bit 15 says: whoever does not know this tag must not act on the frame
//             2       4     length   bytes of the value
//             6       n     value
//
// A value is what its tag says: an integer (8 bytes, two's complement), a truth (one byte, 0 or 1), a time (an integer, seconds since
// 1970 in UTC), a text (UTF-8), bytes, or a record, which is fields again. A tag that may come once and comes twice is malformed.
//
// Why a small fixed header and tagged fields, and not positions: the header is two loads and says how far to go whatever follows, so
// that one loop reads a message of many requests; a field costs a reader one load and one comparison more than a position would, and in
// return every request can grow, in the middle of its life, without a new version of it. Lengths are fixed in size: a writer that
// does not know them yet fills them in behind itself, and nothing is written twice.
//
// What is wrong with a frame's bounds or role ends the connection (1002): nothing behind it can be found again. What is wrong inside a
// request's bounds is answered with a failure, and the connection goes on.

package import NIOCore

/// The subprotocol's name in the opening handshake; another version that cannot be told by fields gets another name.
package let nativeSubprotocol = "mwstorage.v1"

/// What a frame is for.
package enum NativeRole: UInt8, Hashable, Sendable, CaseIterable {
    case request = 0
    case reply = 1
    /// The answer to a request that could not be done: a ``NativeFailure``.
    case failure = 2
    /// What the server says unasked.
    case event = 3
}

/// One frame: its header, and its fields still in the buffer they arrived in. It exists only if it is whole.
package struct NativeFrame: Hashable, Sendable {
    package let role: NativeRole
    /// A ``NativeRequestKind`` or, in an event, a ``NativeEventKind``.
    package let kind: UInt16
    package let id: RequestID
    package let fields: NativeFields

    package init(_ role: NativeRole, kind: UInt16, id: RequestID, fields: NativeFields = NativeFields()) {
        self.role = role
        self.kind = kind
        self.id = id
        self.fields = fields
    }

    /// Bytes of the length field.
    private static let lengthBytes = 4
    /// Bytes between the length field and the fields.
    private static let headBytes = 8

    /// Bytes of a frame without fields.
    package static let headerBytes = lengthBytes + headBytes

    /// Reads the next frame of a message, as a slice of it; nil at its end.
    ///
    /// Throws ``ProtocolError/Code/tornFrame`` or ``ProtocolError/Code/unknownType``, both with the close code to send.
    package init?(readingFrom message: inout ByteBuffer) throws(ProtocolError) {
        let available = message.readableBytes
        guard available > 0 else { return nil }
        guard let (length, role, _, kind, id) = message.readMultipleIntegers(as: (UInt32, UInt8, UInt8, UInt16, Int32).self) else {
            throw ProtocolError(
                .tornFrame, "frame", expected: "a header of \(Self.headerBytes) bytes", found: "\(available) at the end of the message")
        }
        let left = available - Self.headerBytes
        guard length >= Self.headBytes, Int(length) - Self.headBytes <= left,
            let fields = message.readSlice(length: Int(length) - Self.headBytes)
        else {
            throw ProtocolError(
                .tornFrame, "frame", expected: "a length of \(Self.headBytes) to \(left + Self.headBytes), what the message has left",
                found: "\(length)")
        }
        guard let role = NativeRole(rawValue: role) else {
            throw ProtocolError(.unknownType, "frame", expected: "role 0 to 3", found: "role \(role)")
        }
        self.init(role, kind: kind, id: RequestID(id), fields: NativeFields(bytes: fields))
    }

    /// The beginning of a message that is one request of `kind`: its id, the value of its first field, which is of `tag`, and what lies behind
    /// that field, all where they are. For anything else, and for whatever is malformed before there, nil: ``init(readingFrom:)`` says what it is.
    @inline(__always)
    package static func firstField(
        _ tag: NativeTag, ofOnlyRequest kind: UInt16, in message: UnsafeRawBufferPointer
    ) -> (id: RequestID, value: UnsafeRawBufferPointer, rest: UnsafeRawBufferPointer)? {
        let start = Self.headerBytes + NativeFields.headerBytes
        guard message.count >= start,
            unsafe UInt32(bigEndian: message.loadUnaligned(as: UInt32.self)) == message.count - Self.lengthBytes,
            unsafe message[4] == NativeRole.request.rawValue,
            unsafe UInt16(bigEndian: message.loadUnaligned(fromByteOffset: 6, as: UInt16.self)) == kind,
            unsafe UInt16(bigEndian: message.loadUnaligned(fromByteOffset: 12, as: UInt16.self)) == tag.rawValue
        else { return nil }
        let id = unsafe Int32(bigEndian: message.loadUnaligned(fromByteOffset: 8, as: Int32.self))
        let length = unsafe UInt32(bigEndian: message.loadUnaligned(fromByteOffset: 14, as: UInt32.self))
        guard length <= message.count - start else { return nil }
        let end = start + Int(length)
        return unsafe (
            RequestID(id), UnsafeRawBufferPointer(rebasing: message[start..<end]), UnsafeRawBufferPointer(rebasing: message[end...])
        )
    }

    /// Appends a frame whose fields `body` writes; nothing is appended when it throws.
    @inline(__always)
    package static func write<Failure: Error>(
        _ role: NativeRole, kind: UInt16, id: RequestID, to buffer: inout ByteBuffer, _ body: (inout ByteBuffer) throws(Failure) -> Void
    ) throws(Failure) {
        let start = buffer.writerIndex
        buffer.writeMultipleIntegers(UInt32(0), role.rawValue, UInt8(0), kind, id.rawValue)
        do throws(Failure) {
            try body(&buffer)
        } catch {
            buffer.moveWriterIndex(to: start)
            throw error
        }
        buffer.setInteger(UInt32(truncatingIfNeeded: buffer.writerIndex - start - Self.lengthBytes), at: start)
    }

    /// Appends this frame.
    package func write(to buffer: inout ByteBuffer) {
        Self.write(self.role, kind: self.kind, id: self.id, to: &buffer) { $0.writeImmutableBuffer(self.fields.bytes) }
    }

    /// All frames of a message. Allocates the array: for clients, tests and what is rare.
    package static func all(in message: ByteBuffer) throws(ProtocolError) -> [NativeFrame] {
        var rest = message
        var frames: [NativeFrame] = []
        while let frame = try NativeFrame(readingFrom: &rest) { frames.append(frame) }
        return frames
    }
}
