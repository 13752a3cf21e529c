internal import Foundation
internal import Synchronization

/// A program that a test started.
///
/// It is killed, and its directory removed, when the last reference is gone, and also when the test's own process ends, in
/// whatever way: a shell between the two reads a socket whose other end only we hold.
final class PeerProcess: Sendable {
    struct NotStarted: Error, CustomStringConvertible {
        var program: String
        var reason: String

        var description: String { "\(program): \(reason); install the peers: scripts/setup --tests" }
    }

    /// Made before, removed afterwards. What the program says is in its file `log`.
    let directory: String
    private let shell: pid_t
    /// Where we write to make the shell end it; -1 when that is done.
    private let lifeline: Mutex<CInt>

    /// First it closes what it got of us: somebody waits for the end of those descriptors, as a Process for that of its program.
    private static let script = """
        for path in /proc/$$/fd/*; do
            descriptor=${path##*/}
            if ((descriptor > 3)); then eval "exec $descriptor>&-"; fi
        done
        exec 2>/dev/null
        "$@" </dev/null >>"$0/log" 2>&1 3<&- &
        child=$!
        read -r word <&3
        kill -KILL "$child"
        wait "$child"
        [ "$word" = keep ] || rm -rf "$0"
        """

    /// - Parameter environment: All that it gets, besides a PATH.
    init(_ command: [String], directory: String, environment: [String: String] = [:]) throws {
        self.directory = directory
        var ends: [CInt] = [0, 0]
        // From the beginning closed in whatever else is started meanwhile, or it would not end with us: a pipe cannot say so.
        guard unsafe socketpair(AF_UNIX, CInt(SOCK_STREAM.rawValue) | CInt(SOCK_CLOEXEC.rawValue), 0, &ends) == 0 else {
            throw NotStarted(program: command[0], reason: "no socket")
        }
        defer { close(ends[0]) }
        var actions = unsafe posix_spawn_file_actions_t()
        unsafe posix_spawn_file_actions_init(&actions)
        defer { unsafe posix_spawn_file_actions_destroy(&actions) }
        // Not 3 already, or the descriptor would stay closed on exec.
        let readEnd = fcntl(ends[0], F_DUPFD_CLOEXEC, 10)
        defer { close(readEnd) }
        unsafe posix_spawn_file_actions_adddup2(&actions, readEnd, 3)
        var attributes = posix_spawnattr_t()
        unsafe posix_spawnattr_init(&attributes)
        defer { unsafe posix_spawnattr_destroy(&attributes) }
        // A Ctrl-C for the tests is theirs: the shell has to live long enough to clean up. And whatever thread we are on may block
        // signals, without which a shell waits for ever.
        var none = sigset_t()
        unsafe sigemptyset(&none)
        unsafe posix_spawnattr_setsigmask(&attributes, &none)
        unsafe posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK))
        var words = unsafe (["bash", "-c", Self.script, directory] + command).map { unsafe strdup($0) } + [nil]
        let variables = ["PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": directory].merging(environment) { $1 }
        var settings = unsafe variables.map { unsafe strdup("\($0)=\($1)") } + [nil]
        defer { unsafe (words + settings).forEach { unsafe free($0) } }
        var process: pid_t = 0
        let status = unsafe posix_spawn(&process, "/bin/bash", &actions, &attributes, &words, &settings)
        guard status == 0 else {
            close(ends[1])
            throw NotStarted(program: command[0], reason: unsafe String(cString: strerror(status)))
        }
        shell = process
        lifeline = Mutex(ends[1])
    }

    deinit { end(keepingDirectory: false) }

    /// The process itself, for what enters its namespaces; nil when it has not begun yet, or has ended.
    var identifier: pid_t? { child.flatMap { $0.hasEnded ? nil : $0.identifier } }

    private var child: (identifier: pid_t, hasEnded: Bool)? {
        guard let text = try? String(contentsOfFile: "/proc/\(shell)/task/\(shell)/children", encoding: .ascii),
            let child = text.split(separator: " ").first.flatMap({ pid_t($0) }),
            let stat = try? String(contentsOfFile: "/proc/\(child)/stat", encoding: .ascii),
            // "PID (NAME) STATE": Z has ended, and waits for the shell to look.
            let state = stat.split(separator: ")").last?.first(where: { $0 != " " })
        else { return nil }
        return (child, state == "Z")
    }

    /// The end of what it said, for messages.
    var log: String { String(((try? String(contentsOfFile: directory + "/log", encoding: .utf8)) ?? "").suffix(2000)) }

    /// With SIGKILL; returns when it has ended.
    func end(keepingDirectory: Bool) {
        let end = lifeline.withLock { descriptor in
            defer { descriptor = -1 }
            return descriptor
        }
        guard end >= 0 else { return }
        let word = Array((keepingDirectory ? "keep\n" : "end\n").utf8)
        // It reads until it ends, which only the closing decides.
        _ = unsafe send(end, word, word.count, CInt(MSG_NOSIGNAL))
        close(end)
        var status: CInt = 0
        unsafe waitpid(shell, &status, 0)
    }

    /// Asks until it is so.
    /// - Parameter what: For the message when it never is.
    func wait(_ what: String, until isSo: () async throws -> Bool) async throws {
        for _ in 0..<Self.looks {
            if child?.hasEnded == true { throw NotStarted(program: what, reason: "it ended: \(log)") }
            if try await isSo() { return }
            try await Task.sleep(for: Self.pauseBetweenLooks)
        }
        throw NotStarted(program: what, reason: "it is not ready after \(Self.looks) looks: \(log)")
    }

    private static let pauseBetweenLooks = Duration.milliseconds(25)
    /// Two minutes, for machines that do much at once.
    private static let looks = 4800
}

/// A new directory (mode 0700), for a process that removes it.
func makePeerDirectory() throws -> String {
    let path = FileManager.default.temporaryDirectory.appendingPathComponent("mwstorage-peer-\(UUID().uuidString)").path
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
    return path
}
