import Glibc

/// A file, or a standard stream, that is read or written piece by piece.
final class StreamFile {
    private let descriptor: CInt
    private let isOwned: Bool
    let name: String
    /// Where a new file is written before it gets its name.
    private var temporary: String?

    static let pieceBytes = 256 * 1024

    /// - Parameter path: `-` is standard input.
    init(reading path: String) throws {
        isOwned = path != "-"
        name = isOwned ? path : "standard input"
        descriptor = isOwned ? unsafe open(path, O_RDONLY | O_CLOEXEC) : STDIN_FILENO
        guard descriptor >= 0 else {
            if errno == ENOENT {
                throw CommandFailure(.inputMissing, "there is no file \(path)", remedy: "check the name", code: "file.missing")
            }
            throw CommandFailure(.inputOutput, "cannot read \(path)", why: systemMessage(errno), code: "file.unreadable")
        }
    }

    /// - Parameter path: nil is standard output. A file appears under its name only once it is complete.
    init(writing path: String?) throws {
        isOwned = path != nil
        name = path ?? "standard output"
        let temporary = path.map { "\($0).\(getpid()).new" }
        descriptor = if let temporary { unsafe open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600) } else { STDOUT_FILENO }
        guard descriptor >= 0 else {
            throw CommandFailure(
                .cannotCreateOutput, "cannot create \(name)", why: systemMessage(errno),
                remedy: "check the directory's owner, permissions and free space",
                code: "file.cannotCreate")
        }
        self.temporary = temporary
    }

    /// In bytes; nil where that cannot be known.
    var size: Int? {
        var status = stat()
        guard unsafe fstat(descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFREG else { return nil }
        return Int(status.st_size)
    }

    /// - Returns: nil at the end.
    func read() throws -> [UInt8]? {
        while true {
            var count = 0
            let piece = unsafe [UInt8](unsafeUninitializedCapacity: Self.pieceBytes) { buffer, used in
                count = unsafe Glibc.read(descriptor, buffer.baseAddress, buffer.count)
                used = max(0, count)
            }
            if count > 0 { return piece }
            if count == 0 { return nil }
            if errno != EINTR {
                throw CommandFailure(.inputOutput, "cannot read \(name)", why: systemMessage(errno), code: "file.unreadable")
            }
        }
    }

    func write(_ bytes: [UInt8]) throws {
        if !isOwned { return try Output.data(bytes) }
        try unsafe bytes.withUnsafeBytes { buffer in
            var sent = 0
            while sent < buffer.count {
                let count = unsafe Glibc.write(descriptor, buffer.baseAddress?.advanced(by: sent), buffer.count - sent)
                if count < 0, errno != EINTR { throw cannotWrite }
                sent += max(0, count)
            }
        }
    }

    /// The file is complete: onto the disk, and under its name.
    func finish() throws {
        guard let temporary else { return }
        let isOnDisk = fsync(descriptor) == 0
        guard unsafe isOnDisk && rename(temporary, name) == 0 else { throw cannotWrite }
        self.temporary = nil
    }

    private var cannotWrite: CommandFailure {
        CommandFailure(
            .inputOutput, "cannot write \(name)", why: systemMessage(errno), remedy: "check the free space", code: "file.unwritable")
    }

    deinit {
        if let temporary { _ = unsafe unlink(temporary) }
        if isOwned { close(descriptor) }
    }
}
