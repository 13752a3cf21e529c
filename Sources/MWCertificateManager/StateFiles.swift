internal import Glibc
package import MWACME
package import MWPKI

/// How the state gets to the disk.
package protocol StateFiles: Sendable {
    /// Replaces or makes a file, mode 0600, so that after a crash it is the old or the new one; durable when it returns.
    func write(_ bytes: SecretBytes, to path: String) throws
    /// Writes that many bytes to `path`, syncs, reads them back, and removes them.
    ///
    /// Throws `diskFull`, `diskReadOnly`, or `stateUnwritable`.
    func prove(_ path: String, bytes: Int) throws(ACMEError)
}

/// The file system's calls.
package struct SystemStateFiles: StateFiles {
    package init() {}

    package func write(_ bytes: SecretBytes, to path: String) throws { try PrivateFile.write(bytes, to: path) }

    package func prove(_ path: String, bytes: Int) throws(ACMEError) {
        func failed(_ reason: Int32) -> ACMEError { StateTrouble.error(path, "it cannot be written", reason) }
        let descriptor = unsafe open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, mode_t(0o600))
        guard descriptor >= 0 else { throw failed(errno) }
        defer {
            _ = unsafe unlink(path)
            close(descriptor)
        }
        // Real bytes: a file system that compresses zeros, or allocates late, promises nothing for a hole.
        let pattern = (0..<bytes).map { UInt8(truncatingIfNeeded: $0 &* 167 &+ $0 >> 8) }
        var written = 0
        while written < bytes {
            let count = unsafe pattern.span.bytes.withUnsafeBytes {
                unsafe Glibc.write(descriptor, $0.baseAddress?.advanced(by: written), bytes - written)
            }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { throw failed(count < 0 ? errno : ENOSPC) }
            written += count
        }
        guard fsync(descriptor) == 0 else { throw failed(errno) }
        var back = [UInt8](repeating: 0, count: bytes)
        let count = unsafe back.withUnsafeMutableBytes { unsafe pread(descriptor, $0.baseAddress, $0.count, 0) }
        guard count == bytes, back == pattern else { throw failed(count < 0 ? errno : EIO) }
    }
}

/// The words for what a disk does.
enum StateTrouble {
    static func error(_ subject: String, _ what: String, _ reason: Int32) -> ACMEError {
        let code: ACMEError.Code
        let remedy: String
        switch reason {
        // A limit on the size of files is as a disk without room.
        case ENOSPC, EDQUOT, EFBIG: (code, remedy) = (.diskFull, "make room; nothing is ordered until there is")
        case EROFS: (code, remedy) = (.diskReadOnly, "mount the file system writable, or choose another state directory")
        case EACCES, EPERM: (code, remedy) = (.stateUnwritable, "make the directory writable for this user")
        case EIO: (code, remedy) = (.stateUnwritable, "check the disk")
        default: (code, remedy) = (.stateUnwritable, "make room, or the directory writable")
        }
        return ACMEError(code, subject: subject, "\(what): \(text(reason))", remedy: remedy, disposition: .retry)
    }

    static func error(_ subject: String, underlying: any Error) -> ACMEError {
        if let error = underlying as? ACMEError { return error }
        return ACMEError(
            .stateUnwritable, subject: subject, "it cannot be saved", remedy: "make room, or the directory writable", disposition: .retry,
            underlying: ["\(underlying)"])
    }

    static func text(_ reason: Int32) -> String {
        var text = [CChar](repeating: 0, count: 128)
        guard unsafe strerror_r(reason, &text, text.count) == 0 else { return "error \(reason)" }
        return String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self).lowercased()
    }
}
