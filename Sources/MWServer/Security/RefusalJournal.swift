// What `mwstorage revoke` refused, in the data directory:
//
//   refused         mode 0600; replaced as a whole (written beside it, synced, renamed, the directory synced); text, lines ended by \n:
//                     mwstorage-refused 1
//                     1795535999<TAB>alice<TAB>sha256:9f86d081…      seconds since 1970, who asked for it, what is refused
//                     …
//                     end <SHA-256 of everything before this line, hex>
//
// A file that was cut or changed does not have the sum in its last line: the server does not start then, rather than let in whom it forgot.

package import MWPKI
internal import Synchronization

/// One refusal that was asked for while the server ran.
package struct RefusalRecord: Sendable, Hashable {
    package let refusal: Refusal
    package let since: Timestamp
    /// The principal of the administrator who asked for it.
    package let by: String
}

/// The refusals that were asked for while the server ran, kept in the data directory.
package final class RefusalJournal: Sendable {
    /// Each change writes them all: 10,000 are half a MiB. More need a revocation list.
    package static let maximumCount = 10_000
    package static let fileName = "refused"
    private static let header = "mwstorage-refused 1\n"

    private let path: String
    private let records: Mutex<[RefusalRecord]>
    /// One change at a time: the file is what the last one left.
    private let changing = Mutex(Changing())

    private struct Changing {
        /// The disk did not keep what is in memory: the next change writes it, also one that changes nothing.
        var isFileBehind = false
    }

    /// Reads what is there; nothing is an empty list.
    ///
    /// Throws `PKIError` for a file that is damaged, unreadable, or not ours alone.
    package init(directory: String) throws {
        self.path = "\(directory)/\(Self.fileName)"
        self.records = Mutex(try Self.read(self.path))
    }

    /// In the order they were asked for.
    package var all: [RefusalRecord] { self.records.withLock { $0 } }
    package var refusals: RefusalSet { RefusalSet(self.all.map(\.refusal)) }

    /// Whether something was added, to memory or to a file that had not kept it: false when both had it already. It is in ``all`` when this
    /// returns, and when it throws `PKIError` because the disk did not keep it; not with ``maximumCount`` others. Blocks for the disk.
    package func add(_ refusal: Refusal, by principal: String, at now: Timestamp) throws -> Bool {
        try self.change { records, isFileBehind in
            guard !records.contains(where: { $0.refusal == refusal }) else { return isFileBehind }
            guard records.count < Self.maximumCount else {
                throw PKIError(
                    .refusalMalformed, subject: self.path, "too many refusals", expected: "at most \(Self.maximumCount)",
                    remedy: "have the authority revoke, and give its list to the server")
            }
            records.append(RefusalRecord(refusal: refusal, since: now, by: Self.field(principal)))
            return true
        }
    }

    /// Whether something was removed.
    package func remove(_ refusal: Refusal) throws -> Bool {
        try self.change { records, _ in
            let count = records.count
            records.removeAll { $0.refusal == refusal }
            return records.count < count
        }
    }

    private func change(_ body: (inout [RefusalRecord], _ isFileBehind: Bool) throws -> Bool) throws -> Bool {
        try self.changing.withLock { changing in
            var records = self.all
            guard try body(&records, changing.isFileBehind) else { return false }
            // What is taken away is taken away from the file first, what is added is in force at once.
            let isShorter = records.count < self.all.count
            if !isShorter { self.records.withLock { $0 = records } }
            // Also where fewer could not be written: nobody knows then which of the two the disk has.
            changing.isFileBehind = true
            try PrivateFile.write(Self.encode(records), to: self.path)
            changing.isFileBehind = false
            if isShorter { self.records.withLock { $0 = records } }
            return true
        }
    }

    // MARK: The file

    private static func field(_ text: String) -> String { VisibleText.escape(text) }

    static func encode(_ records: [RefusalRecord]) -> [UInt8] {
        var text = self.header
        for record in records { text += "\(record.since.secondsSince1970)\t\(record.by)\t\(record.refusal)\n" }
        var bytes = Array(text.utf8)
        bytes += Array("end \(Hex.encode(OpenSSL.sha256(bytes)))\n".utf8)
        return bytes
    }

    static func decode(_ bytes: [UInt8], source: String) throws -> [RefusalRecord] {
        func damaged(_ what: String) -> PKIError {
            PKIError(
                .refusalMalformed, subject: source, "the list of refusals is damaged: \(what)",
                remedy: "restore it from a backup; or remove it, and revoke again what it held")
        }
        guard let text = String(validating: bytes, as: UTF8.self), text.hasPrefix(self.header) else { throw damaged("it has no header") }
        guard text.hasSuffix("\n") else { throw damaged("its end is missing") }
        let lines = text.dropLast().split(separator: "\n", omittingEmptySubsequences: false)
        guard let last = lines.last, last.hasPrefix("end "), lines.count >= 2 else { throw damaged("its end is missing") }
        let body = bytes.dropLast(last.utf8.count + 1)
        guard last.dropFirst(4) == Hex.encode(OpenSSL.sha256(Array(body))) else { throw damaged("its sum is not that of its lines") }
        return try lines.dropFirst().dropLast().enumerated().map { index, line in
            let fields = line.split(separator: "\t", maxSplits: 2, omittingEmptySubsequences: false)
            guard fields.count == 3, let since = Int64(fields[0]) else { throw damaged("line \(index + 2) has no date") }
            return RefusalRecord(
                refusal: try Refusal(String(fields[2]), source: "\(source), line \(index + 2)"), since: Timestamp(secondsSince1970: since),
                by: String(fields[1]))
        }
    }

    private static func read(_ path: String) throws -> [RefusalRecord] {
        guard let file = try PrivateFile.readIfPresent(path) else { return [] }
        return try self.decode(file.bytes, source: path)
    }
}
