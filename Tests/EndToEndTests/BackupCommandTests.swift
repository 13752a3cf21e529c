import Foundation
import MWStorage
import TestCertificates
import Testing

@Suite("Backup and restore on the command line")
struct BackupCommandTests {
    @Test("a stopped store is backed up, looked at, and restored; nothing is replaced", arguments: ["rocksdb", "leveldb"])
    func offline(engine: String) async throws {
        let server = try await ServerProcess(["--engine", engine])
        for index in 0..<3 { #expect(try await server.run(["put", "key\(index)", "value\(index)"]).status == 0) }
        let (data, copy, new) = (server.directory.file("data"), server.directory.file("copy"), server.directory.file("new"))
        let busy = try await CommandProcess.run(["backup", "--data", data, "--to", copy])
        #expect(busy.status == 75, "a server has the directory")
        #expect(await server.terminate() == 0)

        let made = try await CommandProcess.run(["backup", "--data", data, "--to", copy, "-o", "json"])
        #expect(made.status == 0, "\(made.errors)")
        #expect(made.text.contains(":3\"") && made.text.contains("\"path\""), "\(made.text)")
        #expect(try await CommandProcess.run(["backup", "--data", data, "--to", copy]).status == 73, "a backup replaces nothing")
        #expect(try await CommandProcess.run(["backup", "--to", copy]).status == 64)

        let looked = try await CommandProcess.run(["restore", copy, "--dry-run", "-o", "json"])
        #expect(looked.status == 0, "\(looked.errors)")
        #expect(looked.text.contains("\"entries\":3"))
        #expect(try await CommandProcess.run(["restore", copy, "--data", new]).status == 64, "a script says --yes")
        #expect(!FileManager.default.fileExists(atPath: new))
        let restored = try await CommandProcess.run(["restore", copy, "--data", new, "--yes", "-o", "json"])
        #expect(restored.status == 0, "\(restored.errors)")
        #expect(try await CommandProcess.run(["restore", copy, "--data", new, "--yes"]).status == 73, "a restore replaces nothing")
        #expect(revision(restored.text) != revision(made.text), "another incarnation")
        #expect(revision(looked.text) == revision(made.text))
        #expect(try await CommandProcess.run(["restore", server.directory.file("none"), "--dry-run"]).status == 66)

        let exports = try await [data, new].asyncMap { try await CommandProcess.run(["export", "--data", $0]).output }
        #expect(exports[0] == exports[1] && !exports[0].isEmpty)

        let manifest = copy + "/manifest"
        try Data("mwstorage-backup 1\n".utf8).write(to: URL(fileURLWithPath: manifest))
        let damaged = try await CommandProcess.run(["restore", copy, "--dry-run"])
        #expect(damaged.status == 65)
        #expect(damaged.errors.contains("manifest"))
    }

    @Test("a server that serves makes a backup where it was told to, and a server of what is restored serves the same")
    func online() async throws {
        let directory = try TestStore.make()
        let server = try await ServerProcess(["--backup-directory", directory.file("backups")], directory: directory)
        #expect(try await server.run(["put", "key", "value"]).status == 0)
        let made = try await server.run(["backup", "first"])
        #expect(made.status == 0, "\(made.errors)")
        #expect(try await server.run(["put", "key", "later"]).status == 0)
        #expect(try await server.run(["backup", "../first"]).status != 0)
        let unnamed = try await server.run(["backup", "-o", "json"])
        #expect(unnamed.text.contains(directory.file("backups") + "/20") || unnamed.text.contains("backups\\/20"), "\(unnamed.text)")
        #expect(await server.terminate() == 0)
        let data = directory.file("data")
        try FileManager.default.moveItem(atPath: data, toPath: data + ".old")
        #expect(try await CommandProcess.run(["restore", directory.file("backups/first"), "--data", data, "--yes"]).status == 0)
        let again = try await ServerProcess(directory: directory)
        #expect(try await again.run(["get", "key"]).text == "value")
    }

    private func revision(_ text: String) -> String? {
        text.split(separator: "\"").first { $0.contains(":") && $0.count > 33 && !$0.contains("/") }.map(String.init)
    }
}

extension Array where Element: Sendable {
    fileprivate func asyncMap<R>(_ body: (Element) async throws -> R) async throws -> [R] {
        var all: [R] = []
        for element in self { all.append(try await body(element)) }
        return all
    }
}
