internal import Foundation
internal import Synchronization

/// Addresses and ports of this machine that nobody else uses.
package enum Loopback {
    /// Above begin the ports that the system gives to clients: a listener there may find its port taken.
    private static let ports: Range<UInt16> = 12_000..<32_000
    private static let given = Mutex(Set<UInt16>())
    private static let addresses = Mutex(UInt32(0))

    /// A port that is free now, for TCP and UDP, and that this process has not given out before.
    package static func freePort() -> Int {
        while true {
            let port = UInt16.random(in: ports)
            guard given.withLock({ $0.insert(port).inserted }) else { continue }
            if isFree(port, SOCK_STREAM), isFree(port, SOCK_DGRAM) { return Int(port) }
        }
    }

    /// An address of its own for each test (127.64.0.1 and following), so that all can listen on the one port where a CA looks.
    package static func uniqueAddress() -> String {
        let number = addresses.withLock { next in
            next += 1
            return next
        }
        return "127.\(64 + (number >> 16) & 63).\((number >> 8) & 255).\(number & 255)"
    }

    private static func isFree(_ port: UInt16, _ kind: __socket_type) -> Bool {
        let descriptor = socket(AF_INET, CInt(kind.rawValue) | CInt(SOCK_CLOEXEC.rawValue), 0)
        defer { close(descriptor) }
        return unsafe withIPv4(port) { address, length in unsafe bind(descriptor, address, length) == 0 }
    }

    /// Whether something accepts connections there.
    package static func accepts(_ port: Int, at address: String = "127.0.0.1") -> Bool {
        guard let descriptor = connect(to: port, at: address) else { return false }
        close(descriptor)
        return true
    }

    /// One plain HTTP/1.1 request over a connection of its own; nil when there is no complete answer.
    static func request(port: Int, _ path: String, body: [UInt8]) -> (status: Int, body: [UInt8])? {
        guard let descriptor = connect(to: port) else { return nil }
        defer { close(descriptor) }
        let head = "POST \(path) HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: \(body.count)\r\n\r\n"
        let bytes = Array(head.utf8) + body
        var sent = 0
        while sent < bytes.count {
            let count = unsafe bytes[sent...].withUnsafeBytes { unsafe send(descriptor, $0.baseAddress, $0.count, CInt(MSG_NOSIGNAL)) }
            guard count > 0 else { return nil }
            sent += count
        }
        var answer: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 16 << 10)
        while true {
            let count = unsafe read(descriptor, &buffer, buffer.count)
            guard count >= 0 else { return nil }
            if count == 0 { break }
            answer += buffer[..<count]
        }
        let text = String(decoding: answer, as: UTF8.self)
        guard let end = text.range(of: "\r\n\r\n"), let status = text.split(separator: " ").dropFirst().first.flatMap({ Int($0) }) else {
            return nil
        }
        return (status, Array(text[end.upperBound...].utf8))
    }

    private static func connect(to port: Int, at host: String = "127.0.0.1") -> CInt? {
        let descriptor = socket(AF_INET, CInt(SOCK_STREAM.rawValue) | CInt(SOCK_CLOEXEC.rawValue), 0)
        let status = unsafe withIPv4(UInt16(port), at: host) { address, length in unsafe Foundation.connect(descriptor, address, length) }
        guard status == 0 else {
            close(descriptor)
            return nil
        }
        return descriptor
    }

    private static func withIPv4<R>(_ port: UInt16, at host: String = "127.0.0.1", _ body: (UnsafePointer<sockaddr>, socklen_t) -> R) -> R {
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = unsafe inet_addr(host)
        return unsafe withUnsafePointer(to: &address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { unsafe body($0, socklen_t(MemoryLayout<sockaddr_in>.size)) }
        }
    }
}
