// The BIO between OpenSSL and our ByteBuffers: reads come straight out of the buffer that the socket filled, writes go straight into the
// buffer that the socket will send. One memory area for each session, freed with it.
//
//   socket ─> inboundCiphertext ─> SSL_read ─> plaintext
//   socket <─ outboundCiphertext <─ SSL_write <─ plaintext
//
// OpenSSL reads each record in two calls, 5 bytes of header and the rest. Its read-ahead buffer would save a call and cost a copy, and
// bytes would then lie in two places.

internal import COpenSSL
internal import MWPKI
internal import NIOCore

/// What the callbacks of one session share with it. It lives in raw memory that `TLSSession` owns: callbacks reach it without reference
/// counting and without exclusivity checks, which is safe because OpenSSL calls them only inside an SSL_ call on the session's thread, and
/// the session touches it only outside of such calls.
struct SessionState {
    var inboundCiphertext = ByteBuffer()
    var outboundCiphertext = ByteBuffer()
    /// The peer will send nothing more: an empty `inboundCiphertext` is then an end of file instead of a wait.
    var isInboundAtEnd = false
    /// Kept up to date until the session is established.
    var framing = RecordFraming()

    /// What a server's ClientHello came to.
    var hello = HelloKind.none
    /// The last alert of each direction, close_notify excepted.
    var alertReceived: TLSAlert?
    var alertSent: TLSAlert?
    /// Why the peer's chain was refused, as the verification callback saw it.
    var refusal: ChainRefusal?
    /// The chain that it accepted, until `PeerVerification.accept` takes it.
    var acceptedChain: AcceptedChain?
    /// Called between the parts of a handshake, while one is computed; see the server's use of `ProcessorTurns`, of MWStorage.
    var giveWay: (() -> Void)?
    /// The handshake is over: what OpenSSL's state machine does from here on, the peer caused.
    var isEstablished = false
    var keyUpdatesReceived = 0
    var renegotiationsRefused = 0
}

enum CiphertextBIO {
    /// The method table. Built once for each process, never freed.
    // Safety: written once here; OpenSSL only reads it afterwards.
    private nonisolated(unsafe) static let method: OpaquePointer? = unsafe makeMethod()

    /// A BIO over `state`. The caller hands it to SSL_set_bio, which then owns it; `state` must outlive it.
    static func make(over state: UnsafeMutablePointer<SessionState>) -> OpaquePointer? {
        guard let method = unsafe method, let bio = unsafe BIO_new(method) else { return nil }
        unsafe BIO_set_data(bio, state)
        unsafe BIO_set_init(bio, 1)
        unsafe BIO_set_shutdown(bio, 0)
        return unsafe bio
    }

    static func state(of bio: OpaquePointer?) -> UnsafeMutablePointer<SessionState>? {
        guard let data = unsafe BIO_get_data(bio) else { return nil }
        return unsafe data.assumingMemoryBound(to: SessionState.self)
    }

    private static func makeMethod() -> OpaquePointer? {
        guard let method = unsafe BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "ByteBuffer") else { return nil }
        unsafe BIO_meth_set_read_ex(method) { bio, destination, size, count in unsafe CiphertextBIO.read(bio, destination, size, count) }
        unsafe BIO_meth_set_write_ex(method) { bio, source, size, count in unsafe CiphertextBIO.write(bio, source, size, count) }
        unsafe BIO_meth_set_ctrl(method) { bio, command, _, _ in unsafe CiphertextBIO.control(bio, command) }
        return unsafe method
    }

    private static func read(
        _ bio: OpaquePointer?, _ destination: UnsafeMutablePointer<CChar>?, _ size: Int, _ count: UnsafeMutablePointer<Int>?
    ) -> Int32 {
        unsafe mws_bio_clear_retry(bio)
        guard let state = unsafe state(of: bio), let destination = unsafe destination, let count = unsafe count else { return 0 }
        let available = unsafe min(size, state.pointee.inboundCiphertext.readableBytes)
        guard available > 0 else {
            unsafe count.pointee = 0
            if unsafe !state.pointee.isInboundAtEnd { unsafe mws_bio_set_retry_read(bio) }
            return 0
        }
        let isHandshaking = unsafe !state.pointee.isEstablished
        unsafe state.pointee.inboundCiphertext.readWithUnsafeReadableBytes { bytes in
            if isHandshaking { unsafe state.pointee.framing.take(UnsafeRawBufferPointer(rebasing: bytes[..<available])) }
            unsafe UnsafeMutableRawPointer(destination).copyMemory(from: bytes.baseAddress.unsafelyUnwrapped, byteCount: available)
            return available
        }
        unsafe count.pointee = available
        return 1
    }

    private static func write(
        _ bio: OpaquePointer?, _ source: UnsafePointer<CChar>?, _ size: Int, _ count: UnsafeMutablePointer<Int>?
    ) -> Int32 {
        unsafe mws_bio_clear_retry(bio)
        guard let state = unsafe state(of: bio), let source = unsafe source, let count = unsafe count else { return 0 }
        unsafe state.pointee.outboundCiphertext.writeBytes(UnsafeRawBufferPointer(start: source, count: size))
        unsafe count.pointee = size
        return 1
    }

    private static func control(_ bio: OpaquePointer?, _ command: Int32) -> Int {
        switch command {
        case BIO_CTRL_FLUSH: return 1
        case BIO_CTRL_EOF, BIO_CTRL_PENDING, BIO_CTRL_WPENDING: break
        // Mostly whether the kernel encrypts, a dozen times for each request.
        default: return 0
        }
        guard let state = unsafe state(of: bio) else { return 0 }
        switch command {
        case BIO_CTRL_EOF: return unsafe state.pointee.isInboundAtEnd && state.pointee.inboundCiphertext.readableBytes == 0 ? 1 : 0
        case BIO_CTRL_PENDING: return unsafe state.pointee.inboundCiphertext.readableBytes
        default: return unsafe state.pointee.outboundCiphertext.readableBytes
        }
    }
}
