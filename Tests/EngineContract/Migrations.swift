package import MWStorage
import Testing

/// Stores as version 1 left them, brought to the present format.
package enum Migrations {
    /// Makes a version 1 store in `directory`: values without envelopes, and the prefix counter at 7.
    package static func makeVersion1(_ factory: StorageEngineFactory, in directory: String, _ entries: [Entry]) throws {
        try FileDescriptor.makeDirectories(directory + "/engine")
        try FileDescriptor.replace(directory + "/format", with: Array("mwstorage-store 1\nengine \(factory.name)\n".utf8))
        let engine = try factory.open(directory + "/engine", EngineOptions())
        defer { engine.close() }
        var batch = WriteBatch()
        for entry in entries { try batch.put(Array(entry.key.dropFirst()), entry.value) }
        try batch.put(in: .meta, Array("prefix".utf8), [7, 0, 0, 0])
        try engine.apply(batch, sync: true)
    }

    /// Values of all sizes, some of which look like envelopes.
    package static let entries: [Entry] =
        (0..<40).map { index in
            Entry([1, UInt8(index), 0], [UInt8](repeating: UInt8(index), count: index * 29 % 97))
        } + [Entry([1], [0, 0, 0, 0, 0, 0, 0, 1, 0]), Entry([1, 255], [0, 0, 0, 0, 0, 0, 0, 9, 1, 0, 0, 0, 0, 0, 0, 0, 1, 5])]

    /// Checks that the store holds what ``makeVersion1(_:in:_:)`` put, and nothing else.
    package static func check(_ storage: Storage, _ entries: [Entry]) async throws {
        let all = try storage.snapshot().scan(.all).entries
        let sorted = entries.sorted { $0.key.lexicographicallyPrecedes($1.key) }
        #expect(all.map { Entry([1] + $0.key, $0.value) } == sorted)
        #expect(all.allSatisfy { $0.revision == Revision(1) && $0.lease == nil })
        #expect(storage.revision == Revision(entries.isEmpty ? 0 : 1))
        #expect(storage.compactedRevision == storage.revision)
        #expect(try await storage.allocatePrefix() == 7)
        try await storage.put([1, 2, 3], [4])
        #expect(storage.revision.number == (entries.isEmpty ? 1 : 2))
    }

    package static func wholeStore(_ factory: StorageEngineFactory) async throws {
        try await withTemporaryDirectory { directory in
            try makeVersion1(factory, in: directory, entries)
            let storage = try Storage.open(directory: directory, engine: factory)
            try await check(storage, entries)
            let incarnation = storage.incarnation
            storage.close()
            let format = try FileDescriptor.contents(of: directory + "/format", atMost: 100)
            #expect(format.map { String(decoding: $0, as: UTF8.self) } == "mwstorage-store 3\nengine \(factory.name)\n")
            let again = try Storage.open(directory: directory, engine: factory)
            #expect(again.incarnation == incarnation)
            #expect(try again.get([1, 2, 3]) == [4])
            again.close()
        }
    }
}
