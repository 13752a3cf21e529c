internal import Logging
internal import MWPKI
package import MWProtocol
internal import MWStorage
internal import NIOCore
internal import NIOPosix

// What administrators have done with the store itself.

extension StorageServer {
    /// Makes a backup under a name in ``StorageServerConfiguration/backupDirectory``, while everybody is served.
    package func perform(_ request: NativeBackupRequest, by administrator: Principal) async throws -> NativeBackup {
        try self.requireNotRefused(administrator)
        guard let directory = self.configuration.backupDirectory else {
            throw NativeFailure(
                .notConfigured, "this server has no directory for backups",
                remedy: "start it with --backup-directory, or stop it and back up")
        }
        let storage = try self.running().storage
        let now = Timestamp.now()
        let name = request.name.isEmpty ? BackupName.make(at: now, storage.revision.number) : request.name
        guard BackupName.isGood(name) else {
            throw NativeFailure(
                .invalidArgument, "the name of a backup",
                remedy: "use 1 to \(BackupName.maximumBytes) letters, digits, '-', '_' and '.', not one in front")
        }
        let path = directory + "/" + name
        do {
            // Files are copied: off the loops.
            let manifest = try await NIOThreadPool.singleton.runIfActive { try storage.backup(to: path, at: now.secondsSince1970) }
            self.logger.info(
                "backup made",
                metadata: [
                    "path": "\(path)", "revision": "\(manifest.revision)", "bytes": "\(manifest.byteCount)", "by": "\(administrator.name)",
                ])
            var reply = NativeBackup()
            reply.path = path
            reply.revision = Int64(clamping: manifest.revision.number)
            reply.incarnation = ByteBuffer(integer: manifest.incarnation.number)
            reply.bytes = Int64(manifest.byteCount)
            return reply
        } catch let error as StorageError {
            self.logger.error("backup failed", metadata: ["path": "\(path)", "error": "\(error)", "by": "\(administrator.name)"])
            throw NativeFailure(ofBackup: error)
        }
    }

    /// Forgets the history up to a revision.
    package func perform(_ request: NativeCompactRequest, by administrator: Principal) async throws -> NativeCompacted {
        try self.requireNotRefused(administrator)
        let storage = try self.running().storage
        guard request.revision >= 0, request.revision <= storage.revision.number else {
            throw NativeFailure(
                .invalidArgument, "revision \(request.revision)", remedy: "give one up to \(storage.revision), the store's")
        }
        do {
            var reply = NativeCompacted()
            reply.revision = Int64(clamping: try await storage.compact(to: Revision(UInt64(request.revision))).number)
            return reply
        } catch {
            throw NativeFailure(.storageFailure, "\(error)", isRetryable: error.code == .overloaded)
        }
    }
}

/// A backup's name: it comes from the network, and becomes part of a path.
enum BackupName {
    /// Longest one, in bytes: file systems take 255, and `.partial` is put behind it.
    static let maximumBytes = 128

    static func isGood(_ name: String) -> Bool {
        let isPlain = name.utf8.allSatisfy { byte in
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "0")...UInt8(ascii: "9"),
                UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: "."):
                true
            default: false
            }
        }
        return isPlain && (1...maximumBytes).contains(name.utf8.count) && !name.hasPrefix(".") && !name.hasSuffix(".partial")
    }

    /// Names in the order of time.
    static func make(at time: Timestamp, _ revision: UInt64) -> String {
        "\(time)".filter { $0 != "-" && $0 != ":" } + "-r\(revision)"
    }
}

extension NativeFailure {
    /// An administrator is told all of it.
    fileprivate init(ofBackup error: StorageError) {
        switch error.code {
        case .alreadyExists: self.init(.invalidArgument, "\(error.subject): \(error.found)", remedy: error.remedy)
        case .locked: self.init(.overloaded, "\(error.found)", remedy: error.remedy, isRetryable: true)
        default: self.init(.storageFailure, "\(error)", remedy: error.remedy, isRetryable: error.code == .snapshotLost)
        }
    }
}
