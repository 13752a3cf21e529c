import Glibc
import MWServer

/// What a service manager that speaks systemd's protocol hands over, and what it wants to hear: sd_notify(3) and sd_listen_fds(3), without
/// its library. Without such a manager nothing here does anything.
struct ServiceManager: Sendable {
    /// Where to send; nil if nobody asked.
    private let socketPath: String?
    /// How often it wants to hear that we live; nil if it does not.
    let watchdogInterval: Duration?

    /// Reads the environment, and takes out of it what is meant for this process alone.
    init() {
        func take(_ name: String) -> String? {
            guard let value = unsafe getenv(name) else { return nil }
            defer { unsafe unsetenv(name) }
            return unsafe String(cString: value)
        }
        self.init(
            socketPath: take("NOTIFY_SOCKET"), watchdogMicroseconds: take("WATCHDOG_USEC"), watchdogProcess: take("WATCHDOG_PID"),
            process: getpid())
    }

    init(socketPath: String?, watchdogMicroseconds: String?, watchdogProcess: String?, process: Int32) {
        self.socketPath = socketPath.flatMap { $0.isEmpty ? nil : $0 }
        let isForUs = watchdogProcess.map { Int32($0) == process } ?? true
        let microseconds = watchdogMicroseconds.flatMap { Int64($0) } ?? 0
        self.watchdogInterval = isForUs && microseconds > 0 ? .microseconds(microseconds) : nil
    }

    // MARK: Telling it

    /// It serves.
    func ready(_ status: String) { send(["READY=1", "STATUS=\(Self.line(status))"]) }

    /// It loads its settings anew; ``ready(_:)`` ends that. The time is that of the call, which tells this reload from an earlier one.
    func reloading() {
        var now = timespec()
        _ = unsafe clock_gettime(CLOCK_MONOTONIC, &now)
        send(["RELOADING=1", "MONOTONIC_USEC=\(now.tv_sec * 1_000_000 + now.tv_nsec / 1_000)", "STATUS=reloading"])
    }

    /// It drains.
    func stopping() { send(["STOPPING=1", "STATUS=draining"]) }

    /// It lives; to be said well within ``watchdogInterval``.
    func watchdog() { send(["WATCHDOG=1"], waits: false) }

    /// How long what changes may wait for a manager that does not read; how it is goes on without.
    private static let patience = timeval(tv_sec: 1, tv_usec: 0)

    /// One datagram. That nobody hears it must not keep a server from serving.
    private func send(_ assignments: [String], waits: Bool = true) {
        guard let socketPath else { return }
        let bytes = Array(assignments.joined(separator: "\n").utf8)
        let descriptor = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { return }
        defer { close(descriptor) }
        var patience = Self.patience
        _ = unsafe setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &patience, socklen_t(MemoryLayout<timeval>.size))
        let flags = Int32(MSG_NOSIGNAL) | (waits ? 0 : Int32(MSG_DONTWAIT))
        guard var address = Self.address(socketPath) else { return }
        let length = socklen_t(MemoryLayout<sa_family_t>.size + socketPath.utf8.count)
        _ = unsafe withUnsafePointer(to: &address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { destination in
                unsafe sendto(descriptor, bytes, bytes.count, flags, destination, length)
            }
        }
    }

    /// A path, or after `@` a name in the abstract namespace, which begins with a NUL in its place; nil if it is neither or too long.
    private static func address(_ path: String) -> sockaddr_un? {
        var bytes = Array(path.utf8)
        guard bytes.first == UInt8(ascii: "/") || bytes.first == UInt8(ascii: "@"), bytes.count > 1 else { return nil }
        if bytes[0] == UInt8(ascii: "@") { bytes[0] = 0 }
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let hasRoom = unsafe withUnsafeMutableBytes(of: &address.sun_path) { place -> Bool in
            guard bytes.count < place.count else { return false }
            unsafe place.copyBytes(from: bytes)
            return true
        }
        return hasRoom ? address : nil
    }

    private static func line(_ text: String) -> String { text.replacing("\n", with: " ") }
}

/// Sockets that were bound before we were started: port 443 without any capability.
struct InheritedSockets: Sendable {
    /// Of clients.
    var listeners: [CInt] = []

    /// Where the descriptors begin (sd_listen_fds(3): SD_LISTEN_FDS_START).
    private static let first: CInt = 3
    /// More than one sets up by hand.
    private static let maximumCount = 64

    /// Those that the environment says are for this process, validated; the variables are taken out of it.
    ///
    /// Throws `CommandFailure` for what is no listening TCP socket: a service that silently listens elsewhere is worse than one that fails.
    static func take() throws -> InheritedSockets {
        defer { for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] { unsafe unsetenv(name) } }
        func variable(_ name: String) -> String? { unsafe getenv(name).map { unsafe String(cString: $0) } }
        guard let process = variable("LISTEN_PID"), let count = variable("LISTEN_FDS") else { return InheritedSockets() }
        return try InheritedSockets(process: process, count: count, own: getpid())
    }

    init() {}

    /// - Parameters:
    ///   - process: For whom they are; for another one there are none.
    ///   - count: How many.
    init(process: String, count: String, own: Int32) throws {
        guard let addressee = Int32(process), let count = Int(count), (0...Self.maximumCount).contains(count) else {
            throw Self.invalid("LISTEN_PID=\(process), LISTEN_FDS=\(count)", "a process id, and a number up to \(Self.maximumCount)")
        }
        guard addressee == own else { return }
        for descriptor in (0..<CInt(count)).map({ Self.first + $0 }) {
            let flags = fcntl(descriptor, F_GETFD)
            guard flags >= 0 else { throw Self.invalid("descriptor \(descriptor) is not open", "an open socket for each of LISTEN_FDS") }
            _ = fcntl(descriptor, F_SETFD, flags | FD_CLOEXEC)
            listeners.append(descriptor)
        }
    }

    private static func invalid(_ seen: String, _ expected: String) -> CommandFailure {
        CommandFailure(
            .configurationInvalid, "the inherited sockets cannot be used", why: "seen: \(seen); expected: \(expected)",
            remedy: "start it by its .socket unit, or unset LISTEN_PID and LISTEN_FDS")
    }
}
