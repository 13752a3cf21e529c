import Glibc

/// Tells which sockets are ready, by poll(2). It looks at all of them each time; the more there are, the more are ready by then.
struct Poller {
    private var sockets: [pollfd] = []
    private var found: [Int] = []

    /// Its index is how many were added before.
    mutating func add(_ socket: Int32) { sockets.append(pollfd(fd: socket, events: Int16(POLLIN), revents: 0)) }

    /// Has the socket told of when it takes something, too.
    mutating func awaitRoom(_ index: Int, _ isAwaited: Bool) { sockets[index].events = Int16(isAwaited ? POLLIN | POLLOUT : POLLIN) }

    /// Waits until some are ready; returns how many.
    mutating func wait() throws -> Int {
        found.removeAll(keepingCapacity: true)
        var left = unsafe poll(&sockets, nfds_t(sockets.count), -1)
        guard left >= 0 || errno == EINTR else { throw SystemError("poll") }
        for index in sockets.indices {
            guard left > 0 else { break }
            guard sockets[index].revents != 0 else { continue }
            found.append(index)
            left -= 1
        }
        return found.count
    }

    /// The index of one of them.
    func ready(_ position: Int) -> Int { found[position] }
}

struct SystemError: Error, CustomStringConvertible {
    let description: String

    init(_ call: String) { description = "\(call): errno \(errno)" }
}
