package import NIOCore

/// What the peer sent, or did wrong.
package enum WebSocketEvent: Sendable, Equatable {
    /// A whole message. The payload is usually a slice of the buffer that was received: holding it for long holds that buffer.
    case message(MessageOpcode, ByteBuffer)
    /// A ping; it has been answered, or will be once the output drains.
    case ping(ByteBuffer)
    case pong(ByteBuffer)
    /// The peer's close frame; it has been answered if it was the first. Nothing follows. A code of `nil` is an empty close frame.
    case closeReceived(CloseCode?, String)
    /// The peer broke a rule; the close frame has been appended. Nothing follows.
    ///
    /// Indirect: an error is large, and would make each message's event as large.
    indirect case violation(WebSocketError)
}

/// One WebSocket connection after its opening handshake: bytes in, events out, bytes out (RFC 6455 §5 to §7).
///
///                 writeClose                    close received
///        open ───────────────────► closing ─────────────────────► closed
///          │                          │                             ▲
///          │  violation               └── violation ────────────────┤
///          └── close received (echo appended), violation (close appended)
///
/// It is responsible for: frame rules and limits, unmasking and masking, message assembly, UTF-8, automatic pongs, the closing handshake.
/// Its shell does the rest: after each read it calls ``bytesReceived(_:)`` once, then ``nextEvent(outbound:maskingKey:)`` until it is `nil`,
/// then writes `outbound` in one go. Once ``state`` is `.closed` the shell flushes, sends TLS close_notify, shuts its output, and reads
/// and discards until the peer's end, or a deadline: closing at once with unread input would reset the connection and take the close frame with it.
///
/// In `.closing` the peer's messages are still checked, but dropped: they cannot be answered any more (RFC 6455 §1.4).
package struct WebSocketStateMachine: ~Copyable {
    package enum State: Sendable, Hashable {
        case open
        /// We sent a close frame and wait for the peer's.
        case closing
        /// Nothing is read or written any more.
        case closed
    }

    package internal(set) var state = State.open
    /// Set while the transport takes nothing more: pings are then not answered one by one, only the latest once
    /// ``writePendingPong(to:maskingKey:)`` is called (RFC 6455 §5.5.3). A flood of pings costs no more memory than its latest.
    package var isOutputBackedUp = false

    /// Set by who takes ``takeReturnedInput()`` after the events.
    package var isReturningInput = false

    let role: WebSocketRole
    let limits: WebSocketLimits
    /// Received and not yet taken. Payloads of whole frames before `unmaskedEnd` are unmasked already.
    var input = ByteBuffer()
    var unmaskedEnd = 0
    /// What `input` was before all of it had been taken.
    var returnedInput: ByteBuffer?
    /// The start of a header that ended the input, at most 13 bytes.
    var partialHeader = ByteBuffer()
    /// The frame whose payload is next in the input, and how much of that is still to come.
    var frame: FrameHeader?
    var remainingBytes = 0
    var message = MessageAssembly()
    /// The start of a control frame's payload that ended the input.
    var partialControl = ByteBuffer()
    var unansweredPing: ByteBuffer?

    package init(role: WebSocketRole, limits: WebSocketLimits = WebSocketLimits()) {
        self.role = role
        self.limits = limits
    }

    /// Takes what the transport read, plaintext. Cheapest when nothing else holds the buffer, and when the events of the one before were
    /// all taken.
    package mutating func bytesReceived(_ bytes: consuming ByteBuffer) {
        guard state != .closed else { return }
        if input.readableBytes == 0 {
            input = bytes
            unmaskedEnd = input.readerIndex
        } else {
            input.writeImmutableBuffer(bytes)
        }
    }

    /// The buffer that ``bytesReceived(_:)`` had brought, once all of it has been taken: its owner may use its storage again where nobody
    /// holds a payload out of it.
    package mutating func takeReturnedInput() -> ByteBuffer? { returnedInput.take() }

    /// The next thing the peer sent; `nil` when more bytes are needed, and after the closing handshake.
    ///
    /// - Parameters:
    ///   - outbound: Pongs and close frames are appended to it.
    ///   - maskingKey: Evaluated once a frame that is appended; unpredictable at a client (RFC 6455 §5.3), unused at a server.
    package mutating func nextEvent(
        outbound: inout ByteBuffer, maskingKey: @autoclosure () -> UInt32 = 0
    ) -> WebSocketEvent? {
        if let payload = nextWholeMessage() { return .message(.binary, payload) }
        guard state != .closed else { return nil }
        do throws(WebSocketError) {
            while let header = try currentHeader() {
                if header.opcode.isControl {
                    guard let payload = takeControlPayload(of: header) else { return nil }
                    if let event = try controlReceived(header.opcode, payload, &outbound, maskingKey) { return event }
                } else {
                    switch try takePayload(of: header) {
                    case .incomplete: return nil
                    case .fragment: continue
                    case .message(let opcode, let payload):
                        if state == .open { return .message(opcode, payload) }
                    }
                }
            }
            return nil
        } catch {
            // RFC 6455 §7.1.7: fail the connection.
            if state == .open, let code = error.closeCode { appendClose(code, error.what, &outbound, maskingKey) }
            end()
            return .violation(error)
        }
    }

    private mutating func controlReceived(
        _ opcode: FrameOpcode, _ payload: ByteBuffer, _ outbound: inout ByteBuffer, _ maskingKey: () -> UInt32
    ) throws(WebSocketError) -> WebSocketEvent? {
        switch opcode {
        case .ping:
            guard state == .open else { return nil }  // RFC 6455 §5.5.1: nothing is sent after a close frame.
            if isOutputBackedUp {
                unansweredPing = payload
            } else {
                unansweredPing = nil
                append(FrameOpcode.pong.rawValue, payload, &outbound, maskingKey)
            }
            return .ping(payload)
        case .pong:
            return .pong(payload)
        default:
            let (code, reason) = try ClosePayload.decode(payload)
            // RFC 6455 §5.5.1: echo the code; an empty close frame is a normal end.
            if state == .open { appendClose(code ?? .normal, "", &outbound, maskingKey) }
            end()
            return .closeReceived(code, reason)
        }
    }

    /// Nothing is read or written any more; what was held is given back.
    private mutating func end() {
        state = .closed
        input = ByteBuffer()
        partialHeader = ByteBuffer()
        partialControl = ByteBuffer()
        message = MessageAssembly()
        unansweredPing = nil
        frame = nil
    }
}

extension WebSocketStateMachine {
    /// Bytes of memory that this connection holds for what the peer sent and has not been delivered.
    package var heldBytes: Int {
        input.readableBytes + partialHeader.capacity + partialControl.capacity + message.bytes.capacity
            + (unansweredPing?.readableBytes ?? 0)
    }
}
