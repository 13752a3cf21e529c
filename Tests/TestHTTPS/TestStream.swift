internal import COpenSSL
internal import Glibc

/// A blocking stream over one socket, with TLS where there is a context. Used on one thread; `shutdown` of the socket elsewhere wakes it.
@safe final class TestStream {
    private let descriptor: Int32
    private let stopEvent: Int32
    private let ssl: OpaquePointer?
    private var buffered: [UInt8] = []
    private(set) var isOpen = true
    private static let maximumHeadBytes = 1 << 20

    init(descriptor: Int32, context: OpaquePointer?, stopEvent: Int32) {
        self.descriptor = descriptor
        self.stopEvent = stopEvent
        guard let context = unsafe context else {
            unsafe ssl = nil
            return
        }
        unsafe ssl = SSL_new(context)
        unsafe SSL_set_fd(ssl, descriptor)
        ERR_clear_error()
        isOpen = unsafe SSL_accept(ssl) == 1
    }

    deinit { unsafe SSL_free(ssl) }

    /// Frees the descriptor; after it nothing else is called.
    func end() {
        close(notify: true)
        Glibc.close(descriptor)
    }

    func close(notify: Bool) {
        guard isOpen else { return }
        isOpen = false
        if notify, unsafe ssl != nil { unsafe SSL_shutdown(ssl) }
        shutdown(descriptor, Int32(SHUT_RDWR))
    }

    func reset() {
        guard isOpen else { return }
        isOpen = false
        // Sent when the descriptor is closed.
        var option = linger(l_onoff: 1, l_linger: 0)
        _ = unsafe setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &option, socklen_t(MemoryLayout<linger>.size))
    }

    func write(_ bytes: [UInt8]) -> Bool {
        var sent = 0
        while isOpen, sent < bytes.count {
            ERR_clear_error()
            let count = unsafe bytes.withUnsafeBytes { buffer in
                let rest = unsafe UnsafeRawBufferPointer(rebasing: buffer[sent...])
                return unsafe ssl == nil
                    ? Glibc.write(descriptor, rest.baseAddress, rest.count)
                    : Int(SSL_write(ssl, rest.baseAddress, Int32(clamping: rest.count)))
            }
            guard count > 0 else {
                isOpen = false
                return false
            }
            sent += count
        }
        return isOpen
    }

    func pause(_ duration: Duration) -> Bool {
        var event = pollfd(fd: stopEvent, events: Int16(POLLIN), revents: 0)
        let milliseconds = duration.components.seconds * 1000 + duration.components.attoseconds / 1_000_000_000_000_000
        return unsafe poll(&event, 1, Int32(clamping: milliseconds)) == 0
    }

    func waitForEnd() {
        while isOpen, read() {}
    }

    /// Nil at the end of the connection.
    func readRequest(connection: Int) -> TestRequest? {
        var request = TestRequest(connection: connection, method: "", target: "", headers: [], body: [])
        var end: Int?
        while end == nil {
            end = buffered.firstRange(of: Array("\r\n\r\n".utf8))?.upperBound
            if end == nil {
                // Not HTTP at all: whoever speaks first gets an answer.
                if unsafe ssl == nil, let first = buffered.first, !(0x41...0x5A).contains(first) {
                    request.body = buffered
                    buffered = []
                    return request
                }
                guard buffered.count < TestStream.maximumHeadBytes, read() else { return nil }
            }
        }
        guard let end else { return nil }
        let lines = String(decoding: buffered[..<end], as: UTF8.self).split(separator: "\r\n")
        buffered.removeFirst(end)
        let words = (lines.first ?? "").split(separator: " ")
        guard words.count == 3 else { return nil }
        request.method = String(words[0])
        request.target = String(words[1])
        for line in lines.dropFirst() {
            guard let colon = line.firstIndex(of: ":") else { return nil }
            let value = line[line.index(after: colon)...].drop { $0 == " " }
            request.headers.append(.init(name: String(line[..<colon]), value: String(value)))
        }
        let length = request.value(of: "Content-Length").flatMap { Int($0) } ?? 0
        while buffered.count < length { guard read() else { return nil } }
        request.body = Array(buffered[..<length])
        buffered.removeFirst(length)
        return request
    }

    /// Some more bytes; false at the end.
    private func read() -> Bool {
        guard isOpen else { return false }
        var chunk = [UInt8](repeating: 0, count: 16 * 1024)
        ERR_clear_error()
        let count =
            unsafe ssl == nil
            ? Glibc.read(descriptor, &chunk, chunk.count)
            : Int(SSL_read(ssl, &chunk, Int32(chunk.count)))
        guard count > 0 else {
            isOpen = false
            return false
        }
        buffered += chunk[..<count]
        return true
    }
}
