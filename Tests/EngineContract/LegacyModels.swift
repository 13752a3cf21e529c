import Glibc
package import MWStorage
import Testing

/// Reads databases as a mwDB of 2016 left them, made here with the same engine.
package enum LegacyModels {
    package static func importing(_ factory: StorageEngineFactory, named expectedEngine: String) async throws {
        try await withTemporaryDirectory { directory in
            let database = directory + "/model/data"
            try make(factory, in: directory + "/model")
            let before = try listing(database)
            do {
                let model = try LegacyModel(directory: directory + "/model", engines: [factory], scratchParent: directory)
                #expect(model.engineName == expectedEngine)
                #expect(model.nextPrefix == nextPrefix)
                let storage = try Storage.open(directory: directory + "/new", engine: .memory())
                defer { storage.close() }
                let summary = try await storage.importAll(from: .model(model))
                #expect(summary == ImportSummary(entryCount: 2, byteCount: 13, nextPrefix: nextPrefix))
                #expect(try storage.get(Array("\u{0}x;A;B".utf8)) == Array("chunk".utf8))
                #expect(try storage.get([3, 59]) == [])
                #expect(try storage.get(Array("prefix".utf8)) == nil)
                #expect(try await storage.allocatePrefix() == nextPrefix)
            }
            #expect(try listing(database) == before, "the old directory is as it was")
            #expect(try FileDescriptor.names(in: directory).sorted() == ["model", "new"], "nothing temporary is left")
            #expect(throws: StorageError(.notAStore, subject: "", found: "")) {
                try LegacyModel(directory: directory + "/new", engines: [factory], scratchParent: directory)
            }
        }
    }

    /// The first prefix that no client of the model had.
    package static let nextPrefix: UInt32 = 12

    /// Makes the storage path of a mwDB that held two entries: `chunk` under NUL and `x;A;B`, and nothing under 03 and `;`.
    package static func make(_ factory: StorageEngineFactory, in directory: String) throws {
        let database = directory + "/data"
        let made = directory + "/made"
        try FileDescriptor.makeDirectories(made)
        let engine = try factory.open(made, EngineOptions())
        // mwDB's keys are raw: the first byte of an engine key is theirs.
        for (key, value) in [(Array("\u{0}x;A;B".utf8), "chunk"), ([3, 59], ""), (LegacyModel.prefixKey, "\(nextPrefix)")] {
            var batch = WriteBatch()
            let keyspace = try #require(key.first.map(Keyspace.init(rawPrefix:)))
            try batch.put(in: keyspace, Array(key.dropFirst()), Array(value.utf8))
            try engine.apply(batch, sync: true)
        }
        // A checkpoint is what the library itself would have made, without what our engine keeps beside it.
        let isCopied = try engine.checkpoint(to: database)
        engine.close()
        if !isCopied { try #require(unsafe rename(made, database) == 0) }
        FileDescriptor.removeDirectory(made)
    }

    private static func listing(_ directory: String) throws -> [String: [UInt8]] {
        var files: [String: [UInt8]] = [:]
        for name in try FileDescriptor.names(in: directory) {
            files[name] = try FileDescriptor.contents(of: directory + "/" + name, atMost: 1 << 20)
        }
        return files
    }
}
