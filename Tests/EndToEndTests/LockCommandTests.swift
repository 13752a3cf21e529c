import Foundation
import TestCertificates
import Testing

/// `mwstorage lock` against a server process.
@Suite("Locks on the command line")
struct LockCommandTests {
    private static func port(of server: ServerProcess) -> Int? { server.endpoint.split(separator: ":").last.flatMap { Int($0) } }

    @Test("the command runs with a fencing token that grows, and its exit code is ours")
    func token() async throws {
        let server = try await ServerProcess()
        let script = #"echo "$MWSTORAGE_FENCING_TOKEN $MWSTORAGE_LOCK $MWSTORAGE_LOCK_REVISION"; exit 7"#
        var tokens: [Int] = []
        for _ in 0..<2 {
            let ended = try await CommandProcess.run(["lock", "jobs/nightly"] + server.connection + ["--", "sh", "-c", script])
            #expect(ended.status == 7, "\(ended.errors)")
            let words = ended.text.split(separator: " ")
            #expect(words.count == 3 && words[1] == "jobs/nightly" && words[2].split(separator: ":").count == 2, "\(ended.text)")
            tokens.append(try #require(words.first.flatMap { Int($0) }))
        }
        #expect(tokens[0] < tokens[1])
        #expect(try await server.run(["get", "jobs/nightly"]).status == 1, "nothing of it is left")
        #expect(try await server.run(["lock", "jobs/nightly"]).status == 64)
        let missing = try await CommandProcess.run(["lock", "l"] + server.connection + ["--", "/nonexistent/program"])
        #expect(missing.status == 66, "\(missing.errors)")
    }

    @Test("only one holds it; who waits in vain does not run, and who waits long enough does; signals reach the command")
    func contention() async throws {
        let server = try await ServerProcess()
        let holder = try StreamingCommand(
            ["lock", "l"] + server.connection + [
                "--", "sh", "-c", "trap 'exit 9' TERM; sleep 600 & until grep -q sleep /proc/$!/comm; do :; done; echo held; wait",
            ])
        #expect(await holder.next() == "held", "\(holder.errors)")
        let late = try await CommandProcess.run(["lock", "l", "--wait", "200ms"] + server.connection + ["--", "echo", "ran"])
        #expect(late.status == 75 && late.output.isEmpty && late.errors.contains("l"), "\(late.errors)")
        let waiting = try StreamingCommand(["lock", "l", "--wait", "60s"] + server.connection + ["--", "echo", "ran"])
        holder.send(SIGTERM)
        #expect(await holder.waitUntilEnded() == 9, "\(holder.errors)")
        #expect(await waiting.next() == "ran", "\(waiting.errors)")
        #expect(await waiting.waitUntilEnded() == 0)
    }

    @Test("a command whose lock is lost with its server is asked to end: exit code 75")
    func lost() async throws {
        let server = try await ServerProcess()
        func hold(_ seconds: Int) throws -> StreamingCommand {
            try StreamingCommand(
                ["lock", "l", "--ttl", "\(seconds)s"] + server.connection
                    + [
                        "--", "sh", "-c",
                        "trap 'echo asked; exit 3' TERM; sleep 600 & until grep -q sleep /proc/$!/comm; do :; done; echo held; wait",
                    ])
        }
        var (seconds, holder) = (1, try hold(1))
        var isHeld = await holder.next() == "held"
        // A busy machine may not get that far in a second.
        while !isHeld, seconds < 60 {
            _ = await holder.waitUntilEnded()
            seconds *= 2
            holder = try hold(seconds)
            isHeld = await holder.next() == "held"
        }
        #expect(isHeld, "\(holder.errors)")
        server.send(SIGKILL)
        #expect(await holder.next() == "asked", "\(holder.errors)")
        #expect(await holder.waitUntilEnded() == 75)
        #expect(holder.errors.contains("lost"), "\(holder.errors)")
    }

    @Test("a lock outlives its server's death, if the server is back in time")
    func survived() async throws {
        let server = try await ServerProcess()
        let proxy = try await FaultyProxy.start()
        proxy.lead(to: Self.port(of: server))
        let connection = ["--endpoint", "wss://127.0.0.1:\(proxy.port)"] + server.connection.dropFirst(2)
        let go = server.directory.file("go")
        #expect(unsafe mkfifo(go, 0o600) == 0)
        let holder = try StreamingCommand(
            ["lock", "l", "--ttl", "60s"] + connection + ["--", "sh", "-c", "echo held; read line <\(go); exit 5"])
        try #require(await holder.next() == "held", "\(holder.errors)")
        server.send(SIGKILL)
        _ = await server.waitUntilEnded()
        let successor = try await ServerProcess(directory: server.directory)
        proxy.lead(to: Self.port(of: successor))
        let late = try await CommandProcess.run(["lock", "l", "--wait", "100ms"] + successor.connection + ["--", "echo", "ran"])
        #expect(late.status == 75 && late.output.isEmpty, "\(late.errors)")
        try FileHandle(forWritingTo: URL(fileURLWithPath: go)).write(contentsOf: Array("go\n".utf8))
        #expect(await holder.waitUntilEnded() == 5, "\(holder.errors)")
        try await proxy.stop()
    }
}
