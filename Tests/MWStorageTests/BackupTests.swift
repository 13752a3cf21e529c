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

    @Test("a manifest that this program does not write is refused, though it has its checksum")
    func manifest() async throws {
        try await withTemporaryDirectory { (directory) throws in
            let incarnation = String(repeating: "0a", count: 16)
            let text = "mwstorage-backup 1\nformat 3\nengine memory\nincarnation \(incarnation)\nrevision 4\ntime 5\n"
            func read(_ lines: String) throws -> BackupManifest {
                let digits = String(CRC32C.of(lines.utf8), radix: 16)
                let end = "end \(String(repeating: "0", count: 8 - digits.count))\(digits)\n"
                try FileDescriptor.replace(directory + "/manifest", with: Array((lines + end).utf8))
                return try BackupManifest(readingFrom: directory)
            }
            let whole = try read(text + "file a 3 00000001\n")
            #expect(whole.revision == Revision(4) && whole.files.map(\.name) == ["a"])
            for bad in [
                text + "more\n", text + "\n", text + "file a +3 00000001\n", text + "file a 3 1\n",
                text.replacing("time 5", with: "time 05"), text.replacing("0a", with: "0A"), text.replacing("backup 1", with: "backup 0"),
            ] {
                #expect(throws: StorageError(.corrupt, subject: "", found: ""), "\(bad)") { try read(bad) }
            }
        }
    }
}
