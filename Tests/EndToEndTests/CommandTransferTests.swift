import EngineContract
import Foundation
import MWLevelDB
import MWRocksDB
import MWStorage
import TestCertificates
import Testing

/// `mwstorage export` and `import`: a store leaves one data directory and arrives in another, whole.
@Suite("Export and import")
struct CommandTransferTests {
    @Test("what one store exports, another engine's store and a running server import")
    func roundTrip() async throws {
        let source = try await ServerProcess()
        for index in 0..<3 { #expect(try await source.run(["put", "key\(index)", "value\(index)"]).status == 0) }
        let busy = try await CommandProcess.run(["export", "--data", source.directory.file("data"), "--out", source.directory.file("x")])
        #expect(busy.status == 75, "a server has the directory")
        #expect(await source.terminate() == 0)

        let file = source.directory.file("all.export")
        let export = try await CommandProcess.run(["export", "--data", source.directory.file("data"), "--out", file, "-o", "json"])
        #expect(export.status == 0)
        #expect(export.text.hasPrefix(#"{"entries":3,"#))
        let piped = try await CommandProcess.run(["export", "--data", source.directory.file("data")])
        #expect(piped.output == Array(try Data(contentsOf: URL(fileURLWithPath: file))), "standard output is the stream")
        #expect(piped.errors.hasPrefix("exported 3 entries"))

        // Offline, into the other engine; twice, which changes nothing.
        let target = try TestStore.make()
        for _ in 0..<2 {
            let imported = try await CommandProcess.run(["import", file, "--data", target.file("data"), "--engine", "leveldb"])
            #expect(imported.status == 0)
            #expect(imported.output.isEmpty)
        }
        let leveldb = try await ServerProcess(["--engine", "leveldb"], directory: target)
        #expect(try await leveldb.run(["get", "key2"]).text == "value2")

        // Over the wire, from standard input.
        let remote = try await ServerProcess()
        #expect(try await remote.run(["import", "--dry-run"], input: piped.output).status == 0)
        #expect(try await remote.run(["get", "key0"]).status == 1, "a dry run stores nothing")
        #expect(try await remote.run(["import"], input: piped.output).status == 0)
        #expect(try await remote.run(["get", "key0", "key1", "key2"]).text == "value0\nvalue1\nvalue2\n")
    }

    @Test("no prefix is given twice, also not after an import")
    func prefixes() async throws {
        let source = try await ServerProcess()
        var last = 0
        for _ in 0..<3 { last = try #require(Int(try await source.run(["prefix"]).text.dropLast())) }
        #expect(await source.terminate() == 0)
        let stream = try await CommandProcess.run(["export", "--data", source.directory.file("data")]).output

        let remote = try await ServerProcess()
        #expect(try await remote.run(["import"], input: stream).status == 0)
        #expect(try #require(Int(try await remote.run(["prefix"]).text.dropLast())) > last)

        let target = try TestStore.make()
        #expect(try await CommandProcess.run(["import", "-", "--data", target.file("data")], input: stream).status == 0)
        let offline = try await ServerProcess(directory: target)
        #expect(try #require(Int(try await offline.run(["prefix"]).text.dropLast())) > last)
    }

    @Test(
        "what a mwDB of 2016 left arrives in a data directory and at a server, and prefixes go on after it",
        arguments: ["rocksdb", "leveldb"])
    func legacyModel(_ engine: String) async throws {
        let directory = try TestStore.make()
        let model = directory.file("model")
        try LegacyModels.make(engine == "rocksdb" ? .rocksDB : .levelDB, in: model)
        let offline = try await CommandProcess.run(["import", model, "--data", directory.file("data"), "-o", "json"])
        #expect(offline.status == 0, "\(offline.errors)")
        #expect(offline.text == #"{"entries":2,"bytes":13,"nextPrefix":12,"dryRun":false}"# + "\n")

        let remote = try await ServerProcess()
        let online = try await remote.run(["import", model])
        #expect(online.status == 0, "\(online.errors)")
        #expect(online.errors.hasPrefix("imported 2 entries"))

        for server in [remote, try await ServerProcess(directory: directory)] {
            #expect(try await server.run(["get", "00783b413b42", "--hex"]).text == "6368756e6b", "chunk")
            // An empty value is the same as none to mwDB's protocol.
            #expect(try await server.run(["get", "033b", "--hex"]).output.isEmpty)
            #expect(try await server.run(["get", "prefix"]).status == 1, "the counter is no entry")
            #expect(try await server.run(["prefix"]).text == "\(LegacyModels.nextPrefix)\n")
        }
        #expect(
            try FileManager.default.contentsOfDirectory(atPath: directory.path).allSatisfy { !$0.contains("mwstorage") },
            "nothing temporary is left")
    }

    @Test("a stream that was cut or damaged is exit code 65", arguments: [0, 1])
    func damaged(_ kind: Int) async throws {
        let source = try await ServerProcess()
        #expect(try await source.run(["put", "key", "value"]).status == 0)
        #expect(await source.terminate() == 0)
        var stream = try await CommandProcess.run(["export", "--data", source.directory.file("data")]).output
        if kind == 0 { stream.removeLast() } else { stream[stream.count - 12] ^= 1 }
        let imported = try await CommandProcess.run(["import", "--data", source.directory.file("other")], input: stream)
        #expect(imported.status == 65)
        #expect(imported.errors.split(separator: "\n").count >= 2)
    }

    @Test("a directory without a store is exit code 66, and is left as it is")
    func nothingThere() async throws {
        let directory = try TemporaryDirectory()
        #expect(try await CommandProcess.run(["export", "--data", directory.path]).status == 66)
        #expect(try FileManager.default.contentsOfDirectory(atPath: directory.path).isEmpty)
        #expect(try await CommandProcess.run(["import", directory.file("missing"), "--data", directory.file("data")]).status == 66)
        #expect(try FileManager.default.contentsOfDirectory(atPath: directory.path).isEmpty)
    }
}
