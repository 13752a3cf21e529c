import CLinux
package import Glibc

/// An open file, and the few things the store does with files itself. The opener closes it.
package struct FileDescriptor: Sendable {
    package let raw: CInt

    package init(opening path: String, _ flags: CInt, mode: mode_t = 0) throws(StorageError) {
        raw = unsafe open(path, flags | O_CLOEXEC, mode)
        guard raw >= 0 else { throw StorageError(errno: errno, subject: path) }
    }

    /// Makes a file in memory; nil where the system has none.
    package static func inMemory(named name: String) -> FileDescriptor? {
        let raw = unsafe mws_memory_file(name)
        return raw < 0 ? nil : FileDescriptor(raw: raw)
    }

    private init(raw: CInt) { self.raw = raw }

    /// Under this name this process can open the file again.
    package var ownPath: String { "/proc/self/fd/\(raw)" }

    package func close() { _ = Glibc.close(raw) }

    package func write(_ bytes: [UInt8], subject: String) throws(StorageError) {
        var written = 0
        while written < bytes.count {
            let count = unsafe bytes.span.bytes.withUnsafeBytes {
                unsafe Glibc.write(raw, $0.baseAddress?.advanced(by: written), bytes.count - written)
            }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { throw StorageError(errno: errno, subject: subject) }
            written += count
        }
    }

    /// Fills the front of `buffer`.
    ///
    /// - Returns: how much of it; nil at the end of the file.
    package func read(into buffer: inout [UInt8], subject: String) throws(StorageError) -> Int? {
        while true {
            let count = unsafe buffer.withUnsafeMutableBytes { unsafe Glibc.read(raw, $0.baseAddress, $0.count) }
            if count < 0, errno == EINTR { continue }
            guard count >= 0 else { throw StorageError(errno: errno, subject: subject) }
            return count == 0 ? nil : count
        }
    }

    /// Brings a file, or a directory, to stable storage.
    package static func sync(_ path: String) throws(StorageError) {
        let file = try FileDescriptor(opening: path, O_RDONLY)
        defer { file.close() }
        try file.sync(subject: path)
    }

    /// Writes all of `bytes` from `offset` on.
    package func write(_ bytes: UnsafeRawBufferPointer, at offset: Int, subject: String) throws(StorageError) {
        var written = 0
        while written < bytes.count {
            let count = unsafe pwrite(raw, bytes.baseAddress?.advanced(by: written), bytes.count - written, off_t(offset + written))
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { throw StorageError(errno: errno, subject: subject) }
            written += count
        }
    }

    /// Writes all of the pieces, none of which is empty, one behind the other from `offset` on; what they are afterwards is of no use. At most
    /// ``maximumBytesAtOnce`` in one call, unless a piece is longer: other threads have their turns between two.
    package func write(_ pieces: inout [iovec], at offset: Int, subject: String) throws(StorageError) {
        var (first, offset) = (0, offset)
        var turns: ProcessorTurns?
        while unsafe first < pieces.count {
            let some = unsafe FileDescriptor.countAtOnce(of: pieces, from: first)
            let count = unsafe pieces.withUnsafeBufferPointer { pieces in
                unsafe pwritev(raw, pieces.baseAddress?.advanced(by: first), CInt(some), off_t(offset))
            }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { throw StorageError(errno: errno, subject: subject) }
            offset += count
            var rest = count
            while unsafe first < pieces.count && rest >= pieces[first].iov_len {
                unsafe rest -= pieces[first].iov_len
                first += 1
            }
            if rest > 0 {
                unsafe pieces[first].iov_base += rest
                unsafe pieces[first].iov_len -= rest
            }
            guard unsafe first < pieces.count else { return }
            if turns == nil { turns = ProcessorTurns() } else { turns?.partEnded() }
        }
    }

    /// What is written before other threads have their turns, in bytes. 256 KiB: a tenth of a millisecond.
    package static let maximumBytesAtOnce = 256 << 10

    /// How many of the pieces from `first` on are written with one call, at least one.
    private static func countAtOnce(of pieces: [iovec], from first: Int) -> Int {
        var bytes = unsafe pieces[first].iov_len
        var end = first + 1
        while unsafe end < pieces.count, end - first < maximumPieces, unsafe bytes + pieces[end].iov_len <= maximumBytesAtOnce {
            unsafe bytes += pieces[end].iov_len
            end += 1
        }
        return end - first
    }

    /// `IOV_MAX` of Linux.
    private static let maximumPieces = 1024

    /// Fills `buffer` with what is at `offset`.
    ///
    /// - Returns: how much of it: less only at the end of the file.
    package func read(into buffer: UnsafeMutableRawBufferPointer, at offset: Int, subject: String) throws(StorageError) -> Int {
        var got = 0
        while got < buffer.count {
            let count = unsafe pread(raw, buffer.baseAddress?.advanced(by: got), buffer.count - got, off_t(offset + got))
            if count < 0, errno == EINTR { continue }
            guard count >= 0 else { throw StorageError(errno: errno, subject: subject) }
            if count == 0 { break }
            got += count
        }
        return got
    }

    /// How long the file is, in bytes.
    package func length(subject: String) throws(StorageError) -> Int {
        var status = stat()
        guard unsafe fstat(raw, &status) == 0 else { throw StorageError(errno: errno, subject: subject) }
        return Int(status.st_size)
    }

    /// Whether it is in one directory, once: nobody has made a link to it.
    package var hasOneName: Bool {
        var status = stat()
        return unsafe fstat(raw, &status) == 0 && status.st_nlink == 1
    }

    /// Lets the disk begin with what was written to `range`, and does not wait for it.
    package func startWriting(_ range: Range<Int>) {
        _ = mws_start_writing(raw, Int64(range.lowerBound), Int64(range.count))
    }

    /// Brings what was written to stable storage, and of the rest only what is needed to read it.
    package func syncData(subject: String) throws(StorageError) {
        guard fdatasync(raw) == 0 else { throw StorageError(errno: errno, subject: subject) }
    }

    package func sync(subject: String) throws(StorageError) {
        guard fsync(raw) == 0 else { throw StorageError(errno: errno, subject: subject) }
    }

    package func truncate(to length: Int = 0, subject: String) throws(StorageError) {
        guard ftruncate(raw, off_t(length)) == 0 else { throw StorageError(errno: errno, subject: subject) }
    }

    /// What the file system of `path` has left for this user, in bytes; nil if it does not say.
    package static func freeBytes(at path: String) -> Int? {
        var status = statvfs()
        guard unsafe statvfs(path, &status) == 0 else { return nil }
        return Int(clamping: status.f_bavail.multipliedReportingOverflow(by: status.f_frsize).partialValue)
    }

    /// Takes `bytes` of free space for the file.
    package func allocate(bytes: Int, subject: String) throws(StorageError) {
        let reason = posix_fallocate(raw, 0, bytes)
        guard reason == 0 else { throw StorageError(errno: reason, subject: subject) }
    }

    /// Makes `path` and its missing parents, for this user only.
    package static func makeDirectories(_ path: String) throws(StorageError) {
        if unsafe mkdir(path, 0o700) == 0 { return try syncDirectory(parent(of: path)) }
        switch errno {
        case EEXIST:
            var status = stat()
            guard unsafe stat(path, &status) == 0 else { throw StorageError(errno: errno, subject: path) }
            guard status.st_mode & S_IFMT == S_IFDIR else { throw StorageError(errno: ENOTDIR, subject: path) }
        case ENOENT where parent(of: path) != path:
            try makeDirectories(parent(of: path))
            guard unsafe mkdir(path, 0o700) == 0 || errno == EEXIST else { throw StorageError(errno: errno, subject: path) }
            try syncDirectory(parent(of: path))
        case let reason: throw StorageError(errno: reason, subject: path)
        }
    }

    /// Makes names that were created or renamed in `path` survive a power cut.
    package static func syncDirectory(_ path: String) throws(StorageError) {
        let directory = try FileDescriptor(opening: path, O_RDONLY | O_DIRECTORY)
        defer { directory.close() }
        // Some file systems cannot sync a directory, and need not.
        guard fsync(directory.raw) == 0 || errno == EINVAL else { throw StorageError(errno: errno, subject: path) }
    }

    /// Writes a file so that after a crash either the old one or the whole new one is there.
    package static func replace(_ path: String, with bytes: [UInt8]) throws(StorageError) {
        let new = path + ".new"
        let file = try FileDescriptor(opening: new, O_CREAT | O_WRONLY | O_TRUNC, mode: 0o600)
        defer { file.close() }
        try file.write(bytes, subject: new)
        try file.sync(subject: new)
        guard unsafe rename(new, path) == 0 else { throw StorageError(errno: errno, subject: path) }
        try syncDirectory(parent(of: path))
    }

    /// Copies a file's bytes.
    package static func copy(_ source: String, to target: String) throws(StorageError) {
        let from = try FileDescriptor(opening: source, O_RDONLY)
        defer { from.close() }
        let to = try FileDescriptor(opening: target, O_CREAT | O_WRONLY | O_TRUNC, mode: 0o600)
        defer { to.close() }
        var buffer = [UInt8](repeating: 0, count: 256 << 10)
        while let count = try from.read(into: &buffer, subject: source) {
            try to.write(count == buffer.count ? buffer : Array(buffer[..<count]), subject: target)
        }
    }

    /// The first `limit` bytes of a file; nil if there is none.
    package static func contents(of path: String, atMost limit: Int) throws(StorageError) -> [UInt8]? {
        let file: FileDescriptor
        do throws(StorageError) { file = try FileDescriptor(opening: path, O_RDONLY) } catch {
            if errno == ENOENT { return nil }
            throw error
        }
        defer { file.close() }
        var reason: CInt = 0
        let bytes = unsafe [UInt8](unsafeUninitializedCapacity: limit) { buffer, count in
            while count < limit {
                let got = unsafe Glibc.read(file.raw, buffer.baseAddress?.advanced(by: count), limit - count)
                if got < 0, errno == EINTR { continue }
                if got < 0 { reason = errno }
                if got <= 0 { return }
                count += got
            }
        }
        guard reason == 0 else { throw StorageError(errno: reason, subject: path) }
        return bytes
    }

    /// The names in a directory, without `.` and `..`.
    package static func names(in path: String) throws(StorageError) -> [String] {
        guard let directory = unsafe opendir(path) else { throw StorageError(errno: errno, subject: path) }
        defer { unsafe closedir(directory) }
        var names: [String] = []
        while let entry = unsafe readdir(directory) {
            let name = unsafe withUnsafePointer(to: &entry.pointee.d_name.0) { unsafe String(cString: $0) }
            if name != ".", name != ".." { names.append(name) }
        }
        return names
    }

    /// A new, empty directory, which the caller removes.
    package static func makeTemporaryDirectory(in parent: String) throws(StorageError) -> String {
        var template = Array("\(parent)/.mwstorage-XXXXXX".utf8CString)
        let made = unsafe template.withUnsafeMutableBufferPointer { buffer in
            unsafe buffer.baseAddress.flatMap { unsafe mkdtemp($0) }.map { unsafe String(cString: $0) }
        }
        guard let made else { throw StorageError(errno: errno, subject: parent) }
        return made
    }

    /// Removes a directory of our own and all that it holds.
    package static func removeDirectory(_ path: String) {
        if unsafe unlink(path) == 0 { return }
        for name in (try? names(in: path)) ?? [] { removeDirectory(path + "/" + name) }
        unsafe rmdir(path)
    }

    package static func parent(of path: String) -> String {
        var end = path.endIndex
        while end > path.startIndex, path[path.index(before: end)] == "/" { end = path.index(before: end) }
        guard let slash = path[..<end].lastIndex(of: "/") else { return path[..<end].isEmpty ? path : "." }
        return slash == path.startIndex ? "/" : String(path[..<slash])
    }
}
