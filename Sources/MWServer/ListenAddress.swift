package import NIOCore

#if canImport(Glibc)
    internal import Glibc
#elseif canImport(Darwin)
    internal import Darwin
#endif

/// Where a server listens: a host name or IP address, and a TCP port.
///
/// A name that has several addresses (`localhost` is `127.0.0.1` and `::1`) is listened on at each of them.
public struct ListenAddress: Sendable, Hashable, CustomStringConvertible {
    /// A name, an IPv4 address, or an IPv6 address without brackets.
    public var host: String
    /// 0 lets the system choose; ``StorageServer/listeningAddresses`` says what it chose.
    public var port: Int

    /// An address that is looked up when the server starts.
    public init(host: String, port: Int) {
        self.host = host
        self.port = port
    }

    /// Loopback only, on the port this server is documented with.
    public static let localhost = ListenAddress(host: "localhost", port: 8443)

    /// `host:port`, an IPv6 address in brackets.
    public var description: String { self.host.contains(":") ? "[\(self.host)]:\(self.port)" : "\(self.host):\(self.port)" }
}

extension ListenAddress {
    /// Every address the host has, in the resolver's order. Asks the system's resolver and waits for it.
    package func resolved() throws(ServerError) -> [SocketAddress] {
        guard (0...Int(UInt16.max)).contains(self.port) else {
            throw ServerError(.addressUnknown, "\(self)", "a port is a number from 0 to 65535")
        }
        guard !self.host.isEmpty else {
            throw ServerError(.addressUnknown, "\(self)", "no host is given", remedy: "say 0.0.0.0 or :: for every address")
        }
        var hints = unsafe addrinfo()
        unsafe hints.ai_family = AF_UNSPEC
        #if canImport(Glibc)
            unsafe hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        #else
            hints.ai_socktype = SOCK_STREAM
        #endif
        unsafe hints.ai_flags = AI_PASSIVE
        var list: UnsafeMutablePointer<addrinfo>?
        let status = unsafe getaddrinfo(self.host, String(self.port), &hints, &list)
        defer { if let list = unsafe list { unsafe freeaddrinfo(list) } }
        guard status == 0 else {
            let reason = unsafe String(cString: gai_strerror(status))
            throw ServerError(.addressUnknown, "\(self)", reason, remedy: "listen on an IP address or name of this machine")
        }
        var addresses: [SocketAddress] = []
        var next = unsafe list
        while let entry = unsafe next {
            if let address = unsafe Self.address(entry.pointee), !addresses.contains(address) { addresses.append(address) }
            unsafe next = entry.pointee.ai_next
        }
        guard !addresses.isEmpty else { throw ServerError(.addressUnknown, "\(self)", "the host has no IPv4 or IPv6 address") }
        return addresses
    }

    private static func address(_ entry: addrinfo) -> SocketAddress? {
        guard let raw = unsafe UnsafeRawPointer(entry.ai_addr) else { return nil }
        switch unsafe entry.ai_family {
        case AF_INET: return unsafe SocketAddress(raw.loadUnaligned(as: sockaddr_in.self))
        case AF_INET6: return unsafe SocketAddress(raw.loadUnaligned(as: sockaddr_in6.self))
        default: return nil
        }
    }
}

extension SocketAddress {
    /// Where a bound socket listens. Throws ``ServerError`` for what is no listening TCP socket.
    package init(ofSocket descriptor: CInt) throws(ServerError) {
        let subject = "inherited socket \(descriptor)"
        var isListening: CInt = 0
        var size = socklen_t(MemoryLayout<CInt>.size)
        guard unsafe getsockopt(descriptor, SOL_SOCKET, SO_ACCEPTCONN, &isListening, &size) == 0, isListening != 0 else {
            throw ServerError(
                .addressUnavailable, subject, "it is not a listening stream socket", remedy: "use ListenStream= in the .socket unit")
        }
        var family: CInt = 0
        _ = unsafe getsockopt(descriptor, SOL_SOCKET, SO_DOMAIN, &family, &size)
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        let found = unsafe withUnsafeMutablePointer(to: &storage) { storage -> SocketAddress? in
            unsafe storage.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
                guard unsafe getsockname(descriptor, address, &length) == 0 else { return nil }
                switch family {
                case AF_INET: return unsafe SocketAddress(UnsafeRawPointer(address).loadUnaligned(as: sockaddr_in.self))
                case AF_INET6: return unsafe SocketAddress(UnsafeRawPointer(address).loadUnaligned(as: sockaddr_in6.self))
                default: return nil
                }
            }
        }
        guard let found else { throw ServerError(.addressUnavailable, subject, "it has no IPv4 or IPv6 address") }
        self = found
    }

    /// 127.0.0.0/8, ::1 and ::ffff:127.0.0.0/104, and sockets in the file system: nothing another machine can reach.
    package var isLoopback: Bool {
        // What inet_ntop writes has one form for each address.
        switch self {
        case .v4: return self.ipAddress?.hasPrefix("127.") ?? false
        case .v6: return self.ipAddress.map { $0 == "::1" || $0.hasPrefix("::ffff:127.") } ?? false
        case .unixDomainSocket: return true
        }
    }

    /// `address:port`, IPv6 in brackets: what logs say.
    package var hostAndPort: String {
        guard let host = self.ipAddress, let port = self.port else { return "local" }
        return ListenAddress(host: host, port: port).description
    }
}
