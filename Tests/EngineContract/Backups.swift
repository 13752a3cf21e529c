import Glibc
package import MWStorage
import Synchronization
import Testing

private enum LocalNames {
    static func contains(_ name: String, in directory: String) -> Bool {
        (try? FileDescriptor.names(in: directory).contains(name)) ?? false
    }
}

/// What backups of a store on any engine must be, and what is made of them.
package enum Backups {
    /// Backs up while a writer counts: each of its requests puts the next number under two keys, and puts a key of that number.
    package static func underLoad(_ factory: StorageEngineFactory) async throws {
        try await withTemporaryDirectory { directory in
            let storage = try Storage.open(directory: directory + "/store", engine: factory)
            let end = End()
            try await withThrowingTaskGroup(of: Void.self) { group in
                group.addTask {
                    var number = 0
                    // Bounded: where disks are slow and processors are not, it would fill them.
                    while !end.hasCome.load(ordering: .relaxed), number < maximumWrites {
                        number += 1
                        let value = Array("\(number)".utf8)
                        try await storage.write { (batch) throws(StorageError) in
                            try batch.put(Array("count".utf8), value)
                            try batch.put(Array("same".utf8), value)
                            try batch.put(Array("at/".utf8) + value, [UInt8](repeating: 7, count: 2000))
                        }
                    }
                }
                group.addTask {
                    defer { end.hasCome.store(true, ordering: .relaxed) }
                    for round in 0..<4 {
                        let manifest = try await onOwnThread { try storage.backup(to: directory + "/backup\(round)", at: 5) }
                        #expect(manifest.revision <= storage.revision)
                        try await onOwnThread { try check(factory, directory, round, manifest, incarnation: storage.incarnation) }
                        #expect(try !FileDescriptor.names(in: directory + "/store").contains("checkpoint"))
                    }
                }
                try await group.waitForAll()
            }
            storage.close()
        }
    }

    /// Some 40 MB with their history.
    private static let maximumWrites = 10_000

    private final class End: Sendable {
        let hasCome = Atomic<Bool>(false)
    }

    private static func check(
        _ factory: StorageEngineFactory, _ directory: String, _ round: Int, _ manifest: BackupManifest, incarnation: Incarnation
    ) throws {
        let restore = try Restore(from: directory + "/backup\(round)", engines: [factory])
        #expect(restore.manifest == manifest)
        #expect(manifest.incarnation == incarnation)
        let report = try restore.run(into: directory + "/restored\(round)")
        let storage = try Storage.open(directory: directory + "/restored\(round)", engine: factory)
        defer { storage.close() }
        #expect(storage.incarnation != incarnation)
        #expect(storage.revision == manifest.revision)
        #expect(storage.compactedRevision == manifest.revision)
        let count = Int(manifest.revision.number)
        let value = count == 0 ? nil : Array("\(count)".utf8)
        #expect(try storage.get(Array("count".utf8)) == value)
        #expect(try storage.get(Array("same".utf8)) == value)
        let entries = try storage.snapshot().scan(KeyRange(prefix: Array("at/".utf8)), limits: ScanLimits(bytes: .max)).entries
        #expect(Set(entries.map(\.revision.number)) == Set((0..<count).map { UInt64($0 + 1) }))
        #expect(entries.allSatisfy { $0.key == Array("at/\($0.revision)".utf8) && $0.value.count == 2000 })
        #expect(report.entryCount == entries.count + (count == 0 ? 0 : 2))
    }

    /// Leases and the prefix counter come along; sessions, outcomes and history stay behind; the store takes writes.
    package static func whatComesAlong(_ factory: StorageEngineFactory) async throws {
        try await withStore(factory) { directory, storage in
            let prefix = try await storage.allocatePrefix()
            storage.close()
            try addRecords(factory, directory + "/store")
            let again = try Storage.open(directory: directory + "/store", engine: factory)
            try again.backup(to: directory + "/backup", at: 0)
            again.close()
            _ = try Restore(from: directory + "/backup", engines: [factory]).run(into: directory + "/new")
            let engine = try factory.open(directory + "/new/engine", EngineOptions())
            let keyspaces = Set(try engine.all().compactMap(\.key.first)).subtracting([0, 1])
            engine.close()
            #expect(keyspaces == [5, 6], "leases, and no history, sessions or outcomes")
            let restored = try Storage.open(directory: directory + "/new", engine: factory)
            defer { restored.close() }
            #expect(try await restored.allocatePrefix() == prefix + 1)
            #expect(try restored.get([1]) == [2])
            try await restored.put([1], [3])
            #expect(restored.revision > again.revision)
        }
    }

    private static func addRecords(_ factory: StorageEngineFactory, _ store: String) throws {
        let engine = try factory.open(store + "/engine", EngineOptions())
        defer { engine.close() }
        var batch = WriteBatch()
        batch.putSession(SessionID(1), SessionRecord(principal: "p", timeToLiveMilliseconds: 60_000))
        batch.putOutcome(SessionID(1), 1, .prefix(1, Revision(1)))
        batch.putLease(LeaseID(1), LeaseRecord(principal: "p", timeToLiveMilliseconds: 60_000_000))
        unsafe batch.putLeaseKey(LeaseID(1), UnsafeRawBufferPointer(start: nil, count: 0))
        try engine.apply(batch, sync: true)
    }

    /// Each kind of damage to a backup, and what must be said of it.
    package static func damage(_ factory: StorageEngineFactory) async throws {
        try await withStore(factory) { directory, storage in
            try storage.backup(to: directory + "/good", at: 0)
            storage.close()
            let manifest = try BackupManifest(readingFrom: directory + "/good")
            let largest = try #require(manifest.files.max { $0.byteCount < $1.byteCount }).name
            let cases: [(name: String, code: StorageError.Code, damage: (String) throws -> Void)] = [
                ("no file manifest", .notAStore, { _ = unsafe unlink($0 + "/manifest") }),
                ("checksum", .corrupt, { try change($0 + "/manifest") { $0[30] ^= 1 } }),
                ("checksum", .corrupt, { try change($0 + "/manifest") { $0.removeLast(20) } }),
                ("no line", .corrupt, { try change($0 + "/manifest") { $0 = [] } }),
                ("version 2", .formatTooNew, { try change($0 + "/manifest") { $0[17] += 1 } }),
                ("no file \(largest)", .corrupt, { _ = unsafe unlink($0 + "/engine/" + largest) }),
                ("not of it", .corrupt, { try FileDescriptor.replace($0 + "/engine/another", with: [1]) }),
                ("bytes of \(largest)", .corrupt, { try change($0 + "/engine/" + largest) { $0.removeLast() } }),
                (
                    "\(largest), which does not have its checksum", .corrupt,
                    { try change($0 + "/engine/" + largest) { $0[$0.count / 2] ^= 1 } }
                ),
            ]
            for (index, item) in cases.enumerated() {
                let path = directory + "/\(index)"
                try FileDescriptor.makeDirectories(path + "/engine")
                try FileDescriptor.copy(directory + "/good/manifest", to: path + "/manifest")
                for file in manifest.files {
                    try FileDescriptor.copy(directory + "/good/engine/" + file.name, to: path + "/engine/" + file.name)
                }
                try item.damage(path)
                for isTrial in [true, false] {
                    let error = #expect(throws: StorageError.self, "\(item.name)") {
                        let restore = try Restore(from: path, engines: [factory])
                        if isTrial { _ = try restore.verify(scratchParent: directory) } else { _ = try restore.run(into: path + "-new") }
                    }
                    #expect(error?.code == item.code)
                    #expect(error?.found.contains(item.name) == true, "\(error?.description ?? "")")
                }
                guard LocalNames.contains("restoring", in: path + "-new") else { continue }
                #expect(throws: StorageError(.notAStore, subject: "", found: "")) {
                    try Storage.open(directory: path + "-new", engine: factory)
                }
            }
            #expect(try FileDescriptor.names(in: directory).allSatisfy { !$0.hasPrefix(".mwstorage-") })
        }
    }

    /// A trial run reads everything and changes nothing; nothing that is there is ever replaced; a half restore can be repeated.
    package static func manners(_ factory: StorageEngineFactory) async throws {
        try await withStore(factory) { directory, storage in
            try storage.backup(to: directory + "/backups/one/", at: 7)
            #expect(throws: StorageError(.alreadyExists, subject: "", found: "")) {
                try storage.backup(to: directory + "/backups/one", at: 8)
            }
            #expect(try FileDescriptor.names(in: directory + "/backups") == ["one"])
            // What a death left is no obstacle.
            try FileDescriptor.makeDirectories(directory + "/backups/two.partial/engine")
            try FileDescriptor.replace(directory + "/backups/two.partial/engine/x", with: [1])
            try storage.backup(to: directory + "/backups/two", at: 9)
            #expect(try FileDescriptor.names(in: directory + "/backups").sorted() == ["one", "two"])
            var status = stat()
            #expect(unsafe stat(directory + "/backups/one", &status) == 0 && status.st_mode & 0o777 == 0o700)

            let restore = try Restore(from: directory + "/backups/one", engines: [factory])
            let before = try FileDescriptor.contents(of: directory + "/backups/one/manifest", atMost: 1 << 20)
            let report = try restore.verify(scratchParent: directory)
            #expect(report.incarnation == storage.incarnation && report.entryCount == 1 && report.byteCount == 2)
            #expect(throws: StorageError(.alreadyExists, subject: "", found: "")) { try restore.run(into: directory + "/store") }
            #expect(throws: StorageError(.notAStore, subject: "", found: "")) { try restore.run(into: directory + "/backups") }
            // What a death left of a restore is no store, and the restore can be repeated.
            try FileDescriptor.makeDirectories(directory + "/new/engine")
            try FileDescriptor.replace(directory + "/new/restoring", with: [])
            try FileDescriptor.replace(directory + "/new/engine/CURRENT", with: [1])
            #expect(throws: StorageError(.notAStore, subject: "", found: "")) {
                try Storage.open(directory: directory + "/new", engine: factory)
            }
            #expect(try restore.run(into: directory + "/new").entryCount == 1)
            #expect(try FileDescriptor.names(in: directory + "/new").sorted() == ["engine", "format", "lock"])
            #expect(try FileDescriptor.contents(of: directory + "/backups/one/manifest", atMost: 1 << 20) == before)
            #expect(try restore.verify(scratchParent: directory) == report, "a restore leaves its backup as it was")
        }
    }

    /// Kills a process that makes backups, and restores them, again and again; whatever is under its name then is whole.
    package static func killed(_ factory: StorageEngineFactory, rounds: Int, seed: UInt64) async throws {
        try await withTemporaryDirectory { directory in
            try await onOwnThread {
                var random = SeededRandom(seed: seed)
                var backups = 0
                var restored = 0
                for round in 0..<rounds {
                    let place = directory + "/\(round)"
                    let lines = try CrashingProcess.run(
                        ["backup", factory.name, place], untilLines: Int.random(in: 1...30, using: &random))
                    #expect(!lines.contains { $0.hasPrefix("failed") }, "\(lines)")
                    let names = try FileDescriptor.names(in: place)
                    for name in names where name.hasPrefix("backup") && !name.hasSuffix(".partial") {
                        backups += 1
                        let restore = try Restore(from: place + "/" + name, engines: [factory])
                        let report = try restore.verify(scratchParent: directory)
                        #expect(report.entryCount == Int(restore.manifest.revision.number))
                    }
                    for name in names where name.hasPrefix("restored") {
                        if !LocalNames.contains("format", in: place + "/" + name) {
                            if LocalNames.contains("restoring", in: place + "/" + name) {
                                #expect(throws: StorageError(.notAStore, subject: "", found: "")) {
                                    try Storage.open(directory: place + "/" + name, engine: factory)
                                }
                            }
                            let backup = place + "/backup" + name.dropFirst("restored".count)
                            _ = try Restore(from: backup, engines: [factory]).run(into: place + "/" + name)
                        }
                        let storage = try Storage.open(directory: place + "/" + name, engine: factory)
                        defer { storage.close() }
                        restored += 1
                        let count = try storage.snapshot().scan(.all, limits: ScanLimits(bytes: .max), isKeysOnly: true).entries.count
                        #expect(count == Int(storage.revision.number))
                    }
                    FileDescriptor.removeDirectory(place)
                }
                #expect(backups > 0 && restored > 0, "the rounds did not get to it")
            }
        }
    }

    private static func withStore(
        _ factory: StorageEngineFactory, _ body: (_ directory: String, _ storage: Storage) async throws -> Void
    ) async throws {
        try await withTemporaryDirectory { directory in
            let storage = try Storage.open(directory: directory + "/store", engine: factory)
            defer { storage.close() }
            try await storage.put([1], [2])
            try await body(directory, storage)
        }
    }

    private static func change(_ path: String, _ body: (inout [UInt8]) -> Void) throws {
        var bytes = try #require(try FileDescriptor.contents(of: path, atMost: 64 << 20))
        body(&bytes)
        try FileDescriptor.replace(path, with: bytes)
    }
}
