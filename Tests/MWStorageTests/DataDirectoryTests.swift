import EngineContract
import Glibc
import MWStorage
import Testing

@Suite struct DataDirectoryTests {
    @Test("the directory and its parents are made for this user only, and say what they are")
    func creation() async throws {
        try await withTemporaryDirectory { directory in
            let storage = try Storage.open(directory: directory + "/a/b/", engine: .memory())
            defer { storage.close() }
            for path in ["/a", "/a/b", "/a/b/engine"] { #expect(mode(directory + path) == 0o700) }
            let format = try FileDescriptor.contents(of: directory + "/a/b/format", atMost: 100)
            #expect(format.map { String(decoding: $0, as: UTF8.self) } == "mwstorage-store 3\nengine memory\n")
        }
    }

    @Test("a second opening is refused with the process id of the first, and works once that is closed")
    func locking() async throws {
        try await withTemporaryDirectory { directory in
            let disk = MemoryDisk()
            let storage = try Storage.open(directory: directory, engine: .memory(disk))
            let error = #expect(throws: StorageError.self) { try Storage.open(directory: directory, engine: .memory(disk)) }
            #expect(error?.code == .locked)
            #expect(error?.description.contains("process \(getpid()) has the store open") == true)
            storage.close()
            try Storage.open(directory: directory, engine: .memory(disk)).close()
        }
    }

    @Test("another engine is refused, and both are named")
    func otherEngine() async throws {
        try await withTemporaryDirectory { directory in
            try FileDescriptor.replace(directory + "/format", with: Array("mwstorage-store 1\nengine leveldb\n".utf8))
            let error = #expect(throws: StorageError.self) { try Storage.open(directory: directory, engine: .memory()) }
            #expect(error?.code == .engineMismatch)
            #expect(error?.found.contains("leveldb") == true)
            #expect(error?.expected?.contains("memory") == true)
        }
    }

    @Test(
        "what is not a store of ours is refused by kind and left alone",
        arguments: [
            (file: "format", text: "mwstorage-store 4\nengine memory\n", code: StorageError.Code.formatTooNew),
            ("format", "", .notAStore), ("format", "mwstorage-store\n", .notAStore),
            ("format", "mwstorage-store 0\nengine memory\n", .notAStore), ("format", "mwstorage-store x\nengine memory", .notAStore),
            ("format", "something else 1\n", .notAStore), ("photo.jpeg", "x", .notAStore), ("CURRENT", "MANIFEST-000001\n", .notAStore),
        ])
    func foreign(file: String, text: String, code: StorageError.Code) async throws {
        try await withTemporaryDirectory { directory in
            try FileDescriptor.replace(directory + "/" + file, with: Array(text.utf8))
            #expect(throws: StorageError(code, subject: "", found: "")) { try Storage.open(directory: directory, engine: .memory()) }
            #expect(try FileDescriptor.names(in: directory).contains("engine") == false)
        }
    }

    @Test("a crash before the format file was written is no obstacle")
    func crashedCreation() async throws {
        try await withTemporaryDirectory { directory in
            try FileDescriptor.replace(directory + "/lock", with: Array("99999\n".utf8))
            try FileDescriptor.replace(directory + "/format.new", with: Array("mwstor".utf8))
            try Storage.open(directory: directory, engine: .memory()).close()
        }
    }

    @Test("an engine that cannot be opened leaves the directory unlocked")
    func failedOpening() async throws {
        try await withTemporaryDirectory { directory in
            let disk = MemoryDisk()
            disk.setFaults(.with { $0.failOpens = .corrupt })
            #expect(throws: StorageError(.corrupt, subject: "", found: "")) {
                try Storage.open(directory: directory, engine: .memory(disk))
            }
            disk.liftFaults()
            try Storage.open(directory: directory, engine: .memory(disk)).close()
        }
    }

    private func mode(_ path: String) -> mode_t? {
        var status = stat()
        return unsafe stat(path, &status) == 0 ? status.st_mode & 0o7777 : nil
    }
}
