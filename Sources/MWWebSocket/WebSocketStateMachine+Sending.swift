package import NIOCore

extension WebSocketStateMachine {
    /// Appends a message as one frame.
    ///
    /// - Parameter maskingKey: Unpredictable and new for each frame at a client (RFC 6455 §5.3), unused at a server.
    /// - Returns: `false`, and nothing is appended, when a close frame was sent or received before.
    @discardableResult
    package mutating func writeMessage(
        _ opcode: MessageOpcode, _ payload: ByteBuffer, to outbound: inout ByteBuffer, maskingKey: @autoclosure () -> UInt32 = 0
    ) -> Bool {
        guard state == .open else { return false }
        append(opcode.rawValue, payload, &outbound, maskingKey)
        return true
    }

    /// Appends a message whose payload `body` writes straight into `outbound`; the header is put before it afterwards.
    ///
    /// `body` must only append. When it throws, `outbound` is as it was.
    ///
    /// - Parameters:
    ///   - expectedBytes: About how long the payload will be. A guess in the wrong class (at most 125, at most 65,535, more) moves the payload
    ///     by a few bytes.
    ///   - maskingKey: As above.
    /// - Returns: `false`, and `body` is not called, when a close frame was sent or received before.
    @discardableResult
    @inlinable
    @inline(__always)
    package mutating func writeMessage<Failure: Error>(
        _ opcode: MessageOpcode, to outbound: inout ByteBuffer, expectedBytes: Int = 1024, maskingKey: @autoclosure () -> UInt32 = 0,
        _ body: (inout ByteBuffer) throws(Failure) -> Void
    ) throws(Failure) -> Bool {
        guard state == .open else { return false }
        let start = outbound.writerIndex
        let gap = beginFrame(expectedBytes, &outbound)
        do {
            try body(&outbound)
        } catch {
            outbound.moveWriterIndex(to: start)
            throw error
        }
        finishFrame(opcode.rawValue, start, gap, &outbound, maskingKey)
        return true
    }

    /// Appends a server's message of `payloadBytes`, which `body` fills in place.
    ///
    /// - Returns: `false`, and `body` is not called, when a close frame was sent or received before.
    @discardableResult
    package func writeMessage(
        _ opcode: MessageOpcode, payloadBytes: Int, to outbound: inout ByteBuffer, _ body: (UnsafeMutableRawBufferPointer) -> Void
    ) -> Bool {
        precondition(role == .server, "a client's payload is masked")
        guard state == .open else { return false }
        let headerBytes = FrameHeader.byteCount(payloadBytes: payloadBytes)
        let byteCount = headerBytes + payloadBytes
        _ = unsafe outbound.writeWithUnsafeMutableBytes(minimumWritableBytes: byteCount) { bytes in
            unsafe FrameHeader.write(opcode.rawValue, payloadBytes: payloadBytes, into: bytes)
            unsafe body(UnsafeMutableRawBufferPointer(rebasing: bytes[headerBytes..<byteCount]))
            return byteCount
        }
        return true
    }

    /// Appends the header of a server's message, whose payload goes out right behind it without having been in `outbound`.
    ///
    /// - Returns: `false`, and nothing is appended, when a close frame was sent or received before.
    @discardableResult
    package mutating func writeMessageHeader(_ opcode: MessageOpcode, payloadBytes: Int, to outbound: inout ByteBuffer) -> Bool {
        precondition(role == .server, "a client's payload is masked")
        guard state == .open else { return false }
        FrameHeader.write(opcode.rawValue, payloadBytes: payloadBytes, maskingKey: nil, to: &outbound)
        return true
    }

    /// Bytes of a server's message with its header.
    package static func messageBytes(payloadBytes: Int) -> Int { FrameHeader.byteCount(payloadBytes: payloadBytes) + payloadBytes }

    /// Appends a ping with at most 125 bytes of payload.
    @discardableResult
    package mutating func writePing(
        _ payload: ByteBuffer = ByteBuffer(), to outbound: inout ByteBuffer, maskingKey: @autoclosure () -> UInt32 = 0
    ) -> Bool {
        precondition(payload.readableBytes <= FrameHeader.maximumControlPayloadBytes, "a ping holds at most 125 bytes")
        guard state == .open else { return false }
        append(FrameOpcode.ping.rawValue, payload, &outbound, maskingKey)
        return true
    }

    /// Appends the pong that was put off while ``isOutputBackedUp``, if there is one.
    @discardableResult
    package mutating func writePendingPong(to outbound: inout ByteBuffer, maskingKey: @autoclosure () -> UInt32 = 0) -> Bool {
        guard state == .open, let payload = unansweredPing else { return false }
        unansweredPing = nil
        append(FrameOpcode.pong.rawValue, payload, &outbound, maskingKey)
        return true
    }

    /// Starts the closing handshake. Nothing can be written after it; the peer's close frame, or the closing timeout, ends it.
    ///
    /// - Parameter reason: For the peer's log, never a secret; cut to 123 bytes of UTF-8.
    @discardableResult
    package mutating func writeClose(
        _ code: CloseCode, _ reason: String = "", to outbound: inout ByteBuffer, maskingKey: @autoclosure () -> UInt32 = 0
    ) -> Bool {
        guard state == .open else { return false }
        appendClose(code, reason, &outbound, maskingKey)
        state = .closing
        unansweredPing = nil
        return true
    }

    func appendClose(_ code: CloseCode, _ reason: String, _ outbound: inout ByteBuffer, _ maskingKey: () -> UInt32) {
        append(FrameOpcode.close.rawValue, ClosePayload.encode(code, reason), &outbound, maskingKey)
    }

    @inline(__always)
    func append(_ opcode: UInt8, _ payload: ByteBuffer, _ outbound: inout ByteBuffer, _ maskingKey: () -> UInt32) {
        let count = payload.readableBytes
        switch role {
        case .server:
            FrameHeader.write(opcode, payloadBytes: count, maskingKey: nil, to: &outbound)
            outbound.writeImmutableBuffer(payload)
        case .client:
            let key = maskingKey()
            FrameHeader.write(opcode, payloadBytes: count, maskingKey: key, to: &outbound)
            outbound.writeImmutableBuffer(payload)
            Self.mask(key, last: count, of: &outbound)
        }
    }

    private static func mask(_ key: UInt32, last count: Int, of outbound: inout ByteBuffer) {
        unsafe outbound.withUnsafeMutableReadableBytes { bytes in
            unsafe applyMask(key, to: UnsafeMutableRawBufferPointer(rebasing: bytes[(bytes.count - count)...]), offset: 0)
        }
    }

    // MARK: A payload written in place

    /// Leaves room for the header. Returns how much.
    @usableFromInline
    func beginFrame(_ expectedBytes: Int, _ outbound: inout ByteBuffer) -> Int {
        let gap = FrameHeader.byteCount(payloadBytes: expectedBytes) + (role == .client ? 4 : 0)
        // As integers where there is one: repeated bytes cost several times as much.
        switch gap {
        case 2: return outbound.writeInteger(UInt16(0))
        case 4: return outbound.writeInteger(UInt32(0))
        case 8: return outbound.writeInteger(UInt64(0))
        default: return outbound.writeRepeatingByte(0, count: gap)
        }
    }

    @usableFromInline
    func finishFrame(_ opcode: UInt8, _ start: Int, _ gap: Int, _ outbound: inout ByteBuffer, _ maskingKey: () -> UInt32) {
        precondition(outbound.writerIndex >= start + gap, "the payload must only be appended")
        let count = outbound.writerIndex - start - gap
        let headerBytes = FrameHeader.byteCount(payloadBytes: count) + (role == .client ? 4 : 0)
        if headerBytes > gap {
            outbound.writeRepeatingByte(0, count: headerBytes - gap)
        }
        if headerBytes != gap {
            unsafe outbound.withVeryUnsafeMutableBytes { bytes in
                let source = unsafe UnsafeRawBufferPointer(rebasing: bytes[(start + gap)..<(start + gap + count)])
                unsafe UnsafeMutableRawBufferPointer(rebasing: bytes[(start + headerBytes)...]).copyMemory(from: source)
            }
            outbound.moveWriterIndex(to: start + headerBytes + count)
        }
        switch role {
        case .server:
            FrameHeader.patch(opcode, payloadBytes: count, maskingKey: nil, at: start, of: &outbound)
        case .client:
            let key = maskingKey()
            FrameHeader.patch(opcode, payloadBytes: count, maskingKey: key, at: start, of: &outbound)
            Self.mask(key, last: count, of: &outbound)
        }
    }
}
