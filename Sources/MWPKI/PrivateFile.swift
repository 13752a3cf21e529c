internal import COpenSSL
internal import Glibc

/// Files that hold secrets: who may read them is checked when read, and they are written whole or not at all.
package enum PrivateFile {
    /// Who may read a file, besides root.
    package enum Permissions: Hashable, Sendable {
        /// Mode 0600 or stricter.
        case ownerOnly
        /// Mode 0640 or stricter, and the file's group is this one.
        case ownerAndGroup(UInt32)
        /// Mode 0644 or stricter: for what is no secret, but decides something.
        case anyoneMayRead
        /// No check: for what is public (certificates) or encrypted (keystores).
        case any
    }

    /// Keystores and PEM bundles are kilobytes.
    package static let maximumBytes = 16 << 20

    /// The whole of a regular file, after its permissions were checked on the open file.
    package static func read(
        _ path: String, maximumBytes: Int = PrivateFile.maximumBytes, permissions: Permissions = .ownerOnly
    ) throws -> SecretBytes {
        guard let contents = try readIfPresent(path, maximumBytes: maximumBytes, permissions: permissions) else {
            throw unreadable(path, ENOENT)
        }
        return contents
    }

    /// The same; nil only where there is no file of this name.
    package static func readIfPresent(
        _ path: String, maximumBytes: Int = PrivateFile.maximumBytes, permissions: Permissions = .ownerOnly
    ) throws -> SecretBytes? {
        // O_NONBLOCK: a FIFO in the file's place must not hang us.
        let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK)
        guard descriptor >= 0 else {
            if errno == ENOENT { return nil }
            throw unreadable(path, errno)
        }
        defer { close(descriptor) }
        var status = stat()
        guard unsafe fstat(descriptor, &status) == 0 else { throw unreadable(path, errno) }
        guard status.st_mode & S_IFMT == S_IFREG else {
            throw PKIError(.fileUnreadable, subject: path, "not a regular file")
        }
        try check(path, status, permissions)
        return try readAll(descriptor, maximumBytes: maximumBytes, subject: path)
    }

    private static func check(_ path: String, _ status: stat, _ permissions: Permissions) throws {
        let forbidden: mode_t
        switch permissions {
        case .any: return
        case .anyoneMayRead: forbidden = 0o022
        case .ownerOnly: forbidden = 0o077
        case .ownerAndGroup(let group): forbidden = status.st_gid == group ? 0o037 : 0o077
        }
        let mode = status.st_mode & 0o7777
        guard mode & forbidden == 0 else {
            if permissions == .anyoneMayRead {
                throw PKIError(
                    .filePermissions, subject: path, "others may change this file", expected: "mode 0644 or stricter",
                    found: "mode 0" + String(mode, radix: 8), remedy: "run: chmod go-w \(path)")
            }
            throw PKIError(
                .filePermissions, subject: path, "others may read or change this secret file",
                expected: forbidden == 0o037 ? "mode 0640 or stricter" : "mode 0600 or 0400", found: "mode 0" + String(mode, radix: 8),
                remedy: "run: chmod 600 \(path)")
        }
        // Who owns it can read and replace it. Root may use anybody's, as everything is root's anyway.
        let user = geteuid()
        guard status.st_uid == user || status.st_uid == 0 || user == 0 else {
            throw PKIError(
                .filePermissions, subject: path, "this file belongs to somebody else, who can change it", expected: "user \(user) or root",
                found: "user \(status.st_uid)", remedy: "run: chown \(user) \(path)")
        }
    }

    /// Everything up to the end of an open descriptor.
    static func readAll(_ descriptor: Int32, maximumBytes: Int, subject: String) throws -> SecretBytes {
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: maximumBytes + 1, alignment: 16)
        var used = 0
        defer {
            unsafe OPENSSL_cleanse(buffer.baseAddress, used)
            unsafe buffer.deallocate()
        }
        while used <= maximumBytes {
            let count = unsafe Glibc.read(descriptor, buffer.baseAddress?.advanced(by: used), maximumBytes + 1 - used)
            if count == 0 { break }
            if count < 0 {
                if errno == EINTR { continue }
                throw unreadable(subject, errno)
            }
            used += count
        }
        guard used <= maximumBytes else {
            throw PKIError(.fileUnreadable, subject: subject, "it is too large", expected: "\(maximumBytes) bytes at most")
        }
        return unsafe SecretBytes(copying: UnsafeRawBufferPointer(rebasing: buffer[..<used]))
    }

    // MARK: - Writing

    /// Replaces or makes the file in one step that survives a crash: either the old contents or all of the new.
    ///
    /// The file has `mode` (whatever the umask) before the first byte is in it. Where `replacing` is false, an existing
    /// file is an error and stays as it is.
    package static func write(_ bytes: [UInt8], to path: String, mode: UInt32 = 0o600, replacing: Bool = true) throws {
        let directory = path.lastIndex(of: "/").map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? "."
        let name = path.lastIndex(of: "/").map { String(path[path.index(after: $0)...]) } ?? path
        let temporary = "\(directory)/.\(name).\(Hex.encode(try OpenSSL.randomBytes(8)))"
        let descriptor = unsafe open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode_t(0o600))
        guard descriptor >= 0 else { throw unwritable(path, "cannot make a file beside it", errno) }
        do {
            defer { close(descriptor) }
            guard fchmod(descriptor, mode_t(mode)) == 0 else { throw unwritable(path, "cannot set its mode", errno) }
            try writeAll(bytes, to: descriptor, path)
            guard fsync(descriptor) == 0 else { throw unwritable(path, "cannot be synced", errno) }
        } catch {
            unsafe unlink(temporary)
            throw error
        }
        try publish(temporary, as: path, replacing: replacing)
        try syncDirectory(directory)
    }

    package static func write(_ secret: SecretBytes, to path: String, mode: UInt32 = 0o600, replacing: Bool = true) throws {
        var bytes = secret.bytes
        defer { unsafe bytes.withUnsafeMutableBytes { unsafe OPENSSL_cleanse($0.baseAddress, $0.count) } }
        try write(bytes, to: path, mode: mode, replacing: replacing)
    }

    private static func publish(_ temporary: String, as path: String, replacing: Bool) throws {
        if replacing {
            guard unsafe rename(temporary, path) == 0 else {
                let reason = errno
                unsafe unlink(temporary)
                throw unwritable(path, "cannot be replaced", reason)
            }
            return
        }
        // A second link, unlike a rename, fails where something is already there.
        let linked = unsafe link(temporary, path)
        let reason = errno
        unsafe unlink(temporary)
        guard linked == 0 else {
            throw unwritable(path, reason == EEXIST ? "it exists already" : "cannot be made", reason)
        }
    }

    private static func writeAll(_ bytes: [UInt8], to descriptor: Int32, _ path: String) throws {
        try unsafe bytes.withUnsafeBytes { buffer in
            var rest = unsafe buffer[...]
            while unsafe !rest.isEmpty {
                let count = unsafe Glibc.write(descriptor, UnsafeRawBufferPointer(rebasing: rest).baseAddress, rest.count)
                if count < 0 {
                    if errno == EINTR { continue }
                    throw unwritable(path, "cannot be written", errno)
                }
                unsafe rest = unsafe rest.dropFirst(count)
            }
        }
    }

    // The rename itself is durable only when the directory is.
    private static func syncDirectory(_ path: String) throws {
        let descriptor = unsafe open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { throw unwritable(path, "the directory cannot be synced", errno) }
        defer { close(descriptor) }
        guard fsync(descriptor) == 0 else { throw unwritable(path, "the directory cannot be synced", errno) }
    }

    private static func unreadable(_ path: String, _ code: Int32) -> PKIError {
        PKIError(.fileUnreadable, subject: path, "cannot be read: \(reason(code))")
    }

    private static func unwritable(_ path: String, _ what: String, _ code: Int32) -> PKIError {
        PKIError(.fileUnwritable, subject: path, "\(what): \(reason(code))")
    }

    private static func reason(_ code: Int32) -> String {
        var text = [CChar](repeating: 0, count: 128)
        guard unsafe strerror_r(code, &text, text.count) == 0 else { return "error \(code)" }
        return String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self).lowercased()
    }
}
