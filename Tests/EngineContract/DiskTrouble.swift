import Glibc
package import MWStorage
package import Testing

/// What engines must do on disks that fill up, turn read-only or lie.
package enum DiskTrouble {
    /// Whether this process may mount a file system.
    package static let canMount: Bool = {
        guard let directory = try? makeTemporaryDirectory() else { return false }
        defer { removeDirectory(directory) }
        guard unsafe mount("tmpfs", directory, "tmpfs", 0, "size=1m") == 0 else { return false }
        return unsafe umount2(directory, CInt(MNT_DETACH)) == 0
    }()

    /// What a skipped test says.
    package static let needsMount: Comment = "NOT TESTED: a full file system; mounting one needs root"

    /// A file system of 64 MiB in memory.
    private static func withSmallFileSystem(_ body: (String) async throws -> Void) async throws {
        try await withTemporaryDirectory { directory in
            guard unsafe mount("tmpfs", directory, "tmpfs", 0, "size=64m") == 0 else {
                throw StorageError(errno: errno, subject: "mount")
            }
            defer { unsafe umount2(directory, CInt(MNT_DETACH)) }
            try await body(directory)
        }
    }

    /// Writes until the disk is full; then: the error says so, reads go on, acknowledged values are there; with space again the
    /// store becomes writable by itself; and all of it is there after closing and opening.
    package static func fullDisk(_ factory: StorageEngineFactory) async throws {
        try await withSmallFileSystem { directory in
            var options = StorageOptions()
            options.engine.writeBufferBytes = 1 << 20
            options.limits.firstRecoveryDelay = .milliseconds(1)
            options.limits.maximumRecoveryDelay = .milliseconds(20)
            // Something to remove when the disk is full: more than a compaction of all that fits beside it needs.
            let ballast = try FileDescriptor(opening: directory + "/ballast", O_CREAT | O_WRONLY, mode: 0o600)
            try ballast.allocate(bytes: 40 << 20, subject: "ballast")
            ballast.close()
            let storage = try Storage.open(directory: directory + "/store", engine: factory, options: options)
            let watch = HealthWatch()
            let observation = storage.observe(watch)
            defer { observation.cancel() }
            var random = SeededRandom(seed: 5)
            var stored: [Int: [UInt8]] = [:]
            var failure: StorageError?
            for index in 0..<2000 where failure == nil {
                let value = (0..<(20 << 10)).map { _ in UInt8.random(in: 0...255, using: &random) }
                do throws(StorageError) {
                    try await storage.put(Array("\(index)".utf8), value)
                    stored[index] = value
                } catch { failure = error }
            }
            #expect(failure?.code == .diskFull, "\(failure.map(String.init(describing:)) ?? "the disk did not fill up")")
            for (index, value) in stored { #expect(try storage.get(Array("\(index)".utf8)) == value) }
            unsafe unlink(directory + "/ballast")
            await watch.recovery()
            try await storage.put(Array("after".utf8), [1])
            storage.close()
            let again = try Storage.open(directory: directory + "/store", engine: factory, options: options)
            for (index, value) in stored { #expect(try again.get(Array("\(index)".utf8)) == value, "value \(index)") }
            #expect(try again.get(Array("after".utf8)) == [1])
            again.close()
        }
    }

    /// The same where files cannot grow, which needs no privilege: in a process of its own, whose files are limited.
    package static func limitedFiles(_ factory: StorageEngineFactory) async throws {
        try await withTemporaryDirectory { directory in
            let path = directory + "/store"
            let lines = try await onOwnThread { try CrashingProcess.run(["full", factory.name, path], untilLines: .max) }
            func numbers(_ word: String) -> [Int] {
                lines.filter { $0.hasPrefix(word + " ") }.compactMap { Int($0.dropFirst(word.count + 1)) }
            }
            let stored = numbers("stored")
            #expect(!stored.isEmpty, "\(lines)")
            #expect(lines.contains("failed diskFull"), "\(lines.suffix(5))")
            #expect(numbers("read") == stored, "reads go on")
            #expect(lines.contains("refused diskFull"), "until there is space, nothing is written")
            #expect(lines.suffix(2) == ["writable", "done"], "\(lines.suffix(5))")
            let storage = try Storage.open(directory: path, engine: factory)
            defer { storage.close() }
            for number in stored {
                let value = try #require(try storage.get(Array("\(number)".utf8)), "value \(number) was acknowledged")
                #expect(value.count == 20 << 10 && value.allSatisfy { $0 == UInt8(truncatingIfNeeded: number) })
            }
            #expect(try storage.get(Array("1000".utf8)) == [1], "what was written after the recovery")
        }
    }

    /// Makes a store of known values, flips bytes of its files one place at a time, and opens and reads it: every value read is
    /// the one written, or there is a typed error; `corrupt` says what to do.
    package static func flippedBytes(_ factory: StorageEngineFactory, in suffixes: [String], flushed: Bool) async throws {
        try await withTemporaryDirectory { directory in
            try await onOwnThread { try flippedBytes(factory, in: suffixes, flushed: flushed, directory) }
        }
    }

    private static let entryCount = 200

    private static func flippedBytes(
        _ factory: StorageEngineFactory, in suffixes: [String], flushed: Bool, _ directory: String
    ) throws {
        var options = EngineOptions()
        if flushed { options.writeBufferBytes = 64 << 10 }
        let original = directory + "/original"
        try FileDescriptor.makeDirectories(original)
        let engine = try factory.open(original, options)
        for index in 0..<entryCount {
            var batch = WriteBatch()
            try batch.put(Array("key \(index)".utf8), value(index))
            try engine.apply(batch, sync: true)
        }
        engine.close()
        let files = try FileDescriptor.names(in: original).filter { name in suffixes.contains { name.hasSuffix($0) } }
        try #require(!files.isEmpty)
        var random = SeededRandom(seed: 9)
        var caught = 0
        for round in 0..<40 {
            let copy = directory + "/copy"
            try FileDescriptor.makeDirectories(copy)
            defer { FileDescriptor.removeDirectory(copy) }
            for name in try FileDescriptor.names(in: original) where name != "LOCK" {
                try FileDescriptor.copy(original + "/" + name, to: copy + "/" + name)
            }
            let file = copy + "/" + files[round % files.count]
            guard var bytes = try FileDescriptor.contents(of: file, atMost: 8 << 20), !bytes.isEmpty else { continue }
            // Not in the zeros that were allocated ahead.
            let end = (bytes.lastIndex { $0 != 0 } ?? 0) + 1
            let position = Int.random(in: 0..<end, using: &random)
            bytes[position] ^= UInt8.random(in: 1...255, using: &random)
            try FileDescriptor.replace(file, with: bytes)
            do throws(StorageError) {
                let engine = try factory.open(copy, options)
                defer { engine.close() }
                for index in 0..<entryCount {
                    let found = try engine.value([1] + Array("key \(index)".utf8))
                    #expect(
                        found == nil || found == value(index), "a wrong value after a flip at \(position) of \(files[round % files.count])")
                }
            } catch {
                caught += 1
                #expect(error.code == .corrupt || error.code == .ioError, "\(error)")
                if error.code == .corrupt { #expect(error.remedy?.contains("restore a backup") == true) }
            }
        }
        #expect(caught > 0, "no flip was found out")
    }

    private static func value(_ index: Int) -> [UInt8] {
        var random = SeededRandom(seed: UInt64(index))
        return (0..<700).map { _ in UInt8.random(in: 0...255, using: &random) }
    }
}
