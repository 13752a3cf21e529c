// A copy of a range of a store, on disk:
//
//   DIRECTORY/         mode 0700
//     format           text, lines ended by \n:  mwstorage-replica 2
//                                                engine rocksdb
//     lock             locked (flock) while a process has it open
//     engine/          the engine's own files
//
// The engine's keys; numbers are big endian:
//
//   00 "range"         which range this is a copy of, as it was given
//   00 "position"      16 bytes incarnation, 8 bytes revision, 8 bytes number of the copy that is whole
//   01 NUMBER KEY      8 bytes revision, then the value; NUMBER is 8 bytes, the copy's
//
// A change and the position behind it are in one batch of the engine: however the process ends, the copy is the store as it was at the
// position's revision. A new copy, at first and after a gap, is loaded under the next number, beside the one that is whole, and takes its
// place with the position that names it.

import Glibc
import MWRocksDB
import MWStorage

/// A copy of a range of a store on disk that is never torn.
final class ReplicaDirectory {
    /// 2: RocksDB's directory has a log of our own beside the tables. Otherwise as 1.
    static let formatVersion = 2
    private static let formatMagic = "mwstorage-replica"
    /// Keys removed in one batch when an old copy goes: some megabytes.
    private static let removalsInBatch = 10_000

    /// Where the copy stands.
    struct Position: Hashable, Sendable {
        var incarnation: [UInt8]
        var revision: UInt64
        fileprivate var copy: UInt64
    }

    /// A key and what is stored there.
    struct Entry: Hashable, Sendable {
        var key: [UInt8]
        var value: [UInt8]
        var revision: UInt64
    }

    /// A change of one key.
    enum Change: Hashable, Sendable {
        case put(key: [UInt8], value: [UInt8])
        case remove(key: [UInt8])
    }

    let path: String
    private let lock: FileDescriptor
    private let engine: any StorageEngine
    /// nil: nothing is whole yet.
    private(set) var position: Position?
    private var isLoading = false

    /// Opens the copy in `path`, or makes one if there is nothing in it.
    ///
    /// - Parameters:
    ///   - range: What it is a copy of; another one is refused. nil: whatever is there, which must be there.
    init(path: String, range: String?) throws {
        self.path = path
        if range == nil, !LocalFile.exists(path + "/format") {
            throw CommandFailure(
                .inputMissing, "there is no copy in \(path)", remedy: "make one with: mwstorage replicate RANGE --to \(path)")
        }
        try FileDescriptor.makeDirectories(path)
        let factory = StorageEngineFactory.rocksDB
        try Self.checkFormat(path, engine: factory.name)
        lock = try Self.acquireLock(path)
        do {
            try FileDescriptor.makeDirectories(path + "/engine")
            engine = try factory.open(path + "/engine", EngineOptions())
        } catch {
            lock.close()
            throw error
        }
        do {
            try check(range: range)
            position = try read("position").flatMap(Self.decode)
            // What a load that was cut off has left.
            try removeCopies(except: position?.copy)
        } catch {
            close()
            throw error
        }
    }

    /// Everything onto the disk, and away.
    func close() {
        try? engine.sync()
        engine.close()
        lock.close()
    }

    // MARK: Loading

    /// Entries that follow are of a new copy, until ``finishLoading(incarnation:revision:)``; the old one stays until then.
    func beginLoading() throws {
        if isLoading { try removeCopies(except: position?.copy) }
        isLoading = true
    }

    func load(_ entries: [Entry]) throws {
        precondition(isLoading, "no load was begun")
        var batch = WriteBatch()
        for entry in entries {
            try batch.put(Self.key(entry.key, in: nextCopy), Self.bytes(entry.revision) + entry.value)
        }
        try engine.apply(batch, sync: false)
    }

    /// The new copy is whole, as of this revision, and in use.
    func finishLoading(incarnation: [UInt8], revision: UInt64) throws {
        precondition(isLoading, "no load was begun")
        var batch = WriteBatch()
        let position = Position(incarnation: incarnation, revision: revision, copy: nextCopy)
        try batch.put(in: .meta, Array("position".utf8), Self.encode(position))
        try engine.apply(batch, sync: true)
        self.position = position
        isLoading = false
        try removeCopies(except: position.copy)
    }

    // MARK: Following

    /// All of one revision: it shows as a whole or not at all.
    func apply(_ changes: [Change], revision: UInt64) throws {
        guard var position, !isLoading else { preconditionFailure("changes before there is a copy") }
        position.revision = revision
        var batch = WriteBatch()
        for change in changes {
            switch change {
            case .put(let key, let value): try batch.put(Self.key(key, in: position.copy), Self.bytes(revision) + value)
            case .remove(let key): try batch.remove(Self.key(key, in: position.copy))
            }
        }
        try batch.put(in: .meta, Array("position".utf8), Self.encode(position))
        // Not onto the disk each time: after a power cut it is the store of some revisions ago, and goes on from there.
        try engine.apply(batch, sync: false)
        self.position = position
    }

    // MARK: Reading

    /// Calls `body` with each entry from `lower` up to, and without, `upper`, in order, until it returns false.
    func scan(from lower: [UInt8], to upper: [UInt8]?, backward: Bool = false, _ body: (Entry) -> Bool) throws {
        guard let position else { return }
        let prefix = Self.key([], in: position.copy)
        let snapshot = try engine.snapshot()
        let upper = upper.map { prefix + $0 } ?? KeyRange(prefix: prefix).upper
        let range = KeyRange(lower: prefix + lower, upper: upper).engineRange(in: .data)
        try unsafe snapshot.scan(range, backward ? .backward : .forward) { key, value in
            let entry = unsafe Entry(
                key: Array(key.dropFirst(1 + prefix.count)), value: Array(value.dropFirst(8)), revision: Self.number(Array(value.prefix(8)))
            )
            return body(entry)
        }
    }

    // MARK: Private

    private var nextCopy: UInt64 { (position?.copy ?? 0) + 1 }

    private func check(range: String?) throws {
        let stored = try read("range")
        guard let range else { return }
        guard let stored else {
            var batch = WriteBatch()
            try batch.put(in: .meta, Array("range".utf8), Array(range.utf8))
            return try engine.apply(batch, sync: true)
        }
        guard stored == Array(range.utf8) else {
            throw CommandFailure(
                .badInput, "\(path) is a copy of something else",
                why: "seen: \(String(decoding: stored, as: UTF8.self)); expected: \(range)",
                remedy: "give another directory with --to")
        }
    }

    private func read(_ name: String) throws -> [UInt8]? {
        var value: [UInt8]?
        let key = [Keyspace.meta.prefix] + Array(name.utf8)
        try unsafe key.span.bytes.withUnsafeBytes { key in
            try unsafe engine.read(key) { value = unsafe $0.map { unsafe Array($0) } }
        }
        return value
    }

    private func removeCopies(except copy: UInt64?) throws {
        let all = KeyRange.all.engineRange(in: .data)
        let kept = copy.map { KeyRange(prefix: [Keyspace.data.prefix] + Self.bytes($0)) }
        let parts = kept.map { [KeyRange(lower: all.lower, upper: $0.lower), KeyRange(lower: $0.upper ?? [], upper: all.upper)] } ?? [all]
        for part in parts {
            while true {
                var batch = WriteBatch()
                var keys: [[UInt8]] = []
                try unsafe engine.snapshot().scan(part, .forward) { key, _ in
                    unsafe keys.append(Array(key.dropFirst()))
                    return keys.count < Self.removalsInBatch
                }
                if keys.isEmpty { break }
                for key in keys { try batch.remove(key) }
                try engine.apply(batch, sync: false)
            }
        }
    }

    private static func key(_ key: [UInt8], in copy: UInt64) -> [UInt8] { bytes(copy) + key }

    private static func bytes(_ number: UInt64) -> [UInt8] {
        (0..<8).map { UInt8(truncatingIfNeeded: number >> (56 - 8 * UInt64($0))) }
    }

    private static func number(_ bytes: some Sequence<UInt8>) -> UInt64 { bytes.reduce(0) { $0 << 8 | UInt64($1) } }

    private static func encode(_ position: Position) -> [UInt8] {
        position.incarnation + bytes(position.revision) + bytes(position.copy)
    }

    private static func decode(_ bytes: [UInt8]) -> Position? {
        guard bytes.count == 32 else { return nil }
        return Position(incarnation: Array(bytes[..<16]), revision: number(bytes[16..<24]), copy: number(bytes[24...]))
    }

    private static func checkFormat(_ path: String, engine: String) throws {
        func format(_ version: Int) -> [UInt8] { Array("\(formatMagic) \(version)\nengine \(engine)\n".utf8) }
        guard let found = try LocalFile.contentsIfPresent(path + "/format") else {
            let strangers = try LocalFile.names(in: path).filter { !$0.hasPrefix("format") && $0 != "lock" }
            guard strangers.isEmpty else {
                throw CommandFailure(
                    .badInput, "\(path) holds files that are not ours, such as \(strangers[0])",
                    why: "expected: an empty directory, or a copy made by 'replicate'", remedy: "give another directory with --to")
            }
            guard unsafe chmod(path, 0o700) == 0 else {
                throw CommandFailure(
                    .cannotCreateOutput, "cannot make \(path) private", why: systemMessage(errno), remedy: "check its owner")
            }
            try LocalFile.replace(path + "/format", with: format(formatVersion))
            return try FileDescriptor.syncDirectory(path)
        }
        if found == format(1) {
            try LocalFile.replace(path + "/format", with: format(formatVersion))
            return try FileDescriptor.syncDirectory(path)
        }
        guard found == format(formatVersion) else {
            throw CommandFailure(
                .badInput, "\(path) is no copy that this program can use",
                why: "seen: \(Bytes.shown(Array(found.prefix(64)))); expected: \(formatMagic) \(formatVersion)",
                remedy: "give another directory with --to")
        }
    }

    private static func acquireLock(_ path: String) throws -> FileDescriptor {
        let file = try FileDescriptor(opening: path + "/lock", O_CREAT | O_RDWR, mode: 0o600)
        guard flock(file.raw, LOCK_EX | LOCK_NB) == 0 else {
            file.close()
            throw CommandFailure(
                .outcomeUnknown, "another process has \(path) open", remedy: "stop it first, or give another directory",
                code: "storage.locked")
        }
        return file
    }
}
