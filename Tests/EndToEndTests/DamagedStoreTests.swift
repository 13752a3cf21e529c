import Foundation
import TestCertificates
import Testing

/// A data directory that a disk has damaged: what the README's table of faults says of it.
@Suite("A damaged store")
struct DamagedStoreTests {
    /// A data directory with one value in it, as a server leaves it.
    private static func make() async throws -> TemporaryDirectory {
        let server = try await ServerProcess()
        #expect(try await server.run(["put", "key", "value"]).status == 0)
        #expect(await server.terminate() == 0)
        return server.directory
    }

    /// Refused by the server and by a command that reads without one: with the exit code, the file, what is wrong with it, and a remedy; and
    /// nothing that was there is changed.
    private static func expectRefused(
        _ directory: TemporaryDirectory, _ file: String, _ words: String, remedy: String = "restore a backup", status: Int32
    ) async throws {
        let data = directory.file("data")
        let before = try Self.content(of: data)
        let serve =
            ["serve", "--listen", "127.0.0.1:0", "--data", data, "--trust", directory.file("server.trust.pem")]
            + TestStore.identity(directory, "server")
        for arguments in [serve, ["export", "--data", data]] {
            let ended = try await CommandProcess.run(arguments)
            #expect(ended.status == status && ended.output.isEmpty, "\(ended.status): \(ended.errors)")
            #expect(ended.errors.hasPrefix("mwstorage: \(file): \(words)") && ended.errors.contains(remedy), "\(ended.errors)")
        }
        #expect(try Self.content(of: data) == before)
    }

    /// The files of the engine that hold what was acknowledged.
    private static func content(of data: String) throws -> [String: Data] {
        var content: [String: Data] = [:]
        for name in try FileManager.default.contentsOfDirectory(atPath: data + "/engine") where name.hasPrefix("commits") {
            content[name] = FileManager.default.contents(atPath: "\(data)/engine/\(name)")
        }
        return content
    }

    // One byte of the first frame's payload.
    @Test("a commit log with a byte that is not what was written is refused: exit code 65; the right byte mends it")
    func log() async throws {
        let directory = try await Self.make()
        let name = try #require(try Self.content(of: directory.file("data")).keys.filter { $0.hasSuffix(".log") }.max())
        let path = directory.file("data/engine/") + name
        let whole = try Data(contentsOf: URL(fileURLWithPath: path))
        var damaged = whole
        damaged[70] ^= 1
        try damaged.write(to: URL(fileURLWithPath: path))
        try await Self.expectRefused(directory, path, "bytes that are not what was written", status: 65)
        try whole.write(to: URL(fileURLWithPath: path))
        let server = try await ServerProcess(directory: directory)
        #expect(try await server.run(["get", "key"]).text == "value")
        #expect(await server.terminate() == 0)
    }

    @Test("a state of the log that is not what was written is refused: exit code 65; one that cannot be read at all: 74")
    func state() async throws {
        let directory = try await Self.make()
        let path = directory.file("data/engine/commits.state")
        let manager = FileManager.default
        let whole = manager.contents(atPath: path)
        try Data("mwstorage-commits 1\ndrained 7\nforgotten 0\nend 0\n".utf8).write(to: URL(fileURLWithPath: path))
        try await Self.expectRefused(directory, path, "not what this program writes", status: 65)
        try manager.removeItem(atPath: path)
        // Whoever runs this, root included, reads no directory as a file.
        try manager.createDirectory(atPath: path, withIntermediateDirectories: false)
        try await Self.expectRefused(directory, path, "Is a directory", remedy: "look at the kernel log for disk errors", status: 74)
        try manager.removeItem(atPath: path)
        if let whole { try whole.write(to: URL(fileURLWithPath: path)) }
        let server = try await ServerProcess(directory: directory)
        #expect(try await server.run(["get", "key"]).text == "value")
        #expect(await server.terminate() == 0)
    }
}
