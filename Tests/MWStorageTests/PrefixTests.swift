import EngineContract
import MWStorage
import Testing

@Suite struct PrefixTests {
    @Test("prefixes count from zero and go on after reopening")
    func counting() async throws {
        try await withTemporaryDirectory { directory in
            let disk = MemoryDisk()
            for expected in [[0, 1, 2], [3, 4, 5]] as [[UInt32]] {
                let storage = try Storage.open(directory: directory, engine: .memory(disk))
                for prefix in expected { #expect(try await storage.allocatePrefix() == prefix) }
                storage.close()
            }
        }
    }

    @Test("a prefix whose commit failed is never given again", arguments: [false, true])
    func failure(keepsUnsynced: Bool) async throws {
        try await withStore { storage, disk in
            let watch = HealthWatch()
            let observation = storage.observe(watch)
            defer { observation.cancel() }
            let first = try await storage.allocatePrefix()
            #expect(first == 0)
            disk.setFaults(
                .with {
                    $0.failSyncs = true; $0.keepsUnsynced = keepsUnsynced
                })
            await #expect(throws: StorageError.self) { try await storage.allocatePrefix() }
            disk.liftFaults()
            await watch.recovery()
            let third = try await storage.allocatePrefix()
            #expect(third == 2)
        }
    }

    @Test("the last prefix is the largest Java short; then there is an error, and writes go on")
    func exhaustion() async throws {
        try await withStore { storage, _ in
            try await storage.reservePrefixes(below: 32_767)
            try await storage.reservePrefixes(below: 5)
            #expect(try await storage.allocatePrefix() == 32_767)
            for _ in 0..<2 {
                await #expect(throws: StorageError(.prefixesExhausted, subject: "", found: "")) { try await storage.allocatePrefix() }
            }
            try await storage.put([1], [1])
            #expect(try storage.get([1]) == [1])
        }
    }

    @Test("many tasks at once get different prefixes")
    func concurrent() async throws {
        try await withStore { storage, _ in
            let prefixes = try await withThrowingTaskGroup(of: UInt32.self) { group in
                for _ in 0..<200 { group.addTask { try await storage.allocatePrefix() } }
                return try await group.reduce(into: Set<UInt32>()) { $0.insert($1) }
            }
            #expect(prefixes == Set(0..<200))
        }
    }
}
