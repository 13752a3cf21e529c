internal import NIOCore

/// A message under way: its fragments so far, or the received part of its only frame.
struct MessageAssembly {
    var opcode: MessageOpcode?
    var bytes = ByteBuffer()
    var fragments = 0
    var utf8 = UTF8Validator()

    /// After a message that never was in `bytes`.
    mutating func startAnew() {
        opcode = nil
        fragments = 0
        utf8 = UTF8Validator()
    }
}

enum TakenPayload {
    /// The payload goes on beyond the input.
    case incomplete
    /// The frame is complete, its message is not.
    case fragment
    case message(MessageOpcode, ByteBuffer)
}

extension WebSocketStateMachine {
    /// Reserved at once for a frame whose length is known but whose bytes are not here: a peer that only claims a length costs no more than this.
    /// Above it the storage doubles as the bytes come.
    static let maximumEagerBytes = 256 * 1024

    /// The hot path: a binary message of one frame that is next, and whole, in the input. For anything else, and for whatever is wrong with
    /// one, `nil`: the general way comes after it, from the same bytes.
    @inline(__always)
    mutating func nextWholeMessage() -> ByteBuffer? {
        guard state == .open, frame == nil, message.opcode == nil, partialHeader.readableBytes == 0 else { return nil }
        let role = role
        let decoded = unsafe input.withUnsafeReadableBytes { bytes -> (header: FrameHeader, byteCount: Int)? in
            guard bytes.count >= 2, unsafe bytes[0] == FrameHeader.wholeBinaryMessage else { return nil }
            return try? unsafe FrameHeader.decode(bytes, receivedBy: role)
        }
        guard let (header, byteCount) = decoded, header.payloadBytes <= min(limits.maximumFrameBytes, limits.maximumMessageBytes),
            header.payloadBytes <= input.readableBytes - byteCount, limits.maximumFragments > 0
        else { return nil }
        input.moveReaderIndex(forwardBy: byteCount)
        return takeWholePayload(of: header)
    }

    /// The header of the frame that is being received; `nil` when more bytes are needed for it.
    @inline(__always)
    mutating func currentHeader() throws(WebSocketError) -> FrameHeader? {
        if let frame { return frame }
        return try nextHeader()
    }

    /// Takes the next frame's header off the input; `nil` when it is not whole yet.
    private mutating func nextHeader() throws(WebSocketError) -> FrameHeader? {
        guard input.readableBytes > 0 else {
            releaseInput()
            return nil
        }
        let header: FrameHeader
        if partialHeader.readableBytes == 0 {
            if let (decoded, byteCount) = try Self.decodeHeader(input, role) {
                input.moveReaderIndex(forwardBy: byteCount)
                header = decoded
            } else {
                // At most 13 bytes. The input is let go: its owner can use its storage again.
                partialHeader.clear()
                partialHeader.writeBuffer(&input)
                releaseInput()
                return nil
            }
        } else if let decoded = try completePartialHeader() {
            header = decoded
        } else {
            releaseInput()
            return nil
        }
        try admit(header)
        frame = header
        remainingBytes = header.payloadBytes
        return header
    }

    private mutating func completePartialHeader() throws(WebSocketError) -> FrameHeader? {
        while let byte = input.readInteger(as: UInt8.self) {
            partialHeader.writeInteger(byte)
            if let (decoded, _) = try Self.decodeHeader(partialHeader, role) {
                partialHeader.clear()
                return decoded
            }
        }
        return nil
    }

    @inline(__always)
    private static func decodeHeader(
        _ buffer: ByteBuffer, _ role: WebSocketRole
    ) throws(WebSocketError) -> (header: FrameHeader, byteCount: Int)? {
        try unsafe buffer.withUnsafeReadableBytes { bytes throws(WebSocketError) in
            try unsafe FrameHeader.decode(bytes, receivedBy: role)
        }
    }

    /// Checks the frame against its message and the limits, before any of its payload.
    private mutating func admit(_ header: FrameHeader) throws(WebSocketError) {
        guard !header.opcode.isControl else { return }
        if let opcode = header.opcode.messageOpcode {
            guard message.opcode == nil else {  // RFC 6455 §5.4
                throw .violation(.messageInterleaved, "message", "a message starts inside a fragmented one")
            }
            message.opcode = opcode
        } else {
            guard message.opcode != nil else {  // RFC 6455 §5.4
                throw .violation(.continuationUnexpected, "message", "a continuation frame continues nothing")
            }
        }
        guard header.payloadBytes <= limits.maximumFrameBytes else {
            throw .violation(
                .frameTooBig, "frame", "the frame is too big", closeCode: .messageTooBig,
                expected: "at most \(limits.maximumFrameBytes) bytes", found: String(header.payloadBytes))
        }
        guard header.payloadBytes <= limits.maximumMessageBytes - message.bytes.readableBytes else {
            throw .violation(
                .messageTooBig, "message", "the message is too big", closeCode: .messageTooBig,
                expected: "at most \(limits.maximumMessageBytes) bytes")
        }
        message.fragments += 1
        guard message.fragments <= limits.maximumFragments else {
            throw .violation(
                .tooManyFragments, "message", "the message has too many fragments", closeCode: .messageTooBig,
                expected: "at most \(limits.maximumFragments)")
        }
    }

    /// Takes what there is of a data frame's payload.
    mutating func takePayload(of header: FrameHeader) throws(WebSocketError) -> TakenPayload {
        let isWhole = remainingBytes == header.payloadBytes && input.readableBytes >= remainingBytes
        if isWhole {
            let payload = takeWholePayload(of: header)
            if header.isFinal && message.fragments == 1 {
                // The hot path: the message is a slice of what was received.
                try validateText(payload, isEnd: true)
                let opcode = message.opcode ?? .binary
                message.startAnew()
                return .message(opcode, payload)
            }
            try validateText(payload, isEnd: header.isFinal)
            message.bytes.writeImmutableBuffer(payload)
        } else {
            try takePartialPayload(of: header)
            guard remainingBytes == 0 else { return .incomplete }
            frame = nil
            if header.isFinal { try validateTextEnd() }
        }
        guard header.isFinal else { return .fragment }
        let taken = TakenPayload.message(message.opcode ?? .binary, message.bytes)
        message = MessageAssembly()
        return taken
    }

    /// Moves what is here of a frame that is not whole, so that it is checked at once and its first buffer can go.
    private mutating func takePartialPayload(of header: FrameHeader) throws(WebSocketError) {
        // A header alone costs nothing: a peer may say no more for long.
        guard input.readableBytes > 0 else { return releaseInput() }
        if remainingBytes == header.payloadBytes {
            message.bytes.reserveCapacity(minimumWritableBytes: min(remainingBytes, Self.maximumEagerBytes))
        }
        let count = min(remainingBytes, input.readableBytes)
        guard let part = input.readSlice(length: count) else { return }
        let start = message.bytes.writerIndex
        message.bytes.writeImmutableBuffer(part)
        if role == .server {
            unsafe message.bytes.withUnsafeMutableReadableBytes { bytes in
                let payload = unsafe UnsafeMutableRawBufferPointer(rebasing: bytes[(bytes.count - count)...])
                unsafe applyMask(header.maskingKey, to: payload, offset: header.payloadBytes - remainingBytes)
            }
        }
        remainingBytes -= count
        if input.readableBytes == 0 { releaseInput() }
        if let received = message.bytes.getSlice(at: start, length: count) { try validateText(received, isEnd: false) }
    }

    /// The payload of a control frame; `nil` when it is not whole yet.
    mutating func takeControlPayload(of header: FrameHeader) -> ByteBuffer? {
        if partialControl.readableBytes == 0 && input.readableBytes >= remainingBytes {
            return takeWholePayload(of: header)
        }
        let count = min(remainingBytes, input.readableBytes)
        if var part = input.readSlice(length: count) { partialControl.writeBuffer(&part) }
        remainingBytes -= count
        guard remainingBytes == 0 else {
            releaseInput()
            return nil
        }
        var payload = partialControl
        partialControl = ByteBuffer()
        if role == .server {
            unsafe payload.withUnsafeMutableReadableBytes { unsafe applyMask(header.maskingKey, to: $0, offset: 0) }
        }
        frame = nil
        return payload
    }

    private mutating func takeWholePayload(of header: FrameHeader) -> ByteBuffer {
        if role == .server && input.readerIndex + header.payloadBytes > unmaskedEnd { unmaskWholeFrames(first: header) }
        let payload = input.readSlice(length: header.payloadBytes) ?? ByteBuffer()
        if input.readableBytes == 0 { releaseInput() }
        frame = nil
        remainingBytes = 0
        return payload
    }

    private mutating func releaseInput() {
        // What was released before waits for its owner still, and nothing takes its place.
        guard input.capacity > 0 else { return }
        if isReturningInput { returnedInput = input }
        input = ByteBuffer()
        unmaskedEnd = 0
    }
}

// MARK: - Text

extension WebSocketStateMachine {
    @inline(__always)
    private mutating func validateText(_ payload: ByteBuffer, isEnd: Bool) throws(WebSocketError) {
        guard message.opcode == .text else { return }
        guard unsafe payload.withUnsafeReadableBytes({ unsafe message.utf8.validate($0) }) else {
            throw Self.invalidUTF8("a byte cannot belong to UTF-8")
        }
        if isEnd { try validateTextEnd() }
    }

    private func validateTextEnd() throws(WebSocketError) {
        guard message.utf8.isComplete else { throw Self.invalidUTF8("the text ends inside a character") }
    }

    private static func invalidUTF8(_ what: String) -> WebSocketError {
        .violation(.utf8Invalid, "text message", what, closeCode: .invalidPayload)  // RFC 6455 §8.1
    }
}

// MARK: - Unmasking

extension WebSocketStateMachine {
    /// Unmasks `first`, whose payload is next in the input, and every frame after it that lies whole in the input, in one go: once the slice
    /// of one is handed out, touching the next in place would copy the buffer.
    private mutating func unmaskWholeFrames(first: FrameHeader) {
        let role = role
        let unmasked = input.modifyIfUniquelyOwned { buffer in
            unsafe buffer.withUnsafeMutableReadableBytes { unsafe Self.unmaskWholeFrames(first, $0, role) }
        }
        if let unmasked {
            unmaskedEnd = input.readerIndex + unmasked
        } else {
            // Somebody else reads these bytes: work on a copy of them, and of nothing else that their buffer holds.
            var copy = ByteBuffer(bytes: input.readableBytesView)
            unmaskedEnd = unsafe copy.withUnsafeMutableReadableBytes { unsafe Self.unmaskWholeFrames(first, $0, role) }
            input = copy
        }
    }

    /// - Returns: Where the last frame that was unmasked ends.
    private static func unmaskWholeFrames(
        _ first: FrameHeader, _ bytes: UnsafeMutableRawBufferPointer, _ role: WebSocketRole
    ) -> Int {
        var header = first
        var start = 0
        while bytes.count - start >= header.payloadBytes {
            let end = start + header.payloadBytes
            let payload = unsafe UnsafeMutableRawBufferPointer(rebasing: bytes[start..<end])
            unsafe applyMask(header.maskingKey, to: payload, offset: 0)
            let rest = unsafe UnsafeRawBufferPointer(rebasing: bytes[end...])
            // What is wrong with a later header is said when it is its turn.
            guard let decoded = try? unsafe FrameHeader.decode(rest, receivedBy: role) else { return end }
            header = decoded.header
            start = end + decoded.byteCount
            if bytes.count - start < header.payloadBytes { return end }
        }
        return 0
    }
}
