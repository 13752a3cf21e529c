import EngineContract
import MWStorage
import Testing

@Suite struct StorageBasics {
    @Test("what was put is read back")
    func putAndGet() async throws {
        try await withTemporaryDirectory { directory in
            let storage = try Storage.open(directory: directory + "/a/b", engine: .memory())
            try await storage.put([1], [2, 3])
            #expect(try storage.get([1]) == [2, 3])
            try await storage.remove([1])
            #expect(try storage.get([1]) == nil)
            #expect(try await storage.allocatePrefix() == 0)
            #expect(try await storage.allocatePrefix() == 1)
            storage.close()
            #expect(throws: StorageError.self) { try storage.get([1]) }
        }
    }
}

@Suite struct MemoryContract {
    @Test("the in-memory engine does what every engine must", arguments: EngineContract.claims)
    func contract(claim: EngineContract) async throws { try await claim.check(.memory()) }
}
