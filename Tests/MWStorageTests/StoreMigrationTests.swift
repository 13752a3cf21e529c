import EngineContract
import MWStorage
import Testing

@Suite struct StoreMigrationTests {
    @Test("a store of version 1 holds the same values afterwards, all of revision 1, and is a store of the present version")
    func wholeStore() async throws { try await Migrations.wholeStore(.memory()) }

    @Test("an empty store of version 1 has revision zero afterwards")
    func emptyStore() async throws {
        try await withTemporaryDirectory { directory in
            let disk = MemoryDisk()
            try Migrations.makeVersion1(.memory(disk), in: directory, [])
            let storage = try Storage.open(directory: directory, engine: .memory(disk))
            try await Migrations.check(storage, [])
            storage.close()
        }
    }

    @Test("a migration that fails or dies at any batch goes on where it was", arguments: [true, false])
    func interrupted(losesUnsynced: Bool) async throws {
        try await withTemporaryDirectory { directory in
            var finishedAfter: Int?
            for good in 0..<100 where finishedAfter == nil {
                let path = directory + "/\(good)"
                let disk = MemoryDisk()
                try Migrations.makeVersion1(.memory(disk), in: path, Migrations.entries)
                disk.setFaults(.with { $0.failWrites = (after: good, with: .diskFull) })
                let engine = try StorageEngineFactory.memory(disk).open(path, EngineOptions())
                do {
                    try StoreMigration.run(on: engine, incarnation: Incarnation(5), batchBytes: 150)
                    finishedAfter = good
                } catch { #expect((error as? StorageError)?.code == .diskFull) }
                engine.close()
                if losesUnsynced { disk.cutPower() }
                disk.liftFaults()
                let storage = try Storage.open(directory: path, engine: .memory(disk))
                try await Migrations.check(storage, Migrations.entries)
                storage.close()
            }
            #expect(try #require(finishedAfter) > 10, "the batches were too large for this test")
        }
    }

    @Test("once values may have envelopes, the format file keeps older programs out until all have")
    func formatFile() async throws {
        try await withTemporaryDirectory { directory in
            let disk = MemoryDisk()
            try Migrations.makeVersion1(.memory(disk), in: directory, Migrations.entries)
            disk.setFaults(.with { $0.failWrites = (after: 0, with: .diskFull) })
            #expect(throws: StorageError(.diskFull, subject: "", found: "")) {
                try Storage.open(directory: directory, engine: .memory(disk))
            }
            let format = try FileDescriptor.contents(of: directory + "/format", atMost: 100)
            let text = "mwstorage-store 3\nengine memory\nmigrating from 1\n"
            #expect(format.map { String(decoding: $0, as: UTF8.self) } == text)
            disk.liftFaults()
            let storage = try Storage.open(directory: directory, engine: .memory(disk))
            try await Migrations.check(storage, Migrations.entries)
            storage.close()
        }
    }

    @Test("a death between the last batch and the format file does not do it again")
    func finished() async throws {
        try await withTemporaryDirectory { directory in
            let disk = MemoryDisk()
            try Migrations.makeVersion1(.memory(disk), in: directory, Migrations.entries)
            let engine = try StorageEngineFactory.memory(disk).open(directory, EngineOptions())
            try StoreMigration.run(on: engine, incarnation: Incarnation(5))
            engine.close()
            let writes = disk.writeCount
            let storage = try Storage.open(directory: directory, engine: .memory(disk))
            #expect(storage.incarnation == Incarnation(5))
            #expect(disk.writeCount == writes)
            try await Migrations.check(storage, Migrations.entries)
            storage.close()
        }
    }

    @Test("values without a store that they are of are corrupt, and are left alone")
    func noIncarnation() async throws {
        try await withTemporaryDirectory { directory in
            let disk = MemoryDisk()
            let storage = try Storage.open(directory: directory, engine: .memory(disk))
            try await storage.put([1], [1])
            storage.close()
            let engine = try StorageEngineFactory.memory(disk).open(directory, EngineOptions())
            var batch = WriteBatch()
            try batch.remove(in: .meta, MetaRecord.incarnationKey)
            try engine.apply(batch, sync: true)
            engine.close()
            let writes = disk.writeCount
            #expect(throws: StorageError(.corrupt, subject: "", found: "")) {
                try Storage.open(directory: directory, engine: .memory(disk))
            }
            #expect(disk.writeCount == writes)
        }
    }
}
