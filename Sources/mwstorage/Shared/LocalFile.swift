import Glibc
import MWPKI

/// Files of the machine we run on, with errors a person can use.
enum LocalFile {
    /// Whole contents; standard input if the path is `-`.
    /// - Throws: `CommandFailure` with status 66 if there is no such file, 74 if it cannot be read.
    static func contents(_ path: String) throws -> [UInt8] {
        if path == "-" { return try contents(descriptor: STDIN_FILENO, name: "standard input") }
        guard let bytes = try contentsIfPresent(path) else { throw missing(path) }
        return bytes
    }

    /// The same of a regular file that decides who is trusted: one that others may change is refused.
    /// - Throws: `PKIError` too.
    static func decisiveContents(_ path: String) throws -> [UInt8] {
        guard let bytes = try PrivateFile.readIfPresent(path, permissions: .anyoneMayRead) else { throw missing(path) }
        return bytes.bytes
    }

    static func contentsIfPresent(_ path: String) throws -> [UInt8]? {
        let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else {
            if errno == ENOENT || errno == ENOTDIR { return nil }
            throw unreadable(path)
        }
        defer { close(descriptor) }
        return try contents(descriptor: descriptor, name: path)
    }

    static func contents(descriptor: CInt, name: String) throws -> [UInt8] {
        let chunkBytes = 64 * 1024
        var bytes: [UInt8] = []
        while true {
            var count = 0
            let chunk = unsafe [UInt8](unsafeUninitializedCapacity: chunkBytes) { buffer, used in
                count = unsafe read(descriptor, buffer.baseAddress, buffer.count)
                used = max(0, count)
            }
            if count == 0 { return bytes }
            if count < 0 {
                if errno == EINTR { continue }
                throw unreadable(name)
            }
            bytes += chunk
        }
    }

    /// Replaces the file as a whole: a reader sees the old or the new contents. Made with this mode, 0600 unless said otherwise.
    static func replace(_ path: String, with bytes: [UInt8], mode: mode_t = 0o600) throws {
        let temporary = path + ".\(getpid()).new"
        let descriptor = unsafe open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode)
        guard descriptor >= 0 else { throw cannotCreate(path) }
        var failed = unsafe bytes.withUnsafeBytes { buffer in
            var sent = 0
            while sent < buffer.count {
                let count = unsafe write(descriptor, buffer.baseAddress?.advanced(by: sent), buffer.count - sent)
                if count < 0 && errno != EINTR { return true }
                sent += max(0, count)
            }
            return false
        }
        failed = fsync(descriptor) != 0 || failed
        failed = close(descriptor) != 0 || failed
        let isReplaced = unsafe !failed && rename(temporary, path) == 0
        if !isReplaced {
            let failure = cannotCreate(path)
            _ = unsafe unlink(temporary)
            throw failure
        }
    }

    /// Makes the directory and those above it, for their owner only.
    static func makeDirectory(_ path: String) throws {
        var made = ""
        for part in path.split(separator: "/") {
            made += (made.isEmpty && !path.hasPrefix("/") ? "" : "/") + part
            if unsafe mkdir(made, 0o700) != 0 && errno != EEXIST { throw cannotCreate(made) }
        }
    }

    static func names(in directory: String) throws -> [String] {
        guard let stream = unsafe opendir(directory) else {
            if errno == ENOENT { return [] }
            throw unreadable(directory)
        }
        defer { unsafe closedir(stream) }
        var names: [String] = []
        while let entry = unsafe readdir(stream) {
            let name = unsafe withUnsafeBytes(of: entry.pointee.d_name) { buffer in
                unsafe String(decoding: buffer.prefix { $0 != 0 }, as: UTF8.self)
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names
    }

    static func exists(_ path: String) -> Bool { unsafe access(path, F_OK) == 0 }

    private static func missing(_ path: String) -> CommandFailure {
        CommandFailure(.inputMissing, "there is no file \(path)", remedy: "check the name", code: "file.missing")
    }

    private static func unreadable(_ name: String) -> CommandFailure {
        CommandFailure(
            .inputOutput, "cannot read \(name)", why: systemMessage(errno), remedy: "check the file's owner and permissions",
            code: "file.unreadable")
    }

    private static func cannotCreate(_ path: String) -> CommandFailure {
        CommandFailure(
            .cannotCreateOutput, "cannot create \(path)", why: systemMessage(errno),
            remedy: "check the directory's owner, permissions and free space",
            code: "file.cannotCreate")
    }
}

/// The environment this process was started with.
let processEnvironment: [String: String] = {
    var variables: [String: String] = [:]
    var next = unsafe environ
    while let entry = unsafe next.pointee {
        let text = unsafe String(cString: entry)
        if let equals = text.firstIndex(of: "=") { variables[String(text[..<equals])] = String(text[text.index(after: equals)...]) }
        unsafe next += 1
    }
    return variables
}()
