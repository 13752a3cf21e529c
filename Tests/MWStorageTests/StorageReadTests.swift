import EngineContract
import MWStorage
import Testing

@Suite struct StorageReadTests {
    @Test("every request that changes something is a revision, and its values say which")
    func revisions() async throws {
        try await withStorage { storage in
            #expect(storage.revision == .zero)
            try await storage.write { (batch) throws(StorageError) in
                try batch.put([1], [1])
                try batch.put([2], [2])
            }
            try await storage.put([3], [3])
            try await storage.remove([2])
            #expect(storage.revision == Revision(3))
            let all = try storage.snapshot().scan(.all)
            #expect(all.entries == [entry(1, revision: 1), entry(3, revision: 2)])
            #expect(!all.hasMore)
            let some = try storage.entries([[3], [2], [1]])
            #expect(some.entries == [entry(3, revision: 2), StoredEntry(key: [2]), entry(1, revision: 1)])
            #expect(some.revision == Revision(3))
        }
    }

    @Test("revision and incarnation are there again after closing and opening")
    func reopening() async throws {
        try await withTemporaryDirectory { directory in
            let disk = MemoryDisk()
            let storage = try Storage.open(directory: directory, engine: .memory(disk))
            try await storage.put([1], [1])
            try await storage.put([1], [2])
            let incarnation = storage.incarnation
            storage.close()
            let again = try Storage.open(directory: directory, engine: .memory(disk))
            defer { again.close() }
            #expect(again.revision == Revision(2))
            #expect(again.incarnation == incarnation)
            try await again.put([2], [2])
            #expect(try again.snapshot().scan(.all).entries.map(\.revision) == [Revision(2), Revision(3)])
        }
        #expect(Incarnation.random() != Incarnation.random())
    }

    @Test("a snapshot has the revision that it is of, whatever comes later")
    func snapshotRevision() async throws {
        try await withStorage { storage in
            try await storage.put([1], [1])
            let snapshot = try storage.snapshot()
            try await storage.put([2], [2])
            #expect(snapshot.revision == Revision(1))
            #expect(snapshot.incarnation == storage.incarnation)
            #expect(try snapshot.scan(.all).entries == [entry(1, revision: 1)])
        }
    }

    @Test(
        "a page ends at its limits, says whether there is more, and the rest follows behind it",
        arguments: [ScanDirection.forward, .backward])
    func pages(direction: ScanDirection) async throws {
        try await withStorage { storage in
            for key in 1...7 as ClosedRange<UInt8> { try await storage.put([key], [key]) }
            let all = (1...7).map { entry(UInt8($0), revision: UInt64($0)) }
            let expected = direction == .forward ? all : all.reversed()
            let snapshot = try storage.snapshot()
            for limits in [ScanLimits(count: 3), ScanLimits(bytes: 5), ScanLimits(bytes: 1), ScanLimits(count: 7), ScanLimits()] {
                var seen: [StoredEntry] = []
                var rest = KeyRange.all
                while true {
                    let page = try snapshot.scan(rest, direction, limits: limits)
                    #expect(page.entries.count <= limits.count)
                    seen += page.entries
                    #expect(page.hasMore == (seen.count < all.count))
                    guard page.hasMore, let last = page.entries.last else { break }
                    rest = rest.following(last.key, direction)
                }
                #expect(seen == expected)
            }
            let keys = try snapshot.scan(.all, direction, isKeysOnly: true).entries
            #expect(keys == expected.map { StoredEntry(key: $0.key, revision: $0.revision) })
        }
    }

    @Test("many keys are read at one revision, though a writer changes them together all the time")
    func consistentReads() async throws {
        try await withStorage { storage in
            let readers = try (0..<2).map { _ in
                try TestThread {
                    for _ in 0..<600 {
                        let read = try storage.entries([[1], [2], [3]])
                        #expect(Set(read.entries[..<2].map(\.value)).count == 1)
                        #expect(read.entries[0].revision == read.entries[1].revision)
                        #expect(read.entries[0].revision <= read.revision)
                        // The third is there at every second revision.
                        let isThere = read.entries[2].revision != .zero
                        #expect(isThere == (read.revision.number % 2 == 1))
                    }
                }
            }
            for round in 1...600 {
                try await storage.write { (batch) throws(StorageError) in
                    try batch.put([1], Array("\(round)".utf8))
                    try batch.put([2], Array("\(round)".utf8))
                    if round % 2 == 1 { try batch.put([3], []) } else { try batch.remove([3]) }
                }
            }
            for reader in readers { try await onOwnThread { try reader.join() } }
        }
    }

    @Test("a value without its envelope is corrupt, whichever way it is read")
    func damagedEnvelope() async throws {
        try await withTemporaryDirectory { directory in
            let disk = MemoryDisk()
            try Storage.open(directory: directory, engine: .memory(disk)).close()
            let engine = try StorageEngineFactory.memory(disk).open(directory, EngineOptions())
            var batch = WriteBatch()
            try batch.put([1], [1, 2, 3])
            try engine.apply(batch, sync: true)
            engine.close()
            let storage = try Storage.open(directory: directory, engine: .memory(disk))
            defer { storage.close() }
            let corrupt = StorageError(.corrupt, subject: "", found: "")
            #expect(throws: corrupt) { try storage.get([1]) }
            #expect(throws: corrupt) { try storage.entries([[1]]) }
            #expect(throws: corrupt) { try storage.snapshot().get([1]) }
            #expect(throws: corrupt) { try storage.snapshot().scan(.all) }
            #expect(throws: corrupt) { try storage.snapshot().page(.all) }
        }
    }

    private func entry(_ byte: UInt8, revision: UInt64) -> StoredEntry {
        StoredEntry(key: [byte], value: [byte], revision: Revision(revision))
    }

    private func withStorage(_ body: (Storage) async throws -> Void) async throws {
        try await withTemporaryDirectory { directory in
            let storage = try Storage.open(directory: directory, engine: .memory())
            defer { storage.close() }
            try await body(storage)
        }
    }
}
