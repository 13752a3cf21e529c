internal import Glibc

/// Where the lines of the audit log go. All calls are made by one thread at a time.
package protocol AuditSink: AnyObject, Sendable {
    /// Takes a whole line, or nothing of it. Throws ``ServerError`` with code ``ServerError/Code/auditUnavailable``.
    func write(_ line: [UInt8]) throws(ServerError)

    /// Opens what has the name now: a log rotation has moved the old one away. On an error the old one stays in use.
    func reopen() throws(ServerError)

    func close()
}

/// A file of lines, or standard output.
///
/// A file that does not exist is made, for its owner only. One that does is appended to, unless others may write to it: what they wrote
/// would look like ours.
@safe package final class AuditFile: AuditSink, @unchecked Sendable {
    // Safety: `descriptor` and `isTorn` are used by the audit log's writer only, one call at a time.

    /// How long a pipe may be full before a line counts as not written.
    private static let patience: Int32 = 1_000  // milliseconds

    private let path: String?
    private var descriptor: Int32
    /// A part of a line stands at the end, which could not be taken back.
    private var isTorn = false

    /// Throws ``ServerError/Code/auditUnavailable``.
    package init(path: String) throws(ServerError) {
        self.path = path
        self.descriptor = try Self.open(path)
    }

    /// Standard output, for those who run a collector behind it.
    package init(standardOutput: Void) {
        self.path = nil
        self.descriptor = STDOUT_FILENO
    }

    package func reopen() throws(ServerError) {
        guard let path = self.path else { return }
        let new = try Self.open(path)
        self.close()
        self.descriptor = new
        self.isTorn = false
    }

    package func close() {
        guard self.path != nil, self.descriptor >= 0 else { return }
        _ = Glibc.close(self.descriptor)
        self.descriptor = -1
    }

    package func write(_ line: [UInt8]) throws(ServerError) {
        // A pipe that says it can be written to takes 4,096 bytes at once (POSIX: PIPE_BUF), and no line is longer.
        var poll = pollfd(fd: self.descriptor, events: Int16(POLLOUT), revents: 0)
        guard Self.retrying({ unsafe Int(Glibc.poll(&poll, 1, Self.patience)) }) > 0 else {
            throw self.failure("its reader does not read", EAGAIN)
        }
        let bytes = self.isTorn ? [UInt8(ascii: "\n")] + line : line
        let written = Self.retrying {
            unsafe bytes.withUnsafeBytes { unsafe Glibc.write(self.descriptor, $0.baseAddress, $0.count) }
        }
        guard written != bytes.count else {
            self.isTorn = false
            return
        }
        // ENOSPC comes with the next write, if some bytes of this one still had room.
        let reason = written < 0 ? errno : ENOSPC
        if written > 0 { self.takeBack(written) }
        throw self.failure("cannot be written to", reason)
    }

    private func takeBack(_ count: Int) {
        var status = stat()
        let isTakenBack =
            unsafe fstat(self.descriptor, &status) == 0 && status.st_mode & S_IFMT == S_IFREG
            && ftruncate(self.descriptor, status.st_size - off_t(count)) == 0
        if !isTakenBack { self.isTorn = true }
    }

    private static func retrying(_ body: () -> Int) -> Int {
        while true {
            let result = body()
            if result < 0, errno == EINTR { continue }
            return result
        }
    }

    private func failure(_ what: String, _ code: Int32) -> ServerError { Self.failure(self.path ?? "standard output", what, code) }

    private static func failure(_ subject: String, _ what: String, _ code: Int32) -> ServerError {
        let reason = unsafe String(cString: strerror(code)).lowercased()
        return ServerError(.auditUnavailable, "audit log \(subject)", "\(what): \(reason)", remedy: "make room, or name another file")
    }

    private static func open(_ path: String) throws(ServerError) -> Int32 {
        // O_NONBLOCK: a FIFO without a reader must not hang us.
        let flags = O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK
        let descriptor = unsafe Glibc.open(path, flags, 0o600)
        guard descriptor >= 0 else { throw self.failure(path, "cannot be opened", errno) }
        var status = stat()
        guard unsafe fstat(descriptor, &status) == 0 else {
            let reason = errno
            _ = Glibc.close(descriptor)
            throw self.failure(path, "cannot be looked at", reason)
        }
        // A device, as /dev/null, belongs to everybody.
        guard status.st_mode & S_IFMT != S_IFREG || status.st_mode & 0o022 == 0 else {
            _ = Glibc.close(descriptor)
            throw ServerError(
                .auditUnavailable, "audit log \(path)",
                "others may write to it (mode 0\(String(status.st_mode & 0o7777, radix: 8))): its lines would prove nothing",
                remedy: "run: chmod go-w \(path)")
        }
        return descriptor
    }
}
