internal import Glibc
internal import MWPKI

/// A process with its own process group, empty input, and output that is read into a bounded buffer.
///
/// Waiting takes no thread: it looks at growing intervals, as the programs run here take from milliseconds to minutes.
struct ChildProcess: Sendable {
    enum Cause: Sendable, Hashable {
        case exited(Int32)
        case killed(signal: Int32)
        case timedOut
        case cancelled
    }

    struct End: Sendable, Hashable {
        let cause: Cause
        /// The last of it, fit to print.
        let output: String
    }

    struct Failure: Error, CustomStringConvertible {
        let description: String
    }

    /// A sentence or two of a program that explains itself.
    static let maximumOutputBytes = 1024
    private static let firstPause: Duration = .milliseconds(1)
    private static let maximumPause: Duration = .milliseconds(50)

    private let identifier: pid_t
    private let output: Int32

    init(_ path: String, _ arguments: [String]) throws(Failure) {
        var ends: [Int32] = [-1, -1]
        guard unsafe pipe(&ends) == 0 else { throw Failure(description: StateTrouble.text(errno)) }
        defer { close(ends[1]) }
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        // Only ours: the child may wait for its reader.
        _ = fcntl(ends[0], F_SETFL, O_NONBLOCK)
        let (reason, identifier) = ChildProcess.spawn(path, arguments, output: ends[1])
        guard reason == 0 else {
            close(ends[0])
            throw Failure(description: StateTrouble.text(reason))
        }
        self.identifier = identifier
        output = ends[0]
    }

    private static func spawn(_ path: String, _ arguments: [String], output: Int32) -> (Int32, pid_t) {
        var actions = unsafe posix_spawn_file_actions_t()
        unsafe posix_spawn_file_actions_init(&actions)
        defer { unsafe posix_spawn_file_actions_destroy(&actions) }
        unsafe posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
        unsafe posix_spawn_file_actions_adddup2(&actions, output, 1)
        unsafe posix_spawn_file_actions_adddup2(&actions, output, 2)
        // Whatever else is open here is close-on-exec.
        var attributes = posix_spawnattr_t()
        unsafe posix_spawnattr_init(&attributes)
        defer { unsafe posix_spawnattr_destroy(&attributes) }
        // No signal of ours is blocked or ignored there.
        var signals = sigset_t()
        unsafe sigemptyset(&signals)
        unsafe posix_spawnattr_setsigmask(&attributes, &signals)
        unsafe sigfillset(&signals)
        unsafe posix_spawnattr_setsigdefault(&attributes, &signals)
        unsafe posix_spawnattr_setpgroup(&attributes, 0)
        unsafe posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF))
        var words = unsafe ([path] + arguments).map { unsafe strdup($0) } + [nil]
        var environment = unsafe ChildProcess.environment().map { unsafe strdup($0) } + [nil]
        defer { unsafe (words + environment).forEach { unsafe free($0) } }
        var identifier: pid_t = 0
        let reason = unsafe posix_spawn(&identifier, path, &actions, &attributes, &words, &environment)
        return (reason, identifier)
    }

    private static func environment() -> [String] {
        var variables: [String] = []
        var next = unsafe environ
        while let entry = unsafe next.pointee {
            let variable = unsafe String(cString: entry)
            if !variable.hasPrefix("MWSTORAGE_") { variables.append(variable) }
            unsafe next += 1
        }
        return variables
    }

    /// Until it ends; kills it, and all it started, when the time is over or the task is cancelled. Once.
    func wait(timeout: Duration) async -> End {
        defer { close(output) }
        let deadline = ContinuousClock.now + timeout
        var text: [UInt8] = []
        var pause = ChildProcess.firstPause
        while true {
            let status = reaped(WNOHANG)
            drain(into: &text)
            if let status { return End(cause: ChildProcess.cause(status), output: ChildProcess.printable(text)) }
            let isCancelled = (try? await Task.sleep(for: pause)) == nil
            guard isCancelled || ContinuousClock.now >= deadline else {
                pause = min(pause * 2, ChildProcess.maximumPause)
                continue
            }
            // A process that had ended by itself meanwhile is not killed: its number is not free before it is reaped.
            _ = kill(-identifier, SIGKILL)
            _ = kill(identifier, SIGKILL)
            _ = reaped(0)
            drain(into: &text)
            return End(cause: isCancelled ? .cancelled : .timedOut, output: ChildProcess.printable(text))
        }
    }

    private func reaped(_ options: Int32) -> Int32? {
        var status: Int32 = 0
        var result: pid_t
        repeat { result = unsafe waitpid(identifier, &status, options) } while result < 0 && errno == EINTR
        if result == identifier { return status }
        // Somebody else reaped it: it is over, and how is not known.
        return result < 0 ? 0x7F00 : nil
    }

    private static func cause(_ status: Int32) -> Cause {
        let signal = status & 0x7F
        return signal == 0 ? .exited((status >> 8) & 0xFF) : .killed(signal: signal)
    }

    private func drain(into text: inout [UInt8]) {
        var buffer = [UInt8](repeating: 0, count: 4096)
        // Bounded: a program that prints without end gets its turn at the next look.
        for _ in 0..<64 {
            let count = unsafe buffer.withUnsafeMutableBytes { unsafe read(output, $0.baseAddress, $0.count) }
            guard count > 0 else { return }
            text += buffer[..<count]
            if text.count > ChildProcess.maximumOutputBytes { text.removeFirst(text.count - ChildProcess.maximumOutputBytes) }
        }
    }

    private static func printable(_ text: [UInt8]) -> String {
        var text = text[...]
        while let last = text.last, last <= 0x20 { text = text.dropLast() }
        return VisibleText.escape(String(decoding: text, as: UTF8.self))
    }
}
