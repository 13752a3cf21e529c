import CRocksDB
import EngineContract
import Glibc
import MWStorage
import Testing

@testable import MWRocksDB

/// History that lives in the log, and the data that is told by it alone.
@Suite struct LoggedHistoryTests {
    /// One revision that puts `key`, with its history record, as the store writes them.
    private static func write(_ revision: UInt64, _ key: String, bytes: Int, _ engine: RocksDBEngine) throws {
        var batch = WriteBatch()
        let value = [UInt8](repeating: UInt8(truncatingIfNeeded: revision), count: bytes)
        try unsafe Array(key.utf8).withUnsafeBytes { key in
            try unsafe value.withUnsafeBytes { value in
                try unsafe batch.putData(key: key, value: value, revision: Revision(revision))
                let open = batch.beginHistory(of: Revision(revision), at: 1000 + revision)
                unsafe batch.appendChange(KeyChange(key: key, value: value, previousRevision: .zero))
                batch.endPut(open)
            }
        }
        batch.isDataInHistory = true
        try engine.apply(batch, sync: true)
    }

    private static func forget(_ revisions: ClosedRange<UInt64>, _ engine: RocksDBEngine) throws {
        var batch = WriteBatch()
        for revision in revisions { try batch.removeHistory(of: Revision(revision)) }
        try engine.apply(batch, sync: false)
    }

    private static func revisions(
        _ engine: RocksDBEngine, from lower: UInt64 = 0, to upper: UInt64? = nil, _ direction: ScanDirection = .forward
    ) throws -> [UInt64] {
        let range = KeyRange(
            lower: HistoryRecord.key(of: Revision(lower)), upper: upper.map { HistoryRecord.key(of: Revision($0)) })
        var found: [UInt64] = []
        var isWrong = false
        try unsafe engine.snapshot().scan(range.engineRange(in: .history), direction) { key, record in
            let revision = unsafe HistoryKey.revision(key) ?? 0
            found.append(revision)
            isWrong = unsafe isWrong || (try? HistoryRecord.time(of: record)) != 1000 + revision
            return true
        }
        #expect(!isWrong)
        return found
    }

    private static let smallBuffers: EngineOptions = {
        var options = EngineOptions()
        options.writeBufferBytes = 128 << 10
        return options
    }()

    @Test("history is read from anywhere, both ways, across segments and closings, until it is removed; then its files go")
    func history() async throws {
        try await withTemporaryDirectory { directory in
            var engine = try RocksDBEngine(directory: directory, options: Self.smallBuffers)
            for revision in 1...300 as ClosedRange<UInt64> {
                try Self.write(revision, "key \(revision % 50)", bytes: 3000, engine)
                if revision == 150 {
                    engine.close()
                    engine = try RocksDBEngine(directory: directory, options: Self.smallBuffers)
                }
            }
            #expect(try Self.revisions(engine) == Array(1...300))
            #expect(try Self.revisions(engine, .backward) == Array((1...300).reversed()))
            for start in [1, 2, 77, 149, 150, 151, 299, 300, 301] as [UInt64] {
                #expect(try Self.revisions(engine, from: start) == (start > 300 ? [] : Array(start...300)))
                #expect(try Self.revisions(engine, from: start, to: start + 3).count == max(0, min(3, 301 - Int(start))))
            }
            let before = try FileDescriptor.names(in: directory).count { LogFormat.segmentNumber($0) != nil }
            let snapshot = try engine.snapshot()
            try Self.forget(1...250, engine)
            #expect(try Self.revisions(engine) == Array(251...300))
            // Until the next table is closed the files stay.
            for revision in 301...400 as ClosedRange<UInt64> { try Self.write(revision, "key", bytes: 3000, engine) }
            var seen = 0
            try unsafe snapshot.scan(KeyRange.all.engineRange(in: .history), .forward) { _, _ in
                seen += 1
                return true
            }
            #expect(seen == 300, "a snapshot keeps what it saw, whatever has become of the files")
            engine.close()
            engine = try RocksDBEngine(directory: directory, options: Self.smallBuffers)
            #expect(try Self.revisions(engine) == Array(251...400), "what was removed stays so")
            let after = try FileDescriptor.names(in: directory).count { LogFormat.segmentNumber($0) != nil }
            #expect(after < before, "\(after) segments, \(before) before")
            engine.close()
        }
    }

    /// The number in the header of a segment's file, whatever its name is by now.
    private static func number(in file: FileDescriptor) throws -> UInt64 {
        var number: UInt64 = 0
        unsafe _ = try withUnsafeMutableBytes(of: &number) { unsafe try file.read(into: $0, at: 8, subject: "segment") }
        return UInt64(bigEndian: number)
    }

    enum Use: CaseIterable { case none, bySnapshot, byLink }

    @Test(
        "the file of a segment that nobody needs is written over, but not while a snapshot reads it, or it has a link",
        arguments: Use.allCases)
    func writtenOver(use: Use) async throws {
        try await withTemporaryDirectory { directory in
            let path = directory + "/engine"
            let engine = try RocksDBEngine(directory: path, options: Self.smallBuffers)
            let first = path + "/" + LogFormat.segmentName(1)
            let file = try FileDescriptor(opening: first, O_RDONLY)
            defer { file.close() }
            for revision in 1...10 as ClosedRange<UInt64> { try Self.write(revision, "key", bytes: 3000, engine) }
            let snapshot = use == .bySnapshot ? try engine.snapshot() : nil
            if use == .byLink { #expect(unsafe link(first, directory + "/link") == 0) }
            for revision in 11...500 as ClosedRange<UInt64> {
                try Self.write(revision, "key \(revision % 50)", bytes: 3000, engine)
                try Self.forget(revision - 10...revision - 10, engine)
                guard revision.isMultiple(of: 100) else { continue }
                // What is left of an earlier use is behind the frames, and is none of them.
                #expect(try CommitLogTests.copyWhileOpen(path, to: directory + "/copy"))
                let killed = try RocksDBEngine(directory: directory + "/copy", options: Self.smallBuffers)
                #expect(try Self.revisions(killed) == Array(revision - 9...revision))
                #expect(try killed.all(in: KeyRange()) == engine.all(in: KeyRange()))
                killed.close()
            }
            #expect(try (Self.number(in: file) > 1) == (use == .none))
            var seen = 0
            try unsafe snapshot?.scan(KeyRange.all.engineRange(in: .history), .forward) { _, _ in
                seen += 1
                return true
            }
            #expect(seen == (use == .bySnapshot ? 10 : 0))
            engine.close()
        }
    }

    @Test("a spare file that a copy made of links shares is left to the copy")
    func linkedSpare() async throws {
        try await withTemporaryDirectory { directory in
            let path = directory + "/engine"
            let engine = try RocksDBEngine(directory: path, options: Self.smallBuffers)
            try Self.write(1, "key", bytes: 3000, engine)
            engine.close()
            let bytes = [UInt8](repeating: 7, count: 5000)
            try FileDescriptor.replace(path + "/commits.spare", with: bytes)
            #expect(unsafe link(path + "/commits.spare", directory + "/link") == 0)
            let again = try RocksDBEngine(directory: path, options: Self.smallBuffers)
            try Self.write(2, "key", bytes: 3000, again)
            again.close()
            #expect(try FileDescriptor.contents(of: directory + "/link", atMost: 1 << 20) == bytes)
        }
    }

    @Test("data that only history tells of is there after a kill and after a closing")
    func dataOfHistory() async throws {
        try await withTemporaryDirectory { directory in
            let path = directory + "/engine"
            let engine = try RocksDBEngine(directory: path, options: EngineOptions())
            for revision in 1...30 as ClosedRange<UInt64> { try Self.write(revision, "key \(revision % 7)", bytes: 100, engine) }
            let all = try engine.all(in: KeyRange())
            for name in try FileDescriptor.names(in: path) where name != "LOCK" {
                try FileDescriptor.makeDirectories(directory + "/killed")
                try FileDescriptor.copy(path + "/" + name, to: directory + "/killed/" + name)
            }
            engine.close()
            for path in [path, directory + "/killed"] {
                let again = try RocksDBEngine(directory: path, options: EngineOptions())
                #expect(try again.all(in: KeyRange()) == all)
                #expect(all.count == 7 + 30)
                #expect(try Self.revisions(again) == Array(1...30))
                again.close()
            }
        }
    }

    // As a program before the log left it: values and history in RocksDB's tables and its own log.
    @Test("a store of RocksDB's own is taken over with its history, which goes when it is removed")
    func takenOver() async throws {
        try await withTemporaryDirectory { directory in
            try Self.makeOldStore(in: directory, revisions: 1...40)
            var engine = try RocksDBEngine(directory: directory, options: EngineOptions())
            #expect(try Self.revisions(engine) == Array(1...40))
            for revision in 41...60 as ClosedRange<UInt64> { try Self.write(revision, "new", bytes: 10, engine) }
            #expect(try Self.revisions(engine) == Array(1...60))
            #expect(try Self.revisions(engine, .backward) == Array((1...60).reversed()))
            try Self.forget(1...30, engine)
            #expect(try Self.revisions(engine) == Array(31...60))
            engine.close()
            engine = try RocksDBEngine(directory: directory, options: EngineOptions())
            #expect(try Self.revisions(engine) == Array(31...60))
            try Self.forget(31...45, engine)
            engine.close()
            engine = try RocksDBEngine(directory: directory, options: EngineOptions())
            #expect(try Self.revisions(engine) == Array(46...60))
            engine.close()
            let tables = try RocksDBDatabase(directory: directory, options: EngineOptions())
            #expect(try tables.endOfHistory(forgotten: 0) == 0, "the tables have none of it any more")
            tables.close()
        }
    }

    private static func makeOldStore(in directory: String, revisions: ClosedRange<UInt64>) throws {
        let database = try RocksDBDatabase(directory: directory, options: EngineOptions())
        defer { database.close() }
        let options = unsafe rocksdb_writeoptions_create()
        defer { unsafe rocksdb_writeoptions_destroy(options) }
        for revision in revisions {
            var batch = WriteBatch()
            let open = batch.beginHistory(of: Revision(revision), at: 1000 + revision)
            batch.endPut(open)
            try unsafe batch.withUnsafeBytes { (bytes) throws(StorageError) in
                let start = unsafe bytes.assumingMemoryBound(to: CChar.self).baseAddress
                let native = unsafe rocksdb_writebatch_create_from(start, bytes.count)
                defer { unsafe rocksdb_writebatch_destroy(native) }
                try unsafe database.check { unsafe rocksdb_write(database.pointer, options, native, $0) }
            }
        }
    }
}
