import COpenSSL
import MWPKI
import NIOCore

/// OpenSSL without any policy of ours: what a careless, old or hostile peer would be. Memory BIOs, no verification, security level 0.
@safe final class RawPeer: Endpoint {
    enum Role { case client, server }
    /// The SSL_CTX, before the SSL is made of it.
    @safe struct Context {
        let pointer: OpaquePointer
    }

    // Safety: owned by this object, which one test uses on one thread.
    private nonisolated(unsafe) let context: OpaquePointer
    private nonisolated(unsafe) let ssl: OpaquePointer
    private let identity: Identity?
    private(set) var isEstablished = false
    private(set) var plaintext = ByteBuffer()
    /// The fatal alert that ended the connection, as SSL_R_… minus 1000.
    private(set) var alertReceived: UInt8?
    private(set) var failures: [String] = []

    /// - Parameter configure: gets the SSL_CTX before the SSL is made of it.
    init(
        _ role: Role, identity: Identity? = nil, minimum: Int32 = TLS1_2_VERSION, maximum: Int32 = TLS1_3_VERSION,
        configure: (Context) -> Void = { _ in }
    ) {
        OpenSSL.prepare()
        guard let context = unsafe SSL_CTX_new(role == .client ? TLS_client_method() : TLS_server_method()) else {
            fatalError("no context")
        }
        unsafe self.context = unsafe context
        self.identity = identity
        unsafe SSL_CTX_set_security_level(context, 0)
        _ = unsafe SSL_CTX_set_cipher_list(context, "ALL:@SECLEVEL=0")
        _ = unsafe mws_ssl_ctx_set_min_version(context, minimum)
        _ = unsafe mws_ssl_ctx_set_max_version(context, maximum)
        if let identity {
            _ = unsafe identity.leaf.withUnsafeX509 { unsafe SSL_CTX_use_certificate(context, $0) }
            _ = unsafe identity.key.withUnsafeKey { unsafe SSL_CTX_use_PrivateKey(context, $0) }
            for certificate in identity.intermediates {
                _ = unsafe certificate.withUnsafeX509 { unsafe mws_ssl_ctx_add_chain_certificate(context, $0) }
            }
        }
        unsafe configure(Context(pointer: context))
        guard let ssl = unsafe SSL_new(context) else { fatalError("no connection") }
        unsafe self.ssl = unsafe ssl
        unsafe SSL_set_bio(ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()))
        unsafe role == .client ? SSL_set_connect_state(ssl) : SSL_set_accept_state(ssl)
        recordMessages()
    }

    deinit {
        // Without it OpenSSL makes the connection's session useless, and resumption tests would test nothing.
        unsafe SSL_set_shutdown(ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN)
        unsafe SSL_free(ssl)
        unsafe SSL_CTX_free(context)
        unsafe messages.deinitialize(count: 1)
        unsafe messages.deallocate()
    }

    /// The types of the handshake messages in both directions, in order (RFC 8446 §4).
    enum HandshakeMessage: UInt8 {
        case clientHello = 1, serverHello = 2, certificate = 11, certificateRequest = 13, certificateVerify = 15, finished = 20
    }

    // Safety: only this peer's own calls into OpenSSL reach the callback that appends, on their thread.
    private nonisolated(unsafe) let messages = UnsafeMutablePointer<[UInt8]>.allocate(capacity: 1)

    var handshakeMessages: [HandshakeMessage] { unsafe messages.pointee.compactMap(HandshakeMessage.init(rawValue:)) }

    private func recordMessages() {
        unsafe messages.initialize(to: [])
        unsafe SSL_set_msg_callback(ssl) { _, _, contentType, bytes, count, _, argument in
            guard contentType == SSL3_RT_HANDSHAKE, count > 0, let bytes = unsafe bytes, let argument = unsafe argument else { return }
            let type = unsafe bytes.load(as: UInt8.self)
            unsafe argument.assumingMemoryBound(to: [UInt8].self).pointee.append(type)
        }
        _ = unsafe SSL_ctrl(ssl, SSL_CTRL_SET_MSG_CALLBACK_ARG, 0, messages)
    }

    /// What a client's next hello says about protocols (none: no extension) and the server's name.
    func offer(_ protocols: [String], serverName: String?) {
        let list = protocols.flatMap { [UInt8($0.utf8.count)] + Array($0.utf8) }
        _ = unsafe SSL_set_alpn_protos(ssl, list.isEmpty ? nil : list, UInt32(list.count))
        if let serverName { _ = unsafe mws_ssl_set_server_name(ssl, serverName) }
    }

    /// What the server chose of the protocols offered.
    var selectedProtocol: String? {
        var bytes: UnsafePointer<UInt8>?
        var count: UInt32 = 0
        unsafe SSL_get0_alpn_selected(ssl, &bytes, &count)
        guard count > 0 else { return nil }
        return unsafe String(decoding: UnsafeBufferPointer(start: bytes, count: Int(count)), as: UTF8.self)
    }

    var peerCertificate: Certificate? {
        unsafe SSL_get0_peer_certificate(ssl).flatMap { unsafe try? Certificate(sharing: $0, source: "peer") }
    }

    /// The peer said close_notify.
    var isClosedByPeer: Bool { unsafe SSL_get_shutdown(ssl) & SSL_RECEIVED_SHUTDOWN != 0 }

    func withSSL<R>(_ body: (OpaquePointer) throws -> R) rethrows -> R { try unsafe body(ssl) }

    func feed(_ ciphertext: ByteBuffer) {
        _ = unsafe ciphertext.withUnsafeReadableBytes { bytes in
            unsafe bytes.count > 0 ? BIO_write(SSL_get_rbio(ssl), bytes.baseAddress, Int32(bytes.count)) : 0
        }
    }

    func step() {
        ERR_clear_error()
        if !isEstablished {
            let result = unsafe SSL_do_handshake(ssl)
            guard result == 1 else { return note(result) }
            isEstablished = true
        }
        var buffer = [UInt8](repeating: 0, count: 16 * 1024)
        while true {
            ERR_clear_error()
            let count = unsafe SSL_read(ssl, &buffer, Int32(buffer.count))
            guard count > 0 else { return note(count) }
            plaintext.writeBytes(buffer.prefix(Int(count)))
        }
    }

    func drain() -> ByteBuffer {
        var bytes = ByteBuffer()
        var buffer = [UInt8](repeating: 0, count: 16 * 1024)
        while true {
            let count = unsafe BIO_read(SSL_get_wbio(ssl), &buffer, Int32(buffer.count))
            guard count > 0 else { return bytes }
            bytes.writeBytes(buffer.prefix(Int(count)))
        }
    }

    @discardableResult
    func write(_ text: String) -> Bool {
        let bytes = Array(text.utf8)
        return unsafe SSL_write(ssl, bytes, Int32(bytes.count)) == Int32(bytes.count)
    }

    var text: String { String(buffer: plaintext) }
    var isReused: Bool { unsafe SSL_session_reused(ssl) != 0 }

    /// Whether what the connection left behind could be resumed: a session id in 1.2, a ticket in 1.3.
    var hasResumableSession: Bool {
        guard let session = unsafe SSL_get_session(ssl) else { return false }
        return unsafe SSL_SESSION_is_resumable(session) != 0
    }

    private func note(_ result: Int32) {
        guard unsafe SSL_get_error(ssl, result) == SSL_ERROR_SSL else { return }
        while true {
            let code = ERR_get_error()
            guard code != 0 else { return }
            let reason = mws_err_reason(code)
            if mws_err_is_ssl(code) != 0, (1000..<1256).contains(reason) { alertReceived = UInt8(reason - 1000) }
            if let text = unsafe ERR_reason_error_string(code) { failures.append(unsafe String(cString: text)) }
        }
    }
}
