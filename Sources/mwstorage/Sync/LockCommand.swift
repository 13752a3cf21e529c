import ArgumentParser
import Glibc
import MWClient
import UnixSignals

/// `mwstorage lock NAME -- COMMAND ARGUMENT…`.
struct LockCommand: AsyncParsableCommand, CommandWithOutput {
    static let configuration = CommandConfiguration(
        commandName: "lock", abstract: "Run a command while a lock is held, that only one at a time can hold.",
        discussion: """
            Others that want the lock wait, and get it in the order in which they came. It is a key below NAME/, bound to a lease that is \
            kept alive while the command runs: NAME/ must be the lock's alone, and needs the rights to read, write and watch. The command \
            finds in its environment:

                MWSTORAGE_LOCK              the name
                MWSTORAGE_FENCING_TOKEN     a number, greater each time the lock is taken: have whatever the command writes to refuse a \
            smaller one than it has seen
                MWSTORAGE_LOCK_REVISION     the same with the store's incarnation, INCARNATION:NUMBER

            Signals are passed on to it. The exit code is the command's; 128 and the signal's number if one ended it. It is 75 if the lock \
            was about to be lost, since no server could be reached for most of --ttl: the command is sent SIGTERM a third of --ttl, and at \
            most 10 s, before the lease's end, and SIGKILL at its end. \
            It is 75 too, and the command did not run, if others held the lock for longer than --wait.
            """)

    @Argument(help: "Name of the lock.")
    var name: String

    @Argument(parsing: .postTerminator, help: "Behind '--': the command, and its arguments.")
    var command: [String] = []

    @Option(help: ArgumentHelp("How long the lock stays when we cannot reach the server (default: 30s).", valueName: "span"))
    var ttl = TimeSpan(.seconds(30))

    @Option(help: ArgumentHelp("How long to wait for whoever holds it (default: for ever).", valueName: "span"))
    var wait: TimeSpan?

    @OptionGroup var bytes: BytesOptions
    @OptionGroup(title: "Connection") var connection: ConnectionOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        if command.isEmpty { throw ValidationError("Give a command behind '--'.") }
        if ttl.duration < .seconds(1) { throw ValidationError("--ttl is 1s or more.") }
    }

    func run() async throws {
        let bytes = try self.bytes.bytes(name, name: "name")
        let code: Int32
        do {
            let grace = min(HeldProcess.terminationGrace, ttl.duration / 3)
            code = try await HeldRun.run(command, grace: grace) { [connection, name, ttl, wait] run in
                try await connection.withLastingClient { client in
                    try await client.lock(bytes, timeToLive: ttl.duration, timeout: wait?.duration) { lock in
                        let variables = [
                            "MWSTORAGE_LOCK": name, "MWSTORAGE_FENCING_TOKEN": "\(lock.token.number)",
                            "MWSTORAGE_LOCK_REVISION": "\(RevisionText(lock.token))",
                        ]
                        let margin = min(HeldProcess.terminationGrace, lock.lease.timeToLive / 3)
                        let (code, isLost) = try await Self.run(while: lock.lease, margin) { try await run(variables) }
                        guard !isLost else {
                            throw CommandFailure(
                                .outcomeUnknown, "the lock \(name) was lost while the command ran",
                                why: "it was made to end; its exit code was \(code)",
                                remedy: "see that the server can be reached, or give a longer --ttl", code: "lock.lost")
                        }
                        return code
                    }
                }
            }
        } catch let error as ClientError where error.underlying is LockHeldByOthers {
            throw CommandFailure(
                .outcomeUnknown, "the lock \(name) is held by others", why: "for longer than --wait: the command did not run",
                remedy: "wait longer, or see who holds it: mwstorage scan \(name)/", code: "lock.held")
        }
        guard code == 0 else { throw ExitCode(code) }
    }

    /// Cancels `program` when the lease ends within `margin`: it is to be gone before others may hold the lock.
    ///
    /// - Returns: also whether the lease was lost, or about to be.
    private static func run(
        while lease: HeldLease, _ margin: Duration, _ program: @escaping @Sendable () async throws -> Int32
    ) async throws -> (code: Int32, isLost: Bool) {
        try await withThrowingTaskGroup(of: Int32?.self) { group in
            group.addTask { try await program() }
            group.addTask {
                try? await lease.waitUntilNearEnd(margin)
                return nil
            }
            defer { group.cancelAll() }
            var isLost = false
            while let ended = try await group.next() {
                if let code = ended { return (code, isLost || lease.isLost) }
                isLost = true
                group.cancelAll()
            }
            throw CancellationError()
        }
    }
}
