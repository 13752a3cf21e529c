import Glibc

extension StorageError {
    /// What a system call said.
    package init(errno reason: CInt, subject: String) {
        let text = unsafe String(cString: strerror(reason))
        let code: Code =
            switch reason {
            case ENOSPC, EDQUOT, EFBIG: .diskFull
            case EROFS: .readOnly
            case EACCES, EPERM: .permissionDenied
            default: .ioError
            }
        self.init(code, subject: subject, found: text, remedy: StorageError.remedy(for: code))
    }

    /// What an engine said: LevelDB and RocksDB report through their C interfaces by text only, `Kind: message`, where the
    /// message of an input/output error ends in the system's own words.
    package init(engine name: String, message: String, directory: String) {
        let code: Code =
            if message.contains("No space left on device") || message.contains("Disk quota exceeded")
                || message.contains("File too large")
            {
                .diskFull
            } else if message.contains("Read-only file system") {
                .readOnly
            } else if message.hasPrefix("Corruption") || message.contains("checksum mismatch") {
                .corrupt
            } else if message.contains("Permission denied") {
                .permissionDenied
            } else if message.contains("lock ") {
                .locked
            } else {
                .ioError
            }
        self.init(
            code, subject: directory, found: "\(name) reports \(StorageError.meaning(of: code))", remedy: StorageError.remedy(for: code),
            underlying: message)
    }

    private static func meaning(of code: Code) -> String {
        switch code {
        case .diskFull: "no space left"
        case .readOnly: "a read-only file system"
        case .corrupt: "damaged data"
        case .permissionDenied: "no permission"
        case .locked: "that its files are in use"
        default: "a failed read or write"
        }
    }

    private static func remedy(for code: Code) -> String {
        switch code {
        case .diskFull: "free space or enlarge the file system; writes resume by themselves"
        case .readOnly: "mount the file system writable again; writes resume by themselves"
        case .corrupt:
            "stop writing, copy the directory away, and restore a backup or `mwstorage export` what can still be read; check the disk"
        case .permissionDenied: "give the directory to the user that runs the server"
        case .locked: "stop the other process"
        default: "look at the kernel log for disk errors; writes resume by themselves once the disk works"
        }
    }
}
