import Foundation
import Synchronization
import TestCertificates
import Testing

@testable import mwstorage

/// Programs that run while something is held.
@Suite("Programs that run while a lock is held")
struct HeldProcessTests {
    private struct Lost: Error {}

    @Test("the exit code is the program's, and its environment has what is held")
    func environment() async throws {
        let code = try await HeldRun.run(["sh", "-c", #"[ "$TOKEN" = 7 ] && [ -n "$PATH" ] && exit 42"#]) { run in
            try await run(["TOKEN": "7"])
        }
        #expect(code == 42)
        #expect(try await HeldRun.run(["sh", "-c", "kill -KILL $$"]) { run in try await run([:]) } == 128 + SIGKILL)
    }

    @Test("a program that is not there is status 66")
    func missing() async throws {
        let failure = await #expect(throws: CommandFailure.self) {
            try await HeldRun.run(["/nonexistent/program"]) { run in try await run([:]) }
        }
        #expect(failure?.status == .inputMissing)
    }

    // The program says when its trap is set; what holds the lock is cancelled then, as when a lease is lost.
    @Test(
        "when what is held is lost, the program and what it started are asked to end",
        arguments: [("exit 3", 3), (":", 4)] as [(String, Int32)])
    func lost(_ onTermination: String, _ expected: Int32) async throws {
        let directory = try TemporaryDirectory()
        let ready = directory.file("ready")
        #expect(unsafe mkfifo(ready, 0o600) == 0)
        // What it starts is there before it is asked to end, and no copy of the shell any more: that would not hear it, and outlive all tests.
        let script =
            "trap '\(onTermination)' TERM; sleep 600 & until grep -q sleep /proc/$!/comm; do :; done; echo >\(ready); wait; exit 4"
        let outcome = Outcome()
        await #expect(throws: Lost.self) { try await Self.lose(script, whenOpened: ready, outcome) }
        #expect(outcome.code.withLock { $0 } == expected)
    }

    private final class Outcome: Sendable {
        let code = Mutex<Int32?>(nil)
    }

    private static func lose(_ script: String, whenOpened ready: String, _ outcome: Outcome) async throws {
        _ = try await HeldRun.run(["sh", "-c", script]) { run in
            try await withThrowingTaskGroup(of: Int32.self) { group in
                group.addTask {
                    let ended = try await run([:])
                    outcome.code.withLock { $0 = ended }
                    return ended
                }
                group.addTask {
                    // Until the other side opens it.
                    _ = try FileHandle(forReadingFrom: URL(fileURLWithPath: ready)).readToEnd()
                    throw Lost()
                }
                while try await group.next() != nil {}
                return 0
            }
        }
    }
}
