import Glibc
import MWTLS
import NIOCore

/// One connection: a socket, TLS, and what is said over it. As little work as can be, so that the server is what is measured: a system call
/// brings what there is, nothing waits in between, and no storage is allocated for a message.
final class BenchConnection {
    /// What one read takes at most.
    private static let maximumReadBytes = 64 * 1024

    let socket: Int32
    private let conversation: any Conversation
    private var session: TLSSession
    private var outbound = ByteBuffer()
    /// Encrypted, and not taken by the socket.
    private var unsent = ByteBuffer()

    /// What all connections use in turn.
    struct Buffers {
        var ciphertext = ByteBuffer()
        var plaintext = ByteBuffer()
    }

    init(_ duty: Duty, _ plan: WatchBench.Plan, _ context: TLSContext) throws {
        conversation =
            plan.dialect == .native
            ? NativeConversation(duty, authority: "\(plan.host):\(plan.port)") : RedisConversation(duty, plan.dialect)
        session = TLSSession(context: context)
        socket = try Self.connect(plan.host, plan.port)
        try step()
        try send()
    }

    deinit { Glibc.close(socket) }

    func write(_ value: ByteBuffer) throws {
        conversation.write(value, &outbound)
        try send()
    }

    /// The socket has something, or takes something again; or it is ending, and nothing more is told of it.
    func ready(_ buffers: inout Buffers, _ heard: inout Heard, isEnding: Bool) throws {
        var isMore = true
        while isMore {
            buffers.ciphertext.clear(minimumCapacity: Self.maximumReadBytes)
            var count = 0
            _ = unsafe buffers.ciphertext.writeWithUnsafeMutableBytes(minimumWritableBytes: Self.maximumReadBytes) { bytes in
                count = unsafe read(socket, bytes.baseAddress, Self.maximumReadBytes)
                return max(0, count)
            }
            guard count != 0 else { throw Unexpected(description: "a connection ended") }
            guard count > 0 else {
                guard errno == EAGAIN else { throw SystemError("read") }
                break
            }
            // Less than there was room for: nothing is left, and more is told of.
            isMore = isEnding || count == Self.maximumReadBytes
            session.receive(buffers.ciphertext)
            if session.phase == .handshaking { try step() }
            if session.phase == .established { try readPlaintext(&buffers.plaintext, &heard) }
        }
        try send()
    }

    /// Acknowledges what comes at once, as who only listens does for most of its life. Whether a socket does so otherwise depends on what was
    /// said in the beginning, and with it who does the work of acknowledging: the server, on its processor, or we.
    func acknowledgeAtOnce() {
        var isOn: Int32 = 1
        _ = unsafe setsockopt(socket, Int32(IPPROTO_TCP), TCP_QUICKACK, &isOn, socklen_t(MemoryLayout<Int32>.size))
    }

    // MARK: Private

    private func step() throws {
        switch session.handshake() {
        case .needsCiphertext: break
        case .established: try conversation.begin(&outbound)
        case .failed(let error): throw error
        case .challengeAnswered: throw Unexpected(description: "a challenge")
        }
    }

    private func readPlaintext(_ plaintext: inout ByteBuffer, _ heard: inout Heard) throws {
        let status = session.read(into: &plaintext)
        if plaintext.readableBytes > 0 { try conversation.received(&plaintext, &outbound, &heard) }
        switch status {
        case .needsCiphertext: break
        case .closed: throw Unexpected(description: "a connection ended")
        case .failed(let error): throw error
        }
    }

    private func send() throws {
        if outbound.readableBytes > 0, session.phase == .established {
            try session.write(outbound)
            outbound.clear()
        }
        if session.hasOutboundCiphertext {
            var ciphertext = session.takeOutboundCiphertext()
            unsent.writeBuffer(&ciphertext)
        }
        while unsent.readableBytes > 0 {
            let count = unsafe unsent.readWithUnsafeReadableBytes { bytes in
                max(0, unsafe Glibc.write(socket, bytes.baseAddress, bytes.count))
            }
            guard count > 0 else {
                guard errno == EAGAIN else { throw SystemError("write") }
                return
            }
        }
        unsent.clear()
    }

    private static func connect(_ host: String, _ port: Int) throws -> Int32 {
        var hints = unsafe addrinfo()
        unsafe hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        var found: UnsafeMutablePointer<addrinfo>?
        guard unsafe getaddrinfo(host, "\(port)", &hints, &found) == 0 else { throw SystemError("getaddrinfo '\(host)'") }
        defer { unsafe freeaddrinfo(found) }
        var next = unsafe found
        while let address = unsafe next {
            unsafe next = address.pointee.ai_next
            let socket = unsafe Glibc.socket(address.pointee.ai_family, address.pointee.ai_socktype | Int32(SOCK_CLOEXEC.rawValue), 0)
            guard socket >= 0 else { throw SystemError("socket") }
            if unsafe Glibc.connect(socket, address.pointee.ai_addr, address.pointee.ai_addrlen) == 0 {
                var isOn: Int32 = 1
                unsafe setsockopt(socket, Int32(IPPROTO_TCP), TCP_NODELAY, &isOn, socklen_t(MemoryLayout<Int32>.size))
                _ = fcntl(socket, F_SETFL, O_NONBLOCK)
                return socket
            }
            Glibc.close(socket)
        }
        throw SystemError("connect to '\(host)', port \(port)")
    }
}
