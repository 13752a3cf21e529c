internal import COpenSSL
internal import Foundation
internal import Glibc
package import MWPKI
internal import Synchronization

/// A small HTTP server over TLS on a port of its own of 127.0.0.1 (`https://localhost:PORT`): a thread for each connection, and for
/// each request a closure that says what happens on the wire, however wrong.
///
///     let server = try TestHTTPSServer(identity: authority.issueServer()) { exchange in exchange.reply(status: 200, body: "good") }
///     … server.url + "/path" …
///     server.stop()
///
/// A connection is kept for the next request unless the closure ended it or the request said `Connection: close`. The closure blocks
/// its own thread only; `pause` and `send` return false once the server stops or the peer is gone. `stop` ends and joins everything.
@safe package final class TestHTTPSServer: Sendable {
    package typealias Handler = @Sendable (TestExchange) -> Void

    package enum Protection: Sendable {
        /// TLS up to this version; no client certificate is asked for.
        case tls(Identity, maximum: Version = .tls13)
        /// Bare TCP. A request that is no HTTP has an empty method, and its bytes are the body.
        case none
    }

    package enum Version: Sendable {
        case tls11, tls12, tls13
    }

    package let port: UInt16
    package var url: String { "https://localhost:\(port)" }
    /// TCP connections so far, those that failed in TLS included.
    package var connectionCount: Int { state.withLock { $0.connectionCount } }
    /// All requests so far.
    package var requests: [TestRequest] { state.withLock { $0.requests } }

    private struct State {
        var connectionCount = 0
        var requests: [TestRequest] = []
        var open: Set<Int32> = []
        var isStopping = false
    }

    private let state = Mutex(State())
    private let threads = DispatchGroup()
    private let listener: Int32
    /// Readable for ever once the server stops.
    private let stopEvent: Int32
    private let stopTrigger: Int32
    private let handler: Handler
    // Safety: set once; SSL_new on a context is thread safe.
    private nonisolated(unsafe) let context: OpaquePointer?

    package convenience init(identity: Identity, _ handler: @escaping Handler) throws {
        try self.init(.tls(identity), handler)
    }

    package init(_ protection: Protection, _ handler: @escaping Handler) throws {
        // A peer that is gone is an error of the write that met it.
        _ = signal(SIGPIPE, SIG_IGN)
        self.handler = handler
        unsafe context = try unsafe TestHTTPSServer.context(protection)
        var ends: [Int32] = [-1, -1]
        guard unsafe pipe(&ends) == 0 else { throw TestHTTPSError(what: "no pipe: error \(errno)") }
        stopEvent = ends[0]
        stopTrigger = ends[1]
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let descriptor = listener
        let isListening = unsafe withUnsafeMutablePointer(to: &address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { pointer in
                unsafe bind(descriptor, pointer, length) == 0 && listen(descriptor, 1024) == 0
                    && getsockname(descriptor, pointer, &length) == 0
            }
        }
        guard isListening else { throw TestHTTPSError(what: "no listener: error \(errno)") }
        port = UInt16(bigEndian: address.sin_port)
        start { self.accept() }
    }

    deinit {
        close(listener)
        close(stopEvent)
        close(stopTrigger)
        unsafe SSL_CTX_free(context)
    }

    /// Ends every connection and waits until all threads are over. The server is kept alive by its threads until then.
    package func stop() {
        let open = state.withLock { state in
            state.isStopping = true
            return state.open
        }
        _ = unsafe write(stopTrigger, [1], 1)
        shutdown(listener, Int32(SHUT_RDWR))
        for descriptor in open { shutdown(descriptor, Int32(SHUT_RDWR)) }
        threads.wait()
    }

    // MARK: - Threads

    private func start(_ body: @escaping @Sendable () -> Void) {
        threads.enter()
        let threads = threads
        Thread {
            body()
            threads.leave()
        }.start()
    }

    private func accept() {
        while true {
            let descriptor = Glibc.accept(listener, nil, nil)
            guard descriptor >= 0 else {
                if errno == EINTR || errno == ECONNABORTED { continue }
                return
            }
            _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
            var one: Int32 = 1
            _ = unsafe setsockopt(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, &one, 4)
            let number = state.withLock { state -> Int? in
                guard !state.isStopping else { return nil }
                state.open.insert(descriptor)
                state.connectionCount += 1
                return state.connectionCount - 1
            }
            guard let number else {
                close(descriptor)
                return
            }
            start { self.serve(descriptor, number: number) }
        }
    }

    private func serve(_ descriptor: Int32, number: Int) {
        let stream = unsafe TestStream(descriptor: descriptor, context: context, stopEvent: stopEvent)
        if stream.isOpen {
            while let request = stream.readRequest(connection: number) {
                state.withLock { $0.requests.append(request) }
                handler(TestExchange(request: request, stream: stream))
                guard stream.isOpen, !request.endsConnection else { break }
            }
        }
        state.withLock { _ = $0.open.remove(descriptor) }
        stream.end()
    }

    private static func context(_ protection: Protection) throws -> OpaquePointer? {
        guard case .tls(let identity, let maximum) = protection else { return nil }
        OpenSSL.prepare()
        guard let context = unsafe SSL_CTX_new(TLS_server_method()) else { throw TestHTTPSError(what: "no context") }
        if case .tls11 = maximum {
            unsafe SSL_CTX_set_security_level(context, 0)
            _ = unsafe SSL_CTX_set_cipher_list(context, "ALL:@SECLEVEL=0")
        }
        let version =
            switch maximum {
            case .tls11: TLS1_1_VERSION
            case .tls12: TLS1_2_VERSION
            case .tls13: TLS1_3_VERSION
            }
        _ = unsafe mws_ssl_ctx_set_min_version(context, min(version, TLS1_2_VERSION))
        _ = unsafe mws_ssl_ctx_set_max_version(context, version)
        _ = unsafe identity.leaf.withUnsafeX509 { unsafe SSL_CTX_use_certificate(context, $0) }
        _ = unsafe identity.key.withUnsafeKey { unsafe SSL_CTX_use_PrivateKey(context, $0) }
        for certificate in identity.intermediates {
            _ = unsafe certificate.withUnsafeX509 { unsafe mws_ssl_ctx_add_chain_certificate(context, $0) }
        }
        return unsafe context
    }
}

/// The server could not be made.
package struct TestHTTPSError: Error, Sendable {
    package let what: String
}
