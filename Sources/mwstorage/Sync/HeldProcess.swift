import Glibc
import NIOPosix
import Synchronization

/// A program that runs while something is held: with our terminal, our streams and our environment, and what is held in variables beside it.
///
/// With a terminal it is in our process group, as everything a shell starts for a person: the terminal's signals reach it by themselves.
/// Without one it has a group of its own, so that a signal reaches everything it started.
final class HeldProcess: Sendable {
    /// Between the request to end and the end: what `docker stop` and systemd give, or less.
    static let terminationGrace = Duration.seconds(10)

    private struct State {
        var hasEnded = false
    }

    let identifier: pid_t
    private let hasOwnGroup: Bool
    private let state = Mutex(State())

    /// Starts it.
    ///
    /// - Parameters:
    ///   - words: The program, looked up in PATH unless there is a slash in it, and its arguments.
    ///   - variables: Beside and above those of our environment.
    /// - Throws: `CommandFailure` with status 66 if there is no such program.
    init(_ words: [String], variables: [String: String]) throws {
        hasOwnGroup = isatty(STDIN_FILENO) != 1
        let (reason, identifier) = Self.spawn(words, variables, ownGroup: hasOwnGroup)
        guard reason == 0 else {
            throw CommandFailure(
                .inputMissing, "cannot run \(words[0])", why: systemMessage(reason), remedy: "check its name, PATH and permissions",
                code: "lock.cannotRun")
        }
        self.identifier = identifier
    }

    /// Passes a signal on; nothing if it has ended.
    func send(_ signal: CInt) {
        state.withLock { state in
            // Until it is reaped its number is nobody else's.
            guard !state.hasEnded else { return }
            _ = kill(hasOwnGroup ? -identifier : identifier, signal)
        }
    }

    /// A signal that a terminal has sent to all of its foreground group has reached it already.
    func forward(_ signal: CInt) {
        if !hasOwnGroup, signal == SIGINT || signal == SIGQUIT || signal == SIGHUP { return }
        send(signal)
    }

    /// Asks it to end, and ends it after a grace. Returns once that is done; ``waitUntilEnded()`` says how it went.
    func end(grace: Duration = HeldProcess.terminationGrace) async {
        send(SIGTERM)
        // A stopped one hears nothing.
        send(SIGCONT)
        let deadline = ContinuousClock.now + grace
        while ContinuousClock.now < deadline, !state.withLock({ $0.hasEnded }) {
            let pause = Duration.milliseconds(20)
            // Uncancellable: who is cancelled must not leave it behind.
            // Safety: it is awaited right here, and shares nothing.
            await Task.detached { try? await Task.sleep(for: pause) }.value
        }
        send(SIGKILL)
    }

    /// - Returns: Its exit code; 128 and the signal's number if one ended it, as shells have it.
    func waitUntilEnded() async -> Int32 {
        let identifier = identifier
        // Uncancellable: the number of a process that was not reaped is lost.
        // Safety: it is awaited right here; what it shares with senders of signals is under the lock.
        let status = try? await Task.detached { [self] in try await reap(identifier) }.value
        guard let status else { return ExitStatus.internalError.rawValue }
        let signal = status & 0x7F
        return signal == 0 ? (status >> 8) & 0xFF : 128 + signal
    }

    private func reap(_ identifier: pid_t) async throws -> Int32 {
        // A thread of its own: it waits for as long as the program runs, and the shared ones have other work.
        let thread = NIOThreadPool(numberOfThreads: 1)
        thread.start()
        let status = try await thread.runIfActive { [self] in
            var info = unsafe siginfo_t()
            // It stays there to be reaped below, under the lock that senders take.
            while unsafe waitid(P_PID, id_t(identifier), &info, WEXITED | WNOWAIT) != 0, errno == EINTR {}
            return state.withLock { state in
                var status: Int32 = 0
                while unsafe waitpid(identifier, &status, 0) < 0, errno == EINTR {}
                state.hasEnded = true
                return status
            }
        }
        try await thread.shutdownGracefully()
        return status
    }

    private static func spawn(_ words: [String], _ variables: [String: String], ownGroup: Bool) -> (CInt, pid_t) {
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
        let group = ownGroup ? POSIX_SPAWN_SETPGROUP : 0
        unsafe posix_spawnattr_setflags(&attributes, Int16(group | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF))
        let environment = processEnvironment.merging(variables) { $1 }.map { "\($0)=\($1)" }
        var arguments = unsafe words.map { unsafe strdup($0) } + [nil]
        var entries = unsafe environment.map { unsafe strdup($0) } + [nil]
        defer { unsafe (arguments + entries).forEach { unsafe free($0) } }
        var identifier: pid_t = 0
        let reason = unsafe posix_spawnp(&identifier, words[0], nil, &attributes, &arguments, &entries)
        return (reason, identifier)
    }
}
