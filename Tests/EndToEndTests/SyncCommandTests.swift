import Foundation
import TestCertificates
import Testing

/// The commands that stay in sync, against a server process.
@Suite("Commands that stay in sync")
struct SyncCommandTests {
    /// The text between `before` and the next quotation mark.
    private static func field(_ name: String, of line: String) throws -> String {
        let parts = line.components(separatedBy: "\"\(name)\":\"")
        return try #require(parts.count > 1 ? parts[1].components(separatedBy: "\"").first : nil, "\(name) in \(line)")
    }

    private static func number(_ revision: String) throws -> Int { try #require(Int(revision.split(separator: ":").last ?? "")) }

    @Test("a watch prints each revision as one line, and goes on behind the one that --after names")
    func watch() async throws {
        let server = try await ServerProcess()
        let watch = try StreamingCommand(["watch", "k/"] + server.connection)
        _ = try #require(await watch.line(with: #""event":"synced""#), "\(watch.errors)")
        let put = try await server.run(["put", "k/a", "1", "-o", "json"])
        let first = try Self.field("revision", of: put.text)
        let line = try #require(await watch.line(with: #""event":"changes""#), "\(watch.errors)")
        #expect(
            line == """
                {"event":"changes","revision":"\(first)","changes":[{"change":"put","key":"k/a","value":"1","encoding":"utf8",\
                "previous_revision":null}]}
                """)
        #expect(try await server.run(["put", "other", "1"]).status == 0)
        let transaction = try await server.run(["transaction", "-"], input: Array(#"then put k/b "2" remove k/a put other "2""#.utf8))
        #expect(transaction.status == 0, "\(transaction.errors)")
        let second = try #require(await watch.line(with: #""event":"changes""#))
        #expect(try Self.number(Self.field("revision", of: second)) == Self.number(first) + 2)
        #expect(second.contains(#"{"change":"put","key":"k/b","value":"2","encoding":"utf8","previous_revision":null}"#))
        #expect(second.contains(#"{"change":"remove","key":"k/a","value":null,"#) && !second.contains("other"))
        watch.send(SIGTERM)
        #expect(await watch.waitUntilEnded() == 143)
        #expect(watch.errors.isEmpty, "\(watch.errors)")

        let again = try StreamingCommand(["watch", "k/", "--after", first] + server.connection)
        #expect(await again.line(with: #""event":"changes""#) == second)
        again.send(SIGINT)
        #expect(await again.waitUntilEnded() == 130)
        let bare = try await server.run(["watch", "k/", "--after", "7"])
        #expect(bare.status == 64, "\(bare.errors)")
        let other = try await server.run(["watch", "k/", "--after", "000102030405060708090a0b0c0d0e0f:1"])
        #expect(other.status == 82 && other.output.isEmpty, "\(other.errors)")
    }

    // The proxy keeps its port while the server behind it is killed and started again.
    @Test("a watch survives the server's death: nothing is missed, nothing comes twice")
    func killedServer() async throws {
        let server = try await ServerProcess()
        let proxy = try await FaultyProxy.start()
        proxy.lead(to: Self.port(of: server))
        let connection = ["--endpoint", "wss://127.0.0.1:\(proxy.port)"] + server.connection.dropFirst(2)
        let watch = try StreamingCommand(["watch", "--state"] + connection)
        _ = try #require(await watch.line(with: #""event":"synced""#), "\(watch.errors)")
        #expect(try await server.run(["put", "a", "1"]).status == 0)
        #expect(await watch.line(with: #""event":"changes""#)?.contains(#""key":"a""#) == true)
        server.send(SIGKILL)
        _ = await server.waitUntilEnded()

        let successor = try await ServerProcess(directory: server.directory)
        // Before the watch can be there again.
        #expect(try await successor.run(["put", "b", "2"]).status == 0)
        proxy.lead(to: Self.port(of: successor))
        #expect(try await successor.run(["put", "c", "3"]).status == 0)
        #expect(await watch.line(with: #""event":"changes""#)?.contains(#""key":"b""#) == true, "\(watch.errors)")
        #expect(await watch.line(with: #""event":"changes""#)?.contains(#""key":"c""#) == true, "\(watch.errors)")
        watch.send(SIGTERM)
        #expect(await watch.waitUntilEnded() == 143)
        #expect(watch.errors.contains("connection lost: ") && watch.errors.contains("connected again"), "\(watch.errors)")
        try await proxy.stop()
    }

    private static func port(of server: ServerProcess) -> Int? { server.endpoint.split(separator: ":").last.flatMap { Int($0) } }

    @Test("a copy goes on where it was killed, is equal to the store, and is read without a server")
    func replicate() async throws {
        let server = try await ServerProcess()
        let copy = server.directory.file("copy")
        for number in 1...3 { #expect(try await server.run(["put", "m/\(number)", "v\(number)"]).status == 0) }
        let first = try StreamingCommand(["replicate", "m/", "--to", copy] + server.connection)
        _ = try #require(await first.line(with: #""event":"synced""#), "\(first.errors)")
        #expect(try await server.run(["put", "m/4", "v4"]).status == 0)
        _ = try #require(await first.line(with: #""key":"m/4""#))
        first.send(SIGKILL)
        _ = await first.waitUntilEnded()
        #expect(try await server.run(["remove", "m/1"]).status == 0)

        let second = try StreamingCommand(["replicate", "m/", "--to", copy] + server.connection)
        let line = try #require(await second.line(with: "\"event\":\"changes\""), "\(second.errors)")
        #expect(line.contains(#""change":"remove","key":"m/1""#), "what it had is not told again: \(line)")
        #expect(try await server.run(["scan", "--replica", copy]).status == 75, "somebody keeps it")
        second.send(SIGTERM)
        #expect(await second.waitUntilEnded() == 143)
        let kept = try await CommandProcess.run(["scan", "m/", "--replica", copy, "-o", "ndjson"])
        let stored = try await server.run(["scan", "m/", "-o", "ndjson"])
        #expect(kept.status == 0 && kept.text == stored.text && kept.text.split(separator: "\n").count == 3, "\(kept.text)\(kept.errors)")
        #expect(try await server.run(["replicate", "other/", "--to", copy]).status == 65)
        #expect(try await CommandProcess.run(["scan", "--replica", server.directory.file("none")]).status == 66)
    }

    // Every revision gives ten keys one value. Killed while it loads and while it follows, at lines chosen at random.
    @Test("a copy that is killed again and again is never torn, and catches up")
    func killedReplica() async throws {
        let server = try await ServerProcess()
        let copy = server.directory.file("copy")
        let ballast = (0..<3000).map { "put ballast/\($0) \"\(String(repeating: "b", count: 200))\"" }.joined(separator: "\n")
        #expect(try await server.run(["transaction", "-"], input: Array("then \(ballast)".utf8)).status == 0)
        func write(_ value: Int) async throws {
            let puts = (0..<10).map { "put k/\($0) \"\(value)\"" }.joined(separator: " ")
            let ended = try await server.run(["transaction", "-"], input: Array("then \(puts)".utf8))
            #expect(ended.status == 0, "\(ended.errors)")
        }
        for round in 0..<6 {
            let replica = try StreamingCommand(["replicate", "--to", copy] + server.connection)
            try await withThrowingTaskGroup { group in
                group.addTask { for value in 0..<3 { try await write(round * 3 + value) } }
                // The first is killed in the middle of its load.
                for _ in 0..<(round == 0 ? 1 : Int.random(in: 1...3)) { _ = await replica.next() }
                replica.send(SIGKILL)
                _ = await replica.waitUntilEnded()
                try await group.waitForAll()
            }
            let kept = try await CommandProcess.run(["scan", "k/", "--replica", copy])
            guard kept.status == 0 else {
                #expect(kept.status == 75, "\(kept.errors)")
                continue
            }
            let values = Set(kept.text.split(separator: "\n").map { $0.split(separator: "\t").last ?? "" })
            #expect(values.count <= 1, "torn: \(kept.text)")
        }
        let last = try await server.run(["put", "last", "1", "-o", "json"])
        let revision = try Self.field("revision", of: last.text)
        let replica = try StreamingCommand(["replicate", "--to", copy] + server.connection)
        // It is told of that one, or of a later state.
        _ = try #require(await replica.line(with: #""event":"synced""#), "\(replica.errors)")
        replica.send(SIGTERM)
        #expect(await replica.waitUntilEnded() == 143)
        let kept = try await CommandProcess.run(["scan", "--replica", copy, "-o", "ndjson"])
        let stored = try await server.run(["scan", "-o", "ndjson"])
        #expect(kept.status == 0 && kept.output == stored.output, "\(kept.errors), \(revision)")
    }

    @Test("history is forgotten only with a yes, and a watch from before is exit code 82; clients reload when they are told")
    func administration() async throws {
        let server = try await ServerProcess()
        let first = try Self.field("revision", of: await server.run(["put", "k", "1", "-o", "json"]).text)
        #expect(try await server.run(["put", "k", "2"]).status == 0)
        #expect(try await server.run(["compact"]).status == 64)
        let trial = try await server.run(["compact", "--dry-run"])
        #expect(trial.status == 0 && trial.output.isEmpty && trial.errors.hasPrefix("would forget the history"), "\(trial.errors)")
        let done = try await server.run(["compact", "--yes", "-o", "json"])
        #expect(done.status == 0, "\(done.errors)")
        #expect(try await server.run(["compact", "--yes"]).errors.hasPrefix("nothing to do"))
        #expect(try await server.run(["watch", "--after", first]).status == 82)
        #expect(try await server.run(["compact", "000102030405060708090a0b0c0d0e0f:1", "--yes"]).status == 82)

        let watch = try StreamingCommand(["watch", "--state"] + server.connection)
        _ = try #require(await watch.line(with: #""event":"synced""#), "\(watch.errors)")
        #expect(try await server.run(["reload-clients"]).status == 64)
        let reload = try await server.run(["reload-clients", "--all", "-o", "json"])
        #expect(reload.status == 0, "\(reload.text)\(reload.errors)")
        let status = try await server.run(["status"])
        #expect(status.text.contains("\nwatches:") && status.text.contains("\nrevision:"), "\(status.text)")
        let sessions = try await server.run(["sessions", "-o", "ndjson"])
        #expect(sessions.text.contains(#""watches":1,"lag":0"#), "\(sessions.text)")
    }
}
