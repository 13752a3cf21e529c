// One TLS connection as a value: ciphertext in, plaintext out, and back. No channel, no clock.
//
//              handshake()             read(into:) / write(_:)         close()
//   handshaking ────────> established ─────────────────────────┬────────────> closing
//        │                     │ the peer's close_notify       └─> peerClosed ─┘
//        ├──────────┬──────────┘
//        │          v
//        │       failed: nothing more is read or written; an alert may wait in outboundCiphertext
//        └─> challengeAnswered: a server's, to a CA that wanted to see a certificate; neither read nor written, close_notify waits
//
// Responsibilities: drive OpenSSL, tell what happened as a value, bound what a peer may make us do. After every call, also one that
// failed, the owner sends `takeOutboundCiphertext()`: alerts leave that way too.

internal import COpenSSL
internal import MWPKI
package import NIOCore

/// One TLS connection, bytes in and bytes out. Use it from one thread at a time.
@safe package struct TLSSession: ~Copyable {
    package enum Phase: Sendable, Hashable { case handshaking, established, peerClosed, closing, challengeAnswered, failed }

    /// What `handshake()` came to.
    package enum HandshakeStatus: Sendable {
        /// Send what is outbound and feed more ciphertext.
        case needsCiphertext
        case established(VerifiedPeer)
        /// An ACME validation of `serverName` (RFC 8737) has seen its certificate. There is no peer, and nothing more to be said.
        case challengeAnswered(serverName: String)
        case failed(TLSError)
    }

    /// What `read(into:)` came to, after the plaintext that it delivered.
    package enum ReadStatus: Equatable {
        case needsCiphertext
        /// The peer sent close_notify: the plaintext is complete.
        case closed
        /// Plaintext delivered before is authentic, but the stream is not complete.
        case failed(TLSError)
    }

    package private(set) var phase: Phase = .handshaking

    private let context: TLSContext
    /// Made by the first `handshake()`, on the thread that computes it; nil before.
    private var ssl: OpaquePointer?
    private let state: UnsafeMutablePointer<SessionState>
    /// Ciphertext that OpenSSL took for a record that is not complete yet.
    private var partialRecordBytes = 0
    private var plaintextBytesRead: UInt64 = 0

    /// RFC 8446 §5.1: the longest plaintext of a record.
    @inlinable package static var maximumRecordPlaintextBytes: Int { 16 * 1024 }
    /// What a record adds at most: header 5, explicit nonce 8 (1.2) or content type 1 (1.3), tag 16.
    private static let maximumRecordOverheadBytes = 32
    private static let maximumRecordCiphertextBytes = maximumRecordPlaintextBytes + 256
    /// Renegotiation requests answered with no_renegotiation before we hang up.
    private static let maximumRenegotiations = 3

    /// A session in the role of its context. A client's first `handshake()` produces its hello.
    package init(context: TLSContext) {
        self.context = context
        unsafe self.state = UnsafeMutablePointer<SessionState>.allocate(capacity: 1)
        unsafe state.initialize(to: SessionState())
    }

    /// Whether there is something of OpenSSL to be freed.
    private(set) var hasBegun = false

    /// Frees what is OpenSSL's, here and now. Nothing may be asked of the session any more.
    mutating func end() {
        guard hasBegun else { return }
        hasBegun = false
        unsafe SSL_free(ssl)
        unsafe ssl = nil
    }

    private mutating func begin() {
        // Both fail only when memory is exhausted.
        guard let ssl = unsafe SSL_new(context.pointer), let bio = unsafe CiphertextBIO.make(over: state) else {
            fatalError("out of memory")
        }
        unsafe self.ssl = unsafe ssl
        hasBegun = true
        unsafe SSL_set_bio(ssl, bio, bio)
        switch context.role {
        case .server:
            unsafe SSL_set_accept_state(ssl)
        case .client:
            unsafe SSL_set_connect_state(ssl)
            if let name = context.serverVerification?.serverNameIndication {
                _ = unsafe mws_ssl_set_server_name(ssl, name)
            }
        }
    }

    deinit {
        if hasBegun { unsafe SSL_free(ssl) }
        unsafe state.deinitialize(count: 1)
        unsafe state.deallocate()
    }

    // MARK: Ciphertext

    /// Takes bytes from the peer. They are looked at by the next `handshake()` or `read(into:)`.
    package mutating func receive(_ ciphertext: consuming ByteBuffer) {
        if unsafe state.pointee.inboundCiphertext.readableBytes == 0 {
            unsafe state.pointee.inboundCiphertext = ciphertext
        } else {
            _ = unsafe state.pointee.inboundCiphertext.writeBuffer(&ciphertext)
        }
    }

    /// The peer sends nothing more. Without a close_notify before, the next call reports `truncated` or `handshakeAbandoned`.
    package mutating func receiveEnd() {
        unsafe state.pointee.isInboundAtEnd = true
    }

    /// Received and not looked at yet.
    package var unreadCiphertextBytes: Int { unsafe state.pointee.inboundCiphertext.readableBytes }

    /// Whether OpenSSL could get on with the unread ciphertext: a whole record lies there, behind a change_cipher_spec if there is one, or
    /// something that never becomes a record.
    package var hasWholeRecord: Bool {
        let bytes = unsafe state.pointee.inboundCiphertext
        guard bytes.readableBytes > 0 else { return false }
        // After a whole record OpenSSL takes what there is of the next one, too.
        switch unsafe state.pointee.framing.position {
        case .insideRecord(let bytesLeft): return bytes.readableBytes >= bytesLeft
        case .insideHeader, .unknown: return true
        case .boundary: break
        }
        var start = bytes.readerIndex
        // RFC 8446 §D.4: one alone asks for nothing, and what comes behind it is on its way. Of more of them OpenSSL decides.
        if bytes.getBytes(at: start, length: RecordFraming.changeCipherSpec.count) == RecordFraming.changeCipherSpec {
            start += RecordFraming.changeCipherSpec.count
        }
        guard let type = bytes.getInteger(at: start, as: UInt8.self) else { return false }
        guard RecordFraming.recordTypes.contains(type) else { return true }
        guard let length = bytes.getInteger(at: start + RecordFraming.lengthOffset, as: UInt16.self) else { return false }
        return Int(length) > Self.maximumRecordCiphertextBytes
            || bytes.writerIndex - start >= RecordFraming.headerBytes + Int(length)
    }

    package var hasOutboundCiphertext: Bool { outboundCiphertextBytes > 0 }

    /// What waits to be sent.
    package var outboundCiphertextBytes: Int { unsafe state.pointee.outboundCiphertext.readableBytes }

    /// Lets what is to be sent go into `buffer`, which is empty, unless something waits already.
    mutating func useOutbound(_ buffer: consuming ByteBuffer) {
        if !hasOutboundCiphertext { unsafe state.pointee.outboundCiphertext = buffer }
    }

    /// Everything that waits to be sent, to be sent in one write.
    package mutating func takeOutboundCiphertext() -> ByteBuffer {
        let ciphertext = unsafe state.pointee.outboundCiphertext
        unsafe state.pointee.outboundCiphertext = ByteBuffer()
        return ciphertext
    }

    // MARK: Handshake

    /// Goes as far as the ciphertext allows. Call it only while `phase` is `handshaking`. Between its parts it calls `giveWay`, on this thread,
    /// and keeps nothing of it.
    package mutating func handshake(givingWay giveWay: (() -> Void)? = nil) -> HandshakeStatus {
        precondition(phase == .handshaking, "handshake() after the handshake")
        if !hasBegun { begin() }
        unsafe state.pointee.giveWay = giveWay
        defer { unsafe state.pointee.giveWay = nil }
        OpenSSLErrors.forget()
        let result = unsafe SSL_do_handshake(ssl)
        unsafe state.pointee.releaseInboundIfRead()
        guard result != 1 else { return establish() }
        switch unsafe SSL_get_error(ssl, result) {
        case SSL_ERROR_WANT_READ: return .needsCiphertext
        default: return .failed(fail())
        }
    }

    /// The name whose challenge this handshake answers, once the peer's hello has been read.
    package var challengeShown: String? {
        if case .challenge(let name) = unsafe state.pointee.hello { name } else { nil }
    }

    private mutating func establish() -> HandshakeStatus {
        if case .challenge(let name) = unsafe state.pointee.hello {
            phase = .challengeAnswered
            _ = unsafe SSL_shutdown(ssl)
            OpenSSLErrors.forget()
            return .challengeAnswered(serverName: name)
        }
        guard let ssl = unsafe ssl else { preconditionFailure("nothing is established before it has begun") }
        switch unsafe context.peerVerification.accept(ssl, state) {
        case .success(let peer):
            unsafe state.pointee.isEstablished = true
            phase = .established
            return .established(peer)
        case .failure(let error):
            phase = .failed
            return .failed(error)
        }
    }

    // MARK: Plaintext

    /// Appends all plaintext that the ciphertext received so far holds. Call it once `phase` is `established`.
    package mutating func read(into plaintext: inout ByteBuffer) -> ReadStatus {
        switch phase {
        case .established, .closing: break
        case .peerClosed: return .closed
        case .handshaking, .challengeAnswered, .failed: return .failed(TLSError(.closed, "session", "reads only while it is established"))
        }
        // Enough for all of it: a record's plaintext is shorter than its ciphertext.
        plaintext.reserveCapacity(minimumWritableBytes: unreadCiphertextBytes + partialRecordBytes)
        while true {
            let unread = unreadCiphertextBytes
            let count = readOnce(into: &plaintext)
            guard count > 0 else { return readEnded(result: Int32(count), consumed: unread - unreadCiphertextBytes) }
            partialRecordBytes = 0
            plaintextBytesRead &+= UInt64(count)
            if unreadCiphertextBytes == 0, unsafe SSL_pending(ssl) == 0 {
                unsafe state.pointee.releaseInboundIfRead()
                return checkFloods()
            }
        }
    }

    /// The plaintext bytes of one record, or SSL_read_ex's result when there are none.
    private func readOnce(into plaintext: inout ByteBuffer) -> Int {
        OpenSSLErrors.forget()
        return unsafe plaintext.writeWithUnsafeMutableBytes(minimumWritableBytes: 1) { buffer in
            var count = 0
            guard unsafe SSL_read_ex(ssl, buffer.baseAddress, buffer.count, &count) == 1 else { return 0 }
            return count
        }
    }

    private mutating func readEnded(result: Int32, consumed: Int) -> ReadStatus {
        unsafe state.pointee.releaseInboundIfRead()
        switch unsafe SSL_get_error(ssl, result) {
        case SSL_ERROR_WANT_READ:
            partialRecordBytes = min(partialRecordBytes + consumed, Self.maximumRecordPlaintextBytes)
            return checkFloods()
        case SSL_ERROR_ZERO_RETURN:
            if phase == .established { phase = .peerClosed }
            return .closed
        default:
            return .failed(fail())
        }
    }

    /// Encrypts all of `plaintext` into whole records after what is outbound already.
    ///
    /// Throws `closed` when the session is not established or has sent its close_notify.
    ///
    /// - Parameter bytesToCome: What will be written right behind it: there is room for it, too, then.
    package mutating func write(_ plaintext: ByteBuffer, before bytesToCome: Int = 0) throws(TLSError) {
        guard phase == .established || phase == .peerClosed else {
            throw TLSError(.closed, "session", "writes only between its handshake and its close_notify")
        }
        let bytes = plaintext.readableBytes
        guard bytes > 0 else { return }
        let bytesInAll = bytes + bytesToCome
        let records = (bytesInAll + Self.maximumRecordPlaintextBytes - 1) / Self.maximumRecordPlaintextBytes
        unsafe state.pointee.outboundCiphertext.reserveCapacity(
            minimumWritableBytes: bytesInAll + records * Self.maximumRecordOverheadBytes)
        OpenSSLErrors.forget()
        var written = 0
        let isWritten = unsafe plaintext.withUnsafeReadableBytes { buffer in
            unsafe SSL_write_ex(ssl, buffer.baseAddress, buffer.count, &written) == 1
        }
        guard isWritten, written == bytes else { throw fail() }
    }

    /// Says close_notify, once. What the peer still sends may be read; nothing more may be written.
    package mutating func close() {
        guard phase == .established || phase == .peerClosed else { return }
        phase = .closing
        OpenSSLErrors.forget()
        _ = unsafe SSL_shutdown(ssl)
        OpenSSLErrors.forget()
    }

    // MARK: Failure

    private mutating func fail() -> TLSError {
        let wasHandshaking = phase == .handshaking
        phase = .failed
        let errors = OpenSSLErrors.drain()
        let alertSent = unsafe state.pointee.alertSent
        if var error = unsafe state.pointee.refusal.map({ TLSError.refused($0, context.peerVerification.expectedName) }) {
            error.alert = alertSent
            error.underlying = errors.lines
            return error
        }
        if case .refused(let refusal) = unsafe state.pointee.hello {
            var error = TLSError.refused(refusal)
            error.underlying = errors.lines
            return error
        }
        if let alert = unsafe state.pointee.alertReceived {
            return TLSError(
                .alertReceived, "peer", "ended the connection with \(alert)", remedy: alert.remedy, alert: alert, underlying: errors.lines)
        }
        let error = TLSError.handshake(errors, alertSent: alertSent)
        guard !wasHandshaking, error.code == .handshakeAbandoned else { return error }
        return TLSError(
            .truncated, "peer", "closed the connection without close_notify", remedy: "take what was received as incomplete",
            underlying: errors.lines)
    }

    private mutating func checkFloods() -> ReadStatus {
        let allowed = UInt64(context.policy.maximumKeyUpdatesPerMebibyte) * (1 + plaintextBytesRead >> 20)
        if unsafe UInt64(state.pointee.keyUpdatesReceived) > allowed {
            phase = .failed
            return .failed(TLSError(.keyUpdateFlood, "peer", "changes its keys too often", expected: "at most \(allowed) times"))
        }
        if unsafe state.pointee.renegotiationsRefused > Self.maximumRenegotiations {
            phase = .failed
            return .failed(TLSError(.renegotiationFlood, "peer", "insists on renegotiation"))
        }
        return .needsCiphertext
    }

    /// OpenSSL's info callback: alerts in both directions, the parts of a handshake, and the messages after it that cost us something.
    static func observe(_ ssl: OpaquePointer, place: Int32, value: Int32) {
        guard let state = unsafe CiphertextBIO.state(of: SSL_get_rbio(ssl)) else { return }
        if mws_ssl_where_is_alert_read(place) != 0 || mws_ssl_where_is_alert_written(place) != 0 {
            let alert = TLSAlert(rawValue: UInt8(truncatingIfNeeded: value))
            // RFC 8446 §6: in 1.3 the level means nothing; close_notify and user_canceled are no errors.
            let isFatal = value >> 8 == SSL3_AL_FATAL || (unsafe SSL_version(ssl) == TLS1_3_VERSION && alert != .userCanceled)
            if alert == .noRenegotiation, mws_ssl_where_is_alert_written(place) != 0 { unsafe state.pointee.renegotiationsRefused += 1 }
            guard isFatal, alert != .closeNotify else { return }
            if mws_ssl_where_is_alert_read(place) != 0 {
                unsafe state.pointee.alertReceived = alert
            } else {
                unsafe state.pointee.alertSent = alert
            }
        } else if mws_ssl_where_is_loop(place) != 0 {
            guard unsafe state.pointee.isEstablished else {
                unsafe state.pointee.giveWay?()
                return
            }
            let message = unsafe SSL_get_state(ssl)
            if message == TLS_ST_SR_KEY_UPDATE || message == TLS_ST_CR_KEY_UPDATE { unsafe state.pointee.keyUpdatesReceived += 1 }
        }
    }
}

extension SessionState {
    /// Gives the socket's buffer back as soon as it is read: idle connections hold none, and the socket's pool may use it again.
    mutating func releaseInboundIfRead() {
        if inboundCiphertext.readableBytes == 0 { inboundCiphertext = ByteBuffer() }
    }
}
