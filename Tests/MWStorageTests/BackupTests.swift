import EngineContract
import MWStorage
import Testing

@Suite struct BackupTests {
    @Test("a backup under load is the store at one revision, and a restored store says that it is another one")
    func underLoad() async throws { try await Backups.underLoad(.memory()) }

    @Test("while a backup is made there is no second one, and a failed one leaves nothing")
    func failures() async throws {
        try await withTemporaryDirectory { directory in
            let disk = MemoryDisk()
            let storage = try Storage.open(directory: directory + "/store", engine: .memory(disk))
            defer { storage.close() }
            try await storage.put([1], [1])
            disk.setFaults(
                .with { faults in
                    faults.duringCheckpoint = {
                        #expect(throws: StorageError(.locked, subject: "", found: "")) { try storage.backup(to: directory + "/b", at: 0) }
                    }
                })
            try storage.backup(to: directory + "/a", at: 0)
            disk.setFaults(.with { $0.failCheckpoints = .diskFull })
            #expect(throws: StorageError(.diskFull, subject: "", found: "")) { try storage.backup(to: directory + "/c", at: 0) }
            #expect(try FileDescriptor.names(in: directory).sorted() == ["a", "store"])
            #expect(throws: StorageError(.notAStore, subject: "", found: "")) {
                try Restore(from: directory + "/store", engines: [.memory()])
            }
            #expect(throws: StorageError(.engineMismatch, subject: "", found: "")) { try Restore(from: directory + "/a", engines: []) }
        }
    }
}
