import CEpoll
import Glibc

/// Tells which sockets are ready, by epoll(7): each once for what came, not again until more comes.
@safe struct Poller: ~Copyable {
    private static let eventsAtOnce = 64

    private let descriptor: Int32
    private var events: [epoll_event]

    init() throws {
        descriptor = epoll_create1(Int32(EPOLL_CLOEXEC))
        unsafe events = Array(repeating: epoll_event(), count: Self.eventsAtOnce)
        guard descriptor >= 0 else { throw SystemError("epoll_create1") }
    }

    deinit { Glibc.close(descriptor) }

    func add(_ socket: Int32, index: Int) throws {
        var event = unsafe epoll_event()
        unsafe event.events = EPOLLIN.rawValue | EPOLLOUT.rawValue | EPOLLRDHUP.rawValue | EPOLLET.rawValue
        unsafe event.data.u64 = UInt64(index)
        guard unsafe epoll_ctl(descriptor, EPOLL_CTL_ADD, socket, &event) == 0 else { throw SystemError("epoll_ctl") }
    }

    /// Waits until some are ready, or only looks whether some are; returns how many.
    mutating func wait(isLooking: Bool = false) throws -> Int {
        let count = unsafe epoll_wait(descriptor, &events, Int32(Self.eventsAtOnce), isLooking ? 0 : -1)
        guard count < 0 else { return Int(count) }
        guard errno == EINTR else { throw SystemError("epoll_wait") }
        return 0
    }

    /// The index of one of them.
    func ready(_ position: Int) -> Int { unsafe Int(events[position].data.u64) }

    /// Whether its end has come, behind what it may still hold.
    func isEnding(_ position: Int) -> Bool {
        unsafe events[position].events & (EPOLLRDHUP.rawValue | EPOLLHUP.rawValue | EPOLLERR.rawValue) != 0
    }
}

struct SystemError: Error, CustomStringConvertible {
    let description: String

    init(_ call: String) { description = "\(call): errno \(errno)" }
}
