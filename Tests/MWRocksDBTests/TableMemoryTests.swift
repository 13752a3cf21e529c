import EngineContract
import Glibc
import MWStorage
import Synchronization
import Testing

@testable import MWRocksDB

/// Tables are made in memory first; a system that has none for them costs time, and no more.
@Suite struct TableMemoryTests {
    /// What a drain may meet where it wants a file in memory.
    enum Trouble: String, CaseIterable {
        /// There are none, or no descriptor for one (ENOSYS, EMFILE, ENOMEM).
        case none
        /// It cannot be opened for writing.
        case unwritable
        /// It never has room for anything.
        case full

        func makeFile() -> FileDescriptor? {
            switch self {
            case .none: nil
            case .unwritable: try? FileDescriptor(opening: "/", O_RDONLY)
            case .full: Self.sealedFile()
            }
        }

        /// A file in memory that was made never to grow. The C library does not show what makes one to Swift.
        private static func sealedFile() -> FileDescriptor? {
            let (allowSealing, addSeals, sealGrow): (UInt32, CInt, CInt) = (2, 1033, 4)
            guard let symbol = unsafe dlsym(nil, "memfd_create") else { return nil }
            let make = unsafe unsafeBitCast(symbol, to: (@convention(c) (UnsafePointer<CChar>, UInt32) -> CInt).self)
            let raw = unsafe make("sealed", allowSealing)
            defer { _ = close(raw) }
            guard raw >= 0, fcntl(raw, addSeals, sealGrow) == 0 else { return nil }
            return try? FileDescriptor(opening: "/proc/self/fd/\(raw)", O_RDWR)
        }

        var factory: StorageEngineFactory {
            StorageEngineFactory(
                name: RocksDBEngine.name,
                open: { (directory, options) throws(StorageError) in
                    try RocksDBEngine(directory: directory, options: options) { makeFile() }
                },
                openReadOnly: StorageEngineFactory.rocksDB.openReadOnly)
        }
    }

    private static let smallBuffers: EngineOptions = {
        var options = EngineOptions()
        options.writeBufferBytes = 64 << 10
        return options
    }()

    // Large tables fail while they are written, small ones at their end.
    @Test("a drain without memory for its tables makes them where they belong", arguments: Trouble.allCases, [100, 50_000])
    func fallback(trouble: Trouble, valueBytes: Int) async throws {
        try await withTemporaryDirectory { directory in
            let asked = Asked()
            var engine = try RocksDBEngine(directory: directory + "/engine", options: Self.smallBuffers) {
                asked.count.add(1, ordering: .relaxed)
                return trouble.makeFile()
            }
            var expected: [Entry] = []
            for index in 0..<60 {
                let entry = Entry("key \(index + 100)", String(repeating: "\(index % 10)", count: valueBytes))
                expected.append(entry)
                var batch = WriteBatch()
                try batch.put(Array(entry.key.dropFirst()), entry.value)
                try batch.put(in: .meta, [1], [UInt8(index)])
                try engine.apply(batch, sync: false)
            }
            expected.insert(Entry([0, 1], [59]), at: 0)
            // Drains what is pending.
            #expect(try engine.checkpoint(to: directory + "/checkpoint"))
            #expect(asked.count.load(ordering: .relaxed) > 0)
            #expect(try engine.all() == expected)
            engine.close()
            #expect(try FileDescriptor.names(in: directory + "/engine").allSatisfy { !$0.hasPrefix("pending") })
            engine = try RocksDBEngine(directory: directory + "/engine", options: Self.smallBuffers)
            #expect(try engine.all() == expected)
            engine.close()
        }
    }

    private final class Asked: Sendable {
        let count = Atomic<Int>(0)
    }

    @Test("only where a table cannot be made on the disk either, a drain fails, and nothing is lost", arguments: Trouble.allCases)
    func failure(trouble: Trouble) async throws {
        try await withTemporaryDirectory { directory in
            var engine = try RocksDBEngine(directory: directory + "/engine", options: EngineOptions()) { trouble.makeFile() }
            try FileDescriptor.makeDirectories(directory + "/engine/pending0.sst")
            try engine.write(["a": "1"])
            #expect(throws: StorageError.self) { try engine.checkpoint(to: directory + "/checkpoint") }
            #expect(try engine.value("a") == [49])
            engine.close()
            FileDescriptor.removeDirectory(directory + "/engine/pending0.sst")
            engine = try RocksDBEngine(directory: directory + "/engine", options: EngineOptions()) { trouble.makeFile() }
            #expect(try engine.value("a") == [49])
            engine.close()
        }
    }

    @Test("RocksDB does what every engine must where there are no files in memory", arguments: EngineContract.claims)
    func contract(claim: EngineContract) async throws { try await claim.check(Trouble.none.factory) }
}
