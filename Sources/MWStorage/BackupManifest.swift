// A backup on disk:
//
//   BACKUP/            mode 0700; called BACKUP.partial until it is whole
//     engine/          a copy of the engine's files, which nothing opens in place
//     manifest         text, lines ended by \n, words parted by one space:
//                        mwstorage-backup 1       the version of this layout
//                        format 2                 that of the store (DataDirectory.swift)
//                        engine rocksdb
//                        incarnation HEX          32 digits
//                        revision 42              everything up to it is in the backup, and nothing after it
//                        time 1790000000          when: seconds since 1970
//                        file NAME BYTES CRC      each file of engine/, in the order of names; CRC-32C, 8 hexadecimal digits
//                        end CRC                  of all bytes before this line

import Glibc

/// What a backup says of itself.
package struct BackupManifest: Hashable, Sendable {
    package var format: Int
    package var engineName: String
    package var incarnation: Incarnation
    package var revision: Revision
    package var secondsSince1970: Int64
    package var files: [File] = []

    package struct File: Hashable, Sendable {
        package var name: String
        package var byteCount: Int
        package var checksum: UInt32
    }

    /// Of the engine's files.
    package var byteCount: Int { files.reduce(0) { $0 + $1.byteCount } }

    static let version = 1
    static let fileName = "manifest"
    private static let magic = "mwstorage-backup"
    /// Largest manifest that is read, in bytes: that of some hundred thousand files.
    private static let maximumBytes = 16 << 20

    /// The manifest of the backup in `directory`.
    ///
    /// - Throws: `notAStore` if there is none, as in a backup that did not get whole; `corrupt`, `formatTooNew`.
    package init(readingFrom directory: String) throws(StorageError) {
        let path = directory + "/" + BackupManifest.fileName
        guard let bytes = try FileDescriptor.contents(of: path, atMost: BackupManifest.maximumBytes) else {
            throw StorageError(
                .notAStore, subject: directory, found: "no file \(BackupManifest.fileName)", expected: "a whole backup",
                remedy: "name a directory that `mwstorage backup` made")
        }
        try self.init(decoding: bytes, path: path)
    }

    init(
        format: Int, engineName: String, incarnation: Incarnation, revision: Revision, secondsSince1970: Int64, files: [File] = []
    ) {
        self.format = format
        self.engineName = engineName
        self.incarnation = incarnation
        self.revision = revision
        self.secondsSince1970 = secondsSince1970
        self.files = files
    }

    package var encoded: [UInt8] {
        var text = "\(BackupManifest.magic) \(BackupManifest.version)\nformat \(format)\nengine \(engineName)\n"
        text += "incarnation \(incarnation)\nrevision \(revision)\ntime \(secondsSince1970)\n"
        for file in files { text += "file \(file.name) \(file.byteCount) \(BackupManifest.hex(file.checksum))\n" }
        return Array((text + "end \(BackupManifest.hex(CRC32C.of(Array(text.utf8))))\n").utf8)
    }

    package init(decoding bytes: [UInt8], path: String) throws(StorageError) {
        func damaged(_ found: String) -> StorageError {
            StorageError(.corrupt, subject: path, found: found, remedy: "copy the backup again, or use another one")
        }
        var lines = String(decoding: bytes, as: UTF8.self).split(separator: "\n", omittingEmptySubsequences: false)[...]
        func words(_ name: String, _ count: Int) throws(StorageError) -> [Substring] {
            let words = lines.popFirst()?.split(separator: " ", omittingEmptySubsequences: false) ?? []
            guard words.count == count + 1, words[0] == name else { throw damaged("no line `\(name)` where it should be") }
            return Array(words.dropFirst())
        }
        guard let version = try Int(words(BackupManifest.magic, 1)[0]) else { throw damaged("no version") }
        guard version <= BackupManifest.version else {
            throw StorageError(
                .formatTooNew, subject: path, found: "backup version \(version)", expected: "at most \(BackupManifest.version)",
                remedy: "restore it with the newer mwstorage that made it")
        }
        guard let end = bytes.dropLast().lastIndex(of: UInt8(ascii: "\n")).map({ bytes[...$0] }),
            bytes[end.endIndex...].elementsEqual("end \(BackupManifest.hex(CRC32C.of(Array(end))))\n".utf8)
        else { throw damaged("lines that do not have their checksum") }
        guard let format = try Int(words("format", 1)[0]), case let engine = try words("engine", 1)[0],
            let incarnation = try UInt128(words("incarnation", 1)[0], radix: 16), let revision = try UInt64(words("revision", 1)[0]),
            let time = try Int64(words("time", 1)[0])
        else { throw damaged("a number that is none") }
        self.init(
            format: format, engineName: String(engine), incarnation: Incarnation(incarnation), revision: Revision(revision),
            secondsSince1970: time)
        while lines.first?.hasPrefix("file ") == true {
            let file = try words("file", 3)
            guard let count = Int(file[1]), count >= 0, let checksum = UInt32(file[2], radix: 16), !file[0].isEmpty,
                !file[0].contains("/"), !file[0].hasPrefix(".")
            else { throw damaged("a file that is none") }
            files.append(File(name: String(file[0]), byteCount: count, checksum: checksum))
        }
        guard encoded == bytes else { throw damaged("lines that this program does not write") }
    }

    private static func hex(_ number: UInt32) -> String {
        let digits = String(number, radix: 16)
        return String(repeating: "0", count: 8 - digits.count) + digits
    }
}

extension BackupManifest.File {
    /// Copies a file, or only reads it if there is no `target`, and says what was in it; the copy is on stable storage then.
    init(_ name: String, copying source: String, to target: String?) throws(StorageError) {
        let from = try FileDescriptor(opening: source, O_RDONLY)
        defer { from.close() }
        let to: FileDescriptor? =
            if let target { try FileDescriptor(opening: target, O_CREAT | O_WRONLY | O_EXCL, mode: 0o600) } else { nil }
        defer { to?.close() }
        var crc = CRC32C()
        var total = 0
        var buffer = [UInt8](repeating: 0, count: Self.pieceBytes)
        while let count = try from.read(into: &buffer, subject: source) {
            crc.add(buffer[..<count])
            total += count
            try to?.write(count == buffer.count ? buffer : Array(buffer[..<count]), subject: target ?? source)
        }
        try to?.sync(subject: target ?? source)
        self.init(name: name, byteCount: total, checksum: crc.value)
    }

    private static let pieceBytes = 256 << 10
}
