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
            was lost, since no server could be reached for the lease's whole time: then the command is sent SIGTERM, and SIGKILL 10 s later. \
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
            code = try await HeldRun.run(command) { [connection, name, ttl, wait] run in
                try await connection.withLastingClient { client in
                    try await client.lock(bytes, timeToLive: ttl.duration, timeout: wait?.duration) { lock in
                        let code = try await run([
                            "MWSTORAGE_LOCK": name, "MWSTORAGE_FENCING_TOKEN": "\(lock.token.number)",
                            "MWSTORAGE_LOCK_REVISION": "\(RevisionText(lock.token))",
                        ])
                        guard !lock.lease.isLost else {
                            throw CommandFailure(
                                .outcomeUnknown, "the lock \(name) was lost while the command ran",
                                why: "it was made to end; its exit code was \(code)",
                                remedy: "see that the server can be reached, or give a longer --ttl", code: "lock.lost")
                        }
                        return code
                    }
                }
            }
        } catch let error as ClientError where error.code == .deadlineExceeded && wait != nil {
            throw CommandFailure(
                .outcomeUnknown, "the lock \(name) is held by others", why: "for longer than --wait: the command did not run",
                remedy: "wait longer, or see who holds it: mwstorage scan \(name)/", code: "lock.held")
        }
        guard code == 0 else { throw ExitCode(code) }
    }
}
